"""A pipeline's `drifts`, read by their offsets: no consumer group, so whoever reads says from where."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream.adapters.kafka_watermarks import watermarks
from stream.errors import Unavailable
from stream.messages import Drift
from stream.topics import TopicNames

__all__ = ["DriftPage", "read_drift_pages"]

PAGE = 2_000
SILENCE_S = 30.0


class DriftPage(NamedTuple):
    records: list[tuple[int, Drift | None]]  # offset, and None where the record is not a drift of this pipeline
    next_offset: int


def read_drift_pages(config: Mapping[str, Any], pipeline: str, from_offset: int) -> Iterator[DriftPage]:
    """From an offset to where the log ended when this was called. Offsets that retention has deleted are passed over;
    a topic that was made anew is read from its start.

    Raises Unavailable.
    """
    consumer = Consumer(
        {**config, "group.id": f"driftloop-inbox-{pipeline}", "enable.auto.commit": False,
         "enable.partition.eof": True, "isolation.level": "read_committed"}
    )  # fmt: skip
    topic = TopicNames(pipeline)["drifts"]
    try:
        low, high = watermarks(consumer, topic, 0)
        position = from_offset if low <= from_offset <= high else low
        consumer.assign([TopicPartition(topic, 0, position)])
        heard_s = time.monotonic()
        while position < high:
            page: list[tuple[int, Drift | None]] = []
            ended = False
            for message in consumer.consume(PAGE, 0.2):
                heard_s = time.monotonic()
                error = message.error()
                if error is None:
                    page.append((message.offset(), _decode(message.value(), pipeline)))
                    position = message.offset() + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended, position = True, max(position, message.offset())
                else:
                    raise KafkaException(error)
            if page or ended:
                yield DriftPage(page, position)
            if time.monotonic() - heard_s > SILENCE_S:
                raise Unavailable(f"{topic}: nothing came for {SILENCE_S:.0f} s at offset {position} of {high}")
    except KafkaException as error:
        raise Unavailable(f"{topic}: {error}") from error
    finally:
        consumer.close()


def _decode(value: bytes | None, pipeline: str) -> Drift | None:
    try:
        drift = msgspec.json.decode(value or b"", type=Drift)
    except msgspec.DecodeError:
        return None
    return drift if drift.pipeline == pipeline else None
