"""Change is noticed, located and told once; what only fluctuates is not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import pytest
from river import drift as river_drift
from river.drift import binary

from stream import Drift, entity
from stream.core.drift_features import Feature
from stream.core.drift_series import BLOCK, change_point
from stream.core.drifting import DriftWatch
from stream.errors import ConfigurationError
from stream.messages import Drift as Message
from stream.messages import Example, Served, Source
from stream.pipeline import Pipeline
from tests.support.records import pipeline_of

FEATURES = {"amount": float, "shop": str, "online": bool}
Maker = Callable[[random.Random, int], tuple[dict[str, Any], Any, float]]


def watched(**changes: Any) -> Pipeline:
    return pipeline_of(**{"features": FEATURES, "entity_features": (), **changes})


def examples(make: Maker, n: int, *, seed: int = 1, first: int = 0) -> Iterator[tuple[int, Example]]:
    """`make` gives features, label and the probability that was served for true."""
    rng = random.Random(seed)
    for i in range(n):
        x, label, p = make(rng, i)
        served = Served("b@0", p >= 0.5, {"false": 1 - p, "true": p})
        yield (
            first + i,
            Example(
                event_id=f"e{i}", entity_id="k", occurred_at_ms=i, features=x, served={"champion": served}, label=label,
                label_source="bank", labelled_at_ms=i, timing="on_time", partition=0, sequence=first + i + 1,
                event_source=Source("cards.events", 0, i),
            ),
        )  # fmt: skip


def run(watch: DriftWatch, stream: Iterable[tuple[int, Example]]) -> list[Message]:
    found = [watch.update(example, example.served["champion"], offset, 7) for offset, example in stream]
    return [message for message in found if message is not None]


def features(rng: random.Random) -> dict[str, Any]:
    return {"amount": rng.lognormvariate(3, 1), "shop": rng.choice("aaabbc"), "online": rng.random() < 0.3}


def steady(rng: random.Random, i: int, wrong: float = 0.1) -> tuple[dict[str, Any], Any, float]:
    """An honest model: the error is 0.1 on average, and it is wrong that often."""
    p = wrong if rng.random() < 0.5 else 1 - wrong
    label = (p >= 0.5) != (rng.random() < wrong)
    return features(rng), label, p


def changing(at: int, after: Maker, before: Maker = steady) -> Maker:
    return lambda rng, i: (before if i < at else after)(rng, i)


def worse(rng: random.Random, i: int) -> tuple[dict[str, Any], Any, float]:
    """The model says what it said, and the world disagrees more often."""
    x, label, p = steady(rng, i)
    return x, (not label if rng.random() < 0.25 else label), p


@pytest.mark.parametrize("seed", range(3))
def test_what_only_fluctuates_is_no_drift(seed: int):
    def bursty(rng: random.Random, i: int) -> tuple[dict[str, Any], Any, float]:
        return steady(rng, i, 0.06 if (i // 40) % 3 else 0.3)

    for make in (steady, bursty):
        watch = DriftWatch(watched(segments=("shop",)), 0)
        assert run(watch, examples(make, 40_000, seed=seed)) == []
        report = watch.report()
        assert report["ready"] == report["monitors"] == 3 * 4 + 2 * 3


@pytest.mark.parametrize("seed", range(5))
def test_worse_answers_are_noticed_soon_and_the_change_is_located(seed: int):
    at = 8_000
    (drift,) = run(DriftWatch(watched(), 0), examples(changing(at, worse), 12_000, seed=seed))
    assert drift.signal == "error"
    assert at < drift.to_offset < at + 1_500
    assert abs(drift.from_offset - at) < 6 * BLOCK
    assert drift.before < 0.22 < drift.after
    assert drift.severity > 0.3
    assert drift.drift_id == f"cards-0-{drift.to_offset - 1}"
    assert drift.detected_at_ms == 7
    assert drift.moved == []


def test_a_model_that_learns_is_no_drift():
    better: Maker = lambda rng, i: steady(rng, i, 0.4)  # noqa: E731
    stream = list(examples(changing(5_000, steady, better), 15_000))
    assert run(DriftWatch(watched(), 0), stream) == []
    surer: Maker = lambda rng, i: (features(rng), rng.random() < 0.1, 0.1 if i < 5_000 else 0.05)  # noqa: E731
    assert run(DriftWatch(watched(drift=Drift(errors=False)), 0), examples(surer, 15_000)) == []
    (drift,) = run(DriftWatch(watched(drift=Drift(errors=False, features=False)), 0), examples(surer, 15_000))
    assert drift.signal == "score"


@pytest.mark.parametrize("seed", range(8))
def test_worse_answers_are_noticed_while_the_model_still_learns(seed: int):
    """ADWIN then drops the bad answers of the beginning first, and its estimate falls although the newest blocks rose."""
    at = 4_000
    learning: Maker = lambda rng, i: steady(rng, i, 0.36 + 0.14 * 0.5 ** (i / 1_000))  # noqa: E731
    no_longer: Maker = lambda rng, i: steady(rng, i, 0.36 + 0.28 * 0.5 ** ((i - at) / 2_000))  # noqa: E731
    pipeline = watched(drift=Drift(labels=False, scores=False, features=False))
    (drift,) = run(DriftWatch(pipeline, 0), examples(changing(at, no_longer, learning), 6_000, seed=seed))
    assert at < drift.to_offset < at + 800
    assert abs(drift.from_offset - at) < 6 * BLOCK


@pytest.mark.parametrize("better_for", [1_000, 2_200, 3_000])
def test_worse_answers_soon_after_better_ones_are_noticed(better_for: int):
    """A new champion is better, and then the world changes: the fall is the larger change of the two."""
    at = 4_500 + better_for
    wrong: Maker = lambda rng, i: steady(rng, i, 0.35 if i < 4_500 else 0.05 if i < at else 0.2)  # noqa: E731
    pipeline = watched(drift=Drift(labels=False, scores=False, features=False))
    (drift,) = run(DriftWatch(pipeline, 0), examples(wrong, at + 4_000, seed=2))
    assert at < drift.to_offset < at + 1_500
    assert abs(drift.from_offset - at) < 8 * BLOCK


def with_feature(**change: Callable[[random.Random], Any]) -> Maker:
    def make(rng: random.Random, i: int) -> tuple[dict[str, Any], Any, float]:
        x, label, p = steady(rng, i)
        return {name: change[name](rng) if name in change else value for name, value in x.items()}, label, p

    return make


@pytest.mark.parametrize(
    ("name", "value", "how"),
    [
        ("amount", lambda rng: rng.lognormvariate(3.5, 1), "higher"),
        ("amount", lambda rng: rng.lognormvariate(3, 1) / 100, "lower"),  # another unit
        ("amount", lambda rng: rng.lognormvariate(3, 1.8), "wider"),
        ("amount", lambda _: 20.0, "narrower"),  # stuck
        ("shop", lambda rng: rng.choice("aabbcc"), "other_values"),
        ("shop", lambda rng: rng.choice("aaabbd"), "other_values"),  # one that never came before
        ("online", lambda rng: rng.random() < 0.5, "higher"),
    ],
)
def test_a_feature_that_moves_is_named(name: str, value: Callable[[random.Random], Any], how: str):
    at = 8_000
    (drift,) = run(DriftWatch(watched(), 0), examples(changing(at, with_feature(**{name: value})), 13_000))
    assert drift.signal == f"feature:{name}"
    assert at < drift.to_offset < at + 2_500
    assert abs(drift.from_offset - at) <= 8 * BLOCK
    assert drift.moved[0].feature == name
    assert drift.moved[0].how == how
    assert (drift.moved[0].shift > 0) == (how not in ("lower", "narrower"))
    assert {moved.feature for moved in drift.moved} == {name}


def test_a_small_move_is_let_pass():
    little = with_feature(amount=lambda rng: rng.lognormvariate(3.15, 1))
    found = [
        run(DriftWatch(watched(drift=Drift(shift_min=least)), 0), examples(changing(8_000, little), 20_000))
        for least in (0.0, 0.3)
    ]
    assert [len(messages) for messages in found] == [1, 0]
    assert found[0][0].severity < 0.3


@pytest.mark.parametrize("seed", range(3))
def test_a_feature_that_moves_in_one_segment_is_told_there_if_it_is_watched_there(seed: int):
    """Where a third moves up and another third down, no mean of all moves; nor does its spread, as it was wide before."""
    moves = {"a": 1.0, "b": -1.0, "c": 0.0}

    def make(rng: random.Random, i: int) -> tuple[dict[str, Any], Any, float]:
        x, label, p = steady(rng, i)
        shop = rng.choice("abc")
        middle = moves[shop] if i >= 15_000 else rng.choice((-1.0, 1.0)) if shop != "c" else 0.0
        return {**x, "shop": shop, "amount": middle + rng.gauss(0, 0.3)}, label, p

    def found(*, there: bool) -> list[Message]:
        settings = Drift(labels=False, scores=False, segment_features=there)
        watch = DriftWatch(watched(segments=("shop",), drift=settings), 0)
        drifts = []
        for first, part in ((0, 11_000), (11_000, 19_000)):
            stream = list(examples(make, 30_000, seed=seed))[first : first + part]
            drifts += run(watch, stream)
            again = DriftWatch(watched(segments=("shop",), drift=settings), 0)
            assert again.restore(watch.to_state())
            watch = again
        return drifts

    assert found(there=False) == []
    (drift,) = found(there=True)
    assert (drift.signal, drift.segment) in {("feature:amount", "shop=a"), ("feature:amount", "shop=b")}
    assert abs(drift.from_offset - 15_000) < 3 * 4 * 3 * BLOCK
    assert drift.moved[0].feature == "amount"
    assert drift.moved[0].how == ("higher" if drift.segment == "shop=a" else "lower")


def test_a_history_that_fills_up_is_no_drift():
    """At first every entity's history is short; a mean over 20 minutes settles when 20 minutes have passed."""

    def filling(rng: random.Random, i: int) -> tuple[dict[str, Any], Any, float]:
        _, label, p = steady(rng, i)
        history = rng.gauss(min(1.0, i / 6_000), 0.2)
        return {"amount": 1.0, "mean": history}, label, p

    mean = entity.mean("amount", "7s", name="mean")  # examples come a millisecond apart
    watch = DriftWatch(watched(features={"amount": float}, entity_features=[mean]), 0)
    assert run(watch, examples(filling, 16_000)) == []
    watch = DriftWatch(watched(features={"amount": float, "mean": float}), 0)
    assert len(run(watch, examples(filling, 16_000))) == 1


