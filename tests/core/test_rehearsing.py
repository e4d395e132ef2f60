"""What cannot work, or would break a promise, is found before anything starts, on made-up events."""

from __future__ import annotations

import random
from typing import Any

import lightgbm
import pytest
from river import (
    anomaly,
    compose,
    dummy,
    forest,
    linear_model,
    multiclass,
    naive_bayes,
    neighbors,
    preprocessing,
    rules,
    tree,
)  # fmt: skip
from river import drift as river_drift

from stream import Drift, Labels, Pipeline, entity, number
from stream.core.rehearsing import rehearse
from stream.errors import ConfigurationError
from stream.pipeline import Limits
from tests.support.records import logistic, pipeline_of

TEXT = {"amount": float, "shop": str}
ONE = linear_model.LogisticRegression()
RATES = {"EUR": 1.0}


def twice(x: dict[str, Any]) -> dict[str, Any]:
    return {name: value * 2 for name, value in x.items() if not isinstance(value, str)}


def in_euros(x: dict[str, Any]) -> dict[str, Any]:
    return {"amount": x["amount"] * RATES[x["shop"]]}


def misspelt(x: dict[str, Any]) -> dict[str, Any]:
    return {"amount": x["amuont"]}


def positive_only(state: Any, features: Any, at_ms: int) -> tuple[Any, float]:
    return None, features["amount"] ** 0.5 + {True: 1.0}[features["amount"] > 0]


def in_place(state: dict[str, int], features: Any, at_ms: int) -> tuple[Any, int]:
    state["n"] += 1
    return state, state["n"]


def by_chance(state: Any, features: Any, at_ms: int) -> tuple[Any, float]:
    return None, random.random()


def counted(state: int, features: Any, at_ms: int) -> tuple[int, int]:
    return state + 1, state


def never(state: Any, features: Any, at_ms: int) -> tuple[Any, float]:
    raise RuntimeError("not today")


class Forgetful(linear_model.LogisticRegression):
    """A model that loses its weights in a snapshot."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "intercept": 0.0}


class Wrapped(linear_model.LogisticRegression):
    """As River's wrappers of scikit-learn hold a model of another library."""

    def __init__(self) -> None:
        super().__init__()
        self.estimator = lightgbm.Dataset([[0.0]])


def builds(model: Any) -> Any:
    return lambda params: model()


