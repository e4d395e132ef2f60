"""Another model on examples of the past, in the order of time: it predicts when the event came and learns when its label came.

Delayed progressive validation as Grzenda, Gomes and Bifet 2020, "Delayed labelling evaluation for data streams", describe
it: without the delay a search on an autocorrelated stream takes what follows the last label most closely, and that does
harm (measured: elec2, labels 500 events late).

An event comes at its record's timestamp, its label at that of the example's record, which never goes back and is never before
the event: both are Kafka's, so an old history that is produced today keeps its own delays. At one and the same time events come first. Repeats and labels that are not learned live
are left out here, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from stream.boosting import is_batch_trained
from stream.core.accelerating import compile_learner
from stream.core.baselines import Baselines
from stream.core.evaluating import Evaluation
from stream.core.examples import BOUND_EVERY, LEARNED, ExampleParser, Repeats, teach
from stream.core.explaining import Scorer, compile_scorer
from stream.core.guarding import TreeBound
from stream.core.records import Record
from stream.core.segments import segment_values, told_apart
from stream.core.unlearning import Labelled, LeftOut
from stream.errors import ConfigurationError, RecordRejected
from stream.messages import LabelValue, Served
from stream.pipeline import Pipeline

__all__ = ["Judged", "Lesson", "Timeline", "evaluate", "known_at", "scored_lessons", "timeline", "train"]

REFRESH = 10  # labels between two refreshments of the scorer's model
REPORTS = 8


class Lesson(msgspec.Struct, frozen=True):
    """One example that is learned: when the event came, when the label came."""

    offset: int
    came_at_ms: int
    learned_at_ms: int
    features: dict[str, Any]
    label: LabelValue
    requested: bool = False
    source: str = ""


class Timeline(msgspec.Struct, frozen=True):
    """The lessons of a range of examples, decoded once for all trials.

    Args:
        lessons: in the order in which they are learned.
        high_water: score partition -> sequence of the last example, at the end; as the live learner would have it.
        digest: of the records' bytes and timestamps.
    """

    lessons: list[Lesson]
    high_water: dict[int, int]
    digest: str

    def between(self, from_offset: int, to_offset: int) -> list[Lesson]:
        """The lessons of a part of the range, to_offset excluded."""
        return [lesson for lesson in self.lessons if from_offset <= lesson.offset < to_offset]


class Judged(msgspec.Struct, frozen=True):
    """What an evaluation says.

    Args:
        figure: the pipeline's metric over all scored lessons; None if it is not defined there.
        labels: how many were scored.
        report: as `Evaluation.report()`.
        segments: segment -> value -> report, if asked for.
        failures: events that the model could not answer; they count as no answer. Labels of the scored part that it could not
            learn.
    """

    figure: float | None
    labels: int
    report: dict[str, Any]
    segments: dict[str, dict[str, dict[str, Any]]]
    failures: int


def timeline(
    pipeline: Pipeline,
    records: Iterable[Record],
    high_water: Mapping[int, int] | None = None,
    left_out: Sequence[LeftOut] = (),
) -> Timeline:
    """Decode examples.

    Args:
        records: of `examples`, one shard, offsets ascending.
        high_water: what had been seen before the first of them.
        left_out: what has been taken back (`driftloop unlearn`): it counts as seen and is no lesson.
    """
    seen = dict(high_water or {})
    hasher = hashlib.blake2b(digest_size=16)
    lessons, now_ms = [], 0
    parse = ExampleParser(pipeline).parse
    for record in records:
        value = record.value or b""
        hasher.update(b"%d %d %d:" % (record.offset, record.timestamp_ms, len(value)) + value)
        try:
            example = parse(record)
        except RecordRejected:
            continue  # live, it became a dead letter
        if example.sequence <= seen.get(example.partition, 0):
            continue
        seen[example.partition] = example.sequence
        if example.timing not in LEARNED:
            continue
        if left_out and any(part.holds(Labelled.of(record, example)) for part in left_out):
            continue
        came_at_ms = example.came_at_ms
        now_ms = max(now_ms, record.timestamp_ms, came_at_ms)
        lesson = Lesson(
            record.offset, came_at_ms, now_ms, example.features, example.label, example.requested, example.label_source
        )
        lessons.append(lesson)
    return Timeline(lessons, seen, hasher.hexdigest())


def known_at(lessons: Sequence[Lesson], offset: int) -> int:
    """When the last label before an offset had come; -1 if there is none."""
    return max((one.learned_at_ms for one in lessons if one.offset < offset), default=-1)


def scored_lessons(lessons: Sequence[Lesson], score_from: int, known_at_ms: int | None = None) -> list[bool]:
    """Which lessons are scored: from that offset on, and of events that came after everything before it had been learned.

    A model that is fitted at that moment could not have answered the others; so all candidates are judged on the same.
    `known_at_ms`: that moment, if these lessons are not all of them.
    """
    if known_at_ms is None:
        known_at_ms = known_at(lessons, score_from)
    return [one.offset >= score_from and one.came_at_ms > known_at_ms for one in lessons]


def evaluate(
    pipeline: Pipeline,
    model: Any,
    lessons: Sequence[Lesson],
    *,
    score_from: int,
    known_at_ms: int | None = None,
    fit: bool = True,
    refresh: int = REFRESH,
    window: int = 1_000,
    segments: bool = False,
    on_report: Callable[[int, float | None], None] | None = None,
) -> Judged:
    """Run a model through the lessons and judge the scored ones. The model is changed. Deterministic.

    Args:
        score_from, known_at_ms: which lessons are scored (see `scored_lessons`).
        fit: a batch-trained model is fitted on what lies before it, at the moment when its last label comes; False: it comes
            fitted.
        refresh: so many labels are learned before the scorer takes the new model; 1: at once.
        on_report: called REPORTS times with its number and the key figure so far. What it raises ends the evaluation.

    Raises:
        ConfigurationError: nothing can be scored, as the labels take longer than the scored part is.
    """
    scored = scored_lessons(lessons, score_from, known_at_ms)
    total = sum(scored)
    if not total:
        raise ConfigurationError(
            "window",
            score_from,
            "no event after it came late enough to be scored: the labels take longer; wait for more",
        )
    run = _Run(pipeline, model, refresh, window, segments)
    batch = fit and is_batch_trained(model)
    train = [one for one in lessons if one.offset < score_from]
    order = sorted(range(len(lessons)), key=lambda i: (lessons[i].came_at_ms, i))
    coming, judged = 0, 0
    served: dict[int, Served] = {}
    for number, lesson in enumerate(lessons):
        if batch and lesson.offset >= score_from:
            run.fit(train)
            batch = False
        while coming < len(order) and lessons[order[coming]].came_at_ms <= lesson.learned_at_ms:
            at = order[coming]
            coming += 1
            if scored[at]:
                served[at] = run.serve(lessons[at])
        if scored[number]:
            run.judge(lesson, served.pop(number))
            judged += 1
            if on_report is not None and judged * REPORTS // total > (judged - 1) * REPORTS // total:
                on_report(judged * REPORTS // total, run.figure())
        run.learn(lesson, counts=lesson.offset >= score_from)  # models that are compared began at different lessons
    return run.judged(total)


def train(pipeline: Pipeline, model: Any, lessons: Sequence[Lesson], *, fit_to: int | None) -> int:
    """Teach a model all lessons, in their order, as the live learner does; returns how many it has learned.

    A weight that is not finite is not mended, as it would be live: look at it with `first_not_finite`.

    Args:
        fit_to: a batch-trained model is fitted on the lessons before this offset, and given the others one by one; None: it
            comes fitted.
    """
    run = _Run(pipeline, model, REFRESH, 1, False)
    rest = lessons
    if fit_to is not None and is_batch_trained(model):
        run.fit([one for one in lessons if one.offset < fit_to])
        rest = [one for one in lessons if one.offset >= fit_to]
    for lesson in rest:
        run.learn(lesson)
    run.learner.sync()
    return len(lessons) - run.failures


class _Run:
    """One model on its way through time."""

    def __init__(self, pipeline: Pipeline, model: Any, refresh: int, window: int, segments: bool) -> None:
        self._pipeline, self._model, self._refresh = pipeline, model, refresh
        self.learner = compile_learner(model, pipeline.task)
        self._bound = TreeBound(model, pipeline.limits.tree_leaves_max)
        self._baselines = Baselines(pipeline.task)
        self._evaluation = Evaluation(pipeline.task, window, pipeline.alert_share)
        self._segments: dict[str, dict[str, Evaluation]] = {n: {} for n in pipeline.segments} if segments else {}
        self._repeats = Repeats(pipeline)
        self._scorer: Scorer | None = None
        self._since = self._learned = self.failures = 0

    def fit(self, lessons: Sequence[Lesson]) -> None:
        """Raises ConfigurationError."""
        self._model.fit([one.features for one in lessons], [one.label for one in lessons])
        self._scorer = None

    def serve(self, lesson: Lesson) -> Served:
        scorer = self._scorer
        if scorer is None or self._since >= self._refresh:
            self.learner.sync()
            pipeline = self._pipeline
            self._scorer = scorer = compile_scorer(
                self._model, pipeline.task, explained_top=0, threshold=pipeline.threshold
            )
            self._since = 0
        known = self._baselines
        baselines = (known.persistence, known.prior, known.prior_probabilities)
        try:
            answer = scorer(lesson.features)
        except Exception:  # noqa: BLE001 - a model of the user's may raise anything; live, it would be a dead letter
            self.failures += 1
            return Served("", None, None, None, *baselines, failed=True)
        return Served("", answer.prediction, answer.probabilities, answer.score, *baselines)

    def judge(self, lesson: Lesson, served: Served) -> None:
        self._evaluation.update(lesson.label, served)
        if not self._segments:
            return
        for segment, value in segment_values(self._pipeline.segments, lesson.features):
            judged = self._segments[segment]
            value = told_apart(value, judged, self._pipeline.segment_values_max)
            if value not in judged:
                judged[value] = Evaluation(self._pipeline.task, 1, self._pipeline.alert_share)
            judged[value].update(lesson.label, served)

    def learn(self, lesson: Lesson, *, counts: bool = True) -> None:
        """`counts`: as a failure, should it be one."""
        self._baselines.update(lesson.label)
        self._since += 1
        try:
            repeats = self._repeats.of(lesson.source, requested=lesson.requested)
            teach(self.learner, lesson.features, lesson.label, repeats)
        except Exception:  # noqa: BLE001 - as above; UpdateRefused among them
            self.failures += counts
            return
        self._learned += 1
        if self._learned % BOUND_EVERY == 0:
            self._bound.enforce()

    def figure(self) -> float | None:
        value: float | None = self._evaluation.report()["overall"]["model"].get(self._pipeline.metric)
        return value

    def judged(self, labels: int) -> Judged:
        self.learner.sync()
        segments = {name: {v: its.report() for v, its in judged.items()} for name, judged in self._segments.items()}
        return Judged(self.figure(), labels, self._evaluation.report(), segments, self.failures)