def history(at: int, step: float = 0.0) -> Maker:
    """Means of what 20 entities did in the last second; from `at` on they do something else."""
    past = [[(0, 0.0)] for _ in range(20)]

    def make(rng: random.Random, i: int) -> tuple[dict[str, Any], Any, float]:
        _, label, p = steady(rng, i)
        its = past[rng.randrange(20)]
        its[:] = [(t, v) for t, v in its if t > i - 1_000] + [(i, rng.gauss(step if i >= at else 0.0, 1.0))]
        return {"amount": 1.0, "mean": sum(v for _, v in its) / len(its)}, label, p

    return make


@pytest.mark.parametrize("seed", range(3))
def test_a_history_that_all_remember_alike_is_no_drift(seed: int):
    """For a second every example sees the same events again: thousands of values say little more than a few."""
    mean = entity.mean("amount", "1s", name="mean")
    pipeline = watched(features={"amount": float}, entity_features=[mean])
    watch = DriftWatch(pipeline, 0)
    assert run(watch, examples(history(10**9), 60_000, seed=seed)) == []
    report = watch.report()
    assert report["ready"] == report["monitors"]  # it would have been noticed
    (drift,) = run(DriftWatch(pipeline, 0), examples(history(60_000, 0.3), 90_000, seed=seed))
    assert drift.signal == "feature:mean"
    assert 60_000 < drift.to_offset
    assert abs(drift.from_offset - 60_000) < 4_000
    assert drift.moved[0].feature == "mean"
    assert drift.moved[0].how == "higher"


