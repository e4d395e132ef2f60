"""Examples as they come from the topic, and the models that learn them.

A `Pupil` is one model that learns: a slot of the live system, a candidate that catches up, or a version that is built anew
for `driftloop verify`. What it has learned up to an offset depends on its base and on the examples alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from stream.core.accelerating import compile_learner
from stream.core.guarding import TreeBound, WeightWatch
from stream.core.lean_pickle import dump_model, load_model
from stream.core.model_bases import ModelBase
from stream.core.records import Record
from stream.errors import RecordRejected, UpdateRefused
from stream.messages import Example, Served
from stream.pipeline import Pipeline, label_fits

__all__ = ["BOUND_EVERY", "LEARNED", "ExampleParser", "ExampleReader", "Follower", "Pupil", "Repeats", "teach"]

LEARNED = frozenset(("on_time", "early", "default"))
BOUND_EVERY = 100  # examples between two looks at the size of the trees
GOOD_EVERY = 1_000  # examples after which a model is put aside, if no snapshot came before

BOOLEAN = frozenset((bool, type(None)))
_decode_example = msgspec.json.Decoder(Example).decode


class ExampleParser:
    """Reads examples of one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._task = pipeline.task
        self._names = pipeline.feature_names
        self._fits: Callable[[object], bool] = partial(label_fits, pipeline.task)
        self._booleans = pipeline.task in ("binary", "anomaly")

    def parse(self, record: Record) -> Example:
        """Raises RecordRejected."""
        if not record.value:
            raise RecordRejected("value_empty", "the record has no value")
        try:
            example = _decode_example(record.value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RecordRejected("example_invalid", "not an example as schemas/examples.json describes it") from None
        self.check(example)
        if tuple(example.features) != self._names:
            raise RecordRejected("features_differ", "the example's features are not those that the pipeline declares")
        return example

    def check(self, example: Example) -> None:
        """What a step of ours may yet have got wrong, as a model may answer anything. Raises RecordRejected."""
        if self._booleans and type(example.label) is bool and _all_boolean(example.served.values()):
            return
        fits = self._fits
        if not fits(example.label):
            raise RecordRejected("label_type", f"the label does not fit the task {self._task!r}")
        for served in example.served.values():
            prediction, persistence, prior = served.prediction, served.persistence, served.prior
            if not (
                (prediction is None or fits(prediction))
                and (persistence is None or fits(persistence))
                and (prior is None or fits(prior))
            ):
                raise RecordRejected("label_type", f"what was served does not fit the task {self._task!r}")


def _all_boolean(answers: Iterable[Served]) -> bool:
    for served in answers:
        if not (
            type(served.prediction) in BOOLEAN and type(served.persistence) in BOOLEAN and type(served.prior) in BOOLEAN
        ):
            return False
    return True


class Repeats:
    """How often a label on request is learned again after the first time."""

    def __init__(self, pipeline: Pipeline) -> None:
        labelling = pipeline.labelling
        self.most = labelling.learn_times - 1 if labelling and pipeline.task in ("binary", "multiclass") else 0
        self._of_sources = {name: times - 1 for name, times in pipeline.labels.source_times_max.items()}

    def of(self, source: str, *, requested: bool) -> int:
        """Of a label by this source."""
        if not requested or not self.most:
            return 0
        return min([self.most, *(most for name, most in self._of_sources.items() if source.startswith(name))])


def teach(learner: Any, features: dict[str, Any], label: Any, repeats: int) -> None:
    """Learn one example, and again; raises as the first time does."""
    learner.learn(features, label)
    for _ in range(repeats):
        try:
            learner.learn(features, label)
        except Exception:  # noqa: BLE001 - it was learned, if not as often
            return


class Pupil:
    """One model that learns. An example after which a weight would not be finite is not learned: what a model is depends on
    its base and the examples alone, not on when somebody looked at it or when a snapshot was made.
    """

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
        self._repeats = Repeats(pipeline)
        self._extra_allowed = extra_allowed
        self.base = base
        self.start = start
        self.learned = learned
        self._keep(data)
        self._use(data)

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

    def _use(self, data: bytes) -> None:
        self._model = load_model(data, extra_allowed=self._extra_allowed)
        self._learner = compile_learner(self._model, self._pipeline.task)
        self._bound = TreeBound(self._model, self._pipeline.limits.tree_leaves_max)
        self._weights = WeightWatch(self._model)

    @property
    def model(self) -> Any:
        self._learner.sync()
        return self._model

    def learn(self, example: Example) -> bool:
        """Learn one example; true if a tree stopped growing now.

        Raises UpdateRefused, and the model is then as it was before; or whatever the model raises.
        """
        learner = self._learner
        try:
            if example.requested:
                self._teach(example)
            else:
                learner.learn(example.features, example.label)
        except UpdateRefused:
            raise
        except Exception:
            if not self._broken():
                self._since_good.append(example)  # it may have learned one half of it
            raise
        if not learner.refuses and self._broken():
            raise UpdateRefused("a weight would not be finite")
        since_good = self._since_good
        since_good.append(example)
        stopped = self._learned()
        if len(since_good) >= GOOD_EVERY:
            self._keep(dump_model(self.model))
        return stopped

    def learn_block(self, examples: Sequence[Example]) -> bool:
        """Learn examples in order, if that can be done at once; False: none was learned, `learn` them singly."""
        if self._repeats.most and any(example.requested for example in examples):
            return False
        if not self._learner.learn_block([(example.features, example.label) for example in examples]):
            return False
        self.learned += len(examples)
        self._since_good += examples
        if len(self._since_good) >= GOOD_EVERY:
            self._keep(dump_model(self.model))
        return True

    def _learned(self) -> bool:
        self.learned += 1
        return self.learned % BOUND_EVERY == 0 and self._bound.enforce()

    def _teach(self, example: Example) -> None:
        repeats = self._repeats.of(example.label_source, requested=example.requested)
        teach(self._learner, example.features, example.label, repeats)

    def dump(self) -> bytes:
        """The model's bytes."""
        data = dump_model(self.model)
        self._keep(data)
        return data

    def _keep(self, good: bytes) -> None:
        """Should an example break a weight, learning starts again from here."""
        self._good, self._good_learned = good, self.learned
        self._since_good: list[Example] = []

    def _broken(self) -> bool:
        """Whether a weight is not finite now. The model is then built again, without the example that did it."""
        if self._learner.refuses or self._weights.finite():
            return False
        self.learned = self._good_learned
        self._use(self._good)
        for example in self._since_good:
            try:
                self._teach(example)
            except Exception:  # noqa: BLE001 - as it did the first time
                continue
            self._learned()
        self._keep(dump_model(self.model))  # where one is bad there may be more: the next one costs less
        return True


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
