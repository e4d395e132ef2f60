"""Predictions made anew from `events`, `labels` and `examples` are the live ones, byte for byte, whatever the scorers did."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from river import linear_model, optim, preprocessing

from stream import Labels, entity
from stream.adapters.memory import MemoryStateStore
from stream.batch.exact import ExactReplay, LivePredictions, ReleasedBases, exact_replay
from stream.core.examples import Follower
from stream.core.explaining import Answer, compile_scorer
from stream.core.lean_pickle import dump_model, load_model
from stream.core.learning import LearnStep, open_for_serving
from stream.core.model_bases import ModelBase
from stream.core.rebuilding import unbroken
from stream.core.records import Record
from stream.core.scoring import BesideModel, LiveModel, ScoreStep
from stream.messages import ModelRef
from stream.pipeline import Pipeline
from tests.support.records import pipeline_of
from tests.support.world import card_stream

KEYS = [b"k" * 32]


def cards(**changes: Any) -> Pipeline:
    settings: dict[str, Any] = {
        "features": {"amount": float, "hour": int},
        "labels": Labels(wait="10m", keep_late="5m"),
    }
    return pipeline_of(**{**settings, **changes})


class Live:
    """Scorers that look for a new model whenever they like, each partition for itself, sometimes at an older one.

    Args:
        start: where the state's examples begin.
        answered: by partition, so many events were answered by an earlier state.
        released: a candidate; it answers half of the entities after 500 examples and all after 1,000, when the first model
            stands by for what it cannot answer.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        records: list[Record],
        seed: int = 1,
        *,
        start: int = 0,
        answered: int = 0,
        released: ModelBase | None = None,
    ) -> None:
        self.start, self.answered = start, answered
        self.candidate = None if released is None else Follower(pipeline, released)
        self.predictions: list[Record] = []
        self.failed: set[tuple[int, int]] = set()
        self.examples: list[Record] = []
        asyncio.run(self._run(pipeline, records, random.Random(seed)))

    async def _run(self, pipeline: Pipeline, records: list[Record], rng: random.Random) -> None:
        learner = LearnStep(pipeline, shard=0, keys=KEYS, configuration="live", start=self.start)
        models = [live_model(pipeline, learner)]
        store = MemoryStateStore()
        steps: dict[int, Any] = {}
        for start in range(0, len(records), 50):
            for partition in (0, 1):
                batch = [r for r in records[start : start + 50] if r.partition == partition]
                if partition not in steps:
                    acquired = await store.acquire(partition)
                    steps[partition] = (
                        ScoreStep(pipeline, partition, acquired, answered_until={"events": self.answered}),
                        acquired.lease,
                    )
                step, lease = steps[partition]
                parsed = step.parse(batch)
                needs = step.needs(parsed)
                fetched = await store.fetch(
                    partition, generation=needs.generation, entities=needs.entities, event_ids=needs.event_ids,
                    due_until_ms=needs.due_until_ms,
                )  # fmt: skip
                due = await store.remembered(partition, step.load(needs, fetched, parsed))
                commit, outgoing = step.step(parsed, due, rng.choice(models[-3:]))
                await store.commit(lease, commit)
                for out in outgoing:
                    if out.topic == "dead_letters" and b"model_failed" in dict(out.headers or ()).values():
                        self.failed.add((out.partition, int(dict(out.headers or ())["driftloop.error.offset"] or b"")))
                    kept = {"predictions": self.predictions, "examples": self.examples}.get(out.topic)
                    if kept is not None:
                        offset = len(kept) + (self.start if out.topic == "examples" else 0)
                        kept.append(
                            Record(out.topic, out.partition, offset, out.timestamp_ms, out.key, out.value, out.headers)
                        )
            learner.step(self.examples[learner.offset - self.start :])
            models.append(self._models(pipeline, learner))

    def _models(self, pipeline: Pipeline, learner: LearnStep) -> LiveModel:
        first = live_model(pipeline, learner)
        if self.candidate is None or learner.offset < 500:
            return first
        self.candidate.step(self.examples)
        assert self.candidate.offset == learner.offset
        model = load_model(dump_model(self.candidate.pupil.model))
        scorer = compile_scorer(
            model, pipeline.task, explained_top=pipeline.explained_top, threshold=pipeline.threshold
        )
        version = self.candidate.version

        def fails_at_nine(x: dict[str, Any]) -> Answer:
            if x["hour"] == 9:
                raise ValueError("nine")
            return first.scorer(x)

        if learner.offset < 1_000:
            return first._replace(
                scorer=fails_at_nine, beside=BesideModel(ModelRef(pipeline.name, version, "challenger"), scorer, 0.5)
            )

        def often_failing(x: dict[str, Any]) -> Answer:
            if x["hour"] == 7:
                raise ValueError("seven")
            return scorer(x)

        stands_by = BesideModel(ModelRef(pipeline.name, first.ref.version, "previous"), first.scorer)
        return first._replace(ref=ModelRef(pipeline.name, version), scorer=often_failing, beside=stands_by)


