"""A prediction made again: the model it names, built anew from its base and the examples after it, scores the features
that were frozen when the event came. Everything is compared as it is written, so floats bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from stream.core.digest import state_digest
from stream.core.evaluating import Evaluation
from stream.core.examples import LEARNED, ExampleReader, Follower
from stream.core.explaining import Answer, Scorer, compile_scorer
from stream.core.guarding import winsorise
from stream.core.lean_pickle import dump_model, load_model
from stream.core.model_bases import ModelBase
from stream.core.records import EventParser, Record
from stream.core.remembering import Remembered
from stream.core.scores import uncertainty_of
from stream.errors import StartupRefused
from stream.messages import CHAMPION, Example, ModelRef, Prediction, Source
from stream.pipeline import Pipeline

__all__ = [
    "Difference",
    "Rebuilt",
    "Witness",
    "answer_again",
    "clipped_again",
    "first_difference",
    "half_widths",
    "rebuild",
    "unbroken",
    "witness_of_example",
    "witness_of_remembered",
]


class Witness(msgspec.Struct, frozen=True, kw_only=True):
    """What was kept of an event when it was scored. `features` are those that the model was given."""

    where: str  # "<topic>-<partition>@<offset>" of an example, or "redis"
    offset: int | None  # of the example
    event_id: str
    entity_id: str
    occurred_at_ms: int
    source: Source
    features: dict[str, Any]
    model: ModelRef  # whose answer the user was given
    said: tuple[Any, dict[str, float] | None, float | None]  # prediction, probabilities, score


class Difference(NamedTuple):
    """One field; both values as JSON has them, None for a field that is not there."""

    field: str
    said: Any
    rebuilt: Any


class Rebuilt(NamedTuple):
    """A version, ready to score."""

    version: str
    digest: str  # state digest of the model
    learned: int  # examples, with those of its base
    scorer: Scorer


def witness_of_example(example: Example, where: str, offset: int, name: str) -> Witness | None:
    """None if it does not hold what the user was given."""
    served = example.served.get(example.slot)
    if served is None:
        return None
    return Witness(
        where=where,
        offset=offset,
        event_id=example.event_id,
        entity_id=example.entity_id,
        occurred_at_ms=example.occurred_at_ms,
        source=example.event_source,
        features=example.features,
        model=ModelRef(name, served.version, example.slot),
        said=(served.prediction, served.probabilities, served.score),
    )


def witness_of_remembered(its: Remembered, event_id: str, events: str, partition: int, pipeline: Pipeline) -> Witness:
    """From what Redis remembers of an event of this partition; `events`: that topic's name on Kafka."""
    given: Any = its
    slot = CHAMPION
    if its.beside is not None and its.beside.answers:
        given, slot = its.beside, its.beside.slot
    return Witness(
        where="redis",
        offset=None,
        event_id=event_id,
        entity_id=its.entity_id,
        occurred_at_ms=its.occurred_at_ms,
        source=Source(events, partition, its.offset),
        features=dict(zip(pipeline.feature_names, its.features, strict=True)),
        model=ModelRef(pipeline.name, given.version, slot),
        said=(given.prediction, given.probabilities, given.score),
    )


# -- the model ---------------------------------------------------------------------------------------------------------


def unbroken(batches: Iterable[list[Record]], start: int, end: int, what: str) -> Iterator[list[Record]]:
    """The same batches of one partition, offsets [start, end).

    Raises StartupRefused: `examples_gone`, one is missing, so nothing that was learned later can be built again.
    """
    position = start
    for batch in batches:
        for record in batch:
            if record.offset != position:
                raise StartupRefused("examples_gone", f"{what}: offsets {position} to {record.offset - 1} are missing")
            position += 1
        yield batch
    if position < end:
        raise StartupRefused("examples_gone", f"{what}: offsets {position} to {end - 1} are missing")


def rebuild(
    pipeline: Pipeline,
    base: ModelBase,
    batches: Iterable[Sequence[Record]],
    offsets: Iterable[int],
    extra_allowed: frozenset[str] = frozenset(),
) -> Iterator[tuple[int, Rebuilt]]:
    """Versions of a base at these offsets, in ascending order, as a scorer was given them.

    Args:
        batches: examples from the base's offset on, without gaps, as far as the last of `offsets`.
    """
    follower = Follower(pipeline, base, extra_allowed)
    wanted = iter(sorted(set(offsets)))
    target = next(wanted, None)
    while target is not None and target <= follower.offset:
        yield target, _ready(pipeline, follower, extra_allowed)
        target = next(wanted, None)
    for batch in batches:
        rest = batch
        while target is not None and rest and rest[-1].offset + 1 >= target:
            count = target - rest[0].offset
            follower.step(rest[:count])
            rest = rest[count:]
            yield target, _ready(pipeline, follower, extra_allowed)
            target = next(wanted, None)
        if target is None:
            return
        follower.step(rest)


