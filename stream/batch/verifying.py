"""Was this prediction really made by the model that it names? Build that model again, score again, compare.

A model is its base's file and the examples from there up to the version's offset. The features are those that were frozen
when the event came: in the event's example, or, as long as no label has come, in Redis.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from stream.batch.evidence import Evidence, LiveEvidence, Place
from stream.core.examples import ExampleParser
from stream.core.model_bases import ModelBase, configuration_of, open_base
from stream.core.rebuilding import (
    Difference,
    Rebuilt,
    Witness,
    answer_again,
    clipped_again,
    first_difference,
    half_widths,
    rebuild,
    witness_of_example,
    witness_of_remembered,
)
from stream.core.records import Record
from stream.core.remembering import decode_remembered
from stream.errors import (
    ConfigurationError,
    RecordRejected,
    SnapshotRefused,
    StartupRefused,
    Unavailable,
)
from stream.messages import Prediction, Source
from stream.pipeline import Pipeline
from stream.settings import Settings
from stream.topics import TopicNames

__all__ = ["Position", "Verified", "position_of", "verify", "verify_all", "verify_with"]

POSITION = re.compile(r"(.+)-(\d+)@(\d+)")
VERSION = re.compile(r"([0-9a-f]+)@(\d+)")
Outcome = Literal["equal", "differs", "cannot_be_verified"]
Progress = Callable[[str, int, int], None]
"""(what is read, records so far, records in all)"""

_decode = msgspec.json.Decoder(Prediction).decode


class Position(NamedTuple):
    """Of a prediction, or of the event that it answers."""

    topic: Literal["predictions", "events"]
    partition: int
    offset: int


class Verified(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What was found, and what it was found with."""

    position: str
    outcome: Outcome
    reason: str = ""
    field: str | None = None  # the first one that differs ...
    said: Any = None  # ... what the prediction says ...
    rebuilt: Any = None  # ... and what the model says that was built again
    not_compared: list[str] = []
    event_id: str | None = None
    event: str | None = None  # position
    duplicate_of: str | None = None
    version: str | None = None
    slot: str | None = None
    base_file: str | None = None
    provenance: dict[str, Any] = {}
    from_offset: int | None = None  # of the examples that the model was built with ...
    to_offset: int | None = None  # ... exclusive
    learned: int | None = None  # examples, with those of the base
    features_from: str | None = None
    digest: str | None = None  # of the model that was built again
    seconds: float | None = None


class _Case:
    """One prediction under way."""

    def __init__(self, position: Position, names: TopicNames) -> None:
        self.position = position
        self.found = Verified(position=_text(names, *position), outcome="cannot_be_verified")
        self.record: Record | None = None  # the prediction
        self.event: Record | None = None
        self.live: Prediction | None = None
        self.origin: Place = (0, 0)  # of the first event of this id, whose features count
        self.version: tuple[str, int] = ("", 0)
        self.witness: Witness | None = None
        self.done = False

    def cannot(self, reason: str) -> None:
        self.found.reason, self.done = reason, True

    def differs(self, difference: Difference, reason: str = "") -> None:
        its = self.found
        its.outcome, its.reason, self.done = "differs", reason, True
        its.field, its.said, its.rebuilt = difference

    def equal(self) -> None:
        self.found.outcome, self.done = "equal", True