def live_model(pipeline: Pipeline, learner: LearnStep) -> LiveModel:
    header, model, serving = open_for_serving(
        learner.snapshot().models["champion"], KEYS, pipeline=pipeline.name, shard=0, configuration="live"
    )
    scorer = compile_scorer(model, pipeline.task, explained_top=pipeline.explained_top, threshold=pipeline.threshold)
    return LiveModel(ModelRef(pipeline.name, header.version), scorer, *msgspec.structs.astuple(serving))


def compare(
    pipeline: Pipeline,
    records: list[Record],
    predictions: list[Record],
    examples: list[Record],
    *,
    start: int = 0,
    answered: int = 0,
    released: ReleasedBases = ReleasedBases(),  # noqa: B008 - it does not change
    fetched: list[tuple[int, int]] | None = None,
    **deleted: Any,
) -> ExactReplay:
    live = LivePredictions(dict.fromkeys(range(2), answered), **deleted)
    for record in predictions:
        live.add(record)
    by_place = {}
    for record in predictions:
        if record.value == b"?":
            continue
        source = msgspec.json.decode(record.value or b"")["source"]
        by_place[source["partition"], source["offset"]] = record.value

    def fetch_live(*place: int) -> bytes | None:
        if fetched is not None:
            fetched.append(place)  # type: ignore[arg-type]
        return by_place.get(place)  # type: ignore[call-overload]

    return exact_replay(
        pipeline, records, live, iter(examples), examples_start=start, released=released, fetch_live=fetch_live
    )


def test_every_prediction_is_made_again():
    records = card_stream(3_000, poison=0.02, repeated=0.05, early=0.05, late=0.05)
    its = Live(cards(), records)
    found = compare(cards(), records, its.predictions, its.examples)
    assert found.same
    assert found.equal == found.predictions == len(its.predictions) > 2_800
    assert (found.only_live, found.only_replayed, found.not_rebuilt, found.first_difference) == (0, 0, 0, None)
    assert found.versions > 60
    assert found.versions_held_max <= 8  # not all of them at once


def test_a_state_built_again_in_place_is_compared_from_where_it_answers():
    """Its examples lie behind those of the state before, which has answered the first events."""
    records = card_stream(1_500, repeated=0.02)
    its = Live(cards(), records, start=700, answered=400)
    found = compare(cards(), records, its.predictions, its.examples, start=700, answered=400)
    assert found.same and found.complete
    assert found.equal == found.predictions == len(its.predictions) > 600
    assert (found.only_replayed, found.not_rebuilt) == (0, 0)


def test_copies_and_what_live_has_not_come_to_are_no_differences():
    records = card_stream(600)
    its = Live(cards(), records)
    found = compare(cards(), records, [*its.predictions[:300], *its.predictions[250:300]], its.examples)
    assert found.same
    assert found.equal == found.predictions == 300


def test_the_first_difference_is_told_and_others_counted():
    records = card_stream(800)
    its = Live(cards(), records)
    changed = list(its.predictions)
    changed[100] = msgspec.structs.replace(
        changed[100],
        value=msgspec.json.encode({**msgspec.json.decode(changed[100].value or b""), "uncertainty": 0.123}),
    )
    changed[200] = msgspec.structs.replace(changed[200], key=b"another")
    found = compare(cards(), records, changed, its.examples)
    assert not found.same
    assert found.predictions - found.equal == 2
    assert "uncertainty is live 0.123, replayed" in (found.first_difference or "")
    missing = compare(cards(), records, its.predictions[:100] + its.predictions[101:], its.examples)
    assert missing.only_replayed == 1
    assert "live has no prediction" in (missing.first_difference or "")
    assert not missing.same


def test_a_prediction_that_another_model_gave_is_a_difference():
    """The versions are the same, for the examples are; what they were taught with is not."""
    records = card_stream(800)
    its = Live(cards(), records)
    other = [
        msgspec.structs.replace(
            r, value=msgspec.json.encode({**(v := msgspec.json.decode(r.value or b"")), "label": not v["label"]})
        )
        for r in its.examples
    ]
    fetched: list[tuple[int, int]] = []
    foreign = Record("predictions", 0, 0, 0, b"k", b"?")
    found = compare(cards(), records, [*its.predictions, foreign], other, fetched=fetched)
    assert len(fetched) == 1  # each means to read the topic
    assert found.equal < 0.5 * found.predictions
    assert "probabilities" in (found.first_difference or "")


