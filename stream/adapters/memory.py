"""In-memory twins of every port, for tests, notebooks and examples. The contract tests hold them to the same rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stream.errors import Conflict, Fenced
from stream.ports import Acquired, Commit, Due, Fetched, LearnerSnapshot, Lease, Outgoing, ShardModel

__all__ = ["MemoryControl", "MemoryModelStore", "MemoryPublisher", "MemoryStateStore"]


@dataclass
class _Partition:
    epoch: int = 0
    sequence: int = 0
    writer: str = ""
    meta: bytes | None = None
    entities: dict[int, dict[str, bytes]] = field(default_factory=lambda: defaultdict(dict))
    remembered: dict[str, bytes] = field(default_factory=dict)
    due: dict[bytes, Due] = field(default_factory=dict)
    early: dict[str, bytes] = field(default_factory=dict)
    outbox: dict[int, bytes] = field(default_factory=dict)


class MemoryStateStore:
    """The state of the score stage in dictionaries."""

    def __init__(self) -> None:
        self.partitions: dict[int, _Partition] = defaultdict(_Partition)
        self._acquired = 0

    async def acquire(self, partition: int) -> Acquired:
        state = self.partitions[partition]
        state.epoch += 1
        self._acquired += 1
        lease = Lease(partition, state.epoch, state.sequence, f"memory-{self._acquired}")
        return Acquired(lease, state.meta, dict(state.early), sorted(state.outbox.items()))

    async def fetch(
        self,
        partition: int,
        *,
        generation: int,
        entities: Sequence[str],
        event_ids: Sequence[str],
        due_until_ms: int | None,
    ) -> Fetched:
        state = self.partitions[partition]
        older, newer = state.entities[generation - 1], state.entities[generation]
        found = {e: newer[e] if e in newer else older[e] for e in entities if e in newer or e in older}
        due = [] if due_until_ms is None else [d for d in state.due.values() if d.first_due_ms <= due_until_ms]
        return Fetched(found, await self.remembered(partition, event_ids), sorted(due, key=lambda d: d.first_due_ms))

    async def remembered(self, partition: int, event_ids: Sequence[str]) -> dict[str, bytes]:
        known = self.partitions[partition].remembered
        return {event_id: known[event_id] for event_id in event_ids if event_id in known}

    async def commit(self, lease: Lease, commit: Commit) -> None:
        state = self.partitions[lease.partition]
        if state.epoch != lease.epoch:
            raise Fenced(f"partition {lease.partition}: epoch {lease.epoch} is over, {state.epoch} owns it")
        if state.sequence == lease.sequence + 1 and state.writer == lease.writer:
            lease.sequence += 1  # this very commit was applied, its answer was lost
            return
        if state.sequence != lease.sequence:
            raise Conflict(f"partition {lease.partition}: sequence {lease.sequence}, stored {state.sequence}")
        _apply(state, commit)
        state.sequence += 1
        state.writer = lease.writer
        if commit.outbox is not None:
            state.outbox[state.sequence] = commit.outbox
        lease.sequence += 1

    async def trim(self, lease: Lease, published_up_to: int) -> None:
        state = self.partitions[lease.partition]
        if state.epoch != lease.epoch:
            raise Fenced(f"partition {lease.partition}: epoch {lease.epoch} is over, {state.epoch} owns it")
        _trim(state, published_up_to)

    async def close(self) -> None:
        return None


def _apply(state: _Partition, commit: Commit) -> None:
    state.meta = commit.meta
    for generation in commit.drop_generations:
        state.entities.pop(generation, None)
    state.entities[commit.generation].update(commit.entities)
    for event_id in commit.forget:
        state.remembered.pop(event_id, None)
    state.remembered.update(commit.remember)
    for chunk in commit.due_remove:
        state.due.pop(chunk, None)
    state.due.update({due.chunk: due for due in commit.due_add})
    for event_id in commit.early_remove:
        state.early.pop(event_id, None)
    state.early.update(commit.early_set)
    _trim(state, commit.published_up_to)


def _trim(state: _Partition, published_up_to: int) -> None:
    for sequence in [s for s in state.outbox if s <= published_up_to]:
        del state.outbox[sequence]


@dataclass
class _Shard:
    epoch: int = 0
    snapshot: LearnerSnapshot | None = None
    commands: dict[str, bytes] = field(default_factory=dict)
    latencies: dict[str, bytes] = field(default_factory=dict)


class MemoryModelStore:
    """The live models in dictionaries."""

    def __init__(self) -> None:
        self.shards: dict[int, _Shard] = defaultdict(_Shard)

    async def acquire(self, shard: int) -> ShardModel:
        state = self.shards[shard]
        state.epoch += 1
        return ShardModel(state.epoch, dict(state.snapshot.models) if state.snapshot is not None else {})

    async def commit(self, shard: int, *, epoch: int, snapshot: LearnerSnapshot, handled: Sequence[str] = ()) -> None:
        state = self.shards[shard]
        if state.epoch != epoch:
            raise Fenced(f"shard {shard}: epoch {epoch} is over, {state.epoch} owns it")
        if state.snapshot is not None and snapshot.offset < state.snapshot.offset:
            raise Conflict(f"shard {shard}: offset {snapshot.offset} is behind the stored {state.snapshot.offset}")
        state.snapshot = snapshot
        for command_id in handled:
            state.commands.pop(command_id, None)

    async def roster(self, shard: int) -> bytes | None:
        snapshot = self.shards[shard].snapshot
        return snapshot.roster if snapshot is not None else None

    async def models(self, shard: int, slots: Sequence[str]) -> dict[str, bytes]:
        snapshot = self.shards[shard].snapshot
        if snapshot is None:
            return {}
        models = {slot: snapshot.models[slot] for slot in slots if slot in snapshot.models}
        return {"roster": snapshot.roster, **models}

    async def status(self, shard: int) -> bytes | None:
        snapshot = self.shards[shard].snapshot
        return snapshot.status if snapshot is not None else None

    async def request(self, shard: int, command_id: str, command: bytes) -> None:
        self.shards[shard].commands.setdefault(command_id, command)

    async def commands(self, shard: int) -> dict[str, bytes]:
        return dict(self.shards[shard].commands)

    async def report_latency(self, shard: int, worker: str, report: bytes) -> None:
        self.shards[shard].latencies[worker] = report

    async def latencies(self, shard: int) -> dict[str, bytes]:
        return dict(self.shards[shard].latencies)

    async def close(self) -> None:
        return None


class MemoryPublisher:
    """Keeps what was published, in order."""

    def __init__(self) -> None:
        self.published: list[Outgoing] = []

    async def publish(self, records: Iterable[Outgoing]) -> None:
        self.published.extend(records)

    async def close(self) -> None:
        return None


class MemoryControl:
    """What a pipeline's name stands for."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    async def describe(self) -> Mapping[str, str]:
        return dict(self._values)

    async def claim(self, values: Mapping[str, str]) -> Mapping[str, str]:
        self._values = {**values, **self._values}
        return dict(self._values)
