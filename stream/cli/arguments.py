"""Arguments that many commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Directory", "PipelineFile"]

PipelineFile = Annotated[Path, typer.Argument(help="the Python file that defines the pipeline")]
Directory = Annotated[Path, typer.Option("--directory", help="where the local stack keeps its data")]
