"""Somebody who does what a document says: writes its files and runs its commands, in order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from stream.local.process import Child, Reaper, end_session, wait_until
from tests.conftest import KAFKA_CACHE

__all__ = ["UP", "Block", "Reader"]

UP = "driftloop up "


class Block(NamedTuple):
    file: str  # its name, if it is to be written
    language: str
    text: str
    how: str  # what is expected of its output: "says", "until it says" or nothing
    expected: str


class Reader:
    """Somebody with two terminals."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reaper = Reaper()
        self.first: Child | None = None
        self.watching: list[Child] = []
        (directory / ".driftloop").mkdir()
        (directory / ".driftloop" / "kafka").symlink_to(KAFKA_CACHE)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLOOP_")}
        self.environment = {**kept, "PATH": path, "COLUMNS": "200"}

    def do(self, block: Block) -> None:
        if block.language == "python":
            (self.directory / block.file).write_text(block.text)
        elif block.text.startswith(UP):
            self.go_up(block.text.partition("#")[0].strip())
        elif block.how == "until it says":
            wait_until(lambda: self.says(block), 240.0, f"{block.text.strip()} to say {block.expected}", 1.0)
        else:
            assert self.says(block), f"{block.text}\ndoes not say {block.expected!r}:\n{self.output}"

    def go_up(self, command: str) -> None:
        """In the first terminal; returns when the page has an address."""
        script = ["bash", "-c", f"cd '{self.directory}' && exec {command}"]
        self.first = Child("up", script, self.directory / "up.log", self.reaper, self.environment)
        self.first.start()
        wait_until(lambda: "page:" in self.said(), 120.0, "the page's address")

    def said(self) -> str:
        return (self.directory / "up.log").read_text()

    def says(self, block: Block) -> bool:
        return block.expected.replace("_", " ") in self.run(block.text).replace("_", " ")

    def run(self, commands: str) -> str:
        """What they say, in the second terminal; all must end well."""
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.located(commands)],
            cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        self.output = ran.stdout + ran.stderr
        assert ran.returncode == 0, (
            f"{commands}\nended with {ran.returncode}:\n{self.output}\n{self.said() if self.first else ''}"
        )
        return self.output

    def located(self, command: str) -> str:
        """A command that knows where things are, once that can be known."""
        environment = self.directory / ".driftloop" / "up" / "environment"
        return f"source {environment}\n{command}" if environment.exists() else command

    def watch(self, command: str) -> Child:
        """A further terminal, for what goes on until Ctrl-C; its log is what it shows."""
        name = re.sub(r"\W+", "-", command)
        # The status is drawn anew in place: only for a terminal.
        environment = {**self.environment, "FORCE_COLOR": "1"}
        script = ["bash", "-c", f"cd '{self.directory}'\n{self.located(f'exec {command}')}"]
        child = Child(name, script, self.directory / f"{name}.log", self.reaper, environment)
        child.start()
        self.watching.append(child)
        return child

    def close(self) -> None:
        for child in self.watching:
            if child.running():
                child.signal(2)
            child.stop(20.0)
        if self.first is not None:
            if self.first.running():
                self.first.signal(2)  # Ctrl-C
            self.first.stop(60.0)
            end_session(self.first.pid)
        self.reaper.close()
