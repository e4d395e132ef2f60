"""Guards before a model predicts and after it has learned, and warnings about River's traps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from river import base, compose, forest, linear_model, neighbors, preprocessing, tree
from river.tree.hoeffding_tree import HoeffdingTree
from river.utils.vectordict import VectorDict

__all__ = ["TreeBound", "WeightWatch", "first_not_finite", "warnings_for", "winsorise"]

PLAIN_TREES = (tree.HoeffdingTreeClassifier, tree.HoeffdingTreeRegressor)
NEIGHBOURS = (neighbors.KNNClassifier, neighbors.KNNRegressor)
WRAPPED = ("model", "classifier", "regressor", "anomaly_detector", "transformer")  # attributes of wrappers
NUMBERS, MAPPINGS = (float, int), (dict, VectorDict)  # once: it is asked after each example
MONDRIAN = (forest.AMFClassifier, forest.AMFRegressor)


def winsorise(x: dict[str, Any], bounds: tuple[tuple[str, float, float], ...]) -> list[str]:
    """Bring values beyond their reference quantiles back to the nearer one, in place; returns the names.

    >>> x = {"amount": 9_000.0}
    >>> winsorise(x, (("amount", 0.0, 5_000.0),)), x
    (['amount'], {'amount': 5000.0})
    """
    clipped = []
    for name, low, high in bounds:
        value = x[name]
        if value is None:
            continue
        if value < low:
            x[name] = type(value)(low)
            clipped.append(name)
        elif value > high:
            x[name] = type(value)(high)
            clipped.append(name)
    return clipped


def _is(part: Any, *classes: type) -> bool:
    # A River pipeline passes for its last step with isinstance.
    return issubclass(type(part), classes)


def parts_of(model: Any) -> Iterator[tuple[str, Any]]:
    """A model's estimators by name: through pipelines, wrappers and ensembles, each once."""
    seen: set[int] = set()
    stack = [(type(model).__name__, model)]
    while stack:
        name, part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield name, part
        if _is(part, compose.Pipeline):
            stack += [(f"{name}.{step}", value) for step, value in part.steps.items()]
            continue
        if _is(part, compose.TransformerUnion):
            stack += [(f"{name}.{step}", value) for step, value in part.transformers.items()]
        if _is(part, base.Ensemble):
            stack += [(f"{name}[{i}]", member) for i, member in enumerate(part)]
            stack += [(f"{name}.background", m) for m in getattr(part, "_background", None) or () if m is not None]
        classifiers = getattr(part, "classifiers", None)  # one against the rest
        if isinstance(classifiers, dict):
            stack += [(f"{name}[{label}]", member) for label, member in classifiers.items()]
        for attribute in WRAPPED:
            inner = getattr(part, attribute, None)
            if isinstance(inner, base.Estimator):
                stack.append((f"{name}.{attribute}", inner))


CARRIERS = ("intercept", "_weights", "weights", "means", "vars")


def first_not_finite(model: Any) -> str | None:
    """The first weight that is not finite, by name. Infinities elsewhere are legitimate (a first minimum, say)."""
    for name, part in parts_of(model):
        for attribute in CARRIERS:
            carrier = getattr(part, attribute, None)
            if carrier is not None and not _finite(carrier):
                return f"{name}.{attribute}"
    return None


def _finite(carrier: Any) -> bool:
    if isinstance(carrier, NUMBERS):
        return math.isfinite(carrier)
    if isinstance(carrier, MAPPINGS):
        try:
            if math.isfinite(sum(carrier.values())):
                return True
        except (TypeError, OverflowError):  # not plain numbers
            pass
        return all(_finite(value) for value in carrier.values())
    return True


def _children(part: Any) -> list[Any]:
    """The estimators of a part that may be replaced: a forest's trees, a wrapper's model, one model for each class."""
    if _is(part, compose.Pipeline):
        return []
    found: list[Any] = []
    if _is(part, base.Ensemble):
        found += [*part, *(getattr(part, "_background", None) or ())]
    classifiers = getattr(part, "classifiers", None)
    if isinstance(classifiers, dict):
        found += classifiers.values()
    return found + [inner for name in WRAPPED if isinstance(inner := getattr(part, name, None), base.Estimator)]


