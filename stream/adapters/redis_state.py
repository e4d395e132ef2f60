"""The score stage's state in Redis: one fenced script call per micro-batch.

All keys of a partition share one hash tag, `{<pipeline>:<partition>}`, so they lie in one Cluster slot. The script checks
everything first and writes last, because Redis does not roll a script back.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import redis.asyncio as aioredis
from redis.exceptions import NoScriptError, RedisError

from stream.errors import Conflict, Fenced, Unavailable
from stream.ports import Acquired, Commit, Due, Fetched, Lease

__all__ = ["RedisStateStore"]

ACQUIRE = """
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
local state = redis.call('HMGET', KEYS[1], 'sequence', 'meta')
return {epoch, state[1] or '0', state[2] or false, redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[3])}
"""

DUE = """
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', ARGV[2], ARGV[3])
if #ids == 0 then return {} end
return redis.call('HMGET', KEYS[2], unpack(ids))
"""

# KEYS: state, entities of the generation, remembered, due, chunks, early, outbox, entities of generations to drop ...
# ARGV: epoch, sequence, writer, meta, outbox ('' for none), then per section its length and values.
COMMIT = """
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'sequence', 'writer')
local sequence = tonumber(stored[2] or '0')
if stored[1] ~= ARGV[1] then return {'FENCED', stored[1] or '', sequence} end
if sequence == tonumber(ARGV[2]) + 1 and stored[3] == ARGV[3] then return {'OK'} end
if sequence ~= tonumber(ARGV[2]) then return {'CONFLICT', stored[3] or '', sequence} end

-- The first write is one that Redis refuses when it is out of memory: then nothing of the call is applied.
redis.call('HSET', KEYS[1], 'sequence', sequence + 1, 'writer', ARGV[3], 'meta', ARGV[4])
local at = 6
local function section(command, key, flat)
  local length = tonumber(ARGV[at])
  local first, last = at + 1, at + length
  while first <= last do
    local stop = math.min(first + 5999, last)
    redis.call(command, key, unpack(ARGV, first, stop))
    first = stop + 1
  end
  at = last + 1
