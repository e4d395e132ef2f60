"""The log of a search in Redis: one list per run, appended and read by all its workers.

Optuna's own Redis journal keeps pickled snapshots beside the log and reads them back without a check, and its keys do not
fit a cluster. This one holds JSON only, under one key, and is gone two weeks after its last line at the latest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import redis
from optuna.storages.journal import BaseJournalBackend

from stream.errors import Unavailable

__all__ = ["RedisJournal"]

KEPT_S = 14 * 24 * 3_600
CHUNK = 1_000


class RedisJournal(BaseJournalBackend):  # type: ignore[misc]
    """Raises Unavailable when Redis does not answer; a line may then be there or not."""

    def __init__(self, url: str, timeout_s: float, pipeline: str, run: str) -> None:
        self._redis: Any = redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        self._key = f"{{{pipeline}}}:search:{run}"

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        while True:
            try:
                lines = self._redis.lrange(self._key, log_number_from, log_number_from + CHUNK - 1)
            except redis.RedisError as error:
                raise Unavailable(f"redis: {error}") from error
            yield from map(json.loads, lines)
            if len(lines) < CHUNK:
                return
            log_number_from += CHUNK

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            with self._redis.pipeline(transaction=True) as calls:
                calls.rpush(self._key, *map(json.dumps, logs))
                calls.expire(self._key, KEPT_S)
                calls.execute()
        except redis.RedisError as error:
            raise Unavailable(f"redis: {error}") from error

    def exists(self) -> bool:
        try:
            return bool(self._redis.exists(self._key))
        except redis.RedisError as error:
            raise Unavailable(f"redis: {error}") from error

    def delete(self) -> None:
        try:
            self._redis.unlink(self._key)
        except redis.RedisError as error:
            raise Unavailable(f"redis: {error}") from error

    def close(self) -> None:
        self._redis.close()
