"""Asking people: the budget holds whatever comes, the same records ask the same, and nothing is asked for no reason."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import tree

from stream import Labelling, Labels
from stream.core.explaining import Answer
from stream.core.querying import DAY_MS, WHOLE, Asked, Querying, budget_of, disagreement_of, uniform_every
from stream.core.records import Record
from stream.core.remembering import QueryState
from stream.core.scoring import BesideModel, LiveModel
from stream.core.unbiased import UnbiasedFigures
from stream.errors import ConfigurationError
from stream.messages import LabelRequest, ModelRef, Served
from tests.support.partition import live_model, run
from tests.support.records import event, label, pipeline_of

STRATEGIES = ("balanced", "variable", "split", "random")


def querying(labelling: Labelling, state: QueryState | None = None, **changes: Any) -> Querying:
    return Querying(labelling, **{"seed": 1, "partition": 0, "partitions": 1, "state": state, **changes})


def asked_of(it: Querying, utilities: list[float], drifting: bool = False) -> list[tuple[int, Asked]]:
    found = []
    for number, utility in enumerate(utilities):
        asked = it.decide(number, number, number, utility, 0.0, drifting, {})
        if asked is not None:
            found.append((number, asked))
    return found


# -- the budget ----------------------------------------------------------------------------------------------------------

EVENT = st.tuples(
    st.floats(0, 1), st.floats(0, 1), st.booleans(), st.sampled_from("ab"), st.integers(-DAY_MS, DAY_MS // 20)
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(STRATEGIES),
    st.floats(0.01, 1_000),
    st.floats(0.01, 1),
    st.one_of(st.none(), st.integers(1, 12)),
    st.integers(1, 3),
    st.lists(EVENT, max_size=60),
    st.integers(1, 12),
)
def test_the_budget_is_never_exceeded(
    strategy: Any, per_1000: float, uniform: float, per_day: int | None, partitions: int, events: list[Any], times: int
):
    labelling = Labelling(
        strategy=strategy, per_1000=per_1000, uniform_share=uniform, per_day=per_day, warm_up=3, drift_boost=50.0
    )
    by_day: Counter[int] = Counter()
    total = seen = 0
    for partition in range(partitions):
        it = querying(labelling, partition=partition, partitions=partitions, segments=("s",))
        watermark_ms = asked_here = 0
        for number, (utility, disagreement, drifting, value, ahead_ms) in enumerate(events * times):
            at_ms = max(0, watermark_ms + ahead_ms)
            watermark_ms = max(watermark_ms, at_ms)
            asked = it.decide(number, at_ms, watermark_ms, utility, disagreement, drifting, {"s": value})
            if asked is not None:
                assert 0.0 < asked.propensity <= 1.0
                by_day[at_ms // DAY_MS] += 1
                asked_here += 1
            assert asked_here * 1_000 <= per_1000 * (number + 1) + 1e-6
        total, seen = total + asked_here, seen + len(events) * times
        assert it.state.asked == asked_here
        allowed, spent = budget_of(labelling, it.state)
        assert (spent, allowed) == (asked_here, pytest.approx(per_1000 * len(events) * times / 1_000))
    assert total * 1_000 <= per_1000 * seen + 1e-6
    if per_day is not None:
        assert max(by_day.values(), default=0) <= per_day


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_budget_is_spent(strategy: Any):
    rng = random.Random(3)
    it = querying(Labelling(strategy=strategy, per_1000=50))
    count = len(asked_of(it, [rng.random() ** 3 for _ in range(40_000)]))
    assert 1_900 <= count <= 2_000


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_goes_on_from_its_state_as_if_nothing_had_been(strategy: Any):
    rng = random.Random(5)
    events = [(rng.random(), rng.choice("abc")) for _ in range(1_500)]
    labelling = Labelling(strategy=strategy, per_1000=100, warm_up=20)
    whole, parts = (querying(labelling, segments=("s",)) for _ in range(2))
    for number, (utility, value) in enumerate(events):
        if number % 97 == 0:
            stored = msgspec.json.encode(parts.sync())
            assert len(stored) < 2_500
            parts = querying(labelling, msgspec.json.decode(stored, type=QueryState), segments=("s",))
        answers = [it.decide(number, number, number, utility, 0.0, number > 800, {"s": value}) for it in (whole, parts)]
        assert answers[0] == answers[1]
        for it in (whole, parts):
            if answers[0] is not None:
                it.answered(utility, right=utility < 0.4)
    assert whole.sync() == parts.sync()


# -- what is asked -------------------------------------------------------------------------------------------------------


def test_the_most_uncertain_are_asked_and_some_at_random():
    rng = random.Random(7)
    utilities = [rng.random() for _ in range(20_000)]
    found = asked_of(querying(Labelling(per_1000=100, uniform_share=0.2, warm_up=0)), utilities)
    chosen = [utilities[number] for number, asked in found if asked.strategy == "balanced"]
    uniform = [utilities[number] for number, asked in found if asked.uniform]
    assert sorted(chosen)[len(chosen) // 20] > 0.83
    assert len(uniform) == 399  # one of each 50 events, but for the first 50
    assert 0.45 < sum(uniform) / len(uniform) < 0.55
    assert {asked.propensity for _, asked in found if asked.strategy == "uniform"} == {1 / 50}


def test_a_drift_raises_the_share_for_a_while_from_what_was_saved():
    rng = random.Random(9)
    it = querying(Labelling(per_1000=100, drift_reserve=1_000))
    quiet = asked_of(it, [rng.random() for _ in range(60_000)])
    usual = sum(59_000 <= number for number, _ in quiet)
    drift = asked_of(it, [rng.random() for _ in range(6_000)], drifting=True)
    first, last = sum(number < 1_000 for number, _ in drift), sum(number >= 5_000 for number, _ in drift)
    assert 90 <= usual <= 110
    assert first > 1.5 * usual
    assert last <= 1.1 * usual


def test_a_rare_segment_gets_its_floor():
    """The strategy would never ask about it: the model is certain there."""
    rng = random.Random(11)
    counts: dict[float, int] = {}
    for floor in (0.0, 0.5):
        it = querying(Labelling(per_1000=100, segment_floor=floor, warm_up=0), segments=("s",))
        counts[floor] = 0
        for number in range(20_000):
            rare = number % 20 == 0
            utility = 0.001 if rare else rng.random()
            asked = it.decide(number, number, number, utility, 0.0, False, {"s": "rare" if rare else "usual"})
            counts[floor] += asked is not None and rare
    assert counts[0.0] < 0.03 * 1_000  # the random share alone
    assert 45 <= counts[0.5] <= 60  # half of a tenth of its 1,000 events


def test_where_labels_come_by_themselves_the_floor_asks_for_none():
    it = querying(Labelling(per_1000=100, warm_up=0), segments=("s",))
    for number in range(5_000):
        asked = it.decide(number, number, number, 0.5, 0.0, False, {"s": "a"})
        assert asked is None or asked.strategy != "segment"
        it.unasked({"s": "a"})


def test_a_model_that_is_certain_and_wrong_is_asked_about():
    """Its own uncertainty would never bring up the place where it errs; labels of the random share do."""
    rng = random.Random(13)
    it = querying(Labelling(per_1000=100, warm_up=0))
    certain = 0
    for number in range(10_000):
        own = 0.02 if number % 2 else 0.4 + 0.1 * rng.random()
        asked = it.decide(number, number, number, it.utility(own, 2), 0.0, False, {})
        if asked is not None:
            certain += own == 0.02 and number > 5_000
            it.answered(own, right=own != 0.02)
    assert certain > 300


def test_disagreement():
    sure, other = (True, {"false": 0.1, "true": 0.9}), (False, {"false": 0.8, "true": 0.2})
    assert disagreement_of(sure, other, None) == pytest.approx(0.7)
    assert disagreement_of(sure, sure, None) == 0.0
    assert disagreement_of((3.0, None), (4.0, None), 2.0) == 0.5
    assert disagreement_of((3.0, None), (30.0, None), 2.0) == 1.0
    assert disagreement_of(("a", None), ("b", None), None) == 1.0
    assert disagreement_of((None, None), ("b", None), None) == 0.0


# -- unbiased figures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weighted_figures_of_asked_events_are_those_of_all(strategy: Any):
    """Wrong where the model is uncertain: of the asked events it looks much worse than it is."""
    rng = random.Random(17)
    weighted, plain, truth = [], [], []
    for seed in range(12):
        it = querying(Labelling(strategy=strategy, per_1000=100), seed=seed)
        figures = UnbiasedFigures("binary")
        right_of_asked, rights = [], []
        for number in range(8_000):
            utility = rng.random() ** 2
            right = rng.random() > utility / 2
            rights.append(right)
            asked = it.decide(number, number, number, utility, 0.0, False, {})
            if asked is not None:
                right_of_asked.append(right)
                figures.update(True, Served("b@0", right, {"true": 0.9, "false": 0.1}), asked.propensity)
        weighted.append(figures.report()["overall"]["model"])
        plain.append(sum(right_of_asked) / len(right_of_asked))
        truth.append(sum(rights) / len(rights))
    mean = sum(truth) / len(truth)
    assert sum(weighted) / len(weighted) == pytest.approx(mean, abs=0.015)
    if strategy == "balanced":
        assert sum(plain) / len(plain) < mean - 0.1


def test_in_the_first_block_the_propensity_is_that_of_the_strategy_alone():
    """Each request there stands for 1 / propensity of the events that could be asked: those for which there was credit."""
    stand_for = could_be = 0.0
    labelling = Labelling(per_1000=100, warm_up=1_000)
    for seed in range(4_000):
        it = querying(labelling, seed=seed)
        for number in range(uniform_every(labelling)):
            asked = it.decide(number, number, number, 0.5, 0.0, False, {})
            could_be += it.state.credit >= WHOLE or asked is not None  # what it earns itself it may spend
            if asked is not None:
                assert (asked.strategy, asked.uniform) == ("warm_up", False)
                stand_for += 1.0 / asked.propensity
    assert could_be > 20_000
    assert stand_for == pytest.approx(could_be, rel=0.04)


def test_while_the_days_budget_is_spent_nobody_is_asked_and_the_others_weights_stay_right():
    """A day's later events have no chance, so it is the earlier ones that the weighted figures speak of."""
    labelling = Labelling(strategy="split", per_1000=100, per_day=40, warm_up=0)
    stand_for = could_be = wrong = 0.0
    spent = wrong_in_all = 0
    for seed in range(60):
        rng = random.Random(seed)
        it = querying(labelling, seed=seed)
        for number in range(3_000):
            at_ms = number * (DAY_MS // 1_000)  # a thousand events a day
            hard = rng.random() < 0.2
            left = it.state.day != at_ms // DAY_MS or it.state.today < 40
            asked = it.decide(number, at_ms, at_ms, 0.9 if hard else 0.1, 0.0, False, {})
            assert left or asked is None
            spent += not left
            if number >= uniform_every(labelling) and left:
                could_be += 1
                wrong_in_all += hard
                if asked is not None:
                    stand_for += 1.0 / asked.propensity
                    wrong += hard / asked.propensity
    assert spent > 10_000
    assert stand_for == pytest.approx(could_be, rel=0.05)
    assert wrong / stand_for == pytest.approx(wrong_in_all / could_be, abs=0.015)


def test_unbiased_figures_go_on_from_their_state():
    figures, other = UnbiasedFigures("anomaly", window=5), UnbiasedFigures("anomaly", window=5)
    for number in range(20):
        figures.update(number % 3 == 0, Served("b@0", number % 2 == 0, None, number / 20), 1.0 / (1 + number % 4))
    other.restore(figures.to_state())
    assert other.report() == figures.report()
    assert other.report()["window"]["labels"] == 5
    assert other.report()["overall"]["labels"] == 20


def test_ranking_figures_of_the_window_are_weighted_and_those_of_the_last_labels():
    """A label of weight two counts as two labels."""
    rng = random.Random(5)
    figures, doubled = UnbiasedFigures("binary", window=50), UnbiasedFigures("binary")
    for number in range(200):
        label, heavy = rng.random() < 0.4, rng.random() < 0.5
        chance = min(max(rng.gauss(0.6 if label else 0.4, 0.2), 0.0), 1.0)
        served = Served("b@0", chance > 0.5, {"false": 1 - chance, "true": chance}, persistence=rng.random() < 0.4)
        figures.update(label, served, 0.5 if heavy else 1.0)
        if number >= 150:
            for _ in range(1 + heavy):
                doubled.update(label, served, 1.0)
    window, overall = figures.report()["window"], doubled.report()["overall"]
    names = ("model", "persistence", "average_precision", "roc_auc", "recall_at_alert_share", "skill_vs_persistence")
    assert {name: window[name] for name in names} == pytest.approx({name: overall[name] for name in names})
    assert window["average_precision"] != figures.report()["overall"]["average_precision"]
    model, baseline = window["model"], window["persistence"]
    assert window["skill_vs_persistence"] == pytest.approx((model - baseline) / (1 - baseline))


def test_a_window_from_before_it_knew_scores_is_read():
    old = UnbiasedFigures("binary", window=5)
    for number in range(4):
        old.update(number % 2 == 0, Served("b@0", True, {"false": 0.1, "true": 0.9}), 0.5)
    state = msgspec.msgpack.decode(old.to_state())
    state[6] = [entry[:4] for entry in state[6]]
    heir = UnbiasedFigures("binary", window=5)
    heir.restore(msgspec.msgpack.encode(state))
    window = heir.report()["window"]
    assert (window["labels"], window["model"], window["average_precision"]) == (4, 0.5, None)
    for truth in (True, False):
        heir.update(truth, Served("b@0", truth, {"false": 1.0 - truth, "true": float(truth)}), 1.0)
    assert heir.report()["window"]["average_precision"] == 1.0
    assert heir.report()["window"]["labels"] == 5


def test_unbiased_figures_of_numbers():
    figures = UnbiasedFigures("regression")
    figures.update(10.0, Served("b@0", 12.0, persistence=9.0), 1.0)
    figures.update(10.0, Served("b@0", 10.0), 0.5)
    report = figures.report()
    assert report["figure"] == "mae"
    assert report["overall"]["model"] == pytest.approx(2 / 3)
    assert report["overall"]["persistence"] == 1.0
    assert report["overall"]["prior"] is None
    assert report["window"]["skill_vs_persistence"] == pytest.approx(1 - (2 / 3) / 1.0)
    assert "average_precision" not in report["window"]


# -- in the score stage --------------------------------------------------------------------------------------------------

RULES = Labels(wait="1m", keep_late="30s", early_wait="20s")


def requests_of(outcome: Any) -> list[LabelRequest]:
    return [msgspec.json.decode(record.value, type=LabelRequest) for record in outcome.of("label_requests")]


def history(events: int, seed: int = 1) -> list[Record]:
    """Events, repeats of some, and labels of most, some before their events."""
    rng = random.Random(seed)
    records, labels = [], 0
    for number in range(events):
        features = {"amount": rng.gauss(0, 1)}
        offset = len(records) - labels
        records.append(event(offset, f"e{number}", at_ms=number * 1_000, features=features))
        if rng.random() < 0.6:
            known = number + rng.randint(-20, 3)
            records.append(label(labels, f"e{max(0, known)}", rng.random() < 0.4, at_ms=number * 1_000))
            labels += 1
        if rng.random() < 0.1:
            again = rng.randrange(number + 1)
            records.append(event(len(records) - labels, f"e{again}", at_ms=number * 1_000, features=features))
    return records


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.lists(st.integers(1, 70), min_size=1, max_size=30), st.sampled_from(STRATEGIES))
def test_the_cut_into_batches_changes_no_request(seed: int, sizes: list[int], strategy: Any):
    pipeline = pipeline_of(labels=RULES, labelling=Labelling(strategy=strategy, per_1000=200, warm_up=5))
    records = history(150, seed)
    single = run(pipeline, [[record] for record in records])
    batches, at = [], 0
    for size in sizes:
        batches.append(records[at : at + size])
        at += size
    cut = run(pipeline, [batch for batch in [*batches, records[at:]] if batch])
    assert cut.published == single.published
    metas = [msgspec.json.decode(outcome.store.partitions[0].meta or b"") for outcome in (single, cut)]
    for meta in metas:
        meta.pop("chunk_sequence")
    assert metas[0] == metas[1]
    assert metas[0]["labelling"]["query"]["asked"] > 10


