"""Workers killed in a backfill: it goes on where it was, and what comes out is that of an undisturbed pass."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stream.cli.running import forget
from stream.core.beginning import Beginning
from tests.support.oracles import examine
from tests.support.world import PIPELINE_FILE, World, card_stream

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(240)]

EVENTS = 4_000
SLOW = {"batch_records_max": "100", "snapshot_interval_ms": "50"}
KILLED = -9
DEATHS = [("before_commit", 3), ("after_publish", 5), ("after_commit", 4), ("before_publish", 4), ("on_assignment", 2)]


def test_workers_killed_again_and_again_in_a_backfill(make_world: Callable[..., World]):
    """A new version reads the old one's topics from their middle on; both its workers die, again and again."""
    old = make_world()
    records = card_stream(EVENTS, early=0.05, poison=0.02, duplicate=0.05)
    old.produce(records)
    new = make_world(reads=old.name)
    since_ms = records[len(records) // 4].timestamp_ms
    starts = {
        (topic, p): offset
        for topic in ("events", "labels")
        for p, offset in new.kafka.offsets_at(topic, dict.fromkeys(range(2), since_ms)).items()
    }
    assert all(offset > 0 for offset in starts.values())
    begun = sum(offset for (topic, _), offset in starts.items() if topic == "events")
    forget(new.settings, new.name, Beginning(starts))
    learner = new.start("learn", crash_at="learn.after_commit:3", **SLOW)
    reached = begun
    for point, nth in DEATHS:
        new.wait_for_death(new.start("score", crash_at=f"score.{point}:{nth}", **SLOW), KILLED)
        now = max(begun, committed(new))
        assert begun <= reached <= now < EVENTS  # it never goes back, and it is not over
        reached = now
        if not learner.running():
            learner = new.start("learn", crash_at="learn.before_commit:3", **SLOW)
    assert reached > begun
    assert sum(worker.name.startswith(f"{new.name}-learn") for worker in new.workers) > 2  # learners died, too
    learner.kill()
    new.start("learn", **SLOW)
    new.start("score", **SLOW)
    new.wait_settled()
    verdict = examine(new)
    assert verdict.copies > 0  # published by the dead, published again by an heir
    assert verdict.learned > 1_000
    assert sum(verdict.counts[name] for name in ("events",)) > 0.7 * EVENTS
    assert not old.read("predictions")  # nobody but the new version was at work
    new.stop_workers()


def committed(world: World) -> int:
    """Up to where the events are processed, over both partitions; what lies before the start counts."""
    status = world.status()
    return sum(status.position("events", p) for p in range(world.partitions))


def test_the_command_starts_a_killed_worker_again_and_is_itself_taken_up_again(world: World, tmp_path: Path):
    events = 5_000
    world.produce(card_stream(events, early=0.02))
    command = [
        sys.executable,
        "-m",
        "stream.cli",
        "backfill",
        str(PIPELINE_FILE),
        "--run",
        "--directory",
        str(tmp_path),
    ]
    slow = {"DRIFTLOOP_TEST_PACE_S": "0.001", "DRIFTLOOP_BATCH_RECORDS_MAX": "50", "COLUMNS": "160"}
    environment = {**world.environment, **slow}
    first = subprocess.Popen(
        [*command, "--from-start"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        world.wait(lambda: committed(world) > 300, "some commits")
        victim = score_worker_of(first.pid)
        os.kill(victim, signal.SIGKILL)
        reached = committed(world)
        world.wait(lambda: committed(world) > reached + 200, "another worker to go on")
        assert score_worker_of(first.pid) != victim
        first.send_signal(signal.SIGINT)
        text, _ = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 1
    assert "starting it again" in text
    assert "not done yet" in text
    assert reached < committed(world) < events
    again = subprocess.run(
        [*command, "--follow"], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "caught up after" in again.stdout
    assert committed(world) == events
    assert examine(world).predictions == events


def score_worker_of(pid: int) -> int:
    """The score worker that a process has started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            arguments = (stat.parent / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == pid and b"score" in arguments:
            return int(stat.parent.name)
    raise AssertionError("no score worker runs")
