"""A model that is built again without some examples is the one that never saw them."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from stream.core.digest import state_digest
from stream.core.examples import Follower
from stream.core.model_bases import ModelBase
from stream.core.records import Record
from stream.core.unlearning import LEFT_OUT, Labelled, LeftOut, begins_of, learned_line, left_out_of, nearest_base
from stream.errors import ConfigurationError
from stream.pipeline import Pipeline
from tests.support.examples import example
from tests.support.records import pipeline_of


def cards() -> Pipeline:
    from river import compose, linear_model, preprocessing

    def build(params: dict[str, Any]) -> Any:
        return compose.Select("amount", "hour") | preprocessing.StandardScaler() | linear_model.LogisticRegression()

    return pipeline_of(features={"amount": float, "hour": int}, entity_features=(), model=build)


def log(count: int, bad: float = 0.2, seed: int = 3) -> list[Record]:
    rng = random.Random(seed)
    return [
        example(n, label_source="mallory" if rng.random() < bad else "bank", label=rng.random() < 0.5)
        for n in range(count)
    ]


def fresh(pipeline: Pipeline) -> ModelBase:
    return ModelBase(pipeline=pipeline.name, shard=0, offset=0, model=pipeline.build())


def source_of(record: Record) -> str:
    return str(msgspec.json.decode(record.value or b"")["label_source"])


def test_it_is_the_model_that_never_saw_them():
    pipeline, records = cards(), log(1_000)
    asked = LeftOut(to_offset=1_000, source="mallory")
    without = Follower(pipeline, fresh(pipeline), leave_out=lambda r, e: asked.holds(Labelled.of(r, e)))
    without.step(records)
    never = Follower(pipeline, fresh(pipeline))
    never.step([record for record in records if source_of(record) == "bank"])
    poisoned = Follower(pipeline, fresh(pipeline))
    poisoned.step(records)
    assert state_digest(without.pupil.model) == state_digest(never.pupil.model) != state_digest(poisoned.pupil.model)
    assert without.left_out == sum(source_of(record) == "mallory" for record in records) > 100
    assert without.pupil.learned == never.pupil.learned == 1_000 - without.left_out
    assert without.offset == 1_000


def test_what_was_left_out_is_not_learned_when_it_is_repeated():
    """A score worker that died may have written it twice: the repeat has another offset."""
    pipeline, records = cards(), log(100, bad=0.0)
    asked = LeftOut(from_offset=99, to_offset=100)
    follower = Follower(pipeline, fresh(pipeline), leave_out=lambda r, e: asked.holds(Labelled.of(r, e)))
    follower.step([*records, msgspec.structs.replace(records[99], offset=100)])
    assert follower.pupil.learned == 99
    assert follower.high_water == {0: 100}


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({}, [0, 1, 2, 3]),
        ({"source": "b"}, [1, 3]),
        ({"from_offset": 1, "to_offset": 3}, [1, 2]),
        ({"since_ms": 20}, [2, 3]),
        ({"until_ms": 20}, [0, 1]),
        ({"source": "b", "since_ms": 20}, [3]),
    ],
)
def test_all_that_is_given_must_be_true(changes: dict[str, Any], held: list[int]):
    asked = LeftOut(**{"to_offset": 4, **changes})
    its = [Labelled(n, 10 * n, "ab"[n % 2]) for n in range(4)]
    assert [one.offset for one in its if asked.holds(one)] == held


@pytest.mark.parametrize("agreed", [True, False])
def test_labels_that_a_person_agreed_on_are_hers_too_but_not_in_what_was_built_before(agreed: bool):
    asked = LeftOut(to_offset=9, source="person:ann", agreed=agreed)
    sources = ["person:ann", "person:ann+bob", "person:bob+ann", "person:bob", "person:annabel+bob"]
    held = [source for n, source in enumerate(sources) if asked.holds(Labelled(n, n, source))]
    assert held == (sources[:3] if agreed else sources[:1])
    assert ("agreed" in msgspec.to_builtins(asked)) is agreed


def base_at(offset: int, *without: LeftOut, learned: int | None = None) -> ModelBase:
    provenance = {LEFT_OUT: msgspec.to_builtins(without)} if without else {}
    learned = offset if learned is None else learned
    return ModelBase(pipeline="cards", shard=0, offset=offset, model=None, learned=learned, provenance=provenance)


def test_the_newest_base_that_has_learned_none_is_restored():
    asked = [Labelled(n, n, "mallory") for n in (40, 60)]
    newest, older, first = base_at(50), base_at(30), base_at(0)
    assert nearest_base([newest, older, first], asked) is older
    assert nearest_base([newest, older, first], asked[1:]) is newest
    assert nearest_base([newest, first], asked) is first
    assert nearest_base([newest], asked) is None


def test_what_a_base_was_built_without_it_has_not_learned():
    mallory = LeftOut(to_offset=50, source="mallory")
    again = base_at(50, mallory)
    assert nearest_base([again, base_at(0)], [Labelled(40, 40, "mallory"), Labelled(60, 60, "mallory")]) is again
    assert nearest_base([again, base_at(0)], [Labelled(40, 40, "eve")]).offset == 0  # type: ignore[union-attr]
    assert left_out_of(again.provenance) == (mallory,)
    assert mallory.until(30).to_offset == 30
    with pytest.raises(ConfigurationError, match="left_out"):
        left_out_of({LEFT_OUT: [{"to_offset": "x"}]})


def test_a_pipeline_that_began_later_has_not_learned_what_lay_before():
    began = base_at(100, learned=0)
    assert nearest_base([base_at(150), began], [Labelled(40, 40, "mallory")]).offset == 150  # type: ignore[union-attr]
    assert nearest_base([base_at(150), began], [Labelled(120, 120, "mallory")]) is began


def test_a_retraining_afresh_has_learned_its_window_only():
    def retrained(offset: int, start: str) -> ModelBase:
        facts = {"start": start, "from_offset": 50, "parent": "older"}
        return ModelBase(pipeline="cards", shard=0, offset=offset, model=None, learned=9, provenance=facts)

    early, late = [Labelled(40, 40, "mallory")], [Labelled(60, 60, "mallory")]
    afresh, onward, first = retrained(100, "scratch"), retrained(100, "champion"), base_at(0)
    assert nearest_base([afresh, first], early) is afresh
    assert nearest_base([afresh, first], late) is first
    assert nearest_base([onward, first], early) is first
    child = base_at(150)
    assert begins_of([child, afresh, first]) == [50, 50, 0]
    assert nearest_base([child, afresh, first], early) is child
    assert nearest_base([afresh], late) is None


def test_the_line_is_what_was_learned_from_and_not_what_was_compared():
    """The champion of the time made anew, models that went on from before it, or from the one before."""

    def made(offset: int, start: str, window: int, parent: ModelBase, **facts: Any) -> ModelBase:
        its = {"start": start, "from_offset": window, "parent": parent.name, **facts}
        return ModelBase(pipeline="cards", shard=0, offset=offset, model=None, learned=9, provenance=its)

    early, first = [Labelled(40, 40, "mallory")], base_at(0)
    afresh = made(100, "scratch", 50, first)
    onward = made(150, "champion", 120, afresh)
    earlier = made(200, "champion", 10, afresh)  # a run by the clock: its window begins before the champion does
    back = made(250, "former", 120, afresh, former=first.name)
    unstated = base_at(300)
    files = {one.name: one for one in (first, afresh, onward, earlier, back, unstated)}
    released = {unstated.name: afresh.name}
    expected = {
        onward.name: ([onward, afresh, first], [50, 50, 0], onward),
        earlier.name: ([earlier, first], [0, 0], first),
        back.name: ([back, first], [0, 0], first),
        unstated.name: ([unstated, afresh, first], [50, 50, 0], unstated),
    }
    for name, (line, begins, restored) in expected.items():
        found = learned_line(name, files.get, released, first.name)
        assert found == line
        assert begins_of(found) == begins
        assert nearest_base(found, early) is restored
    without = {name: one for name, one in files.items() if one is not afresh}
    assert learned_line(onward.name, without.get, released, first.name) == [onward, first]