def test_a_request_says_why_and_the_example_carries_its_propensity():
    pipeline = pipeline_of(labels=RULES, labelling=Labelling(per_1000=500, expires="30s", warm_up=0))
    records = [event(n, at_ms=n * 1_000) for n in range(60)]
    records += [label(n, f"e{40 + n}", at_ms=60_000, source="person:ann") for n in range(20)]
    outcome = run(pipeline, [records])
    asked = {request.event_id: request for request in requests_of(outcome)}
    assert 15 < len(asked) <= 30
    assert outcome.counts()["label_requests"] == len(asked)
    examples = {value["event_id"]: value for value in outcome.values("examples")}
    assert len(examples) == 20
    assert examples.keys() & asked.keys()
    assert examples.keys() - asked.keys()
    assert outcome.counts()["label_requests_answered"] == len(examples.keys() & asked.keys())
    for event_id, example in examples.items():
        assert example.get("requested", False) == (event_id in asked)
        assert example.get("propensity") == (asked[event_id].propensity if event_id in asked else None)
    one = asked[min(examples.keys() & asked.keys())]
    assert one.features == examples[one.event_id]["features"]
    assert one.expires_at_ms == one.occurred_at_ms + 30_000
    assert one.source is not None
    assert one.source.offset == examples[one.event_id]["event_source"]["offset"]
    assert one.model == ModelRef("cards", "base@0")
    assert one.strategy in ("balanced", "uniform")
    assert one.reason