def test_a_block_as_long_as_a_window_begins_with_the_first_example_that_is_in_it():
    feature = Feature("mean", 1e-6, 1_000, of_texts=False)
    for first in range(0, 5_000, 128):  # groups of 128, a millisecond apart; the window begins after the first
        feature.blocks(first, first + 127, [1, 1, 1, 1], [0, 0, 0, 0])
    assert list(feature.starts) == [128, 128 + 8 * 128, 128 + 16 * 128, 128 + 24 * 128]


def test_a_change_in_one_segment_is_found_there():
    at = 12_000

    def make(rng: random.Random, i: int) -> tuple[dict[str, Any], Any, float]:
        x, label, p = steady(rng, i)
        if i >= at and x["shop"] == "c":
            label = rng.random() < 0.5
        if i >= at and x["shop"] == "a" and rng.random() < 0.9:  # better there: nothing is to be seen in all together
            label = p >= 0.5
        return x, label, p

    (drift,) = run(DriftWatch(watched(segments=("shop",), drift=Drift(labels=False)), 0), examples(make, 20_000))
    assert (drift.segment, drift.signal) == ("shop=c", "error")
    assert at < drift.to_offset < at + 5_000
    assert abs(drift.from_offset - at) < 6 * 6 * BLOCK


def test_of_a_segment_the_first_values_are_told_apart():
    shops: Maker = lambda rng, i: ({**features(rng), "shop": f"s{i % 50}"}, True, 0.9)  # noqa: E731
    watch = DriftWatch(watched(segments=("shop",), segment_values_max=4), 0)
    run(watch, examples(shops, 200))
    assert list(watch._by_segment["shop"]) == ["s0", "s1", "s2", "(other)"]


