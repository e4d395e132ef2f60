"""kill -9 of a worker at every named point. What comes out is that of an undisturbed pass, byte for byte."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from stream.adapters.crash_points import POINTS
from stream.messages import Drift
from tests.support.oracles import examine
from tests.support.world import World, card_stream

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(180)]

EVENTS = 2_500
SLOW = {"batch_records_max": "100", "snapshot_interval_ms": "50"}
KILLED = -9
NTH = {"score.on_assignment": 2, "learn.on_assignment": 1}


@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("score.")])
def test_a_score_worker_killed(make_world: Callable[..., World], point: str):
    world = make_world(labelling="50")
    world.produce(card_stream(EVENTS, poison=0.02, early=0.03, contradicting=0.03))
    world.start("learn", **SLOW)
    nth = NTH.get(point, 7)
    victim = world.start("score", crash_at=f"{point}:{nth}", **SLOW)
    world.wait_for_death(victim, KILLED)
    before = world.committed()
    if point != "score.on_assignment":
        assert before > 0  # it had worked ...
    assert before < EVENTS  # ... and it had not finished
    waiting = sum(int(world.redis.hlen(f"{{{world.name}:{p}}}:outbox")) for p in range(2))
    if point in ("score.after_commit", "score.before_publish", "score.after_publish"):
        assert waiting > 0  # something was committed and not known to be published
    world.start("score", **SLOW)
    world.wait_settled()
    verdict = examine(world)
    assert verdict.counts["label_requests"] > 80  # none was lost and none asked for anew
    if point == "score.after_publish":
        assert verdict.copies > 0  # published by the dead, published again by its heir
    world.stop_workers()


@pytest.mark.parametrize("point", ["learn.on_assignment", "learn.before_commit", "learn.after_commit"])
def test_a_learn_worker_killed(world: World, point: str):
    world.produce(card_stream(EVENTS))
    nth = NTH.get(point, 4)
    victim = world.start("learn", crash_at=f"{point}:{nth}", **SLOW)
    if point == "learn.on_assignment":
        world.wait_for_death(victim, KILLED)
    world.start("score", pace_s=0.001, **SLOW)
    if point != "learn.on_assignment":
        world.wait_for_death(victim, KILLED)
        status = world.status()
        assert status.learner is not None
        assert 0 < int(status.learner["version"].partition("@")[2])  # a snapshot was there ...
    assert world.committed() < EVENTS  # ... and events were left
    world.start("learn", **SLOW)
    world.wait_settled()
    verdict = examine(world)
    assert verdict.learned > 0.9 * EVENTS
    world.stop_workers()


def test_a_learner_killed_while_a_drift_is_under_way(world: World):
    """It had told of the drift and not committed that it had: the heir says the same words, and no others."""
    events = 7_000
    world.produce(card_stream(events, changed_at=4_000))
    victim = world.start("learn", crash_at="learn.after_publish", snapshot_interval_ms="50")
    world.start("score")
    world.wait_for_death(victim, KILLED)
    (told,) = world.read("drifts")[0]
    status = world.status()
    assert status.learner is not None
    before = status.learner["drift"]
    assert before["episodes"] == 0  # what was committed knows nothing of it
    alarm_at = msgspec.json.decode(told.value or b"", type=Drift).to_offset
    assert int(status.learner["version"].rpartition("@")[2]) < alarm_at
    # Once more, with it committed. The first commit of an heir may come before the alarm: then its own heir is killed.
    for _ in range(5):
        heir = world.start("learn", crash_at="learn.after_commit", snapshot_interval_ms="50")
        world.wait_for_death(heir, KILLED)
        status = world.status()
        assert status.learner is not None
        if int(status.learner["version"].rpartition("@")[2]) >= alarm_at:
            break
    assert int(status.learner["version"].rpartition("@")[2]) >= alarm_at
    assert status.learner["drift"]["episode"]  # it is under way when its learner dies
    assert status.learner["drift"]["episodes"] == 1
    world.start("learn")
    world.wait_settled()
    verdict = examine(world)
    assert verdict.drifts == 1
    copies = world.read("drifts")[0]
    assert len(copies) > 1  # the dead one's and its heir's
    assert {(record.key, record.value, record.timestamp_ms) for record in copies} == {
        (told.key, told.value, told.timestamp_ms)
    }
    world.stop_workers()


def test_workers_killed_again_and_again(make_world: Callable[..., World]):
    """One death after another, at points of their own, in both roles at once."""
    world = make_world()
    world.produce(card_stream(EVENTS, early=0.05, duplicate=0.05))
    deaths = [
        ("before_commit", 3),
        ("after_publish", 5),
        ("after_commit", 4),
        ("before_publish", 2),
        ("before_commit", 6),
    ]
    learner = world.start("learn", crash_at="learn.after_commit:3", **SLOW)
    for point, nth in deaths:
        world.wait_for_death(world.start("score", crash_at=f"score.{point}:{nth}", **SLOW), KILLED)
        if not learner.running():
            learner = world.start("learn", crash_at="learn.before_commit:3", **SLOW)
    assert 0 < world.committed() < EVENTS
    if learner.running():
        learner.kill()
    world.start("learn", **SLOW)
    world.start("score", **SLOW)
    world.wait_settled()
    assert examine(world).copies > 0
