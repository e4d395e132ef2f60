"""A range of one partition, read once from here to there, in batches of bounded size; no consumer group, no commits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream.adapters.kafka_watermarks import watermarks
from stream.core.records import Record
from stream.errors import Unavailable
from stream.topics import TopicNames

__all__ = ["read_at", "read_range"]

SILENCE_S = 30.0
POLL_RECORDS = 1_000


def read_range(
    config: Mapping[str, Any],
    names: TopicNames,
    topic: str,
    partition: int,
    from_offset: int,
    to_offset: int,
    *,
    records_max: int = 20_000,
    bytes_max: int = 64_000_000,
) -> Iterator[list[Record]]:
    """Batches of the records with offsets in [from, to), ascending, with at most so many records and about so many bytes.

    Offsets may be missing (markers of transactions, and what they took back). It ends early where a transaction is open.
    Raises Unavailable if nothing comes for 30 s or Kafka deletes the records before they are read.
    """
    place = f"{names[topic]}-{partition}"
    consumer = Consumer(
        {
            **config,
            "group.id": "driftloop-ranges",  # librdkafka wants a name; nothing is joined or committed
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
        }
    )
    batch: list[Record] = []
    size, position, heard_s = 0, from_offset, time.monotonic()
    try:
        consumer.assign([TopicPartition(names[topic], partition, from_offset)])
        while position < to_offset:
            messages = consumer.consume(min(POLL_RECORDS, records_max - len(batch)), 0.2)
            if messages:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > SILENCE_S:
                raise Unavailable(f"{place}: nothing came for {SILENCE_S:.0f} s at offset {position}")
            for message in messages:
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        position = to_offset
                    elif error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET:
                        raise Unavailable(f"{place} at offset {position}: {error}")
                    continue  # others librdkafka tries again
                if message.offset() >= to_offset:
                    position = to_offset
                    break
                position = message.offset() + 1
                key, value = message.key(), message.value()
                batch.append(Record(topic, partition, message.offset(), message.timestamp()[1], key, value))
                size += len(key or b"") + len(value or b"")
            if len(batch) >= records_max or size >= bytes_max:
                yield batch
                batch, size, heard_s = [], 0, time.monotonic()
        if batch:
            yield batch
    except KafkaException as error:
        raise Unavailable(f"{place}: {error}") from error
    finally:
        consumer.close()


def read_at(
    config: Mapping[str, Any], names: TopicNames, topic: str, places: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], Record]:
    """Single records by (partition, offset); what is not there is left out. Raises Unavailable as `read_range` does."""
    consumer = Consumer(
        {
            **config,
            "group.id": "driftloop-ranges",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            # One record each time: what comes behind it is not wanted, and not waited for.
            "fetch.message.max.bytes": 65_536,
            "fetch.wait.max.ms": 1,
        }
    )
    found: dict[tuple[int, int], Record] = {}
    try:
        limits: dict[int, tuple[int, int]] = {}
        for partition, offset in places:
            where = TopicPartition(names[topic], partition, offset)
            if partition not in limits:
                limits[partition] = watermarks(consumer, names[topic], partition)
            low, end = limits[partition]
            if not low <= offset < end:
                continue
            consumer.assign([where])
            message = _next(consumer, f"{names[topic]}-{partition} at offset {offset}")
            if message.offset() == offset:
                found[partition, offset] = Record(
                    topic, partition, offset, message.timestamp()[1], message.key(), message.value(), message.headers()
                )
    except KafkaException as error:
        raise Unavailable(f"{names[topic]}: {error}") from error
    finally:
        consumer.close()
    return found


def _next(consumer: Consumer, place: str) -> Any:
    deadline_s = time.monotonic() + SILENCE_S
    while time.monotonic() < deadline_s:
        message = consumer.poll(0.2)
        error = message.error() if message is not None else None
        if error is not None and (error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET):
            raise Unavailable(f"{place}: {error}")
        if message is not None and error is None:
            return message
    raise Unavailable(f"{place}: nothing came for {SILENCE_S:.0f} s")
