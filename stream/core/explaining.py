"""A model made ready to score: prediction, probabilities and exact additive contributions from one walk.

`compile_scorer` is called once per model snapshot and returns a function that is called for every event. What it can
explain exactly, it explains; for any other model it calls River and the contributions are None.

- Linear models: the contribution of a feature is weight times (transformed) value; bias + contributions = the raw
  prediction (log odds for a classifier).
- Hoeffding trees: walking from the root to the leaf, each split moves the share of the predicted class (or the mean);
  the move is the split feature's contribution. What the leaf's own model (such as naive Bayes) adds to its share is the
  contribution "(leaf)". Path contributions are from Saabas 2014, "Interpreting random forests".
- Forests and bags of such trees: the votes' weighted mean of the members' contributions.
- Boosted trees: the same path contributions, of the mean score of the training examples, summed over all trees.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from river import compose, ensemble, forest, linear_model, optim, preprocessing, tree

from stream.boosting import BoostedClassifier, BoostedRegressor
from stream.core.explaining_boosting import boosted_scores
from stream.core.explaining_trees import ClassifierWalk, RegressorWalk, forest_vote, tree_vote
from stream.core.generating import FEATURES_MAX, each, unrolled
from stream.messages import Explanation

__all__ = ["Answer", "Scorer", "compile_scorer"]

Scale = Literal["log_odds", "probability", "value"]


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a model says of one event. `probabilities` has the names that labels have in JSON: "false" and "true"."""

    prediction: bool | str | float | None
    probabilities: dict[str, float] | None
    score: float | None
    explanation: Explanation | None


Scorer = Callable[[dict[str, Any]], Answer]
Raw = Callable[[dict[str, Any]], tuple[float, Explanation | None]]
Transform = Callable[[dict[str, Any]], dict[str, Any]]

TREES = (tree.HoeffdingTreeClassifier, tree.HoeffdingAdaptiveTreeClassifier, tree.ExtremelyFastDecisionTreeClassifier)
TREE_REGRESSORS = (tree.HoeffdingTreeRegressor, tree.HoeffdingAdaptiveTreeRegressor)
BAGS = (ensemble.BaggingClassifier, ensemble.ADWINBaggingClassifier, ensemble.LeveragingBaggingClassifier)


def compile_scorer(
    model: Any, task: str, *, explained_top: int, threshold: float = 0.5, explains: bool = True
) -> Scorer:
    """The fastest exact way to score with this model as it is now. The model must not be changed while in use.

    Explanations list the `explained_top` largest contributions; 0 turns them off. The scorer raises ValueError when the
    model's answer is not finite. Where the task is not multiclass, its answers can be written as JSON.

    Args:
        explains: False leaves the explanations out of answers that are otherwise the same, to the bit.
    """
    top = explained_top if explains else 0
    steps = list(model.steps.values()) if type(model) is compose.Pipeline else [model]
    final = steps[-1]
    transform = _transform(steps[:-1])
    if task == "anomaly":
        return _anomaly(model, threshold)
    if task == "regression":
        return _regression(model, final, steps[:-1], transform, explained_top, top)
    if type(model) is BoostedClassifier and model.fitted:
        return _boosted(model, task, threshold, top)
    if type(final) is linear_model.LogisticRegression and task == "binary" and type(final.loss) is optim.losses.Log:
        return _log_odds(_linear(final, steps[:-1], transform, "log_odds", top), threshold)
    if type(final) is linear_model.SoftmaxRegression and explained_top and task == "multiclass":
        return _softmax(final, transform, top)
    if explained_top and type(final) in TREES:
        return _votes(tree_vote(final), transform, task, threshold, top)
    if explained_top and (type(final) is forest.ARFClassifier or type(final) in BAGS):
        members = list(final)
        if members and all(isinstance(member, tree.HoeffdingTreeClassifier) for member in members):
            return _votes(forest_vote(final), transform, task, threshold, top)
    return _votes(lambda x: (model.predict_proba_one(x), None), _identity, task, threshold, top)


def _explained(scale: Scale, bias: float, contributions: dict[str, float], top: int) -> Explanation:
    """The largest contributions by magnitude, equal ones in the model's own order, and the sum of the others."""
    names, values = list(contributions), list(contributions.values())
    magnitudes = list(map(abs, values))
    order = sorted(range(len(values)), key=magnitudes.__getitem__, reverse=True)
    listed = [(names[i], values[i]) for i in order[:top]]
    rest = 0.0
    for i in order[top:]:
        rest += values[i]
    return Explanation(scale, bias, listed, rest)


def _identity(x: dict[str, Any]) -> dict[str, Any]:
    return x


def _transform(transformers: list[Any]) -> Transform:
    if not transformers:
        return _identity
    calls = [transformer.transform_one for transformer in transformers]

    def transform(x: dict[str, Any]) -> dict[str, Any]:
        for call in calls:
            x = call(x)
        return x

    return transform