def test_one_message_for_an_episode_and_another_for_the_next():
    def thrice(rng: random.Random, i: int) -> tuple[dict[str, Any], Any, float]:
        x, label, p = (steady if i < 20_000 else worse)(rng, i)
        return {**x, "amount": x["amount"] * (3 if i >= 8_000 else 1)}, label, p

    def at_once(rng: random.Random, i: int) -> tuple[dict[str, Any], Any, float]:
        x, label, p = worse(rng, i)
        return {**x, "amount": x["amount"] * 3}, label, p

    watch = DriftWatch(watched(), 0)
    first, second = run(watch, examples(thrice, 26_000))
    assert (first.signal, second.signal) == ("feature:amount", "error")
    assert watch.report()["episodes"] == 2
    watch = DriftWatch(watched(), 0)
    (drift,) = run(watch, examples(changing(8_000, at_once), 12_000))
    assert watch.report()["episode"] in (None, drift.drift_id)
    assert {moved.feature for moved in drift.moved} <= {"amount"}


@pytest.mark.parametrize("detector", [None, river_drift.PageHinkley, lambda: river_drift.ADWIN(1e-4)])
@pytest.mark.parametrize("every", [1_013, 3_200])
def test_a_crash_anywhere_changes_nothing(every: int, detector: Any):
    pipeline = watched(segments=("shop",), drift=Drift(detector=detector))
    stream = list(examples(changing(6_000, worse), 12_000))
    whole = DriftWatch(pipeline, 0)
    messages = run(whole, stream)
    assert messages
    watch, found = DriftWatch(pipeline, 0), []
    for start in range(0, len(stream), every):
        found += run(watch, stream[start : start + every])
        state = watch.to_state()
        watch = DriftWatch(pipeline, 0)
        assert watch.restore(state)
    assert found == messages
    assert watch.report() == whole.report()
    after = list(examples(worse, 3_000, seed=9, first=12_000))
    assert run(watch, after) == run(whole, after)
    assert msgspec.msgpack.decode(watch.to_state())[:2] == msgspec.msgpack.decode(whole.to_state())[:2]


