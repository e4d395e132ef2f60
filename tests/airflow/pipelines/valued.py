"""A number that people write into a form."""

from __future__ import annotations

from typing import Any

from river import linear_model

from stream import Labelling, Labels, Pipeline, Retrain


def build(params: dict[str, Any]) -> Any:
    return linear_model.LinearRegression()


pipeline = Pipeline(
    name="valued",
    task="regression",
    features={"amount": float},
    model=build,
    labels=Labels(wait="10d"),
    retrain=Retrain(on_drift=False),
    labelling=Labelling(within="10m"),
)