def position_of(text: str, names: TopicNames) -> Position:
    """
    Raises ConfigurationError.

    >>> position_of("cards.predictions-2@1042", TopicNames("cards"))
    Position(topic='predictions', partition=2, offset=1042)
    """
    match = POSITION.fullmatch(text)
    topics: dict[str, Literal["predictions", "events"]] = {names.predictions: "predictions", names.events: "events"}
    if match is None or match[1] not in topics:
        raise ConfigurationError(
            "position", text, f"write {names.predictions}-<partition>@<offset> or {names.events}-<partition>@<offset>"
        )
    return Position(topics[match[1]], int(match[2]), int(match[3]))


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
    return run.of([_Case(position, run.names) for position in positions])


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

    def of(self, cases: list[_Case]) -> list[Verified]:
        started_s = time.perf_counter()
        self._find_predictions(cases)
        self._find_features([case for case in cases if not case.done])
        for case in cases:
            if not case.done:
                self._check_version(case)
        by_base: dict[str, list[_Case]] = defaultdict(list)
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

    def _find_predictions(self, cases: Sequence[_Case]) -> None:
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

    def _read(self, case: _Case, record: Record) -> None:
        case.live = live = _decode(record.value or b"")
        its, source = case.found, live.source
        its.event_id, its.version, its.slot = live.event_id, live.model.version, live.model.slot
        its.event = _text(self.names, "events", source.partition, source.offset)
        origin = source if live.duplicate_of is None else live.duplicate_of
        case.origin = origin.partition, origin.offset
        if live.duplicate_of is not None:
            its.duplicate_of = _text(self.names, "events", *case.origin)
        if source.topic != self.names.events or source.partition != record.partition:
            said = f"{source.topic}-{source.partition}"
            case.differs(Difference("source", said, f"{self.names.events}-{record.partition}"))
        match = VERSION.fullmatch(live.model.version)
        if match is None:
            case.cannot(f"its model {live.model.version!r} is no version of ours")
        else:
            case.version = match[1], int(match[2])

    # -- the features ------------------------------------------------------------------------------------------------

    def _find_features(self, cases: Sequence[_Case]) -> None:
        """From examples: those of an event come after the version that answered it. Else from Redis."""
        looking: dict[Place, list[_Case]] = defaultdict(list)
        for case in cases:
            looking[case.origin].append(case)
        if looking:
            self._look_through_examples(looking, min(case.version[1] for case in cases))
        for case in cases:
            if case.witness is None:
                self._remembered(case)
            if case.witness is not None:
                case.found.features_from = case.witness.where
            elif not case.done:
                case.cannot(
                    "its features are not kept any more: Redis has forgotten the event, and it has no example that is left"
                )

    def _look_through_examples(self, looking: dict[Place, list[_Case]], start: int) -> None:
        parse, topic, shard = ExampleParser(self._pipeline).parse, self.names.examples, 0
        decode = msgspec.json.Decoder(_Where).decode
        end = self._evidence.examples_end(shard)
        for record in self._told("features", self._evidence.examples_left(shard, start, end), start, end):
            try:
                source = decode(record.value or b"").event_source
                its = looking.get((source.partition, source.offset))
                if its is None:
                    continue
                where = f"{topic}-{shard}@{record.offset}"
                witness = witness_of_example(parse(record), where, record.offset, self._pipeline.name)
            except (msgspec.DecodeError, UnicodeDecodeError, RecordRejected):
                continue
            for case in list(its):
                assert case.live is not None
                if witness is not None and (case.witness is None or witness.model == case.live.model):
                    case.witness = witness
                if case.witness is not None and case.witness.model == case.live.model:
                    its.remove(case)
            if not its:
                del looking[source.partition, source.offset]
                if not looking:
                    return

    def _remembered(self, case: _Case) -> None:
        live = case.live
        assert live is not None
        data = self._evidence.remembered(case.origin[0], live.event_id)
        if data is None:
            return
        remembered = decode_remembered(data)
        if remembered.offset == case.origin[1]:
            case.witness = witness_of_remembered(
                remembered, live.event_id, self.names.events, case.origin[0], self._pipeline
            )

    def _check_version(self, case: _Case) -> None:
        """What was kept of the event names the model, too."""
        live, witness = case.live, case.witness
        assert live is not None
        assert witness is not None
        if witness.model == live.model:
            return
        start = self._evidence.examples_start(0)
        if case.version[1] < start <= (witness.offset if witness.offset is not None else start):
            case.cannot("it is of a state that was reset before its label came, so its features were not kept")
            return
        said, kept = msgspec.to_builtins(live.model), msgspec.to_builtins(witness.model)
        case.differs(Difference("model", said, kept), f"{witness.where} says which model answered")

    # -- the model ---------------------------------------------------------------------------------------------------

    def _half_widths(self, cases: Sequence[_Case]) -> Mapping[int, float | None]:
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

    def _open(self, name: str) -> tuple[str, ModelBase]:
        path, data = self._evidence.base(name)
        base = open_base(
            data,
            self._keys,
            pipeline=self._pipeline.name,
            configuration=configuration_of(self._pipeline),
            extra_allowed=self._extra_allowed,
        )
        if base.name != name:
            raise SnapshotRefused("snapshot_damaged", f"the file of {name} holds {base.name}")
        return path, base

    def _score(self, name: str, cases: Sequence[_Case], widths: Mapping[int, float | None]) -> None:
        """All predictions of one base."""
        by_offset: dict[int, list[_Case]] = defaultdict(list)
        for case in cases:
            by_offset[case.version[1]].append(case)
        try:
            path, base = self._open(name)
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
        batches = self._told_batches(name, examples, base.offset, end)
        try:
            for offset, rebuilt in rebuild(self._pipeline, base, batches, by_offset, self._extra_allowed):
                for case in by_offset[offset]:
                    self._compare(case, rebuilt, widths)
        except StartupRefused as error:
            for case in cases:
                if not case.done:
                    case.cannot(str(error))

    def _compare(self, case: _Case, rebuilt: Rebuilt, widths: Mapping[int, float | None]) -> None:
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

    def _unlike_the_first(self, case: _Case, live: Prediction) -> Difference | None:
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

    # -- for people --------------------------------------------------------------------------------------------------

    def _told_batches(self, what: str, batches: Iterable[list[Record]], start: int, end: int) -> Iterator[list[Record]]:
        self._on_progress(what, 0, end - start)
        for batch in batches:
            yield batch
            self._on_progress(what, batch[-1].offset + 1 - start, end - start)

    def _told(self, what: str, batches: Iterable[list[Record]], start: int, end: int) -> Iterator[Record]:
        for batch in self._told_batches(what, batches, start, end):
            yield from batch


class _Where(msgspec.Struct):
    event_source: Source


def _text(names: TopicNames, topic: str, partition: int, offset: int) -> str:
    return f"{names[topic]}-{partition}@{offset}"
