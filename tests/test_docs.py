"""What the documents say is so."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from stream.adapters.delta_archive import ExampleArchive
from stream.adapters.file_pipelines import load_pipeline
from stream.cli.main import app
from tests.support.examples import example

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "bench" / "README.md",
    ROOT / "examples" / "README.md",
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("schemas/*.md"),
]
RAISED = re.compile(r"\b(?:RecordRejected|StartupRefused|SnapshotRefused)\(\s*\"([a-z_]+)\"")


def test_every_code_is_explained():
    codes = {code for path in (ROOT / "stream").rglob("*.py") for code in RAISED.findall(path.read_text())}
    assert len(codes) > 30
    text = (ROOT / "docs" / "operating.md").read_text()
    assert not sorted(code for code in codes if f"`{code}`" not in text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", ["README.md", "docs/retraining.md"])
def test_the_pipeline_of_a_document_loads(tmp_path: Path, document: str):
    code = re.search(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert code is not None
    file = tmp_path / "cards.py"
    file.write_text(code[1])
    assert load_pipeline(file).pipeline.name == "cards"
    sys.modules.pop("driftloop_pipeline_cards", None)


def test_the_code_about_exploring_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    records = [example(offset) for offset in range(300)]
    bad = example(300, value=b"no example")
    again = example(301, event_id="e299", sequence=300)  # published twice
    ExampleArchive(".driftloop/archive", "cards").append(0, [*records, bad, again])
    found: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "exploring.md").read_text(), re.DOTALL):
        exec(code, found)
    assert found["examples"].collect().height == 300
    (row,) = found["by_model"].to_dicts()
    assert (row["served.champion.version"], row["labels"]) == ("84c5abf7@17", 300)
    assert row["accuracy"] == pytest.approx(1 / 3)
    assert found["by_hour"].height == 24
    assert {entity for entity, *_ in found["worst"]} == {f"card-{i}" for i in range(7)}
    assert found["records"][-1] == again
    assert len(found["records"]) == 100


def test_commands_named_in_documents_exist():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
    for document in DOCUMENTS:
        for name in re.findall(r"driftloop ([a-z]+)\b(?= |`|$)", document.read_text()):
            if name not in ("is", "does", "joins", "figures"):
                assert name in commands, f"{document.name}: driftloop {name}"


def test_make_targets_named_in_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for name in re.findall(r"(?:`|^    |^)make ([a-z-]+)", document.read_text(), re.MULTILINE):
            assert name in targets, f"{document.name}: make {name}"
