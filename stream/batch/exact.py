"""A pipeline's live predictions made anew, byte for byte.

Each event is scored by the very version that its live prediction names, which is built anew from `examples`. Versions are
built once, in ascending order, while all partitions move forward together: a partition waits until the version of its next
event is there, and a version is dropped as soon as no event that is left names it. So the memory taken by models does not
grow with their number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from stream.batch.offline_scoring import OfflineScoring
from stream.core.explaining import compile_scorer
from stream.core.learning import LearnStep, open_for_serving
from stream.core.records import Record
from stream.core.scoring import LiveModel
from stream.errors import ConfigurationError
from stream.messages import CHAMPION, ModelRef, Prediction
from stream.pipeline import Pipeline
from stream.ports import Outgoing

__all__ = ["ExactReplay", "LivePredictions", "exact_replay"]

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
    not_rebuilt: int  # live predictions of versions that `examples` does not hold, or beside a champion; not compared
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


class LivePredictions:
    """What lies on `predictions`, by source position: the version named, and a digest of the bytes.

    The last copy of a position counts, for it is of the present state; copies are identical but for a reset in between.
    """

    def __init__(self, partitions_from: Mapping[int, int] | None = None) -> None:
        """`partitions_from`: by partition, the first event of the present state; what lies before is left out."""
        self._from = dict(partitions_from or {})
        self.versions: dict[tuple[int, int], str] = {}
        self.unanswered: dict[tuple[int, int], str] = {}  # events of an earlier state, by what a repeat of theirs says
        self.beside: set[tuple[int, int]] = set()  # answered by the model beside the champion
        self.repeated: set[tuple[int, int]] = set()  # answered from memory, without a model
        self.newest: dict[int, int] = {}  # by partition, the last event that has a prediction
        self.digests: dict[tuple[int, int], bytes] = {}
        self._names: dict[str, str] = {}

    def before(self, place: tuple[int, int]) -> bool:
        """Whether an earlier state has answered this event."""
        return place[1] < self._from.get(place[0], 0)

    def add(self, record: Record) -> None:
        """One record of `predictions`."""
        prediction = _decode(record.value or b"")
        place = prediction.source.partition, prediction.source.offset
        if self.before(place):
            return
        version = prediction.model.version
        self.versions[place] = self._names.setdefault(version, version)
        (self.beside.discard if prediction.model.slot == CHAMPION else self.beside.add)(place)
        (self.repeated.discard if prediction.duplicate_of is None else self.repeated.add)(place)
        first = prediction.duplicate_of
        if first is not None and self.before((first.partition, first.offset)):
            self.unanswered[first.partition, first.offset] = version
        self.newest[place[0]] = max(place[1], self.newest.get(place[0], 0))
        self.digests[place] = _digest(record.key, record.value, record.timestamp_ms)


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
        fetch_live: the value of a live prediction by partition and offset of its event, for the text of a difference.
        on_records: called with the number of records that were just done.
    """
    started_s = time.perf_counter()
    versions = _Versions(pipeline, examples, window, extra_allowed, examples_start)
    run = _Exact(pipeline, live, versions, fetch_live, on_records)
    events = asyncio.run(run.over(records))
    compared = sum(run.comparable(place) for place in live.versions)
    missed = sum(run.comparable(place) for place in live.versions.keys() - run.seen)
    return ExactReplay(
        pipeline.name,
        events,
        compared,
        run.equal,
        missed,
        run.only_replayed,
        len(live.versions) - compared,
        versions.built,
        versions.held_max,
        run.first_difference,
        time.perf_counter() - started_s,
    )


