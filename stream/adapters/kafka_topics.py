"""Topics: create what is missing, and say what is there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from stream.adapters.kafka_watermarks import watermarks
from stream.errors import StartupRefused, Unavailable
from stream.topics import DAY_MS, DECLARATIONS, INPUTS, OUTPUT_BYTES_MAX, Topic, TopicNames

__all__ = ["CheckedTopics", "ClusterTopics", "FoundTopic", "KafkaTopics"]

TIMEOUT_S = 15.0
DEAD_LETTER_EXTRA_BYTES = 8_192  # headers that say what was wrong, and the batch around the record


class FoundTopic(NamedTuple):
    """One topic as the cluster has it; `topic_id` changes when a topic is deleted and made again."""

    partitions: int
    topic_id: str


class ClusterTopics(NamedTuple):
    cluster_id: str
    topics: dict[str, FoundTopic]  # by bare name


class CheckedTopics(NamedTuple):
    """Topics that may be used; `warnings` are sentences about settings that are not as declared."""

    cluster_id: str
    topics: dict[str, FoundTopic]
    warnings: list[str]


class KafkaTopics:
    """The topics of one pipeline on one cluster. Calls block for at most 15 s each."""

    def __init__(self, config: Mapping[str, Any], names: TopicNames) -> None:
        self._config = dict(config)
        self._admin = AdminClient(self._config)
        self._names = names

    def create(self, partitions: int, replication_factor: int, shards: int = 1) -> list[str]:
        """Create the missing topics; return their bare names. Raises Unavailable, StartupRefused."""
        existing = self.describe().topics
        # Topics that exist decide: `labels` must match `events`, however many the settings ask for.
        events = existing["events"].partitions if "events" in existing else partitions
        counts = {"events": events, "shards": shards, "one": 1}
        missing = [topic for topic in DECLARATIONS.values() if topic.name not in existing]
        if self._names.reads is not None:  # the inputs are another pipeline's, and so is their making
            for topic in missing:
                if topic.name in INPUTS:
                    raise StartupRefused(
                        "topic_missing", f"{self._names[topic.name]} does not exist; {self._remedy(topic)}"
                    )
        requests = [
            NewTopic(
                self._names[topic.name],
                num_partitions=counts[topic.partitions],
                replication_factor=replication_factor,
                config=topic.configuration(),
            )
            for topic in missing
        ]
        if requests:
            for name, future in self._admin.create_topics(requests, operation_timeout=TIMEOUT_S).items():
                try:
                    future.result(TIMEOUT_S)
                except KafkaException as error:
                    if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                        raise StartupRefused("topic_not_created", f"{name}: {error}") from error
            deadline_s = time.monotonic() + TIMEOUT_S
            while (
                not DECLARATIONS.keys() <= self.describe().topics.keys()
            ):  # they are told to all brokers a moment later
                if time.monotonic() > deadline_s:
                    raise Unavailable(f"Kafka at {self._config['bootstrap.servers']}: topics made are not there yet")
                time.sleep(0.05)
        return [topic.name for topic in missing]

    def describe(self) -> ClusterTopics:
        """What exists of this pipeline's topics. Raises Unavailable."""
        try:
            metadata = self._admin.list_topics(timeout=TIMEOUT_S)
            present = {bare: self._names[bare] for bare in DECLARATIONS if self._names[bare] in metadata.topics}
            found: dict[str, FoundTopic] = {}
            if present:
                answers = self._admin.describe_topics(TopicCollection(list(present.values())))
                for bare, name in present.items():
                    try:
                        topic = answers[name].result(TIMEOUT_S)
                    except KafkaException as error:
                        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                            continue  # deleted, or made, a moment ago: it is not there
                        raise
                    found[bare] = FoundTopic(len(topic.partitions), str(topic.topic_id))
        except KafkaException as error:
            raise Unavailable(f"Kafka at {self._config['bootstrap.servers']}: {error}") from error
        return ClusterTopics(metadata.cluster_id or "", found)

    def check(self) -> CheckedTopics:
        """Raises StartupRefused when a topic is missing, does not fit the others, or would lose or corrupt records."""
        cluster = self.describe()
        for name, topic in DECLARATIONS.items():
            if name not in cluster.topics:
                raise StartupRefused("topic_missing", f"{self._names[name]} does not exist; {self._remedy(topic)}")
            self._check_count(cluster, topic)
        settings = self.settings()
        if settings is None:
            unknown = (
                "the topics' settings cannot be read (the right to describe configurations is missing): not checked"
            )
            return CheckedTopics(*cluster, [unknown])
        self._refuse_unsafe(settings)
        return CheckedTopics(*cluster, self._differences(settings))

    def _remedy(self, topic: Topic) -> str:
        if topic.name in INPUTS and self._names.reads is not None:
            return f"`reads` names it; `driftloop topics <the file of {self._names.reads}>` makes it"
        return "`driftloop topics <its file>` makes it"

    def _check_count(self, cluster: ClusterTopics, topic: Topic) -> None:
        events = cluster.topics["events"].partitions
        count = cluster.topics[topic.name].partitions
        if topic.partitions == "events" and count != events:
            raise StartupRefused(
                "partition_counts_differ",
                f"{self._names[topic.name]} has {count} partitions and {self._names['events']} has {events}; "
                "an event and its label must meet in one partition: recreate it with equal counts",
            )

    def settings(self) -> dict[str, dict[str, str]] | None:
        """Every topic's settings by bare name; None if we may not read them. Raises Unavailable."""
        resources = {bare: ConfigResource(ConfigResource.Type.TOPIC, self._names[bare]) for bare in DECLARATIONS}
        answers = self._admin.describe_configs(list(resources.values()))
        try:
            return {
                bare: {key: entry.value for key, entry in answers[resource].result(TIMEOUT_S).items()}
                for bare, resource in resources.items()
            }
        except KafkaException as error:
            if error.args[0].code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
                return None
            raise Unavailable(f"Kafka at {self._config['bootstrap.servers']}: {error}") from error

    def _refuse_unsafe(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        for bare in ("events", "labels", "examples"):
            if "compact" in settings[bare]["cleanup.policy"]:
                raise StartupRefused(
                    "topic_compacted",
                    f"{self._names[bare]} has cleanup.policy {settings[bare]['cleanup.policy']}: Kafka would delete "
                    "records of the same key before they are read; set it to delete",
                )
        # Labels do not move event time, events do. Brokers older than Kafka 3.6 have no such setting.
        future_ms = int(settings["events"].get("message.timestamp.after.max.ms", 0))
        if future_ms > DAY_MS:
            raise StartupRefused(
                "event_time_unbounded",
                f"{self._names.events} has message.timestamp.after.max.ms {future_ms}: one record of the far future "
                "would move event time for all, and every label would be late; set it to 300000",
            )
        largest = max(int(settings[bare]["max.message.bytes"]) for bare in ("events", "labels"))
        room = int(settings["dead_letters"]["max.message.bytes"])
        if room < largest + DEAD_LETTER_EXTRA_BYTES:
            raise StartupRefused(
                "dead_letters_too_small",
                f"{self._names.dead_letters} has max.message.bytes {room}, and a dead letter holds a record of up to "
                f"{largest} bytes whole; set it to {OUTPUT_BYTES_MAX}, or make those of events and labels smaller",
            )

    def _differences(self, settings: Mapping[str, Mapping[str, str]]) -> list[str]:
        return [
            f"{self._names[bare]}: {key} is {settings[bare].get(key, 'unknown to this broker')}, declared {wanted}"
            for bare, topic in DECLARATIONS.items()
            for key, wanted in topic.configuration().items()
            if settings[bare].get(key) != wanted
        ]

    def offsets(self, topic: str, partition: int) -> tuple[int, int]:
        """The log's start and end (exclusive). Raises Unavailable."""
        consumer = Consumer({**self._config, "group.id": "driftloop-offsets", "enable.auto.commit": False})
        try:
            return watermarks(consumer, self._names[topic], partition)
        finally:
            consumer.close()

    def offsets_at(self, topic: str, at_ms: Mapping[int, int]) -> dict[int, int]:
        """By partition, the first offset with this Kafka timestamp or a later one; the log's end if there is none.

        Args:
            at_ms: the moment for each partition.

        Raises Unavailable.
        """
        if not at_ms:
            return {}
        consumer = Consumer({**self._config, "group.id": "driftloop-offsets", "enable.auto.commit": False})
        wanted = [TopicPartition(self._names[topic], partition, moment) for partition, moment in at_ms.items()]
        try:
            found = {tp.partition: tp.offset for tp in consumer.offsets_for_times(wanted, timeout=TIMEOUT_S)}
        except KafkaException as error:
            raise Unavailable(f"offsets of {self._names[topic]} by time: {error}") from error
        finally:
            consumer.close()
        return {p: offset if offset >= 0 else self.offsets(topic, p)[1] for p, offset in found.items()}

    def timestamp_ms(self, topic: str, partition: int, offset: int) -> int:
        """Of the first record at this offset or behind it; -1 if there is none. Raises Unavailable."""
        consumer = Consumer(
            {**self._config, "group.id": "driftloop-offsets", "enable.auto.commit": False, "enable.partition.eof": True}
        )
        deadline_s = time.monotonic() + TIMEOUT_S
        try:
            consumer.assign([TopicPartition(self._names[topic], partition, offset)])
            while time.monotonic() < deadline_s:
                message = consumer.poll(0.2)
                error = message.error() if message is not None else None
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    return -1
                if message is not None and error is None:
                    return int(message.timestamp()[1])
        except KafkaException as error:
            raise Unavailable(f"{self._names[topic]}-{partition}: {error}") from error
        finally:
            consumer.close()
        raise Unavailable(f"{self._names[topic]}-{partition}: nothing came within {TIMEOUT_S:.0f} s")

    def members(self, group: str) -> int:
        """How many consumers are in a group now. Raises Unavailable."""
        try:
            answer = self._admin.describe_consumer_groups([group], request_timeout=TIMEOUT_S)[group].result(TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return 0
            raise Unavailable(f"consumers of {group}: {error}") from error
        return len(answer.members)

    def delete(self) -> None:
        """Delete every topic of the pipeline (the events are gone), but not inputs that are another pipeline's."""
        kept = INPUTS if self._names.reads is not None else ()
        present = [self._names[bare] for bare in self.describe().topics if bare not in kept]
        for future in self._admin.delete_topics(present).values() if present else ():
            future.result(TIMEOUT_S)