# -- linear models -----------------------------------------------------------------------------------------------------


def _linear(final: Any, transformers: list[Any], transform: Transform, scale: Scale, top: int) -> Raw:
    """The raw prediction; behind nothing or one StandardScaler, without touching River at all."""
    weights: dict[str, float] = final.weights
    bias = float(final.intercept)
    scaler: Any = transformers[0] if len(transformers) == 1 else None
    if transformers and not (type(scaler) is preprocessing.StandardScaler and scaler.window_size is None):
        return _transformed(weights, bias, transform, scale, top)
    plan = []
    for name, weight in weights.items():
        mean, factor = 0.0, 1.0
        if scaler is not None:
            mean = float(scaler.means[name])
            if scaler.with_std:
                variance = scaler.vars[name]
                factor = 1.0 / math.sqrt(variance) if variance > 0 else 0.0
        plan.append((name, mean, weight * factor))

    def partly(x: dict[str, Any]) -> tuple[float, Explanation | None]:
        """For an event that lacks some of the model's features."""
        total, contributions = bias, {}
        for name, mean, weight in plan:
            if name in x:
                contributions[name] = part = (x[name] - mean) * weight
                total += part
        return total, _explained(scale, bias, contributions, top) if top else None

    if not plan or len(plan) > FEATURES_MAX:
        return partly
    return _unrolled_raw(plan, bias, scale, top, partly)


def _unrolled_raw(plan: list[tuple[str, float, float]], bias: float, scale: Scale, top: int, partly: Raw) -> Raw:
    count = len(plan)
    listed = each("(names[i#], c[i#])", min(top, count), ", ")
    rest = "".join(f" + c[i{number}]" for number in range(top, count))
    explained = f"""
    c = {each("c#", count, ", ")},
    magnitudes = {each("abs(c#)", count, ", ")},
    {each("i#", count, ", ")}, = sorted(numbers, key=magnitudes.__getitem__, reverse=True)
    return raw, Explanation(scale, bias, [{listed}], 0.0{rest})"""
    source = f"""
def made(x):
    try:
{each("        c# = (x[n#] - m#) * w#", count)}
    except KeyError:
        return partly(x)
    raw = bias + {each("c#", count, " + ")}{explained if top else "; return raw, None"}
"""
    known: dict[str, Any] = {"bias": bias, "partly": partly, "scale": scale, "Explanation": Explanation}
    known |= {"names": tuple(name for name, _, _ in plan), "numbers": range(count)}
    for number, (name, mean, weight) in enumerate(plan):
        known |= {f"n{number}": name, f"m{number}": mean, f"w{number}": weight}
    return unrolled(source, known)


def _transformed(weights: dict[str, float], bias: float, transform: Transform, scale: Scale, top: int) -> Raw:
    def raw(x: dict[str, Any]) -> tuple[float, Explanation | None]:
        z = transform(x)
        contributions = {str(name): float(weights[name] * z[name]) for name in z if name in weights}
        explanation = _explained(scale, bias, contributions, top) if top else None
        return bias + sum(contributions.values()), explanation

    return raw


def _log_odds(raw: Raw, threshold: float) -> Scorer:
    def scorer(x: dict[str, Any]) -> Answer:
        odds, explanation = raw(x)
        p = _sigmoid(odds)
        return Answer(p >= threshold, {"false": 1.0 - p, "true": p}, None, explanation)

    return scorer


def _sigmoid(odds: float) -> float:
    """Raises ValueError for a value that is not finite."""
    if odds >= 0.0:
        return 1.0 / (1.0 + math.exp(-min(odds, 700.0)))
    if odds < 0.0:
        e = math.exp(max(odds, -700.0))
        return e / (1.0 + e)
    raise ValueError("the linear model's raw prediction is not a number")


def _softmax(final: Any, transform: Transform, top: int) -> Scorer:
    weights = {label: dict(w) for label, w in final.weights.items()}

    def scorer(x: dict[str, Any]) -> Answer:
        z = transform(x)
        probabilities = final.predict_proba_one(z)
        if not probabilities:
            return Answer(None, {}, None, None)
        best = max(probabilities, key=probabilities.__getitem__)
        if not top:
            return Answer(best, _named(probabilities), None, None)
        mine = weights.get(best, {})
        contributions = {str(name): float(mine[name] * value) for name, value in z.items() if name in mine}
        return Answer(best, _named(probabilities), None, _explained("log_odds", 0.0, contributions, top))

    return scorer


# -- votes: trees, forests and everything else that gives probabilities ---------------------------------------------------


