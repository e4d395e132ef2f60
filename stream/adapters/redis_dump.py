"""Everything Redis holds of one pipeline, out of it and into it again, key by key (DUMP and RESTORE).

The keys of one hash tag (a partition of the score stage, a shard of the learner) are read in one transaction, so each
part is a moment of its own history, with the offsets up to which it has come; that is all the consistency the parts need.
The score stage's offsets say which events are processed again, and the learner passes over examples that it has had:
examples carry a number per partition, and lie in the log in that order wherever either of the two stands.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import redis
from redis.exceptions import RedisError

from stream.adapters.redis_models import FORGETTING
from stream.core.remembering import Meta
from stream.errors import Unavailable

__all__ = ["Part", "RedisDump", "StoredKey"]

TAG = re.compile(r"\{[^}]*\}")
SCORE_ROLES = ("state", "remembered", "due", "chunks", "early", "outbox")
MODEL_ROLES = ("live", "commands")
NOT_KEPT = ":latencies"  # what workers said of the last minute
ROUNDS = 10


class StoredKey(NamedTuple):
    name: str
    value: bytes  # as DUMP gives it, with Redis' own checksum
    ttl_ms: int  # 0: for ever


class Part(NamedTuple):
    """The keys of one hash tag, all of one moment, and up to where it has come: topic -> next offset."""

    tag: str
    keys: list[StoredKey]
    offsets: dict[str, int]


class RedisDump:
    """Blocking: for the command line. Raises Unavailable.

    While a part is dumped, Redis answers nobody else: about a second for each 300 MB.
    """

    def __init__(self, url: str, timeout_s: float, pipeline: str) -> None:
        self._client = redis.Redis.from_url(url, socket_timeout=max(timeout_s, 60.0), socket_connect_timeout=timeout_s)
        self._pipeline = pipeline
        self.control_key = f"{{{pipeline}:control}}"

    def names(self) -> set[str]:
        """All keys of the pipeline."""
        try:
            return set(self._scan())
        except RedisError as error:
            raise _unavailable("scan", error) from error

    def _scan(self) -> Iterator[str]:
        for pattern in (f"{{{self._pipeline}:*}}*", f"{{{self._pipeline}}}:*"):
            for name in self._client.scan_iter(pattern, count=1_000):
                if not name.endswith(NOT_KEPT.encode()):
                    yield name.decode()

    def parts(self) -> Iterator[Part]:
        """One after the other, so that only one is in memory; parts that begin meanwhile are there, too."""
        done: dict[str, set[str]] = {}
        for _ in range(ROUNDS):
            found: dict[str, set[str]] = defaultdict(set)
            for name in self.names():
                found[_tag(name)].add(name)
            new = {tag: names for tag, names in found.items() if tag not in done}
            if not new:
                return
            for tag, names in sorted(new.items()):
                yield self._part(tag, names)
                done[tag] = names
        raise Unavailable("Redis, dump: parts of the pipeline begin faster than they are read")

    def _part(self, tag: str, names: set[str]) -> Part:
        roles = MODEL_ROLES if ":model:" in tag else SCORE_ROLES
        names = names | {f"{tag}:{role}" for role in roles}
        try:
            for _ in range(ROUNDS):
                part = self._dump(tag, sorted(names))
                later = {name.decode() for name in self._client.scan_iter(f"{tag}*", count=1_000)}
                later = {name for name in later if not name.endswith(NOT_KEPT)}
                if later <= names:
                    return part
                names |= later  # such as a new generation of entities: it may have been there at that moment
        except RedisError as error:
            raise _unavailable("dump", error) from error
        raise Unavailable(f"Redis, dump of {tag}: its keys change faster than they are read")

    def _dump(self, tag: str, names: list[str]) -> Part:
        with self._client.pipeline(transaction=True) as pipe:
            for name in names:
                pipe.dump(name)
                pipe.pttl(name)
            pipe.hget(f"{tag}:state", "meta")
            pipe.hget(f"{tag}:live", "offset")
            *answers, meta, examples = pipe.execute()
        keys = [
            StoredKey(name, value, max(ttl, 0))
            for name, value, ttl in zip(names, answers[::2], answers[1::2], strict=True)
            if value is not None
        ]
        offsets = dict(msgspec.json.decode(meta, type=Meta).offsets) if meta else {}
        if examples is not None:
            offsets["examples"] = int(examples)
        return Part(tag, keys, offsets)

    def control(self) -> dict[str, str]:
        try:
            stored: Any = self._client.hgetall(self.control_key)
        except RedisError as error:
            raise _unavailable("control", error) from error
        return {key.decode(): value.decode() for key, value in stored.items()}

    def begin(self) -> int:
        """Forget what is there; from now until `end` no worker starts. Returns how many keys went.

        What outlives a reset ({name}:...) is kept: it is newer than any copy of it.
        """
        count = 0
        try:
            self._client.hset(self.control_key, FORGETTING, "1")
            for name in self.names():
                if name.startswith(f"{{{self._pipeline}:") and name != self.control_key:
                    count += int(self._client.unlink(name))
        except RedisError as error:
            raise _unavailable("forget", error) from error
        return count

    def put(self, key: StoredKey, epoch: int) -> bool:
        """Put a key back, once `begin` was called; False: it is there, and stays. `epoch`: nobody owned it so late before."""
        outlives = key.name.startswith(f"{{{self._pipeline}}}:")
        try:
            if outlives and self._client.exists(key.name):
                return False
            with self._client.pipeline(transaction=True) as pipe:
                pipe.restore(key.name, key.ttl_ms, key.value, replace=True)
                if key.name.endswith(("}:state", "}:live")):
                    pipe.hset(key.name, "epoch", str(epoch))
                pipe.execute()
        except RedisError as error:
            raise _unavailable(f"restore of {key.name}", error) from error
        return True

    def end(self, control: StoredKey, fields: Mapping[str, str]) -> None:
        """The last key, and more of its fields; workers may start."""
        try:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.restore(control.name, 0, control.value, replace=True)
                if fields:
                    pipe.hset(control.name, mapping=dict(fields))  # type: ignore[arg-type]
                pipe.execute()
        except RedisError as error:
            raise _unavailable("restore", error) from error

    def redis_version(self) -> str:
        try:
            return str(self._client.info("server")["redis_version"])
        except RedisError as error:
            raise _unavailable("info", error) from error

    def close(self) -> None:
        self._client.close()


def _tag(name: str) -> str:
    match = TAG.match(name)
    assert match is not None, name
    return match[0]


def _unavailable(call: str, error: RedisError) -> Unavailable:
    return Unavailable(f"Redis, {call}: {type(error).__name__}: {error}")
