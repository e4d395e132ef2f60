"""One contract for artifacts, kept in a directory and in a store by URL (fsspec's own, in memory); the steps work over both."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fsspec.registry import known_implementations

from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.file_pipelines import LoadedPipeline
from stream.batch import releasing
from stream.batch import retraining as steps
from stream.batch.plans import Run, RunFiles
from stream.batch.taking_up import has_answered
from stream.core.model_bases import ModelBase, configuration_of, open_base, seal_base
from stream.errors import ConfigurationError, Conflict, SnapshotRefused, Unavailable
from stream.settings import Settings, load_settings
from tests.support.records import logistic, pipeline_of

KEY = "k" * 32


@pytest.fixture(params=["directory", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "artifacts") if request.param == "directory" else f"memory://artifacts-{uuid4().hex}"


@pytest.fixture
def files(url: str) -> ArtifactFiles:
    return ArtifactFiles(url, "cards")


def test_a_file_is_put_got_listed_replaced_and_deleted(files: ArtifactFiles, url: str):
    assert files.find_file("runs/r-1/fit.json") is None
    assert files.list_files("runs") == files.all_files() == files.bases() == []
    with pytest.raises(Unavailable, match=r"runs/r-1/fit\.json: no such file"):
        files.get_file("runs/r-1/fit.json")
    files.put_file("runs/r-1/fit.json", b"one")
    files.put_file("runs/r-2/fit.json", b"")
    files.put_file("runs/r-1/fit.json", b"two")
    large = bytes(range(256)) * 50_000  # more than a block of a store's upload
    files.put_file("runs/r-1/trials.json", large)
    assert files.get_file("runs/r-1/fit.json") == b"two"
    assert files.get_file("runs/r-2/fit.json") == b""
    assert ArtifactFiles(url, "cards").get_file("runs/r-1/trials.json") == large
    assert ArtifactFiles(url, "card").all_files() == []  # another pipeline
    assert files.list_files("runs") == ["r-1", "r-2"]
    assert files.list_files("runs/r-1") == ["fit.json", "trials.json"]
    assert files.all_files() == ["runs/r-1/fit.json", "runs/r-1/trials.json", "runs/r-2/fit.json"]
    files.delete_file("runs/r-1/trials.json")
    files.delete_file("runs/r-1/trials.json")
    assert files.list_files("runs/r-1") == ["fit.json"]


def test_a_base_is_put_once_and_other_content_is_a_conflict(files: ArtifactFiles):
    files.put_base(b"model", "84c5abf7")
    files.put_base(b"model", "84c5abf7")
    with pytest.raises(Conflict, match=r"bases/84c5abf7\.model exists with other content"):
        files.put_base(b"other", "84c5abf7")
    assert files.get_base("84c5abf7") == b"model"
    files.replace_base(b"other", "84c5abf7")
    assert files.get_base("84c5abf7") == b"other"
    files.put_base(b"first", "0badcafe")
    assert files.bases() == ["0badcafe", "84c5abf7"]
    with pytest.raises(Unavailable, match="no such file"):
        files.get_base("cafecafe")


@pytest.mark.parametrize("path", ["", "/etc/passwd", "bases/../../x", "a b", "bases/"])
def test_a_path_stays_below_the_url(files: ArtifactFiles, path: str):
    with pytest.raises(ConfigurationError, match="use letters"):
        files.put_file(path, b"x")


def test_a_url_that_nobody_knows_or_whose_package_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigurationError, match=r"DRIFTLOOP_ARTIFACT_URL.*nowhere"):
        ArtifactFiles("nowhere://bucket", "cards")
    monkeypatch.setitem(known_implementations, "here", {"class": "no_such_package.Store", "err": "install it"})
    with pytest.raises(ConfigurationError, match=r"backup.*install it"):
        ArtifactFiles("here://bucket", "cards", setting="backup")


def test_a_store_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch):
    files = ArtifactFiles(f"memory://artifacts-{uuid4().hex}", "cards")
    files.put_file("runs/r/fit.json", b"x")

    def silent(*_: Any, **__: Any) -> Any:
        raise TimeoutError("no answer")  # as botocore's and aiohttp's, an OSError

    for name in ("open", "cat_file", "rm_file", "ls", "find"):
        monkeypatch.setattr(files._files, name, silent, raising=True)
    for call in (
        lambda: files.put_file("runs/r/fit.json", b"y"),
        lambda: files.get_file("runs/r/fit.json"),
        lambda: files.delete_file("runs/r/fit.json"),
        lambda: files.list_files("runs"),
        files.all_files,
    ):
        with pytest.raises(Unavailable, match="no answer"):
            call()


@pytest.fixture
def settings(url: str) -> Settings:
    return load_settings(signing_key=KEY, artifact_url=url)


def test_a_release_reads_base_and_verdict_from_the_store(settings: Settings, url: str, monkeypatch: pytest.MonkeyPatch):
    """What compare, fit and release leave and read; only the word to the learner, over Redis, is left out."""
    pipeline = pipeline_of()
    loaded = LoadedPipeline(pipeline, frozenset())
    base = ModelBase(pipeline=pipeline.name, shard=0, offset=7, model=logistic({}), provenance={"run": "r-1"})
    its = Run(settings, loaded, "r-1")
    sealed = seal_base(base, configuration=its.configuration, key=its.keys[0])
    its.files.put_base(sealed, base.name)
    assert not has_answered(its.files, "r-1")
    verdict = {"accepted": True, "why": "Accepted: better.", "figures": {"gain": 0.1, "segment": None}}
    its.keep("verdict.json", verdict)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(releasing, "ask", lambda *_, **arguments: asked.append(arguments) or {})
    candidate = {"base": base.name, "parent": "cafecafe"}
    found = RunFiles(settings, pipeline.name, "r-1").find("verdict.json")
    answer = steps.release(settings, loaded, run_id="r-1", candidate=candidate, verdict=found)
    assert answer == {"released": True, "base": base.name, "why": "Accepted: better."}
    assert [(one["by"], one["parent"], one["evidence"]) for one in asked] == [
        ("run:r-1", "cafecafe", {"gain": 0.1, "segment": None})
    ]
    assert its.find("release.json") == answer
    assert has_answered(ArtifactFiles(url, pipeline.name), "r-1")
    assert ArtifactFiles(url, pipeline.name).all_files() == [
        f"bases/{base.name}.model",
        "runs/r-1/release.json",
        "runs/r-1/verdict.json",
    ]
    opened = open_base(
        its.files.get_base(base.name), its.keys, pipeline=pipeline.name, configuration=configuration_of(pipeline)
    )
    assert (opened.name, opened.provenance) == (base.name, {"run": "r-1"})
    its.files.replace_base(sealed[:-1], base.name)
    with pytest.raises(SnapshotRefused):
        steps.release(settings, loaded, run_id="r-1", candidate=candidate, verdict=found)