def _votes(walk: ClassifierWalk, transform: Transform, task: str, threshold: float, top: int) -> Scorer:
    def binary(x: dict[str, Any]) -> Answer:
        votes, explain_class = walk(transform(x))
        p = _share_of_true(votes)
        probabilities = {"false": 1.0 - p, "true": p}
        if explain_class is None or not top:
            return Answer(p >= threshold, probabilities, None, None)
        explanation = _explained("probability", *explain_class(True, p), top)
        return Answer(p >= threshold, probabilities, None, explanation)

    def multiclass(x: dict[str, Any]) -> Answer:
        votes, explain_class = walk(transform(x))
        probabilities = _named(votes)
        if not any(votes.values()):
            return Answer(None, {}, None, None)
        prediction = max(votes, key=votes.__getitem__)
        if explain_class is None or not top:
            return Answer(prediction, probabilities, None, None)
        explanation = _explained("probability", *explain_class(prediction, votes[prediction]), top)
        return Answer(prediction, probabilities, None, explanation)

    return binary if task == "binary" else multiclass


def _share_of_true(probabilities: dict[Any, float]) -> float:
    """The probability of true; a half while a model knows nothing."""
    true, false = probabilities.get(True, 0.0), probabilities.get(False, 0.0)
    total = true + false
    if not math.isfinite(total):
        raise ValueError("the model's probabilities are not finite")
    if total <= 0.0:
        return 0.5
    return float(true if total == 1.0 else true / total)


def _named(probabilities: dict[Any, float]) -> dict[str, float]:
    """Under the names that labels have in JSON."""
    if not all(map(math.isfinite, probabilities.values())):
        raise ValueError("the model's probabilities are not finite")
    return {str(label): float(p) for label, p in probabilities.items()}


# -- boosted trees -------------------------------------------------------------------------------------------------------


def _boosted(model: BoostedClassifier, task: str, threshold: float, top: int) -> Scorer:
    scored, classes = boosted_scores(model), model.classes
    if task == "binary" and classes == [False, True]:

        def raw(x: dict[str, Any]) -> tuple[float, Explanation | None]:
            scores, explain = scored(x)
            return scores[0], _explained("log_odds", *explain(0), top) if top else None

        return _log_odds(raw, threshold)

    def scorer(x: dict[str, Any]) -> Answer:
        scores, explain = scored(x)
        shares = model.probabilities(scores)
        best = max(range(len(shares)), key=shares.__getitem__)
        explanation = None
        if top and len(scores) == len(shares):
            explanation = _explained("log_odds", *explain(best), top)
        elif top:  # of two classes the trees score the second
            bias, contributions = explain(0)
            sign = 1.0 if best else -1.0
            contributions = {name: sign * part for name, part in contributions.items()}
            explanation = _explained("log_odds", sign * bias, contributions, top)
        return Answer(classes[best], _named(dict(zip(classes, shares, strict=True))), None, explanation)

    return scorer


# -- numbers -------------------------------------------------------------------------------------------------------------


def _regression(
    model: Any, final: Any, transformers: list[Any], transform: Transform, explained_top: int, top: int
) -> Scorer:
    # Most losses leave the raw prediction as it is; Poisson, for one, does not.
    if type(final) is linear_model.LinearRegression and type(final.loss).mean_func is optim.losses.Squared.mean_func:
        raw = _linear(final, transformers, transform, "value", top)

        def linear(x: dict[str, Any]) -> Answer:
            value, explanation = raw(x)
            return Answer(_number(value), None, None, explanation)

        return linear
    if type(model) is BoostedRegressor and model.fitted:
        scored = boosted_scores(model)

        def boosted(x: dict[str, Any]) -> Answer:
            scores, explain = scored(x)
            return Answer(_number(scores[0]), None, None, _explained("value", *explain(0), top) if top else None)

        return boosted
    if explained_top and type(final) in TREE_REGRESSORS:
        walk = RegressorWalk(final)

        def path(x: dict[str, Any]) -> Answer:
            value, bias, contributions = walk(transform(x))
            return Answer(_number(value), None, None, _explained("value", bias, contributions, top) if top else None)

        return path

    def plain(x: dict[str, Any]) -> Answer:
        return Answer(_number(model.predict_one(x)), None, None, None)

    return plain


def _number(value: float | None) -> float:
    number = 0.0 if value is None else float(value)
    if not math.isfinite(number):
        raise ValueError("the model's prediction is not finite")
    return number


def _anomaly(model: Any, threshold: float) -> Scorer:
    final = list(model.steps.values())[-1] if type(model) is compose.Pipeline else model
    classify = getattr(final, "classify", None)  # River's anomaly filters have one

    def scorer(x: dict[str, Any]) -> Answer:
        score = _number(model.score_one(x))
        flagged = bool(classify(score)) if classify is not None else score >= threshold
        return Answer(flagged, None, score, None)

    return scorer
