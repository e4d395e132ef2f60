"""`driftloop report`: what a period was like, as one HTML file or as JSON."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from stream.adapters.file_pipelines import load_pipeline
from stream.cli.arguments import PipelineFile
from stream.cli.history import moment_ms
from stream.errors import ConfigurationError
from stream.settings import load_settings

__all__ = ["report"]

DEFAULT_MS = 7 * 86_400_000


def report(
    pipeline_file: PipelineFile,
    since: Annotated[
        str | None, typer.Option(help="from this moment on (2026-01-31T12:00, UTC); a week before the end if not given")
    ] = None,
    until: Annotated[str | None, typer.Option(help="to this moment, excluded; now if not given")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the HTML file; <pipeline>-report.html")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the figures themselves, on the output")] = False,
) -> None:
    """Report on a period: traffic, quality, models, drifts, releases, objectives; from the archive and what Kafka still has."""
    from stream.cli.period_page import period_page
    from stream.cli.period_reading import read_period
    from stream.core.period_reports import put_together

    now_ms = int(time.time() * 1_000)
    until_ms = moment_ms("--until", until) or now_ms
    since_ms = moment_ms("--since", since)
    since_ms = until_ms - DEFAULT_MS if since_ms is None else since_ms
    if since_ms >= until_ms:
        raise ConfigurationError("--since", since, f"it must lie before the end, {until or 'now'}")
    if output is not None and output.suffix not in (".html", ".htm"):
        raise ConfigurationError("--output", str(output), "name a file that ends in .html")
    settings, pipeline = load_settings(), load_pipeline(pipeline_file).pipeline
    console = Console(stderr=True)
    with console.status("") as status:
        span, found = read_period(settings, pipeline, since_ms, until_ms, lambda step: status.update(f"{step} ..."))
    made = put_together(pipeline, span, found, now_ms)
    if as_json:
        sys.stdout.write(msgspec.json.encode(made).decode() + "\n")
        if output is None:
            return
    path = output or Path(f"{pipeline.name}-report.html")
    path.write_text(period_page(made), encoding="utf-8")
    for lacking in made.missing:
        console.print(f"not known: {lacking.what}: {lacking.why}", style="yellow", highlight=False, markup=False)
    console.print(f"wrote {path}", highlight=False, markup=False)
