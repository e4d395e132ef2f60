"""An uncertain event becomes a form in Airflow; its answer, given through the REST interface, is learned, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from stream.batch.label_requests import open_requests
from stream.errors import DriftloopError
from stream.local.stack import Stack
from tests.airflow.conftest import ASKED, PIPELINES, Watched
from tests.support.world import World, card_stream

pytestmark = [pytest.mark.integration, pytest.mark.airflow, pytest.mark.timeout(400)]

DAG_ID = f"label_requests__{ASKED}"
ASK = "person.ask"


@pytest.fixture
def asked(stack: Stack, watched: Watched) -> Iterator[World]:
    world = World(stack, ASKED, file=PIPELINES / "asked.py")
    yield world
    world.close()


def read(world: World, topic: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(record.value or b"") for records in world.read(topic).values() for record in records]


def forms(watched: Watched) -> dict[str, dict[str, Any]]:
    """Those without an answer, by the event they are about."""
    waiting = [form for form in watched.client.questions(DAG_ID) if form["task_instance"]["task_id"] == ASK]
    return {form["subject"].removeprefix(f"{ASKED}: label of ").removesuffix("?"): form for form in waiting}


def say(watched: Watched, form: dict[str, Any], option: str) -> None:
    instance = form["task_instance"]
    watched.client.answer(DAG_ID, instance["dag_run_id"], ASK, option, instance["map_index"])


def test_an_answer_is_learned_once_and_nothing_is_asked_twice(asked: World, watched: Watched):
    world = asked
    world.produce([record for record in card_stream(400) if record.topic == "events"])
    world.start("learn")
    world.start("score")
    world.wait_settled()
    requests = {one.request.event_id: one.request for one in open_requests(world.settings, world.pipeline)}
    assert 5 <= len(requests) <= 8  # more than one batch

    watched.wait(lambda: len(forms(watched)) >= 2, "the first forms", 150)
    first, second, *others = forms(watched).items()
    assert {event for event, _ in (first, second, *others)} <= set(requests)
    for part in ("| amount |", "**The model says**", "**Asked because**", "Answers count until"):
        assert part in first[1]["body"]
    assert first[1]["options"] == ["true", "false", "cannot tell", "skip"]
    say(watched, first[1], "true")  # at once: Airflow's own operator would fail here
    say(watched, second[1], "cannot tell")
    with pytest.raises(DriftloopError, match="409"):
        say(watched, first[1], "false")

    world.wait(
        lambda: [one["event_id"] for one in read(world, "examples")] == [first[0]], "the answer to be learned", 90
    )
    (example,) = read(world, "examples")
    assert example["label"] is True
    assert example["requested"] is True
    assert example["propensity"] == requests[first[0]].propensity
    assert example["label_source"] == f"person:{watched.server.username}"

    def declined() -> list[str]:
        return [one["event_id"] for one in read(world, "label_requests") if one.get("declined_by")]

    watched.wait(lambda: declined() == [second[0]], "the request that somebody cannot tell to be closed")

    # Nobody answers the others: their time passes, the run is no failure, and they are asked again; the two above are not.
    runs = watched.client.runs(DAG_ID)
    for run in runs:
        assert watched.wait_run(DAG_ID, run["dag_run_id"], 180) == "success"
    again = watched.client.trigger(DAG_ID)
    watched.wait(lambda: "success" == watched.client.tasks(DAG_ID, again).get("take_requests"), "the next batch", 90)
    taken = {item["event"].partition("/")[2] for item in watched.client.result(DAG_ID, again, "take_requests")}
    assert taken
    assert taken <= set(requests) - {first[0], second[0]}
    watched.client.end(DAG_ID, again)
    assert len(read(world, "labels")) == 1
    world.stop_workers()
