"""Cards whose fraud a line cannot find and trees can: a small search finds that out."""

from __future__ import annotations

import os
from typing import Any

from river import linear_model, preprocessing, tree

from stream import Labels, Pipeline, Retrain, Rollout, entity, number, search_space


def build(params: dict[str, Any]) -> Any:
    if params["family"] == "tree":
        return tree.HoeffdingTreeClassifier(grace_period=50)
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


pipeline = Pipeline(
    name=os.environ.get("DRIFTLOOP_TEST_NAME", "retrained"),
    task="binary",
    features={"amount": number(low=0, high=900), "hour": int},
    entity_features=[entity.count("5m")],
    model=build,
    params={"family": "line"},
    search_space={"family": search_space.choice("line", "tree")},
    labels=Labels(wait="10m", missing="default", default=False),
    retrain=Retrain(trials=3, workers=1, labels_min=500, start_from=("scratch",)),
    rollout=Rollout(shadow_labels=100, shares=(0.2,), share_labels=100, latency_ratio_max=1_000.0),
)
