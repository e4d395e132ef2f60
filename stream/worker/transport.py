"""Faust's transport over librdkafka: one Faust event per poll, with a batch of raw records for each partition in it.

Faust's own path costs 100-250 us per record, and aiokafka's latency tail is five to ten times librdkafka's. Here a thread
polls a confluent-kafka consumer (fetching, decompression and heartbeats run outside the GIL) and hands the event loop
lists of raw records; an agent's event value is a list of `FetchedBatch`. Rebalances are answered on the polling thread, which
waits for the event loop to give up or take over partitions, so the start offsets are the ones the application chose.

Kafka's committed offsets are written for lag tools only. Nothing here reads them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import faust
from confluent_kafka import Consumer as RdConsumer
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from faust.transport import base as faust_base
from faust.transport.consumer import Consumer as FaustConsumer
from faust.transport.producer import Producer as FaustProducer
from faust.types import TP, ConsumerMessage

from stream.core.records import Record

__all__ = ["BatchConsumer", "BatchTransport", "FetchedBatch", "Ownership"]

log = logging.getLogger(__name__)

FETCH_RECORDS_MAX = 2_000
POLL_S = 0.1
DELIVERY_GAP_S = 0.001
HOUSEKEEP_EVERY_S = 1.0
RETRIABLE = frozenset((KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._MAX_POLL_EXCEEDED,
                       KafkaError._RESOLVE, KafkaError._AUTHENTICATION))  # fmt: skip


class FetchedBatch(NamedTuple):
    """Raw records of one partition, in offset order.

    `until` is the next offset that may hold a record. Where a log ends with markers of transactions, which no consumer is
    given, it lies behind them, and there may be no records at all.
    """

    topic: str  # Kafka's name
    partition: int
    records: list[Record]
    until: int


class Ownership(Protocol):
    """What the application does when partitions come and go; called on the event loop."""

    async def on_assigned(self, partitions: list[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        """Take them over; return the offset to read each from."""

    async def on_revoked(self, partitions: list[tuple[str, int]]) -> None:
        """Finish or abandon them."""

    def taken(self) -> int:
        """Records processed or dropped so far; fetching waits while too many are on their way."""

    def paused(self) -> frozenset[tuple[str, int]]:
        """Partitions whose records are not wanted for now."""

    def offsets(self) -> Mapping[tuple[str, int], int]:
        """Offsets to show in Kafka's group, for lag tools."""


