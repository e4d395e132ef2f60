"""Drives `core.learning` for one model shard: examples in, snapshots out. Knows ports, not Kafka.

There is no Redis call per micro-batch. A snapshot is committed when it is due: not more often than the interval asks,
and never more than a twentieth of the time is spent on making snapshots.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from stream.core.learning import LearnStep
from stream.core.records import Record
from stream.ports import ModelStore, Publisher
from stream.worker.owner import Owner, retrying

__all__ = ["LearnShard"]

log = logging.getLogger(__name__)

SHARE_MAX = 0.05  # of the time, for snapshots
INTERVAL_LONGEST_S = 1.0


class LearnShard(Owner):
    """The owner of one partition of `examples`."""

    def __init__(
        self,
        step: LearnStep,
        shard: int,
        store: ModelStore,
        publisher: Publisher,
        *,
        interval_s: float = 0.25,
        batch_records_max: int = 1_000,
        crash_point: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._step = step
        self.shard = shard
        self._store = store
        self._publisher = publisher
        self._interval_s = interval_s
        self._batch_records_max = batch_records_max
        self._crash_point = crash_point
        self._committed_offset = -1
        self._next_snapshot_s = 0.0

    async def acquire(self) -> dict[str, int]:
        """Take the shard over; returns where to read on, nothing if nowhere yet. Commits the base model at first start."""
        found = await retrying(lambda: self._store.acquire(self.shard), "acquire")
        self._crash_point("learn.on_assignment")
        self._epoch = found.epoch
        if found.snapshot is None:
            await self.snapshot()
        else:
            self._step.restore(found.snapshot)
            self._committed_offset = self._step.offset
        log.info("shard %d goes on from %s", self.shard, self._step.version)
        return self.offsets if self._step.offset else {}

    @property
    def offsets(self) -> dict[str, int]:
        """Up to where the stored snapshot has learned."""
        return {"examples": max(self._committed_offset, self.started.get("examples", 0))}

    async def run(self) -> None:
        """Work until stopped. Raises Fenced, Conflict."""
        while not self._stopping:
            if not self._queue:
                self._arrived.clear()
                await self._arrival(self._next_snapshot_s - time.monotonic() if self._dirty else None)
            if self._queue:
                await self.process(self._take())
            if self._dirty and time.monotonic() >= self._next_snapshot_s:
                await self.snapshot()
            await asyncio.sleep(0)

    @property
    def _dirty(self) -> bool:
        return self._step.offset > self._committed_offset

    def _take(self) -> list[Record]:
        count = min(len(self._queue), self._batch_records_max)
        return [self._queue.popleft() for _ in range(count)]

    async def process(self, records: Sequence[Record]) -> None:
        """Judge and learn one micro-batch."""
        out = self._step.step(records)  # the same again after a crash: it lies behind the last snapshot
        if out:
            await self._publisher.publish(out)
            self._crash_point("learn.after_publish")
        self._taken += len(records)

    async def snapshot(self) -> None:
        """Publish the model as it is now."""
        started_s = time.thread_time()  # not the wall's: a busy machine must not make snapshots rare
        step = self._step
        data, status = step.snapshot()
        version, offset = step.version, step.offset
        self._crash_point("learn.before_commit")
        took_s = time.thread_time() - started_s
        await retrying(
            lambda: self._store.commit(
                self.shard, epoch=self._epoch, version=version, offset=offset, snapshot=data, status=status
            ),
            "commit",
        )
        self._crash_point("learn.after_commit")
        self._committed_offset = offset
        self.commits += 1
        pause_s = max(self._interval_s, took_s / SHARE_MAX)
        if pause_s > INTERVAL_LONGEST_S:
            log.debug("a snapshot takes %.0f ms: one every %.1f s", took_s * 1e3, pause_s)
        self._next_snapshot_s = time.monotonic() + pause_s

    async def finish(self) -> None:
        """A last snapshot before the shard is given up."""
        if self._dirty:
            await self.snapshot()
