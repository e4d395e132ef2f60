"""Child processes that never outlive their starter, not even one that is killed with -9.

A reaper process holds the reading end of a pipe. The starter tells it every child; when the pipe ends, because the
starter is gone, the reaper stops the children that are left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["Child", "Reaper", "end_session", "reap", "wait_until", "write_private"]

TERM_S = 10.0


class Reaper:
    """Watches over the children of this process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stream.local.process"],
            stdin=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C in the terminal must not reach it
        )
        self._lock = threading.Lock()

    def watch(self, pid: int) -> None:
        self._tell(f"+{pid}\n")

    def forget(self, pid: int) -> None:
        self._tell(f"-{pid}\n")

    def close(self) -> None:
        with self._lock:
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._process.wait(TERM_S * 2)

    def _tell(self, line: str) -> None:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()


class Child:
    """One child process in its own session, its output in a log file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_path: Path,
        reaper: Reaper,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log_path = log_path
        self._reaper = reaper
        self._environment = dict(environment) if environment is not None else None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self._environment,
            )
        self._reaper.watch(self.process.pid)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait."""
        if self.running():
            self.signal(signal.SIGKILL)
        self.wait(TERM_S)

    def stop(self, term_s: float = TERM_S) -> int | None:
        """SIGTERM, then SIGKILL after a while; returns the exit code."""
        if self.process is None:
            return None
        if self.running():
            self.signal(signal.SIGCONT)  # a paused process cannot end
            self.signal(signal.SIGTERM)
        try:
            return self.wait(term_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.returncode

    def wait(self, timeout_s: float) -> int:
        assert self.process is not None
        code = self.process.wait(timeout_s)
        self._reaper.forget(self.process.pid)
        return code

    def tail(self, lines: int = 15) -> str:
        """The end of the log, for error messages."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str, every_s: float = 0.05) -> None:
    """Wait for a condition with a deadline; raises TimeoutError."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(every_s)


def write_private(path: Path, text: str) -> None:
    """A file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def end_session(leader: int) -> None:
    """kill -9 what a child has started and left behind: every child leads a session of its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    for stat in Path("/proc").glob("[0-9]*/stat"):  # process groups made within the session; Linux only
        try:
            fields = stat.read_text().rpartition(")")[2].split()  # after the name: state, parent, group, session
            if int(fields[3]) == leader:
                os.kill(int(stat.parent.name), signal.SIGKILL)
        except (OSError, ValueError, IndexError):
            continue  # it has just ended


def reap(lines: Iterable[str]) -> None:
    """The reaper's own life: keep the list until the pipe ends, then stop what is on it."""
    pids: set[int] = set()
    for line in lines:
        pid = int(line[1:])
        (pids.add if line[0] == "+" else pids.discard)(pid)
    left = tuple(pids)
    for number, patience_s in ((signal.SIGCONT, 0.0), (signal.SIGTERM, TERM_S / 2), (signal.SIGKILL, 1.0)):
        for pid in list(pids):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pids.discard(pid)
        deadline_s = time.monotonic() + patience_s
        while time.monotonic() < deadline_s and any(map(_alive, pids)):
            time.sleep(0.05)
    for pid in left:
        end_session(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    reap(sys.stdin)
