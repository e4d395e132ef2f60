"""Labels meet their events.

| a label is     | when                                                | what happens                                   |
|----------------|-----------------------------------------------------|------------------------------------------------|
| on time        | its event is remembered, within `wait`              | an example; it is learned                      |
| early          | before its event                                    | kept (bounded), joined when the event comes    |
| a duplicate    | the event has this very label already               | counted                                        |
| a correction   | the event has another label already                 | the first stays learned; an example for archive|
| late           | after `wait`, within `keep_late`, none came before  | an example for the archive, not learned        |
| missing        | none within `wait`                                  | nothing, or an example with the default label  |
| without event  | early, and the event never came                     | a dead letter                                  |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from stream.core.generating import named
from stream.core.records import Record
from stream.core.remembering import NEVER_MS, Meta, Remembered
from stream.errors import RecordRejected
from stream.messages import CHAMPION, Example, Label, LabelValue, Served, Source
from stream.pipeline import Pipeline
from stream.ports import Commit
from stream.topics import TopicNames

__all__ = ["Joiner"]

SOURCE_LABELS_MIN = 100  # a share is taken of at least so many labels
SOURCE_LABELS_KEPT = 2_000  # then counts are halved: what came long ago weighs less
COUNTED = {timing: f"{timing}_labels" for timing in ("on_time", "early", "late", "correction")}
SAME_EVENT_MAX = 4  # early labels kept for one event
HINT = (
    "no event with this event_id came to this partition in time; the commonest cause is a producer of events or "
    "labels with another partitioner or another key"
)


class _Early(msgspec.Struct, array_like=True):
    kept_at_ms: int  # by event time; negative before the first event
    records: list[Record]  # more than one if they contradict each other; the first wins


class Joiner:
    """The label rules of one partition. `meta` is shared with the step that owns it."""

    def __init__(self, pipeline: Pipeline, partition: int, meta: Meta, early: dict[str, bytes]) -> None:
        rules = pipeline.labels
        names = TopicNames.of(pipeline)
        self._events_topic, self._labels_topic = names.events, names.labels
        self._partition = partition
        self._meta = meta
        self._features_of = named(pipeline.feature_names)
        self._wait_ms = rules.wait_ms
        self._keep_ms = rules.wait_ms + rules.keep_late_ms
        default: LabelValue | None = rules.default
        # As a label that comes: a whole number is a number.
        self._default = float(default) if pipeline.task == "regression" and default is not None else default
        self.has_default = rules.missing == "default"
        self.first_due_ms = self._wait_ms if self.has_default else self._keep_ms
        self._early_max = rules.early_max
        self._caps = rules.source_share_max
        self._early_wait_ms = rules.early_wait_ms
        decode = msgspec.msgpack.Decoder(_Early).decode
        kept = sorted(
            ((decode(data), event_id) for event_id, data in early.items()), key=lambda e: e[0].records[0].offset
        )
        self._early: dict[str, _Early] = {event_id: label for label, event_id in kept}  # oldest first
        self._look()

    def count(self, name: str, by: int = 1) -> None:
        counts = self._meta.counts
        counts[name] = counts.get(name, 0) + by

    def forget_at_ms(self, remembered: Remembered) -> int:
        return remembered.occurred_at_ms + self._keep_ms

    # -- a label whose event is remembered --------------------------------------------------------------------------

    def join(self, label: Label, remembered: Remembered, record: Record, *, early: bool) -> Example | None:
        """The example that a label makes of a remembered event, or None for a duplicate. Raises RecordRejected where its
        source has had its share.
        """
        previous = remembered.label
        if previous is None and self._caps:
            self._cap(label.source)
        if previous is not None:
            if previous == label.label:
                self.count("duplicate_labels")
                return None
            timing: Any = "correction"
        elif self._meta.watermark_ms > remembered.occurred_at_ms + self._wait_ms:
            timing = "late"
        else:
            timing = "early" if early else "on_time"
        if previous is None:
            remembered.label, remembered.label_source = label.label, label.source
        counts, name = self._meta.counts, COUNTED[timing]
        counts[name] = counts.get(name, 0) + 1
        return self._example(
            label.event_id,
            remembered,
            label.label,
            label.source,
            label.labelled_at_ms,
            timing,
            Source(self._labels_topic, self._partition, record.offset),
            previous,
            remembered.label_source if previous is not None else None,
        )

    def _cap(self, source: str) -> None:
        """Count a first label; refuse it if sources with such a beginning have had their share. It is not the event's
        label then: another source may still give one.
        """
        counts = self._meta.sources
        labels = counts.get("", 0) + 1
        capped = [(name, counts.get(name, 0) + 1) for name in self._caps if source.startswith(name)]
        for name, its in capped:
            if its > self._caps[name] * max(labels, SOURCE_LABELS_MIN):
                raise RecordRejected(
                    "label_source_capped",
                    f"sources that begin with {name!r} have given their share of the labels: "
                    f"labels.source_share_max is {self._caps[name]:g}",
                )
        counts[""] = labels
        counts.update(capped)
        if labels >= SOURCE_LABELS_KEPT:
            counts.update({name: count // 2 for name, count in counts.items()})

    def default(self, event_id: str, remembered: Remembered) -> Example | None:
        """What is learned of an event that nobody labelled in time."""
        if remembered.label is not None or self._default is None:
            return None
        remembered.label = self._default
        remembered.labelled_by_default = True
        remembered.label_source = "default"
        self.count("default_labels")
        return self._example(
            event_id,
            remembered,
            self._default,
            "default",
            remembered.occurred_at_ms + self._wait_ms,
            "default",
        )

    def _example(
        self,
        event_id: str,
        remembered: Remembered,
        label: LabelValue,
        source: str,
        labelled_at_ms: int,
        timing: Literal["on_time", "early", "default", "late", "correction"],
        position: Source | None = None,
        previous: LabelValue | None = None,
        previous_source: str | None = None,
    ) -> Example:
        self._meta.example_sequence += 1
        served = {
            CHAMPION: Served(
                remembered.version,
                remembered.prediction,
                remembered.probabilities,
                remembered.score,
                remembered.persistence,
                remembered.prior,
                remembered.prior_probabilities,
                remembered.failed,
            )
        }
        slot, beside = CHAMPION, remembered.beside
        # Nobody was asked for a default: it is what the event has without them.
        requested = None if timing == "default" else remembered.requested
        if beside is not None:
            served[beside.slot] = Served(
                beside.version,
                beside.prediction,
                beside.probabilities,
                beside.score,
                remembered.persistence,
                remembered.prior,
                remembered.prior_probabilities,
                beside.failed,
            )
            if beside.answers:
                slot = beside.slot
        # By position: with names it takes five times as long.
        return Example(
            event_id,
            remembered.entity_id,
            remembered.occurred_at_ms,
            self._features_of(remembered.features),
            served,
            label,
            source,
            labelled_at_ms,
            timing,
            self._partition,
            self._meta.example_sequence,
            Source(self._events_topic, self._partition, remembered.offset),
            position,
            previous,
            slot,
            requested is not None,
            requested,
            previous_source,
            remembered.timestamp_ms,
        )

    # -- a label before its event -----------------------------------------------------------------------------------

    def keep_early(self, record: Record, label: Label, commit: Commit) -> Iterator[tuple[RecordRejected, Record]]:
        """Keep a label whose event is unknown; yields what must become a dead letter for it."""
        event_id = label.event_id
        kept = self._early.get(event_id)
        if kept is None:
            if not self._early_max:
                yield RecordRejected("label_without_event", HINT), record
                return
            if len(self._early) >= self._early_max:
                yield from self._drop(next(iter(self._early)), commit)
            kept = self._early[event_id] = _Early(self._meta.watermark_ms, [])
        elif len(kept.records) >= SAME_EVENT_MAX or any(record.value == other.value for other in kept.records):
            self.count("duplicate_labels")
            return
        self._look()
        self.count("labels_kept_early")
        kept.records.append(record)
        commit.early_set[event_id] = msgspec.msgpack.encode(kept)

    def waits_for(self, event_id: str) -> bool:
        return event_id in self._early

    def _look(self) -> None:
        """The oldest early label stands first. What came before any event is looked at with the first one."""
        oldest = next(iter(self._early.values()), None)
        if oldest is None:
            self.next_expiry_ms = NEVER_MS
        else:
            self.next_expiry_ms = oldest.kept_at_ms + self._early_wait_ms if oldest.kept_at_ms >= 0 else -1

    def take_early(self, event_id: str, commit: Commit) -> list[Record]:
        """The labels that waited for this event, in the order they came."""
        kept = self._early.pop(event_id, None)
        if kept is None:
            return []
        self._remove(event_id, commit)
        self._look()
        return kept.records

    def expire_early(self, watermark_ms: int, commit: Commit) -> Iterator[tuple[RecordRejected, Record]]:
        """Early labels whose event did not come within `early_wait`; the oldest stand first."""
        for event_id, kept in self._early.items():
            if kept.kept_at_ms >= 0:
                break
            kept.kept_at_ms = watermark_ms  # event time begins now
            commit.early_set[event_id] = msgspec.msgpack.encode(kept)
        self._look()
        while self._early:
            event_id, kept = next(iter(self._early.items()))
            if kept.kept_at_ms + self._early_wait_ms >= watermark_ms:
                return
            yield from self._drop(event_id, commit)

    def _drop(self, event_id: str, commit: Commit) -> Iterator[tuple[RecordRejected, Record]]:
        self._remove(event_id, commit)
        dropped = self._early.pop(event_id)
        self._look()
        for record in dropped.records:
            yield RecordRejected("label_without_event", HINT), record

    def _remove(self, event_id: str, commit: Commit) -> None:
        # The commit removes first and sets after, so an id that comes back in the same batch stays.
        commit.early_set.pop(event_id, None)
        commit.early_remove.append(event_id)
