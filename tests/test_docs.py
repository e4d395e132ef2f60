"""What the documents say is so."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import polars  # noqa: F401 - its first import sets a variable of its allocator, which is not the tests' doing
import pytest
import typer

from stream.adapters.delta_archive import ExampleArchive
from stream.adapters.file_pipelines import load_pipeline
from stream.cli.main import app
from stream.core.objectives import judge
from stream.lifecycle import Objectives
from tests.support.examples import example
from tests.support.records import pipeline_of

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "bench" / "README.md",
    ROOT / "examples" / "README.md",
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("schemas/*.md"),
]
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """Of the headings, as GitHub makes them: lower case, no punctuation, hyphens; the second one of a name gets -1."""
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#{1,6} (.*)$", CODE.sub("", document.read_text()), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if found[name] else name)
        found[name] += 1
    return names


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    for target, anchor in LINK.findall(CODE.sub("", document.read_text())):
        if target.startswith("http"):
            continue
        there = document.parent / target if target else document
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}: there are {sorted(anchors(there))}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document: Path):
    text = document.read_text()
    for path in re.findall(r"`((?:stream|tests|docs|bench|deploy|dags|examples|requirements|schemas)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:core|adapters|worker|batch|cli|local|airflow)/[\w./-]*)`", text):
        assert (ROOT / "stream" / path).exists(), f"stream/{path}"


def test_objectives_have_the_names_of_the_code():
    wanted = Objectives(quality=0.5, skill=0.1, latency_p99_ms=100, label_delay="1d", label_coverage=0.5)
    made = {
        one.name
        for task in ("binary", "multiclass", "regression", "anomaly")
        for one in judge(pipeline_of(task=task, objectives=wanted), None)
    }
    text = (ROOT / "docs" / "operating.md").read_text()
    table = re.search(r"^\| objective \| where to look \|\n.*?\n\n", text, re.DOTALL | re.MULTILINE)
    assert table is not None
    named = [name for row in table[0].strip().splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(made | {"quality"})  # the word of the pipeline file


def test_every_page_is_in_the_index():
    linked = {
        (ROOT / "docs" / target).resolve() for target, _ in LINK.findall((ROOT / "docs" / "README.md").read_text())
    }
    pages = {path.resolve() for path in (ROOT / "docs").glob("**/*.md")} - {(ROOT / "docs" / "README.md").resolve()}
    missing = {path for path in pages - linked if path.parent.name != "decisions"}  # they have an index of their own
    assert not missing
    decisions = ROOT / "docs" / "decisions"
    listed = {target for target, _ in LINK.findall((decisions / "README.md").read_text())}
    assert {path.name for path in decisions.glob("0*.md")} <= listed


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


def test_commands_and_options_named_in_documents_exist():
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {name: {o for p in its.params for o in p.opts} | {"--help"} for name, its in commands.items()}
    seen = 0
    for document in DOCUMENTS:
        for name, rest in re.findall(
            r"driftloop ([a-z][a-z-]+)\b(?= |`|$)([^`\n]*)", document.read_text(), re.MULTILINE
        ):
            if name in ("is", "does", "joins", "figures", "creates", "gives", "says"):
                continue
            assert name in commands, f"{document.name}: driftloop {name}"
            for option in re.findall(r"(?<![\w-])--[a-z-]+", rest.split("  ")[0].split(" #")[0]):
                assert option in options[name], f"{document.name}: driftloop {name} {option}"
                seen += 1
    assert seen > 40


def test_make_targets_named_in_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for name in re.findall(r"(?:`|^    |^)make ([a-z-]+)", document.read_text(), re.MULTILINE):
            assert name in targets, f"{document.name}: make {name}"
