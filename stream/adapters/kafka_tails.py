"""The newest records of a topic, a few of them, and where logs end: for people who look on. No consumer group, no commits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from stream.core.records import Record
from stream.errors import Unavailable
from stream.topics import TopicNames

__all__ = ["KafkaTails", "in_time"]

TIMEOUT_S = 3.0
IN_ORDER = frozenset(("drifts", "releases"))
FETCH_BYTES = 131_072  # of one partition at a time


def in_time(record: Record) -> tuple[int, int, int]:
    """A key to sort by: records of one topic by timestamp. Audit logs have one partition and are in order as they lie there:
    what rules decide bears the time of an event, what people ask that of a clock.
    """
    return (0 if record.topic in IN_ORDER else record.timestamp_ms, record.partition, record.offset)


class KafkaTails:
    """Keeps one connection; calls block, and are made one at a time."""

    def __init__(self, config: Mapping[str, Any], names: TopicNames) -> None:
        self._names = names
        self._admin = AdminClient(dict(config))
        self._consumer = Consumer(
            {
                **config,
                "group.id": "driftloop-page",  # librdkafka wants a name; nothing is joined or committed
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "latest",
                "fetch.message.max.bytes": FETCH_BYTES,
                "queued.max.messages.kbytes": 1_024,
                "fetch.wait.max.ms": 50,
            }
        )

    def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        """How many partitions each topic has; a topic that does not exist is left out. Raises Unavailable."""
        try:
            known = self._admin.list_topics(timeout=TIMEOUT_S).topics
        except KafkaException as error:
            raise Unavailable(f"Kafka: {error}") from error
        return {topic: len(known[self._names[topic]].partitions) for topic in topics if self._names[topic] in known}

    def ends(self, partitions: Mapping[str, int]) -> dict[str, dict[int, int]]:
        """topic -> partition -> the log's end, of topics with so many partitions; one request. Raises Unavailable."""
        wanted = {
            TopicPartition(self._names[topic], partition): (topic, partition)
            for topic, count in partitions.items()
            for partition in range(count)
        }
        found: dict[str, dict[int, int]] = {topic: {} for topic in partitions}
        try:
            answers = self._admin.list_offsets(
                dict.fromkeys(wanted, OffsetSpec.latest()), request_timeout=TIMEOUT_S
            )  # fmt: skip
            for where, answer in answers.items():
                topic, partition = wanted[where]
                found[topic][partition] = int(answer.result(TIMEOUT_S).offset)
        except (KafkaException, TimeoutError) as error:
            raise Unavailable(f"Kafka: {error}") from error
        return found

    def last(self, topic: str, ends: Mapping[int, int], count: int) -> tuple[list[Record], bool]:
        """At most `count` of the newest records of each partition, oldest first as `in_time` says, and whether all came soon.

        Args:
            ends: where each partition's log ends.

        Raises Unavailable.
        """
        left = {partition: end for partition, end in ends.items() if end > 0}
        if not left:
            return [], True
        name = self._names[topic]
        found: list[Record] = []
        deadline_s = time.monotonic() + TIMEOUT_S
        try:
            self._consumer.assign([TopicPartition(name, p, max(0, end - count)) for p, end in left.items()])
            while left and time.monotonic() < deadline_s:
                for m in self._consumer.consume(count * len(ends), 0.1):
                    if m.error() is not None:
                        continue  # librdkafka tries again, and the deadline is near
                    if m.offset() < ends[m.partition()]:
                        where = (topic, m.partition(), m.offset(), m.timestamp()[1])
                        found.append(Record(*where, m.key(), m.value(), m.headers()))
                    if m.offset() >= ends[m.partition()] - 1:
                        left.pop(m.partition(), None)
        except KafkaException as error:
            raise Unavailable(f"Kafka, {name}: {error}") from error
        finally:
            self._consumer.unassign()
        found.sort(key=in_time)
        return found, not left

    def close(self) -> None:
        self._consumer.close()
