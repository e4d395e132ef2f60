"""The learn stage as a pure step: examples in, better models and honest figures out.

Each example is first judged (what was served, beside what two baselines knew at that moment), then learned by every slot.
The state after an example depends only on the examples before it, and on the commands between them, so a crash replays from
the last snapshot to the same models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from stream.core.baselines import Baselines
from stream.core.digest import state_digest
from stream.core.distributions import Distributions
from stream.core.drifting import DriftWatch
from stream.core.evaluating import Evaluation
from stream.core.examples import LEARNED, ExampleParser, Follower, Pupil
from stream.core.forms import encoded
from stream.core.lean_pickle import load_model
from stream.core.model_bases import ModelBase
from stream.core.objectives import DELAYED, Delays
from stream.core.records import Record
from stream.core.scoring import dead_letter
from stream.core.segments import segment_values, told_apart
from stream.core.slots import Command, Slots, SlotsState
from stream.core.snapshot import Sealed, SnapshotHeader, seal, unseal
from stream.core.sources import LabelSources
from stream.core.unbiased import UnbiasedFigures
from stream.errors import DriftloopError, RecordRejected, SnapshotRefused, UpdateRefused
from stream.messages import CHAMPION, PREVIOUS, Example, LabelValue, Served
from stream.pipeline import Pipeline
from stream.ports import LearnerSnapshot, Outgoing
from stream.topics import TopicNames

__all__ = ["LearnState", "LearnStep", "Serving", "open_for_serving"]

SEGMENT_WINDOW = 200  # labels in the sliding window of a segment: every snapshot carries it


class Serving(msgspec.Struct, frozen=True):
    """What a scorer needs beside the model: what the baselines know, how wide the error is, whether a drift is on."""

    persistence: LabelValue | None = None
    prior: LabelValue | None = None
    prior_probabilities: dict[str, float] | None = None
    half_width: float | None = None
    drifting: bool = False


class LearnState(msgspec.Struct):
    """Everything beside the models that a champion's snapshot carries."""

    serving: Serving
    evaluation: bytes
    baselines: bytes
    high_water: dict[int, int]  # score partition -> sequence of its last example
    counts: dict[str, int]
    segments: dict[str, dict[str, bytes]] = {}  # segment -> value -> evaluation
    drift: bytes = b""
    start: int = 0  # offset at which the champion's base begins
    learned: int = 0
    slots: SlotsState = msgspec.field(default_factory=SlotsState)
    sources: dict[str, list[int]] = {}
    unbiased: bytes = b""
    delays: Delays = msgspec.field(default_factory=Delays)
    distributions: bytes = b""


class SlotState(msgspec.Struct):
    """What the snapshot of another slot carries beside its model."""

    start: int
    learned: int


