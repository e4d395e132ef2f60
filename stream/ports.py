"""What the workers need from outside, as Protocols. Every port has an in-memory twin in `stream/adapters/memory.py`,
and one contract test that runs on the twin and on the real thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

__all__ = [
    "Acquired",
    "BaseStore",
    "Commit",
    "Due",
    "Fetched",
    "LearnerSnapshot",
    "Lease",
    "ModelStore",
    "Outgoing",
    "Publisher",
    "ShardModel",
    "StateStore",
]


class Outgoing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One record to publish, complete: publishing it twice gives two identical copies."""

    topic: str  # the bare name: "predictions"
    partition: int  # -1: chosen by hash of the key
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: list[tuple[str, bytes | None]] | None = None


class Due(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Remembered events by the event time at which something happens to them; one chunk per micro-batch."""

    chunk: bytes  # unique within the partition
    first_due_ms: int
    entries: list[tuple[int, str]]  # (due_ms, event_id), ascending


class Lease(msgspec.Struct):
    """The right to write one partition: valid until somebody else acquires it."""

    partition: int
    epoch: int
    sequence: int  # of the last commit
    writer: str  # unique per acquisition, tells our own commit from another's with the same number


class Acquired(msgspec.Struct, frozen=True):
    """Everything an owner needs to go on where the last one stopped."""

    lease: Lease
    meta: bytes | None  # the partition's scalar state; None at the very first start
    early: dict[str, bytes]
    outbox: list[tuple[int, bytes]]  # (commit sequence, encoded list[Outgoing]) not yet known to be published


class Fetched(msgspec.Struct, frozen=True):
    """What Redis remembers of a micro-batch's entities and event ids."""

    entities: dict[str, bytes]
    remembered: dict[str, bytes]
    due: list[Due]


class Commit(msgspec.Struct, kw_only=True):
    """All that one micro-batch changed. It is applied whole or not at all."""

    meta: bytes
    generation: int = 0  # entities are written here ...
    drop_generations: list[int] = []  # ... and these are forgotten
    entities: dict[str, bytes] = {}
    remember: dict[str, bytes] = {}
    forget: list[str] = []
    due_add: list[Due] = []
    due_remove: list[bytes] = []
    early_set: dict[str, bytes] = {}
    early_remove: list[str] = []
    outbox: bytes | None = None
    published_up_to: int = 0  # outbox entries up to this commit sequence are dropped


class StateStore(Protocol):
    """The state of the score stage, one linear history per partition."""

    async def acquire(self, partition: int) -> Acquired:
        """Take the next epoch. Raises Unavailable."""

    async def fetch(
        self,
        partition: int,
        *,
        generation: int,
        entities: Sequence[str],
        event_ids: Sequence[str],
        due_until_ms: int | None,
    ) -> Fetched:
        """Read entities (of this generation and the one before), remembered events and, up to a time, what is due."""

    async def remembered(self, partition: int, event_ids: Sequence[str]) -> dict[str, bytes]:
        """Read remembered events."""

    async def commit(self, lease: Lease, commit: Commit) -> None:
        """Apply a commit and raise `lease.sequence`; calling it again after Unavailable is safe.

        Raises Fenced, Conflict, Unavailable.
        """

    async def trim(self, lease: Lease, published_up_to: int) -> None:
        """Drop outbox entries that Kafka has. Raises Fenced, Unavailable."""

    async def close(self) -> None: ...


class LearnerSnapshot(msgspec.Struct, frozen=True):
    """All that a learner publishes at one moment."""

    offset: int  # of the next example
    roster: bytes  # `core.slots.Roster` as JSON: who is in which slot
    models: dict[str, bytes]  # slot -> signed snapshot
    status: bytes  # JSON, for people


class ShardModel(msgspec.Struct, frozen=True):
    """What an acquiring learner finds; no models at the very first start."""

    epoch: int
    models: dict[str, bytes]


class ModelStore(Protocol):
    """The live models of one shard, and what is asked of its learner."""

    async def acquire(self, shard: int) -> ShardModel:
        """Take the next epoch of the shard. Raises Unavailable."""

    async def commit(self, shard: int, *, epoch: int, snapshot: LearnerSnapshot, handled: Sequence[str] = ()) -> None:
        """Publish a snapshot and drop the commands that it has carried out; its offset never goes back.

        Raises Fenced, Conflict, Unavailable.
        """

    async def roster(self, shard: int) -> bytes | None: ...

    async def models(self, shard: int, slots: Sequence[str]) -> dict[str, bytes]:
        """Snapshots of these slots, and the roster as it was at the same moment under the name "roster"."""

    async def status(self, shard: int) -> bytes | None: ...

    async def request(self, shard: int, command_id: str, command: bytes) -> None:
        """Ask the learner for something (`core.slots.Command` as JSON). The same id again changes nothing."""

    async def commands(self, shard: int) -> dict[str, bytes]:
        """What is asked and not yet done, by id."""

    async def report_latency(self, shard: int, worker: str, report: bytes) -> None:
        """How long the models of a trial take in one scorer; kept for a minute."""

    async def latencies(self, shard: int) -> dict[str, bytes]:
        """By worker."""

    async def close(self) -> None: ...


class BaseStore(Protocol):
    """Files of model bases. Calls block."""

    def put_base(self, data: bytes, base: str) -> None:
        """Store a base. The same again is harmless. Raises Conflict, Unavailable."""

    def replace_base(self, data: bytes, base: str) -> None:
        """Store it whatever is there. Raises Unavailable."""

    def get_base(self, base: str) -> bytes:
        """Raises Unavailable."""


class Publisher(Protocol):
    """Kafka's producing side."""

    async def publish(self, records: Iterable[Outgoing]) -> None:
        """Return when every record is acknowledged by all in-sync replicas. Order is kept within a partition."""

    async def close(self) -> None: ...


class Control(Protocol):
    """What a pipeline's name stands for: written at the first start, compared at every other."""

    async def describe(self) -> Mapping[str, str]: ...

    async def claim(self, values: Mapping[str, str]) -> Mapping[str, str]:
        """Set what is not yet set; return what is stored now."""
