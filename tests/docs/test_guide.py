"""docs/guide.md, done as it says: every file written, every command run, in order, on a real Kafka and Redis."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from stream.local.process import Child, Reaper, end_session, wait_until
from tests.conftest import KAFKA_CACHE

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guide.md").read_text()
BLOCK = re.compile(
    r"(?:^`([\w.]+)`:\n\n)?^```(\w+)\n(.*?)^```\n(?:<!-- (says|until it says): (.*?) -->)?", re.DOTALL | re.MULTILINE
)
UP = "driftloop up parcels.py"


class Block(NamedTuple):
    file: str  # its name, if it is to be written
    language: str
    text: str
    how: str  # what is expected of its output: "says", "until it says" or nothing
    expected: str


BLOCKS = [Block(*found) for found in BLOCK.findall(GUIDE)]


def test_every_block_is_one_that_is_run():
    assert len(BLOCKS) == GUIDE.count("```") / 2 > 10
    assert all(block.file if block.language == "python" else block.language == "sh" for block in BLOCKS)
    assert BLOCKS[0].text.startswith("make install")  # which this environment is made by
    assert sum(bool(block.how) for block in BLOCKS) == GUIDE.count("<!--") >= 6


class Reader:
    """Somebody with two terminals."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reaper = Reaper()
        self.first: Child | None = None
        (directory / ".driftloop").mkdir()
        (directory / ".driftloop" / "kafka").symlink_to(KAFKA_CACHE)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLOOP_")}
        self.environment = {**kept, "PATH": path, "COLUMNS": "200"}

    def do(self, block: Block) -> None:
        if block.language == "python":
            (self.directory / block.file).write_text(block.text)
        elif block.text.startswith(UP):
            command = ["bash", "-c", f"cd '{self.directory}' && exec {block.text.partition('#')[0].strip()}"]
            self.first = Child("up", command, self.directory / "up.log", self.reaper, self.environment)
            self.first.start()
            wait_until(lambda: "page:" in self.said(), 120.0, "the page's address")
        elif block.how == "until it says":
            wait_until(lambda: self.says(block), 240.0, f"{block.text.strip()} to say {block.expected}", 1.0)
        else:
            assert self.says(block), f"{block.text}\ndoes not say {block.expected!r}:\n{self.output}"

    def said(self) -> str:
        return (self.directory / "up.log").read_text()

    def says(self, block: Block) -> bool:
        """Run a block in the second terminal."""
        environment = self.directory / ".driftloop" / "up" / "environment"
        before = f"source {environment}\n" if environment.exists() else ""
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", before + block.text],
            cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        self.output = ran.stdout + ran.stderr
        assert ran.returncode == 0, (
            f"{block.text}\nended with {ran.returncode}:\n{self.output}\n{self.said() if self.first else ''}"
        )
        return block.expected.replace("_", " ") in self.output.replace("_", " ")

    def close(self) -> None:
        if self.first is not None:
            if self.first.running():
                self.first.signal(2)  # Ctrl-C
            self.first.stop(60.0)
            end_session(self.first.pid)
        self.reaper.close()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    its = Reader(tmp_path)
    yield its
    its.close()


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_the_guide(reader: Reader):
    for block in BLOCKS[1:]:
        reader.do(block)
    replayed = (reader.directory / "replay.html").read_text()
    assert "parcels" in replayed and "http://" not in replayed.replace("http://www.w3.org", "")
    requests = (reader.directory / "requests.csv").read_text().splitlines()
    assert requests[0].startswith("event_id,key,") and requests[0].endswith(",label")
    assert reader.first is not None
    reader.first.signal(2)
    assert reader.first.wait(60.0) == 0, reader.said()
