"""Records onto the topics, at a rate, with a progress bar; and predictions off them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from stream.adapters.kafka_watermarks import watermarks
from stream.cli.sources import Produced
from stream.errors import Unavailable
from stream.messages import Drift
from stream.settings import Settings
from stream.topics import TopicNames

__all__ = ["follow", "produce", "read_drifts"]

SEND_S = 30.0
SILENCE_S = 30.0


def produce(
    settings: Settings,
    names: TopicNames,
    records: Iterable[Produced],
    *,
    rate: float | None = None,
    on_record: Callable[[Produced], None] = lambda _: None,
) -> dict[str, int]:
    """Send records, at most `rate` events a second; returns how many went to each topic. Raises Unavailable."""
    failures: list[str] = []
    producer = Producer(
        {
            **settings.kafka(),
            "enable.idempotence": True,
            "linger.ms": 5,
            "partitioner": "murmur2_random",  # Java's: events and labels of one key meet whatever client sends them
            "delivery.timeout.ms": int(SEND_S * 1000),
        }
    )

    def delivered(error: Any, _: Any) -> None:
        if error is not None:
            failures.append(str(error))

    counts = {"events": 0, "labels": 0}
    started_s = time.monotonic()
    for record in records:
        if rate is not None and record.topic == "events":
            ahead_s = counts["events"] / rate - (time.monotonic() - started_s)
            if ahead_s > 0:
                producer.poll(0)
                time.sleep(ahead_s)
        _send(producer, names[record.topic], record, delivered)
        counts[record.topic] += 1
        on_record(record)
        if failures:
            break
    if producer.flush(SEND_S) or failures:
        raise Unavailable(f"Kafka did not take every record: {failures[0] if failures else 'no answer in time'}")
    return counts


def _send(producer: Producer, topic: str, record: Produced, delivered: Callable[..., None]) -> None:
    value = msgspec.json.encode(record.value)
    while True:
        try:
            producer.produce(topic, value, record.key, on_delivery=delivered)
            producer.poll(0)
            return
        except BufferError:
            producer.poll(0.1)
        except KafkaException as error:
            raise Unavailable(f"Kafka refused a record for {topic}: {error}") from error


def follow(
    settings: Settings,
    topic: str,
    *,
    from_start: bool,
    to_end: bool = False,
    since_ms: int | None = None,
    newest: int | None = None,
) -> Iterator[Any]:
    """Kafka messages of every partition of a topic; for ever, or until each partition's end was come to.

    Args:
        since_ms: with `from_start`: leave out what lies before the first record of this Kafka timestamp or later.
        newest: with `from_start`: only so many of each partition, at most.
    """
    consumer = Consumer(
        {
            **settings.kafka(),
            "group.id": "driftloop-follow",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        starts = []
        for partition in partitions:
            low, high = watermarks(consumer, topic, partition)
            low = low if newest is None else max(low, high - newest)
            starts.append(TopicPartition(topic, partition, low if from_start else high))
        if from_start and since_ms is not None:
            wanted = [TopicPartition(topic, partition, since_ms) for partition in partitions]
            starts = [
                TopicPartition(topic, p.partition, p.offset if p.offset >= 0 else OFFSET_END)
                for p in consumer.offsets_for_times(wanted, timeout=10)
            ]
        consumer.assign(starts)
        left = {start.partition for start in starts}
        heard_s = time.monotonic()
        while left or not to_end:
            message = consumer.poll(0.2)
            error = message.error() if message is not None else None
            if message is None or (error is not None and error.code() != KafkaError._PARTITION_EOF):
                if to_end and time.monotonic() - heard_s > SILENCE_S:
                    raise Unavailable(
                        f"{topic}: nothing came for {SILENCE_S:.0f} s, partitions {sorted(left)} are not read"
                    )
                continue
            heard_s = time.monotonic()
            if error is None:
                yield message
            else:
                left.discard(message.partition())
    except KafkaException as error:
        raise Unavailable(f"{topic}: {error}") from error
    finally:
        consumer.close()


def read_drifts(settings: Settings, name: str) -> list[Drift]:
    """Every drift so far, each once."""
    found: dict[str, Drift] = {}
    for message in follow(settings, TopicNames(name)["drifts"], from_start=True, to_end=True):
        try:
            drift = msgspec.json.decode(message.value() or b"", type=Drift)
        except msgspec.DecodeError:
            continue  # not a record of ours
        found.setdefault(drift.drift_id, drift)
    return list(found.values())
