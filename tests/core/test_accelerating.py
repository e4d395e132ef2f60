"""The fused learner is River's, bit for bit."""

import math

import pytest
from river import anomaly, datasets, linear_model, optim, preprocessing, tree

from stream.core.accelerating import _Fused, _Plain, compile_learner
from stream.core.digest import state_digest
from stream.core.lean_pickle import dump_model, load_model
from stream.errors import UpdateRefused


def logistic():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.03))


def linear():
    return preprocessing.StandardScaler() | linear_model.LinearRegression(optim.SGD(0.01), clip_gradient=50)


def numeric(pairs):
    return [({k: v for k, v in x.items() if not isinstance(v, str)}, y) for x, y in pairs]


@pytest.mark.parametrize(
    ("build", "dataset", "task"),
    [(logistic, datasets.Phishing, "binary"), (linear, datasets.ChickWeights, "regression")],
)
def test_the_fused_learner_leaves_the_state_that_river_would(build, dataset, task):
    river_model, fused_model = build(), build()
    learner = compile_learner(fused_model, task)
    assert isinstance(learner, _Fused)
    for i, (x, y) in enumerate(numeric(dataset())):
        river_model.learn_one(x, y)
        learner.learn(x, y)
        if i % 97 == 0:
            learner.sync()
            assert state_digest(fused_model) == state_digest(river_model)
    learner.sync()
    assert state_digest(fused_model) == state_digest(river_model)


def test_it_goes_on_after_a_snapshot():
    river_model, fused_model = logistic(), logistic()
    pairs = list(datasets.Phishing())
    learner = compile_learner(fused_model, "binary")
    for x, y in pairs[:300]:
        river_model.learn_one(x, y)
        learner.learn(x, y)
    learner.sync()
    again = load_model(dump_model(fused_model))
    learner = compile_learner(again, "binary")
    for x, y in pairs[300:]:
        river_model.learn_one(x, y)
        learner.learn(x, y)
    learner.sync()
    assert state_digest(again) == state_digest(river_model)


def test_another_set_of_features_falls_back_to_river():
    river_model, fused_model = logistic(), logistic()
    learner = compile_learner(fused_model, "binary")
    examples = [
        ({"a": 1.0, "b": 2.0}, True),
        ({"a": 2.0}, False),
        ({"b": 0.5, "a": 3.0}, True),
        ({"a": 1.5, "b": 1.0}, False),
    ]
    for x, y in examples * 5:
        river_model.learn_one(x, y)
        learner.learn(x, y)
    learner.sync()
    assert state_digest(fused_model) == state_digest(river_model)


def test_an_update_that_breaks_a_weight_changes_nothing():
    model = linear()
    model["LinearRegression"].clip_gradient = math.inf
    learner = compile_learner(model, "regression")
    for i in range(20):
        learner.learn({"a": float(i % 3)}, 1.0)
    learner.sync()
    before = state_digest(model)
    with pytest.raises(UpdateRefused):
        learner.learn({"a": 1.0}, math.inf)
    learner.sync()
    assert state_digest(model) == before


@pytest.mark.parametrize(
    "model",
    [
        linear_model.LogisticRegression(),
        preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.Adam()),
        preprocessing.StandardScaler() | linear_model.LogisticRegression(l2=0.1),
        tree.HoeffdingTreeClassifier(),
    ],
)
def test_any_other_model_learns_with_river(model):
    assert type(compile_learner(model, "binary")) is _Plain


def test_an_anomaly_detector_learns_without_the_label():
    model = anomaly.HalfSpaceTrees(seed=1)
    before = state_digest(model)
    compile_learner(model, "anomaly").learn({"a": 0.3}, True)
    assert state_digest(model) != before