def seeded(params: dict[str, Any]) -> Any:
    return forest.ARFClassifier(3, seed=params["seed"], max_share_to_split=1.0)


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"model": dict}, "returns a dict; return a River estimator"),
        ({"model": lambda p: None}, "returns a NoneType"),
        ({"model": lambda p: Wrapped()}, "lightgbm.basic.Dataset can only be stored as a pickle, and none is loaded: use stream.boosting.Boosted"),
        ({"model": lambda p: p["lr"]}, "build(params) raises KeyError: 'lr'"),
        ({"model": builds(linear_model.LinearRegression)}, "LinearRegression is no classifier, and the task is 'binary'"),
        ({"model": builds(preprocessing.StandardScaler)}, "StandardScaler is no classifier"),
        ({"model": lambda p: preprocessing.StandardScaler() | linear_model.LinearRegression()}, "LinearRegression is no"),
        ({"model": logistic, "task": "regression"}, "LogisticRegression is no regressor"),
        ({"model": logistic, "task": "anomaly"}, "LogisticRegression is no anomaly detector"),
        ({"model": builds(anomaly.GaussianScorer), "task": "anomaly"}, "without labels"),
        ({"model": logistic, "task": "multiclass"}, "OneVsRestClassifier"),
        ({"model": lambda p: ONE}, "same object each time"),
        ({"model": lambda p: forest.ARFClassifier(3)}, "another ARFClassifier each time: pass params['seed']"),
        ({"model": lambda p: compose.FuncTransformer(lambda x: x) | ONE.clone()}, "model_cannot_be_snapshotted"),
        ({"model": lambda p: compose.FuncTransformer(twice) | ONE.clone()}, "snapshot_class_not_allowed"),
        ({"model": builds(Forgetful)}, "predicts otherwise"),
        ({"features": TEXT}, "OneHotEncoder"),
        ({"model": lambda p: compose.FuncTransformer(misspelt) | ONE.clone()}, "KeyError: 'amuont'"),
        ({"limits": Limits(snapshot_bytes_max=50)}, "a fresh model has"),
        ({"entity_features": [entity.custom("c", in_place, initial={"n": 0})]}, "in place: return a new one"),
        ({"entity_features": [entity.custom("c", by_chance)]}, "another answer each time"),
        ({"entity_features": [entity.custom("c", never)]}, "RuntimeError: not today"),
        ({"entity_features": [entity.custom("c", lambda s, x, t: (s, {1}))]}, "is of type set"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(changes: dict[str, Any], remedy: str):
    pipeline = pipeline_of(**{"entity_features": (), **changes})
    own = frozenset({"tests.core.test_rehearsing:Forgetful", "tests.core.test_rehearsing:misspelt"})
    with pytest.raises(ConfigurationError) as caught:
        rehearse(pipeline, own)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": lambda p: compose.FuncTransformer(in_euros) | ONE.clone(), "features": TEXT}, "model_fails"),
        ({"entity_features": [entity.custom("c", positive_only)]}, "entity_feature_fails"),
        (
            {"task": "regression", "features": {"amount": number(low=0, high=1e6)}, "model": builds(linear_model.LinearRegression)},
            "model_explodes",
        ),
        ({"model": builds(tree.HoeffdingTreeClassifier)}, "tree_never_splits_on_rare_classes"),
    ],
)  # fmt: skip
def test_what_may_work_is_warned_of(changes: dict[str, Any], code: str):
    own = frozenset({"tests.core.test_rehearsing:in_euros"})
    assert code in dict(rehearse(pipeline_of(**{"entity_features": (), **changes}), own))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"features": {"amount": number(low=0, high=9), "n": int, "new": bool}, "explain": False},
        {"features": TEXT, "model": lambda p: compose.Discard("shop") | preprocessing.StandardScaler() | ONE.clone()},
        {"features": TEXT, "model": lambda p: preprocessing.OneHotEncoder() | ONE.clone()},
        {"model": seeded},
        {"entity_features": [entity.custom("n", counted, initial=0)]},
        {"task": "multiclass", "model": lambda p: multiclass.OneVsRestClassifier(ONE.clone())},
        {"task": "multiclass", "model": builds(naive_bayes.GaussianNB), "labels": Labels(classes=("x", "y"))},
        {"task": "multiclass", "model": builds(linear_model.SoftmaxRegression)},
        {"model": builds(dummy.NoChangeClassifier)},
        {"task": "regression", "model": lambda p: rules.AMRules()},
        {"task": "regression", "model": lambda p: preprocessing.StandardScaler() | linear_model.PARegressor()},
        {"task": "anomaly", "model": lambda p: anomaly.HalfSpaceTrees(seed=p["seed"])},
        {"task": "anomaly", "model": lambda p: anomaly.QuantileFilter(anomaly.HalfSpaceTrees(seed=p["seed"]), q=0.9)},
        {"task": "anomaly", "model": lambda p: preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=p["seed"])},
    ],
)  # fmt: skip
def test_what_works_passes_without_a_warning(changes: dict[str, Any]):
    assert rehearse(pipeline_of(**changes)) == []


def test_a_rehearsal_leaves_the_pipeline_as_it_was():
    pipeline: Pipeline = pipeline_of(entity_features=[entity.custom("n", counted, initial=0)])
    before = pipeline.fingerprint("m")
    assert rehearse(pipeline) == rehearse(pipeline)
    assert pipeline.fingerprint("m") == before
    assert pipeline.entity_features[0].initial == 0


def test_neighbours_are_warned_of_and_work():
    assert [
        c for c, _ in rehearse(pipeline_of(model=lambda p: neighbors.KNNClassifier(engine=neighbors.LazySearch())))
    ] == ["prediction_changes_the_model"]


@pytest.mark.parametrize(
    ("task", "detector", "what"),
    [
        ("binary", river_drift.KSWIN, "another detector each time"),
        ("regression", river_drift.binary.DDM, "counts wrong predictions"),
        ("binary", lambda: 3, "River drift detector"),
    ],
)
def test_a_detector_that_cannot_watch_is_refused(task: Any, detector: Any, what: str):
    model = linear_model.LinearRegression if task == "regression" else linear_model.LogisticRegression
    pipeline = pipeline_of(task=task, model=builds(lambda: preprocessing.StandardScaler() | model()))
    pipeline = pipeline_of(task=task, model=pipeline.model, drift=Drift(detector=detector))
    with pytest.raises(ConfigurationError, match=what) as error:
        rehearse(pipeline)
    assert error.value.key == "drift.detector"


def test_a_detector_with_a_seed_is_accepted():
    rehearse(pipeline_of(drift=Drift(detector=lambda: river_drift.KSWIN(seed=1))))
    rehearse(pipeline_of(drift=Drift(detector=river_drift.PageHinkley)))