class WeightWatch:
    """Looks at a model's weights after each example, as `first_not_finite` does, and walks only where parts were replaced."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._walked = False
        self._holders: list[tuple[Any, list[Any]]] = []
        self._carriers: list[tuple[Any, str]] = []

    def finite(self) -> bool:
        """Call it after the model has learned. O(weights)."""
        if not self._walked or any(_others(_children(part), known) for part, known in self._holders):
            self._walk()
        for part, attribute in self._carriers:
            if not _finite(getattr(part, attribute)):
                return False
        return True

    def _walk(self) -> None:
        parts = [part for _, part in parts_of(self._model)]
        self._holders = [(part, children) for part in parts if (children := _children(part))]
        self._carriers = [
            (part, attribute)
            for part in parts
            for attribute in CARRIERS
            # A linear model shows a copy of its `_weights` under this name.
            if hasattr(part, attribute) and not (attribute == "weights" and hasattr(part, "_weights"))
        ]
        self._walked = True


def _others(some: list[Any], known: list[Any]) -> bool:
    return len(some) != len(known) or any(a is not b for a, b in zip(some, known, strict=True))


class TreeBound:
    """Keeps every Hoeffding tree of a model at `leaves_max` leaves: a full tree splits no more.

    River's `max_size` is looked at once in a million events and bounds nothing in practice; this uses River's own switch
    for "no more splits", so the leaves go on learning. A forest replaces its trees: they are found anew each time.
    """

    def __init__(self, model: Any, leaves_max: int) -> None:
        self._model = model
        self._leaves_max = leaves_max
        parts = [part for _, part in parts_of(model)]
        self._fixed = [part for part in parts if _is(part, HoeffdingTree)]
        self._growing = any(_children(part) or isinstance(getattr(part, "classifiers", None), dict) for part in parts)

    def enforce(self) -> bool:
        """Stop the growth of trees that are full; true if one was stopped now. O(trees)."""
        trees = self._fixed
        if self._growing:
            trees = [part for _, part in parts_of(self._model) if _is(part, HoeffdingTree)]
        stopped = False
        for one in trees:
            if one._growth_allowed and one._n_active_leaves + one._n_inactive_leaves >= self._leaves_max:
                one._growth_allowed = False
                stopped = True
        return stopped


def warnings_for(model: Any, task: str) -> list[tuple[str, str]]:
    """River's traps in this model: (code, what happens and what to do)."""
    found = []
    parts = [part for _, part in parts_of(model)]
    if task in ("binary", "multiclass") and any(getattr(part, "max_share_to_split", 1.0) == 0.99 for part in parts):
        found.append(
            (
                "tree_never_splits_on_rare_classes",
                "max_share_to_split is 0.99: with a class rarer than 1 % the tree never splits; set max_share_to_split=1.0",
            )
        )
    scaled = any(_is(part, preprocessing.StandardScaler) for part in parts)
    linear = [part for part in parts if _is(part, linear_model.LinearRegression)]
    if task == "regression" and scaled and any(part.clip_gradient >= 1e12 for part in linear):
        found.append(
            (
                "scaler_before_regression_explodes",
                "a feature that is constant at first and then jumps makes the regression explode behind a StandardScaler: "
                "declare number(low=, high=) for the features and set clip_gradient (such as 100)",
            )
        )
    if any(_is(part, *MONDRIAN) for part in parts):
        found.append(
            (
                "model_grows_without_end",
                "a Mondrian forest adds a node for nearly every event; retrain it from time to time, or use ARF or a "
                "Hoeffding tree",
            )
        )
    if any(_is(part, *NEIGHBOURS) for part in parts):
        found.append(
            (
                "prediction_changes_the_model",
                "nearest neighbours keep events and change while predicting; predictions cannot be rebuilt from a version",
            )
        )
    if any(type(part) in PLAIN_TREES for part in parts):
        found.append(
            (
                "tree_does_not_forget",
                "a plain Hoeffding tree never forgets; if the world changes use HoeffdingAdaptiveTree, a forest, or "
                "retraining on drift",
            )
        )
    return found
