"""Objectives: kept, broken, or not known yet."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import Objectives
from stream.core.objectives import Delays, coverage_of, judge
from stream.core.period_reports import Found, put_together
from stream.core.periods import slots_of
from stream.errors import ConfigurationError
from tests.support.records import pipeline_of

ALL = Objectives(quality=0.5, skill=0.1, latency_p99_ms=100.0, label_delay="1h", label_coverage=0.9)


def learner(average_precision: float | None, skill: float | None, p50: float | None) -> dict[str, Any]:
    window = {"model": {"average_precision": average_precision}, "skill_vs_persistence": skill}
    return {"metrics": {"window": window}, "label_delay_ms": {"p50": p50}}


def test_each_is_judged_by_its_figure():
    pipeline = pipeline_of(objectives=ALL)
    found = judge(pipeline, learner(0.6, 0.05, 3_500_000.0), label_coverage=0.95, latency_p99_ms=120.0)
    assert [(one.name, one.kept) for one in found] == [
        ("average_precision", True),
        ("skill_vs_persistence", False),
        ("latency_p99_ms", False),
        ("label_delay_p50_ms", True),
        ("label_coverage", True),
    ]


def test_nothing_is_said_of_what_is_not_known():
    found = judge(pipeline_of(objectives=ALL), None)
    assert {one.kept for one in found} == {None}
    assert judge(pipeline_of(), learner(0.1, 0.1, 1.0)) == []
    assert [one.target for one in found] == [0.5, 0.1, 100.0, 3_600_000, 0.9]


def test_coverage_counts_labels_that_somebody_gave():
    counts = {"predictions": 20, "on_time_labels": 3, "early_labels": 1, "late_labels": 1, "default_labels": 9}
    assert coverage_of(counts) == 0.25
    assert coverage_of({"on_time_labels": 3}) is None


def test_of_an_error_less_is_better():
    pipeline = pipeline_of(task="regression", objectives=Objectives(quality=2.0))
    for mae, kept in ((1.9, True), (2.1, False)):
        (one,) = judge(pipeline, {"metrics": {"window": {"model": {"mae": mae}}}})
        assert one.kept is kept


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_of_delays_is_within_a_fifth(delays: list[int], share: float):
    counted = Delays()
    for delay in delays:
        counted.add(delay)
    found = counted.quantile(share)
    assert found is not None
    assert any(0.8 * d <= found <= 1.25 * d for d in delays)
    below = sum(delay <= found * 1.25 for delay in delays)
    assert below >= share * len(delays)


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"quality": "good"}, "objectives.quality"), ({"label_delay": "soon"}, "objectives.label_delay")],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], key: str):
    with pytest.raises(ConfigurationError, match=key):
        pipeline_of(objectives=Objectives(**changes))


def test_a_report_has_the_bound_as_it_was_declared_not_as_it_is_written():
    pipeline = pipeline_of(objectives=Objectives(skill=0.123456789, label_delay="1234567s"))
    report = put_together(pipeline, slots_of(0, 1_000, 0, 0, 0), Found(), 0)
    assert [(one.name, one.target) for one in report.objectives] == [
        ("skill_vs_persistence", 0.123456789),
        ("label_delay_p50_ms", 1_234_567_000),
    ]
