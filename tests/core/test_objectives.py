"""Objectives: kept, broken, or not known yet."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import Labelling, Objectives
from stream.core.evaluating import Evaluation
from stream.core.objectives import Delays, coverage_of, judge
from stream.core.period_reports import Found, put_together
from stream.core.periods import slots_of
from stream.core.unbiased import UnbiasedFigures
from stream.errors import ConfigurationError
from stream.messages import Served
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


def asked_learner(asked: int = 100, judged: int = 100, worth: float = 60.0, **weighted: Any) -> dict[str, Any]:
    """Of the judged labels some came on request: mostly of hard events, so the plain figures look bad."""
    told = learner(0.2, -0.5, None)
    told["metrics"]["overall"] = {"labels": judged}
    told["metrics"]["unbiased"] = {
        "figure": "accuracy",
        "overall": {"labels": asked},
        "window": {"effective_labels": worth, "model": 0.95, "average_precision": 0.8, "skill_vs_persistence": 0.3, **weighted},
    }  # fmt: skip
    return told


BOTH = Objectives(quality=0.5, skill=0.1)


def test_where_people_are_asked_the_figures_of_all_events_are_judged():
    """Else a promise that is kept would show as broken: strategies ask about the hard events."""
    asked = pipeline_of(objectives=BOTH, labelling=Labelling())
    found = judge(asked, asked_learner())
    assert [(one.now, one.kept, one.basis) for one in found] == [
        (0.8, True, "unbiased.window"),
        (0.3, True, "unbiased.window"),
    ]
    plain = [(0.2, False, "window"), (-0.5, False, "window")]
    nobody = judge(pipeline_of(objectives=BOTH), asked_learner())
    assert [(one.now, one.kept, one.basis) for one in nobody] == plain
    by_itself = judge(asked, asked_learner(asked=9))  # nearly all labels come by themselves
    assert [(one.now, one.kept, one.basis) for one in by_itself] == plain
    few = judge(asked, asked_learner(worth=29.0))
    assert [(one.now, one.kept, one.basis) for one in few] == [(None, None, "unbiased.window")] * 2
    one_class = judge(asked, asked_learner(average_precision=None))
    assert [one.kept for one in one_class] == [None, True]
    other = judge(pipeline_of(objectives=Objectives(label_coverage=0.5), labelling=Labelling()), None)
    assert [one.basis for one in other] == [""]


@pytest.mark.parametrize(
    ("task", "figure", "value"),
    [("multiclass", "accuracy", 0.9), ("regression", "mae", 3.0), ("anomaly", "roc_auc", 0.7)],
)
def test_of_every_task_the_key_figure_of_all_events_is_found(task: str, figure: str, value: float):
    """As the learner reports it, not as a test makes it up."""
    rng = random.Random(3)
    unbiased, evaluation = UnbiasedFigures(task), Evaluation(task)
    for number in range(400):
        label: Any = {"multiclass": "ab"[number % 2], "regression": float(number % 5)}.get(task, number % 2 == 0)
        answer = rng.choice("ab") if task == "multiclass" else rng.random() * 5 if task == "regression" else False
        served = Served("b@0", answer, persistence=label, score=rng.random() if task == "anomaly" else None)
        unbiased.update(label, served, 0.1 if number % 4 else 1.0)
        evaluation.update(label, served)
    metrics = {**evaluation.report(), "unbiased": unbiased.report()}
    (one,) = judge(
        pipeline_of(task=task, objectives=Objectives(quality=value), labelling=Labelling()), {"metrics": metrics}
    )
    assert (one.name, one.basis) == (figure, "unbiased.window")
    sheet = metrics["unbiased"]["window"]
    assert one.now == (sheet["roc_auc"] if task == "anomaly" else sheet["model"])
    assert one.now is not None
    assert one.kept is (one.now <= value if task == "regression" else one.now >= value)


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
