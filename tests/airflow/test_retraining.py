"""Whole retrainings in a real Airflow: killed in each stage, and with a person who is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from stream.adapters.redis_drift_inbox import RedisDriftInbox
from stream.batch.releasing import pending
from stream.local.stack import Stack
from stream.messages import Release
from tests.airflow.conftest import APPROVED, KILLED, PIPELINES, Watched
from tests.airflow.test_loop import tell_a_drift
from tests.support.oracles import examine
from tests.support.world import World, card_stream

pytestmark = [pytest.mark.integration, pytest.mark.airflow, pytest.mark.long, pytest.mark.timeout(2_400)]

EVENTS = 5_000
STAGE_S = 240.0  # an orphaned task is found after about half a minute, on an idle machine
STAGES = ("take_up", "archive_examples", "choose_window", "plan_trials", "run_trials", "fit", "compare", "release")


@pytest.fixture
def make_live(stack: Stack, watched: Watched) -> Iterator[Callable[[str], World]]:
    """A champion, and examples to learn from; nothing is scored any more."""
    made: list[World] = []

    def make(name: str) -> World:
        world = World(stack, name, file=PIPELINES / f"{name}.py")
        made.append(world)
        world.start("learn")
        scorer = world.start("score", pace_s=0.0005, batch_records_max="100")
        world.produce(card_stream(EVENTS))
        world.wait_settled()
        scorer.signal(15)
        world.wait_for_death(scorer, 0)
        return world

    yield make
    for world in made:
        world.close()


def releases(world: World) -> list[Release]:
    values = dict.fromkeys(record.value or b"" for record in world.read("releases")[0])
    return [msgspec.json.decode(value, type=Release) for value in values]


def dead(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


@pytest.mark.faults
def test_a_scheduler_killed_in_each_stage_is_one_release_all_the_same(
    make_live: Callable[[str], World], watched: Watched
):
    world, holds, dag_id = make_live(KILLED), watched.holds, f"retrain_on_drift__{KILLED}"
    first = world.status().learner["version"].partition("@")[0]  # type: ignore[index]

    def passed(stage: str) -> list[int]:
        file = Path(holds, f"{stage}.passed")
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    for stage in STAGES:
        Path(holds, stage).touch()
    drift_id = tell_a_drift(world, from_offset=100)
    try:
        for stage in STAGES:
            watched.wait(lambda stage=stage: bool(passed(stage)), f"{stage} to have done its work", STAGE_S)  # type: ignore[misc]
            run = watched.client.runs(dag_id)[-1]  # the first; another may wait behind it, and will find nothing to do
            watched.server.kill("scheduler")
            pid = passed(stage)[0]
            watched.wait(lambda pid=pid: dead(pid), "the task to be dead", 10)  # type: ignore[misc]
            tasks = watched.client.tasks(dag_id, run["dag_run_id"])
            assert tasks.get(stage, tasks.get(f"{stage}[0]")) == "running", (
                f"{stage} was not killed in the middle: {tasks}"
            )
            Path(holds, stage).unlink()
            watched.server.restart("scheduler")
    finally:  # what is held would hold one of Airflow's slots for ever
        for stage in STAGES:
            Path(holds, stage).unlink(missing_ok=True)
    assert watched.wait_run(dag_id, run["dag_run_id"], STAGE_S) == "success"
    assert all(len(passed(stage)) > 1 for stage in STAGES)  # each was done again
    run_id = f"{dag_id}.{run['dag_run_id']}"
    world.wait(lambda: len(releases(world)) == 2 and not pending(world.settings, world.name), "the release")
    released = releases(world)[1]
    assert (released.action, released.parent, released.decided_by) == ("released", first, f"run:{run_id}")
    inbox = RedisDriftInbox(**world.settings.redis(), pipeline=world.name)
    outcomes = [(outcome.drift_id, outcome.outcome, outcome.run_id) for outcome in inbox.outcomes()]
    inbox.close()
    assert outcomes == [(drift_id, "retrained", run_id)]
    examine(world)
    world.stop_workers()


def test_what_a_person_says_is_done_and_silence_is_no(make_live: Callable[[str], World], watched: Watched):
    world, dag_id = make_live(APPROVED), f"retrain_scheduled__{APPROVED}"
    client = watched.client

    def ask() -> str:
        """Until the question stands; returns the run's id."""
        run_id = client.trigger(dag_id)
        watched.wait(lambda: bool(client.questions(dag_id, run_id)), "the question", 2 * STAGE_S)
        (question,) = client.questions(dag_id, run_id)
        assert question["subject"] == f"{APPROVED}: release this model?"
        assert '"champion"' in question["body"]
        assert [r.action for r in releases(world)] == ["started"]
        return run_id

    def end(run_id: str) -> tuple[bool, str]:
        assert watched.wait_run(dag_id, run_id, STAGE_S) == "success"
        answer = client.result(dag_id, run_id, "release")
        return answer["released"], answer["why"]

    rejected = ask()
    client.answer(dag_id, rejected, "approve", "Reject")
    assert end(rejected) == (False, "rejected by admin")
    assert end(ask()) == (False, "rejected by time-out")
    assert not pending(world.settings, world.name)
    approved = ask()
    client.answer(dag_id, approved, "approve", "Release")
    assert end(approved)[0]
    world.wait(lambda: len(releases(world)) == 2, "the release")
    released = releases(world)[1]
    assert released.action == "released"
    assert released.decided_by == f"person:admin for run:{dag_id}.{approved}"
    examine(world)
    world.stop_workers()
