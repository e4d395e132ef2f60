"""The score stage as a pure step: `(state, records, what was fetched, model) -> commit`.

One `ScoreStep` owns one partition of `events` and `labels`. It reads no clock and does no I/O: time is the events' own,
and everything it changed leaves in one `Commit`. If that commit fails, the whole object is thrown away and built again
from what Redis holds, so it may change its state in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from stream.core.explaining import Answer
from stream.core.features import EntityFeatures
from stream.core.forms import WIRE, Form
from stream.core.guarding import winsorise
from stream.core.joining import Joiner
from stream.core.records import EventParser, LabelParser, ParsedEvent, Record
from stream.core.remembering import Agenda, Beside, Meta, Remembered
from stream.core.requesting import Labeller
from stream.core.scores import uncertainty_of
from stream.errors import RecordRejected
from stream.messages import CHAMPION, PREVIOUS, DeadLetter, Example, Label, LabelValue, ModelRef, Prediction, Source
from stream.pipeline import Pipeline
from stream.ports import Acquired, Commit, Due, Fetched, Outgoing
from stream.topics import TopicNames

__all__ = ["Batch", "BesideModel", "LiveModel", "Needs", "ScoreStep"]

ERROR_HEADER = "driftloop.error."
NO_ANSWER = Answer(None, None, None, None)
AGENDA_SLICES = 64  # the agenda is read in slices of the waiting time ...
AGENDA_SLICE_MAX_MS = 60_000  # ... and never further ahead, so that memory does not grow with the waiting time


class BesideModel(NamedTuple):
    """The model that is scored beside the champion, and the share of entities that it answers."""

    ref: ModelRef
    scorer: Callable[[dict[str, Any]], Answer]
    share: float = 0.0

    def answers(self, entity_id: str) -> bool:
        """The same entities throughout a trial, others in the next; of two shares the smaller is a part of the larger."""
        if not self.share:
            return False
        base = self.ref.version.partition("@")[0]
        return crc32(f"{base}/{entity_id}".encode()) < self.share * 4_294_967_296


class LiveModel(NamedTuple):
    """A model snapshot made ready to score: what never changes between two snapshots is computed once."""

    ref: ModelRef
    scorer: Callable[[dict[str, Any]], Answer]
    persistence: LabelValue | None = None
    prior: LabelValue | None = None
    prior_probabilities: dict[str, float] | None = None
    half_width: float | None = None  # of the 90 % interval of a regression's error
    drifting: bool = False  # the learner sees a drift that is not over
    beside: BesideModel | None = None


class Needs(NamedTuple):
    """What must be fetched before a batch can be processed."""

    generation: int
    entities: list[str]
    event_ids: list[str]
    due_until_ms: int | None


class Batch(NamedTuple):
    """Parsed records in processing order; `watermark_ms` is where event time will stand after them."""

    items: list[tuple[Record, ParsedEvent | tuple[str, Label] | RecordRejected]]
    watermark_ms: int


_encode_json = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode


class ScoreStep:
    """The state of one partition and the step over it."""

    def __init__(
        self,
        pipeline: Pipeline,
        partition: int,
        acquired: Acquired,
        entities_max: int = 200_000,
        answered_until: Mapping[str, int] | None = None,
        partitions: int = 1,
        form: Form = WIRE,
    ) -> None:
        """`answered_until`: by topic, the offset up to which an earlier state has given its answers: none is given again.
        Under `predictions`: likewise of `events`, but dead letters are given again; they do not depend on the model.

        `partitions`: of `events`, among which the budget of label requests is divided.
        `form`: of what is handed over; under another than WIRE, an outgoing value is the message itself.
        """
        self._pipeline = pipeline
        self._names = TopicNames.of(pipeline)
        answered = answered_until or {}
        self._answered_until = {topic: answered.get(topic, 0) for topic in ("events", "labels")}
        self._events_answered = max(answered.get("events", 0), answered.get("predictions", 0))
        self._partition = partition
        self._form = form
        self._message = form.message
        # Of other tasks an answer is built of floats and booleans, which can be written (see `compile_scorer`).
        self._tries_answers = not form.outbox and pipeline.task == "multiclass"
        # Where another model may stand in, an answer that cannot be written is found while it still may.
        self._tries_beside = pipeline.task == "multiclass"
        self.meta = msgspec.json.decode(acquired.meta, type=Meta) if acquired.meta else Meta()
        self._events_topic = self._names.events
        self._entities_max = entities_max
        self._entities: dict[str, list[Any]] = {}
        self._features = EntityFeatures(pipeline.entity_features)
        self._bounds = pipeline.bounds
        self._idle_ms = pipeline.limits.entity_idle_ms
        self._parse_event = EventParser(pipeline).parse
        self._parse_label = LabelParser(pipeline).parse
        self._agenda = Agenda()
        self._joiner = Joiner(pipeline, partition, self.meta, acquired.early)
        self._count = self._joiner.count
        self._labeller: Labeller | None = None
        if pipeline.labelling:
            self._labeller = Labeller(pipeline, partition, partitions, self.meta.labelling)
        # Records of the last batch that are wrong in themselves: not kept labels whose time it has ended, nor what a rule of
        # the pipeline's own turns away.
        self.rejected = 0

    # -- before the fetch ------------------------------------------------------------------------------------------

    def parse(self, records: Iterable[Record]) -> Batch:
        """Decode and check; what is wrong stays in its place as a RecordRejected."""
        items: list[Any] = []
        watermark_ms = self.meta.watermark_ms
        parse_event = self._parse_event
        for record in records:
            try:
                if record.topic == "events":
                    event = parse_event(record)
                    if event.occurred_at_ms > watermark_ms:
                        watermark_ms = event.occurred_at_ms
                    items.append((record, event))
                else:
                    items.append((record, self._parse_label(record)))
            except RecordRejected as rejected:
                items.append((record, rejected))
        return Batch(items, watermark_ms)

    def needs(self, batch: Batch) -> Needs:
        """Which entities, events and due times the batch touches and this object does not hold."""
        cached, looks_back = self._entities, bool(self._features.names)
        entities: dict[str, None] = {}
        event_ids: dict[str, None] = {}
        for _, item in batch.items:
            if isinstance(item, ParsedEvent):
                event_ids[item.event_id] = None
                if looks_back and item.entity_id not in cached:
                    entities[item.entity_id] = None
            elif not isinstance(item, RecordRejected):
                event_ids[item[1].event_id] = None
        due_until_ms = None
        if batch.watermark_ms > self._agenda.loaded_until_ms:
            due_until_ms = batch.watermark_ms + min(AGENDA_SLICE_MAX_MS, self._joiner.first_due_ms // AGENDA_SLICES)
        return Needs(self._generation(), list(entities), list(event_ids), due_until_ms)

    def load(self, needs: Needs, fetched: Fetched, batch: Batch) -> list[str]:
        """Take what was fetched; return the ids of further remembered events to fetch (those that fall due now)."""
        decode = self._features.decode
        for entity_id, data in fetched.entities.items():
            self._entities[entity_id] = decode(data)
        recall = self._form.recall
        self._known = {event_id: recall(data) for event_id, data in fetched.remembered.items()}
        self._commit = Commit(meta=b"")
        if needs.due_until_ms is not None:
            self._commit.due_remove += self._agenda.load(fetched.due, needs.due_until_ms, self.meta.watermark_ms)
        if not self._joiner.has_default:
            return []
        return [event_id for event_id in self._agenda.coming(batch.watermark_ms) if event_id not in self._known]

    # -- the step --------------------------------------------------------------------------------------------------

    def step(self, batch: Batch, due: dict[str, bytes], model: LiveModel) -> tuple[Commit, list[Outgoing]]:
        """Process a parsed and loaded batch. Returns what to commit (outbox included) and the same outbox decoded."""
        for event_id, data in due.items():
            self._known.setdefault(event_id, self._form.recall(data))
        self._out: list[Outgoing] = []
        self._touched: dict[str, None] = {}
        self._changed: dict[str, None] = {}
        self._due: list[tuple[int, str]] = []
        self._due_over: set[tuple[int, str]] = set()
        self._events = self._labels = self._predictions = self._examples = self.rejected = 0
        self._chunk = b"%d" % self.meta.chunk_sequence
        generation_before = self._generation()
        offsets = self.meta.offsets
        for record, item in batch.items:
            try:
                if isinstance(item, ParsedEvent):
                    self._event(record, item, model)
                elif isinstance(item, RecordRejected):
                    raise item
                else:
                    self._label(record, *item)
            except RecordRejected as rejected:
                self.rejected += rejected.code != "label_source_capped"
                self._dead_letter(record, rejected)
            offsets[record.topic] = record.offset + 1
        return self._finish(generation_before), self._out

    def _event(self, record: Record, event: ParsedEvent, model: LiveModel) -> None:
        meta = self.meta
        occurred_at_ms = event.occurred_at_ms
        if occurred_at_ms > meta.watermark_ms:
            meta.watermark_ms = occurred_at_ms
            if self._agenda.next_due_ms < occurred_at_ms or self._joiner.next_expiry_ms < occurred_at_ms:
                self._pass_time(record.timestamp_ms)
        event_id = event.event_id
        self._events += 1
        first = self._known.get(event_id)
        if first is not None:
            if first.entity_id != event.entity_id:
                raise RecordRejected("event_key_mismatch", "this event_id was seen under another key")
            self._repeat(record, event, first)
            return
        x = event.features
        if self._features.names:
            x.update(self._history(event))
        clipped = winsorise(x, self._bounds) if self._bounds else []
        answer, failed = NO_ANSWER, None
        try:
            answer = model.scorer(x)
            if self._tries_beside and model.beside is not None:
                _encode_json((answer.prediction, answer.probabilities, answer.explanation))
        except Exception as error:  # noqa: BLE001 - told below
            answer, failed = NO_ANSWER, error
        beside, other, given, ref = None, None, answer, model.ref
        if model.beside is not None:
            beside, other = _beside(model.beside, event.entity_id, x, instead=failed is not None)
            if beside.answers and other is not None:
                given, other, ref = other, None if failed is not None else answer, model.beside.ref
        if failed is not None and given is answer:
            raise RecordRejected(
                "model_failed", f"the model {model.ref.version} raised {_where(failed)} for this event"
            ) from failed
        requested = None
        if self._form.predictions or self._labeller is not None:
            prediction = Prediction(
                event_id=event_id,
                prediction=given.prediction,
                probabilities=given.probabilities,
                score=given.score,
                uncertainty=uncertainty_of(given.probabilities, model.half_width),
                model=ref,
                source=Source(self._events_topic, record.partition, record.offset),
                occurred_at_ms=occurred_at_ms,
                scored_at_ms=record.timestamp_ms,
                explanation=given.explanation,
                clipped=clipped,
            )
            self._answer(record, prediction)
            if self._labeller is not None:
                requested = self._request(record, prediction, other, x, model)
        else:
            if self._tries_answers:
                self._try_answer(given, ref)
            self._predictions += 1
        remembered = Remembered(
            event.entity_id,
            occurred_at_ms,
            record.offset,
            list(x.values()),
            model.ref.version,
            answer.prediction,
            answer.probabilities,
            answer.score,
            model.persistence,
            model.prior,
            model.prior_probabilities,
            beside=beside,
            requested=requested,
            timestamp_ms=record.timestamp_ms,
            failed=failed is not None,
        )
        self._known[event_id] = remembered
        self._changed[event_id] = None
        joiner = self._joiner
        self._schedule(occurred_at_ms + joiner.first_due_ms, event_id)
        if joiner.waits_for(event_id):
            for early in joiner.take_early(event_id, self._commit):
                self._early_label(early, remembered)

    def _answer(self, record: Record, prediction: Prediction) -> None:
        if self._tries_answers:
            self._try_answer(prediction, prediction.model)
        try:
            value = self._message(prediction)
        except (TypeError, ValueError, OverflowError) as error:
            raise _unwritable(prediction.model) from error
        self._predictions += 1
        if self._form.predictions and record.offset >= self._events_answered:
            self._out.append(Outgoing("predictions", record.partition, record.key, value, record.timestamp_ms))

    def _try_answer(self, answer: Answer | Prediction, ref: ModelRef) -> None:
        """Nothing that is not written now may turn out later to be unfit for it."""
        try:
            _encode_json((answer.prediction, answer.probabilities, answer.explanation))
        except (TypeError, ValueError, OverflowError) as error:
            raise _unwritable(ref) from error

    def _request(
        self, record: Record, prediction: Prediction, other: Answer | None, x: dict[str, Any], model: LiveModel
    ) -> float | None:
        """Ask people about this event, if it is one to ask about; returns how likely that was."""
        assert self._labeller is not None
        its = None if other is None else (other.prediction, other.probabilities)
        propensity, request = self._labeller.scored(
            prediction, its, x, model.half_width, self.meta.watermark_ms, drifting=model.drifting
        )
        # A label that is there already need not be asked for; it counts as if it had been.
        if request is not None and not self._joiner.waits_for(prediction.event_id):
            self._count("label_requests")
            if record.offset >= self._events_answered:
                value = self._message(request)
                self._out.append(Outgoing("label_requests", record.partition, record.key, value, record.timestamp_ms))
        return propensity

    def _history(self, event: ParsedEvent) -> dict[str, Any]:
        """The entity's features before this event; then the event becomes part of the history."""
        generation = self._generation()
        state = self._entities.get(event.entity_id)
        if state is not None and generation - state[0] > 1:
            state = None
        state, values = self._features.advance(state, event.features, event.occurred_at_ms)
        state[0] = generation
        self._entities[event.entity_id] = state
        self._touched[event.entity_id] = None
        return values

    def _repeat(self, record: Record, event: ParsedEvent, first: Remembered) -> None:
        """The same event_id again: the first answer again, and nothing is counted or learned twice."""
        self._count("duplicate_events")
        given: Remembered | Beside = first
        slot = CHAMPION
        if first.beside is not None and first.beside.answers:
            given, slot = first.beside, first.beside.slot
        prediction = Prediction(
            event_id=event.event_id,
            prediction=given.prediction,
            probabilities=given.probabilities,
            score=given.score,
            uncertainty=uncertainty_of(given.probabilities, None),
            model=ModelRef(self._pipeline.name, given.version, slot),
            source=Source(self._events_topic, record.partition, record.offset),
            occurred_at_ms=first.occurred_at_ms,
            scored_at_ms=record.timestamp_ms,
            duplicate_of=Source(self._events_topic, record.partition, first.offset),
        )
        self._answer(record, prediction)

    def _label(self, record: Record, entity_id: str, label: Label) -> None:
        self._labels += 1
        remembered = self._known.get(label.event_id)
        if remembered is None:
            for rejected, victim in self._joiner.keep_early(record, label, self._commit):
                self._dead_letter(victim, rejected)
            return
        self._match(record, entity_id, label, remembered, early=False)

    def _early_label(self, record: Record, remembered: Remembered) -> None:
        try:
            self._match(record, *self._parse_label(record), remembered, early=True)
        except RecordRejected as rejected:
            self._dead_letter(record, rejected)

    def _match(self, record: Record, entity_id: str, label: Label, remembered: Remembered, *, early: bool) -> None:
        if remembered.entity_id != entity_id:
            raise RecordRejected("label_key_mismatch", "the label's key differs from its event's key")
        example = self._joiner.join(label, remembered, record, early=early)
        if example is not None:
            self._changed[label.event_id] = None
            if self._labeller is not None and example.timing != "correction":
                self._labeller.labelled(remembered, label.label)
                if remembered.requested is not None and not early:  # of a label that was there nobody was asked
                    self._count("label_requests_answered")
            self._emit_example(record.timestamp_ms, example)

    def _pass_time(self, moved_at_ms: int) -> None:
        """Event time has moved: default labels, forgetting, and early labels whose event never came.

        Args:
            moved_at_ms: the Kafka timestamp of the event that moved it, which is also that of what comes of it.
        """
        watermark_ms = self.meta.watermark_ms
        for due_ms, event_id, chunk in self._agenda.pop_due(watermark_ms):
            if chunk == self._chunk:
                self._due_over.add((due_ms, event_id))
            elif self._agenda.done(chunk):
                self._commit.due_remove.append(chunk)
            self._come_up(due_ms, event_id, moved_at_ms)
        for rejected, victim in self._joiner.expire_early(watermark_ms, self._commit):
            self._dead_letter(victim, rejected)

    def _come_up(self, due_ms: int, event_id: str, moved_at_ms: int) -> None:
        remembered = self._known.get(event_id)
        if self._joiner.has_default and remembered is not None:
            example = self._joiner.default(event_id, remembered)
            if example is not None:
                self._changed[event_id] = None
                self._emit_example(moved_at_ms, example)
            forget_at_ms = self._joiner.forget_at_ms(remembered)
            if due_ms < forget_at_ms:
                self._schedule(forget_at_ms, event_id)
                return
        self._known.pop(event_id, None)
        self._changed.pop(event_id, None)
        self._commit.forget.append(event_id)
        self._count("forgotten")

    def _schedule(self, due_ms: int, event_id: str) -> None:
        if due_ms <= self._agenda.loaded_until_ms:
            self._agenda.add(due_ms, event_id, self._chunk)
        self._due.append((due_ms, event_id))

    # -- leaving ---------------------------------------------------------------------------------------------------

    def _finish(self, generation_before: int) -> Commit:
        commit, meta, known = self._commit, self.meta, self._known
        encode = self._features.encode
        commit.generation = generation = self._generation()
        if generation > generation_before >= 0:
            commit.drop_generations = [g for g in (generation_before - 1, generation_before) if g < generation - 1]
        touched = ((entity_id, self._entities[entity_id]) for entity_id in self._touched)
        commit.entities = {entity_id: encode(state) for entity_id, state in touched if state[0] >= generation - 1}
        remember = self._form.remember
        commit.remember = {event_id: remember(known[event_id]) for event_id in self._changed}
        forgotten_then_seen = commit.remember.keys() & set(commit.forget)
        commit.forget = [event_id for event_id in commit.forget if event_id not in forgotten_then_seen]
        made = {
            "events": self._events,
            "predictions": self._predictions,
            "labels": self._labels,
            "examples": self._examples,
        }
        for name, count in made.items():
            if count:
                self._joiner.count(name, count)
        entries = sorted(self._due)
        if self._due_over:
            entries = [entry for entry in entries if entry not in self._due_over]
        if entries:
            chunk = Due(self._chunk, entries[0][0], entries)
            commit.due_add = [chunk]
            self._agenda.written(chunk)
            meta.chunk_sequence += 1
        if self._labeller is not None:
            meta.labelling = self._labeller.sync()
        commit.meta = _encode_json(meta)
        if self._out and self._form.outbox:
            commit.outbox = _encode_msgpack(self._out)
        self._evict()
        return commit

    def _evict(self) -> None:
        surplus = len(self._entities) - self._entities_max
        if surplus > 0:
            for entity_id in list(self._entities)[: surplus + self._entities_max // 10]:
                del self._entities[entity_id]

    def _generation(self) -> int:
        return self.meta.watermark_ms // self._idle_ms

    def _emit_example(self, timestamp_ms: int, example: Example) -> None:
        self._examples += 1
        self._out.append(Outgoing("examples", 0, example.entity_id.encode(), self._message(example), timestamp_ms))

    def _dead_letter(self, record: Record, rejected: RecordRejected) -> None:
        self._count("dead_letters")
        self._count(f"dead_letters.{rejected.code}")
        if record.offset >= self._answered_until[record.topic]:
            self._out.append(dead_letter(record, rejected, "score", self._names))


def dead_letter(record: Record, rejected: RecordRejected, stage: str, names: TopicNames) -> Outgoing:
    """The original key, value, timestamp and headers, and what was wrong in further headers."""
    letter = DeadLetter(
        topic=names[record.topic],
        partition=record.partition,
        offset=record.offset,
        stage=stage,  # type: ignore[arg-type]
        code=rejected.code,
        message=str(rejected)[:500],
    )
    headers = list(record.headers or [])
    headers += [(ERROR_HEADER + f, str(getattr(letter, f)).encode()) for f in letter.__struct_fields__]
    return Outgoing("dead_letters", record.partition, record.key, record.value, record.timestamp_ms, headers)


def _beside(
    model: BesideModel, entity_id: str, x: dict[str, Any], *, instead: bool = False
) -> tuple[Beside, Answer | None]:
    """What the other model says, to be remembered, and its answer. If it fails, the champion's answer stands.

    Args:
        instead: the champion has failed; a former champion answers then, a candidate only the entities of its share.
    """
    slot, version = model.ref.slot, model.ref.version
    try:
        answer = model.scorer(dict(x))
        _encode_json(answer)
    except Exception:  # noqa: BLE001 - counted against it by the judge
        return Beside(slot, version, failed=True), None
    answers = model.answers(entity_id) or (instead and slot == PREVIOUS)
    return Beside(slot, version, answer.prediction, answer.probabilities, answer.score, False, answers), answer


def _unwritable(ref: ModelRef) -> RecordRejected:
    return RecordRejected("model_failed", f"the answer of model {ref.version} cannot be written as JSON")


def _where(error: Exception) -> str:
    """The type and the place of an error; its text may quote the payload."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    file = trace.tb_frame.f_code.co_filename.rpartition("/")[2]
    return f"{type(error).__name__} in {file}, line {trace.tb_lineno},"
