"""Drives `core.learning` for one model shard: examples in, snapshots out. Knows ports, not Kafka.

There is no Redis call per micro-batch. A snapshot is committed when it is due: not more often than the interval asks,
and never more than a twentieth of the time is spent on making snapshots.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from stream.core.learning import LearnStep
from stream.core.records import Record
from stream.ports import ModelStore, Publisher
from stream.worker.score import retrying

__all__ = ["LearnShard"]

log = logging.getLogger(__name__)

SHARE_MAX = 0.05  # of the time, for snapshots
INTERVAL_LONGEST_S = 1.0


class LearnShard:
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
        self._step = step
        self.shard = shard
        self._store = store
        self._publisher = publisher
        self._interval_s = interval_s
        self._batch_records_max = batch_records_max
        self._crash_point = crash_point
        self._waiting: deque[Record] = deque()
        self._arrived = asyncio.Event()
        self._stopping = False
        self._abandoned = False
        self._committed_offset = -1
        self._next_snapshot_s = 0.0
        self.taken = 0
        self.commits = 0

    async def acquire(self) -> int:
        """Take the shard over; returns the offset of the next example to read. Commits the base model at first start."""
        found = await retrying(lambda: self._store.acquire(self.shard), "acquire")
        self._crash_point("learn.on_assignment")
        self._epoch = found.epoch
        if found.snapshot is None:
            await self.snapshot()
        else:
            self._step.restore(found.snapshot)
            self._committed_offset = self._step.offset
        log.info("shard %d goes on from %s", self.shard, self._step.version)
        return self._step.offset

    @property
    def offset(self) -> int:
        """Up to where the stored snapshot has learned."""
        return max(self._committed_offset, 0)

    def add(self, records: Sequence[Record]) -> None:
        if self._abandoned:
            self.taken += len(records)
            return
        self._waiting.extend(records)
        self._arrived.set()

    @property
    def received(self) -> int:
        """Every record that was given to this owner."""
        return self.taken + len(self._waiting)

    def abandon(self) -> None:
        """Somebody else owns the shard: records still under way are dropped, so that fetching goes on."""
        self.taken = self.received
        self._waiting.clear()
        self._abandoned = True

    def stop(self) -> None:
        """End `run` after the micro-batch it is in."""
        self._stopping = True
        self._arrived.set()

    async def run(self) -> None:
        """Work until stopped. Raises Fenced, Conflict."""
        while not self._stopping:
            if not self._waiting:
                self._arrived.clear()
                left_s = self._next_snapshot_s - time.monotonic() if self._dirty else None
                with suppress(TimeoutError):  # not `wait_for`: Python 3.11's may swallow a cancellation
                    async with asyncio.timeout(left_s):
                        await self._arrived.wait()
            if self._waiting:
                await self.process(self._take())
            if self._dirty and time.monotonic() >= self._next_snapshot_s:
                await self.snapshot()
            await asyncio.sleep(0)

    @property
    def _dirty(self) -> bool:
        return self._step.offset > self._committed_offset

    def _take(self) -> list[Record]:
        count = min(len(self._waiting), self._batch_records_max)
        return [self._waiting.popleft() for _ in range(count)]

    async def process(self, records: Sequence[Record]) -> None:
        """Judge and learn one micro-batch."""
        unseen = [record for record in records if record.offset >= self._step.offset]
        dead = self._step.step(unseen)
        if dead:
            await self._publisher.publish(dead)
        self.taken += len(records)

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
