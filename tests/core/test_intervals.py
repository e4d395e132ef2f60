"""The confidence sequence holds its mean at all times, and is the test that decides, turned round."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from stream.core.evidence import BLOCK, Evidence
from stream.core.intervals import GRID, Interval

NEEDED = 20.0


def evidence_of(means: list[float]) -> Evidence:
    evidence = Evidence(interval=Interval())
    for mean in means:
        bounds_after(evidence, mean)
    return evidence


def bounds_after(evidence: Evidence, block: float) -> tuple[float | None, float | None]:
    """After one more block with this mean."""
    for _ in range(BLOCK):
        evidence.add(block)
    assert evidence.interval is not None
    return evidence.interval.bounds(NEEDED)


@pytest.mark.parametrize(
    "mean", [0.0, 0.012, -0.03, 0.4]
)  # in spreads of 0.03: none, a good deal, one, more than the cut
def test_both_bounds_hold_at_all_times_together(mean: float):
    wrong = [0, 0]
    widths = []
    for seed in range(120):
        rng = random.Random(seed)
        evidence, out = Evidence(interval=Interval()), [False, False]
        for _ in range(60):
            low, high = bounds_after(evidence, rng.gauss(mean, 0.03))
            out[0] |= low is not None and low > mean
            out[1] |= high is not None and high < mean
        widths.append((low is not None and high is not None) and high - low)
        wrong = [wrong[i] + out[i] for i in (0, 1)]
    assert max(wrong) <= 12  # 1 in 20 is 6 of 120; that so many happen by chance has a probability below 2 %
    assert sorted(width or 9.0 for width in widths)[60] < 0.2  # and it is of use


@pytest.mark.parametrize("seed", range(12))
def test_it_leaves_zero_when_the_evidence_suffices_and_not_before(seed: int):
    rng = random.Random(seed)
    shift = rng.choice((-0.02, 0.0, 0.02))
    evidence, seen = Evidence(interval=Interval()), set()
    for _ in range(60):
        low, high = bounds_after(evidence, rng.gauss(shift, 0.03))
        if evidence.better >= NEEDED or evidence.worse >= NEEDED:
            assert (low is not None and low >= 0.0) == (evidence.better >= NEEDED)
            assert (high is not None and high <= 0.0) == (evidence.worse >= NEEDED)
            seen.add("decided")
        else:
            assert low is None or low < 0.0
            assert high is None or high > 0.0
            seen.add("open")
    assert "open" in seen


def test_it_is_shifted_as_its_blocks_are():
    rng = random.Random(7)
    means = [rng.gauss(0.0, 0.03) for _ in range(80)]
    here, there = (evidence_of([mean + by for mean in means]).interval for by in (0.0, 0.06))
    assert here is not None and there is not None
    step = 0.2 * 0.1  # of the grid, at these distances from 0
    for a, b in zip(here.bounds(NEEDED), there.bounds(NEEDED), strict=True):
        assert a is not None and b is not None
        assert b - a == pytest.approx(0.06, abs=2 * step)


def test_blocks_that_do_not_scatter_say_nothing():
    interval = evidence_of([0.02] * 30).interval
    assert interval is not None
    assert interval.bounds(NEEDED) == (None, None)


def test_a_mean_that_changes_widens_it_around_the_average():
    interval = Interval()
    for block in range(200):
        interval.add((0.05 if block < 100 else -0.05) + 0.01 * (-1) ** block, 0.03)
        low, high = interval.bounds(NEEDED)
        assert low is None or high is None or low < high
    assert low is not None and high is not None
    assert low < 0.0 < high


def test_the_grid_has_zero_and_steps_of_a_fifth():
    assert sorted(GRID) == GRID and 0.0 in GRID
    above = [point for point in GRID if point > 0]
    assert all(b / a == pytest.approx(2**0.25) for a, b in pairwise(above))
