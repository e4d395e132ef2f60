"""The live model of each shard in Redis: the snapshot, and what is said about it, change in one fenced call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from stream.errors import Conflict, Fenced, Unavailable
from stream.ports import LearnerSnapshot, ShardModel

__all__ = ["FORGETTING", "RedisControl", "RedisModelStore", "examples_from"]

FORGETTING = "forgetting"  # field of the control hash while a reset is under way
EXAMPLES_FROM = "examples_from:"  # field of the control hash, followed by the shard: where its examples begin

COMMIT = """
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'offset')
if stored[1] ~= ARGV[1] then return {'FENCED', stored[1] or ''} end
if stored[2] and tonumber(stored[2]) > tonumber(ARGV[2]) then return {'CONFLICT', stored[2]} end
redis.call('HSET', KEYS[1], 'offset', ARGV[2], 'roster', ARGV[3], 'status', ARGV[4])
local models = tonumber(ARGV[5])
redis.call('HDEL', KEYS[1], 'model:champion', 'model:challenger', 'model:previous')
for i = 6, 5 + 2 * models, 2 do redis.call('HSET', KEYS[1], 'model:' .. ARGV[i], ARGV[i + 1]) end
for i = 6 + 2 * models, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
return {'OK'}
"""
MODEL = b"model:"
LATENCY_MS = 60_000


class RedisModelStore:
    """Fulfils `ports.ModelStore`. The same commit again is harmless; nobody else writes while the epoch lasts."""

    def __init__(self, client: aioredis.Redis, pipeline: str) -> None:
        self._client = client
        self._pipeline = pipeline
        self._commit = client.register_script(COMMIT)

    def _key(self, shard: int, role: str = "live") -> str:
        return f"{{{self._pipeline}:model:{shard}}}:{role}"

    async def acquire(self, shard: int) -> ShardModel:
        key = self._key(shard)
        try:
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.hincrby(key, "epoch", 1)
                pipe.hgetall(key)
                epoch, fields = await pipe.execute()
        except RedisError as error:
            raise _unavailable("acquire", error) from error
        return ShardModel(int(epoch), _models_of(fields))

    async def commit(self, shard: int, *, epoch: int, snapshot: LearnerSnapshot, handled: Sequence[str] = ()) -> None:
        models: list[Any] = [part for item in snapshot.models.items() for part in item]
        arguments = [epoch, snapshot.offset, snapshot.roster, snapshot.status, len(snapshot.models), *models, *handled]
        try:
            answer = await self._commit(keys=[self._key(shard), self._key(shard, "commands")], args=arguments)
        except RedisError as error:
            raise _unavailable("commit", error) from error
        if answer[0] == b"FENCED":
            raise Fenced(f"shard {shard}: epoch {epoch} is over, {answer[1].decode()} owns it")
        if answer[0] == b"CONFLICT":
            raise Conflict(f"shard {shard}: offset {snapshot.offset} is behind the stored {answer[1].decode()}")

    async def roster(self, shard: int) -> bytes | None:
        return await self._field(shard, "roster")

    async def models(self, shard: int, slots: Sequence[str]) -> dict[str, bytes]:
        names = ["roster", *(f"model:{slot}" for slot in slots)]
        try:
            values: Any = await self._client.hmget(self._key(shard), names)
        except RedisError as error:
            raise _unavailable("read models", error) from error
        return {name: value for name, value in zip(["roster", *slots], values, strict=True) if value is not None}

    async def status(self, shard: int) -> bytes | None:
        return await self._field(shard, "status")

    async def _field(self, shard: int, name: str) -> bytes | None:
        try:
            return cast(bytes | None, await self._client.hget(self._key(shard), name))
        except RedisError as error:
            raise _unavailable(f"read {name}", error) from error

    async def request(self, shard: int, command_id: str, command: bytes) -> None:
        try:
            await self._client.hsetnx(self._key(shard, "commands"), command_id, command)
        except RedisError as error:
            raise _unavailable("request", error) from error

    async def commands(self, shard: int) -> dict[str, bytes]:
        return await self._hash(shard, "commands")

    async def report_latency(self, shard: int, worker: str, report: bytes) -> None:
        key = self._key(shard, "latencies")
        try:
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.hset(key, worker, report)
                pipe.pexpire(key, LATENCY_MS)
                await pipe.execute()
        except RedisError as error:
            raise _unavailable("report latency", error) from error

    async def latencies(self, shard: int) -> dict[str, bytes]:
        return await self._hash(shard, "latencies")

    async def _hash(self, shard: int, role: str) -> dict[str, bytes]:
        try:
            stored: Any = await self._client.hgetall(self._key(shard, role))
        except RedisError as error:
            raise _unavailable(f"read {role}", error) from error
        return {name.decode(): value for name, value in stored.items()}

    async def close(self) -> None:
        await self._client.aclose()


def _models_of(fields: Mapping[bytes, bytes]) -> dict[str, bytes]:
    return {name.removeprefix(MODEL).decode(): value for name, value in fields.items() if name.startswith(MODEL)}


class RedisControl:
    """Fulfils `ports.Control`: what a pipeline's name stands for."""

    def __init__(self, client: aioredis.Redis, pipeline: str) -> None:
        self._client = client
        self._pipeline = pipeline
        self._key = f"{{{pipeline}:control}}"

    async def describe(self) -> Mapping[str, str]:
        try:
            stored: Any = await self._client.hgetall(self._key)
        except RedisError as error:
            raise _unavailable("describe", error) from error
        return {key.decode(): value.decode() for key, value in stored.items()}

    async def forget(self, starts: Mapping[int, int], begin: Mapping[str, str] | None = None) -> int:
        """Delete everything Redis holds of the pipeline; returns how many keys that were.

        Examples are numbered from one again: a new learner reads them from `starts` on, an offset per shard. `begin`: what
        else the new state is to know (`core.beginning`). Cut off on the way, it leaves a mark that no worker starts with.
        """
        fields: dict[Any, Any] = {f"{EXAMPLES_FROM}{shard}": str(offset) for shard, offset in starts.items()}
        fields |= begin or {}
        count = 0
        try:
            if await self._client.exists(self._key):
                count += 1
                await self._client.hset(self._key, FORGETTING, "1")
            async for key in self._client.scan_iter(f"{{{self._pipeline}:*}}:*", count=1_000):
                count += int(await self._client.unlink(key))
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.delete(self._key)
                if fields:
                    pipe.hset(self._key, mapping=fields)
                await pipe.execute()
        except RedisError as error:
            raise _unavailable("forget", error) from error
        return count

    async def claim(self, values: Mapping[str, str]) -> Mapping[str, str]:
        try:
            async with self._client.pipeline(transaction=True) as pipe:
                for name, value in values.items():
                    pipe.hsetnx(self._key, name, value)
                await pipe.execute()
        except RedisError as error:
            raise _unavailable("claim", error) from error
        return await self.describe()


def examples_from(stored: Mapping[str, str]) -> dict[int, int]:
    """Of what `describe` returns: where each shard's examples begin since the last `forget`."""
    return {
        int(name.removeprefix(EXAMPLES_FROM)): int(offset)
        for name, offset in stored.items()
        if name.startswith(EXAMPLES_FROM)
    }


def _unavailable(call: str, error: RedisError) -> Unavailable:
    return Unavailable(f"Redis, {call}: {type(error).__name__}: {error}")