class LearnStep:
    """The state of one model shard and the step over its examples.

    Args:
        start: offset of the first example that the pipeline's fresh model learns.
        window: labels in the sliding window of the figures.
    """

    def __init__(
        self, pipeline: Pipeline, *, shard: int, keys: Sequence[bytes], configuration: str, window: int = 1_000,
        extra_allowed: frozenset[str] = frozenset(), start: int = 0,
    ) -> None:  # fmt: skip
        self._pipeline = pipeline
        self._shard = shard
        self._keys = list(keys)
        self._configuration = configuration
        self._extra_allowed = extra_allowed
        self._parser = ExampleParser(pipeline)
        self._evaluation = Evaluation(pipeline.task, window, pipeline.alert_share)
        self._segments: dict[str, dict[str, Evaluation]] = {name: {} for name in pipeline.segments}
        self._drift = DriftWatch(pipeline, shard)
        self.watches_anew = False  # the snapshot's monitors watch other things, or are another version's
        self._distributions = _distributions(pipeline)
        self._baselines = Baselines(pipeline.task)
        self._delays = Delays()
        self._sources = LabelSources()
        self._unbiased: UnbiasedFigures | None = None
        if pipeline.labelling:
            self._unbiased = UnbiasedFigures(pipeline.task, window, pipeline.alert_share)
        self._high_water: dict[int, int] = {}
        self.counts: dict[str, int] = {}
        self.offset = start  # of the next example
        self._at_ms = 0  # timestamp of the last one
        self._waiting: list[tuple[Example, Record | Outgoing, int, int]] = []  # judged, to be learned within this step
        self.first = ModelBase(pipeline=pipeline.name, shard=shard, offset=start, model=pipeline.build())
        self.slots = Slots(pipeline, shard, Pupil.of(pipeline, self.first, extra_allowed))

    @property
    def model(self) -> Any:
        return self.slots.champion.model

    @property
    def base(self) -> str:
        return self.slots.champion.base

    @property
    def version(self) -> str:
        return f"{self.base}@{self.offset}"

    def restore(self, snapshots: Mapping[str, bytes]) -> None:
        """Go on from the slots' snapshots. Raises SnapshotRefused."""
        sealed = self._unseal(snapshots[CHAMPION])
        state = msgspec.msgpack.decode(sealed.state, type=LearnState)
        share = self._pipeline.alert_share
        self._evaluation = Evaluation.from_state(state.evaluation, share)
        self._segments = {
            name: {value: Evaluation.from_state(its, share) for value, its in state.segments.get(name, {}).items()}
            for name in self._pipeline.segments
        }
        self._drift = DriftWatch(self._pipeline, self._shard)
        if state.drift:
            self.watches_anew = not self._drift.restore(state.drift, self._extra_allowed)
        self._distributions = _distributions(self._pipeline)
        if state.distributions:
            self._distributions.restore(state.distributions)
        self._baselines = Baselines.from_state(state.baselines)
        self._delays = state.delays
        self._sources = LabelSources(state.sources)
        if self._unbiased is not None and state.unbiased:
            self._unbiased.restore(state.unbiased)
        self._high_water = state.high_water
        self.counts = state.counts
        self.offset = sealed.header.offset
        self.slots = Slots(self._pipeline, self._shard, self._pupil(sealed, state.start, state.learned))
        self.slots.state = state.slots
        for slot, data in snapshots.items():
            if slot != CHAMPION:
                other = self._unseal(data)
                its = msgspec.msgpack.decode(other.state, type=SlotState)
                if other.header.offset != self.offset:
                    raise SnapshotRefused(
                        "snapshot_damaged", f"{slot} has learned up to {other.header.offset}, not {self.offset}"
                    )
                self.slots.pupils[slot] = self._pupil(other, its.start, its.learned)

    def _unseal(self, data: bytes) -> Sealed:
        sealed = unseal(data, self._keys)
        _check_origin(sealed.header, self._pipeline.name, self._shard, self._configuration)
        return sealed

    def _pupil(self, sealed: Sealed, start: int, learned: int) -> Pupil:
        return Pupil(
            self._pipeline,
            sealed.model,
            base=sealed.header.base,
            start=start,
            learned=learned,
            extra_allowed=self._extra_allowed,
        )

    # -- the step --------------------------------------------------------------------------------------------------

    def step(self, records: Sequence[Record]) -> list[Outgoing]:
        """Judge and learn; returns drifts and dead letters, the same for the same records."""
        out: list[Outgoing] = []
        parse = self._parser.parse
        for record in records:
            self.offset, self._at_ms = record.offset + 1, record.timestamp_ms
            try:
                self._example(parse(record), record, out)
            except RecordRejected as rejected:
                out.append(self._rejected(record, rejected))
        self._learn_waiting(out)
        return out

    def step_in_process(self, examples: Sequence[Outgoing]) -> list[Outgoing]:
        """`step` over examples that a score step has just handed over as objects (`core/forms.py`), at the next offsets."""
        out: list[Outgoing] = []
        check = self._parser.check
        for outgoing in examples:
            example: Any = outgoing.value
            self.offset += 1
            self._at_ms = outgoing.timestamp_ms
            try:
                check(example)
                self._example(example, outgoing, out)
            except RecordRejected as rejected:
                out.append(self._rejected(outgoing, rejected))
        self._learn_waiting(out)
        return out

    def _rejected(self, came: Record | Outgoing, rejected: RecordRejected, offset: int = -1) -> Outgoing:
        self._count("dead_letters")
        self._count(f"dead_letters.{rejected.code}")
        if isinstance(came, Outgoing):
            offset = self.offset - 1 if offset < 0 else offset
            came = Record("examples", 0, offset, came.timestamp_ms, came.key, encoded(came).value)
        return dead_letter(came, rejected, "learn", TopicNames.of(self._pipeline))

    def _example(self, example: Example, came: Record | Outgoing, out: list[Outgoing]) -> None:
        """One example, and as what it came."""
        partition, sequence, timing = example.partition, example.sequence, example.timing
        at_ms = self._at_ms
        counts = self.counts
        seen = self._high_water.get(partition, 0)
        if sequence <= seen:
            self._count("repeats")
            return
        if sequence > seen + 1:
            self._count("gaps")
        self._high_water[partition] = sequence
        counts[timing] = counts.get(timing, 0) + 1
        if timing in DELAYED:
            self._delays.add(at_ms - example.came_at_ms)
        self._sources.update(example)
        if timing not in LEARNED:
            return
        served = example.served.get(example.slot)
        if served is not None:
            self._evaluation.update(example.label, served)
            if self._unbiased is not None:
                self._unbiased.take(example, served)
            if self._segments:
                self._judge_segments(example, served)
        champion = example.served.get(CHAMPION)
        if champion is not None and champion.failed:
            champion = served
        if champion is not None:
            drift = self._drift.update(example, champion, self.offset - 1, at_ms)
            if drift is not None:
                self._count("drifts")
                key = self._pipeline.name.encode()
                out.append(Outgoing("drifts", 0, key, msgspec.json.encode(drift), at_ms))
        self._distributions.add(example.features, example.occurred_at_ms)
        self._baselines.update(example.label)
        if self.slots.state.trial is None and len(self.slots.pupils) == 1:
            self._waiting.append((example, came, self.offset - 1, len(out)))
            return
        if self.slots.state.trial is not None:
            self.slots.judge(example, self.offset, at_ms)
        self._learn_all(example)

    def _judge_segments(self, example: Example, served: Served) -> None:
        for segment, value in segment_values(self._pipeline.segments, example.features):
            judged = self._segments[segment]
            value = told_apart(value, judged, self._pipeline.segment_values_max)
            if value not in judged:
                judged[value] = Evaluation(self._pipeline.task, SEGMENT_WINDOW, self._pipeline.alert_share)
            judged[value].update(example.label, served)

    def _learn_all(self, example: Example) -> None:
        if len(self.slots.pupils) > 1:
            for slot, pupil in self.slots.others():
                try:
                    pupil.learn(example)
                except Exception as error:  # noqa: BLE001 - it must not disturb the champion; the judge sees its answers
                    refused = "updates_refused" if isinstance(error, UpdateRefused) else "learn_failed"
                    self._count(f"{slot}.{refused}")
        self._learn(example)

    def _learn_waiting(self, out: list[Outgoing]) -> None:
        """A champion alone learns a whole batch at once: nothing that is judged in between looks at it, and a processor does
        sooner what it has just done.
        """
        waiting, self._waiting = self._waiting, []
        if len(waiting) > 1 and self.slots.champion.learn_block([example for example, *_ in waiting]):
            self.counts["learned"] = self.counts.get("learned", 0) + len(waiting)
            return
        letters = 0
        for example, came, offset, at in waiting:
            try:
                self._learn(example)
            except RecordRejected as rejected:
                out.insert(at + letters, self._rejected(came, rejected, offset))  # where its turn was
                letters += 1

    def _learn(self, example: Example) -> None:
        champion = self.slots.champion
        try:
            if champion.learn(example):
                self._count("growth_stopped")
        except UpdateRefused:
            self._count("updates_refused")
            return
        except Exception as error:
            raise RecordRejected(
                "learn_failed", f"the model raised {type(error).__name__} while learning this example"
            ) from error
        self._count("learned")

    def _count(self, name: str) -> int:
        self.counts[name] = value = self.counts.get(name, 0) + 1
        return value

    def _sorted_counts(self) -> dict[str, int]:
        """What was counted first depends on how examples were cut into batches; what is written must not."""
        return dict(sorted(self.counts.items()))

    # -- candidates ------------------------------------------------------------------------------------------------

    def follower(self, base: ModelBase) -> Follower:
        """A candidate that catches up; hand it to `command` once its offset is this step's."""
        return Follower(self._pipeline, base, self._extra_allowed)

    def command(self, command: Command, candidate: Follower | None = None) -> None:
        """Carry out a command between two examples."""
        if candidate is not None and (candidate.offset, candidate.high_water) != (self.offset, self._high_water):
            raise DriftloopError(
                f"the candidate has caught up to {candidate.version}, the live model is {self.version}"
            )
        self.slots.command(command, self.offset, candidate.pupil if candidate is not None else None)

    # -- snapshots -------------------------------------------------------------------------------------------------

    def snapshot(self) -> LearnerSnapshot:
        """Signed snapshots of every slot, and the status (JSON) that goes with them."""
        models = {slot: pupil.dump() for slot, pupil in self.slots.pupils.items()}
        limit = self._pipeline.limits.snapshot_bytes_max
        for slot in [slot for slot, data in models.items() if slot != CHAMPION and len(data) > limit]:
            words = f"it has grown to {len(models.pop(slot))} bytes, limits.snapshot_bytes_max is {limit}"
            self.slots.drop(slot, "size", words, self.offset, self._at_ms)
        if len(models[CHAMPION]) > limit:
            words = f"the model has grown to {len(models[CHAMPION])} bytes, limits.snapshot_bytes_max is {limit}"
            trial = self.slots.trial
            if PREVIOUS not in models or trial is None or trial.stage != "probation":
                raise DriftloopError(f"{words}: bound the model, or raise the limit")
            self.slots.drop(CHAMPION, "size", words, self.offset, self._at_ms)
            models = {CHAMPION: models[PREVIOUS]}
        size = sum(map(len, models.values()))
        champion = self.slots.champion
        digest = state_digest(champion.model)
        state = LearnState(
            self.serving(),
            self._evaluation.to_state(),
            self._baselines.to_state(),
            self._high_water,
            self._sorted_counts(),
            {name: {value: its.to_state() for value, its in judged.items()} for name, judged in self._segments.items()},
            self._drift.to_state(),
            champion.start,
            champion.learned,
            self.slots.state,
            self._sources.counts,
            self._unbiased.to_state() if self._unbiased is not None else b"",
            self._delays,
            self._distributions.to_state(),
        )
        sealed = {CHAMPION: self._seal(champion, models[CHAMPION], digest, msgspec.msgpack.encode(state))}
        for slot, pupil in self.slots.others():
            its = msgspec.msgpack.encode(SlotState(pupil.start, pupil.learned))
            sealed[slot] = self._seal(pupil, models[slot], state_digest(pupil.model), its)
        self.slots.changed = False
        roster = msgspec.json.encode(self.slots.roster(self.offset))
        return LearnerSnapshot(self.offset, roster, sealed, self._status(digest, size))

    def _seal(self, pupil: Pupil, model: bytes, digest: str, state: bytes) -> bytes:
        header = SnapshotHeader(
            pipeline=self._pipeline.name,
            base=pupil.base,
            offset=self.offset,
            shard=self._shard,
            configuration=self._configuration,
            digest=digest,
        )
        return seal(header, model, state, self._keys[0])

    def figures(self) -> dict[str, Any]:
        """How good the served predictions were, overall and in the sliding window."""
        figures = self._evaluation.report()
        if self._unbiased is not None:
            figures["unbiased"] = self._unbiased.report()
        return figures

    def recent_figures(self) -> dict[str, Any]:
        """The part `window` of the figures."""
        return self._evaluation.recent()

    def serving(self) -> Serving:
        """What a scorer needs beside the model."""
        baselines = self._baselines
        return Serving(
            baselines.persistence,
            baselines.prior,
            baselines.prior_probabilities,
            self._evaluation.interval_half_width() if self._pipeline.task == "regression" else None,
            self._drift.lasts,
        )

    def _status(self, digest: str, size_bytes: int) -> bytes:
        return msgspec.json.encode(
            {
                "version": self.version,
                "digest": digest,
                "model_size_bytes": size_bytes,
                "counts": self._sorted_counts(),
                "metrics": self.figures(),
                "segments": {
                    name: {value: its.report() for value, its in judged.items()}
                    for name, judged in self._segments.items()
                },
                "drift": self._drift.report(),
                "label_sources": self._sources.report(),
                "label_delay_ms": self._delays.report(),
                "features": self._distributions.report(),
                **self.slots.report(self.offset),
            }
        )


def _distributions(pipeline: Pipeline) -> Distributions:
    windows = {feature.name: feature.window_ms for feature in pipeline.entity_features if feature.window}
    return Distributions({name: windows.get(name, 0) for name in pipeline.feature_names})


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
) -> tuple[SnapshotHeader, Any, Serving | None]:
    """What a scorer takes from a snapshot: header, model, and, of a champion, what the baselines knew.

    Raises SnapshotRefused.
    """
    sealed = unseal(data, list(keys))
    _check_origin(sealed.header, pipeline, shard, configuration)
    model = load_model(sealed.model, extra_allowed=extra_allowed)
    return sealed.header, model, _serving(sealed.state)


class _ServingOnly(msgspec.Struct):
    serving: Serving | None = None


def _serving(state: bytes) -> Serving | None:
    """The rest of the state is not looked at."""
    return msgspec.msgpack.decode(state, type=_ServingOnly).serving
