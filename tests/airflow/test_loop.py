"""A drift message on Kafka leads to a new champion, by itself: Airflow, the search, the release and the rollout are real."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from stream.adapters.delta_archive import ExampleArchive
from stream.adapters.redis_drift_inbox import RedisDriftInbox
from stream.local.stack import Stack
from stream.messages import Drift, Release
from tests.airflow.conftest import LOOPED, PIPELINES, Watched
from tests.support.oracles import examine
from tests.support.world import World, card_stream

pytestmark = [pytest.mark.integration, pytest.mark.airflow, pytest.mark.timeout(420)]

EVENTS = 16_000
DAG_ID = f"retrain_on_drift__{LOOPED}"


@pytest.fixture
def looped(stack: Stack, watched: Watched) -> Iterator[World]:
    world = World(stack, LOOPED, file=PIPELINES / "looped.py")
    yield world
    world.close()


def releases(world: World) -> list[Release]:
    values = dict.fromkeys(record.value or b"" for record in world.read("releases")[0])
    return [msgspec.json.decode(value, type=Release) for value in values]


def tell_a_drift(world: World, from_offset: int) -> str:
    drift = Drift(
        drift_id=f"{world.name}-0-1", pipeline=world.name, signal="error", detector="a test", severity=2.0,
        examples_topic=world.names.examples, from_offset=from_offset, to_offset=from_offset + 1, detected_at_ms=0,
    )  # fmt: skip
    producer = Producer({"bootstrap.servers": world.stack.brokers, "log_level": 0})
    world.made_up.add(msgspec.json.encode(drift))
    producer.produce(world.names["drifts"], msgspec.json.encode(drift), world.name.encode(), 0)
    assert producer.flush(30) == 0
    return drift.drift_id


def test_a_drift_leads_to_a_new_champion(looped: World, watched: Watched):
    world = looped
    stream = card_stream(EVENTS)
    cut = len(stream) // 3
    world.start("learn")
    # Partitions side by side: where one runs far ahead, no event of the other comes after the labels before it are known,
    # and there is nothing to compare on.
    scorer = world.start("score", pace_s=0.0005, batch_records_max="100")
    world.produce(stream[:cut])
    world.wait_settled()
    scorer.signal(15)  # what comes now waits until the candidate is there: labels must not run out
    world.wait_for_death(scorer, 0)
    world.produce(stream[cut:])
    first = world.status().learner["version"].partition("@")[0]  # type: ignore[index]
    drift_id = tell_a_drift(world, from_offset=100)

    def actions() -> list[str]:
        return [release.action for release in releases(world)]

    def ended() -> list[dict[str, Any]]:
        return [run for run in watched.client.runs(DAG_ID) if run["state"] in ("success", "failed")]

    watched.wait(lambda: "released" in actions() or bool(ended()), "Airflow to release a candidate", 180)
    assert "released" in actions(), [watched.answers(DAG_ID, run["dag_run_id"]) for run in ended()]
    world.start("score", pace_s=0.0005, batch_records_max="200")
    watched.wait(lambda: actions()[-1] == "confirmed", "the candidate to win", 120)
    found = releases(world)
    assert [release.action for release in found] == ["started", "released", "canary", "promoted", "confirmed"]
    base = found[1].base
    run_id = found[1].decided_by.removeprefix("run:")
    assert run_id.startswith(f"{DAG_ID}.")
    assert found[1].parent == first
    assert found[1].evidence["candidate"] > found[1].evidence["champion"]  # type: ignore[operator]
    inbox = RedisDriftInbox(**world.settings.redis(), pipeline=world.name)
    (outcome,) = [outcome for outcome in inbox.outcomes() if outcome.drift_id == drift_id]
    inbox.close()
    assert (outcome.outcome, outcome.run_id) == ("retrained", run_id)
    dag_id, _, airflow_run = run_id.partition(".")
    assert watched.wait_run(dag_id, airflow_run) == "success"
    tasks = watched.client.tasks(dag_id, airflow_run)
    assert {tasks[step] for step in ("archive_examples", "choose_window", "fit", "compare", "release")} == {"success"}

    def told(step: str) -> list[dict[str, Any]]:
        return [post for post in watched.posts if (post["run_id"], post["task_id"]) == (airflow_run, step)]

    watched.wait(lambda: bool(told("compare") and told("release")), "the alerts on verdict and release")
    (compared,), (decided,) = told("compare"), told("release")  # once each
    assert compared["subject"] == f"{dag_id}: candidate compared with the champion"
    assert {"accepted: True", f"why: {found[1].reason}"} <= set(compared["text"].split("\n"))
    assert found[1].reason.startswith("Accepted: ")
    assert decided["subject"] == f"{dag_id}: release decided"
    assert {"released: True", f"base: {base}"} <= set(decided["text"].split("\n"))
    world.wait_settled()
    verdict = examine(world)
    assert verdict.canaries > 0
    archive = ExampleArchive(world.settings.archive_url, world.name)
    examples = world.read("examples")[0]
    kept = list(archive.records(0, 0, archive.end(0)))
    assert [(r.offset, r.timestamp_ms, r.key, r.value) for r in kept] == [
        (r.offset, r.timestamp_ms, r.key, r.value) for r in examples[: len(kept)]
    ]
    assert world.status().learner["slots"]["champion"].startswith(base)  # type: ignore[index]
    world.stop_workers()
