"""Entity features against a brute-force pass over the whole history."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import entity
from stream.core.features import PANES, EntityFeatures
from stream.errors import RecordRejected

WINDOW_MS = 8_000
PANE_MS = WINDOW_MS // PANES
DECLARED = [
    entity.count("8s"),
    entity.sum("v", "8s"),
    entity.mean("v", "8s"),
    entity.std("v", "8s"),
    entity.min("v", "8s"),
    entity.max("v", "8s"),
    entity.distinct("shop", "8s"),
    entity.last("shop", default=-1.0),
    entity.seconds_since_last(default=-1.0),
    entity.mean("v", "80s"),
]

EVENTS = st.lists(
    st.tuples(
        st.integers(min_value=-3_000, max_value=6_000),  # event time may step back
        st.floats(min_value=-1e6, max_value=1e6).map(lambda v: round(v, 3)),
        st.integers(min_value=0, max_value=9),
    ),
    min_size=1,
    max_size=60,
)


def timed(steps: list[tuple[int, float, int]]) -> list[tuple[int, float, str]]:
    now_ms, events = 100_000, []
    for step, value, shop in steps:
        now_ms = max(0, now_ms + step)
        events.append((now_ms, value, f"shop-{shop}"))
    return events


def brute_force(history: list[tuple[int, float, str]], now_ms: int) -> dict[str, Any]:
    newest = max([at for at, _, _ in history] + [now_ms])

    def inside(window_ms: int) -> list[tuple[int, float, str]]:
        # An event too old at its arrival never entered; later windows lie further on, so it stays out.
        pane_ms = window_ms // PANES
        return [e for e in history if e[0] // pane_ms > newest // pane_ms - PANES]

    values = [v for _, v, _ in inside(WINDOW_MS)]
    latest = None
    for at, _, shop in history:
        if latest is None or at >= latest[0]:
            latest = (at, shop)
    return {
        "count_8s": float(len(values)),
        "v_sum_8s": math.fsum(values),
        "v_mean_8s": statistics.fmean(values) if values else 0.0,
        "v_std_8s": statistics.pstdev(values) if values else 0.0,
        "v_min_8s": min(values, default=0.0),
        "v_max_8s": max(values, default=0.0),
        "shop_distinct_8s": len({s for _, _, s in inside(WINDOW_MS)}),
        "shop_last": latest[1] if latest else -1.0,
        "seconds_since_last": (newest - max(at for at, _, _ in history)) / 1_000 if history else -1.0,
        "v_mean_80s": statistics.fmean([v for _, v, _ in inside(80_000)]) if inside(80_000) else 0.0,
    }


@given(EVENTS)
def test_every_value_is_that_of_a_brute_force_pass(steps: list[tuple[int, float, int]]):
    features = EntityFeatures(DECLARED)
    state, history = None, []
    for at_ms, value, shop in timed(steps):
        expected = brute_force(history, at_ms)
        if state is not None:
            state = features.decode(features.encode(state))  # a reload at every step changes nothing
        state, values = features.advance(state, {"v": value, "shop": shop}, at_ms)
        history.append((at_ms, value, shop))
        assert list(values) == [f.name for f in DECLARED]
        for name, expectation in expected.items():
            if isinstance(expectation, str):
                assert values[name] == expectation
            elif name == "shop_distinct_8s":
                assert values[name] == pytest.approx(expectation, abs=0.2 + 0.1 * expectation)
            else:
                assert values[name] == pytest.approx(expectation, rel=1e-6, abs=2e-3 if "std" in name else 1e-6)


@given(EVENTS)
def test_a_reload_between_two_events_leaves_the_same_bytes(steps: list[tuple[int, float, int]]):
    features = EntityFeatures(DECLARED)
    kept = reloaded = None
    for at_ms, value, shop in timed(steps):
        kept, _ = features.advance(kept, {"v": value, "shop": shop}, at_ms)
        reloaded = features.decode(features.encode(reloaded)) if reloaded is not None else None
        reloaded, _ = features.advance(reloaded, {"v": value, "shop": shop}, at_ms)
        assert features.encode(kept) == features.encode(reloaded)


def test_a_window_reaches_back_between_seven_eighths_and_the_whole():
    features = EntityFeatures([entity.count("8s")])
    for age_ms, counted in ((6_999, 1.0), (8_001, 0.0)):
        for phase_ms in range(0, PANE_MS, 50):
            state, _ = features.advance(None, {}, 50_000 + phase_ms)
            assert features.advance(state, {}, 50_000 + phase_ms + age_ms)[1]["count_8s"] == counted


def test_the_state_of_an_entity_is_bounded():
    features = EntityFeatures(DECLARED)
    state = None
    sizes = []
    for i in range(5_000):
        state, _ = features.advance(state, {"v": float(i), "shop": f"shop-{i}"}, 1_000 * i)
        if i % 1_000 == 999:
            sizes.append(len(features.encode(state)))
    assert max(sizes) < 1.1 * sizes[0]  # numbers are written in as few bytes as they need, so it varies a little


@pytest.mark.parametrize("different", [10, 100, 500])
def test_distinct_is_within_its_stated_error(different: int):
    features = EntityFeatures([entity.distinct("shop", "1h")])
    state = None
    for i in range(3 * different):
        state, _ = features.advance(state, {"shop": f"shop-{i % different}"}, 1_000)
    estimate = features.advance(state, {"shop": "shop-0"}, 1_000)[1]["shop_distinct_1h"]
    assert estimate == pytest.approx(different, rel=4 * 0.03, abs=1)


def test_sums_do_not_cancel_for_large_values_with_small_spread():
    features = EntityFeatures([entity.std("v", "1h")])
    state = None
    values = [1e9 + i % 3 for i in range(300)]
    for value in values:
        state, _ = features.advance(state, {"v": value}, 1_000)
    assert features.advance(state, {"v": 0.0}, 1_000)[1]["v_std_1h"] == pytest.approx(
        statistics.pstdev(values), rel=1e-9
    )


def streak(state: Any, features: Any, at_ms: int) -> tuple[Any, Any]:
    if features["v"] < 0:
        raise ValueError("below zero")
    return [*state, features["v"]], float(len(state))


def test_a_custom_feature_has_its_own_state_and_its_errors_refuse_the_event_only():
    features = EntityFeatures([entity.count("1h"), entity.custom("streak", streak, initial=[], state_bytes_max=40)])
    state, values = features.advance(None, {"v": 1.0}, 1_000)
    assert values["streak"] == 0.0
    before = features.encode(state)
    with pytest.raises(RecordRejected, match="raised ValueError") as caught:
        features.advance(state, {"v": -1.0}, 2_000)
    assert caught.value.code == "entity_feature_failed"
    assert features.encode(state) == before
    for _ in range(3):
        state, values = features.advance(state, {"v": 1.0}, 3_000)
    assert values["streak"] == 3.0
    with pytest.raises(RecordRejected, match="state_bytes_max is 40"):
        features.advance(state, {"v": 1.0}, 3_000)


def test_the_hash_does_not_depend_on_the_process():
    features = EntityFeatures([entity.distinct("shop", "1h")])
    state, _ = features.advance(None, {"shop": "a"}, 0)
    state_of_shop_a = "930000940001980000cd08000000000000919200980000cd08000000000000"
    assert features.encode(state).hex() == state_of_shop_a