end
for i = 8, #KEYS do redis.call('UNLINK', KEYS[i]) end
section('HSET', KEYS[2])
section('HDEL', KEYS[3])
section('HSET', KEYS[3])
section('ZREM', KEYS[4])
section('ZADD', KEYS[4])
section('HDEL', KEYS[5])
section('HSET', KEYS[5])
section('HDEL', KEYS[6])
section('HSET', KEYS[6])
section('HDEL', KEYS[7])
if ARGV[5] ~= '' then redis.call('HSET', KEYS[7], sequence + 1, ARGV[5]) end
return {'OK'}
"""

TRIM = """
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
if #ARGV > 1 then redis.call('HDEL', KEYS[2], unpack(ARGV, 2)) end
return 1
"""

DUE_PAGE = 5_000  # what one call returns: a script can unpack no more than some 8,000 values

_encode = msgspec.msgpack.Encoder().encode
_decode_due = msgspec.msgpack.Decoder(Due).decode


class RedisStateStore:
    """Fulfils `ports.StateStore`. Redis 6.2 or newer."""

    def __init__(self, client: aioredis.Redis, pipeline: str) -> None:
        self._client = client
        self._pipeline = pipeline
        self._acquire = client.register_script(ACQUIRE)
        self._commit = client.register_script(COMMIT)
        self._trim = client.register_script(TRIM)
        self._due = client.register_script(DUE)
        self._outbox: dict[int, list[int]] = {}  # partition -> commit sequences in the outbox, as this owner knows them

    def _key(self, partition: int, role: str) -> str:
        return f"{{{self._pipeline}:{partition}}}:{role}"

    async def acquire(self, partition: int) -> Acquired:
        keys = [self._key(partition, role) for role in ("state", "early", "outbox")]
        try:
            await self._client.script_load(DUE)
            epoch, sequence, meta, early, outbox = await self._acquire(keys=keys)
        except RedisError as error:
            raise _unavailable("acquire", partition, error) from error
        entries = sorted((int(number), blob) for number, blob in _pairs(outbox))
        self._outbox[partition] = [number for number, _ in entries]
        lease = Lease(partition, int(epoch), int(sequence), secrets.token_hex(8))
        return Acquired(lease, meta, {key.decode(): value for key, value in _pairs(early)}, entries)

    async def fetch(
        self,
        partition: int,
        *,
        generation: int,
        entities: Sequence[str],
        event_ids: Sequence[str],
        due_until_ms: int | None,
    ) -> Fetched:
        pipe = self._client.pipeline(transaction=False)
        if entities:
            pipe.hmget(self._key(partition, f"entities:{generation}"), entities)
            pipe.hmget(self._key(partition, f"entities:{generation - 1}"), entities)
        if event_ids:
            pipe.hmget(self._key(partition, "remembered"), event_ids)
        if due_until_ms is not None:
            keys = [self._key(partition, "due"), self._key(partition, "chunks")]
            pipe.evalsha(self._due.sha, 2, *keys, due_until_ms, 0, DUE_PAGE)
        try:
            answers = await pipe.execute() if len(pipe) else []
            page = answers[-1] if answers else []
            while due_until_ms is not None and len(page) == DUE_PAGE:
                page = await self._due(keys=keys, args=[due_until_ms, len(answers[-1]), DUE_PAGE])
                answers[-1] += page
        except NoScriptError:  # Redis was restarted: its script cache is empty
            await self._client.script_load(DUE)
            return await self.fetch(
                partition, generation=generation, entities=entities, event_ids=event_ids, due_until_ms=due_until_ms
            )
        except RedisError as error:
            raise _unavailable("fetch", partition, error) from error
        found: dict[str, bytes] = {}
        if entities:
            newer, older = answers.pop(0), answers.pop(0)
            found = {e: n or o for e, n, o in zip(entities, newer, older, strict=True) if n or o}
        known = _present(event_ids, answers.pop(0)) if event_ids else {}
        due = [_decode_due(member) for member in answers.pop(0)] if due_until_ms is not None else []
        return Fetched(found, known, due)

    async def remembered(self, partition: int, event_ids: Sequence[str]) -> dict[str, bytes]:
        if not event_ids:
            return {}
        try:
            blobs = await self._client.hmget(self._key(partition, "remembered"), event_ids)
        except RedisError as error:
            raise _unavailable("fetch", partition, error) from error
        return _present(event_ids, cast(list[bytes | None], blobs))

    async def commit(self, lease: Lease, commit: Commit) -> None:
        partition = lease.partition
        roles = [f"entities:{commit.generation}", "remembered", "due", "chunks", "early", "outbox"]
        roles += [f"entities:{generation}" for generation in commit.drop_generations]
        keys = [self._key(partition, role) for role in ("state", *roles)]
        numbers = self._outbox[partition]
        published = [number for number in numbers if number <= commit.published_up_to]
        args: list[Any] = [lease.epoch, lease.sequence, lease.writer, commit.meta, commit.outbox or b""]
        for section in (
            _flat(commit.entities),
            commit.forget,
            _flat(commit.remember),
            commit.due_remove,
            [part for due in commit.due_add for part in (due.first_due_ms, due.chunk)],
            commit.due_remove,
            [part for due in commit.due_add for part in (due.chunk, _encode(due))],
            commit.early_remove,
            _flat(commit.early_set),
            published,
        ):
            args.append(len(section))
            args += section
        try:
            answer = await self._commit(keys=keys, args=args)
        except RedisError as error:
            raise _unavailable("commit", partition, error) from error
        if answer[0] == b"FENCED":
            raise Fenced(f"partition {partition}: epoch {lease.epoch} is over, {_text(answer[1])} owns it")
        if answer[0] == b"CONFLICT":
            raise Conflict(f"partition {partition}: sequence {lease.sequence}, stored {answer[2]}")
        lease.sequence += 1
        if published:
            self._outbox[partition] = numbers = numbers[len(published) :]
        if commit.outbox:
            numbers.append(lease.sequence)

    async def trim(self, lease: Lease, published_up_to: int) -> None:
        partition = lease.partition
        numbers = self._outbox[partition]
        published = [number for number in numbers if number <= published_up_to]
        if not published:
            return
        keys = [self._key(partition, role) for role in ("state", "outbox")]
        try:
            kept = await self._trim(keys=keys, args=[lease.epoch, *published])
        except RedisError as error:
            raise _unavailable("trim", partition, error) from error
        if not kept:
            raise Fenced(f"partition {partition}: epoch {lease.epoch} is over")
        self._outbox[partition] = [number for number in self._outbox[partition] if number > published_up_to]

    async def close(self) -> None:
        await self._client.aclose()


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _flat(mapping: dict[str, bytes]) -> list[Any]:
    return [part for pair in mapping.items() for part in pair]


def _present(names: Sequence[str], blobs: Sequence[bytes | None]) -> dict[str, bytes]:
    return {name: blob for name, blob in zip(names, blobs, strict=True) if blob is not None}


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _unavailable(call: str, partition: int, error: RedisError) -> Unavailable:
    return Unavailable(f"Redis, {call} of partition {partition}: {type(error).__name__}: {error}")
