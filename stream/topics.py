"""The only place where a topic is named, and what each one is declared to be.

`events` and `labels` have equal partition counts and the same key, so an event and its label meet in one partition;
everything that the score stage emits for a partition goes to the partition of the same number.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from stream.pipeline import Pipeline

__all__ = ["DAY_MS", "DECLARATIONS", "INPUTS", "OUTPUT_BYTES_MAX", "Topic", "TopicNames"]

DAY_MS = 86_400_000
INPUTS = ("events", "labels")  # what a pipeline reads; everything else it writes


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """How one topic is declared. `partitions`: as many as `events`, as many as model shards, or one."""

    name: str
    key: str
    producer: str
    consumer: str
    partitions: Literal["events", "shards", "one"]
    retention_ms: int  # -1 keeps for ever
    cleanup: Literal["delete", "compact"] = "delete"

    def configuration(self) -> dict[str, str]:
        """The topic settings we set and check; everything else is the cluster's own choice."""
        settings = {
            "retention.ms": str(self.retention_ms),
            "cleanup.policy": self.cleanup,
            "message.timestamp.type": "CreateTime",
        }
        if self.name in INPUTS:
            # A record far in the future would move event time for everybody: the broker refuses it.
            settings["message.timestamp.after.max.ms"] = "300000"
        else:
            # What is made of a record is larger than the record, and a dead letter holds it whole.
            settings["max.message.bytes"] = str(OUTPUT_BYTES_MAX)
        return settings


OUTPUT_BYTES_MAX = 4_000_000

DECLARATIONS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic(name="events", key="entity id", producer="your applications", consumer="score",
              partitions="events", retention_ms=7 * DAY_MS),
        Topic(name="labels", key="entity id, the same as the event's", producer="your applications, people",
              consumer="score", partitions="events", retention_ms=30 * DAY_MS),
        Topic(name="predictions", key="entity id", producer="score", consumer="your applications",
              partitions="events", retention_ms=7 * DAY_MS),
        Topic(name="examples", key="entity id", producer="score", consumer="learn, archive",
              partitions="shards", retention_ms=30 * DAY_MS),
        Topic(name="drifts", key="pipeline", producer="learn", consumer="Airflow",
              partitions="one", retention_ms=30 * DAY_MS),
        Topic(name="label_requests", key="entity id", producer="score", consumer="Airflow, people",
              partitions="events", retention_ms=7 * DAY_MS),
        Topic(name="releases", key="pipeline", producer="learn, command line, Airflow", consumer="auditors",
              partitions="one", retention_ms=-1),
        Topic(name="dead_letters", key="the original key", producer="score, learn", consumer="operators",
              partitions="events", retention_ms=30 * DAY_MS),
    )
}  # fmt: skip


class TopicNames(msgspec.Struct, frozen=True):
    """Kafka's names of one pipeline's topics: `<prefix>.<topic>`; its inputs may be another pipeline's (`reads`).

    >>> TopicNames("payments").predictions
    'payments.predictions'
    >>> TopicNames("payments-2", "payments").events
    'payments.events'
    """

    prefix: str
    reads: str | None = None

    @classmethod
    def of(cls, pipeline: Pipeline) -> TopicNames:
        return cls(pipeline.name, pipeline.reads)

    @property
    def inputs_prefix(self) -> str:
        """The name of the pipeline that `events` and `labels` belong to."""
        return self.prefix if self.reads is None else self.reads

    def __getitem__(self, topic: str) -> str:
        prefix = self.inputs_prefix if topic in INPUTS else self.prefix
        return f"{prefix}.{DECLARATIONS[topic].name}"

    @property
    def events(self) -> str:
        return self["events"]

    @property
    def labels(self) -> str:
        return self["labels"]

    @property
    def predictions(self) -> str:
        return self["predictions"]

    @property
    def examples(self) -> str:
        return self["examples"]

    @property
    def dead_letters(self) -> str:
        return self["dead_letters"]
