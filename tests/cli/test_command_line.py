"""The command line as a user meets it: real processes on the real stack."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.local.process import wait_until
from tests.support.world import World, card_stream

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

CARDS = str(Path(__file__).parents[1] / "support" / "cards.py")
EXAMPLES = Path(__file__).parents[2] / "examples"


def environment(world: World | None, **more: str) -> dict[str, str]:
    own = (
        world.stack.environment() if world else {k: v for k, v in os.environ.items() if not k.startswith("DRIFTLOOP_B")}
    )
    names = {"DRIFTLOOP_TEST_NAME": world.name, "DRIFTLOOP_TEST_MISSING": "default"} if world else {}
    return {**own, **names, "COLUMNS": "160", "NO_COLOR": "1", **more}


def driftloop(*arguments: str, world: World | None = None, code: int = 0, **more: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", "stream.cli", *arguments], env=environment(world, **more), capture_output=True,
        text=True, timeout=90, check=False,
    )  # fmt: skip
    assert answer.returncode == code, answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr
    return answer.stdout + answer.stderr


# -- check ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", sorted(path.parent.name for path in EXAMPLES.glob("*/pipeline.py")))
def test_every_example_is_sound(example: str):
    assert "ok" in driftloop("check", str(EXAMPLES / example / "pipeline.py"))


def test_check_names_every_mistake_and_warns_of_traps(tmp_path: Path):
    bad = tmp_path / "bad.py"
    bad.write_text("from stream import Pipeline\npipeline = Pipeline(name='B', task='x', features={}, model=None)\n")
    text = driftloop("check", str(bad), code=2)
    for part in ("name = 'B'", "task = 'x'", "features = {}", "model = None"):
        assert part in text
    trap = tmp_path / "trap.py"
    trap.write_text(
        "from river import tree\nfrom stream import Pipeline\n"
        "pipeline = Pipeline(name='t', task='binary', features={'a': float}, model=lambda p: tree.HoeffdingTreeClassifier())\n"
    )
    assert "tree_never_splits_on_rare_classes" in driftloop("check", str(trap))
    trap.write_text(
        "from stream import Pipeline\npipeline = Pipeline(name='t', task='binary', features={'a': float}, model=dict)\n"
    )
    for command in (["check"], ["worker", "--role", "learn"], ["up"]):  # before any server is asked or started
        assert "returns a dict" in driftloop(command[0], str(trap), *command[1:], code=2)
    for text, expected in (("import nothing_there", "ModuleNotFoundError"), ("x = 1", "define one")):
        trap.write_text(text)
        assert expected in driftloop("check", str(trap), code=2)
    assert "no such file" in driftloop("check", str(tmp_path / "none.py"), code=2)


# -- a whole round -------------------------------------------------------------------------------------------------------


def write_csv(path: Path, rows: int) -> None:
    rng = random.Random(1)
    start_ms = int(time.time() * 1000) - 3_600_000
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "card", "when", "amount", "hour", "fraud"])
        for i in range(rows):
            amount = rng.expovariate(1 / 200)
            writer.writerow(
                [f"row-{i}", f"card-{i % 7}", start_ms + i * 100, amount, i % 24, "yes" if amount > 400 else "no"]
            )


def test_a_csv_becomes_predictions_labels_and_a_status(world: World, tmp_path: Path):
    table = tmp_path / "cards.csv"
    write_csv(table, 800)
    columns = ["--label", "fraud", "--key", "card", "--time", "when", "--event-id", "id"]
    assert "produced 800 events and 800 labels" in driftloop(
        "produce", CARDS, str(table), *columns, "--label-delay", "10s", world=world
    )
    world.start("learn")
    world.start("score")
    world.wait_settled()
    lines = driftloop("predictions", CARDS, "--from-start", "--json", "--limit", "800", world=world).splitlines()
    assert {json.loads(line)["event_id"] for line in lines} == {f"row-{i}" for i in range(800)}
    shown = driftloop("predictions", CARDS, "--from-start", "--limit", "5", world=world)
    assert ".events-" in shown
    assert "@" in shown
    assert "labelled row-3 as true" in driftloop("label", CARDS, "row-3", "true", "--key", "card-3", world=world)
    world.wait(lambda: world.status().counts().get("labels", 0) == 801, "the label to be taken")
    status = driftloop("status", CARDS, world=world)
    for part in ("events", "labels", "lag", world.name):
        assert part in status
    figures = json.loads(driftloop("status", CARDS, "--json", world=world))
    assert figures["learner"]["counts"]["learned"] == 800
    before = world.redis.keys(f"{{{world.name}:*}}:*")
    assert "1 score workers of" in driftloop("reset", CARDS, "--yes", world=world, code=1)
    assert set(before) <= set(world.redis.keys(f"{{{world.name}:*}}:*"))  # type: ignore[arg-type]
    world.stop_workers()
    assert "forgot" not in driftloop("reset", CARDS, world=world, code=1)  # nobody there to agree
    assert "forgot" in driftloop("reset", CARDS, "--yes", world=world)
    control = f"{{{world.name}:control}}".encode()
    assert world.redis.keys(f"{{{world.name}:*") == [control]
    assert world.redis.hgetall(control) == {b"examples_from:0": b"801"}  # a new learner begins behind the old examples


def test_json_lines_and_a_rate(world: World, tmp_path: Path):
    lines = tmp_path / "cards.jsonl"
    rows = [{"amount": 1.5, "hour": 2, "fraud": i % 2 == 0} for i in range(100)]
    lines.write_text("\n".join(json.dumps(row) for row in rows))
    started_s = time.monotonic()
    text = driftloop("produce", CARDS, str(lines), "--label", "fraud", "--rate", "100", "--limit", "60", world=world)
    assert "produced 60 events and 60 labels" in text
    assert time.monotonic() - started_s > 0.5
    events = [msgspec.json.decode(r.value or b"") for its in world.read("events").values() for r in its]
    assert events[0]["features"] == {"amount": 1.5, "hour": 2}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["none.csv"], "no such file"),
        (["table.txt"], "use a .csv"),
        (["river:Nothing"], "River ships"),
        (["bad.csv"], "not in the source"),
        (["wrong.csv"], "is not a float"),
    ],
)
def test_a_source_that_does_not_fit_is_named(world: World, tmp_path: Path, arguments: list[str], text: str):
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "wrong.csv").write_text("amount,hour\nmuch,2\n")
    source = arguments[0] if arguments[0].startswith("river") else str(tmp_path / arguments[0])
    assert text in driftloop("produce", CARDS, source, world=world, code=2)


# -- refusals at the start -------------------------------------------------------------------------------------------------


def refused(world: World, code: str, role: str = "learn", **more: str) -> str:
    text = driftloop("worker", CARDS, "--role", role, world=world, code=3, **more)
    assert f"refused: {code}:" in text
    return text


def once(world: World) -> None:
    world.produce(card_stream(300))
    world.start("learn")
    world.start("score")
    world.wait_settled()
    world.stop_workers()


def test_another_configuration_under_the_same_name_is_refused(world: World):
    once(world)
    assert "give the changed pipeline another name" in refused(
        world, "configuration_changed", DRIFTLOOP_TEST_MISSING="none"
    )


def test_offsets_outside_the_log_are_refused(world: World):
    once(world)
    key = f"{{{world.name}:0}}:state"
    meta = json.loads(world.redis.hget(key, "meta"))  # type: ignore[arg-type]
    world.redis.hset(key, "meta", json.dumps({**meta, "offsets": {**meta["offsets"], "events": 9_999}}))
    worker = world.start("score")
    world.wait_for_death(worker, 3)
    assert "offset_after_log" in worker.log_path.read_text()


def test_a_log_that_lost_unread_records_is_refused(world: World):
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    once(world)
    world.produce(card_stream(300, seed=2))
    end = TopicPartition(world.names.events, 0, -1)
    admin = AdminClient(world.settings.kafka())  # its futures end with it
    for future in admin.delete_records([end]).values():
        future.result(20)
    worker = world.start("score")
    world.wait_for_death(worker, 3)
    assert "offset_before_log" in worker.log_path.read_text()


def test_a_recreated_topic_is_refused(world: World):
    once(world)
    world.kafka.delete()
    world.wait(lambda: not world.kafka.describe().topics, "the topics to be gone")
    world.kafka.create(2, 1)
    refused(world, "topic_recreated")


def test_a_redis_that_evicts_is_refused(world: World):
    world.redis.config_set("maxmemory-policy", "allkeys-lru")
    world.redis.config_set("appendonly", "no")
    try:
        text = refused(world, "redis_evicts")
        assert "noeviction" in text
        assert "appendonly yes" in text
    finally:
        world.redis.config_set("appendonly", "yes")
        world.redis.config_set("maxmemory-policy", "noeviction")


def test_missing_topics_and_a_missing_model_are_refused(world: World):
    worker = world.start("score", model_wait_s="0.5")
    world.wait_for_death(worker, 3)
    assert "no_model" in worker.log_path.read_text()
    world.kafka.delete()
    world.wait(lambda: not world.kafka.describe().topics, "the topics to be gone")
    refused(world, "topic_missing")


def test_servers_that_do_not_answer_and_secrets_that_are_missing_are_named(world: World):
    text = driftloop(
        "worker", CARDS, "--role", "learn", world=world, code=1, DRIFTLOOP_REDIS_URL="redis://127.0.0.1:1/0"
    )
    assert "check DRIFTLOOP_REDIS_URL" in text
    assert "DRIFTLOOP_SIGNING_KEY" in driftloop(
        "worker", CARDS, "--role", "learn", world=world, code=2, DRIFTLOOP_SIGNING_KEY="short"
    )
    assert "use score or learn" in driftloop("worker", CARDS, "--role", "cook", world=world, code=2)


def test_a_worker_with_lag_and_no_progress_ends(world: World):
    """The watchdog: Redis takes no writes, so nothing can be committed."""
    world.produce(card_stream(600))
    world.start("learn")
    worker = world.start("score", pace_s=0.005, batch_records_max="20", watchdog_s="2")
    world.wait(lambda: world.committed() > 40, "some commits")
    world.redis.config_set("maxmemory", 1)
    try:
        world.wait_for_death(worker, 1)
    finally:
        world.redis.config_set("maxmemory", 0)
    assert "watchdog: lag" in worker.log_path.read_text()
    world.start("score")
    world.wait_settled()


# -- up and demo ---------------------------------------------------------------------------------------------------------


def tree_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            child = int(stat.parent.name)
            found += [child, *tree_of(child)]
    return found


def gone(pids: list[int]) -> bool:
    return not any(
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in pids
    )


def test_up_restarts_a_worker_and_ctrl_c_leaves_nothing(world: World, tmp_path: Path):
    """Where Kafka and Redis are stands in a file here: `up` must not start a stack of its own then."""
    command = [sys.executable, "-m", "stream.cli", "up", CARDS, "--directory", str(tmp_path / "up")]
    full = environment(world)
    where = {name: full.pop(name) for name in list(full) if name.startswith("DRIFTLOOP_") and "TEST" not in name}
    file = tmp_path / "settings"
    file.write_text("".join(f"{name}={value}\n" for name, value in where.items()))
    full["DRIFTLOOP_ENV_FILE"] = str(file)
    process = subprocess.Popen(command, env=full, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        world.produce(card_stream(300))
        wait_until(lambda: world.settled(), 60, "the workers to work")
        children = tree_of(process.pid)
        workers = [pid for pid in children if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        world.produce(card_stream(300, seed=5))
        wait_until(lambda: world.settled(), 60, "a restarted worker to go on")
        everything = tree_of(process.pid)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "starting it again" in output
    assert re.search(r"^page: http://127\.0\.0\.1:\d+$", output, re.MULTILINE)
    assert len(everything) >= 3
    wait_until(lambda: gone(everything), 20, "everything to be gone")


def test_the_demo_tells_its_story_and_leaves_nothing(tmp_path: Path):
    (tmp_path / ".driftloop").symlink_to(Path(".driftloop").resolve())
    command = [
        sys.executable,
        "-m",
        "stream.cli",
        "demo",
        "--events",
        "3000",
        "--rate",
        "3000",
        "--directory",
        str(tmp_path / "demo"),
    ]
    process = subprocess.Popen(
        command, env=environment(None), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_until(lambda: len(tree_of(process.pid)) >= 4 or process.poll() is not None, 60, "everything to be started")
    everything: list[Any] = tree_of(process.pid)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    for part in ("sent 3,000 events", "dead letters", "learned, each once", "persist.", "prior", "0 drifts on"):
        assert part in output
    wait_until(lambda: gone(everything), 20, "everything to be gone")
