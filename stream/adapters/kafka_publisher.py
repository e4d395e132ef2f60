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
from stream.topics import DECLARATIONS, OUTPUT_BYTES_MAX, TopicNames

__all__ = ["KafkaPublisher"]

POLL_S = 0.01  # acknowledgements only shorten the outbox; nobody who reads predictions waits for them
FULL_S = 0.002


class KafkaPublisher:
    """Fulfils `ports.Publisher`. Use it from one event loop only."""

    def __init__(self, config: Mapping[str, Any], names: TopicNames, linger_ms: float = 1.0) -> None:
        self._names = {topic: names[topic] for topic in DECLARATIONS}
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
                "message.max.bytes": OUTPUT_BYTES_MAX,
                "partitioner": "murmur2_random",
            }
        )
        self._order = asyncio.Lock()
        self._waiting: set[asyncio.Future[None]] = set()
        self._poller: asyncio.Task[None] | None = None

    async def publish(self, records: Iterable[Outgoing]) -> None:
        """Raises Unavailable if the cluster refuses a record for good."""
        loop = asyncio.get_running_loop()
        pending = list(records)
        # Order is kept within a partition: the last record's acknowledgement covers the others.
        last = {(record.topic, record.partition): number for number, record in enumerate(pending)}
        futures = {number: loop.create_future() for number in sorted(last.values())}
        async with self._order:  # a full queue makes us wait in the middle; nobody may overtake
            start = 0
            for number, future in futures.items():
                await self._produce(pending[start:number], None)
                await self._produce(pending[number : number + 1], _Delivery(future))
                start = number + 1
        self._waiting.update(futures.values())
        self._producer.poll(0)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        for future in futures.values():
            await future

    async def _produce(self, records: list[Outgoing], on_delivery: Any) -> None:
        produce, names = self._producer.produce, self._names
        for record in records:
            topic, at_ms, headers = names[record.topic], record.timestamp_ms, record.headers or None
            while True:
                try:
                    if headers is None:
                        produce(topic, record.value, record.key, record.partition, on_delivery, timestamp=at_ms)
                    else:
                        produce(
                            topic, record.value, record.key, record.partition, on_delivery, timestamp=at_ms, headers=headers
                        )  # fmt: skip
                    break
                except BufferError:  # librdkafka's queue is full: let it drain
                    self._producer.poll(0)
                    await asyncio.sleep(FULL_S)
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
