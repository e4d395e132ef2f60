"""The pipeline that the tests of Airflow watch."""

from __future__ import annotations

from typing import Any

from river import linear_model, preprocessing

from stream import Pipeline, Retrain


def build(params: dict[str, Any]) -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


pipeline = Pipeline(
    name="watched",
    task="binary",
    features={"amount": float},
    model=build,
    retrain=Retrain(cool_down="1s", schedule="0 3 * * *"),
)
