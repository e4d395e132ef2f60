"""A pipeline on its history: the steps that run live, offline and at full speed, labels coming when they came.

Events are scored by the model as it was then: after every `refresh` records the scorer takes the model that has learned
all labels which had come by that time. Live, a model is a quarter of a second old; `refresh` stands for that.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from operator import attrgetter
from typing import Any

import msgspec

from stream.batch.offline_scoring import OfflineScoring
from stream.core.evaluating import KEY_FIGURE
from stream.core.explaining import compile_scorer
from stream.core.forms import EXAMPLES_ONLY, IN_PROCESS, encoded
from stream.core.learning import LearnStep
from stream.core.records import Record
from stream.core.remembering import summed
from stream.core.scoring import LiveModel
from stream.messages import Drift, ModelRef
from stream.pipeline import Pipeline
from stream.ports import Outgoing

__all__ = ["Point", "Replayed", "in_order", "replay"]

KEYS = (b"a replay's snapshots go nowhere..",)
COURSE_EVERY = 100  # labels between two points of the course, at first ...
COURSE_SHARE = 40  # ... and later a fortieth of all labels so far


class Point(msgspec.Struct, frozen=True):
    """Figures in the sliding window, after so many labels."""

    labels: int
    examples: int  # of all kinds: what a drift's offsets count
    at_ms: int  # Kafka timestamp of the last record before it
    figure: float | None
    skill_vs_persistence: float | None
    skill_vs_prior: float | None


class Replayed(msgspec.Struct, frozen=True):
    """What a replay says of a pipeline."""

    pipeline: str
    task: str
    counts: dict[str, int]  # of the score stage, all partitions together
    learner: dict[str, Any]  # as `driftloop status --json` has it: version, digest, counts, metrics, segments, drift
    drifts: list[Drift]
    key_figure: str
    course: list[Point]
    seconds: float


def replay(
    pipeline: Pipeline,
    records: Iterable[Record],
    *,
    refresh: int = 200,
    window: int = 1_000,
    extra_allowed: frozenset[str] = frozenset(),
    on_records: Callable[[int], None] = lambda _: None,
    on_output: Callable[[Outgoing], None] | None = None,
    scored_as: Pipeline | None = None,
) -> Replayed:
    """Score and learn a history.

    Args:
        records: of `events` and `labels`, in the order of their Kafka timestamps, offsets ascending in each partition.
        refresh: records between two refreshments of the scorer's model.
        window: labels in the sliding window of the figures.
        extra_allowed: names of the pipeline's own file that a model may refer to.
        on_records: called with the number of records that were just done.
        on_output: called with every prediction, example, drift and dead letter.
        scored_as: the pipeline with its entity features declared, where they come with the events (`archived_history`).
    """
    course = _Replay(pipeline, refresh, window, extra_allowed, on_output, scored_as or pipeline)
    with _modules_left_alone():
        return asyncio.run(course.over(records, on_records))


@contextmanager
def _modules_left_alone() -> Iterator[None]:
    """What was there before is not walked again and again by the garbage collector, which a fast loop calls often."""
    if gc.get_freeze_count():  # somebody has seen to it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Replay:
    def __init__(
        self,
        pipeline: Pipeline,
        refresh: int,
        window: int,
        extra_allowed: frozenset[str],
        on_output: Callable[[Outgoing], None] | None,
        scored_as: Pipeline,
    ) -> None:
        self._pipeline = pipeline
        self._refresh = refresh
        self._on_output = on_output
        self._scoring = OfflineScoring(scored_as, EXAMPLES_ONLY if on_output is None else IN_PROCESS)
        # Nobody sees an explanation but in a prediction or a label request.
        self._explains = on_output is not None or bool(pipeline.labelling)
        self._learner = LearnStep(
            pipeline, shard=0, keys=KEYS, configuration="replay", window=window, extra_allowed=extra_allowed
        )
        self._drifts: list[Drift] = []
        self._key_figure = KEY_FIGURE[pipeline.task]
        self._course: list[Point] = []
        self._next_point = COURSE_EVERY

    async def over(self, records: Iterable[Record], on_records: Callable[[int], None]) -> Replayed:
        started_s = time.perf_counter()
        last_ms = 0
        for batch in _batched(records, self._refresh):
            model = self._model()
            examples = []
            for partition, part in _by_partition(batch).items():
                examples += [out for out in await self._score(partition, part, model) if out.topic == "examples"]
            self._learn(examples)
            last_ms = batch[-1].timestamp_ms
            self._note(last_ms)
            on_records(len(batch))
        self._note(last_ms, last=True)
        return Replayed(
            self._pipeline.name,
            self._pipeline.task,
            self._counts(),
            msgspec.json.decode(self._learner.snapshot().status),
            self._drifts,
            self._key_figure,
            self._course,
            time.perf_counter() - started_s,
        )

    def _model(self) -> LiveModel:
        pipeline, learner = self._pipeline, self._learner
        scorer = compile_scorer(
            learner.model,
            pipeline.task,
            explained_top=pipeline.explained_top,
            threshold=pipeline.threshold,
            explains=self._explains,
        )
        return LiveModel(ModelRef(pipeline.name, learner.version), scorer, *msgspec.structs.astuple(learner.serving()))

    async def _score(self, partition: int, records: list[Record], model: LiveModel) -> list[Outgoing]:
        """One micro-batch of a partition, as a score worker does it."""
        outgoing = await self._scoring.score(partition, records, model)
        if self._on_output is not None:
            for out in outgoing:
                self._on_output(encoded(out))
        return outgoing

    def _learn(self, examples: list[Outgoing]) -> None:
        for out in self._learner.step_in_process(examples):
            if out.topic == "drifts":
                self._drifts.append(msgspec.json.decode(out.value or b"", type=Drift))
            if self._on_output is not None:
                self._on_output(out)

    def _note(self, at_ms: int, *, last: bool = False) -> None:
        labels = self._learner.counts.get("learned", 0)
        noted = self._course[-1].labels if self._course else 0
        if labels < self._next_point and not (last and labels > noted):
            return
        self._next_point = labels + max(COURSE_EVERY, labels // COURSE_SHARE)
        window = self._learner.recent_figures()
        figure = window["model"].get(self._key_figure)
        self._course.append(
            Point(labels, self._learner.offset, at_ms, figure, window["skill_vs_persistence"], window["skill_vs_prior"])
        )

    def _counts(self) -> dict[str, int]:
        return summed(step.meta.counts for step in self._scoring.steps)


def in_order(records: Iterable[Record]) -> list[Record]:
    """As workers take them: an event before a label of the same moment, and each topic's partition in its own order even
    where clocks were not.
    """
    latest: dict[tuple[str, int], int] = {}
    keyed = []
    for record in sorted(records, key=attrgetter("topic", "partition", "offset")):
        place = (record.topic, record.partition)
        latest[place] = max(latest.get(place, 0), record.timestamp_ms)
        keyed.append((latest[place], record.topic, record.offset, record.partition, record))
    keyed.sort(key=lambda item: item[:4])
    return [record for *_, record in keyed]


def _batched(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    rest = iter(records)
    while batch := list(islice(rest, size)):
        yield batch


def _by_partition(records: Iterable[Record]) -> dict[int, list[Record]]:
    parts: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        parts[record.partition].append(record)
    return parts
