"""Cards whose retraining stops after the effect of each step, until a file is gone: so that it can be killed there."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from river import linear_model, preprocessing, tree

from stream import Labels, Pipeline, Retrain, number, search_space

TASK = os.environ.get("AIRFLOW_CTX_TASK_ID", "")
HOLDS = os.environ.get("DRIFTLOOP_TEST_HOLDS", "")


def build(params: dict[str, Any]) -> Any:
    if params["family"] == "tree":
        return tree.HoeffdingTreeClassifier(grace_period=50)
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def hold() -> None:
    """The work of this task's step is done, and nobody knows it yet."""
    from stream.batch import archiving, comparing, fitting, releasing, retraining, searching, taking_up

    places: dict[str, tuple[Any, str]] = {
        "take_up": (taking_up, "take_up"),
        "archive_examples": (archiving, "archive_examples"),
        "choose_window": (retraining, "find_window"),
        "plan_trials": (searching, "plan_trials"),
        "run_trials": (searching, "run_trials"),
        "fit": (fitting, "fit"),
        "compare": (comparing, "compare"),
        "release": (releasing, "release"),
    }
    module, name = places[TASK]
    work = getattr(module, name)

    def held(*arguments: Any, **more: Any) -> Any:
        found = work(*arguments, **more)
        file = Path(HOLDS, TASK)
        with file.with_suffix(".passed").open("a") as passed:
            passed.write(f"{os.getpid()}\n")
        while file.exists():
            time.sleep(0.02)
        return found

    setattr(module, name, held)


if HOLDS and TASK and os.environ.get("AIRFLOW_CTX_DAG_ID") == "retrain_on_drift__killed":
    hold()

pipeline = Pipeline(
    name="killed",
    task="binary",
    features={"amount": number(low=0, high=900), "hour": int},
    model=build,
    params={"family": "line"},
    search_space={"family": search_space.choice("line", "tree")},
    labels=Labels(wait="10m", missing="default", default=False),
    retrain=Retrain(trials=2, workers=1, labels_min=500, cool_down="1h", start_from=("scratch",)),
)
