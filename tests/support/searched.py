"""A pipeline whose family and learning rate are searched; the environment says how."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from river import compose, linear_model, optim, preprocessing

from stream import Labels, Pipeline, Retrain, search_space
from stream.boosting import BoostedClassifier

RULES = json.loads(os.environ.get("DRIFTLOOP_TEST_RETRAIN", "{}"))
FAMILIES = os.environ.get("DRIFTLOOP_TEST_FAMILIES", "logistic").split(",")
RICH = "boosted" in FAMILIES


def build(params: dict[str, Any]) -> Any:
    time.sleep(float(os.environ.get("DRIFTLOOP_TEST_PACE_S", "0")))
    if params["family"] == "boosted":
        return BoostedClassifier(trees=params["trees"], leaves=7, seed=params["seed"])
    if params["family"] == "broken":
        raise ValueError("no such family")
    scaled = compose.Discard("c") | preprocessing.StandardScaler() if RICH else preprocessing.StandardScaler()
    rate = params["learning_rate"]
    return scaled | linear_model.LogisticRegression(optimizer=optim.SGD(rate), intercept_lr=rate)


pipeline = Pipeline(
    name=os.environ.get("DRIFTLOOP_TEST_NAME", "searched"),
    task="binary",
    features={"a": float, "b": float, "c": str} if RICH else {"a": float, "b": float},
    segments=["c"] if RICH else [],
    labels=Labels(wait="1d"),
    model=build,
    params={"family": "logistic", "learning_rate": 0.01, "trees": 20},
    search_space={
        "family": search_space.choice(*FAMILIES),
        "learning_rate": search_space.number(0.0001, 3.0, log=True, when={"family": "logistic"}),
        **({"trees": search_space.whole(10, 40, when={"family": "boosted"})} if RICH else {}),
    },
    retrain=Retrain(**{"trials": 8, "workers": 1, "labels_min": 100, **RULES}),
)
