"""Examples in a file in place of the archive, a real Redis, and a process that runs a part of a search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from stream.adapters.file_pipelines import LoadedPipeline, load_pipeline
from stream.batch.searching import run_trials
from stream.core.records import Record
from stream.messages import Example, Source
from stream.settings import Settings, load_settings
from tests.support.environment import environment as set_for_a_while

__all__ = ["FileSource", "Retraining", "examples"]

PIPELINE_FILE = Path(__file__).with_name("searched.py")


class FileSource:
    """As an archive of shard 0."""

    def __init__(self, path: Path) -> None:
        self.found = msgspec.msgpack.decode(path.read_bytes(), type=list[Record])

    def end(self, shard: int) -> int:
        return self.found[-1].offset + 1 if self.found else 0

    def records(self, shard: int, from_offset: int, to_offset: int) -> Iterator[Record]:
        return (record for record in self.found if from_offset <= record.offset < to_offset)


def examples(rows: Iterable[tuple[dict[str, Any], Any]], delay: int, topic: str = "searched") -> list[Record]:
    """One event a second; each label so many events later."""
    found = []
    for number, (features, label) in enumerate(rows):
        body = Example(
            event_id=f"e{number}", entity_id="k", occurred_at_ms=number * 1_000, features=features, served={}, label=label,
            label_source="test", labelled_at_ms=(number + delay) * 1_000, timing="on_time", partition=0,
            sequence=number + 1, event_source=Source(f"{topic}.events", 0, number),
        )  # fmt: skip
        found.append(Record("examples", 0, number, (number + delay) * 1_000 + 500, b"0", msgspec.json.encode(body)))
    return found


class Retraining:
    """One pipeline's retraining in a directory of its own."""

    def __init__(self, directory: Path, redis_url: str, name: str) -> None:
        self.directory, self.name = directory, name
        self.environment = {"DRIFTLOOP_TEST_NAME": name}
        self.settings: Settings = load_settings(
            redis_url=redis_url, signing_key="k" * 32, artifact_url=str(directory / "artifacts")
        )
        self.redis_url = redis_url
        self.examples_path = directory / "examples"

    def load(self, **environment: str) -> LoadedPipeline:
        self.environment |= {f"DRIFTLOOP_TEST_{key.upper()}": value for key, value in environment.items()}
        with set_for_a_while(self.environment):
            self.loaded = load_pipeline(PIPELINE_FILE)
        return self.loaded

    def write(self, records: list[Record]) -> FileSource:
        self.examples_path.write_bytes(msgspec.msgpack.encode(records))
        self.source = FileSource(self.examples_path)
        return self.source

    def start(self, function: str, *arguments: Any, **environment: str) -> subprocess.Popen[bytes]:
        """A process of its own: `run_trials`, `fit` ..., its answer on stdout as JSON."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.retraining", function, str(self.examples_path), *map(json.dumps, arguments)],
            env={
                **os.environ, **self.environment, "DRIFTLOOP_REDIS_URL": self.redis_url, "DRIFTLOOP_SIGNING_KEY": "k" * 32,
                "DRIFTLOOP_ARTIFACT_URL": self.settings.artifact_url, **environment,
            },
            stdout=subprocess.PIPE,
        )  # fmt: skip


def main() -> None:
    from stream.batch.comparing import compare
    from stream.batch.fitting import fit

    functions: dict[str, Any] = {"run_trials": run_trials, "fit": fit, "compare": compare}
    name, path, *arguments = sys.argv[1:]
    found = functions[name](
        load_settings(), load_pipeline(PIPELINE_FILE), *map(json.loads, arguments), source=FileSource(Path(path))
    )
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
