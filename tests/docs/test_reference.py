"""docs/reference/ is what the code says, and everything in it is explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from docs import make_reference, reference_pipeline
from stream import codes
from stream.cli.checks import CHECKS
from stream.settings import Settings

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
RAISED = re.compile(r"\b(?:RecordRejected|StartupRefused|SnapshotRefused|Finding)\(\s*f?\"([a-z_{}]+)\"")
LOGGED = re.compile(r"\"code\": \"([a-z_]+)\"")
WARNED = re.compile(r"(?:\(|return )\s*\"([a-z]+_[a-z_]+)\",\s*\n?\s*f?\"")


def test_the_pages_are_what_the_code_makes():
    made = make_reference.pages()
    assert {path.name for path in REFERENCE.glob("*.md")} == made.keys()
    for name, text in made.items():
        assert (REFERENCE / name).read_text() == text, f"{name}: run `make reference`"


def test_every_code_is_explained_and_every_explained_code_exists():
    texts = {path: path.read_text() for path in (ROOT / "stream").rglob("*.py") if path.name != "codes.py"}
    raised = {code for text in texts.values() for code in RAISED.findall(text)}
    logged = {code for path, text in texts.items() if path.name != "contracts.py" for code in LOGGED.findall(text)}
    roles = {f"no_{role}_worker" for role in ("score", "learn")}
    assert "no_{role}_worker" in raised and len(raised) > 70 and len(logged) > 8
    used = (raised - {"no_{role}_worker"}) | roles | logged
    explained = codes.explained()
    assert used <= explained.keys(), f"explain in stream/codes.py: {sorted(used - explained.keys())}"
    everything = "\n".join(texts.values())
    stale = {name for name in explained.keys() - used if not name.isdecimal() and f'"{name}"' not in everything}
    assert not stale, f"nothing gives these codes any more: {sorted(stale)}"
    assert len(CHECKS) > 10


def test_every_warning_of_the_rehearsal_is_explained():
    found = {
        code
        for name in ("guarding.py", "rehearsing.py")
        for code in WARNED.findall((ROOT / "stream" / "core" / name).read_text())
    }
    assert {"tree_does_not_forget", "model_explodes", "entity_feature_fails"} <= found
    assert found <= {code.name for code in codes.WARNINGS.codes}


def test_a_code_is_explained_once_and_not_empty():
    names = [code.name for section in codes.SECTIONS for code in section.codes]
    assert len(names) == len(set(names))
    assert all(code.meaning and code.remedy for code in codes.explained().values())


def test_what_nobody_has_explained_is_an_error():
    with pytest.raises(ValueError, match="DRIFTLOOP_BROKERS has no description"):
        make_reference.setting("brokers", FieldInfo(annotation=str, default=""))

    def nameless() -> None: ...

    with pytest.raises(ValueError, match="nameless has no docstring"):
        reference_pipeline.function("", nameless)
    with pytest.raises(ValueError, match=r"Settings\.a has no description"):
        reference_pipeline.fields(_settings_without_words(), {})


def _settings_without_words() -> type:
    from dataclasses import make_dataclass

    return make_dataclass("Settings", ["a"])


def test_secrets_and_homes_are_not_written_down():
    text = (REFERENCE / "settings.md").read_text()
    assert str(Path.home()) not in text
    assert text.count("secret text") == sum("SecretStr" in str(f.annotation) for f in Settings.model_fields.values())
    for field in Settings.model_fields:
        assert f"`DRIFTLOOP_{field.upper()}`" in text


def test_a_cell_stays_one_cell():
    assert reference_pipeline.cell("a <b> | `<c> | d`") == "a &lt;b> \\| `<c> \\| d`"
    assert reference_pipeline.table(("x", "y"), [("1", ""), ("2", "")]) == ["| x |", "| --- |", "| 1 |", "| 2 |"]
