"""Latencies in buckets."""

from __future__ import annotations

import random

import pytest

from stream.worker.latencies import EDGES_S, SLOT_S, SLOTS, Latencies, percentile_s


def test_percentiles_are_right_to_within_a_bucket():
    rng = random.Random(1)
    values = [rng.lognormvariate(-4, 1) for _ in range(20_000)]
    latencies = Latencies()
    for value in values:
        latencies.note(value, 1, 0.0)
    ordered = sorted(values)
    for share in (0.5, 0.95, 0.99):
        found = percentile_s(latencies.counts, share)
        assert found == pytest.approx(ordered[int(share * len(ordered))], rel=0.25)
    assert latencies.sum_s == pytest.approx(sum(values))


def test_the_last_minute_forgets_what_came_before():
    latencies = Latencies()
    latencies.note(5.0, 100, 0.0)
    latencies.note(0.01, 10, SLOT_S * SLOTS)
    assert sum(latencies.recent(SLOT_S * SLOTS)) == 10
    assert sum(latencies.counts) == 110
    assert latencies.recent(10 * SLOT_S * SLOTS) == []


def test_what_takes_longer_than_the_last_edge_is_at_least_that():
    latencies = Latencies()
    latencies.note(1e6, 1, 0.0)
    assert percentile_s(latencies.counts, 0.5) == EDGES_S[-1]
