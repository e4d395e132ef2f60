"""`driftloop retrain`: what the DAGs do, here and now."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from stream.adapters.file_pipelines import load_pipeline
from stream.cli.arguments import PipelineFile
from stream.errors import ConfigurationError
from stream.settings import load_settings

__all__ = ["retrain"]

console = Console()
NEEDED = {"deltalake": "archive", "optuna": "retrain"}


def retrain(
    pipeline_file: PipelineFile,
    since: Annotated[
        int | None, typer.Option(min=0, help="learn from examples from this offset on (a drift's from_offset)")
    ] = None,
    run: Annotated[str | None, typer.Option(help="the run's name; the same again goes on where it was")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as one JSON document")] = False,
) -> None:
    """Archive, search, fit, compare with the champion and release: a whole retraining without Airflow, without approval."""
    for package, extra in NEEDED.items():
        if find_spec(package) is None:
            raise ConfigurationError(package, None, f"is not installed: pip install 'driftloop[{extra}]'")
    from stream.batch.retraining import retrain as run_all

    loaded = load_pipeline(pipeline_file)
    name = run or f"manual-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    with console.status("") as status:
        answer = run_all(
            load_settings(), loaded, run_id=name, change_point=since, on_step=lambda step: status.update(f"{step} ...")
        )
    if as_json:
        sys.stdout.write(msgspec.json.encode({"run": name, **answer}).decode() + "\n")
        return
    style = "green" if answer["released"] else "yellow"
    console.print(f"run {name}: {answer['why']}", highlight=False)
    words = f"released {answer['base']}; it is tried beside the champion now" if answer["released"] else "not released"
    console.print(words, style=style, highlight=False)
