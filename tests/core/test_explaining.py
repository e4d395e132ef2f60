"""Scores equal River's own, and contributions add up to them."""

import math

import pytest
from river import (
    anomaly,
    datasets,
    dummy,
    ensemble,
    forest,
    linear_model,
    naive_bayes,
    optim,
    preprocessing,
    tree,
)

from stream.core.explaining import compile_scorer

BINARY = {
    "scaled logistic": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.05)),
    "bare logistic": lambda: linear_model.LogisticRegression(),
    "min-max logistic": lambda: preprocessing.MinMaxScaler() | linear_model.LogisticRegression(),
    "tree": lambda: tree.HoeffdingTreeClassifier(grace_period=50),
    "scaled tree": lambda: preprocessing.StandardScaler() | tree.HoeffdingTreeClassifier(grace_period=50),
    "adaptive tree": lambda: tree.HoeffdingAdaptiveTreeClassifier(grace_period=50, seed=1),
    "efdt": lambda: tree.ExtremelyFastDecisionTreeClassifier(grace_period=50),
    "forest": lambda: forest.ARFClassifier(n_models=3, seed=1),
    "bagging": lambda: ensemble.ADWINBaggingClassifier(tree.HoeffdingTreeClassifier(grace_period=50), 3, seed=1),
    "bayes": lambda: naive_bayes.GaussianNB(),
}
MULTICLASS = {
    "softmax": lambda: preprocessing.StandardScaler() | linear_model.SoftmaxRegression(),
    "tree": lambda: tree.HoeffdingTreeClassifier(grace_period=50),
    "forest": lambda: forest.ARFClassifier(n_models=3, seed=1),
}
REGRESSION = {
    "scaled linear": lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(optim.SGD(0.01)),
    "tree": lambda: tree.HoeffdingTreeRegressor(grace_period=50),
    "adaptive tree": lambda: tree.HoeffdingAdaptiveTreeRegressor(grace_period=50, seed=1),
    "mean": lambda: dummy.StatisticRegressor(__import__("river.stats").stats.Mean()),
}
UNEXPLAINED = {"bayes", "mean"}
ALL = 200


def total_of(explanation):
    assert explanation.rest == 0.0  # all contributions are listed
    return explanation.bias + math.fsum(part for _, part in explanation.contributions)


def trained(model, dataset, n=1_500):
    pairs = list(dataset.take(n + 200))
    for x, y in pairs[:n]:
        model.learn_one(x, y)
    return [x for x, _ in pairs[n:]] or [x for x, _ in pairs[-100:]]


@pytest.mark.parametrize("name", BINARY)
def test_a_binary_score_is_rivers_and_its_contributions_add_up(name):
    model = BINARY[name]()
    for x in trained(model, datasets.Phishing(), 1_000):
        expected = model.predict_proba_one(x).get(True, 0.0)
        answer = compile_scorer(model, "binary", explained_top=ALL)(x)
        assert answer.probabilities["true"] == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert answer.probabilities["false"] == pytest.approx(1 - expected, rel=1e-9, abs=1e-12)
        assert answer.prediction is (answer.probabilities["true"] >= 0.5)
        if name in UNEXPLAINED:
            assert answer.explanation is None
            continue
        total = total_of(answer.explanation)
        p = answer.probabilities["true"]
        assert total == pytest.approx(
            math.log(p / (1 - p)) if answer.explanation.scale == "log_odds" else p, rel=1e-6, abs=1e-9
        )


@pytest.mark.parametrize("name", MULTICLASS)
def test_a_multiclass_score_is_rivers_and_its_contributions_add_up(name):
    model = MULTICLASS[name]()
    for x in trained(model, datasets.ImageSegments(), 1_500)[:100]:
        expected = model.predict_proba_one(x)
        answer = compile_scorer(model, "multiclass", explained_top=ALL)(x)
        assert answer.probabilities == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert expected[answer.prediction] == max(expected.values())
        if answer.explanation.scale == "probability":
            total = total_of(answer.explanation)
            assert total == pytest.approx(answer.probabilities[answer.prediction], abs=1e-9)


