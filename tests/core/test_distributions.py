"""Distributions of features, then and now."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.distributions import EVERY, FEATURES_MAX, SAMPLE, VALUES_MAX, Distributions, bins_of

FIRST = EVERY * SAMPLE


def fill(distributions: Distributions, examples: int, make: Any, start_ms: int = 0, step_ms: int = 1_000) -> None:
    for number in range(examples):
        distributions.add(make(number), start_ms + number * step_ms)


def report(distributions: Distributions) -> dict[str, dict[str, Any]]:
    return {shown["name"]: shown for shown in msgspec.json.decode(distributions.report())}


def test_nothing_is_shown_before_the_first_sample_is_whole():
    distributions = Distributions({"x": 0})
    fill(distributions, FIRST - 1, lambda i: {"x": float(i)})
    assert report(distributions) == {}
    distributions.add({"x": 0.5}, 10**9)
    fill(distributions, 300, lambda i: {"x": float(i)})
    assert list(report(distributions)) == ["x"]


def test_what_moved_is_far_from_what_it_was_and_what_stayed_is_near():
    rng = random.Random(3)
    distributions = Distributions({"moves": 0, "stays": 0, "kind": 0})
    fill(distributions, FIRST, lambda _: {"moves": rng.gauss(0, 1), "stays": rng.gauss(5, 2), "kind": rng.choice("ab")})
    fill(distributions, FIRST, lambda _: {"moves": rng.gauss(3, 1), "stays": rng.gauss(5, 2), "kind": rng.choice("bc")})
    shown = report(distributions)
    assert shown["moves"]["distance"] > 0.8
    assert shown["stays"]["distance"] < 0.15
    assert shown["kind"]["distance"] == pytest.approx(0.5, abs=0.1)
    assert shown["kind"]["now"][-1] == pytest.approx(0.5, abs=0.1)  # "c" is one of all others
    for its in shown.values():
        assert sum(its["then"]) == pytest.approx(1.0, abs=0.01)
        assert sum(its["now"]) == pytest.approx(1.0, abs=0.01)


def test_a_window_of_history_is_looked_at_once_it_has_passed():
    hour_ms = 3_600_000
    distributions = Distributions({"count_1h": hour_ms, "amount": 0})
    fill(distributions, FIRST + 300, lambda i: {"count_1h": i, "amount": i}, step_ms=1)
    assert list(report(distributions)) == ["amount"]
    fill(distributions, FIRST, lambda i: {"count_1h": i, "amount": i}, start_ms=hour_ms, step_ms=1)
    assert sorted(report(distributions)) == ["amount", "count_1h"]


def test_a_restored_one_remembers_then():
    distributions = Distributions({"x": 0})
    fill(distributions, FIRST, lambda i: {"x": i % 7})
    other = Distributions({"x": 0})
    other.restore(distributions.to_state())
    fill(other, FIRST, lambda i: {"x": i % 7 + 100})
    shown = report(other)["x"]
    assert shown["edges"] == [i - 0.5 for i in range(8)]
    assert shown["distance"] == 1.0


def test_it_is_bounded():
    names = {f"feature-{i}": 0 for i in range(3 * FEATURES_MAX)}
    distributions = Distributions(names)
    fill(distributions, FIRST + 300, lambda i: dict.fromkeys(names, f"{i}{'x' * 200}"))
    shown = report(distributions)
    assert len(shown) == FEATURES_MAX
    assert all(len(value) <= 40 for its in shown.values() for value in its["values"])
    assert all(len(its["values"]) == VALUES_MAX for its in shown.values())


@given(
    st.lists(st.none() | st.booleans() | st.text(max_size=60) | st.floats() | st.integers(), min_size=1, max_size=50)
)
def test_any_values_can_be_counted(column: list[Any]):
    bins = bins_of(column, 0)
    shares = bins.shares(column)
    assert shares == bins.then
    assert len(shares) == (len(bins.values) + 1 if bins.values else len(bins.edges) + 1)
    assert bins.edges == sorted(set(bins.edges))
    assert all(0.0 <= share <= 1.0 for share in shares)
