"""The pipelines that Airflow works for, and how a task calls a batch step for one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stream.adapters.pipeline_manifest import Listed, list_pipelines
from stream.errors import ConfigurationError, DriftloopError
from stream.settings import load_settings, seen_by_pipelines

__all__ = ["call", "pipelines", "refuse_broken"]


def pipelines() -> list[Listed]:
    """Those in `DRIFTLOOP_PIPELINES` that load."""
    settings = load_settings()
    return list_pipelines(settings.pipelines, settings.pipelines_cache, seen_by_pipelines()).pipelines


def refuse_broken() -> None:
    """Raises ConfigurationError naming every pipeline file that does not load."""
    settings = load_settings()
    wrong = list_pipelines(settings.pipelines, settings.pipelines_cache, seen_by_pipelines()).wrong
    if wrong:
        lines = [f"{file}: {text}" for file, text in wrong.items()]
        raise ConfigurationError("DRIFTLOOP_PIPELINES", f"{len(wrong)} wrong", "\n  ".join(["mend", *lines]))


def call(step: str, file: str, steps: str = "retraining", **arguments: Any) -> Any:
    """Run a step of the module `stream.batch.<steps>` for the pipeline of a file, in a task: it imports River and more.

    Raises AirflowFailException for an error of ours that no retry mends: the task then fails at once.

    >>> call("take_up", "payments.py", run_id="r1")  # doctest: +SKIP
    """
    from importlib import import_module

    from airflow.sdk.exceptions import AirflowFailException

    from stream.adapters.file_pipelines import load_pipeline

    try:
        return getattr(import_module(f"stream.batch.{steps}"), step)(
            load_settings(), load_pipeline(Path(file)), **arguments
        )
    except DriftloopError as error:
        if error.retriable:
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error