def test_a_tree_that_knows_nothing_asks():
    """Its probabilities are {}: taken for certainty, they would keep it from ever asking."""
    pipeline = pipeline_of(model=lambda _: tree.HoeffdingTreeClassifier(), labelling=Labelling(per_1000=100))
    outcome = run(pipeline, [[event(n) for n in range(1_000)]])
    assert 60 <= len(requests_of(outcome)) <= 100


def test_nobody_is_asked_about_a_label_that_is_there_or_an_event_that_comes_again():
    pipeline = pipeline_of(labels=Labels(wait="1h"), labelling=Labelling(per_1000=1_000, uniform_share=1))
    early = [label(n, f"e{n}", at_ms=0) for n in range(0, 20, 2)]
    events = [event(n, at_ms=1_000) for n in range(20)] + [event(20 + n, f"e{n}", at_ms=1_000) for n in range(20)]
    outcome = run(pipeline, [[*early, *events]])
    # The first block, here one event, only earns.
    assert [request.event_id for request in requests_of(outcome)] == [f"e{n}" for n in range(1, 20, 2)]
    weighted = [value["event_id"] for value in outcome.values("examples") if value.get("propensity") == 1.0]
    assert weighted == [f"e{n}" for n in range(2, 20, 2)]
    assert outcome.counts()["label_requests"] == 10
    assert "label_requests_answered" not in outcome.counts()  # these labels were there before anybody was asked


