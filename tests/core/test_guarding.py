"""Guards and warnings."""

from __future__ import annotations

import math
from typing import Any

import pytest
from river import ensemble, forest, linear_model, neighbors, optim, preprocessing, tree

from stream.core.guarding import TreeBound, first_not_finite, warnings_for, winsorise

SCALED = preprocessing.StandardScaler() | linear_model.LinearRegression()


@pytest.mark.parametrize(
    ("model", "task", "code"),
    [
        (tree.HoeffdingTreeClassifier(), "binary", "tree_never_splits_on_rare_classes"),
        (SCALED, "regression", "scaler_before_regression_explodes"),
        (forest.AMFClassifier(), "binary", "model_grows_without_end"),
        (neighbors.KNNClassifier(), "binary", "prediction_changes_the_model"),
        (tree.HoeffdingTreeRegressor(), "regression", "tree_does_not_forget"),
        (
            ensemble.LeveragingBaggingClassifier(tree.HoeffdingTreeClassifier()),
            "binary",
            "tree_never_splits_on_rare_classes",
        ),
    ],
)
def test_each_trap_is_warned_of_by_name(model: Any, task: str, code: str):
    assert code in dict(warnings_for(model, task))


@pytest.mark.parametrize(
    ("model", "task"),
    [
        (preprocessing.StandardScaler() | linear_model.LogisticRegression(), "binary"),
        (tree.HoeffdingAdaptiveTreeClassifier(max_share_to_split=1.0), "binary"),
        (preprocessing.StandardScaler() | linear_model.LinearRegression(clip_gradient=100), "regression"),
        (SCALED, "binary"),
    ],
)
def test_a_sound_model_is_not_warned_of(model: Any, task: str):
    assert warnings_for(model, task) == []


def test_a_weight_that_is_not_finite_is_found_by_name():
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.1))
    model.learn_one({"a": 1.0}, True)
    assert first_not_finite(model) is None
    model["LogisticRegression"].intercept = math.nan
    assert first_not_finite(model) == "Pipeline.LogisticRegression.intercept"


def test_winsorising_keeps_the_type_and_leaves_null_alone():
    x: dict[str, Any] = {"a": -5, "b": 99.0, "c": None, "d": 1.0}
    assert winsorise(x, (("a", 0.0, 10.0), ("b", 0.0, 10.0), ("c", 0.0, 1.0), ("d", 0.0, 1.0))) == ["a", "b"]
    assert x == {"a": 0, "b": 10.0, "c": None, "d": 1.0}
    assert type(x["a"]) is int


def test_the_bound_reaches_the_trees_of_a_forest():
    model = forest.ARFClassifier(n_models=3, seed=1, grace_period=10, delta=0.9, tau=0.9)
    bound = TreeBound(model, 3)
    for i in range(2_000):
        model.learn_one({"a": float(i % 17), "b": float(i % 5)}, (i * 7) % 17 > 8)
        bound.enforce()
    assert max(member.n_leaves for member in model) == 3