def _ready(pipeline: Pipeline, follower: Follower, extra_allowed: frozenset[str]) -> Rebuilt:
    """From a copy, as scorers read it from a snapshot; the follower goes on."""
    pupil = follower.pupil
    model = load_model(dump_model(pupil.model), extra_allowed=extra_allowed)
    scorer = compile_scorer(model, pipeline.task, explained_top=pipeline.explained_top, threshold=pipeline.threshold)
    return Rebuilt(follower.version, state_digest(model), pupil.learned, scorer)


def half_widths(
    pipeline: Pipeline, batches: Iterable[Sequence[Record]], offsets: Iterable[int], window: int
) -> dict[int, float | None]:
    """How wide a regression's interval was at these examples offsets.

    Args:
        batches: all examples of the state, without gaps, as far as the last of `offsets`.
        window: labels in the sliding window of the learner's figures.
    """
    reader, evaluation = ExampleReader(pipeline), Evaluation(pipeline.task, window)
    wanted = iter(sorted(set(offsets)))
    target = next(wanted, None)
    found: dict[int, float | None] = {}
    for record in (record for batch in batches for record in batch):
        while target is not None and target <= record.offset:
            found[target] = evaluation.interval_half_width()
            target = next(wanted, None)
        if target is None:
            return found
        example = reader.read(record)
        if example is not None and example.timing in LEARNED:
            served = example.served.get(example.slot)
            if served is not None:
                evaluation.update(example.label, served)
    while target is not None:
        found[target] = evaluation.interval_half_width()
        target = next(wanted, None)
    return found


# -- the answer --------------------------------------------------------------------------------------------------------


def answer_again(
    pipeline: Pipeline,
    rebuilt: Rebuilt,
    witness: Witness,
    live: Prediction,
    *,
    scored_at_ms: int,
    clipped: list[str],
    half_width: float | None,
) -> Prediction:
    """The prediction as the score worker writes it; of `live` is only taken whose copy it is, and of which event.

    Raises what the model raises.
    """
    answer: Answer = rebuilt.scorer(dict(witness.features))
    first = live.duplicate_of is None
    return Prediction(
        event_id=witness.event_id,
        prediction=answer.prediction,
        probabilities=answer.probabilities,
        score=answer.score,
        uncertainty=uncertainty_of(answer.probabilities, half_width if first else None),
        model=witness.model,
        source=witness.source if first else live.source,
        occurred_at_ms=witness.occurred_at_ms,
        scored_at_ms=scored_at_ms,
        explanation=answer.explanation if first else None,
        clipped=clipped if first else [],
        duplicate_of=None if first else witness.source,
    )


def clipped_again(
    pipeline: Pipeline, witness: Witness, event: Record | None, said: Sequence[str]
) -> tuple[list[str], Difference | None]:
    """Which features were brought back to their range, and the first one that is not what the event says.

    Without the event only this can be seen: what was brought back lies at the end of its range.
    """
    if event is None:
        ends = {name: (low, high) for name, low, high in pipeline.bounds}
        return [name for name in said if name in ends and witness.features.get(name) in ends[name]], None
    x = EventParser(pipeline).parse(event).features
    clipped = winsorise(x, pipeline.bounds)
    for name, value in x.items():
        if _differ(value, witness.features.get(name)):
            return clipped, Difference(f"features.{name}", value, witness.features.get(name))
    return clipped, None


def first_difference(live: bytes, ours: Prediction, leave_out: Iterable[str] = ()) -> Difference | None:
    """The first field in which a prediction on the topic is not the one made again; "(bytes)" if only its writing is."""
    encoded = msgspec.json.encode(ours)
    if live == encoded:
        return None
    said, rebuilt = _fields(live), _fields(encoded)
    skipped = frozenset(leave_out)
    for name in {**rebuilt, **said}:
        if name not in skipped and _differ(said.get(name), rebuilt.get(name)):
            return Difference(name, said.get(name), rebuilt.get(name))
    if skipped:
        return None
    return Difference("(bytes)", live.decode(errors="replace"), encoded.decode())


def _fields(data: bytes) -> Mapping[str, Any]:
    return msgspec.json.decode(data, type=dict[str, Any])


def _differ(one: Any, other: Any) -> bool:
    """As written: 1.0 is not 1, and -0.0 is not 0.0."""
    return msgspec.json.encode(one) != msgspec.json.encode(other)
