"""`driftloop backfill` as a user calls it, and two versions of a pipeline side by side, on the real Kafka and Redis."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.cli.backfilling import Backlog, Start, begin
from stream.cli.showing import PipelineStatus
from stream.core.remembering import Meta
from stream.errors import ConfigurationError, DriftloopError
from tests.support.oracles import examine
from tests.support.world import PIPELINE_FILE, World, card_stream

FILE = str(PIPELINE_FILE)


def driftloop(world: World, *arguments: str, code: int = 0) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", "stream.cli", *arguments], env={**world.environment, "COLUMNS": "160", "NO_COLOR": "1"},
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert answer.returncode == code, answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr
    return answer.stdout + answer.stderr


def moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()


def is_about(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """What runs in this process reads its environment."""
    for name, value in world.environment.items():
        if name.startswith("DRIFTLOOP_"):
            monkeypatch.setenv(name, value)


@pytest.mark.integration
@pytest.mark.timeout(240)
def test_a_new_version_beside_the_old_one(make_world: Callable[..., World], tmp_path: Path):
    """It catches up from a moment in the past, then both answer what comes; each alone is as if the other were not there."""
    old = make_world()
    records = card_stream(4_000, poison=0.01, early=0.02)
    half = len(records) // 2
    since_ms = records[half // 2].timestamp_ms
    old.produce(records[:half])
    old.start("learn")
    old.start("score")
    old.wait_settled()
    new = make_world(reads=old.name)
    assert new.names.events == old.names.events
    assert set(new.kafka.create(2, 1)) == set()
    text = driftloop(new, "backfill", FILE, "--since", moment(since_ms), "--run", "--directory", str(tmp_path))
    assert "caught up after" in text
    assert "forgot" not in text  # there was nothing
    before = new.status().position("events", 0)
    assert before == old.status().position("events", 0) > 0
    old.stop_workers()
    old.produce(records[half:])  # whole: at the live end the order of events and labels is that of their arrival
    for world in (old, new):
        world.start("learn")
        world.start("score")
    for world in (old, new):
        world.wait_settled()
    one, other = examine(old), examine(new)
    assert one.predictions + sum(n for code, n in one.dead_letters.items() if code != "label_without_event") == 4_000
    sources = [
        {(v["source"]["topic"], v["source"]["partition"], v["source"]["offset"])
         for its in world.read("predictions").values() for v in (msgspec.json.decode(r.value or b"") for r in its)}
        for world in (old, new)
    ]  # fmt: skip
    assert sources[1] < sources[0]  # the same events, later ones
    assert {topic for topic, _, _ in sources[1]} == {old.names.events}
    events = [r for r in records if r.topic == "events"]
    assert other.predictions + codes_of_events(other) == sum(r.timestamp_ms >= since_ms for r in events)
    assert other.learned > 1_000
    for record in new.read("examples")[0][:50]:
        assert msgspec.json.decode(record.value or b"")["event_source"]["topic"] == old.names.events
    for world in (old, new):
        world.stop_workers()


def renamed(event: bytes) -> bytes:
    value = msgspec.json.decode(event)
    return msgspec.json.encode({**value, "event_id": f"later-{value['event_id']}"})


def codes_of_events(verdict: Any) -> int:
    return sum(n for code, n in verdict.dead_letters.items() if not code.startswith("label_"))


@pytest.mark.integration
@pytest.mark.timeout(240)
def test_a_state_is_built_again_in_place_and_nobody_is_answered_twice(make_world: Callable[..., World], tmp_path: Path):
    world = make_world(partitions=1)
    world.produce(card_stream(2_000, partitions=1, poison=0.02, unknown=0.02))
    world.start("learn")
    world.start("score")
    world.wait_settled()
    text = driftloop(world, "backfill", FILE, "--from-start", "--yes", code=1)
    assert "stop them first" in text
    live = world.status()
    world.stop_workers()
    outputs = {topic: world.read(topic)[0] for topic in ("predictions", "dead_letters", "examples")}
    driftloop(world, "backfill", FILE, "--from-start", code=1)  # nobody there to agree
    assert world.status().learner == live.learner
    more = card_stream(300, partitions=1, seed=9)
    new = [msgspec.structs.replace(r, timestamp_ms=r.timestamp_ms + 3_000_000) for r in more if r.topic == "events"]
    new = [msgspec.structs.replace(r, value=renamed(r.value or b"")) for r in new]
    world.produce(new)
    text = driftloop(world, "backfill", FILE, "--from-start", "--yes", "--run", "--directory", str(tmp_path))
    assert "not answered again" in text
    status = world.status()
    assert status.lag("events") == status.lag("labels") == status.lag("examples") == 0
    assert status.learner is not None
    assert live.learner is not None
    # The same labels taught a model that began anew; those of the 300 new events have not come.
    assert status.counts()["events"] == live.counts()["events"] + 300
    assert status.learner["counts"]["learned"] >= live.learner["counts"]["learned"]
    after = {topic: world.read(topic)[0] for topic in outputs}
    assert after["predictions"][: len(outputs["predictions"])] == outputs["predictions"]
    assert len(after["predictions"]) == len(outputs["predictions"]) + 300
    assert after["dead_letters"] == outputs["dead_letters"]
    offsets = [msgspec.json.decode(r.value or b"")["source"]["offset"] for r in after["predictions"]]
    assert all(a < b for a, b in pairwise(offsets))
    assert len(after["examples"]) >= 2 * len(outputs["examples"])
    said = driftloop(world, "replay", FILE, "topics", "--exact", "--json")
    its = msgspec.json.decode(next(line for line in said.splitlines() if line.startswith("{")))
    assert (its["equal"], its["predictions"], its["only_replayed"], its["not_rebuilt"]) == (300, 300, 0, 0)
    control = world.redis.hgetall(f"{{{world.name}:control}}")
    assert control[b"examples_from:0"] == b"%d" % len(outputs["examples"])  # type: ignore[index]


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_where_it_begins(
    make_world: Callable[..., World], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from rich.console import Console

    world = make_world()
    records = card_stream(600)
    world.produce(records)
    is_about(monkeypatch, world)
    events = [r for r in records if r.topic == "events" and r.partition == 0]
    labels = [r for r in records if r.topic == "labels" and r.partition == 0]
    for start in (Start(events[100].timestamp_ms, []), Start(None, ["0:100"])):
        its = begin(world.pipeline, start, lambda _: False, Console()).starts
        assert its["events", 0] == 100
        assert its["labels", 0] == next(r.offset for r in labels if r.timestamp_ms >= events[100].timestamp_ms) > 0
        assert world.status().position("events", 0) == 100
    its = begin(world.pipeline, Start(None, []), lambda _: False, Console()).starts
    assert ("events", 0) not in its
    assert its["labels", 0] == next(r.offset for r in labels if r.timestamp_ms >= events[0].timestamp_ms)
    future = begin(world.pipeline, Start(records[-1].timestamp_ms + 10_000_000, []), lambda _: False, Console()).starts
    assert future["events", 0] == len(events)
    for wrong, why in (("0:99999", "holds offsets 0 to"), ("7:1", "partitions are 0 to 1"), ("x", "partition:offset")):
        with pytest.raises(ConfigurationError, match=why):
            begin(world.pipeline, Start(None, [wrong]), lambda _: False, Console())
    text = driftloop(world, "backfill", FILE, "--since", "2026-01-01", "--from-start", code=2)
    assert "use one of --since" in text


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_what_was_never_answered_is_not_taken_for_answered(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
):
    """Redis was lost, and with it answers that were committed and not published yet."""
    from confluent_kafka import Producer
    from rich.console import Console

    world = make_world(partitions=1)
    records = card_stream(20, partitions=1)
    world.produce(records)
    is_about(monkeypatch, world)
    timestamps = [r.timestamp_ms for r in records if r.topic == "events"]

    def answer(*offsets: int, dead: bool = False) -> None:
        producer = Producer({"bootstrap.servers": world.stack.brokers})
        for offset in offsets:
            about = {"topic": world.names.events, "partition": 0, "offset": offset}
            if dead:
                about |= {"stage": "score", "code": "x", "message": "y"}
            producer.produce(
                world.names.dead_letters if dead else world.names.predictions, msgspec.json.encode({"source": about}), b"k", 0,
                timestamp=timestamps[offset],
                headers=[(f"driftloop.error.{k}", str(v).encode()) for k, v in about.items()] if dead else [],
            )  # fmt: skip
        assert producer.flush(30) == 0

    def until(start: Start) -> int:
        return begin(world.pipeline, start, lambda _: True, Console()).answered.get(("events", 0), 0)

    everything = Start(None, [])
    assert until(everything) == 0
    answer(2, 3, 4)
    assert until(everything) == 5  # the first two were passed over when it began
    answer(3, 7, dead=True)
    assert until(everything) == 5  # of the micro-batch that was cut off only this came out: 5 and 6 have no answer
    answer(5, 6)
    assert until(everything) == 8
    answer(11, 12)
    with pytest.raises(DriftloopError, match=r"3 events of .*events-0 from offset 8 to 10 have neither .* at 11 of"):
        until(everything)
    assert until(Start(None, ["0:11"])) == until(Start(timestamps[11], [])) == 13


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_a_new_version_of_nothing_and_a_reset_that_was_cut_off(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
):
    world = make_world()
    world.redis.hset(f"{{{world.name}:control}}", "forgetting", "1")
    assert "reset_unfinished" in driftloop(world, "worker", FILE, "--role", "learn", code=3)
    driftloop(world, "reset", FILE, "--yes")
    assert not world.redis.hexists(f"{{{world.name}:control}}", "forgetting")
    environment = {**world.environment, "DRIFTLOOP_TEST_READS": "nothing-here"}
    answer = subprocess.run(
        [sys.executable, "-m", "stream.cli", "backfill", FILE, "--from-start"], env=environment, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert answer.returncode == 3
    assert "nothing-here.events does not exist" in answer.stderr
    is_about(monkeypatch, world)
    with pytest.raises(DriftloopError, match="nothing was changed"):
        from rich.console import Console

        world.redis.hset(f"{{{world.name}:control}}", "configuration", "x")
        begin(world.pipeline, Start(None, []), lambda _: False, Console())


def status_at(events: int, of: int, learned: int, examples: int, start: int = 0) -> PipelineStatus:
    learner = {"version": f"base@{learned}"} if learned >= 0 else None
    ends = {"events": {0: of}, "labels": {0: 0}, "examples": {0: examples}}
    control = {"start:events:0": str(start)}
    return PipelineStatus("p", {0: Meta(offsets={"events": events} if events else {})}, ends, learner, control)


def test_a_backlog_is_done_when_nothing_was_left_for_a_while():
    looks = iter([
        status_at(0, 100, -1, 0, start=40), status_at(100, 100, 0, 0), status_at(100, 100, 0, 9),
        status_at(101, 101, 8, 9), status_at(101, 103, 9, 9), status_at(103, 104, 9, 9), status_at(104, 105, 9, 9),
    ])  # fmt: skip
    backlog = Backlog(lambda: next(looks), lambda *_: 1)
    assert (backlog.done("events"), backlog.total("events")) == (0, 60)
    assert [backlog.look() for _ in range(6)] == [False, False, False, False, False, True]


def test_markers_at_the_end_of_a_log_are_no_backlog():
    backlog = Backlog(lambda: status_at(100, 102, 9, 9), lambda *_: -1)
    assert [backlog.look() for _ in range(3)] == [False, False, True]
    backlog = Backlog(lambda: status_at(100, 102, 9, 9), lambda *_: 5)
    assert not any(backlog.look() for _ in range(4))