class _Versions:
    """Models by the examples offset that they have learned up to, built in ascending order."""

    def __init__(
        self, pipeline: Pipeline, examples: Iterable[Record], window: int, extra_allowed: frozenset[str], start: int
    ) -> None:
        self._pipeline = pipeline
        self._examples = iter(examples)
        self._ahead: Record | None = None
        self._ended = False
        self._extra_allowed = extra_allowed
        self._step = LearnStep(
            pipeline, shard=0, keys=KEYS, configuration="exact", window=window, extra_allowed=extra_allowed, start=start
        )
        self.base, self.start = self._step.base, start
        self._held: dict[int, LiveModel] = {}
        self.built = self.held_max = 0

    def offset_of(self, version: str) -> int | None:
        """Of a version that may be built from `examples`; None for one of another base."""
        base, _, offset = version.rpartition("@")
        return int(offset) if base == self.base else None

    def build(self, offset: int) -> bool:
        """Go on to this offset; False if `examples` ends before it, or begins behind it."""
        batch: list[Record] = []
        while (record := self._next()) is not None and record.offset < offset:
            batch.append(record)
            self._ahead = None
            if len(batch) == BATCH_MAX:
                self._step.step(batch)
                batch = []
        self._step.step(batch)
        if self._step.offset != offset:
            return False
        header, model, serving = open_for_serving(
            self._step.snapshot().models["champion"], KEYS, pipeline=self._pipeline.name, shard=0, configuration="exact",
            extra_allowed=self._extra_allowed,
        )  # fmt: skip
        scorer = compile_scorer(
            model, self._pipeline.task, explained_top=self._pipeline.explained_top, threshold=self._pipeline.threshold
        )
        ref = ModelRef(self._pipeline.name, header.version)
        assert serving is not None
        self._held[offset] = LiveModel(ref, scorer, *msgspec.structs.astuple(serving))
        self.built += 1
        self.held_max = max(self.held_max, len(self._held))
        return True

    def _next(self) -> Record | None:
        if self._ahead is None and not self._ended:
            self._ahead = next(self._examples, None)
            self._ended = self._ahead is None
        return self._ahead

    def __getitem__(self, offset: int) -> LiveModel:
        return self._held[offset]

    def drop(self, last_needed: Mapping[int, int], now: int) -> None:
        """Forget what no event that is left names."""
        for offset in [o for o in self._held if last_needed[o] <= now]:
            del self._held[offset]


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
        self._missing: set[int] = set()  # versions that cannot be built
        self.seen: set[tuple[int, int]] = set()
        self.equal = self.only_replayed = 0
        self.first_difference: str | None = None

    def comparable(self, place: tuple[int, int]) -> bool:
        """Whether the replay can be expected to give this prediction."""
        if place in self._live.beside:  # who was champion then is not known here
            return False
        offset = self._versions.offset_of(self._live.versions[place])
        return offset is not None and offset not in self._missing

    def _offset_for(self, record: Record) -> int | None:
        """Of the model that answered this event; None if none did, or it cannot be built."""
        place = record.partition, record.offset
        if record.topic != "events" or place in self._live.repeated:
            return None
        version = self._live.versions.get(place) or self._live.unanswered.get(place)
        return None if version is None else self._versions.offset_of(version)

    async def over(self, records: Iterable[Record]) -> int:
        """Returns how many records were events."""
        queues: dict[int, list[Record]] = {}
        for record in records:
            queues.setdefault(record.partition, []).append(record)
        # A partition is at `reached` when its next event is: versions go forward but for another worker's late look.
        first = self._versions.start  # whose model also answers what names none, such as events of an earlier state
        last_needed: dict[int, int] = {first: first}
        for queue in queues.values():
            reached = first
            for record in queue:
                if (offset := self._offset_for(record)) is not None:
                    reached = max(reached, offset)
                    last_needed[offset] = max(last_needed.get(offset, 0), reached)
        runs = {partition: _runs(queue, self._offset_for) for partition, queue in queues.items()}
        waiting: dict[int, tuple[int | None, list[Record]]] = {}
        current: LiveModel | None = None
        for now in sorted(last_needed):
            if not self._versions.build(now):
                self._missing.add(now)
            else:
                current = self._versions[now]
            for partition, its in runs.items():
                while (run := waiting.pop(partition, None) or next(its, None)) is not None:
                    offset, batch = run
                    if offset is not None and offset > now:
                        waiting[partition] = run
                        break
                    model = current if offset is None or offset in self._missing else self._versions[offset]
                    if model is None:
                        raise ConfigurationError(
                            "--exact", self._pipeline.name, "examples does not hold the first model: it began elsewhere"
                        )
                    await self._score(partition, batch, model)
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
        if wanted is None and place[1] > self._live.newest.get(place[0], -1):
            return  # live has not come so far
        if wanted is None:
            self.only_replayed += 1
            self._note(f"{source.topic}-{place[0]}@{place[1]}: live has no prediction")
        elif self.comparable(place):
            if wanted == _digest(out.key, out.value, out.timestamp_ms):
                self.equal += 1
            else:
                where = f"{source.topic}-{place[0]}@{place[1]}"
                self._note(f"{where}: {_difference(self._fetch_live(*place), out.value)}")

    def _note(self, text: str) -> None:
        self.first_difference = self.first_difference or text


def _runs(
    queue: Sequence[Record], offset_for: Callable[[Record], int | None]
) -> Iterator[tuple[int | None, list[Record]]]:
    """Records in a row that one model may answer; those that no model answered go with those before."""
    batch: list[Record] = []
    of: int | None = None
    for record in queue:
        offset = offset_for(record)
        if batch and (len(batch) == BATCH_MAX or (offset is not None and offset != of)):
            yield of, batch
            batch = []
        of = offset if offset is not None else of
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
