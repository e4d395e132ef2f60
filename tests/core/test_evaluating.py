"""The figures against River's own metrics, overall and in the window."""

from __future__ import annotations

import random
from typing import Any

import pytest
from river import metrics

from stream.core.baselines import Baselines
from stream.core.evaluating import Evaluation
from stream.messages import Served

N, WINDOW = 700, 200


def scored(pairs: list[tuple[Any, Any]], metric: Any) -> float:
    for label, prediction in pairs:
        metric.update(label, prediction)
    return float(metric.get())


def binary_stream(share: float) -> list[tuple[bool, float]]:
    rng = random.Random(3)
    stream = []
    for _ in range(N):
        label = rng.random() < share
        stream.append((label, min(0.99, max(0.01, rng.gauss(0.65 if label else 0.4, 0.2)))))
    return stream


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_binary_figures_are_rivers(share: float):
    stream = binary_stream(share)
    evaluation = Evaluation("binary", window=WINDOW)
    for label, p in stream:
        evaluation.update(label, Served("v", p >= 0.5, {"false": 1 - p, "true": p}))
    report = evaluation.report()
    for part, its in (("overall", stream), ("window", stream[-WINDOW:])):
        hard = [(label, p >= 0.5) for label, p in its]
        sheet = report[part]["model"]
        assert report[part]["labels"] == len(its)
        for name, metric in (
            ("accuracy", metrics.Accuracy()),
            ("kappa", metrics.CohenKappa()),
            ("precision", metrics.Precision()),
            ("recall", metrics.Recall()),
            ("f1", metrics.F1()),
            ("balanced_accuracy", metrics.BalancedAccuracy()),
        ):
            assert sheet[name] == pytest.approx(scored(hard, metric)), name
        assert sheet["log_loss"] == pytest.approx(
            scored([(y, {True: p, False: 1 - p}) for y, p in its], metrics.LogLoss())
        )
        assert sheet["brier"] == pytest.approx(sum((p - y) ** 2 for y, p in its) / len(its))
        assert sheet["roc_auc"] == pytest.approx(exact_auc(its), abs=0.01)


def exact_auc(pairs: list[tuple[bool, float]]) -> float:
    yes, no = [p for y, p in pairs if y], [p for y, p in pairs if not y]
    return sum((a > b) + 0.5 * (a == b) for a in yes for b in no) / (len(yes) * len(no))


def test_multiclass_figures_are_rivers():
    rng = random.Random(5)
    stream = [(label := rng.choice("aabbbc"), label if rng.random() < 0.7 else rng.choice("abc")) for _ in range(N)]
    evaluation = Evaluation("multiclass", window=WINDOW)
    for label, prediction in stream:
        evaluation.update(label, Served("v", prediction, {"a": 0.2, "b": 0.5, "c": 0.3}))
    report = evaluation.report()
    for part, its in (("overall", stream), ("window", stream[-WINDOW:])):
        sheet = report[part]["model"]
        assert sheet["accuracy"] == pytest.approx(scored(its, metrics.Accuracy()))
        assert sheet["macro_f1"] == pytest.approx(scored(its, metrics.MacroF1()))
        assert sheet["kappa"] == pytest.approx(scored(its, metrics.CohenKappa()))
        assert set(sheet["recall_by_class"]) == set("abc")


@pytest.mark.parametrize(("said", "error"), [(0.7, 0.0), (0.9, 0.2)])
def test_the_confidence_in_one_of_several_classes_is_right_as_often_as_it_says(said: float, error: float):
    rng = random.Random(6)
    evaluation = Evaluation("multiclass", window=2_000)
    for i in range(4_000):
        name = rng.choice("abc")
        right = rng.random() < 0.7
        rest = {other: (1 - said) / 2 for other in "abc" if other != name}
        label = name if right else next(iter(rest))
        evaluation.update(label, Served("v", name, {name: said, **rest}))
        if i == 2_500:
            evaluation = Evaluation.from_state(evaluation.to_state())
    report = evaluation.report()
    for part in ("overall", "window"):
        assert report[part]["model"]["calibration_error"] == pytest.approx(error, abs=0.03)
        assert "roc_auc" not in report[part]["model"]