def test_where_two_models_disagree_is_asked_first():
    pipeline = pipeline_of(labelling=Labelling(per_1000=100, warm_up=0), entity_features=())
    model = live_model(pipeline)

    def says(p: float) -> Answer:
        return Answer(p >= 0.5, {"false": 1 - p, "true": p}, None, None)

    other = BesideModel(
        ModelRef("cards", "other@0", "challenger"), lambda x: says(0.98 if x["amount"] == 3.0 else 0.02)
    )
    champion = model._replace(scorer=lambda _: says(0.02), beside=other)
    outcome = run(pipeline, [[event(n, at_ms=n) for n in range(7_000)]], champion)
    chosen = [request for request in requests_of(outcome) if request.strategy == "disagreement"]
    assert len(chosen) > 300
    assert {request.features["amount"] for request in chosen} == {3.0}
    assert "disagree" in chosen[0].reason


def test_a_default_is_no_answer_of_somebody_who_was_asked():
    rules = Labels(wait="1m", keep_late="30s", missing="default", default=False)
    pipeline = pipeline_of(labelling=Labelling(per_1000=500, warm_up=0), entity_features=(), labels=rules)
    events = [event(n, f"e{n}", at_ms=n * 100) for n in range(20)]
    outcome = run(pipeline, [[*events, event(20, at_ms=90_000)]])
    assert len(requests_of(outcome)) > 5
    defaults = outcome.values("examples")
    assert {value["timing"] for value in defaults} == {"default"}
    assert len(defaults) == 20
    assert not any(value.get("requested") or value.get("propensity") for value in defaults)


