"""The pipeline that the tests on the real stack run. `NAME` in the environment is its name: one per test."""

from __future__ import annotations

import os
import time
from typing import Any

from river import linear_model, preprocessing

from stream import Labelling, Labels, Objectives, Pipeline, Rollout, entity, number
from stream.pipeline import Limits

MISSING: dict[str, Any] = {"missing": "default", "default": False}
if os.environ.get("DRIFTLOOP_TEST_MISSING") == "none":
    MISSING = {"missing": "none"}
LABELLING = None
if per_1000 := os.environ.get("DRIFTLOOP_TEST_LABELLING"):
    LABELLING = Labelling(per_1000=float(per_1000), per_day=5_000, warm_up=40)
OBJECTIVES = Objectives()
if os.environ.get("DRIFTLOOP_TEST_OBJECTIVES"):  # one that is kept, one that cannot be, and two of the flow
    OBJECTIVES = Objectives(quality=0.0, skill=1.5, latency_p99_ms=1e9, label_coverage=0.01)
PACE_S = float(os.environ.get("DRIFTLOOP_TEST_PACE_S", "0"))
# A trial that soon answers half of the entities and then waits for a person.
TRIAL = Rollout(
    shadow_labels=100, shares=(0.5,), share_labels=300, labels_max=50_000, promote="by_hand", latency_ratio_max=1_000.0
)
ROLLOUT = (
    TRIAL
    if os.environ.get("DRIFTLOOP_TEST_ROLLOUT") == "quick"
    else Rollout(
        shadow_labels=100,
        shares=(0.2, 0.5),
        share_labels=100,
        probation_labels=int(os.environ.get("DRIFTLOOP_TEST_PROBATION", "800")),
        latency_ratio_max=1_000.0,  # a machine that is busy with the tests stops any clock
    )
)


def paced(state: Any, features: Any, occurred_at_ms: int) -> tuple[Any, float]:
    """A constant; it takes its time, so that a fault finds a worker at work."""
    if PACE_S:
        time.sleep(PACE_S)
    return None, 0.0


def build(params: dict[str, Any]) -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


pipeline = Pipeline(
    name=os.environ.get("DRIFTLOOP_TEST_NAME", "cards"),
    task="binary",
    features={"amount": number(low=0, high=900), "hour": int},
    entity_features=[
        entity.count("5m"),
        entity.mean("amount", "20m"),
        entity.distinct("hour", "20m"),
        entity.seconds_since_last(),
        entity.custom("paced", paced),
    ],
    model=build,
    reads=os.environ.get("DRIFTLOOP_TEST_READS") or None,
    rollout=ROLLOUT,
    labelling=LABELLING,
    objectives=OBJECTIVES,
    labels=Labels(wait="10m", keep_late="5m", early_wait="5m", **MISSING),
    limits=Limits(entity_idle="20m", record_bytes_max=int(os.environ.get("DRIFTLOOP_TEST_BYTES_MAX", "65536"))),
)
