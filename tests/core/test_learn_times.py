"""A label that somebody was asked for is learned several times, the same wherever examples are learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from river import linear_model, preprocessing

from stream import Labelling, Labels
from stream.core.digest import state_digest
from stream.core.examples import Follower, Repeats, teach
from stream.core.learning import LearnStep
from stream.core.model_bases import ModelBase
from stream.core.prequential import timeline, train
from stream.core.records import Record
from stream.errors import ConfigurationError, UpdateRefused
from stream.messages import Example, Served, Source
from stream.pipeline import Pipeline
from tests.support.records import pipeline_of


def build(params: dict[str, Any]) -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


PIPELINE = pipeline_of(
    entity_features=(), features={"amount": float}, model=build, labelling=Labelling(per_1000=100, learn_times=3)
)


def example(number: int, *, requested: bool) -> Record:
    message = Example(
        event_id=f"e{number}", entity_id="k", occurred_at_ms=number, features={"amount": float(number % 7)},
        served={"champion": Served("m@0", None)}, label=number % 7 > 3, label_source=("person:ann", "person:bob", "bank")[number // 3 % 3], labelled_at_ms=number,
        timing="on_time", partition=0, sequence=number + 1, event_source=Source("cards.events", 0, number),
        requested=requested, propensity=0.5 if requested else None,
    )  # fmt: skip
    return Record("examples", 0, number, 1_000 + number, b"k", msgspec.json.encode(message))


LOG = [example(number, requested=number % 3 == 0) for number in range(60)]


def by_hand(times_of: Callable[[Example], int]) -> str:
    model = build({})
    for record in LOG:
        one = msgspec.json.decode(record.value or b"", type=Example)
        for _ in range(times_of(one)):
            model.learn_one(one.features, one.label)
    return state_digest(model)


@pytest.mark.parametrize("times", [1, 3])
def test_live_rebuilt_and_searched_models_learn_it_as_often(times: int):
    pipeline = replace(PIPELINE, labelling=Labelling(per_1000=100, learn_times=times))
    check(pipeline, by_hand(lambda one: times if one.requested else 1))


def test_a_source_may_weigh_less_wherever_it_is_learned():
    rules = Labels(source_times_max={"person:b": 1, "person:": 2, "feed:": 1})
    pipeline = replace(PIPELINE, labels=rules, labelling=Labelling(per_1000=100, learn_times=3))
    most = {"person:ann": 2, "person:bob": 1, "bank": 3}
    check(pipeline, by_hand(lambda one: most[one.label_source] if one.requested else 1))


def check(pipeline: Pipeline, expected: str) -> None:
    live = LearnStep(pipeline, shard=0, keys=[b"k" * 32], configuration="c", window=50)
    for record in LOG:
        live.step([record])
    assert state_digest(live.model) == expected
    assert live.counts["learned"] == len(LOG)  # labels, not lessons
    rebuilt = Follower(pipeline, ModelBase(pipeline=pipeline.name, shard=0, offset=0, model=build({})))
    rebuilt.step(LOG)
    assert state_digest(rebuilt.pupil.model) == expected
    searched = build({})
    train(pipeline, searched, timeline(pipeline, LOG).lessons, fit_to=None)
    assert state_digest(searched) == expected


def test_numbers_and_what_nobody_was_asked_for_are_learned_once():
    assert Repeats(replace(PIPELINE, task="regression")).of("bank", requested=True) == 0
    assert Repeats(replace(PIPELINE, labelling=None)).of("bank", requested=True) == 0
    assert Repeats(PIPELINE).of("bank", requested=True) == 2
    assert Repeats(PIPELINE).of("bank", requested=False) == 0


def test_a_repeat_that_is_refused_leaves_the_first_one_learned():
    class Tired:
        learned = 0

        def learn(self, x: Any, y: Any) -> None:
            if self.learned:
                raise UpdateRefused("enough")
            self.learned += 1

    tired = Tired()
    teach(tired, {}, True, 5)
    assert tired.learned == 1
    with pytest.raises(UpdateRefused):
        teach(tired, {}, True, 5)


@pytest.mark.parametrize("times", [0, 21, 1.5])
def test_a_number_of_times_that_cannot_be_is_refused(times: Any):
    with pytest.raises(ConfigurationError, match=r"labelling\.learn_times"):
        pipeline_of(labelling=Labelling(learn_times=times))
