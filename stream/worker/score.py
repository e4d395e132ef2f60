"""Drives `core.scoring` for the partitions of one worker: fetch, step, commit, publish, trim. Knows ports, not Kafka.

One task per partition works through its micro-batches one after the other; the tasks of several partitions overlap, so
Redis answers one while another computes. What a partition holds in memory is thrown away when a commit fails.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from stream.core.breaking import CircuitBreaker
from stream.core.querying import budget_of
from stream.core.records import Record
from stream.core.scoring import ERROR_HEADER, LiveModel, ScoreStep
from stream.errors import Fenced, StartupRefused
from stream.pipeline import Pipeline
from stream.ports import Acquired, Commit, Outgoing, Publisher, StateStore
from stream.topics import TopicNames
from stream.worker.latencies import Latencies
from stream.worker.owner import Owner, retrying

__all__ = ["ScorePartition"]

log = logging.getLogger(__name__)

TRIM_IDLE_S = 0.2
GRACE_S = 0.05  # a label newer than every event seen waits so long for events on their way
ALIGN_WAIT_S = 5.0  # one topic waits so long for records of the other that are known to lie in the log
HELD_MAX = 50_000  # events in memory while they wait for labels; beyond that fetching stops
LABELS_HIGH, LABELS_LOW = 4_000, 1_000  # labels waiting for their time: fetching them pauses and goes on
AGE_MAX_S = 3_600.0  # of an event; one that is older was not made now, and its age says nothing of us
UNPUBLISHED_MAX = 64  # micro-batches in the outbox before the next one waits for Kafka

_decode_outbox = msgspec.msgpack.Decoder(list[Outgoing]).decode


class ScorePartition(Owner):
    """One owned partition of `events` and `labels`."""

    def __init__(
        self,
        pipeline: Pipeline,
        partition: int,
        store: StateStore,
        publisher: Publisher,
        model: Callable[[], LiveModel],
        *,
        batch_records_max: int = 1_000,
        entities_max: int = 200_000,
        dead_share_max: float = 1.0,
        answered_until: Mapping[str, int] | None = None,
        partitions: int = 1,
        crash_point: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._pipeline = pipeline
        self.partition = partition
        self._store = store
        self._publisher = publisher
        self._model = model
        self._batch_records_max = batch_records_max
        self._entities_max = entities_max
        self._breakers = {topic: CircuitBreaker(dead_share_max) for topic in ("events", "labels")}
        self._answered_until = answered_until
        self._partitions = partitions
        self._crash_point = crash_point
        self._labels: deque[Record] = deque()  # the queue holds the events
        self._label_arrivals: deque[float] = deque()  # when each waiting label came, loop time
        self._fetches: deque[tuple[float, int, int, int]] = deque()  # time, offset after it, events, oldest timestamp
        self.scoring, self.age = Latencies(), Latencies()  # from fetch, and from the event's timestamp, to publication
        self._seen_ms = -1  # Kafka timestamp of the newest event taken
        self._publishing: asyncio.Task[None] | None = None
        self._published_up_to = 0
        self._trimmed_up_to = 0
        self._held_since_s: float | None = None  # when one topic began to wait for the other, loop time
        # A topic's end in this partition, as the transport last saw it.
        self.log_end: Callable[[str], int] = lambda _: -1

    async def acquire(self) -> dict[str, int]:
        """Take the partition over: next epoch, stored state, leftover outbox.

        Returns the stored offsets; a topic that was never read has none.
        """
        acquired: Acquired = await retrying(lambda: self._store.acquire(self.partition), "acquire")
        self._crash_point("score.on_assignment")
        self._lease = acquired.lease
        self._step = ScoreStep(
            self._pipeline, self.partition, acquired, self._entities_max, self._answered_until, self._partitions
        )
        for sequence, blob in acquired.outbox:
            await self._publisher.publish(_decode_outbox(blob))
            self._published_up_to = sequence
        await self._trim()
        return dict(self._step.meta.offsets)

    @property
    def offsets(self) -> dict[str, int]:
        """The next offset to read of each topic."""
        stored = self._step.meta.offsets
        return {topic: stored.get(topic, self.started.get(topic, 0)) for topic in ("events", "labels")}

    def _accept(self, topic: str, records: Sequence[Record]) -> None:
        if topic == "events":
            self._queue.extend(records)
            if records:
                self._fetches.append((time.monotonic(), records[-1].offset + 1, len(records), records[0].timestamp_ms))
            return
        self._labels.extend(records)
        self._label_arrivals.extend([asyncio.get_running_loop().time()] * len(records))
        self._taken += len(records)  # labels are held back by pausing them, not by stopping all fetching
        if len(self._labels) > LABELS_HIGH:
            self.paused = frozenset({"labels"})

    @property
    def waiting(self) -> int:
        return len(self._queue) + len(self._labels)

    @property
    def taken(self) -> int:
        """Records processed or dropped. Labels count when they arrive; so do events that wait for labels, else the
        transport would stop fetching with the awaited labels unfetched.
        """
        events = len(self._queue)
        return self._taken + (events if self._held_since_s is not None and events < HELD_MAX else 0)

    async def run(self) -> None:
        """Work until stopped. Raises Fenced, Conflict, or what the model store or publisher raises for good."""
        while not self._stopping:
            records = await self._take()
            if records:
                await self.process(records)
                self._taken += sum(1 for record in records if record.topic == "events")
            elif self._published_up_to > self._trimmed_up_to:
                await self._trim()

    async def process(self, records: Sequence[Record]) -> None:
        """One micro-batch, committed; its publication goes on in the background, in order."""
        step, store = self._step, self._store
        batch = step.parse(records)
        needs = step.needs(batch)
        fetched = await retrying(
            lambda: store.fetch(
                self.partition,
                generation=needs.generation,
                entities=needs.entities,
                event_ids=needs.event_ids,
                due_until_ms=needs.due_until_ms,
            ),
            "fetch",
        )
        more = step.load(needs, fetched, batch)
        due = await retrying(lambda: store.remembered(self.partition, more), "fetch") if more else {}
        answered = self.counts.get("predictions", 0)
        commit, outgoing = step.step(batch, due, self._model())
        self._check_share(records, self.counts.get("predictions", 0) - answered, outgoing)
        commit.published_up_to = self._published_up_to
        self._crash_point("score.before_commit")
        await self._commit(commit)
        self._crash_point("score.after_commit")
        if self._lease.sequence - self._published_up_to > UNPUBLISHED_MAX and self._publishing is not None:
            await asyncio.shield(self._publishing)  # the outbox is bounded: Kafka is slow or away
        if outgoing:
            before = self._publishing
            until = step.meta.offsets.get("events", 0)
            self._publishing = asyncio.create_task(self._publish(before, outgoing, self._lease.sequence, until))

    def _check_share(self, records: Sequence[Record], answered: int, outgoing: list[Outgoing]) -> None:
        """The circuit breaker, for each topic alone: good labels do not speak for bad events.

        Args:
            answered: events of this micro-batch; each of the others is a dead letter.
        """
        events = sum(record.topic == "events" for record in records)
        dead = events - answered
        self._breakers["events"].note(events, dead)
        self._breakers["labels"].note(len(records) - events, self._step.rejected - dead)
        for topic, breaker in self._breakers.items():
            if breaker.tripped:
                raise StartupRefused(
                    "mostly_dead_letters",
                    f"partition {self.partition}: {breaker.dead} of the last {breaker.records} {topic} would be dead "
                    f"letters{self._commonest(topic, outgoing)}; the micro-batch with the last of them is not committed. "
                    "Mend the pipeline file or the producers, or let them pass with DRIFTLOOP_DEAD_SHARE_MAX=1",
                )

    def _commonest(self, topic: str, outgoing: list[Outgoing]) -> str:
        """The commonest code of a micro-batch, in words."""
        name = TopicNames.of(self._pipeline)[topic].encode()
        letters = (dict(made.headers or []) for made in outgoing if made.topic == "dead_letters")
        codes = Counter(
            letter.get(ERROR_HEADER + "code") or b"" for letter in letters if letter.get(ERROR_HEADER + "topic") == name
        )
        return "".join(f", lately {code.decode()}" for code, _ in codes.most_common(1))

    async def _commit(self, commit: Commit) -> None:
        await retrying(lambda: self._store.commit(self._lease, commit), "commit")
        self.commits += 1
        self._trimmed_up_to = max(self._trimmed_up_to, commit.published_up_to)

    async def _publish(
        self, before: asyncio.Task[None] | None, outgoing: list[Outgoing], sequence: int, until: int
    ) -> None:
        # Handing over to the producer before waiting for the earlier batch keeps order: it is one queue per partition.
        self._crash_point("score.before_publish")
        await self._publisher.publish(outgoing)
        if before is not None:
            await before
        self._crash_point("score.after_publish")
        self._published_up_to = sequence
        self._note_latencies(until)

    def _note_latencies(self, until: int) -> None:
        """Events before this offset are answered."""
        now_s, fetches = time.monotonic(), self._fetches
        while fetches and fetches[0][1] <= until:
            fetched_s, _, events, oldest_ms = fetches.popleft()
            self.scoring.note(now_s - fetched_s, events, now_s)
            age_s = time.time() - oldest_ms / 1e3
            if 0.0 <= age_s < AGE_MAX_S:
                self.age.note(age_s, events, now_s)

    @property
    def counts(self) -> dict[str, int]:
        return self._step.meta.counts

    @property
    def label_budget(self) -> tuple[float, int] | None:
        """Label requests that are allowed for the events so far, and those that were spent; None: nobody is asked."""
        labelling, state = self._pipeline.labelling, self._step.meta.labelling
        return None if not labelling or state is None else budget_of(labelling, state.query)

    async def _trim(self) -> None:
        up_to = self._published_up_to
        await retrying(lambda: self._store.trim(self._lease, up_to), "trim")
        self._trimmed_up_to = up_to

    async def finish(self) -> None:
        """Wait until everything committed is published, then drop it from the outbox."""
        if self._publishing is not None:
            await self._publishing
        try:
            await self._trim()
        except Fenced:
            log.info("partition %d has a new owner", self.partition)

    # -- which records come next -----------------------------------------------------------------------------------

    async def _take(self) -> list[Record]:
        """The next micro-batch; empty after a while without records."""
        if self._publishing is not None and self._publishing.done():
            self._publishing.result()  # a failed publication ends this partition
        if not self.waiting and not self._stopping:
            self._arrived.clear()
            await self._arrival(TRIM_IDLE_S)
            if not self.waiting:
                return []
        taken = self._merge()
        if not taken:  # one topic waits for the other
            self._arrived.clear()
            await self._arrival(GRACE_S / 2)
            taken = self._merge()
        return taken

    def _merge(self) -> list[Record]:
        """Events and labels by their Kafka timestamps, each in its own offset order.

        Neither topic may run ahead of what lies in the log of the other: labels would all look early, and events would
        take the default for a label that is there.
        """
        events, labels = self._queue, self._labels
        now_s = asyncio.get_running_loop().time()
        taken: list[Record] = []
        missing = bool(events) and not labels and self._held("labels", now_s)
        while len(taken) < self._batch_records_max:
            if events and not missing and (not labels or events[0].timestamp_ms <= labels[0].timestamp_ms):
                event = events.popleft()
                taken.append(event)
                if event.timestamp_ms > self._seen_ms:
                    self._seen_ms = event.timestamp_ms
            elif labels and (events or (not self._held("events", now_s) and self._ripe(labels[0], now_s))):
                taken.append(labels.popleft())
                self._label_arrivals.popleft()
                missing = not labels and self._held("labels", now_s)
            else:
                break
        if self.paused and len(labels) < LABELS_LOW:
            self.paused = frozenset()
        return taken

    def _held(self, topic: str, now_s: float) -> bool:
        """Whether records of this topic are known to be on their way and worth waiting for."""
        if self.log_end(topic) <= max(self._fetched_until.get(topic, 0), self.offsets[topic]):
            self._held_since_s = None
            return False
        if self._held_since_s is None:
            self._held_since_s = now_s
        return now_s - self._held_since_s < ALIGN_WAIT_S

    def _ripe(self, label: Record, now_s: float) -> bool:
        """Whether a label may be taken while no event is waiting."""
        return label.timestamp_ms <= self._seen_ms or now_s - self._label_arrivals[0] >= GRACE_S
