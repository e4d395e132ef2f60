"""The pipelines that are measured. `DRIFTLOOP_BENCH` is `<name>:<model>:<features>`, one name per run."""

from __future__ import annotations

import os
import random
from typing import Any

from river import linear_model, preprocessing, tree

from stream import Labels, Pipeline, entity
from stream.pipeline import Limits

NUMBERS = [f"f{i}" for i in range(10)]
TRAINED = 3_000
HISTORY = [
    entity.count("1h"),
    entity.sum("f0", "1h"),
    entity.mean("f0", "7d"),
    entity.distinct("f1", "1d"),
    entity.seconds_since_last(default=0.0),
]


def row(rng: random.Random) -> tuple[dict[str, float], bool]:
    x = {name: rng.gauss(0, 1) for name in NUMBERS}
    return x, x["f0"] + x["f1"] * x["f2"] > 0.3


def build(params: dict[str, Any]) -> Any:
    """A model that has learned something: an empty one would be fast for nothing."""
    model: Any = {
        "logistic": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        "tree": lambda: tree.HoeffdingTreeClassifier(grace_period=100, max_share_to_split=1.0),
    }[params["model"]]()
    rng = random.Random(1)
    for _ in range(TRAINED):
        x, y = row(rng)
        model.learn_one(x | dict.fromkeys(params["more"], 0.0), y)
    return model


name, model_name, features = os.environ.get("DRIFTLOOP_BENCH", "bench:logistic:plain").split(":")
history = HISTORY if features == "entities" else []
pipeline = Pipeline(
    name=name,
    task="binary",
    features=dict.fromkeys(NUMBERS, float),
    entity_features=history,
    model=build,
    params={"model": model_name, "more": [f.name for f in history]},
    labels=Labels(wait="7d"),
    drift=features != "unwatched",
    limits=Limits(entity_idle="30d"),
)