def test_without_labelling_nothing_is_asked_and_nothing_kept():
    for off in (None, False):
        outcome = run(pipeline_of(labelling=off), [[event(n) for n in range(500)]])
        assert not outcome.of("label_requests")
        assert msgspec.json.decode(outcome.store.partitions[0].meta or b"")["labelling"] is None


def test_numbers_are_asked_about_evenly():
    pipeline = pipeline_of(task="regression", labelling=Labelling(per_1000=100))

    def constant(_: Any) -> Answer:
        return Answer(1.0, None, None, None)

    model: LiveModel = live_model(pipeline_of())._replace(scorer=constant, half_width=2.0)
    found = requests_of(run(pipeline, [[event(n) for n in range(4_000)]], model))
    assert 300 <= len(found) <= 400
    assert all(request.uncertainty == 2.0 for request in found)


@pytest.mark.parametrize(
    ("changes", "key", "remedy"),
    [
        ({"strategy": "entropy"}, "labelling.strategy", "balanced"),
        ({"per_1000": 0}, "labelling.per_1000", "0.01 to 1000"),
        ({"annotators": 3}, "labelling.annotators", "1 or 2"),
        ({"batch": 201}, "labelling.batch", "at most 200"),
        ({"within": "soon"}, "labelling.within", "whole number"),
        ({"per_1000": 1_001}, "labelling.per_1000", "0.01 to 1000"),
        ({"per_day": 0}, "labelling.per_day", "from 1"),
        ({"uniform_share": 0.0}, "labelling.uniform_share", "0.01 to 1"),
        ({"warm_up": -1}, "labelling.warm_up", "from 0"),
        ({"drift_boost": 0.5}, "labelling.drift_boost", "1 to 100"),
        ({"segment_floor": 2}, "labelling.segment_floor", "0 to 1"),
        ({"expires": "soon"}, "labelling.expires", "whole number"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], key: str, remedy: str):
    with pytest.raises(ConfigurationError) as error:
        pipeline_of(labelling=Labelling(**changes))
    assert error.value.key == key
    assert remedy in error.value.remedy
    with pytest.raises(ConfigurationError, match="Labelling"):
        pipeline_of(labelling=True)


def test_a_fresh_scorer_answers_as_before_when_labels_are_asked_for():
    """Asking changes nothing in the predictions."""
    records = history(300)
    plain = run(pipeline_of(labels=RULES), [records])
    asking = run(pipeline_of(labels=RULES, labelling=Labelling(per_1000=100)), [records])
    assert asking.of("predictions") == plain.of("predictions")
