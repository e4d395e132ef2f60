"""The producing side of Kafka: librdkafka's idempotent producer, awaited.

Settings and why: `enable.idempotence` keeps order and drops the producer's own repeats; `enable.gapless.guarantee` turns
any loss inside a partition's sequence into a fatal error, so the acknowledgement of a later record covers the earlier
ones; `message.timeout.ms=0` never gives up, because the caller's watchdog does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from stream.errors import DriftloopError, Unavailable
from stream.ports import Outgoing
from stream.topics import TopicNames

__all__ = ["KafkaPublisher"]

POLL_S = 0.002


class KafkaPublisher:
    """Fulfils `ports.Publisher`. Use it from one event loop only."""

    def __init__(self, config: Mapping[str, Any], names: TopicNames, linger_ms: float = 1.0) -> None:
        self._names = {topic: names[topic] for topic in ("predictions", "examples", "dead_letters")}
        self._producer = Producer(
            {
                **config,
                "enable.idempotence": True,
                "enable.gapless.guarantee": True,
                "acks": "all",
                "message.timeout.ms": 0,
                "linger.ms": linger_ms,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 262_144,
                "message.max.bytes": 4_000_000,
                "partitioner": "murmur2_random",
            }
        )
        self._order = asyncio.Lock()
        self._waiting: set[asyncio.Future[None]] = set()
        self._poller: asyncio.Task[None] | None = None

    async def publish(self, records: Iterable[Outgoing]) -> None:
        """Raises Unavailable if the cluster refuses a record for good."""
        loop = asyncio.get_running_loop()
        last: dict[tuple[str, int], Outgoing] = {}
        pending = list(records)
        for record in pending:
            last[record.topic, record.partition] = record
        # A record without a partition may go to any: each such record is awaited itself.
        awaited = {id(record) for record in last.values()} | {id(r) for r in pending if r.partition < 0}
        futures = []
        async with self._order:  # a full queue makes us wait in the middle; nobody may overtake
            for record in pending:
                on_delivery = None
                if id(record) in awaited:
                    future: asyncio.Future[None] = loop.create_future()
                    futures.append(future)
                    on_delivery = _Delivery(future)
                await self._produce(record, on_delivery)
        self._waiting.update(futures)
        self._producer.poll(0)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        for future in futures:
            await future

    async def _produce(self, record: Outgoing, on_delivery: Any) -> None:
        kwargs: dict[str, Any] = {"headers": record.headers} if record.headers else {}
        while True:
            try:
                self._producer.produce(
                    self._names[record.topic],
                    record.value,
                    record.key,
                    record.partition,
                    on_delivery,
                    timestamp=record.timestamp_ms,
                    **kwargs,
                )
                return
            except BufferError:  # librdkafka's queue is full: let it drain
                self._producer.poll(0)
                await asyncio.sleep(POLL_S)
            except KafkaException as error:
                raise DriftloopError(f"Kafka refused a record for {record.topic}: {error}") from error

    async def _poll(self) -> None:
        while self._waiting:
            self._producer.poll(0)
            self._waiting = {future for future in self._waiting if not future.done()}
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
        await asyncio.to_thread(self._producer.flush, 5.0)


class _Delivery:
    """librdkafka's report for one record, called from `Producer.poll` on the event loop's own thread."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        if self._future.done():
            return
        if error is None:
            self._future.set_result(None)
        else:
            self._future.set_exception(Unavailable(f"Kafka did not take a record for {message.topic()}: {error}"))