def test_regression_figures_are_rivers():
    rng = random.Random(7)
    stream = [(y := rng.gauss(10, 4), y + rng.gauss(0.5, 1)) for _ in range(N)]
    evaluation = Evaluation("regression", window=WINDOW)
    for label, prediction in stream:
        evaluation.update(label, Served("v", prediction, persistence=9.0, prior=10.0))
    report = evaluation.report()
    for part, its in (("overall", stream), ("window", stream[-WINDOW:])):
        sheet = report[part]["model"]
        assert sheet["mae"] == pytest.approx(scored(its, metrics.MAE()))
        assert sheet["rmse"] == pytest.approx(scored(its, metrics.RMSE()))
        assert sheet["r2"] == pytest.approx(scored(its, metrics.R2()))
        assert sheet["bias"] == pytest.approx(sum(p - y for y, p in its) / len(its))
        assert report[part]["skill_vs_prior"] == pytest.approx(1 - sheet["mae"] / report[part]["prior"]["mae"])
    errors = sorted(abs(p - y) for y, p in stream[-WINDOW:])
    inside = sum(e <= evaluation.interval_half_width() for e in errors) / WINDOW  # type: ignore[operator]
    assert 0.9 <= inside <= 0.92


def test_anomaly_scores_are_judged_without_probabilities():
    evaluation = Evaluation("anomaly")
    for label, p in binary_stream(0.1):
        evaluation.update(label, Served("v", p > 0.7, None, p))
    sheet = evaluation.report()["overall"]["model"]
    assert sheet["roc_auc"] == pytest.approx(exact_auc(binary_stream(0.1)), abs=0.01)
    assert "log_loss" not in sheet


@pytest.mark.parametrize(("scale", "shift"), [(40.0, 0.0), (3.0, -2.0), (1_000.0, 5.0), (1.0, -7.0)])
def test_anomaly_scores_may_leave_zero_to_one(scale: float, shift: float):
    """LOF and LODA score above 1, one-class SVMs below 0."""
    pairs = [(label, shift + scale * p) for label, p in binary_stream(0.1)]
    evaluation = Evaluation("anomaly", window=WINDOW)
    for label, score in pairs:
        evaluation.update(label, Served("v", False, None, score))
    for span, its in (("overall", pairs), ("window", pairs[-WINDOW:])):
        assert evaluation.report()[span]["model"]["roc_auc"] == pytest.approx(exact_auc(its), abs=0.02)
    again = Evaluation.from_state(evaluation.to_state())
    assert again.report() == evaluation.report()


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression", "anomaly"])
def test_an_empty_report_has_no_figures_and_no_error(task: str):
    report = Evaluation(task).report()
    assert report["overall"]["labels"] == 0
    assert report["overall"]["skill_vs_prior"] is None


def test_a_model_that_knows_no_class_yet_is_not_judged():
    evaluation = Evaluation("multiclass")
    evaluation.update("a", Served("v", None, {}))
    assert evaluation.report()["window"]["model"]["accuracy"] is None


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_the_state_goes_on_where_it_stood(task: str):
    stream: list[Any] = binary_stream(0.3)
    whole, first = Evaluation(task, window=WINDOW), Evaluation(task, window=WINDOW)

    def served(p: float) -> Served:
        return (
            Served("v", p, persistence=0.5, prior=0.4)
            if task == "regression"
            else Served("v", p > 0.5, {"false": 1 - p, "true": p})
        )

    for label, p in stream:
        whole.update(label, served(p))
    for label, p in stream[:400]:
        first.update(label, served(p))
    second = Evaluation.from_state(first.to_state())
    for label, p in stream[400:]:
        second.update(label, served(p))
    assert second.to_state() == whole.to_state()


def test_baselines_know_what_came_before():
    baselines = Baselines("multiclass")
    assert (baselines.persistence, baselines.prior, baselines.prior_probabilities) == (None, None, None)
    for label in "abba":
        baselines.update(label)
    assert (baselines.persistence, baselines.prior) == ("a", "a")
    assert baselines.prior_probabilities == {"a": 0.5, "b": 0.5}
    assert Baselines.from_state(baselines.to_state()).to_state() == baselines.to_state()


def test_many_classes_do_not_grow_the_state_without_end():
    evaluation, baselines = Evaluation("multiclass", window=10), Baselines("multiclass")
    sizes = []
    for i in range(12_001):
        evaluation.update(f"class-{i}", Served("v", f"class-{i - 1}"))
        baselines.update(f"class-{i}")
        if i in (11_000, 12_000):
            sizes.append((len(evaluation.to_state()), len(baselines.to_state())))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)  # without a bound they would grow by a tenth
    assert evaluation.report()["overall"]["model"]["accuracy"] == 0.0
