"""Cards whose new models a person lets in."""

from __future__ import annotations

from typing import Any

from river import linear_model, preprocessing, tree

from stream import Labels, Pipeline, Retrain, number, search_space


def build(params: dict[str, Any]) -> Any:
    if params["family"] == "tree":
        return tree.HoeffdingTreeClassifier(grace_period=50)
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


pipeline = Pipeline(
    name="approved",
    task="binary",
    features={"amount": number(low=0, high=900), "hour": int},
    model=build,
    params={"family": "line"},
    search_space={"family": search_space.choice("line", "tree")},
    labels=Labels(wait="10m", missing="default", default=False),
    retrain=Retrain(
        trials=2, workers=1, labels_min=500, start_from=("scratch",), on_drift=False, schedule="0 0 29 2 *",
        automation="approval", approval_timeout="60s",
    ),
)  # fmt: skip
