"""`driftloop doctor`: what is wrong with a pipeline's world, and what to do about it."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from stream.adapters.file_pipelines import load_pipeline
from stream.cli.arguments import PipelineFile
from stream.settings import load_settings

__all__ = ["doctor"]

console = Console()


def doctor(
    pipeline_file: PipelineFile,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as one JSON document")] = False,
) -> None:
    """Look at Kafka, Redis, workers, labels, clocks, keys and stores; say what is wrong and what to do. Exit code 1 if so."""
    from stream.cli.checks import CHECKS, examine
    from stream.cli.facts import gather

    pipeline = load_pipeline(pipeline_file).pipeline
    findings = examine(gather(pipeline, load_settings()))
    if as_json:
        sys.stdout.write(msgspec.json.encode([finding._asdict() for finding in findings]).decode() + "\n")
    else:
        for finding in findings:
            console.print(
                Text.assemble((finding.code, "bold red"), f": {finding.finding}\n", ("   do: ", "bold"), finding.remedy)
            )
        if not findings:
            console.print(f"[green]ok[/] {pipeline.name}: {len(CHECKS)} checks found nothing wrong", highlight=False)
    if findings:
        raise typer.Exit(1)
