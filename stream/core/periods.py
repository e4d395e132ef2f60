"""What a period was like: figures from its examples, one pass, nothing kept but sums.

A label belongs to the period in which it came (the timestamp of its example), as the drifts and releases that it led to
do. Served predictions are judged as the learner judges them (`core/evaluating.py`), in slots of equal time, by segment and
by the model that answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from stream.core.evaluating import KEY_FIGURE, SYSTEMS, Evaluation
from stream.core.examples import LEARNED, ExampleParser
from stream.core.objectives import DELAYED, GIVEN, Delays
from stream.core.records import Record
from stream.core.segments import segment_values, told_apart
from stream.core.sources import LabelSources
from stream.core.unbiased import UnbiasedFigures
from stream.errors import RecordRejected
from stream.messages import Example, Served
from stream.pipeline import OTHER_VALUE, Pipeline

__all__ = ["ExampleFigures", "Model", "PeriodFold", "Segment", "Slot", "Span", "kept_slots", "slots_of"]

SLOT_LABELS_MIN = 20  # a slot with fewer says nothing
SLOT_LABELS = 50  # what a slot should have, in the mean
SLOTS_MAX = 60
MODELS_MAX = 30
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
WIDTHS_MS = (
    1_000, 2_000, 5_000, 10_000, 15_000, 30_000, MINUTE_MS, 2 * MINUTE_MS, 5 * MINUTE_MS, 10 * MINUTE_MS, 15 * MINUTE_MS,
    30 * MINUTE_MS, HOUR_MS, 2 * HOUR_MS, 3 * HOUR_MS, 6 * HOUR_MS, 12 * HOUR_MS, DAY_MS, 2 * DAY_MS, 7 * DAY_MS,
)  # fmt: skip


class Span(msgspec.Struct, frozen=True):
    """Times and slots of a report: slots of `width_ms` from `from_ms`, `count` of them; epoch milliseconds, UTC.

    The period is [since, until); slots cover the part of it that has examples.
    """

    since_ms: int
    until_ms: int
    from_ms: int
    width_ms: int
    count: int

    def slot(self, at_ms: int) -> int:
        return min(max((at_ms - self.from_ms) // self.width_ms, 0), self.count - 1)


def slots_of(since_ms: int, until_ms: int, first_ms: int, last_ms: int, examples: int) -> Span:
    """Slots of a round width that begin at a round time, at most 60 and with about 50 examples or more.

    Args:
        first_ms, last_ms: when the first and the last example of the period came.

    >>> span = slots_of(0, 10 * 86_400_000, 3_600_000, 26 * 3_600_000, 40_000)
    >>> span.width_ms // 60_000, span.count
    (30, 51)
    """
    most = min(max(examples // SLOT_LABELS, 1), SLOTS_MAX)
    for width in WIDTHS_MS:
        start = first_ms // width * width
        if (last_ms - start) // width < most:
            return Span(since_ms, until_ms, start, width, (last_ms - start) // width + 1)
    width = -(-(last_ms - first_ms + 1) // (most * DAY_MS)) * DAY_MS
    return Span(since_ms, until_ms, first_ms, width, (last_ms - first_ms) // width + 1)


class Slot(msgspec.Struct, frozen=True):
    """A part of the period. Figures are None where there are too few labels, or where they are not defined.

    Args:
        chance: the figure of a ranking at random (average precision: the share of positives; ROC AUC: one half).
        models: base -> answers.
    """

    from_ms: int
    labels: int
    figure: float | None
    persistence: float | None
    prior: float | None
    chance: float | None
    skill_vs_persistence: float | None
    skill_vs_prior: float | None
    models: dict[str, int]


class Segment(msgspec.Struct, frozen=True):
    """One value of a declared segment; `course`: its figure in each slot."""

    segment: str
    value: str
    labels: int
    figure: float | None
    skill_vs_persistence: float | None
    skill_vs_prior: float | None
    course: list[float | None]


class Model(msgspec.Struct, frozen=True):
    """One base that answered; `answers` are those whose label came in the period."""

    base: str
    slots: list[str]
    answers: int
    share: float
    figure: float | None
    first_version: str
    last_version: str


class ExampleFigures(msgspec.Struct, frozen=True):
    """What the examples of a period say.

    Args:
        from_offset, to_offset: of `examples`, the end excluded.
        labels: how many of each timing came (on_time, early, late, default, correction).
        judged: labels whose served prediction was judged.
        given: events of the period that have been labelled by somebody so far; None where it cannot be told.
        answered: labels that people had been asked for.
        delay_ms: quantiles from event to label.
        quality: model and baselines, as `Evaluation.report()["overall"]`.
        sources: who labelled, as `LabelSources.report()`.
        unbiased: of labels on request, as `UnbiasedFigures.report()` without its window; None where nobody is asked.
    """

    from_offset: int
    to_offset: int
    labels: dict[str, int]
    judged: int
    given: int
    answered: int
    repeats: int
    unreadable: int
    delay_ms: dict[str, float | None]
    quality: dict[str, Any]
    course: list[Slot]
    segments: list[Segment]
    models: list[Model]
    sources: dict[str, Any]
    unbiased: dict[str, Any] | None = None


class _Numbering:
    """Tells repeats: copies after a crash have the number of the original; after a reset numbers begin again at 1."""

    def __init__(self) -> None:
        self._high: dict[int, int] = {}
        self._first: dict[int, bytes | None] = {}

    def repeated(self, record: Record, example: Example) -> bool:
        number, partition = example.sequence, example.partition
        begins = number == 1 and self._first.get(partition) != record.value  # copies are byte-identical
        if not begins and number <= self._high.get(partition, 0):
            return True
        if number == 1:
            self._first[partition] = record.value
        self._high[partition] = number
        return False


class PeriodFold:
    """Takes the examples of one shard, offsets ascending: some before the period to tell repeats by, those in it, and later
    ones, which only tell how many of the period's events were labelled in the end.

    Args:
        times_of: offsets whose timestamps are wanted (`times`), such as where drifts began.
    """

    def __init__(self, pipeline: Pipeline, span: Span, times_of: Iterable[int] = ()) -> None:
        self._pipeline, self._span = pipeline, span
        self._parse = ExampleParser(pipeline).parse
        self._numbering = _Numbering()
        self._wanted = set(times_of)
        self.times: dict[int, int] = {}
        self._from: int | None = None
        self._to = 0
        self._labels: dict[str, int] = {}
        self._given = self._answered = self._repeats = self._unreadable = 0
        self._delays, self._sources = Delays(), LabelSources()
        self._overall = self._evaluation()
        self._unbiased = UnbiasedFigures(pipeline.task, 1, pipeline.alert_share) if pipeline.labelling else None
        self._slots = [self._evaluation() for _ in range(span.count)]
        self._answers: list[dict[str, int]] = [{} for _ in range(span.count)]
        self._segments: dict[str, dict[str, dict[int | None, Evaluation]]] = {n: {} for n in pipeline.segments}
        self._models: dict[str, tuple[Evaluation, list[str], list[str]]] = {}

    def _evaluation(self) -> Evaluation:
        return Evaluation(self._pipeline.task, 1, self._pipeline.alert_share)

    def add(self, record: Record) -> None:
        """Take the next one."""
        at_ms, span = record.timestamp_ms, self._span
        if record.offset in self._wanted:
            self.times[record.offset] = at_ms
        inside = span.since_ms <= at_ms < span.until_ms
        if inside:
            self._from = record.offset if self._from is None else self._from
            self._to = record.offset + 1
        try:
            example = self._parse(record)
        except RecordRejected:
            self._unreadable += inside
            return
        if self._numbering.repeated(record, example):
            self._repeats += inside
            return
        came_at_ms = example.came_at_ms
        if example.timing in GIVEN and span.since_ms <= came_at_ms < span.until_ms:
            self._given += 1
        if inside:
            self._take(example, at_ms, came_at_ms)

    def _take(self, example: Example, at_ms: int, came_at_ms: int) -> None:
        self._labels[example.timing] = self._labels.get(example.timing, 0) + 1
        self._sources.update(example)
        if example.timing in DELAYED:
            self._delays.add(at_ms - came_at_ms)
        self._answered += example.requested and example.timing in GIVEN
        served = example.served.get(example.slot)
        if example.timing in LEARNED and served is not None:
            self._judge(example, served, self._span.slot(at_ms))

    def _judge(self, example: Example, served: Served, slot: int) -> None:
        self._overall.update(example.label, served)
        if self._unbiased is not None:
            self._unbiased.take(example, served)
        self._slots[slot].update(example.label, served)
        base = served.version.partition("@")[0]
        base = told_apart(base, self._models, MODELS_MAX)
        answers = self._answers[slot]
        answers[base] = answers.get(base, 0) + 1
        if base not in self._models:
            self._models[base] = (self._evaluation(), [], [served.version, ""])
        evaluation, slots, versions = self._models[base]
        evaluation.update(example.label, served)
        versions[1] = served.version
        if example.slot not in slots:
            slots.append(example.slot)
        for segment, value in segment_values(self._pipeline.segments, example.features):
            judged = self._segments[segment]
            value = told_apart(value, judged, self._pipeline.segment_values_max)
            its = judged.setdefault(value, {})
            for key in (None, slot):
                if key not in its:
                    its[key] = self._evaluation()
                its[key].update(example.label, served)

    # -- the figures ---------------------------------------------------------------------------------------------------

    def figures(self) -> ExampleFigures | None:
        """None if the period has no example."""
        if self._from is None:
            return None
        quality = self._overall.report()["overall"]
        return ExampleFigures(
            from_offset=self._from,
            to_offset=self._to,
            labels=dict(sorted(self._labels.items(), key=lambda item: -item[1])),
            judged=sum(sum(answers.values()) for answers in self._answers),
            given=self._given,
            answered=self._answered,
            repeats=self._repeats,
            unreadable=self._unreadable,
            delay_ms=self._delays.report(),
            quality=quality,
            course=[self._slot(number) for number in range(self._span.count)],
            segments=[s for name, values in self._segments.items() for s in self._segment(name, values)],
            models=self._shares(),
            sources=self._sources.report(),
            unbiased=self._whole_period(),
        )

    def _whole_period(self) -> dict[str, Any] | None:
        if self._unbiased is None:
            return None
        report = self._unbiased.report()
        return {"figure": report["figure"], "overall": report["overall"]}

    def _slot(self, number: int) -> Slot:
        sheet = self._slots[number].report()["overall"]
        labels, answers = sum(self._answers[number].values()), self._answers[number]
        told = labels >= SLOT_LABELS_MIN
        key = KEY_FIGURE[self._pipeline.task]
        chance = {"average_precision": sheet["model"].get("positive_share"), "roc_auc": 0.5}.get(key)
        figures = {system: sheet[system].get(key) if told else None for system in SYSTEMS}
        skills = {name: sheet[name] if told else None for name in ("skill_vs_persistence", "skill_vs_prior")}
        return Slot(
            from_ms=self._span.from_ms + number * self._span.width_ms,
            labels=labels,
            figure=figures["model"],
            persistence=figures["persistence"],
            prior=figures["prior"],
            chance=chance if told else None,
            **skills,
            models=answers,
        )

    def _segment(self, name: str, values: Mapping[str, Mapping[int | None, Evaluation]]) -> list[Segment]:
        key, found = KEY_FIGURE[self._pipeline.task], []
        for value, its in values.items():
            sheet = its[None].report()["overall"]
            course = [self._told(its[n], key) if n in its else None for n in range(self._span.count)]
            skills = (sheet["skill_vs_persistence"], sheet["skill_vs_prior"])
            found.append(Segment(name, value, sheet["labels"], sheet["model"].get(key), *skills, course))
        return sorted(found, key=lambda its: (its.value == OTHER_VALUE, -its.labels))

    def _told(self, evaluation: Evaluation, key: str) -> float | None:
        sheet = evaluation.report()["overall"]
        figure: float | None = sheet["model"].get(key)
        return figure if sheet["labels"] >= SLOT_LABELS_MIN else None

    def _shares(self) -> list[Model]:
        key = KEY_FIGURE[self._pipeline.task]
        counts = {base: sum(answers.get(base, 0) for answers in self._answers) for base in self._models}
        total = sum(counts.values())
        return [
            Model(base, slots, counts[base], counts[base] / total, its.report()["overall"]["model"].get(key), *versions)
            for base, (its, slots, versions) in self._models.items()
        ]


def kept_slots(course: Sequence[Slot], name: str, wanted: float, *, most: bool) -> tuple[int, int]:
    """In how many of the slots whose figure is known it was kept, and how many those are."""
    known = [value for slot in course if (value := getattr(slot, name)) is not None]
    return sum(value <= wanted if most else value >= wanted for value in known), len(known)