@pytest.mark.parametrize("name", REGRESSION)
def test_a_regression_is_rivers_and_its_contributions_add_up(name):
    model = REGRESSION[name]()
    drop = {"ordinal_date", "gallup", "ipsos", "morning_consult", "rasmussen", "you_gov"} - {
        "gallup",
        "ipsos",
        "you_gov",
    }
    pairs = [({k: v for k, v in x.items() if k not in drop}, y) for x, y in datasets.TrumpApproval()]
    for x, y in pairs[:900]:
        model.learn_one(x, y)
    for x, _ in pairs[900:]:
        answer = compile_scorer(model, "regression", explained_top=ALL)(x)
        assert answer.prediction == pytest.approx(model.predict_one(x), rel=1e-9)
        if name not in UNEXPLAINED:
            total = total_of(answer.explanation)
            assert total == pytest.approx(answer.prediction, rel=1e-9)


def test_a_loss_with_its_own_mean_is_scored_as_river_does():
    model = linear_model.LinearRegression(loss=optim.losses.Poisson())
    for i in range(50):
        model.learn_one({"a": 1.0}, float(i % 3))
    answer = compile_scorer(model, "regression", explained_top=ALL)({"a": 1.0})
    assert answer.prediction == model.predict_one({"a": 1.0})
    assert answer.explanation is None


@pytest.mark.parametrize("name", BINARY)
def test_a_fresh_binary_model_is_undecided(name):
    x, _ = next(iter(datasets.Phishing()))
    answer = compile_scorer(BINARY[name](), "binary", explained_top=ALL)(dict(x))
    assert answer.probabilities == {"false": 0.5, "true": 0.5}


def test_a_fresh_multiclass_model_predicts_nothing():
    x, _ = next(iter(datasets.ImageSegments()))
    for build in MULTICLASS.values():
        answer = compile_scorer(build(), "multiclass", explained_top=ALL)(dict(x))
        assert answer.prediction is None
        assert answer.probabilities == {}


def test_scoring_leaves_a_scaled_model_as_it_was():
    model = BINARY["scaled logistic"]()
    compile_scorer(model, "binary", explained_top=ALL)({"never_seen": 1.0})
    assert dict(model["StandardScaler"].means) == {}


def test_a_feature_the_model_never_saw_contributes_nothing():
    model = BINARY["scaled logistic"]()
    xs = trained(model, datasets.Phishing())
    scorer = compile_scorer(model, "binary", explained_top=ALL)
    same, without = scorer({**xs[0], "new": 1e9}), scorer(xs[0])
    assert (same.prediction, same.probabilities) == (without.prediction, without.probabilities)


@pytest.mark.parametrize("name", ["scaled logistic", "min-max logistic", "tree", "forest"])
@pytest.mark.parametrize("top", [1, 3])
def test_the_largest_contributions_are_listed_and_the_others_summed_up(name, top):
    model = BINARY[name]()
    for x in trained(model, datasets.Phishing(), 1_000)[:50]:
        everything = compile_scorer(model, "binary", explained_top=ALL)(x).explanation
        explanation = compile_scorer(model, "binary", explained_top=top)(x).explanation
        magnitudes = [abs(part) for _, part in everything.contributions]
        assert magnitudes == sorted(magnitudes, reverse=True)
        assert explanation.contributions == everything.contributions[:top]
        assert explanation.rest == pytest.approx(sum(part for _, part in everything.contributions[top:]), abs=1e-12)


def test_the_threshold_decides():
    model = BINARY["scaled logistic"]()
    xs = trained(model, datasets.Phishing())
    p = compile_scorer(model, "binary", explained_top=0)(xs[0]).probabilities["true"]
    assert compile_scorer(model, "binary", explained_top=0, threshold=p - 1e-9)(xs[0]).prediction is True
    assert compile_scorer(model, "binary", explained_top=0, threshold=p + 1e-9)(xs[0]).prediction is False


def test_a_model_that_is_not_finite_is_refused():
    model = linear_model.LogisticRegression()
    model.learn_one({"a": float("nan")}, True)
    with pytest.raises(ValueError, match="not a number"):
        compile_scorer(model, "binary", explained_top=ALL)({"a": 1.0})


def test_an_anomaly_is_flagged_by_threshold_or_by_rivers_filter():
    plain = anomaly.HalfSpaceTrees(seed=1)
    quantile = anomaly.QuantileFilter(anomaly.HalfSpaceTrees(seed=1), q=0.9)
    for i in range(500):
        for model in (plain, quantile):
            model.learn_one({"a": (i % 10) / 10})
    for model in (plain, quantile):
        answer = compile_scorer(model, "anomaly", explained_top=ALL, threshold=0.5)({"a": 0.95})
        assert answer.score == model.score_one({"a": 0.95})
        assert isinstance(answer.prediction, bool)
