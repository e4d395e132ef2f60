"""Predictions are verified with what is left of their making: equal, the field that differs, or why nobody can tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pytest
from river import linear_model, preprocessing

from stream import Labels, entity, number
from stream.adapters.memory import MemoryStateStore
from stream.batch.evidence import Place
from stream.batch.verifying import Position, Verified, position_of, verify_with
from stream.core.explaining import compile_scorer
from stream.core.learning import LearnStep, open_for_serving
from stream.core.model_bases import ModelBase, configuration_of, seal_base
from stream.core.rebuilding import unbroken
from stream.core.records import Record
from stream.core.scoring import BesideModel, LiveModel, ScoreStep
from stream.core.slots import Command
from stream.errors import ConfigurationError, Unavailable
from stream.messages import ModelRef, Prediction
from stream.pipeline import Pipeline
from stream.topics import TopicNames
from tests.support.records import pipeline_of
from tests.support.world import card_stream

KEY = b"k" * 32
OTHER_KEY = b"o" * 32


def cards(**changes: Any) -> Pipeline:
    settings: dict[str, Any] = {
        "features": {"amount": number(low=0, high=700), "hour": int},
        "entity_features": [entity.count("5m"), entity.mean("amount", "20m")],
        "labels": Labels(wait="10m", keep_late="5m"),
    }
    return pipeline_of(**{**settings, **changes})


def regressor(params: dict[str, Any]) -> Any:
    return preprocessing.StandardScaler() | linear_model.LinearRegression()


class Memory:
    """A live system without servers, and everything that it leaves behind. Fulfils `Evidence`."""

    def __init__(self, pipeline: Pipeline, records: list[Record], *, release_at: int = 10**9, share: float = 0.5):
        self.pipeline = pipeline
        self.topics: dict[str, list[Record]] = {"events": [], "labels": [], "predictions": [], "examples": []}
        self.examples_low = self.start = 0
        self.files: dict[str, bytes] = {}
        self.configuration = configuration_of(pipeline)
        self.learner = LearnStep(pipeline, shard=0, keys=[KEY], configuration=self.configuration, window=100)
        self.keep(self.learner.first)
        self._release_at, self._share = release_at, share
        self._store = MemoryStateStore()
        self._batches = 0

    async def run(self, records: list[Record]) -> None:
        acquired = await self._store.acquire(0)
        step = ScoreStep(self.pipeline, 0, acquired)
        for start in range(0, len(records), 50):
            batch = records[start : start + 50]
            for record in batch:
                self.topics[record.topic].append(record)
            parsed = step.parse(batch)
            needs = step.needs(parsed)
            fetched = await self._store.fetch(
                0, generation=needs.generation, entities=needs.entities, event_ids=needs.event_ids,
                due_until_ms=needs.due_until_ms,
            )  # fmt: skip
            due = await self._store.remembered(0, step.load(needs, fetched, parsed))
            commit, outgoing = step.step(parsed, due, self.live())
            await self._store.commit(acquired.lease, commit)
            for out in outgoing:
                if out.topic in self.topics:
                    kept = self.topics[out.topic]
                    kept.append(Record(out.topic, 0, len(kept), out.timestamp_ms, out.key, out.value, out.headers))
            self.learner.step(self.topics["examples"][self.learner.offset :])
            self._batches += 1
            if self._batches == self._release_at:
                self.release()
            if self._batches == self._release_at + 20:
                self.command("promote", self.candidate)

    def keep(self, base: ModelBase, key: bytes = KEY) -> None:
        self.files[base.name] = seal_base(base, configuration=self.configuration, key=key)

    def release(self) -> None:
        model = preprocessing.StandardScaler() | linear_model.LogisticRegression(l2=0.01)
        base = ModelBase(pipeline=self.pipeline.name, shard=0, offset=0, model=model, provenance={"run": "r1"})
        self.keep(base)
        self.candidate = base.name
        follower = self.learner.follower(base)
        follower.step(self.topics["examples"][: self.learner.offset])
        self.command("release", base.name, follower)

    def command(self, action: Any, base: str, follower: Any = None) -> None:
        self.learner.command(Command(command_id=action, action=action, base=base, by="person:ada", at_ms=1), follower)

    def live(self) -> LiveModel:
        snapshot = self.learner.snapshot()

        def scorer(slot: str) -> Any:
            header, model, serving = open_for_serving(
                snapshot.models[slot], [KEY], pipeline=self.pipeline.name, shard=0, configuration=self.configuration
            )
            compiled = compile_scorer(model, self.pipeline.task, explained_top=self.pipeline.explained_top)
            return header, compiled, serving

        header, compiled, serving = scorer("champion")
        live = LiveModel(ModelRef(self.pipeline.name, header.version), compiled, *msgspec.structs.astuple(serving))
        if "challenger" not in snapshot.models:
            return live
        header, compiled, _ = scorer("challenger")
        ref = ModelRef(self.pipeline.name, header.version, "challenger")
        return live._replace(beside=BesideModel(ref, compiled, self._share))

    # -- Evidence ----------------------------------------------------------------------------------------------------

    def records(self, topic: str, places: Iterable[Place]) -> dict[Place, Record]:
        wanted = set(places)
        return {(r.partition, r.offset): r for r in self.topics[topic] if (r.partition, r.offset) in wanted}

    def answer(self, event: Record | None, partition: int, offset: int) -> Record | None:
        for record in self.topics["predictions"]:
            source = prediction(record).source
            if (source.partition, source.offset) == (partition, offset):
                return record
        return None

    def examples(self, shard: int, start: int, end: int) -> Iterator[list[Record]]:
        return unbroken(self.examples_left(shard, start, end), start, end, "cards.examples-0")

    def examples_left(self, shard: int, start: int, end: int) -> Iterator[list[Record]]:
        left = [record for record in self.topics["examples"] if start <= record.offset < end]
        for at in range(0, len(left), 70):
            yield left[at : at + 70]

    def examples_end(self, shard: int) -> int:
        return self.topics["examples"][-1].offset + 1

    def examples_since(self, shard: int, timestamp_ms: int) -> int:
        later = (r.offset for r in self.topics["examples"] if r.timestamp_ms >= timestamp_ms)
        return next(later, self.examples_end(shard))

    def examples_start(self, shard: int) -> int:
        return self.start

    def remembered(self, partition: int, event_id: str) -> bytes | None:
        return self._store.partitions[partition].remembered.get(event_id)

    def base(self, name: str) -> tuple[str, bytes]:
        if name not in self.files:
            raise Unavailable(f"bases/{name}.model: no such file")
        return f"memory/bases/{name}.model", self.files[name]

    # -- for tests ---------------------------------------------------------------------------------------------------

    def verify(self, *offsets: int, topic: Any = "predictions") -> list[Verified]:
        return verify_with(self, self.pipeline, [Position(topic, 0, o) for o in offsets], [KEY], window=100)

    def change(self, offset: int, **changes: Any) -> None:
        record = self.topics["predictions"][offset]
        body = {**msgspec.json.decode(record.value or b""), **changes}
        self.topics["predictions"][offset] = msgspec.structs.replace(record, value=msgspec.json.encode(body))


def prediction(record: Record) -> Prediction:
    return msgspec.json.decode(record.value or b"", type=Prediction)


def lived(pipeline: Pipeline | None = None, count: int = 3_000, **options: Any) -> Memory:
    import asyncio

    pipeline = pipeline or cards()
    records = card_stream(count, partitions=1, repeated=0.05, early=0.05, late=0.03)
    if pipeline.task == "regression":
        records = [_as_number(r) if r.topic == "labels" else r for r in records]
    memory = Memory(pipeline, records, **options)
    asyncio.run(memory.run(records))
    return memory


def _as_number(record: Record) -> Record:
    body = msgspec.json.decode(record.value or b"")
    body["label"] = 100.0 * body["label"] + len(body["event_id"])
    return msgspec.structs.replace(record, value=msgspec.json.encode(body))


@pytest.fixture(scope="module")
def memory() -> Memory:
    return lived(release_at=30)


@pytest.fixture
def its(memory: Memory) -> Iterator[Memory]:
    topics, files, start = {k: list(v) for k, v in memory.topics.items()}, dict(memory.files), memory.start
    yield memory
    memory.topics, memory.files, memory.start = topics, files, start


def test_every_prediction_is_equal(its: Memory):
    found = its.verify(*range(len(its.topics["predictions"])))
    wrong = [v for v in found if v.outcome != "equal" and not v.reason.startswith("its features are not kept")]
    assert not wrong, wrong[0]
    equal = [v for v in found if v.outcome == "equal"]
    assert len(equal) > 0.9 * len(found)
    assert {v.slot for v in equal} == {"champion", "challenger"}
    assert {v.version.partition("@")[0] for v in equal if v.version} == {its.learner.first.name, its.candidate}
    assert any(v.duplicate_of for v in equal)
    assert any(v.features_from == "redis" for v in equal)
    assert any(prediction(its.topics["predictions"][n]).clipped for n, v in enumerate(found) if v.outcome == "equal")
    assert not any(v.not_compared for v in equal)
    one = next(v for v in equal if v.slot == "challenger")
    assert one.base_file == f"memory/bases/{its.candidate}.model"
    assert one.provenance == {"run": "r1"}
    assert one.from_offset == 0
    assert one.to_offset == int((one.version or "").partition("@")[2])
    assert one.digest


def test_a_prediction_is_found_by_its_event(its: Memory):
    place = prediction(its.topics["predictions"][900]).source.offset
    (found,) = its.verify(place, topic="events")
    assert found.outcome == "equal"
    assert found.event == f"cards.events-0@{place}"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prediction": None}, "prediction"),
        ({"probabilities": {"false": 0.5, "true": 0.5}}, "probabilities"),
        ({"uncertainty": 0.123}, "uncertainty"),
        ({"explanation": None}, "explanation"),
        ({"clipped": ["hour"]}, "clipped"),
        ({"event_id": "e1"}, "event_id"),
        ({"occurred_at_ms": 5}, "occurred_at_ms"),
        ({"scored_at_ms": 5}, "scored_at_ms"),
        ({"extra": 1}, "extra"),
        ({"model": {"name": "cards", "version": "84c5abf7@7", "slot": "champion"}}, "model"),
    ],
)
def test_what_was_changed_is_told(its: Memory, changes: dict[str, Any], field: str):
    its.change(2_000, **changes)
    (found,) = its.verify(2_000)
    assert (found.outcome, found.field) == ("differs", field)
    assert found.said == next(iter(changes.values()))
    assert found.rebuilt != found.said


@pytest.mark.parametrize("version", ["84c5abf7@7", "84c5abf7@999999", "none"])
def test_a_model_that_did_not_answer(its: Memory, version: str):
    at = next(n for n, r in enumerate(its.topics["predictions"]) if _learned(r) > 500)
    its.change(at, model={"name": "cards", "version": version, "slot": "champion"})
    (found,) = its.verify(at)
    if version == "none":
        assert (found.outcome, "no version of ours" in found.reason) == ("cannot_be_verified", True)
    else:
        assert (found.outcome, found.field, found.said["version"]) == ("differs", "model", version)


def test_the_last_bit_of_a_float_counts(its: Memory):
    import math

    before = prediction(its.topics["predictions"][1_500]).probabilities or {}
    its.change(1_500, probabilities={**before, "true": math.nextafter(before["true"], 1.0)})
    (found,) = its.verify(1_500)
    assert (found.outcome, found.field) == ("differs", "probabilities")
    assert "the prediction is not what was written" in found.reason


def test_a_changed_example_is_another_model(its: Memory):
    at = 300
    record = its.topics["examples"][at]
    body = msgspec.json.decode(record.value or b"")
    its.topics["examples"][at] = msgspec.structs.replace(
        record, value=msgspec.json.encode({**body, "label": not body["label"]})
    )
    before = next(n for n, r in enumerate(its.topics["predictions"]) if _learned(r) > 100)
    after = next(n for n, r in enumerate(its.topics["predictions"]) if _learned(r) > at + 1)
    one, other = its.verify(before, after)
    assert one.outcome == "equal"
    assert (other.outcome, other.field) == ("differs", "probabilities")
    assert "does not agree with the model" in other.reason


def _learned(record: Record) -> int:
    its = prediction(record)
    return int(its.model.version.partition("@")[2]) if its.duplicate_of is None else -1


def test_a_repeat_is_held_against_the_first(its: Memory):
    repeat = next(n for n, r in enumerate(its.topics["predictions"]) if n > 500 and prediction(r).duplicate_of)
    first = prediction(its.topics["predictions"][repeat]).duplicate_of
    assert first is not None
    at = next(n for n, r in enumerate(its.topics["predictions"]) if prediction(r).source.offset == first.offset)
    assert its.verify(repeat)[0].outcome == "equal"
    its.change(at, prediction=None)
    (found,) = its.verify(repeat)
    assert (found.outcome, found.field) == ("differs", "prediction of the first answer")
    its.change(at, source={"topic": "elsewhere", "partition": 0, "offset": 0})  # as if Kafka had deleted it
    (found,) = its.verify(repeat)
    assert found.outcome == "equal"
    assert found.not_compared == ["first answer"]


def test_without_the_event_the_rest_is_compared(its: Memory):
    its.topics["events"] = []
    (found,) = its.verify(1_000)
    assert found.outcome == "equal"
    assert found.not_compared == ["clipped", "scored_at_ms"]


def test_an_event_with_other_features_is_told(its: Memory):
    place = prediction(its.topics["predictions"][1_000]).source.offset
    record = its.topics["events"][place]
    body = msgspec.json.decode(record.value or b"")
    body["features"]["hour"] = 25
    its.topics["events"][place] = msgspec.structs.replace(record, value=msgspec.json.encode(body))
    (found,) = its.verify(1_000)
    assert (found.outcome, found.field, found.said) == ("differs", "features.hour", 25)


def test_what_cannot_be_verified_says_why(its: Memory):
    (found,) = its.verify(10**6)
    assert (found.outcome, found.reason[:23]) == ("cannot_be_verified", "there is no prediction:")
    name = its.learner.first.name
    data = its.files[name]
    its.files[name] = data[:200] + bytes([data[200] ^ 1]) + data[201:]
    (found,) = its.verify(500)
    assert found.outcome == "cannot_be_verified"
    assert f"base {name}: snapshot_not_signed_by_us" in found.reason
    its.keep(its.learner.first, OTHER_KEY)
    assert "snapshot_not_signed_by_us" in its.verify(500)[0].reason
    del its.files[name]
    assert "no such file" in its.verify(500)[0].reason


def test_missing_examples_are_told_not_guessed(its: Memory):
    late = next(n for n, r in enumerate(its.topics["predictions"]) if _learned(r) > 400)
    early = next(n for n, r in enumerate(its.topics["predictions"]) if 10 < _learned(r) < 100)
    del its.topics["examples"][200:203]
    one, other = its.verify(late, early)
    assert other.outcome == "equal"
    assert one.outcome == "cannot_be_verified"
    assert "examples_gone" in one.reason
    assert "offsets 200 to 202 are missing" in one.reason


def test_a_state_that_was_reset(its: Memory):
    """The event was answered by both; only the second answer has an example."""
    target = next(
        n for n, r in enumerate(its.topics["predictions"])
        if _learned(r) > 300 and its.verify(n)[0].features_from != "redis"
    )  # fmt: skip
    (found,) = its.verify(target)
    at = int((found.features_from or "").rpartition("@")[2])
    body = msgspec.json.decode(its.topics["examples"][at].value or b"")
    for served in body["served"].values():
        served["version"] = f"0000000a@{at}"
    its.topics["examples"][at] = msgspec.structs.replace(its.topics["examples"][at], value=msgspec.json.encode(body))
    assert its.verify(target)[0].field == "model"
    its.start = at
    assert "was reset" in its.verify(target)[0].reason


def test_a_regression_with_its_interval():
    its = lived(cards(task="regression", model=regressor), 2_000)
    found = its.verify(*range(1_000, 1_500))
    equal = [v for v in found if v.outcome == "equal"]
    assert len(equal) > 450
    assert [v for v in found if v.outcome == "differs"] == []
    assert not any(v.not_compared for v in equal)
    assert prediction(its.topics["predictions"][1_400]).uncertainty is not None
    its.change(1_400, uncertainty=1.5)
    (changed,) = its.verify(1_400)
    assert (changed.outcome, changed.field, changed.said) == ("differs", "uncertainty", 1.5)
    assert "DRIFTLOOP_METRICS_WINDOW=100" in changed.reason


def test_positions():
    names = TopicNames("cards-2", "cards")
    assert position_of("cards-2.predictions-0@7", names) == Position("predictions", 0, 7)
    assert position_of("cards.events-3@9", names) == Position("events", 3, 9)
    for wrong in ("cards.labels-0@1", "cards.predictions-0@1", "cards.events-0", "", "cards.events-x@1"):
        with pytest.raises(ConfigurationError, match=r"write cards-2\.predictions-"):
            position_of(wrong, names)
