"""A backup is taken while workers run; Redis and the artifacts are lost; what is put back goes on from there."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from stream.cli.main import app
from stream.messages import Prediction
from tests.support.oracles import examine
from tests.support.world import PIPELINE_FILE, World, card_stream

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(240)]

EVENTS = 4_000
SLOW = {"batch_records_max": "50", "snapshot_interval_ms": "50"}


def call(world: World, command: str, url: Path, *arguments: str, code: int = 0) -> str:
    environment = {k: v for k, v in world.environment.items() if k.startswith("DRIFTLOOP_")}
    runner = CliRunner()
    answer = runner.invoke(
        app, [command, str(PIPELINE_FILE), str(url), *arguments], env={**os.environ, "COLUMNS": "200", **environment}
    )
    if code == 0 and answer.exception is not None:
        raise answer.exception
    return answer.output if answer.exception is None else f"{answer.output}{answer.exception}"


def lose_everything(world: World) -> None:
    keys: Any = world.redis.keys(f"{{{world.name}*")
    assert len(keys) > 10
    world.redis.delete(*keys)
    shutil.rmtree(Path(world.settings.artifact_url) / world.name)


def kill_workers(world: World) -> None:
    for worker in world.workers:
        if worker.running():
            worker.kill()
    world.wait(
        lambda: not any(world.kafka.members(f"{world.name}-{role}") for role in ("score", "learn")),
        "Kafka to notice that the workers are gone",
    )


def test_the_score_stage_goes_on_from_a_backup_byte_for_byte(world: World, tmp_path: Path):
    """One version of the model answers until the loss and while that is done again: all copies must equal the first ones."""
    world.produce(card_stream(EVENTS, early=0.05, poison=0.02, contradicting=0.03, repeated=0.02))
    learner = world.start("learn", **SLOW)
    world.wait(lambda: world.status().learner is not None, "a first model")
    learner.kill()
    world.start("score", pace_s=0.0008, **SLOW)
    world.wait(lambda: world.committed() > 600, "some commits")
    before = world.committed()
    said = call(world, "backup", tmp_path)
    assert "backup 2" in said
    (manifest,) = tmp_path.glob("*/*/manifest.json")
    copied = json.loads(manifest.read_text())
    at = sum(offsets.get("events", 0) for offsets in copied["offsets"].values())
    assert before <= at < EVENTS  # taken in the middle of it
    world.wait(lambda: world.committed() > at + 600, "work after the backup")
    assert "workers of" in call(world, "restore", tmp_path, "--yes", code=1)  # refused while they run
    kill_workers(world)
    lost = world.committed()
    assert at < lost < EVENTS
    answered = sum(map(len, world.read("predictions").values()))
    lose_everything(world)
    assert "restored 2" in call(world, "restore", tmp_path)
    assert world.committed() == at
    for partition in range(world.partitions):
        epoch: Any = world.redis.hget(f"{{{world.name}:{partition}}}:state", "epoch")
        assert int(epoch) > 1_000_000_000_000  # beyond any that a worker of before may hold
    world.start("score", pace_s=0.0004, **SLOW)
    world.wait(lambda: world.committed() >= lost, "what was lost to be done again")
    world.start("learn", **SLOW)
    world.wait_settled()
    verdict = examine(world)
    assert verdict.copies > 0
    assert verdict.predictions > answered > 0
    assert verdict.learned > 0.8 * EVENTS
    world.stop_workers()


def test_everything_goes_on_from_a_backup_and_nothing_is_answered_or_learned_twice(world: World, tmp_path: Path):
    world.produce(card_stream(EVENTS, early=0.05, poison=0.02))
    world.start("learn", **SLOW)
    world.start("score", pace_s=0.0008, **SLOW)
    world.wait(lambda: world.committed() > 800, "some commits")
    call(world, "backup", tmp_path)
    at = world.committed()
    world.wait(lambda: world.committed() > at + 600, "work after the backup")
    kill_workers(world)
    with world.stack.redis.stopped():
        pass
    lose_everything(world)
    call(world, "restore", tmp_path)
    assert world.committed() <= at + 200
    world.start("learn", **SLOW)
    world.start("score", **SLOW)
    world.wait_settled()
    world.stop_workers()
    answers = Counter(
        (source.partition, source.offset)
        for records in world.read("predictions").values()
        for record in records
        for source in [msgspec.json.decode(record.value or b"", type=Prediction).source]
    )
    dead = {
        (dict(record.headers or [])["driftloop.error.partition"], dict(record.headers or [])["driftloop.error.offset"])
        for records in world.read("dead_letters").values()
        for record in records
        if (dict(record.headers or [])["driftloop.error.topic"] or b"").endswith(b".events")
    }
    events = world.read("events")
    assert len(answers) + len(dead) == sum(map(len, events.values()))
    versions = [
        {record.value for record in records if (source(record.value).partition, source(record.value).offset) == place}
        for records in world.read("predictions").values()
        for place, count in answers.items()
        if count > 1
    ]
    assert all(len(copies) <= 1 for copies in versions)  # whatever came twice came the same
    numbers = [
        (value["partition"], value["sequence"], value["timing"])
        for record in world.read("examples")[0]
        for value in [msgspec.json.decode(record.value or b"")]
    ]
    once = set(numbers)
    assert len(once) < len(numbers)  # examples did come again ...
    status = world.status()
    assert status.learner is not None
    learnable = sum(timing in ("on_time", "early", "default") for _, _, timing in once)
    assert status.learner["counts"]["learned"] == learnable  # ... and were passed over
    assert "gaps" not in status.learner["counts"]
    its = json.loads(call(world, "replay", Path("topics"), "--exact", "--json").splitlines()[-1])
    assert its["equal"] == its["predictions"] > 3_000  # every answer is still what it says
    assert its["not_rebuilt"] == 0


def source(value: bytes | None) -> Any:
    return msgspec.json.decode(value or b"", type=Prediction).source


def test_what_is_not_a_good_backup_is_refused_before_anything_is_changed(world: World, tmp_path: Path):
    assert "nothing to back up" in call(world, "backup", tmp_path, code=1)
    assert "there are: none" in call(world, "restore", tmp_path, code=2)
    world.produce(card_stream(300))
    world.start("learn")
    world.start("score")
    world.wait_settled()
    call(world, "backup", tmp_path)
    world.stop_workers()
    (manifest,) = tmp_path.glob("*/*/manifest.json")
    folder = manifest.parent
    before = {name: world.redis.dump(name) for name in sorted(world.redis.keys(f"{{{world.name}*"))}  # type: ignore[type-var]
    victim = sorted((folder / "redis").iterdir())[0]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "is damaged: its checksum is another one" in call(world, "restore", tmp_path, "--yes", code=1)
    victim.write_bytes(whole)
    text = manifest.read_text()
    changed = json.loads(text)
    changed["offsets"][f"{{{world.name}:0}}"]["events"] += 1_000_000
    manifest.write_text(json.dumps(changed))
    assert "offset_after_log" in call(world, "restore", tmp_path, "--yes", code=3)
    manifest.write_text(json.dumps({**json.loads(text), "configuration": "0" * 8}))
    assert "use the file as it was then" in call(world, "restore", tmp_path, "--yes", code=2)
    manifest.unlink()
    assert "there are: none" in call(world, "restore", tmp_path, "--yes", code=2)
    manifest.write_text(text)
    now = {name: world.redis.dump(name) for name in sorted(world.redis.keys(f"{{{world.name}*"))}  # type: ignore[type-var]
    assert now == before
    inside = Path(world.settings.artifact_url) / "backups"
    for spelled in (inside, inside.parent / "x" / ".." / world.name, Path(os.path.relpath(inside))):
        assert "outside of the artifacts" in call(world, "backup", spelled, code=2)
    assert "restored" in call(world, "restore", tmp_path, "--yes")
