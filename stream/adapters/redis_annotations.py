"""Who is asked for which label, in Redis: one small document per pipeline, changed only if nobody else has changed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import redis
from redis.exceptions import RedisError

from stream.core.annotating import Annotations
from stream.errors import Unavailable

__all__ = ["RedisAnnotations"]

ATTEMPTS = 50  # each is lost to somebody who was faster
T = TypeVar("T")

# KEYS: the hash. ARGV: the version it was decided on, the next one, the document.
STORE = """
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'asked', ARGV[3])
return 1
"""


class RedisAnnotations:
    """Blocking: for batch steps and the command line. Raises Unavailable; then a change may or may not have been applied."""

    def __init__(self, url: str, timeout_s: float, pipeline: str) -> None:
        self._client = redis.Redis.from_url(url, socket_timeout=timeout_s)
        self._key = f"{{{pipeline}:labelling}}:asked"
        self._store = self._client.register_script(STORE)

    def load(self) -> Annotations:
        return self._load()[1]

    def change(self, decide: Callable[[Annotations], T]) -> T:
        """Apply `decide` to the document and store it; it is called again when somebody else was faster."""
        for _ in range(ATTEMPTS):
            version, state = self._load()
            before = msgspec.json.encode(state)
            answer = decide(state)
            after = msgspec.json.encode(state)
            try:
                if after == before or self._store(keys=[self._key], args=[version, version + 1, after]):
                    return answer
            except RedisError as error:
                raise _unavailable(error) from error
        raise Unavailable(f"Redis, annotations: others were faster {ATTEMPTS} times")

    def close(self) -> None:
        self._client.close()

    def _load(self) -> tuple[int, Annotations]:
        try:
            stored: Any = self._client.hmget(self._key, ["version", "asked"])
        except RedisError as error:
            raise _unavailable(error) from error
        version, document = stored
        if version is None:
            return 0, Annotations()
        return int(version), msgspec.json.decode(document, type=Annotations)


def _unavailable(error: RedisError) -> Unavailable:
    return Unavailable(f"Redis, annotations: {type(error).__name__}: {error}")
