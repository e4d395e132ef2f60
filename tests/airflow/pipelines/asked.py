"""Cards about which people are asked; nobody else says what is fraud."""

from __future__ import annotations

from typing import Any

from river import linear_model, preprocessing

from stream import Labelling, Labels, Pipeline, Retrain, number


def build(params: dict[str, Any]) -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


pipeline = Pipeline(
    name="asked",
    task="binary",
    features={"amount": number(low=0, high=900), "hour": int},
    model=build,
    labels=Labels(wait="10d", missing="none"),
    retrain=Retrain(on_drift=False),
    labelling=Labelling(per_1000=20, warm_up=2, batch=4, within="60s"),
)
