"""Redis and the broker are killed and come back; workers wait, and nothing is lost or doubled."""

from __future__ import annotations

import time

import pytest

from tests.support.oracles import examine
from tests.support.world import World, card_stream

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(240)]

EVENTS = 5_000
SLOW = {"batch_records_max": "50"}


def at_work(world: World) -> None:
    world.produce(card_stream(EVENTS, early=0.05, poison=0.01))
    world.start("learn", snapshot_interval_ms="50")
    world.start("score", pace_s=0.0008, **SLOW)
    world.wait(lambda: world.committed() > 500, "some commits")
    assert world.committed() < EVENTS


def test_redis_killed_and_restarted(world: World):
    at_work(world)
    with world.stack.redis.stopped():
        time.sleep(1.0)  # the outage itself
    assert world.committed() < EVENTS
    world.wait_settled()
    examine(world)
    assert all(worker.running() for worker in world.workers)
    assert any(
        "unavailable" in worker.log_path.read_text() or "Redis" in worker.log_path.read_text()
        for worker in world.workers
    )
    world.stop_workers()


def test_redis_killed_three_times(world: World):
    at_work(world)
    for _ in range(3):
        committed = world.committed()
        with world.stack.redis.stopped():
            pass
        world.wait(lambda c=committed: world.committed() > c, "work to go on")  # type: ignore[misc]
    world.wait_settled()
    examine(world)


def test_the_broker_killed_and_restarted(world: World):
    at_work(world)
    with world.stack.kafka.stopped():
        time.sleep(1.0)
    assert world.committed() < EVENTS
    world.wait_settled()
    examine(world)
    world.stop_workers()


def test_redis_flushed_under_a_worker_ends_it(world: World):
    """The state is gone: going on would write a history that never was."""
    at_work(world)
    for key in world.redis.keys(f"{{{world.name}:*}}:state"):
        world.redis.delete(key)
    score = world.workers[1]
    world.wait(lambda: not score.running(), "the worker to end")
    assert "is over" in score.log_path.read_text()
