"""The learn stage as a pure step: examples in, a better model and honest figures out.

Each example is first judged (what was served, beside what two baselines knew at that moment), then learned. The state
after an example depends only on the examples before it, so a crash replays from the last snapshot to the same model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from stream.core.accelerating import compile_learner
from stream.core.digest import state_digest
from stream.core.drifting import DriftWatch, segment_values, told_apart
from stream.core.evaluating import Baselines, Evaluation
from stream.core.guarding import TreeBound, first_not_finite
from stream.core.lean_pickle import dump_model, load_model
from stream.core.records import Record
from stream.core.scoring import dead_letter
from stream.core.snapshot import Sealed, SnapshotHeader, seal, unseal
from stream.errors import DriftloopError, RecordRejected, SnapshotRefused, UpdateRefused
from stream.messages import Example, LabelValue, Served
from stream.pipeline import Pipeline, label_fits
from stream.ports import Outgoing
from stream.topics import TopicNames

__all__ = ["LearnState", "LearnStep", "Serving", "base_of"]

LEARNED = frozenset(("on_time", "early", "default"))
BOUND_EVERY = 100  # examples between two looks at the size of the trees
CHAMPION = "champion"
GOOD_EVERY = 5_000  # examples after which a model is known to be good, if no snapshot came before
SEGMENT_WINDOW = 200  # labels in the sliding window of a segment: every snapshot carries it

_decode_example = msgspec.json.Decoder(Example).decode


class Serving(msgspec.Struct, frozen=True):
    """What a scorer needs beside the model: what the baselines know, and how wide the error is."""

    persistence: LabelValue | None = None
    prior: LabelValue | None = None
    prior_probabilities: dict[str, float] | None = None
    half_width: float | None = None


class LearnState(msgspec.Struct):
    """Everything beside the model that a snapshot carries."""

    serving: Serving
    evaluation: bytes
    baselines: bytes
    high_water: dict[int, int]  # score partition -> sequence of its last example
    counts: dict[str, int]
    segments: dict[str, dict[str, bytes]] = {}  # segment -> value -> evaluation
    drift: bytes = b""


def base_of(model: Any) -> str:
    """The name of a base model: its content, 8 hex digits of its state digest."""
    return state_digest(model)[:8]


class LearnStep:
    """The state of one model shard and the step over its examples."""

    def __init__(
        self, pipeline: Pipeline, *, shard: int, keys: Sequence[bytes], configuration: str, window: int = 1_000,
        extra_allowed: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self._pipeline = pipeline
        self._shard = shard
        self._keys = list(keys)
        self._configuration = configuration
        self._names = pipeline.feature_names
        self._extra_allowed = extra_allowed
        self._evaluation = Evaluation(pipeline.task, window, pipeline.alert_share)
        self._segments: dict[str, dict[str, Evaluation]] = {name: {} for name in pipeline.segments}
        self._drift = DriftWatch(pipeline, shard)
        self._baselines = Baselines(pipeline.task)
        self._high_water: dict[int, int] = {}
        self.counts: dict[str, int] = {}
        self.offset = 0  # of the next example
        model = pipeline.build()
        self.base = base_of(model)
        self._good = dump_model(model)
        self._use(load_model(self._good, extra_allowed=extra_allowed))
        self._since_good: list[Record] = []

    def _use(self, model: Any) -> None:
        self._model = model
        self._learner = compile_learner(model, self._pipeline.task)
        self._bound = TreeBound(model, self._pipeline.limits.tree_leaves_max)

    @property
    def model(self) -> Any:
        self._learner.sync()
        return self._model

    @property
    def version(self) -> str:
        return f"{self.base}@{self.offset}"

    def restore(self, data: bytes) -> None:
        """Go on from a snapshot. Raises SnapshotRefused."""
        sealed = unseal(data, self._keys)
        header = sealed.header
        _check_origin(header, self._pipeline.name, self._shard, self._configuration)
        self._use(load_model(sealed.model, extra_allowed=self._extra_allowed))
        state = _state_of(sealed)
        share = self._pipeline.alert_share
        self._evaluation = Evaluation.from_state(state.evaluation, share)
        self._segments = {
            name: {value: Evaluation.from_state(its, share) for value, its in state.segments.get(name, {}).items()}
            for name in self._pipeline.segments
        }
        self._drift = DriftWatch(self._pipeline, self._shard)
        if state.drift:
            self._drift.restore(state.drift, self._extra_allowed)
        self._baselines = Baselines.from_state(state.baselines)
        self._high_water = state.high_water
        self.counts = state.counts
        self.base, self.offset = header.base, header.offset
        self._keep(sealed.model)

    # -- the step --------------------------------------------------------------------------------------------------

    def step(self, records: Sequence[Record]) -> list[Outgoing]:
        """Judge and learn; returns drifts and dead letters, the same for the same records."""
        out: list[Outgoing] = []
        for record in records:
            try:
                self._example(self._parse(record), record, out)
            except RecordRejected as rejected:
                self._count("dead_letters")
                self._count(f"dead_letters.{rejected.code}")
                out.append(dead_letter(record, rejected, "learn", TopicNames.of(self._pipeline)))
            self.offset = record.offset + 1
        return out

    def _parse(self, record: Record) -> Example:
        if not record.value:
            raise RecordRejected("value_empty", "the record has no value")
        try:
            example = _decode_example(record.value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RecordRejected("example_invalid", "not an example as schemas/examples.json describes it") from None
        if not label_fits(self._pipeline.task, example.label):
            raise RecordRejected("label_type", f"the label does not fit the task {self._pipeline.task!r}")
        served = example.served.get(CHAMPION)
        if served is not None and not _fits(self._pipeline.task, served):
            raise RecordRejected("label_type", f"what was served does not fit the task {self._pipeline.task!r}")
        if tuple(example.features) != self._names:
            raise RecordRejected("features_differ", "the example's features are not those that the pipeline declares")
        return example

    def _example(self, example: Example, record: Record, out: list[Outgoing]) -> None:
        seen = self._high_water.get(example.partition, 0)
        if example.sequence <= seen:
            self._count("repeats")
            return
        if example.sequence > seen + 1:
            self._count("gaps")
        self._high_water[example.partition] = example.sequence
        self._count(example.timing)
        if example.timing not in LEARNED:
            return
        served = example.served.get(CHAMPION)
        if served is not None:
            self._evaluation.update(example.label, served)
            if self._segments:
                self._judge_segments(example, served)
            drift = self._drift.update(example, served, record.offset, record.timestamp_ms)
            if drift is not None:
                self._count("drifts")
                key = self._pipeline.name.encode()
                out.append(Outgoing("drifts", 0, key, msgspec.json.encode(drift), record.timestamp_ms))
        self._baselines.update(example.label)
        self._since_good.append(record)
        self._learn(example)
        if len(self._since_good) >= GOOD_EVERY:
            self._mend()
            self._keep(dump_model(self.model))

    def _judge_segments(self, example: Example, served: Served) -> None:
        for segment, value in segment_values(self._pipeline.segments, example.features):
            judged = self._segments[segment]
            value = told_apart(value, judged, self._pipeline.segment_values_max)
            if value not in judged:
                judged[value] = Evaluation(self._pipeline.task, SEGMENT_WINDOW, self._pipeline.alert_share)
            judged[value].update(example.label, served)

    def _learn(self, example: Example) -> None:
        try:
            self._learner.learn(example.features, example.label)
        except UpdateRefused:
            self._count("updates_refused")
            return
        except Exception as error:
            raise RecordRejected(
                "learn_failed", f"the model raised {type(error).__name__} while learning this example"
            ) from error
        learned = self._count("learned")
        if learned % BOUND_EVERY == 0 and self._bound.enforce():
            self._count("growth_stopped")

    def _count(self, name: str) -> int:
        self.counts[name] = value = self.counts.get(name, 0) + 1
        return value

    # -- snapshots -------------------------------------------------------------------------------------------------

    def snapshot(self) -> tuple[bytes, bytes]:
        """The signed snapshot and the status (JSON) that goes with it."""
        self._mend()
        model = dump_model(self.model)
        if len(model) > self._pipeline.limits.snapshot_bytes_max:
            raise DriftloopError(
                f"the model has grown to {len(model)} bytes, limits.snapshot_bytes_max is "
                f"{self._pipeline.limits.snapshot_bytes_max}: bound the model, or raise the limit"
            )
        self._keep(model)
        digest = state_digest(self._model)
        state = LearnState(
            self.serving(),
            self._evaluation.to_state(),
            self._baselines.to_state(),
            self._high_water,
            self.counts,
            {name: {value: its.to_state() for value, its in judged.items()} for name, judged in self._segments.items()},
            self._drift.to_state(),
        )
        header = SnapshotHeader(
            pipeline=self._pipeline.name,
            base=self.base,
            offset=self.offset,
            shard=self._shard,
            configuration=self._configuration,
            digest=digest,
        )
        sealed = seal(header, model, msgspec.msgpack.encode(state), self._keys[0])
        return sealed, self._status(digest, len(model))

    def _keep(self, good: bytes) -> None:
        """All weights of this model are finite: should they not be later, learning starts again from here."""
        self._good, self._since_good = good, []

    def _mend(self) -> None:
        """A weight that is not finite: go back to the last good model and refuse the examples that break it."""
        if first_not_finite(self.model) is None:
            return
        self._use(load_model(self._good, extra_allowed=self._extra_allowed))
        for example in map(self._parse, self._since_good):
            before = dump_model(self.model)
            try:
                self._learner.learn(example.features, example.label)
                learned = True
            except Exception:  # noqa: BLE001 - one that failed the first time fails again, and was counted then
                learned = False
            if first_not_finite(self.model) is not None:
                self._use(load_model(before, extra_allowed=self._extra_allowed))
                if learned:
                    self._count("updates_refused")
                    self.counts["learned"] -= 1

    def figures(self) -> dict[str, Any]:
        """How good the served predictions were, overall and in the sliding window."""
        return self._evaluation.report()

    def serving(self) -> Serving:
        """What a scorer needs beside the model."""
        baselines = self._baselines
        return Serving(
            baselines.persistence,
            baselines.prior,
            baselines.prior_probabilities,
            self._evaluation.interval_half_width() if self._pipeline.task == "regression" else None,
        )

    def _status(self, digest: str, size_bytes: int) -> bytes:
        return msgspec.json.encode(
            {
                "version": self.version,
                "digest": digest,
                "model_size_bytes": size_bytes,
                "counts": self.counts,
                "metrics": self.figures(),
                "segments": {
                    name: {value: its.report() for value, its in judged.items()}
                    for name, judged in self._segments.items()
                },
                "drift": self._drift.report(),
            }
        )


def _fits(task: Any, served: Served) -> bool:
    values = (served.prediction, served.persistence, served.prior)
    return all(value is None or label_fits(task, value) for value in values)


def _state_of(sealed: Sealed) -> LearnState:
    return msgspec.msgpack.decode(sealed.state, type=LearnState)


def _check_origin(header: SnapshotHeader, pipeline: str, shard: int, configuration: str) -> None:
    if header.pipeline != pipeline or header.shard != shard:
        raise SnapshotRefused(
            "snapshot_of_another_pipeline", f"it belongs to {header.pipeline!r}, shard {header.shard}"
        )
    if header.configuration != configuration:
        raise SnapshotRefused(
            "snapshot_of_another_configuration",
            f"made with configuration {header.configuration}, this is {configuration}",
        )


def open_for_serving(
    data: bytes,
    keys: Sequence[bytes],
    *,
    pipeline: str,
    shard: int,
    configuration: str,
    extra_allowed: frozenset[str] = frozenset(),
) -> tuple[SnapshotHeader, Any, Serving]:
    """What a scorer takes from a snapshot: header, model, and what the baselines knew. Raises SnapshotRefused."""
    sealed = unseal(data, list(keys))
    _check_origin(sealed.header, pipeline, shard, configuration)
    return sealed.header, load_model(sealed.model, extra_allowed=extra_allowed), _state_of(sealed).serving