def test_any_of_rivers_detectors_can_watch():
    pipeline = watched(drift=Drift(detector=river_drift.PageHinkley, labels=False, scores=False, features=False))
    (drift,) = run(DriftWatch(pipeline, 0), examples(changing(8_000, worse), 10_000))
    assert drift.detector == "PageHinkley"
    assert drift.signal == "error"
    assert abs(drift.from_offset - 8_000) < 10 * BLOCK


@pytest.mark.parametrize("make", [binary.DDM, binary.EDDM, binary.FHDDM, binary.HDDMA, binary.HDDMW])
def test_detectors_that_count_errors_are_told_of_errors(make: Any):
    pipeline = watched(drift=Drift(detector=make, scores=False, features=False, episode=100_000))
    watch = DriftWatch(pipeline, 0)
    stream = examples(changing(6_000, worse), 9_000)
    drifts = [drift for drift in run(watch, stream) if drift.to_offset > 6_000]
    assert [(drift.detector, drift.signal) for drift in drifts] == [(make.__name__, "error")] * len(drifts)
    # EDDM cries wolf before: then it is one episode with what came later.
    assert drifts or (make is binary.EDDM and watch.lasts)
    assert watch.report()["failures"] == 0


def test_a_detector_that_alarms_at_once_or_fails_ends_nothing():
    hasty = Drift(detector=lambda: river_drift.PageHinkley(min_instances=1, threshold=0.001), episode=1)
    run(DriftWatch(watched(drift=hasty), 0), examples(steady, 500))

    class Broken(river_drift.PageHinkley):
        def update(self, x: float) -> None:
            raise ValueError("not today")

    watch = DriftWatch(watched(drift=Drift(detector=Broken, features=False)), 0)
    assert run(watch, examples(worse, 500)) == []
    assert watch.report()["failures"] == 500 // BLOCK * BLOCK * 3  # errors, labels, scores


def test_a_detector_of_the_users_own_does_not_watch_names():
    watch = DriftWatch(watched(task="multiclass", drift=Drift(detector=river_drift.ADWIN)), 0)
    base = next(examples(steady, 1))[1]
    rng = random.Random(1)
    for i in range(3_000):
        label = rng.choice("abc")
        served = Served("b@0", label, {c: 0.8 if c == label else 0.1 for c in "abc"})
        assert watch.update(msgspec.structs.replace(base, label=label), served, i, 0) is None


def test_fewer_errors_are_no_drift_whoever_watches():
    bad: Maker = lambda rng, i: steady(rng, i, 0.45)  # noqa: E731
    pipeline = watched(drift=Drift(detector=river_drift.ADWIN, labels=False, scores=False, features=False))
    assert run(DriftWatch(pipeline, 0), examples(changing(5_000, steady, bad), 10_000)) == []


def test_a_rare_segment_that_notices_later_says_no_second_time():
    at = 30_000

    def make(rng: random.Random, i: int) -> tuple[dict[str, Any], Any, float]:
        x, label, p = (steady if i < at else worse)(rng, i)
        return {**x, "shop": "rare" if rng.random() < 0.06 else "usual"}, label, p

    ready = []
    for seed in range(3):
        watch = DriftWatch(watched(segments=("shop",), drift=Drift(features=False, labels=False, scores=False)), 0)
        (drift,) = run(watch, examples(make, 60_000, seed=seed))
        assert drift.segment is None
        ready += watch._by_segment["shop"]["rare"].ready()
    assert False in ready  # it had noticed, and learns anew what is usual


