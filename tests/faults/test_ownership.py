"""Workers that were thought dead, and workers that come and go: one owner at a time writes."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream.local.process import Child
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
    events, storms = 6_000, 4
    slow: Any = {"pace_s": 0.03, "batch_records_max": "20"}  # two of them need a minute and a half
    world = make_world(partitions=4)
    world.produce(card_stream(events, partitions=4, early=0.02, poison=0.01))
    world.start("learn")
    steady = world.start("score", **slow)
    for storm in range(storms):
        guest = world.start("score", **slow)
        world.wait(lambda g=guest: owned_by(g), "the guest to own a share")  # type: ignore[misc]
        before = committed_by_partition(world)
        world.wait(
            lambda g=guest, b=before: any(committed_by_partition(world)[p] > b[p] for p in owned_by(g)),  # type: ignore[misc]
            "the guest to work",
        )
        if storm % 2:
            guest.kill()
        else:
            guest.signal(signal.SIGTERM)
            assert guest.wait(30.0) == 0, guest.tail()
    assert 0 < world.committed() < events  # they left in the middle of their work
    assert len([line for line in steady.log_path.read_text().splitlines() if "owns partitions" in line]) >= storms
    world.start("score", **SLOW)
    steady.signal(signal.SIGTERM)
    world.wait_settled()
    verdict = examine(world)
    assert verdict.predictions + sum(verdict.dead_letters.values()) == events
    world.stop_workers()


def owned_by(worker: Child) -> set[int]:
    """What its log says last."""
    found = re.findall(r"owns partitions \[([\d, ]*)\]", worker.log_path.read_text())
    return {int(number) for number in found[-1].split(",") if number.strip()} if found else set()


def committed_by_partition(world: World) -> list[int]:
    status = world.status()
    return [status.position("events", number) for number in range(world.partitions)]


def test_a_second_learner_waits_and_takes_over(world: World):
    world.produce(card_stream(3_000))
    first = world.start("learn", snapshot_interval_ms="20")
    world.start("score", pace_s=0.001, batch_records_max="50")
    world.wait(lambda: (world.status().learner or {"counts": {}})["counts"].get("learned", 0) > 50, "a first model")
    world.start("learn")
    first.kill()
    world.wait_settled()
    assert examine(world).predictions == 3_000
