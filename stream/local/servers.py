"""One Kafka node (KRaft) and one Redis server, on loopback, on free ports, with their data in one directory."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stream.errors import ConfigurationError, Unavailable
from stream.local import prerequisites
from stream.local.prerequisites import redis_binary
from stream.local.process import Child, Reaper, wait_until

__all__ = ["KafkaServer", "RedisServer", "fetch_kafka", "free_port", "stored_ports"]

START_S = 60.0
JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-Xshare:auto")
QUICK_START = ("-XX:TieredStopAtLevel=1",)  # ready sooner, slower for good: right for tests and demos
KAFKA_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
num.partitions=1
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=16777216
"""


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _usable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def fetch_kafka(cache: Path) -> Path:
    """Kafka's jars, fetched once by Maven; a fetch that did not finish is not taken for a whole one."""
    libs = cache / "libs"
    if (libs / ".complete").exists():
        return libs
    pom = Path(__file__).parents[2] / "pom.xml"
    if not pom.is_file():
        raise ConfigurationError("pom.xml", str(pom), "run from a checkout: it names the Kafka version to fetch")
    partial = cache / "libs.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    command = [
        "mvn",
        "-q",
        "-B",
        "-f",
        str(pom),
        "dependency:copy-dependencies",
        f"-DoutputDirectory={partial.resolve()}",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if answer.returncode != 0:
        raise Unavailable(f"Maven could not fetch Kafka:\n{(answer.stdout + answer.stderr)[-2000:]}")
    (partial / ".complete").touch()
    shutil.rmtree(libs, ignore_errors=True)
    partial.rename(libs)
    return libs


class _Server:
    """A server process that can be killed, paused and started again on the same port and data."""

    child: Child

    def start(self) -> None:
        self.child.start()

    def wait_ready(self) -> None:
        def settled() -> bool:
            if not self.child.running():
                raise Unavailable(f"{self.child.name} ended at its start:\n{self.child.tail()}")
            return self.ready()

        wait_until(settled, START_S, f"{self.child.name} to answer (log: {self.child.log_path})", 0.1)

    def ready(self) -> bool:
        raise NotImplementedError

    def kill(self) -> None:
        self.child.kill()

    def restart(self) -> None:
        """Start again after a kill, and wait until it answers."""
        self.child.start()
        self.wait_ready()

    def stop(self) -> None:
        self.child.stop()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Killed for a while."""
        self.kill()
        try:
            yield
        finally:
            self.restart()


class KafkaServer(_Server):
    """Needs Java 17."""

    def __init__(self, directory: Path, libs: Path, reaper: Reaper, *, quick_start: bool = True) -> None:
        self.port, controller_port = stored_ports(directory / "ports", 2)
        self.brokers = f"127.0.0.1:{self.port}"
        self._classpath = f"{libs.resolve()}/*"
        self._data = directory / "data"
        self._properties = directory / "server.properties"
        self._properties.write_text(
            KAFKA_PROPERTIES.format(port=self.port, controller_port=controller_port, data=self._data.resolve())
        )
        command = [
            "java",
            *JVM,
            *(QUICK_START if quick_start else ()),
            "-cp",
            self._classpath,
            "kafka.Kafka",
            str(self._properties),
        ]
        self.child = Child("Kafka", command, directory / "kafka.log", reaper)

    def start(self) -> None:
        if not (self._data / "meta.properties").exists():
            cluster_id = "driftloop-local-cluste"  # 22 characters of base64: any will do
            command = ["java", "-cp", self._classpath, "kafka.tools.StorageTool", "format", "-t", cluster_id]
            answer = subprocess.run(
                [*command, "-c", str(self._properties)], capture_output=True, text=True, timeout=120, check=False
            )
            if answer.returncode != 0:
                raise Unavailable(f"Kafka's storage could not be formatted:\n{(answer.stdout + answer.stderr)[-2000:]}")
        super().start()

    def ready(self) -> bool:
        try:
            metadata = AdminClient({"bootstrap.servers": self.brokers, "log_level": 0}).list_topics(timeout=2)
        except KafkaException:
            return False
        return bool(metadata.brokers)


class RedisServer(_Server):
    """Append-only, never evicting."""

    def __init__(self, directory: Path, reaper: Reaper, appendfsync: str = "everysec") -> None:
        (self.port,) = stored_ports(directory / "ports", 1)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._client = redis.Redis.from_url(self.url, socket_timeout=2)
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(directory.resolve()),
            "appendonly": "yes",
            "appendfsync": appendfsync,
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
        self.child = Child("Redis", [str(redis_binary()), *arguments], directory / "redis.log", reaper)

    def ready(self) -> bool:
        try:
            return bool(self._client.ping())
        except redis.RedisError:  # refused, or still loading its data
            return False

    def stop(self) -> None:
        super().stop()
        self._client.close()


def stored_ports(path: Path, count: int) -> list[int]:
    """The same ports as last time if they are free, so that clients and stored addresses still fit."""
    if path.exists():
        ports = [int(port) for port in path.read_text().split()]
        if len(ports) == count and all(map(_usable, ports)):
            return ports
    path.parent.mkdir(parents=True, exist_ok=True)
    ports = [free_port() for _ in range(count)]
    path.write_text(" ".join(map(str, ports)))
    return ports


if __name__ == "__main__":
    prerequisites.check(kafka_fetched=(Path(".driftloop/kafka") / "libs" / ".complete").exists())
    fetch_kafka(Path(".driftloop/kafka"))
