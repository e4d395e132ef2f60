"""Was this prediction really made by the model that it names? Build that model again, score again, compare.

A model is its base's file and the examples from there up to the version's offset. The features are those that were frozen
when the event came: in the event's example, or, as long as no label has come, in Redis.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from stream.batch.evidence import Evidence, LiveEvidence, Place, opened_base
from stream.batch.verdicts import Case, Position, Verified, place_text, position_of
from stream.batch.witnesses import Progress, Witnesses, told
from stream.core.rebuilding import (
    Difference,
    Rebuilt,
    Witness,
    answer_again,
    clipped_again,
    first_difference,
    half_widths,
    rebuild,
)
from stream.core.records import Record
from stream.errors import (
    RecordRejected,
    SnapshotRefused,
    StartupRefused,
    Unavailable,
)
from stream.messages import Prediction
from stream.pipeline import Pipeline
from stream.settings import Settings
from stream.topics import TopicNames

__all__ = ["Position", "Verified", "position_of", "verify", "verify_all", "verify_with"]

VERSION = re.compile(r"([0-9a-f]+)@(\d+)")

_decode = msgspec.json.Decoder(Prediction).decode


def verify(
    settings: Settings,
    pipeline: Pipeline,
    topic: Literal["predictions", "events"],
    partition: int,
    offset: int,
    extra_allowed: frozenset[str] = frozenset(),
) -> Verified:
    """One prediction, by its own position or by that of its event. Raises Unavailable, ConfigurationError."""
    return verify_all(settings, pipeline, [Position(topic, partition, offset)], extra_allowed)[0]


def verify_all(
    settings: Settings,
    pipeline: Pipeline,
    positions: Iterable[Position],
    extra_allowed: frozenset[str] = frozenset(),
    on_progress: Progress = lambda *_: None,
) -> list[Verified]:
    """Several: examples are read once for all versions of a base. Raises Unavailable, ConfigurationError."""
    evidence = LiveEvidence(settings, pipeline)
    return verify_with(
        evidence, pipeline, positions, settings.signing(), extra_allowed, settings.metrics_window, on_progress
    )


def verify_with(
    evidence: Evidence,
    pipeline: Pipeline,
    positions: Iterable[Position],
    keys: Sequence[bytes],
    extra_allowed: frozenset[str] = frozenset(),
    window: int = 1_000,
    on_progress: Progress = lambda *_: None,
) -> list[Verified]:
    """As `verify_all`, with evidence from anywhere."""
    run = _Verification(evidence, pipeline, keys, extra_allowed, window, on_progress)
    return run.of([Case(position, run.names) for position in positions])


class _Verification:
    def __init__(
        self,
        evidence: Evidence,
        pipeline: Pipeline,
        keys: Sequence[bytes],
        extra_allowed: frozenset[str],
        window: int,
        on_progress: Progress,
    ) -> None:
        self.names = TopicNames.of(pipeline)
        self._evidence = evidence
        self._pipeline = pipeline
        self._keys = keys
        self._extra_allowed = extra_allowed
        self._window = window
        self._on_progress = on_progress

    def of(self, cases: list[Case]) -> list[Verified]:
        started_s = time.perf_counter()
        self._find_predictions(cases)
        Witnesses(self._evidence, self._pipeline, self._on_progress).find([case for case in cases if not case.done])
        by_base: dict[str, list[Case]] = defaultdict(list)
        for case in cases:
            if not case.done:
                by_base[case.version[0]].append(case)
        widths = self._half_widths([case for case in cases if not case.done])
        for name, its in by_base.items():
            self._score(name, its, widths)
        for case in cases:
            case.found.seconds = round(time.perf_counter() - started_s, 3)
        return [case.found for case in cases]

    # -- the prediction ----------------------------------------------------------------------------------------------

    def _find_predictions(self, cases: Sequence[Case]) -> None:
        places: dict[str, list[Place]] = {"predictions": [], "events": []}
        for case in cases:
            places[case.position.topic].append(case.position[1:])
        predictions = self._evidence.records("predictions", sorted(places["predictions"]))
        events = self._evidence.records("events", sorted(places["events"]))
        for case in cases:
            place = case.position[1:]
            if case.position.topic == "predictions":
                case.record = predictions.get(place)
            else:
                case.record = self._evidence.answer(events.get(place), *place)
            if case.record is None:
                case.cannot("there is no prediction: Kafka has deleted it, or what came was a dead letter")
                continue
            try:
                self._read(case, case.record)
            except (msgspec.DecodeError, UnicodeDecodeError):
                case.cannot("the record is no prediction as schemas/predictions.json describes it")
        wanted = {(c.live.source.partition, c.live.source.offset) for c in cases if c.live is not None and not c.done}
        events |= self._evidence.records("events", sorted(wanted - events.keys()))
        for case in cases:
            if case.live is not None:
                case.event = events.get((case.live.source.partition, case.live.source.offset))

    def _read(self, case: Case, record: Record) -> None:
        case.live = live = _decode(record.value or b"")
        its, source = case.found, live.source
        its.event_id, its.version, its.slot = live.event_id, live.model.version, live.model.slot
        its.event = place_text(self.names, "events", source.partition, source.offset)
        origin = source if live.duplicate_of is None else live.duplicate_of
        case.origin = origin.partition, origin.offset
        if live.duplicate_of is not None:
            its.duplicate_of = place_text(self.names, "events", *case.origin)
        if source.topic != self.names.events or source.partition != record.partition:
            said = f"{source.topic}-{source.partition}"
            case.differs(Difference("source", said, f"{self.names.events}-{record.partition}"))
        match = VERSION.fullmatch(live.model.version)
        if match is None:
            case.cannot(f"its model {live.model.version!r} is no version of ours")
        else:
            case.version = match[1], int(match[2])

    # -- the model ---------------------------------------------------------------------------------------------------

    def _half_widths(self, cases: Sequence[Case]) -> Mapping[int, float | None]:
        """Of a regression: from all labels of the state, not from the model."""
        offsets = [case.version[1] for case in cases]
        if self._pipeline.task != "regression" or not cases:
            return {}
        start, end = self._evidence.examples_start(0), max(offsets)
        try:
            examples = self._evidence.examples(0, start, end) if end > start else iter(())
            return half_widths(
                self._pipeline, examples, [offset for offset in offsets if offset >= start], self._window
            )
        except StartupRefused:
            return {}

    def _score(self, name: str, cases: Sequence[Case], widths: Mapping[int, float | None]) -> None:
        """All predictions of one base."""
        by_offset: dict[int, list[Case]] = defaultdict(list)
        for case in cases:
            by_offset[case.version[1]].append(case)
        try:
            path, base = opened_base(self._evidence, name, self._pipeline, self._keys, self._extra_allowed)
        except (SnapshotRefused, Unavailable) as error:
            for case in cases:
                case.cannot(f"base {name}: {error}")
            return
        for case in cases:
            case.found.base_file, case.found.provenance = path, dict(base.provenance)
            case.found.from_offset, case.found.to_offset = base.offset, case.version[1]
            if case.version[1] < base.offset:
                case.cannot(f"base {name} begins at {base.offset}, behind the version that it names")
                del by_offset[case.version[1]]
        end = max(by_offset, default=base.offset)
        examples = self._evidence.examples(base.shard, base.offset, end) if end > base.offset else iter(())
        batches = told(self._on_progress, name, examples, base.offset, end)
        try:
            for offset, rebuilt in rebuild(self._pipeline, base, batches, by_offset, self._extra_allowed):
                for case in by_offset[offset]:
                    self._compare(case, rebuilt, widths)
        except StartupRefused as error:
            for case in cases:
                if not case.done:
                    case.cannot(str(error))

    def _compare(self, case: Case, rebuilt: Rebuilt, widths: Mapping[int, float | None]) -> None:
        live, record, witness = case.live, case.record, case.witness
        assert live is not None
        assert record is not None
        assert witness is not None
        its = case.found
        its.digest, its.learned = rebuilt.digest, rebuilt.learned
        left_out = its.not_compared = []
        event = case.event
        if self._pipeline.task == "regression" and live.duplicate_of is None and case.version[1] not in widths:
            left_out.append("uncertainty")
        if event is None:
            left_out += [name for name in ("clipped", "scored_at_ms") if live.duplicate_of is None or name != "clipped"]
        try:
            clipped, moved = clipped_again(
                self._pipeline, witness, event if live.duplicate_of is None else None, live.clipped
            )
        except RecordRejected as error:
            case.cannot(f"what lies at {its.event} is no event ({error.code})")
            return
        if moved is not None:
            case.differs(moved, f"{its.event} says, and {witness.where}: not the same features")
            return
        stamp = record.timestamp_ms if event is None else event.timestamp_ms
        try:
            ours = answer_again(
                self._pipeline, rebuilt, witness, live, scored_at_ms=stamp, clipped=clipped,
                half_width=widths.get(case.version[1]),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - a user's model may raise anything
            case.differs(Difference("prediction", live.prediction, f"{type(error).__name__}"), "the model raises")
            return
        difference = first_difference(record.value or b"", ours, [n for n in left_out if n == "uncertainty"])
        if difference is None and record.key != witness.entity_id.encode():
            difference = Difference("key", (record.key or b"").decode(errors="replace"), witness.entity_id)
        if difference is None and record.timestamp_ms != stamp:
            difference = Difference("timestamp", record.timestamp_ms, stamp)
        if difference is None and live.duplicate_of is not None:
            difference = self._unlike_the_first(case, live)
        if difference is None:
            case.equal()
            return
        case.differs(difference, self._why(difference, ours, witness))

    def _unlike_the_first(self, case: Case, live: Prediction) -> Difference | None:
        """A repeat says what the first answer says."""
        event = self._evidence.records("events", [case.origin]).get(case.origin)
        found = self._evidence.answer(event, *case.origin)
        if found is None:
            case.found.not_compared.append("first answer")
            return None
        first = _decode(found.value or b"")
        for name in ("model", "prediction", "probabilities", "score"):
            one, other = getattr(live, name), getattr(first, name)
            if msgspec.json.encode(one) != msgspec.json.encode(other):
                return Difference(f"{name} of the first answer", msgspec.to_builtins(one), msgspec.to_builtins(other))
        return None

    def _why(self, difference: Difference, ours: Prediction, witness: Witness) -> str:
        if difference.field == "uncertainty" and self._pipeline.task == "regression":
            return (
                f"built again with DRIFTLOOP_METRICS_WINDOW={self._window}: a learner that began with another differs"
            )
        if msgspec.json.encode(witness.said) == msgspec.json.encode((ours.prediction, ours.probabilities, ours.score)):
            return f"{witness.where} agrees with the model: the prediction is not what was written"
        return f"{witness.where} does not agree with the model: the model or the features are not what they were"
