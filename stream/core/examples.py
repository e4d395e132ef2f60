"""Examples as they come from the topic, and the models that learn them.

A `Pupil` is one model that learns: a slot of the live system, a candidate that catches up, or a version that is built anew
for `driftloop verify`. What it has learned up to an offset depends on its base and on the examples alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from stream.core.accelerating import compile_learner
from stream.core.guarding import TreeBound, first_not_finite
from stream.core.lean_pickle import dump_model, load_model
from stream.core.model_bases import ModelBase
from stream.core.records import Record
from stream.errors import RecordRejected, UpdateRefused
from stream.messages import Example, Served
from stream.pipeline import Pipeline, label_fits

__all__ = ["BOUND_EVERY", "LEARNED", "ExampleParser", "ExampleReader", "Follower", "Pupil", "repeats_of", "teach"]

LEARNED = frozenset(("on_time", "early", "default"))
BOUND_EVERY = 100  # examples between two looks at the size of the trees
GOOD_EVERY = 5_000  # examples after which a model is known to be good, if no snapshot came before

_decode_example = msgspec.json.Decoder(Example).decode


class ExampleParser:
    """Reads examples of one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._task = pipeline.task
        self._names = pipeline.feature_names

    def parse(self, record: Record) -> Example:
        """Raises RecordRejected."""
        if not record.value:
            raise RecordRejected("value_empty", "the record has no value")
        try:
            example = _decode_example(record.value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RecordRejected("example_invalid", "not an example as schemas/examples.json describes it") from None
        if not label_fits(self._task, example.label):
            raise RecordRejected("label_type", f"the label does not fit the task {self._task!r}")
        for served in example.served.values():
            if not _fits(self._task, served):
                raise RecordRejected("label_type", f"what was served does not fit the task {self._task!r}")
        if tuple(example.features) != self._names:
            raise RecordRejected("features_differ", "the example's features are not those that the pipeline declares")
        return example


def _fits(task: Any, served: Served) -> bool:
    values = (served.prediction, served.persistence, served.prior)
    return all(value is None or label_fits(task, value) for value in values)


def repeats_of(pipeline: Pipeline) -> int:
    """How often a label on request is learned again after the first time."""
    labelling = pipeline.labelling
    return labelling.learn_times - 1 if labelling and pipeline.task in ("binary", "multiclass") else 0


def teach(learner: Any, features: dict[str, Any], label: Any, repeats: int) -> None:
    """Learn one example, and again; raises as the first time does."""
    learner.learn(features, label)
    for _ in range(repeats):
        try:
            learner.learn(features, label)
        except Exception:  # noqa: BLE001 - it was learned, if not as often
            return


class Pupil:
    """One model that learns, guarded against examples that would break it."""

    def __init__(
        self,
        pipeline: Pipeline,
        data: bytes,
        *,
        base: str,
        start: int,
        learned: int = 0,
        extra_allowed: frozenset[str] = frozenset(),
    ) -> None:
        """`data`: as `dump_model` writes it; `start`: the offset at which the base begins."""
        self._pipeline = pipeline
        self._repeats = repeats_of(pipeline)
        self._extra_allowed = extra_allowed
        self.base = base
        self.start = start
        self.learned = learned
        self._good = data
        self._since_good: list[Example] = []
        self._use(load_model(data, extra_allowed=extra_allowed))

    @classmethod
    def of(cls, pipeline: Pipeline, base: ModelBase, extra_allowed: frozenset[str] = frozenset()) -> Pupil:
        """From a copy of the base: sets of a copy are settled (see lean_pickle), so all copies run alike."""
        return cls(
            pipeline,
            dump_model(base.model),
            base=base.name,
            start=base.offset,
            learned=base.learned,
            extra_allowed=extra_allowed,
        )

    def _use(self, model: Any) -> None:
        self._model = model
        self._learner = compile_learner(model, self._pipeline.task)
        self._bound = TreeBound(model, self._pipeline.limits.tree_leaves_max)

    @property
    def model(self) -> Any:
        self._learner.sync()
        return self._model

    def learn(self, example: Example) -> bool:
        """Learn one example; true if a tree stopped growing now. Raises UpdateRefused, or whatever the model raises."""
        self._since_good.append(example)
        self._teach(example)
        self.learned += 1
        return self.learned % BOUND_EVERY == 0 and self._bound.enforce()

    def _teach(self, example: Example) -> None:
        teach(self._learner, example.features, example.label, self._repeats if example.requested else 0)

    def tidy(self) -> int:
        """After each example: now and then the model is known to be good. Returns how many examples were refused for it."""
        if len(self._since_good) < GOOD_EVERY:
            return 0
        refused = self.mend()
        self._keep(dump_model(self.model))
        return refused

    def dump(self) -> bytes:
        """The model's bytes; call `mend` before."""
        data = dump_model(self.model)
        self._keep(data)
        return data

    def _keep(self, good: bytes) -> None:
        """All weights of this model are finite: should they not be later, learning starts again from here."""
        self._good, self._since_good = good, []

    def mend(self) -> int:
        """A weight that is not finite: back to the last good model, and without the examples that break it.

        Returns how many were left out.
        """
        if first_not_finite(self.model) is None:
            return 0
        refused = 0
        self._use(load_model(self._good, extra_allowed=self._extra_allowed))
        for example in self._since_good:
            before = dump_model(self.model)
            try:
                self._teach(example)
                learned = True
            except Exception:  # noqa: BLE001 - one that failed the first time fails again, and was counted then
                learned = False
            if first_not_finite(self.model) is not None:
                self._use(load_model(before, extra_allowed=self._extra_allowed))
                refused += learned
        self.learned -= refused
        return refused


class ExampleReader:
    """Examples of a log in their order; repeats, and what is no example, are left out."""

    def __init__(self, pipeline: Pipeline, high_water: Mapping[int, int] | None = None) -> None:
        """`high_water`: score partition -> sequence of the last example that was seen."""
        self.high_water = dict(high_water or {})
        self._parse = ExampleParser(pipeline).parse

    def read(self, record: Record) -> Example | None:
        """None for a repeat, and for what is no example of this pipeline."""
        try:
            example = self._parse(record)
        except RecordRejected:
            return None
        if example.sequence <= self.high_water.get(example.partition, 0):
            return None
        self.high_water[example.partition] = example.sequence
        return example


class Follower:
    """A base and the examples after it: the model as it is at `offset`, in whatever slot it was then.

    Args:
        leave_out: examples for which this is true count as seen and are not learned.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        base: ModelBase,
        extra_allowed: frozenset[str] = frozenset(),
        leave_out: Callable[[Record, Example], bool] = lambda *_: False,
    ) -> None:
        self.pupil = Pupil.of(pipeline, base, extra_allowed)
        self.offset = base.offset
        self.left_out = 0
        self._leave_out = leave_out
        self._reader = ExampleReader(pipeline, base.high_water)

    @property
    def version(self) -> str:
        return f"{self.pupil.base}@{self.offset}"

    @property
    def high_water(self) -> dict[int, int]:
        """Score partition -> sequence of its last example."""
        return self._reader.high_water

    def step(self, records: Sequence[Record]) -> None:
        """Learn examples, in offset order."""
        for record in records:
            if record.offset < self.offset:
                continue
            self.offset = record.offset + 1
            example = self._reader.read(record)
            if example is None or example.timing not in LEARNED:
                continue
            if self._leave_out(record, example):
                self.left_out += 1
                continue
            try:
                self.pupil.learn(example)
            except UpdateRefused:
                pass
            except Exception:  # noqa: BLE001 - a live model is left as it is then, too
                pass
            self.pupil.tidy()