class _NoProducer(FaustProducer):  # type: ignore[misc]
    """Faust insists on a producer; ours is `adapters.kafka_publisher`, which waits for every acknowledgement."""

    async def send(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        raise NotImplementedError("publish through ports.Publisher: its records are in the outbox first")

    async def flush(self) -> None:
        return None

    async def create_topic(self, *args: Any, **kwargs: Any) -> None:
        return None


class BatchConsumer(FaustConsumer):  # type: ignore[misc]
    """Faust's consumer, fed by a polling thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rd: RdConsumer | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._paused_now: frozenset[tuple[str, int]] = frozenset()
        self._housekept_s = 0.0
        self._delivered_s = 0.0
        self._ends: dict[tuple[str, int], int] = {}
        self._delivered_until: dict[tuple[str, int], int] = {}
        self._handed = 0  # records given to the event loop since the last assignment ...
        self._taken_before = 0  # ... and what had been taken until then
        self._fetched: asyncio.Queue[list[FetchedBatch]] = asyncio.Queue()  # one entry per poll that brought something
        self._assigned: set[TP] = set()
        self._generation = 0
        self._last_commit: dict[tuple[str, int], int] = {}

    @property
    def _ownership(self) -> Ownership:
        return self.app.ownership  # type: ignore[no-any-return]

    # -- Faust's side ----------------------------------------------------------------------------------------------

    async def subscribe(self, topics: Iterable[str]) -> None:
        if self._thread is not None:
            return  # the topics of a role never change
        self._rd = RdConsumer(self.app.consumer_config)
        self._rd.subscribe(
            sorted(topics),
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        self._thread = threading.Thread(target=self._poll_forever, name="kafka-poll", daemon=True)
        self._thread.start()

    async def _drain_messages(self, fetcher: Any) -> None:
        """Called by Faust's fetcher: pass what one poll brought to the agent, as one event of its first partition.

        All topics of a role belong to one agent. An event of its own for every partition would cost 0.2 ms each.
        """
        while not (self.should_stop or fetcher.should_stop):
            try:
                async with asyncio.timeout(1.0):
                    batches = await self._fetched.get()
            except TimeoutError:
                continue
            batches = [batch for batch in batches if TP(batch.topic, batch.partition) in self._assigned]
            if batches:
                await self.callback(_message(batches, self._generation))

    async def on_stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 30.0)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        return {}  # start offsets were given at assignment

    async def _seek(self, partition: TP, offset: int) -> None:
        raise NotImplementedError("start offsets come from Redis, at assignment")

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        return True

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's signature
        raise NotImplementedError("batches are pushed, not polled")

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        raise NotImplementedError("batches are pushed, not polled")

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        raise NotImplementedError("start offsets come from Redis, at assignment")

    async def position(self, tp: TP) -> int | None:
        return dict(self._ownership.offsets()).get((tp.topic, tp.partition))

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        raise NotImplementedError("adapters.kafka_topics knows the log's offsets")

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        return {tp: self.highwater(tp) for tp in partitions}

    def topic_partitions(self, topic: str) -> int | None:
        return None

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        return partition

    async def create_topic(self, *args: Any, **kwargs: Any) -> None:
        """Topics are made by adapters.kafka_topics, before a worker starts."""

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    def assignment(self) -> set[TP]:
        return set(self._assigned)

    def highwater(self, tp: TP) -> int:
        """The log's end as the polling thread last saw it; -1 while it is not known."""
        return self._ends.get((tp.topic, tp.partition), -1)

    def close(self) -> None:
        self._stopping.set()

    # -- the polling thread ----------------------------------------------------------------------------------------

    def _poll_forever(self) -> None:
        rd = self._rd
        assert rd is not None
        try:
            while not self._stopping.is_set():
                self._poll_once(rd)
        except BaseException as error:  # noqa: BLE001 - the thread must not die silently
            self._on_loop(self._crash, error)
        finally:
            self._commit_offsets(rd, asynchronous=False)
            rd.close()  # answers a last revocation through _on_revoke

    def _poll_once(self, rd: RdConsumer) -> None:
        if self._handed - (self._ownership.taken() - self._taken_before) >= self.app.buffer_records_max:
            time.sleep(0.001)
            return
        self._pause(rd)
        first = rd.poll(POLL_S)
        if first is not None and _at_end(first):  # no reason to wait, nor to make the next records wait
            self._deliver(rd, [first])
        elif first is not None:
            # Handing over costs the event loop as much for one record as for a hundred: not more often than this.
            early_s = self._delivered_s + DELIVERY_GAP_S - time.monotonic()
            if early_s > 0:
                time.sleep(early_s)
            self._delivered_s = time.monotonic()
            # consume() with no time-out returns what has arrived; with one it would wait for a full batch.
            self._deliver(rd, [first, *rd.consume(FETCH_RECORDS_MAX - 1, 0)])
        if time.monotonic() - self._housekept_s > HOUSEKEEP_EVERY_S:
            self._housekept_s = time.monotonic()
            self._note_ends(rd, [(tp.topic, tp.partition) for tp in self._assigned])
            self._commit_offsets(rd, asynchronous=True)

    def _pause(self, rd: RdConsumer) -> None:
        wanted = self._ownership.paused()
        if wanted == self._paused_now:
            return
        rd.pause([TopicPartition(*tp) for tp in wanted - self._paused_now])
        rd.resume([TopicPartition(*tp) for tp in self._paused_now - wanted if TP(*tp) in self._assigned])
        self._paused_now = wanted

    def _deliver(self, rd: RdConsumer, messages: list[Any]) -> None:
        by_partition: dict[tuple[str, int], list[Record]] = {}
        reached: dict[tuple[str, int], int] = {}  # ends that were come to behind the last record
        bare = self.app.bare_topics
        last: tuple[str, int] | None = None
        records: list[Record] = []
        name = ""
        for m in messages:
            error = m.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    reached[m.topic(), m.partition()] = m.offset()
                elif error.code() not in RETRIABLE and not error.retriable():
                    raise KafkaException(error)
                continue
            key = (m.topic(), m.partition())
            if key != last:  # they come in runs
                last, records = key, by_partition.setdefault(key, [])
                name = bare[key[0]]
            records.append(Record(name, key[1], m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers()))
        self._handed += sum(map(len, by_partition.values()))
        until = {tp: records[-1].offset + 1 for tp, records in by_partition.items()}
        until |= {tp: end for tp, end in reached.items() if end > until.get(tp, self._delivered_until.get(tp, -1))}
        self._delivered_until |= until
        batches = [FetchedBatch(*tp, by_partition.get(tp, []), end) for tp, end in until.items()]
        if batches:
            # The ends of the sibling topics too: labels must know whether events of their partition are still to come.
            numbers = {partition for _, partition in by_partition}
            self._note_ends(rd, [(topic, number) for topic in bare for number in numbers])
            self._on_loop(self._fetched.put_nowait, batches)

    def _note_ends(self, rd: RdConsumer, partitions: Iterable[tuple[str, int]]) -> None:
        # Only this thread may ask: librdkafka's Python binding blocks other threads while one polls.
        for topic, partition in partitions:
            _, high = rd.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
            if high >= 0:
                self._ends[topic, partition] = high

    def _commit_offsets(self, rd: RdConsumer, *, asynchronous: bool) -> None:
        assigned = {(tp.topic, tp.partition) for tp in self._assigned}
        offsets = {tp: o for tp, o in dict(self._ownership.offsets()).items() if tp in assigned}
        changed = {tp: o for tp, o in offsets.items() if self._last_commit.get(tp) != o}
        if not changed:
            return
        try:
            rd.commit(offsets=[TopicPartition(t, p, o) for (t, p), o in changed.items()], asynchronous=asynchronous)
            self._last_commit.update(changed)
        except KafkaException as error:
            log.debug("offset commit for lag tools failed: %s", error)

    # -- rebalances, called by librdkafka inside poll() or close() on the polling thread ---------------------------

    def _on_assign(self, rd: RdConsumer, partitions: list[TopicPartition]) -> None:
        pairs = [(tp.topic, tp.partition) for tp in partitions]
        offsets = self._ask(self._take_over(pairs)) if not self._stopping.is_set() else None
        if offsets is None:
            rd.assign([])  # left alone, the binding would assign them by Kafka's offsets
            return
        rd.assign([TopicPartition(topic, partition, offsets[topic, partition]) for topic, partition in pairs])

    def _on_revoke(self, rd: RdConsumer, partitions: list[TopicPartition]) -> None:
        pairs = [(tp.topic, tp.partition) for tp in partitions]
        self._ask(self._give_up(pairs))
        if not self._stopping.is_set():
            self._commit_offsets(rd, asynchronous=False)

    def _on_lost(self, rd: RdConsumer, partitions: list[TopicPartition]) -> None:
        self._ask(self._give_up([(tp.topic, tp.partition) for tp in partitions]))

    async def _take_over(self, pairs: list[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        self.app.on_rebalance_start()
        offsets = await self._ownership.on_assigned(pairs)
        while not self._fetched.empty():  # for an earlier assignment
            self._fetched.get_nowait()
        self._handed, self._taken_before = 0, self._ownership.taken()  # the polling thread waits for us
        self._paused_now = frozenset()
        self._ends.clear()
        self._delivered_until = dict(offsets)
        self._generation += 1
        self.app.consumer_generation_id = self._generation
        self._assigned = {TP(topic, partition) for topic, partition in pairs}
        await self.on_partitions_assigned(set(self._assigned), self._generation)
        return offsets

    async def _give_up(self, pairs: list[tuple[str, int]]) -> None:
        await self._ownership.on_revoked(pairs)
        revoked = {TP(topic, partition) for topic, partition in pairs}
        if not self.app.should_stop:
            self.app.on_rebalance_start()
            await self.on_partitions_revoked(revoked)
        self._assigned -= revoked

    # -- between the threads ---------------------------------------------------------------------------------------

    def _on_loop(self, function: Callable[..., None], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: the worker is gone
            self._stopping.set()

    def _ask(self, coroutine: Any) -> Any:
        """Run a coroutine on the event loop and wait for it; a failure there crashes the worker."""
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError:
            coroutine.close()
            return None
        while True:
            try:
                return future.result(timeout=1.0)
            except TimeoutError:
                if future.done() or not self.loop.is_running():
                    return None
            except Exception as error:  # noqa: BLE001 - whatever it was, the event loop's side must end the worker
                self._on_loop(self._crash, error)
                return None

    def _crash(self, error: BaseException) -> None:
        self.app.fail(error)


def _at_end(message: Any) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


def _message(batches: list[FetchedBatch], generation_id: int) -> ConsumerMessage:
    first = batches[0]
    return ConsumerMessage(
        topic=first.topic,
        partition=first.partition,
        offset=first.until - 1,
        timestamp=first.records[-1].timestamp_ms / 1000.0 if first.records else 0.0,
        timestamp_type=0,
        headers=[],
        key=b"",
        value=batches,
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=0,
        tp=TP(first.topic, first.partition),
        time_in=None,
        time_out=None,
        time_total=None,
        generation_id=generation_id,
    )


class BatchTransport(faust_base.Transport):  # type: ignore[misc]
    """The transport that a worker's Faust app uses (`App._new_transport`)."""

    Consumer = BatchConsumer
    Producer = _NoProducer
    driver_version = f"confluent-kafka, faust {faust.__version__}"
    default_port = 9092
