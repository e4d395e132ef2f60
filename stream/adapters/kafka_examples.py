"""Reading a range of examples from their topic, for a candidate that catches up or a version that is built anew."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from stream.core.records import Record
from stream.errors import StartupRefused, Unavailable

__all__ = ["KafkaExamples"]

BATCH = 5_000
TIMEOUT_S = 15.0


class KafkaExamples:
    """The examples topic of one pipeline; calls block, and are not for several threads at once."""

    def __init__(self, config: Mapping[str, Any], topic: str) -> None:
        self._config = {
            **config,
            "group.id": "driftloop-examples",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
        }
        self._topic = topic
        self._consumer: Consumer | None = None
        self._at: tuple[int, int] | None = None  # shard and offset at which the consumer stands

    def read(self, shard: int, start: int, end: int) -> tuple[list[Record], int]:
        """Some examples from offset `start` on, none from `end` on, and the offset to read on from.

        Raises:
            StartupRefused: `examples_gone`, they were deleted from the topic.
            Unavailable: Kafka does not answer.
        """
        if start >= end:
            return [], start
        consumer = self._stand_at(shard, start)
        deadline_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline_s:
            records: list[Record] = []
            for m in consumer.consume(BATCH, 0.2):
                error = m.error()
                if error is not None:
                    self._raise_for(error, shard, start)
                    self._at = None
                    return records, max(m.offset(), start)
                if m.offset() < end:
                    records.append(
                        Record("examples", shard, m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers())
                    )
            if records:
                read_on = records[-1].offset + 1
                self._at = (shard, read_on) if read_on < end else None
                return records, read_on
        raise Unavailable(f"{self._topic}-{shard}: no examples from {start} on within {TIMEOUT_S:.0f} s")

    def _stand_at(self, shard: int, start: int) -> Consumer:
        if self._consumer is None:
            self._consumer = Consumer(self._config)
        if self._at != (shard, start):
            self._consumer.assign([TopicPartition(self._topic, shard, start)])
            self._at = (shard, start)
        return self._consumer

    def _raise_for(self, error: KafkaError, shard: int, start: int) -> None:
        """The end of the log is none."""
        code = error.code()
        if code in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET):
            raise StartupRefused("examples_gone", f"{self._topic}-{shard}: examples from {start} on were deleted")
        if code != KafkaError._PARTITION_EOF:
            raise Unavailable(f"{self._topic}-{shard}: {error}")

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
