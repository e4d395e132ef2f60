"""A retraining run in MLflow, where DRIFTLOOP_MLFLOW_TRACKING_URI is set: beside what the run leaves anyway, never instead.

Whatever MLflow does, the run goes on: it is given `mlflow_timeout_s`, and what then is not logged is noted in the run's
`mlflow.json` and in the log. The next step that tracks the run, and a retry, log what is still missing.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from stream.adapters import mlflow_runs
from stream.adapters.file_pipelines import LoadedPipeline
from stream.batch.plans import RunFiles
from stream.errors import DriftloopError
from stream.settings import Settings

__all__ = ["track", "track_early_end"]

log = logging.getLogger(__name__)
FILES = {"history.svg": "plots", "importance.svg": "plots", "trials.csv": "", "verdict.json": ""}  # and their folders
SAID_MAX = 400


def track(
    settings: Settings,
    loaded: LoadedPipeline | str,
    run_id: str,
    *,
    ended: bool,
    failed: str | None = None,
    said: str | None = None,
    python: str | None = None,
) -> dict[str, Any] | None:
    """Log what a run has left so far; it may be called again.

    Args:
        loaded: the pipeline; or only its name, where the file does not load: then its trials are left out.
        ended: no step comes after this one.
        failed: the reason, where the run ends because of a step that raised; it then need not have come to a plan.
        said: why it ended, where there is no verdict.
        python: an interpreter that has mlflow; None: this one.

    Returns {"logged", "why", ...}, as it is kept in `mlflow.json`; None where no tracking URI is set. Never raises.
    """
    if not settings.mlflow_tracking_uri:
        return None
    name, figure = (loaded, None) if isinstance(loaded, str) else (loaded.pipeline.name, loaded.pipeline.metric)
    mark = {} if failed is None else {"failed": failed}
    try:
        run = RunFiles(settings, name, run_id)
        if mark:  # whoever tracks the run next must know, though this be cut off
            run.keep("mlflow.json", {"logged": False, "why": "it was cut off", **mark})
        answer = {**_logged(run, figure, ended, failed, said, python), **mark}
    except Exception as error:  # noqa: BLE001 - a picture of a run must not cost the run
        answer = {"logged": False, "why": f"{type(error).__name__}: {error}", **mark}
    if not answer["logged"]:
        log.warning("run %s is not in MLflow: %s", run_id, answer["why"], extra={"code": "mlflow_failed"})
    try:
        RunFiles(settings, name, run_id).keep("mlflow.json", answer)
    except DriftloopError as error:
        log.warning("run %s: %s", run_id, error, extra={"code": "mlflow_failed"})
    return answer


def track_early_end(settings: Settings, loaded: LoadedPipeline, run_id: str, said: str) -> None:
    """Of a run that ends without a search: it is logged only if it stands there as failed, for then it was tried again.

    Never raises.
    """
    if not settings.mlflow_tracking_uri:
        return
    try:
        before = RunFiles(settings, loaded.pipeline.name, run_id).find("mlflow.json") or {}
    except DriftloopError as error:
        log.warning("run %s: %s", run_id, error, extra={"code": "mlflow_failed"})
        return
    if "failed" in before:
        track(settings, loaded, run_id, ended=True, said=said)


def _logged(
    run: RunFiles, figure: str | None, ended: bool, failed: str | None, said: str | None, python: str | None
) -> dict[str, Any]:
    if python is None and find_spec("mlflow") is None:
        return {"logged": False, "why": "mlflow is not installed: pip install 'driftloop[mlflow]'"}
    timeout_s = run.settings.mlflow_timeout_s
    with tempfile.TemporaryDirectory(prefix="driftloop-mlflow-") as directory:
        document = msgspec.json.encode(_document(run, figure, ended, failed, said, Path(directory)))
        try:
            done = subprocess.run(
                [python or sys.executable, "-P", "-W", "ignore", mlflow_runs.__file__],
                input=document,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"logged": False, "why": f"MLflow took longer than {timeout_s:g} s (DRIFTLOOP_MLFLOW_TIMEOUT_S)"}
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip()
        return {"logged": False, "why": text[-SAID_MAX:] or f"it ended with code {done.returncode}"}
    return {"logged": True, "why": "", **msgspec.json.decode(done.stdout)}


def _document(
    run: RunFiles, figure: str | None, ended: bool, failed: str | None, said: str | None, directory: Path
) -> dict[str, Any]:
    """What `mlflow_runs.log_run` takes; files are copied to the directory."""
    plan = None if run.find("plan.json") is None else run.plan()
    cause, fit, verdict, release = (run.find(f"{name}.json") or {} for name in ("cause", "fit", "verdict", "release"))
    figures: Mapping[str, Any] = verdict.get("figures", {})
    tags = {
        "driftloop.pipeline": run.pipeline_name,
        "driftloop.cause": cause.get("why"),
        "driftloop.drift_id": cause.get("drift_id"),
        "driftloop.champion": plan and plan.champion,
        "driftloop.base": fit.get("base"),
        "driftloop.start": fit.get("start"),
        "driftloop.accepted": verdict.get("accepted"),
        "driftloop.verdict": verdict.get("why"),
        "driftloop.released": release.get("released"),
        "driftloop.release": release.get("why"),
        "mlflow.note.content": failed or verdict.get("why") or said,
    }
    params = dict(fit.get("params", {}))
    if plan is not None:
        window = msgspec.to_builtins(plan.window)
        params = {**{f"window.{name}": value for name, value in window.items()}, "seed": plan.seed, **params}
    importance = run.find("importance.json") or {}
    metrics = {
        **{f"verdict.{name}": value for name, value in figures.items() if not isinstance(value, str)},
        **{f"importance.{name}": value for name, value in importance.items()},
        **{name: fit[name] for name in ("learned", "size_bytes") if name in fit},
    }
    artifacts = []
    for name, folder in FILES.items():
        if (data := run.files.find_file(f"runs/{run.name}/{name}")) is not None:
            (directory / name).write_bytes(data)
            artifacts.append([str(directory / name), folder])
    if fit and failed is None:  # it may be large, and a note of a failure has little time
        base = directory / f"{fit['base']}.model"
        base.write_bytes(run.files.get_base(fit["base"]))
        artifacts.append([str(base), "base"])
    return {
        "uri": run.settings.mlflow_tracking_uri,
        "experiment": run.settings.mlflow_experiment or f"driftloop.{run.pipeline_name}",
        "run": run.name,
        "tags": tags,
        "params": params,
        "metrics": metrics,
        "figure": figure,
        "trials": (run.find("trials.json") or []) if figure is not None else [],
        "artifacts": artifacts,
        "ended": ended,
        "failed": failed,
    }
