"""A pipeline's live predictions made anew, byte for byte.

Each event is scored by the very version that its live prediction names, which is built anew: the first model from the
pipeline file and `examples`, a released one from its base's file and the examples after it. Versions are built once, in
ascending order, while all partitions move forward together: a partition waits until the version of its next event is there,
and a version is dropped as soon as no event that is left names it. So the memory taken by models does not grow with their
number.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from stream.batch.offline_scoring import OfflineScoring
from stream.core.explaining import Answer, Scorer, compile_scorer
from stream.core.learning import LearnStep, open_for_serving
from stream.core.model_bases import ModelBase
from stream.core.rebuilding import Rebuilt, rebuild
from stream.core.records import Record
from stream.core.scoring import NO_ANSWER, BesideModel, LiveModel
from stream.errors import ConfigurationError, StartupRefused
from stream.messages import CHAMPION, ModelRef, Prediction
from stream.pipeline import Pipeline
from stream.ports import Outgoing
from stream.topics import TopicNames

__all__ = ["ExactReplay", "LivePredictions", "ReleasedBases", "exact_replay"]

KEYS = (b"an exact replay's snapshots stay.",)
BATCH_MAX = 500  # records in a row for one model

_decode = msgspec.json.Decoder(Prediction).decode


class ExactReplay(msgspec.Struct, frozen=True):
    """How the predictions that were made anew compare with the live ones."""

    pipeline: str
    events: int  # records read from `events`
    predictions: int  # live predictions that were compared
    equal: int  # of them, byte for byte: value, key and timestamp
    only_live: int  # the replay gave none
    only_replayed: int  # live gave none
    not_rebuilt: int  # live predictions that cannot be made again, as a base, examples or events are gone; not compared
    versions: int  # models built anew
    versions_held_max: int  # at the same time
    first_difference: str | None
    seconds: float

    @property
    def same(self) -> bool:
        return self.equal == self.predictions and not self.only_replayed

    @property
    def complete(self) -> bool:
        """Whether there was something to compare, and all of it was."""
        return self.predictions > 0 and not self.not_rebuilt


class Answered(NamedTuple):
    """Which model gave an answer."""

    base: str
    offset: int  # of examples, up to which it had learned
    slot: str


FAILED = Answered("", 0, "failed")  # in place of a model: live had none for this event


class ReleasedBases(NamedTuple):
    """Where models come from that were not the first."""

    open: Callable[[str], ModelBase | None] = lambda _: None  # by name; None if the file is not there
    # Of shard 0, all in [start, end), in batches; raises StartupRefused if one is gone.
    examples: Callable[[int, int], Iterable[list[Record]]] = lambda *_: ()


NONE_RELEASED = ReleasedBases()


class LivePredictions:
    """What lies on `predictions`, by source position: the version named, and a digest of the bytes.

    The last copy of a position counts, for it is of the present state; copies are identical but for a reset in between.
    """

    def __init__(
        self,
        partitions_from: Mapping[int, int] | None = None,
        *,
        failed: Set[tuple[int, int]] = frozenset(),
        shortened: Mapping[int, int] | None = None,
        looks_back: bool = True,
        trimmed: Set[int] = frozenset(),
    ) -> None:
        """
        Args:
            partitions_from: by partition, the first event of the present state; what lies before is left out.
            failed: events that no model could answer: they are dead letters.
            shortened: partitions whose oldest events are deleted, and the first that is left.
            looks_back: whether features depend on the entity's history: then so does every later answer there, if only in its
                last bits (sums are kept as distances from the entity's first value).
            trimmed: partitions whose oldest predictions are.
        """
        self._from = dict(partitions_from or {})
        self.failed = failed
        self._shortened, self._looks_back = shortened or {}, looks_back
        self._trimmed = trimmed
        self._doubtful: set[str] = set()  # event ids
        self.unsettled: set[tuple[int, int]] = set()  # what they depend on is deleted, or may be
        self.oldest: dict[int, int] = {}  # by partition, the first event that has a prediction
        self.models: dict[tuple[int, int], Answered] = {}
        # Events of an earlier state, by what a repeat of theirs says.
        self.unanswered: dict[tuple[int, int], Answered] = {}
        self.repeated: set[tuple[int, int]] = set()  # answered from memory, without a model
        self.newest: dict[int, int] = {}  # by partition, the last event that has a prediction
        self.digests: dict[tuple[int, int], bytes] = {}
        self._same: dict[Answered, Answered] = {}

    def before(self, place: tuple[int, int]) -> bool:
        """Whether an earlier state has answered this event."""
        return place[1] < self._from.get(place[0], 0)

    def wants(self, place: tuple[int, int]) -> bool:
        """Whether an event that has no prediction here must have had one."""
        partition, offset = place
        if partition in self._trimmed and offset < self.oldest.get(partition, 0):
            return False
        return offset <= self.newest.get(partition, -1)  # live may not have come so far

    def add(self, record: Record) -> None:
        """One record of `predictions`; what is none of ours is passed over."""
        try:
            prediction = _decode(record.value or b"")
            base, _, offset = prediction.model.version.rpartition("@")
            model = Answered(base, int(offset), prediction.model.slot)
        except (msgspec.DecodeError, ValueError):
            return
        place = prediction.source.partition, prediction.source.offset
        if self.before(place):
            return
        if self._depends_on_deleted(prediction):
            self.unsettled.add(place)
        self.models[place] = model = self._same.setdefault(model, model)
        (self.repeated.discard if prediction.duplicate_of is None else self.repeated.add)(place)
        first = prediction.duplicate_of
        if first is not None and self.before((first.partition, first.offset)):
            self.unanswered[first.partition, first.offset] = model
        self.newest[place[0]] = max(place[1], self.newest.get(place[0], 0))
        self.oldest[place[0]] = min(place[1], self.oldest.get(place[0], place[1]))
        self.digests[place] = _digest(record.key, record.value, record.timestamp_ms)

    def _depends_on_deleted(self, prediction: Prediction) -> bool:
        partition, first = prediction.source.partition, prediction.duplicate_of
        known_from = self._shortened.get(partition, 0)
        if partition in self._trimmed:
            known_from = max(known_from, self.oldest.get(partition, 0))
        if first is not None and first.offset < known_from:
            # Later repeats of it, too: what is a repeat depends on when the first came.
            self._doubtful.add(prediction.event_id)
        return (self._looks_back and partition in self._shortened) or prediction.event_id in self._doubtful


def _digest(key: bytes | None, value: bytes | None, timestamp_ms: int) -> bytes:
    return blake2b(b"%d %d " % (timestamp_ms, len(key or b"")) + (key or b"") + (value or b""), digest_size=16).digest()


def exact_replay(
    pipeline: Pipeline,
    records: Iterable[Record],
    live: LivePredictions,
    examples: Iterable[Record],
    *,
    examples_start: int = 0,
    window: int = 1_000,
    extra_allowed: frozenset[str] = frozenset(),
    released: ReleasedBases = NONE_RELEASED,
    fetch_live: Callable[[int, int], bytes | None] = lambda *_: None,
    on_records: Callable[[int], None] = lambda _: None,
) -> ExactReplay:
    """Make every prediction again and compare.

    Args:
        records: of `events` and `labels`, from where the state begins, in the order in which workers take them.
        examples: of shard 0, from where the state's examples begin; read once, and only as far as versions are named.
        examples_start: the offset at which the state's examples begin: the first base is named after it, too.
        window: labels in the sliding window of the figures, as the learner has it.
        extra_allowed: names of the pipeline's own file that a model may refer to.
        released: the models that came after the first.
        fetch_live: the value of a live prediction by partition and offset of its event, for the text of a difference.
        on_records: called with the number of records that were just done.
    """
    started_s = time.perf_counter()
    wanted = [*live.models.values(), *live.unanswered.values()]
    versions = _Versions(pipeline, examples, window, extra_allowed, examples_start, released, wanted)
    run = _Exact(pipeline, live, versions, fetch_live, on_records)
    events = asyncio.run(run.over(records))
    compared = sum(run.comparable(place) for place in live.models)
    missed = sum(run.comparable(place) for place in live.models.keys() - run.seen)
    return ExactReplay(
        pipeline.name,
        events,
        compared,
        run.equal,
        missed,
        run.only_replayed,
        len(live.models) - compared,
        versions.built,
        versions.held_max,
        run.first_difference,
        time.perf_counter() - started_s,
    )


class _Versions:
    """Models by base and the examples offset that they have learned up to, built in ascending order of offsets."""

    def __init__(
        self,
        pipeline: Pipeline,
        examples: Iterable[Record],
        window: int,
        extra_allowed: frozenset[str],
        start: int,
        released: ReleasedBases,
        wanted: Iterable[Answered],
    ) -> None:
        self._pipeline = pipeline
        self._examples = iter(examples)
        self._ahead: Record | None = None
        self._ended = False
        self._extra_allowed = extra_allowed
        self._step = LearnStep(
            pipeline, shard=0, keys=KEYS, configuration="exact", window=window, extra_allowed=extra_allowed, start=start
        )
        self.first = Answered(self._step.base, start, CHAMPION)
        offsets: dict[str, set[int]] = defaultdict(set)
        for model in wanted:
            offsets[model.base].add(model.offset)
        self._lines = {
            base: self._line(released, base, its) for base, its in offsets.items() if base != self.first.base
        }
        self._newest: dict[str, tuple[int, Scorer | None]] = {}
        self._held: dict[Answered, LiveModel] = {}
        self.built = self.held_max = 0

    def _line(self, released: ReleasedBases, name: str, offsets: set[int]) -> Iterator[tuple[int, Rebuilt]]:
        """The versions of a released base, in ascending order, as far as they can be built."""
        base = released.open(name)
        if base is None:
            return
        wanted = {offset for offset in offsets if offset >= base.offset}
        batches = released.examples(base.offset, max(wanted, default=base.offset))
        try:
            yield from rebuild(self._pipeline, base, batches, wanted, self._extra_allowed)
        except StartupRefused:  # some are gone
            return

    def build(self, model: Answered) -> bool:
        """Build this one; False if its base is not there, or `examples` ends before it, or begins behind it."""
        if not self._learned_to(model.offset):
            return False
        scorer = self._first() if model.base == self.first.base else self._released_at(model.base, model.offset)
        if scorer is None:
            return False
        name, version = self._pipeline.name, f"{model.base}@{model.offset}"
        live = LiveModel(ModelRef(name, version), scorer, *msgspec.structs.astuple(self._step.serving()))
        if model.slot != CHAMPION:  # who was champion beside it is of no account: this one answered
            beside = BesideModel(ModelRef(name, version, model.slot), scorer, share=1.0)
            live = live._replace(scorer=_no_answer, beside=beside)
        self._held[model] = live
        self.built += 1
        self.held_max = max(self.held_max, len(self._held))
        return True

    def _released_at(self, base: str, offset: int) -> Scorer | None:
        """The same one again under another slot, or one further on."""
        at, scorer = self._newest.get(base, (-1, None))
        if at != offset:
            scorer = next((rebuilt.scorer for its, rebuilt in self._lines[base] if its == offset), None)
            self._newest[base] = offset, scorer
        return scorer

    def _learned_to(self, offset: int) -> bool:
        """Take the first model, and the figures of all that was served, to an offset; False if it is not there."""
        batch: list[Record] = []
        while (record := self._next()) is not None and record.offset < offset:
            batch.append(record)
            self._ahead = None
            if len(batch) == BATCH_MAX:
                self._step.step(batch)
                batch = []
        self._step.step(batch)
        return self._step.offset == offset

    def _first(self) -> Scorer:
        """From a copy, as scorers read it from a snapshot; the learner goes on."""
        _, model, _ = open_for_serving(
            self._step.snapshot().models["champion"], KEYS, pipeline=self._pipeline.name, shard=0, configuration="exact",
            extra_allowed=self._extra_allowed,
        )  # fmt: skip
        pipeline = self._pipeline
        return compile_scorer(model, pipeline.task, explained_top=pipeline.explained_top, threshold=pipeline.threshold)

    def _next(self) -> Record | None:
        if self._ahead is None and not self._ended:
            self._ahead = next(self._examples, None)
            self._ended = self._ahead is None
        return self._ahead

    def __getitem__(self, model: Answered) -> LiveModel:
        return self._held[model]

    def drop(self, last_needed: Mapping[Answered, int], now: int) -> None:
        """Forget what no event that is left names."""
        for model in [m for m in self._held if last_needed[m] <= now]:
            del self._held[model]


def _fails(_: dict[str, Any]) -> Answer:
    raise ValueError("no model answered this event")


def _no_answer(_: dict[str, Any]) -> Answer:
    return NO_ANSWER


class _Exact:
    def __init__(
        self,
        pipeline: Pipeline,
        live: LivePredictions,
        versions: _Versions,
        fetch_live: Callable[[int, int], bytes | None],
        on_records: Callable[[int], None],
    ) -> None:
        self._pipeline = pipeline
        self._live = live
        self._versions = versions
        self._fetch_live = fetch_live
        self._on_records = on_records
        self._scoring = OfflineScoring(pipeline)
        self._missing: set[Answered] = set()  # models that cannot be built
        self.seen: set[tuple[int, int]] = set()
        self.equal = self.only_replayed = 0
        self.first_difference: str | None = None

    def comparable(self, place: tuple[int, int]) -> bool:
        """Whether the replay can be expected to give this prediction."""
        return self._live.models[place] not in self._missing and place not in self._live.unsettled

    def _model_for(self, record: Record) -> Answered | None:
        """The model that answered this event; None if none did."""
        place = record.partition, record.offset
        if record.topic != "events" or place in self._live.repeated:
            return None
        if place in self._live.failed and place not in self._live.models:
            return FAILED
        return self._live.models.get(place) or self._live.unanswered.get(place)

    async def over(self, records: Iterable[Record]) -> int:
        """Returns how many records were events."""
        queues: dict[int, list[Record]] = {}
        for record in records:
            queues.setdefault(record.partition, []).append(record)
        # A partition is at `reached` when its next event is: versions go forward but for another worker's late look.
        first = self._versions.first  # which also answers what names none, such as events of an earlier state
        last_needed: dict[Answered, int] = {first: first.offset}
        for queue in queues.values():
            reached = first.offset
            for record in queue:
                model = self._model_for(record)
                if model is not None and model is not FAILED:
                    reached = max(reached, model.offset)
                    last_needed[model] = max(last_needed.get(model, 0), reached)
        runs = {partition: _runs(queue, self._model_for) for partition, queue in queues.items()}
        waiting: dict[int, tuple[Answered | None, list[Record]]] = {}
        current: LiveModel | None = None
        due: dict[int, list[Answered]] = defaultdict(list)
        for model in last_needed:
            due[model.offset].append(model)
        for now in sorted(due):
            for model in due[now]:
                if not self._versions.build(model):
                    self._missing.add(model)
                else:
                    current = self._versions[model]
            for partition, its in runs.items():
                while (run := waiting.pop(partition, None) or next(its, None)) is not None:
                    of, batch = run
                    if of is not None and of.offset > now:
                        waiting[partition] = run
                        break
                    live = current if of is None or of is FAILED or of in self._missing else self._versions[of]
                    if live is None:
                        raise ConfigurationError(
                            "--exact", self._pipeline.name, "examples does not hold the first model: it began elsewhere"
                        )
                    await self._score(
                        partition, batch, live._replace(scorer=_fails, beside=None) if of is FAILED else live
                    )
            self._versions.drop(last_needed, now)
        return sum(record.topic == "events" for queue in queues.values() for record in queue)

    async def _score(self, partition: int, records: Sequence[Record], model: LiveModel) -> None:
        outgoing = await self._scoring.score(partition, records, model)
        for out in outgoing:
            if out.topic == "predictions":
                self._compare(out)
        self._on_records(len(records))

    def _compare(self, out: Outgoing) -> None:
        source = _decode(out.value or b"").source
        place = source.partition, source.offset
        if place in self.seen or self._live.before(place):
            return
        self.seen.add(place)
        wanted = self._live.digests.get(place)
        if wanted is None:
            if self._live.wants(place):
                self.only_replayed += 1
                self._note(place, lambda: "live has no prediction")
        elif self.comparable(place):
            if wanted == _digest(out.key, out.value, out.timestamp_ms):
                self.equal += 1
            else:
                self._note(place, lambda: _difference(self._fetch_live(*place), out.value))

    def _note(self, place: tuple[int, int], what: Callable[[], str]) -> None:
        """Of the first one only: finding the live prediction again means reading the topic."""
        if self.first_difference is None:
            self.first_difference = f"{TopicNames.of(self._pipeline).events}-{place[0]}@{place[1]}: {what()}"


def _runs(
    queue: Sequence[Record], model_for: Callable[[Record], Answered | None]
) -> Iterator[tuple[Answered | None, list[Record]]]:
    """Records in a row that one model may answer; those that no model answered go with those before."""
    batch: list[Record] = []
    of: Answered | None = None
    for record in queue:
        model = model_for(record)
        if batch and (len(batch) == BATCH_MAX or (model is not None and model != of)):
            yield of, batch
            batch = []
        of = model if model is not None else of
        batch.append(record)
    if batch:
        yield of, batch


def _difference(live: bytes | None, ours: bytes | None) -> str:
    """The fields in which two predictions differ."""
    one, other = ({} if value is None else msgspec.json.decode(value) for value in (live, ours))
    if not one:
        return f"replayed: {(ours or b'').decode()}"
    fields: list[Any] = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    if not fields:
        return "key, timestamp or the order of fields differ"
    return "; ".join(f"{name} is live {one.get(name)!r}, replayed {other.get(name)!r}" for name in fields)
