"""The notebook about exploring runs from its first cell to its last, on an archive that was made for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import nbformat
import pytest

from stream.adapters.file_pipelines import load_pipeline
from stream.cli.sources import Columns, read_source
from tests.support.archived import archive_history

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "explore.ipynb"
PAYMENTS = ROOT / "examples" / "payments"
FOUND = """
import json
print(json.dumps({
    "hours": per_hour.height, "labels": int(per_hour["labels"].sum()), "what_if": what_if, "segments": list(by_segment),
    "said": served.probabilities, "again": again.probabilities, "versions": [served.version, follower.version],
}))
"""


def cells() -> list[Any]:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_no_outputs_are_committed():
    assert len(cells()) >= 6
    assert not [cell for cell in cells() if cell.outputs or cell.execution_count]


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made with a fixed hash seed, as workers run: the notebook makes one of the models again."""
    url = tmp_path_factory.mktemp("archive")
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_notebook", str(url)], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0"}, check=False
    )  # fmt: skip
    assert done.returncode == 0
    return url


def test_it_runs_and_says_what_is_so(archived: Path):
    # Without a Jupyter kernel, which would bring a dozen packages: its cells are a program.
    program = "\n".join(cell.source for cell in cells()) + FOUND
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=NOTEBOOK.parent,
        env={**os.environ, "PYTHONHASHSEED": "0", "MPLBACKEND": "Agg", "DRIFTLOOP_ARCHIVE_URL": str(archived)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    found = msgspec.json.decode(done.stdout.splitlines()[-1])
    assert found["hours"] > 24
    assert found["labels"] > 3_000
    assert found["segments"] == ["channel"]
    assert found["versions"][0] == found["versions"][1] != "5de62dcb@0"
    assert found["said"] == found["again"]  # bit for bit
    assert [row["learning_rate"] for row in found["what_if"]] == [0.01, 0.05, 0.2]
    assert len({row["log_loss"] for row in found["what_if"]}) == 3


def main() -> None:
    pipeline = load_pipeline(PAYMENTS / "pipeline.py").pipeline
    columns = Columns(None, None, None, None, None)
    source = str(PAYMENTS / "generator.py")
    history = read_source(pipeline, source, columns=columns, limit=4_000, delay_ms=0, interval_ms=1_000, seed=7)
    archive_history(pipeline, history, sys.argv[1])


if __name__ == "__main__":
    main()
