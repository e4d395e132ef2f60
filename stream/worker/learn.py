"""Drives `core.learning` for one model shard: examples in, snapshots out. Knows ports, not Kafka.

There is no Redis call per micro-batch. A snapshot is committed when it is due: not more often than the interval asks,
and never more than a twentieth of the time is spent on making snapshots. Whatever changes who answers is committed at once,
and its record is published after that; until it lies in Kafka, the snapshot holds it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import msgspec

from stream.core.learning import LearnStep
from stream.core.records import Record
from stream.errors import Conflict
from stream.messages import Release
from stream.ports import BaseStore, ModelStore, Outgoing, Publisher
from stream.worker.owner import Owner, retrying
from stream.worker.releasing import Desk

__all__ = ["LearnShard"]

log = logging.getLogger(__name__)

SHARE_MAX = 0.05  # of the time, for snapshots
INTERVAL_LONGEST_S = 1.0
TURN_S = 0.001
LOOK_S = 0.25  # between two looks at what is asked


class LearnShard(Owner):
    """The owner of one partition of `examples`. `seal_first` makes the file of the pipeline's first base."""

    def __init__(
        self,
        step: LearnStep,
        shard: int,
        store: ModelStore,
        publisher: Publisher,
        *,
        bases: BaseStore | None = None,
        seal_first: Callable[[], bytes] | None = None,
        desk: Desk | None = None,
        interval_s: float = 0.25,
        batch_records_max: int = 1_000,
        crash_point: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._step = step
        self.shard = shard
        self._store = store
        self._publisher = publisher
        self._bases = bases
        self._seal_first = seal_first
        self._desk = desk
        self._interval_s = interval_s
        self._batch_records_max = batch_records_max
        self._crash_point = crash_point
        self._committed_offset = -1
        self._next_snapshot_s = 0.0
        self._next_look_s = 0.0
        self._unpublished = False

    async def acquire(self) -> dict[str, int]:
        """Take the shard over; returns where to read on, nothing if nowhere yet. Commits the base model at first start."""
        found = await retrying(lambda: self._store.acquire(self.shard), "acquire")
        self._crash_point("learn.on_assignment")
        self._epoch = found.epoch
        if found.models:
            self._step.restore(found.models)
            self._committed_offset = self._step.offset
            await self._publish_releases()
            log.info("shard %d goes on from %s", self.shard, self._step.version)
            if self._step.watches_anew:
                log.warning("shard %d: what is watched for drift has changed: all monitors begin anew", self.shard)
            return self.offsets
        await self._keep_first()
        self._step.slots.start(self._step.offset, int(time.time() * 1e3))
        await self.snapshot()
        log.info("shard %d begins with %s", self.shard, self._step.version)
        return {}

    async def _keep_first(self) -> None:
        """The file of the first base: predictions name it, and it must be found when the pipeline file is another."""
        bases, seal = self._bases, self._seal_first
        if bases is None or seal is None:
            return
        name = self._step.base

        async def put() -> None:
            try:
                await asyncio.to_thread(bases.put_base, seal(), name)
            except Conflict:  # the same model, sealed by another key or Python: ours is as good
                await asyncio.to_thread(bases.replace_base, seal(), name)

        await retrying(put, "first base")

    @property
    def offsets(self) -> dict[str, int]:
        """Up to where the stored snapshot has learned."""
        return {"examples": max(self._committed_offset, self.started.get("examples", 0))}

    @property
    def counts(self) -> dict[str, int]:
        return self._step.counts

    async def run(self) -> None:
        """Work until stopped. Raises Fenced, Conflict."""
        try:
            await self._run()
        finally:  # also when it was fenced: nobody calls `finish` then
            if self._desk is not None:
                await self._desk.close()

    async def _run(self) -> None:
        while not self._stopping:
            if not self._queue:
                self._arrived.clear()
                await self._arrival(self._patience_s())
            if records := self._take():
                await self.process(records)
            elif self._queue:  # it is a candidate's turn
                await asyncio.sleep(TURN_S)
            now_s = time.monotonic()
            if self._desk is not None and (now_s >= self._next_look_s or self._desk.ready):
                await self._desk.look()
                self._next_look_s = time.monotonic() + LOOK_S
            if self._step.slots.changed or (self._dirty and now_s >= self._next_snapshot_s):
                await self.snapshot()
            await asyncio.sleep(0)

    def _patience_s(self) -> float | None:
        """How long to wait for records before there is something else to do; None: for ever."""
        due = [self._next_snapshot_s] if self._dirty else []
        if self._desk is not None:
            due.append(self._next_look_s)
        return max(0.0, min(due) - time.monotonic()) if due else None

    @property
    def _dirty(self) -> bool:
        return self._step.offset > self._committed_offset

    def _take(self) -> list[Record]:
        count = min(len(self._queue), self._batch_records_max)
        room = self._desk.room() if self._desk is not None else None
        if room is not None:
            count = min(count, room)
        return [self._queue.popleft() for _ in range(count)]

    async def process(self, records: Sequence[Record]) -> None:
        """Judge and learn one micro-batch."""
        out = self._step.step(records)  # the same again after a crash: it lies behind the last snapshot
        if out:
            self._unpublished = True  # should this be cut off, the next owner does it again from the last snapshot
            await self._publisher.publish(out)
            self._unpublished = False
            self._crash_point("learn.after_publish")
        self._taken += len(records)

    async def snapshot(self) -> None:
        """Publish the models as they are now, and then the records of what has changed."""
        started_s = time.thread_time()  # not the wall's: a busy machine must not make snapshots rare
        step = self._step
        snapshot = step.snapshot()
        releases = bool(step.slots.state.outbox)  # only now: a model may have grown too large
        handled = sorted(self._desk.handled) if self._desk is not None else []
        self._crash_point("learn.before_commit")
        if releases:
            self._crash_point("learn.before_release")
        took_s = time.thread_time() - started_s
        await retrying(
            lambda: self._store.commit(self.shard, epoch=self._epoch, snapshot=snapshot, handled=handled), "commit"
        )
        self._crash_point("learn.after_commit")
        if self._desk is not None:
            self._desk.handled.difference_update(handled)
        self._committed_offset = snapshot.offset
        self.commits += 1
        pause_s = max(self._interval_s, took_s / SHARE_MAX)
        if pause_s > INTERVAL_LONGEST_S:
            log.debug("a snapshot takes %.0f ms: one every %.1f s", took_s * 1e3, pause_s)
        self._next_snapshot_s = time.monotonic() + pause_s
        if releases:
            self._crash_point("learn.after_release")
            await self._publish_releases()

    async def _publish_releases(self) -> None:
        """They are committed; the next snapshot will not hold them any more."""
        state = self._step.slots.state
        if state.outbox:
            await self._publisher.publish(list(map(_outgoing, state.outbox)))
            for release in state.outbox:
                log.info("%s %s: %s (%s)", release.action, release.version, release.reason, release.decided_by)
            state.outbox = []

    async def finish(self) -> None:
        """A last snapshot before the shard is given up."""
        if not self._unpublished and (self._dirty or self._step.slots.changed):
            await self.snapshot()


def _outgoing(release: Release) -> Outgoing:
    return Outgoing("releases", 0, release.pipeline.encode(), msgspec.json.encode(release), release.decided_at_ms)
