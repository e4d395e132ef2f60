"""What Airflow must know of each pipeline when it parses DAG files, without running the pipeline file there.

A pipeline file imports River and may do anything, so it runs in a process of its own, once for each state of its folder;
what it says is kept in a cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from stream.errors import ConfigurationError

__all__ = ["Listed", "Manifest", "list_pipelines"]

LOAD_S = 60.0
IMPORTS_US = re.compile(r"^\s*(from|import)\s+stream\b", re.MULTILINE)
MAKES_ONE = re.compile(r"\bPipeline\(")


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline, as DAGs need it."""

    file: str
    name: str
    on_drift: bool
    schedule: str | None  # cron, UTC
    workers: int
    approval: bool
    approval_timeout_s: float
    labelling: bool
    label_options: list[str]  # what a person can choose; empty: it is written
    label_within_s: float


class Manifest(NamedTuple):
    """`wrong`: file -> what is wrong with it. The others are not held up by it."""

    pipelines: list[Listed]
    wrong: dict[str, str]


def list_pipelines(where: str, cache: Path, environment: Mapping[str, str] | None = None) -> Manifest:
    """The pipelines in files and directories, comma-separated; of a directory those of its .py files that make a Pipeline.

    Args:
        cache: a directory of ours; it is made if missing, and where it cannot be written nothing is kept.
        environment: variables a pipeline file may look at; what they say counts as a part of the file.
    """
    listed: dict[str, Listed] = {}
    wrong: dict[str, str] = {}
    for file in _files(where):
        try:
            found = _look_up(file, cache, environment or {})
        except ConfigurationError as error:
            wrong[str(file)] = str(error)
            continue
        if found.name in listed:
            wrong[str(file)] = f"name = {found.name!r}: {listed[found.name].file} has it; give each pipeline its own"
        else:
            listed[found.name] = found
    return Manifest(list(listed.values()), wrong)


def _files(where: str) -> Iterable[Path]:
    for entry in filter(None, (part.strip() for part in where.split(","))):
        path = Path(entry).absolute()
        if path.is_dir():
            for file in sorted(path.glob("*.py")):
                text = file.read_text(errors="replace")
                if IMPORTS_US.search(text) and MAKES_ONE.search(text):
                    yield file
        else:
            yield path


def _look_up(file: Path, cache: Path, environment: Mapping[str, str]) -> Listed:
    if not file.is_file():
        raise ConfigurationError("DRIFTLOOP_PIPELINES", str(file), "no such file")
    # The files beside it may be imported by it.
    state = sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in file.parent.glob("*.py"))
    of = repr((state, sorted(environment.items()), sys.version, Path(__file__).stat().st_mtime_ns))
    prefix = f"{file.stem}-{_short(str(file))}"
    kept = cache / f"{prefix}-{_short(of)}.json"
    try:
        return msgspec.json.decode(kept.read_bytes(), type=Listed)
    except (OSError, msgspec.DecodeError):
        answer = _ask(file)
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in cache.glob(f"{prefix}-*.json"):
            old.unlink(missing_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_bytes(msgspec.json.encode(answer))
        partial.replace(kept)
    except OSError:
        pass  # slower each time, and right all the same
    return answer


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _ask(file: Path) -> Listed:
    command = [sys.executable, "-m", "stream.adapters.pipeline_manifest", str(file)]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=LOAD_S, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigurationError("pipeline file", str(file), f"it takes longer than {LOAD_S:.0f} s to load") from None
    if answer.returncode != 0:
        said = answer.stderr.decode(errors="replace").strip()
        said = said if answer.returncode == 2 else said.rpartition("\n")[2]
        raise ConfigurationError("pipeline file", str(file), said[-2_000:] or "it does not load")
    return msgspec.json.decode(answer.stdout.splitlines()[-1], type=Listed)  # the file may print


def _describe(file: Path) -> Listed:
    from stream.adapters.file_pipelines import load_pipeline
    from stream.lifecycle import label_options

    pipeline = load_pipeline(file).pipeline
    retrain = pipeline.retrain
    return Listed(
        file=str(file),
        name=pipeline.name,
        on_drift=retrain.on_drift,
        schedule=retrain.schedule,
        workers=retrain.workers,
        approval=retrain.automation == "approval",
        approval_timeout_s=retrain.approval_timeout_ms / 1_000,
        labelling=bool(pipeline.labelling),
        label_options=label_options(pipeline.task, pipeline.labels.classes),
        label_within_s=pipeline.labelling.within_ms / 1_000 if pipeline.labelling else 0.0,
    )


if __name__ == "__main__":
    try:
        found = _describe(Path(sys.argv[1]))
    except ConfigurationError as error:
        sys.stderr.write(str(error))
        sys.exit(2)
    sys.stdout.write("\n" + msgspec.json.encode(found).decode() + "\n")
