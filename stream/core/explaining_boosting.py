"""Boosted trees made ready to score: one walk gives the prediction and, through the leaves, what each feature added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stream.boosting import BoostedClassifier, BoostedRegressor

__all__ = ["Scored", "boosted_scores"]

# Scores of all outputs; and of one output its bias and contributions, which add up to its score.
Scored = tuple[list[float], Callable[[int], tuple[float, dict[str, float]]]]


def boosted_scores(model: BoostedClassifier | BoostedRegressor) -> Callable[[dict[str, Any]], Scored]:
    """Of a fitted model as it is now: log odds of a classifier's classes, or the value of a regressor."""
    flat, names, inputs = model.flat(), list(model.names), model.inputs
    leaves_of, sums, parts = flat.leaves, flat.sums, flat.parts
    shifts = list(model.intercept.values())
    scale = 1.0
    if type(model) is BoostedClassifier:
        scale = model.weights["scale"] * (flat.sigmoid if len(model.classes) == 2 else 1.0)

    def score(x: dict[str, Any]) -> Scored:
        leaves = leaves_of(inputs(x))
        scores = [scale * raw + shift for raw, shift in zip(sums(leaves), shifts, strict=True)]

        def explain(output: int) -> tuple[float, dict[str, float]]:
            bias, its = parts(leaves, output)
            contributions = {name: scale * part for name, part in zip(names, its, strict=True)}
            return scale * bias + shifts[output], contributions

        return scores, explain

    return score
