"""The whole stack of one directory: both servers, a signing key, and whatever workers are added."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from stream.errors import ConfigurationError
from stream.local.prerequisites import check
from stream.local.process import Child, Reaper, write_private
from stream.local.servers import KafkaServer, RedisServer, fetch_kafka

__all__ = ["Stack"]


class Stack:
    """Starts Kafka and Redis in a directory and stops everything it started.

    >>> # with Stack(Path(".driftloop")) as stack:
    >>> #     print(stack.brokers, stack.redis_url)

    The same directory again finds its topics and state again; `fresh` deletes them first. Use it as a context manager.

    Raises:
        ConfigurationError: something is missing on this machine, the directory is in use, or it is to be emptied and holds
            something that is not a stack's.
        Unavailable: a server did not start.
    """

    def __init__(
        self,
        directory: Path,
        *,
        kafka_cache: Path | None = None,
        appendfsync: str = "everysec",
        quick_start: bool = True,
        fresh: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.directory = directory
        self._cache = kafka_cache or Path(".driftloop") / "kafka"
        self._appendfsync = appendfsync
        self._quick_start = quick_start
        self._fresh = fresh
        self._say = say
        self.children: list[Child] = []

    def __enter__(self) -> Stack:
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._fresh and any(self.directory.iterdir()) and not (self.directory / "lock").exists():
            raise ConfigurationError(
                "--directory", str(self.directory), "is not empty and not a local stack's; name another one"
            )
        self._lock = self._take_lock()
        self.reaper = Reaper()
        try:
            if self._fresh:
                self._empty()
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self) -> None:
        fetched = (self._cache / "libs" / ".complete").exists()
        check(kafka_fetched=fetched)
        if not fetched:
            self._say("fetching Kafka from Maven Central (once) ...")
        libs = fetch_kafka(self._cache)
        for name in ("kafka", "redis", "logs"):
            (self.directory / name).mkdir(exist_ok=True)
        self.kafka = KafkaServer(self.directory / "kafka", libs, self.reaper, quick_start=self._quick_start)
        self.redis = RedisServer(self.directory / "redis", self.reaper, self._appendfsync)
        self._say("starting Kafka and Redis ...")
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(_up, server) for server in (self.redis, self.kafka)]:
                done.result()

    @property
    def brokers(self) -> str:
        return self.kafka.brokers

    @property
    def redis_url(self) -> str:
        return self.redis.url

    def environment(self, **more: str) -> dict[str, str]:
        """What a worker of this stack needs in its environment."""
        return {
            **os.environ,
            "DRIFTLOOP_BROKERS": self.brokers,
            "DRIFTLOOP_REDIS_URL": self.redis_url,
            "DRIFTLOOP_SIGNING_KEY": self.signing_key(),
            "DRIFTLOOP_ARTIFACT_URL": str((self.directory / "artifacts").resolve()),
            "DRIFTLOOP_ARCHIVE_URL": str((self.directory / "archive").resolve()),
            "PYTHONHASHSEED": "0",
            **more,
        }

    def signing_key(self) -> str:
        """The directory's own key, made at the first start; readable by its owner only."""
        path = self.directory / "signing_key"
        if not path.exists():
            write_private(path, secrets.token_hex(32))
        return path.read_text().strip()

    def add(self, name: str, command: Sequence[str], **environment: str) -> Child:
        """Start a process that belongs to this stack."""
        log_path = self.directory / "logs" / f"{name}.log"
        child = Child(name, command, log_path, self.reaper, self.environment(**environment))
        child.start()
        self.children.append(child)
        return child

    def _empty(self) -> None:
        for entry in self.directory.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()

    def _take_lock(self) -> Any:
        lock = (self.directory / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise ConfigurationError(
                "directory", str(self.directory), f"process {holder} runs a stack in it; stop that, or name another"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self.children:  # all at once, then wait
            if child.running():
                child.signal(15)
        for child in reversed(self.children):
            child.stop()
        for name in ("kafka", "redis"):
            server = getattr(self, name, None)
            if server is not None:
                server.stop()
        self.reaper.close()
        self._lock.close()


def _up(server: KafkaServer | RedisServer) -> None:
    server.start()
    server.wait_ready()
