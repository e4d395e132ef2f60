"""`driftloop archive`: one run, with a progress bar."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stream.adapters.file_pipelines import load_pipeline
from stream.errors import ConfigurationError
from stream.settings import load_settings

__all__ = ["archive"]


def archive(
    pipeline_file: Annotated[Path, typer.Argument(help="the Python file that defines the pipeline")],
    shard: Annotated[int, typer.Option(min=0, help="partition of the examples topic")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many examples")] = None,
    accept_gap: Annotated[
        bool, typer.Option("--accept-gap", help="go on although Kafka deleted examples that were not archived")
    ] = False,
) -> None:
    """Archive the examples that are new, as a Delta table (DRIFTLOOP_ARCHIVE_URL); docs/exploring.md shows how to read it."""
    if find_spec("deltalake") is None:
        raise ConfigurationError("deltalake", None, "is not installed: pip install 'driftloop[archive]'")
    from stream.batch.archiving import archive_examples

    settings = load_settings()
    pipeline = load_pipeline(pipeline_file).pipeline
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:
        task = progress.add_task("examples", total=None)
        done = archive_examples(
            settings,
            pipeline,
            shard=shard,
            examples_max=limit,
            accept_gap=accept_gap,
            on_rows=lambda rows, total: progress.update(task, completed=rows, total=total),
        )
    print(
        f"archived {done['rows']:,} rows: offsets {done['from_offset']} to {done['to_offset']} "
        f"(exclusive) of {pipeline.name}.examples-{shard}"
    )
    if done["lost"]:
        print(f"{done['lost']:,} offsets before them are not on Kafka any more")
