"""Boosted trees with River's interface: trained by LightGBM in one batch, by retraining; served without LightGBM.

Where features are rich and the world changes slowly, they beat what learns one example at a time. Until retraining has
fitted one it answers with the share of each class (or the mean) that it has seen. Once fitted, the trees are frozen; with
`online_layer=True` a small layer on top of their score goes on learning and keeps it calibrated (Platt 1999,
"Probabilistic outputs for support vector machines", by stochastic gradient).

The trees are kept as LightGBM's own text. Texts among the features become categories; one that training did not see, and
null, count as missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from river import base

from stream.errors import ConfigurationError, UpdateRefused
from stream.flat_trees import FlatTrees, parse_trees

__all__ = ["BoostedClassifier", "BoostedRegressor", "is_batch_trained"]

NAN = math.nan
TINY = 1.0000000180025095e-35  # LightGBM reads what is nearer to 0 as 0 (kZeroThreshold)
CATEGORIES_MAX = 255  # the commonest of a text feature; all others are missing values
ROWS_MIN = 20
LABEL_MAX = 1e30  # LightGBM keeps labels in single precision
STEP_MAX = 10.0  # of one gradient of the layer


def is_batch_trained(model: Any) -> bool:
    """Whether a retraining must call `model.fit(features, labels)`.

    Raises ConfigurationError for such a model inside a River pipeline: its steps would be learned one by one.
    """
    if type(model) in (BoostedClassifier, BoostedRegressor):
        return True
    steps = getattr(model, "steps", None)
    if isinstance(steps, dict) and any(is_batch_trained(step) for step in steps.values()):
        raise ConfigurationError("model", model, "boosted trees need no scaling or encoding: return them by themselves")
    return False


class _Boosted(base.Estimator):  # type: ignore[misc]
    """What classifier and regressor share. Parameters are LightGBM's num_iterations, num_leaves, learning_rate,
    min_data_in_leaf, lambda_l2, feature_fraction and bagging_fraction."""

    def __init__(
        self,
        trees: int = 80,
        leaves: int = 31,
        learning_rate: float = 0.1,
        min_rows: int = 20,
        l2: float = 0.0,
        feature_share: float = 1.0,
        row_share: float = 1.0,
        online_layer: bool = False,
        online_rate: float = 0.01,
        seed: int = 42,
    ) -> None:
        self.trees, self.leaves, self.learning_rate, self.min_rows, self.l2 = trees, leaves, learning_rate, min_rows, l2
        self.feature_share, self.row_share = feature_share, row_share
        self.online_layer, self.online_rate, self.seed = online_layer, online_rate, seed
        self.text = ""  # LightGBM's; empty until fitted
        self.names: list[str] = []
        self.categories: dict[str, dict[str, float]] = {}
        self.weights: dict[str, float] = {}  # the layer's
        self.intercept: dict[str, float] = {}

    @property
    def fitted(self) -> bool:
        return bool(self.text)

    def flat(self) -> FlatTrees:
        """The trees, made ready once per process."""
        return parse_trees(self.text)

    def inputs(self, x: Mapping[str, Any]) -> list[float]:
        """A number or NaN for each feature, in the order of training."""
        categories = self.categories
        row = []
        for name in self.names:
            value = x.get(name)
            if name in categories:
                row.append(categories[name].get(value, NAN) if type(value) is str else NAN)
            else:
                row.append(NAN if value is None else 0.0 if -TINY <= value <= TINY else float(value))
        return row

    def _train(self, features: Sequence[Mapping[str, Any]], target: Any, **objective: Any) -> None:
        """Raises ConfigurationError: LightGBM is not installed, or there are fewer than 20 rows."""
        try:
            import lightgbm
        except ImportError:
            raise ConfigurationError(
                "lightgbm", None, "pip install 'driftloop[retrain]' where retraining runs"
            ) from None
        if len(features) < ROWS_MIN:
            raise ConfigurationError("labels", len(features), f"boosted trees need at least {ROWS_MIN} examples")
        self.names = list(features[0])
        self.categories = {name: found for name in self.names if (found := _categories(x[name] for x in features))}
        table = np.array([self.inputs(x) for x in features], dtype=np.float64)
        settings = {
            "num_leaves": self.leaves, "learning_rate": self.learning_rate, "min_data_in_leaf": self.min_rows,
            "lambda_l2": self.l2, "feature_fraction": self.feature_share, "bagging_fraction": self.row_share,
            "bagging_freq": int(self.row_share < 1.0), "seed": self.seed, "deterministic": True, "num_threads": 1,
            "force_col_wise": True, "verbosity": -1, **objective,
        }  # fmt: skip
        at = [self.names.index(name) for name in self.categories]
        rows = lightgbm.Dataset(
            table, target, categorical_feature=at, feature_name=[f"f{i}" for i in range(len(self.names))],
            params={"verbosity": -1, "num_threads": 1, "max_bin": 255},
        )  # fmt: skip
        booster = lightgbm.train(settings, rows, num_boost_round=self.trees)
        # What follows the trees are importances and settings: a digest of the model should not depend on them.
        self.text = booster.model_to_string(num_iteration=-1).partition("end of trees")[0] + "end of trees\n"
        self.flat()


def _categories(values: Any) -> dict[str, float]:
    """Code of each text, the commonest first; empty for a feature of numbers."""
    counts: dict[str, int] = {}
    for value in values:
        if isinstance(value, str):
            counts[value] = counts.get(value, 0) + 1
    ordered = sorted(counts, key=lambda text: (-counts[text], text))[:CATEGORIES_MAX]
    return {text: float(code) for code, text in enumerate(ordered)}


class BoostedClassifier(_Boosted, base.Classifier):  # type: ignore[misc]
    """Boosted classification trees, two classes (true and false) or more (texts).

    >>> BoostedClassifier().predict_proba_one({"amount": 1.0})
    {}
    """

    def __init__(
        self,
        trees: int = 80,
        leaves: int = 31,
        learning_rate: float = 0.1,
        min_rows: int = 20,
        l2: float = 0.0,
        feature_share: float = 1.0,
        row_share: float = 1.0,
        online_layer: bool = False,
        online_rate: float = 0.01,
        seed: int = 42,
    ) -> None:
        super().__init__(
            trees, leaves, learning_rate, min_rows, l2, feature_share, row_share, online_layer, online_rate, seed
        )
        self.classes: list[bool | str] = []  # of the trees, in their order
        self.counts: dict[bool | str, int] = {}

    @property
    def _multiclass(self) -> bool:
        return True

    def fit(self, features: Sequence[Mapping[str, Any]], labels: Sequence[bool | str]) -> None:
        """Train on these rows; deterministic. Fewer than two classes leave it unfitted. Raises ConfigurationError."""
        self.counts = {label: labels.count(label) for label in sorted(set(labels), key=str)}
        classes = list(self.counts)
        if len(classes) < 2:
            return
        codes = {label: code for code, label in enumerate(classes)}
        target = np.array([codes[label] for label in labels], dtype=np.float64)
        if len(classes) == 2:
            self._train(features, target, objective="binary")
        else:
            self._train(features, target, objective="multiclass", num_class=len(classes))
        self.classes = classes
        self.weights = {"scale": 1.0}
        scored = classes[1:] if len(classes) == 2 else classes
        self.intercept = {str(label): 0.0 for label in scored}

    def scores(self, raw: list[float]) -> list[float]:
        """Log odds of the second class, or the log of each class's odds but for a constant, from the trees' raw scores."""
        scale = self.weights["scale"]
        if len(self.classes) == 2:
            scale *= self.flat().sigmoid
        return [scale * score + shift for score, shift in zip(raw, self.intercept.values(), strict=True)]

    def probabilities(self, scores: list[float]) -> list[float]:
        """Of each class, in the order of `classes`."""
        if len(scores) == 1:
            p = _logistic(scores[0])
            return [1.0 - p, p]
        most = max(scores)
        powers = [math.exp(score - most) for score in scores]
        total = sum(powers)
        return [power / total for power in powers]

    def predict_proba_one(self, x: Mapping[str, Any]) -> dict[Any, float]:
        if not self.fitted:
            total = sum(self.counts.values())
            return {label: count / total for label, count in self.counts.items()}
        shares = self.probabilities(self.scores(self.flat().raw(self.inputs(x))))
        return dict(zip(self.classes, shares, strict=True))

    def learn_one(self, x: Mapping[str, Any], y: bool | str) -> None:
        """Nothing once the trees are there, but for the layer. Raises UpdateRefused."""
        if not self.fitted:
            self.counts[y] = self.counts.get(y, 0) + 1
            return
        if not self.online_layer or y not in self.classes:
            return
        raw = self.flat().raw(self.inputs(x))
        shares = self.probabilities(self.scores(raw))[-len(raw) :]
        classes = self.classes[-len(raw) :]
        rate, slope = self.online_rate, 0.0
        moved = []
        for score, share, label in zip(raw, shares, classes, strict=True):
            gradient = share - (label == y)
            slope += gradient * score
            moved.append(self.intercept[str(label)] - rate * gradient)
        scale = self.weights["scale"] - rate * min(max(slope, -STEP_MAX), STEP_MAX)
        if not math.isfinite(scale + sum(moved)):
            raise UpdateRefused("a weight of the online layer would not be finite")
        self.weights["scale"] = max(scale, 0.0)  # the order of scores is the trees' own
        for label, shift in zip(classes, moved, strict=True):
            self.intercept[str(label)] = shift


class BoostedRegressor(_Boosted, base.Regressor):  # type: ignore[misc]
    """Boosted regression trees (squared error). The online layer shifts all predictions by the mean error of late.

    >>> BoostedRegressor().predict_one({"amount": 1.0})
    0.0
    """

    def __init__(
        self,
        trees: int = 80,
        leaves: int = 31,
        learning_rate: float = 0.1,
        min_rows: int = 20,
        l2: float = 0.0,
        feature_share: float = 1.0,
        row_share: float = 1.0,
        online_layer: bool = False,
        online_rate: float = 0.01,
        seed: int = 42,
    ) -> None:
        super().__init__(
            trees, leaves, learning_rate, min_rows, l2, feature_share, row_share, online_layer, online_rate, seed
        )
        self.count, self.mean = 0, 0.0

    def fit(self, features: Sequence[Mapping[str, Any]], labels: Sequence[float]) -> None:
        """Train on these rows; deterministic. Raises ConfigurationError."""
        target = np.clip(np.array(labels, dtype=np.float64), -LABEL_MAX, LABEL_MAX)
        self._train(features, target, objective="regression")
        self.count, self.mean = len(labels), math.fsum(labels) / len(labels)
        self.intercept = {"value": 0.0}

    def predict_one(self, x: Mapping[str, Any]) -> float:
        if not self.fitted:
            return self.mean
        return self.flat().raw(self.inputs(x))[0] + self.intercept["value"]

    def learn_one(self, x: Mapping[str, Any], y: float) -> None:
        """Nothing once the trees are there, but for the layer. Raises UpdateRefused."""
        if not self.fitted:
            self.count += 1
            self.mean += (y - self.mean) / self.count
        elif self.online_layer:
            shift = self.intercept["value"] + self.online_rate * (y - self.predict_one(x))
            if not math.isfinite(shift):
                raise UpdateRefused("the shift of the online layer would not be finite")
            self.intercept["value"] = shift


def _logistic(odds: float) -> float:
    if odds >= 0.0:
        return 1.0 / (1.0 + math.exp(-min(odds, 700.0)))
    e = math.exp(max(odds, -700.0))
    return e / (1.0 + e)
