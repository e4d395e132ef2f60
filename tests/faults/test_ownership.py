"""Workers that were thought dead, and workers that come and go: one owner at a time writes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.oracles import examine
from tests.support.world import World, card_stream

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(240)]

SLOW = {"batch_records_max": "50"}


@pytest.mark.parametrize("point", ["score.before_commit", "score.after_commit", "score.before_publish"])
def test_a_worker_stopped_past_its_session_and_resumed(world: World, point: str):
    events = 3_000
    world.produce(card_stream(events, early=0.05))
    world.start("learn")
    zombie = world.start("score", crash_at=f"{point}:8:stop", **SLOW)
    world.wait(lambda: _stopped(zombie.pid), "the worker to be stopped")
    before = world.committed()
    assert 0 < before < events
    world.start("score", pace_s=0.001, **SLOW)
    world.wait(lambda: world.committed() > before, "another worker to take over")
    assert world.committed() < events  # the zombie comes back while there is work
    zombie.signal(signal.SIGCONT)
    if point == "score.before_commit":
        world.wait(lambda: "is over" in zombie.log_path.read_text(), "the zombie's commit to be fenced")
    world.wait_settled()
    assert examine(world).predictions == events
    world.stop_workers()


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_workers_that_join_and_leave_all_the_time(make_world: Callable[..., World]):
    events = 12_000
    world = make_world(partitions=4)
    world.produce(card_stream(events, partitions=4, early=0.02, poison=0.01))
    world.start("learn")
    steady = world.start("score", pace_s=0.001, **SLOW)
    storms = 0
    while storms < 4:
        guest = world.start("score", pace_s=0.001, **SLOW)
        world.wait(lambda g=guest: "owns partitions [" in g.tail(), "the guest to own a share")  # type: ignore[misc]
        time.sleep(0.3)  # it works for a while
        if storms % 2:
            guest.kill()
        else:
            guest.signal(signal.SIGTERM)
            assert guest.wait(30.0) == 0, guest.tail()
        storms += 1
    assert 0 < world.committed() < events
    assert len([line for line in steady.log_path.read_text().splitlines() if "owns partitions" in line]) >= storms
    world.start("score", **SLOW)
    world.wait_settled()
    assert examine(world).predictions + sum(examine(world).dead_letters.values()) == events
    world.stop_workers()


def test_a_second_learner_waits_and_takes_over(world: World):
    world.produce(card_stream(3_000))
    first = world.start("learn", snapshot_interval_ms="20")
    world.start("score", pace_s=0.001, batch_records_max="50")
    world.wait(lambda: (world.status().learner or {"counts": {}})["counts"].get("learned", 0) > 50, "a first model")
    world.start("learn")
    first.kill()
    world.wait_settled()
    assert examine(world).predictions == 3_000