def test_versions_that_examples_do_not_hold_are_not_compared():
    records = card_stream(800)
    its = Live(cards(), records)
    found = compare(cards(), records, its.predictions, its.examples[: len(its.examples) // 2])
    assert found.same
    assert found.not_rebuilt > 100
    assert not found.complete
    assert found.equal == found.predictions == len(its.predictions) - found.not_rebuilt


def candidate_of(pipeline: Pipeline) -> ModelBase:
    """Another model, whose base begins at example 300."""
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.3))
    return ModelBase(pipeline=pipeline.name, shard=0, offset=300, model=model)


def test_candidates_and_what_the_former_champion_answered_in_anothers_place_are_made_again():
    pipeline = cards()
    records = card_stream(2_500, repeated=0.05)
    its = Live(pipeline, records, released=candidate_of(pipeline))
    models = [msgspec.json.decode(r.value or b"")["model"] for r in its.predictions]
    slots = {slot: sum(model["slot"] == slot for model in models) for slot in ("champion", "challenger", "previous")}
    assert min(slots.values()) > 40

    def released(known: bool = True, gone: int = 0) -> ReleasedBases:
        name = candidate_of(pipeline).name

        def examples(start: int, end: int) -> Iterator[list[Record]]:
            left = its.examples[start + gone : end]
            return unbroken([left[:200], left[200:]], start, end, "examples")

        return ReleasedBases(lambda base: candidate_of(pipeline) if known and base == name else None, examples)

    assert len(its.failed) > 5  # the champion could not answer, and they were no candidate's
    found = compare(pipeline, records, its.predictions, its.examples, released=released(), failed=its.failed)
    assert found.first_difference is None
    assert found.same and found.complete
    assert found.equal == found.predictions == len(its.predictions) > 2_400
    of_candidate = sum(model["version"].startswith(candidate_of(pipeline).name) for model in models)
    for cannot in (released(known=False), released(gone=1)):
        found = compare(pipeline, records, its.predictions, its.examples, released=cannot, failed=its.failed)
        assert found.same and not found.complete
        assert found.not_rebuilt == of_candidate > 1_000


@pytest.mark.parametrize("looks_back", [False, True])
def test_what_depends_on_deleted_events_is_not_compared(looks_back: bool):
    pipeline = cards(entity_features=[entity.count("5m"), entity.mean("amount", "20m")] if looks_back else [])
    records = card_stream(3_000, repeated=0.03)
    its = Live(pipeline, records)
    assert compare(pipeline, records, its.predictions, its.examples).complete
    left = [r for r in records if r.topic == "labels" or r.offset >= 300]
    predictions = [p for p in its.predictions if msgspec.json.decode(p.value or b"")["source"]["offset"] >= 330]
    gone: dict[str, Any] = {"shortened": {0: 300, 1: 300}, "looks_back": looks_back}
    found = compare(pipeline, left, predictions, its.examples, trimmed={0, 1}, **gone)
    assert found.same and not found.complete, found
    assert found.equal == (0 if looks_back else len(predictions) - found.not_rebuilt)
    assert found.not_rebuilt > 2
    if looks_back:  # else the deleted predictions say as much
        assert not compare(pipeline, left, predictions, its.examples, trimmed={0, 1}).same
    assert not compare(pipeline, left, predictions, its.examples, **gone).same


def test_what_names_a_base_that_nobody_has_is_not_compared():
    records = card_stream(800)
    its = Live(cards(), records)
    value = msgspec.json.decode(its.predictions[300].value or b"")
    value["model"]["version"] = "0badbad0@5"
    its.predictions[300] = msgspec.structs.replace(its.predictions[300], value=msgspec.json.encode(value))
    found = compare(cards(), records, its.predictions, its.examples)
    assert found.same
    assert found.not_rebuilt == 1
    assert not found.complete


@pytest.mark.parametrize("explain", [True, False])
def test_a_tree(explain: bool):
    from river import tree

    def build(params: dict[str, Any]) -> Any:
        return tree.HoeffdingTreeClassifier(grace_period=50)

    records = card_stream(1_500)
    its = Live(cards(model=build, explain=explain), records)
    assert compare(cards(model=build, explain=explain), records, its.predictions, its.examples).same