def test_monitors_begin_anew_when_others_are_wanted():
    watch = DriftWatch(watched(), 0)
    run(watch, examples(steady, 3_000))
    other = DriftWatch(watched(segments=("shop",)), 0)
    assert not other.restore(watch.to_state())
    assert other.report()["ready"] == 0
    assert run(other, examples(steady, 3_000)) == []


def test_nothing_is_watched_when_turned_off():
    watch = DriftWatch(watched(drift=False), 0)
    assert run(watch, examples(changing(5_000, worse), 10_000)) == []
    assert watch.report() == {"episode": None, "episodes": 0, "monitors": 0, "ready": 0, "failures": 0}


@pytest.mark.parametrize("task", ["multiclass", "regression", "anomaly"])
def test_every_task_has_errors_labels_and_scores(task: str):
    rng = random.Random(2)

    def served(bad: bool) -> tuple[Any, Served]:
        if task == "regression":
            y = rng.gauss(0, 100)
            return y, Served("b@0", y + rng.gauss(0, 50 if bad else 10))
        if task == "anomaly":
            y = rng.random() < 0.1
            return y, Served("b@0", y != (rng.random() < (0.3 if bad else 0.03)), None, rng.gauss(0, 3))
        y = rng.choice("abc")
        p = 0.5 if bad else 0.8
        return y, Served("b@0", y, {c: p if c == y else (1 - p) / 2 for c in "abc"})

    watch = DriftWatch(watched(task=task, drift=Drift(features=False)), 0)
    base = next(examples(steady, 1))[1]
    found = []
    for i in range(12_000):
        label, its = served(i >= 8_000)
        example = msgspec.structs.replace(base, label=label, served={"champion": its})
        message = watch.update(example, its, i, 0)
        found += [message] if message else []
    (drift,) = found
    assert drift.signal == "error"
    assert 8_000 < drift.to_offset < 9_500


def test_values_that_no_scorer_wrote_end_nothing():
    """Whoever can write to `examples` could else end the learner, again and again."""
    strange: list[Any] = [None, "text", True, 10**400, -(10**400), 1e308]

    def make(rng: random.Random, i: int) -> tuple[dict[str, Any], Any, float]:
        x, label, p = steady(rng, i)
        return {name: rng.choice(strange) if rng.random() < 0.01 else value for name, value in x.items()}, label, p

    assert run(DriftWatch(watched(segments=("shop",)), 0), examples(make, 8_000)) == []


def test_the_change_point_is_the_likeliest_split():
    rng = random.Random(4)
    for at in (6, 30, 60, 90):
        values = [rng.gauss(0 if i < at else 2, 0.5) for i in range(96)]
        assert change_point(values) == at


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"drift": "yes"}, "drift"),
        ({"drift": Drift(errors=1)}, "drift.errors"),  # type: ignore[arg-type]
        ({"drift": Drift(segment_features="yes")}, "drift.segment_features"),  # type: ignore[arg-type]
        ({"drift": Drift(false_alarms_per=10)}, "drift.false_alarms_per"),
        ({"drift": Drift(episode=0)}, "drift.episode"),
        ({"drift": Drift(shift_min=-1)}, "drift.shift_min"),
        ({"drift": Drift(detector=3)}, "drift.detector"),  # type: ignore[arg-type]
        ({"segments": "shop"}, "segments"),
        ({"segments": ("amount",)}, "segments"),
        ({"segments": ("color",)}, "segments"),
        ({"segments": ("shop", "shop")}, "segments"),
        ({"segment_values_max": 1}, "segment_values_max"),
        ({"alert_share": 2}, "alert_share"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], key: str):
    with pytest.raises(ConfigurationError) as error:
        watched(**changes)
    assert error.value.key == key
