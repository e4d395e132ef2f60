"""What workers say of themselves, for the page: one short report each, and a bounded course of the pipeline's figures.

Nothing depends on these keys: losing them loses a picture, no state. They are not fenced.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from stream.errors import Unavailable

__all__ = ["RedisTelemetry"]

KEPT_MS = 60_000  # a report, after the last worker of a pipeline has fallen silent
POINTS_MAX = 2_000


class RedisTelemetry:
    """Of one pipeline."""

    def __init__(self, client: aioredis.Redis, pipeline: str) -> None:
        self._client = client
        self._pipeline = pipeline
        self._workers = f"{{{pipeline}:telemetry}}:workers"
        self._course = f"{{{pipeline}:telemetry}}:course"

    async def report(self, worker: str, report: bytes) -> None:
        """What one worker says now; it replaces what it said before. Raises Unavailable."""
        try:
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.hset(self._workers, worker, report)
                pipe.pexpire(self._workers, KEPT_MS)
                await pipe.execute()
        except RedisError as error:
            raise _unavailable("report", error) from error

    async def reports(self) -> dict[str, bytes]:
        """By worker; also of those that are gone, until `forget`. Raises Unavailable."""
        try:
            stored: Any = await self._client.hgetall(self._workers)
        except RedisError as error:
            raise _unavailable("reports", error) from error
        return {name.decode(errors="replace"): value for name, value in stored.items()}

    async def forget(self, workers: Iterable[str]) -> None:
        """Drop reports. Raises Unavailable."""
        try:
            if names := list(workers):
                await self._client.hdel(self._workers, *names)
        except RedisError as error:
            raise _unavailable("forget", error) from error

    async def add_point(self, point: bytes) -> None:
        """One more point of the course; the oldest beyond 2,000 are dropped. Raises Unavailable."""
        try:
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.rpush(self._course, point)
                pipe.ltrim(self._course, -POINTS_MAX, -1)
                await pipe.execute()
        except RedisError as error:
            raise _unavailable("add point", error) from error

    async def points(self, last: int = POINTS_MAX) -> list[bytes]:
        """The last so many, oldest first. Raises Unavailable."""
        try:
            found: Any = await self._client.lrange(self._course, -last, -1)
        except RedisError as error:
            raise _unavailable("points", error) from error
        return list(found)

    async def metas(self, partitions: int) -> list[bytes | None]:
        """The scalar state (`core.remembering.Meta` as JSON) of each partition. Raises Unavailable."""
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for partition in range(partitions):
                    pipe.hget(f"{{{self._pipeline}:{partition}}}:state", "meta")
                found: Any = await pipe.execute()
        except RedisError as error:
            raise _unavailable("read state", error) from error
        return list(found)

    async def close(self) -> None:
        await self._client.aclose()


def _unavailable(call: str, error: RedisError) -> Unavailable:
    return Unavailable(f"Redis, {call}: {type(error).__name__}: {error}")
