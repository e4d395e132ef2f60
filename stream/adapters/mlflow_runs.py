"""Writes one retraining run to MLflow. A program of its own: `python mlflow_runs.py < run.json`.

It runs apart because MLflow takes seconds to import, and because whoever started it can end it when it takes too long,
whatever it waits for. So it needs nothing but mlflow-skinny and the standard library; credentials and the like come from
MLflow's own variables (MLFLOW_TRACKING_USERNAME, ..._TOKEN).

The same again logs nothing twice: runs are found by their tags, and what they have is left as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any

RUN, TRIAL, PARENT = "driftloop.run", "driftloop.trial", "mlflow.parentRunId"
FAILURE = "driftloop.failure"
METRICS_MAX, PARAMS_MAX, TEXT_MAX = 800, 90, 4_900  # of one call, and of one value
PAGE = 1_000
ENDED = {"complete": "FINISHED", "pruned": "KILLED", "fail": "FAILED"}


def log_run(document: dict[str, Any]) -> dict[str, Any]:
    """Log a run, its trials as nested runs, and its files.

    Args:
        document: uri, experiment, run, tags, params, metrics, trials (rows of trials.json), figure (the name of theirs),
            artifacts ([[file, folder], ...]), ended (whether nothing more will come), failed (why it failed; None: it did not).
            What is called again says how the run is now: FAILED may become RUNNING or FINISHED.

    Returns {"run_id", "experiment_id", "trials": how many were logged now}. Raises what MLflow raises.
    """
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=document["uri"])
    experiment = _experiment(client, document["experiment"])
    found = _runs(client, experiment, document["run"])
    tags = {**document["tags"], RUN: document["run"], FAILURE: document["failed"]}
    parent = _parent(client, experiment, document["run"], _texts(tags), found)
    _add(client, parent, document["params"], {name: [(0, value)] for name, value in document["metrics"].items()}, tags)
    failed = document["ended"] and document["failed"] is not None
    if failed:  # before all that takes time: Airflow gives a failure's note 20 seconds
        client.set_terminated(parent.info.run_id, "FAILED")
    logged = 0
    children = {one.data.tags[TRIAL]: one for one in found if TRIAL in one.data.tags}
    for row in document["trials"]:
        child = children.get(str(row["trial"]))
        if child is None or child.info.status == "RUNNING":  # an earlier attempt was cut off
            _trial(client, experiment, parent.info.run_id, document, row, child)
            logged += 1
    present = {
        one.path for folder in ("", "plots", "base") for one in client.list_artifacts(parent.info.run_id, folder)
    }
    for file, folder in document["artifacts"]:
        if f"{folder}/{os.path.basename(file)}".lstrip("/") not in present:  # noqa: PTH119 - artifact paths are texts
            client.log_artifact(parent.info.run_id, file, folder or None)
    if document["failed"] is None and FAILURE in parent.data.tags:
        client.delete_tag(parent.info.run_id, FAILURE)  # it was tried again
    if document["ended"] and not failed:
        client.set_terminated(parent.info.run_id, "FINISHED")
    elif not failed and parent.info.status != "RUNNING":
        client.update_run(parent.info.run_id, status="RUNNING")
    return {"run_id": parent.info.run_id, "experiment_id": experiment, "trials": logged}


def _parent(client: Any, experiment: str, name: str, tags: dict[str, str], found: list[Any]) -> Any:
    """The run itself, made if it is not there. Of two that were made at once all writers take the same, and one goes."""

    def oldest(runs: list[Any]) -> list[Any]:
        parents = [one for one in runs if TRIAL not in one.data.tags]
        return sorted(parents, key=lambda one: (one.info.start_time, one.info.run_id))

    parents = oldest(found)
    if not parents:
        mine = client.create_run(experiment, run_name=name, tags=tags)
        parents = oldest(_runs(client, experiment, name))
        if mine.info.run_id != parents[0].info.run_id:
            client.delete_run(mine.info.run_id)
    return parents[0]


def _runs(client: Any, experiment: str, run: str) -> list[Any]:
    """The run and its trials, as far as they are there."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment], f"tags.`{RUN}` = '{run}'", max_results=PAGE, page_token=token)
        found += page
        if not (token := page.token):
            return found


def _experiment(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # somebody else was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _trial(client: Any, experiment: str, parent: str, document: dict[str, Any], row: dict[str, Any], run: Any) -> None:
    tags = {
        RUN: document["run"], TRIAL: row["trial"], PARENT: parent, "driftloop.pipeline": document["tags"]["driftloop.pipeline"],
        "driftloop.start": row["start"], "driftloop.state": row["state"], "driftloop.error": row["error"],
    }  # fmt: skip
    if run is None:
        run = client.create_run(experiment, run_name=f"{document['run']} trial {row['trial']}", tags=_texts(tags))
    values = {f"final.{name}": [(0, value)] for name, value in row["figures"].items()}
    values["seconds"] = [(0, row["seconds"])]
    values[document["figure"]] = [(int(step), value) for step, value in row["reports"]]
    values[f"final.{document['figure']}"] = [(0, row["figure"])]
    _add(client, run, row["params"], values, tags)
    client.set_terminated(run.info.run_id, ENDED.get(row["state"], "FINISHED"))


def _add(
    client: Any, run: Any, params: dict[str, Any], metrics: dict[str, list[tuple[int, Any]]], tags: dict[str, Any]
) -> None:
    """What the run does not have yet."""
    from mlflow.entities import Metric, Param, RunTag

    at_ms = int(time.time() * 1_000)
    values = [
        Metric(name, float(value), at_ms, step)
        for name, steps in metrics.items() if name not in run.data.metrics
        for step, value in steps if isinstance(value, int | float) and abs(value) < float("inf")
    ]  # fmt: skip
    texts = [Param(n, value) for n, value in _texts(params).items() if n not in run.data.params]
    marks = [RunTag(n, value) for n, value in _texts(tags).items() if run.data.tags.get(n) != value]
    while values or texts or marks:
        part = values[:METRICS_MAX], texts[:PARAMS_MAX], marks[:PARAMS_MAX]
        client.log_batch(run.info.run_id, metrics=part[0], params=part[1], tags=part[2])
        values, texts, marks = values[METRICS_MAX:], texts[PARAMS_MAX:], marks[PARAMS_MAX:]


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {
        name: (value if isinstance(value, str) else json.dumps(value))[:TEXT_MAX]
        for name, value in values.items() if value is not None and value != ""
    }  # fmt: skip


if __name__ == "__main__":
    # Whoever waits for us has a deadline: MLflow's own patience, seven attempts of two minutes, is longer.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    with contextlib.redirect_stdout(sys.stderr):  # MLflow prints links
        answer = log_run(json.load(sys.stdin))
    sys.stdout.write(json.dumps(answer))
