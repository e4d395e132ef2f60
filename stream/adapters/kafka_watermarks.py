"""Where a partition's log begins and ends, asked of the broker."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaException, TopicPartition

from stream.errors import Unavailable

__all__ = ["watermarks"]

TIMEOUT_S = 15.0


def watermarks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """Start and end (exclusive). A partition without a leader, of a topic made a moment ago, is waited for.

    Raises Unavailable after 15 s.
    """
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_S)
            return low, high
        except KafkaException as error:
            if time.monotonic() > deadline_s:
                raise Unavailable(f"offsets of {topic}-{partition}: {error}") from error
            time.sleep(0.05)
