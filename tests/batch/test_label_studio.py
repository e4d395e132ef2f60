"""Exchanges with Label Studio on the real Kafka and Redis, and a server that keeps to its HTTP contract: what is asked
twice, or lost, when any call fails, when people change their minds, and when tasks go."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from stream.adapters.file_pipelines import LoadedPipeline, load_pipeline
from stream.adapters.label_studio_client import LabelStudioClient
from stream.adapters.redis_annotations import RedisAnnotations
from stream.batch import label_studio
from stream.batch.annotation import annotators_agree, take_requests
from stream.batch.label_requests import Answer, answer, open_requests
from stream.batch.label_studio import LEASE_MS, Exchanged, exchange, exchange_label_studio
from stream.core.annotating import Annotations
from stream.errors import ConfigurationError, Unavailable
from stream.lifecycle import Labelling
from tests.support.asking import ask_about, labels
from tests.support.label_studio import LEGACY, PERSONAL, StudioServer, studio_server
from tests.support.world import PIPELINE_FILE, World

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
ANN, BOB, EVE = 1, 2, 3


@pytest.fixture
def studio() -> Iterator[StudioServer]:
    with studio_server() as server:
        yield server
        # Whatever we sent kept to the contract; what is not there any more may be looked for.
        assert [one for one in server.refused if ": 404 " not in one] == []


@pytest.fixture
def trade(world: World, studio: StudioServer) -> Callable[..., Exchanged]:
    """One exchange; by default the pipeline wants one annotator."""

    def run(annotators: int = 1, now_ms: int | None = None) -> Exchanged:
        client = LabelStudioClient(studio.url, LEGACY, timeout_s=5.0)
        loaded = asking(world, annotators)
        return exchange(world.settings, loaded, client, now_ms=lambda: now_ms or int(time.time() * 1_000))

    return run


def asking(world: World, annotators: int = 1) -> LoadedPipeline:
    found = load_pipeline(PIPELINE_FILE)
    return found._replace(pipeline=replace(world.pipeline, labelling=Labelling(annotators=annotators)))


def by_event(world: World) -> dict[str, list[tuple[Any, str]]]:
    found: dict[str, list[tuple[Any, str]]] = {}
    for label in labels(world):
        found.setdefault(label["event_id"], []).append((label["label"], label["source"]))
    return found


def declined(world: World) -> list[str]:
    records = [msgspec.json.decode(r.value or b"") for rs in world.read("label_requests").values() for r in rs]
    return [one["event_id"] for one in records if one.get("declined_by")]


def test_requests_become_tasks_and_annotations_labels(
    world: World, studio: StudioServer, trade: Callable[..., Exchanged]
):
    ask_about(world, range(4))
    assert trade() == Exchanged(asked=4)
    (project,) = studio.projects.values()
    assert project["title"] == f"driftloop: {world.name}"[:50]
    task = studio.tasks[studio.open_tasks()["e1"]]
    assert task["data"]["features"] == {"amount": 1.0, "what": "<b>|[x](http://evil)"}
    assert task["data"]["uncertainty"] == 0.4
    for part in ("The model says true (true: 60.0%", "amount +0.5", "Asked because uncertain"):
        assert part in task["data"]["about"]
    (prediction,) = task["predictions"]
    assert prediction["score"] == 0.6
    assert prediction["result"][0]["value"] == {"choices": ["true"]}

    there = studio.open_tasks()
    studio.annotate(there["e0"], ANN, "false")
    studio.annotate(there["e1"], BOB, cannot_tell=True)
    studio.annotate(there["e2"], BOB, skip=True)
    assert trade() == Exchanged(labels=1, declined=1)
    assert by_event(world) == {"e0": [(False, "person:ann@example.org")]}
    assert declined(world) == ["e1"]
    assert trade() == Exchanged()
    studio.annotate(there["e2"], ANN, "true")  # skipped by another one before
    assert trade() == Exchanged(labels=1)
    assert [one.request.event_id for one in open_requests(world.settings, world.pipeline)] == ["e3"]
    # What is asked there is asked nowhere else.
    assert take_requests(world.settings, asking(world), run_id="forms") == []


def test_a_call_that_fails_anywhere_neither_asks_twice_nor_loses_an_answer(
    world: World, studio: StudioServer, trade: Callable[..., Exchanged]
):
    """Each call of an exchange in turn gets no answer, although it took effect; two of them took none."""
    failures: Counter[str] = Counter()
    plans = [("after", nth) for nth in range(1, 20)]
    plans[2:2] = [("before", 1), ("before", 4)]
    for round_number, (when, nth) in enumerate(plans):
        ask_about(world, [2 * round_number, 2 * round_number + 1])
        for _ in range(2):  # once on asking, once on answering
            left = [nth]

            def breaks(moment: str, what: str, left: list[int] = left, when: str = when) -> str | None:
                left[0] -= moment == when
                return "lost" if moment == when and left[0] == 0 else None

            studio.broken = breaks
            try:
                trade()
            except Unavailable as error:
                failures[str(error)[:13]] += 1
            studio.broken = lambda *_: None
            trade()
            for event, task in studio.open_tasks().items():
                studio.annotate(task, ANN, "true" if int(event[1:]) % 2 else "false")
        trade()
        if left[0] > 0:
            break
    assert sum(failures.values()) >= 10
    asked = Counter(task["data"]["request"] for task in studio.tasks.values())
    assert set(asked.values()) == {1}
    assert len(asked) == 2 * round_number + 2
    assert len(studio.projects) == 1
    found = by_event(world)
    assert len(found) == len(asked)
    assert all({label for label, _ in its} == {int(event[1:]) % 2 == 1} for event, its in found.items())
    assert open_requests(world.settings, world.pipeline) == []


def test_an_answer_that_did_not_reach_kafka_is_sent_by_the_next_exchange(
    world: World, studio: StudioServer, trade: Callable[..., Exchanged], monkeypatch: pytest.MonkeyPatch
):
    ask_about(world, range(1))
    trade()
    studio.annotate(studio.open_tasks()["e0"], ANN, "true")

    def dies(*_: Any, **__: Any) -> None:
        raise Unavailable("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(label_studio, "answer", dies)
        with pytest.raises(Unavailable, match="killed here"):
            trade()
    assert labels(world) == []
    assert trade().labels == 1
    assert trade() == Exchanged()
    assert len(labels(world)) == 1


def test_one_exchange_at_a_time_and_a_killed_one_stands_in_the_way_for_ten_minutes_only(
    world: World, studio: StudioServer, trade: Callable[..., Exchanged]
):
    ask_about(world, range(3))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: trade(), range(4)))
    assert sum(result.asked for result in results) == 3
    assert len(studio.tasks) == 3
    store = RedisAnnotations(**world.settings.redis(), pipeline=world.name)
    now = int(time.time() * 1_000)

    def hold(state: Annotations) -> None:
        state.studio.holder, state.studio.held_until_ms = "killed", now + LEASE_MS

    store.change(hold)
    store.close()
    assert trade() == Exchanged(busy=True)
    assert trade(now_ms=now + LEASE_MS + 1) == Exchanged()


def test_what_was_deleted_there_is_asked_again(world: World, studio: StudioServer, trade: Callable[..., Exchanged]):
    ask_about(world, range(2))
    trade()
    trade()
    freed = studio.open_tasks()["e1"]
    del studio.tasks[freed]
    ask_about(world, [2])
    assert trade() == Exchanged(asked=2)  # one of them has the number of the deleted one
    assert set(studio.open_tasks()) == {"e0", "e1", "e2"}
    assert freed in studio.tasks
    trade()
    studio.projects[1] = {"id": 1, "title": "somebody else's, with that number", "description": ""}
    studio.tasks.clear()
    assert trade() == Exchanged(asked=3)
    studio.annotate(studio.open_tasks()["e1"], ANN, "true")
    assert trade() == Exchanged(labels=1)
    assert len(studio.projects) == 2


def test_an_annotation_that_is_changed_later_goes_out_once_more(
    world: World, studio: StudioServer, trade: Callable[..., Exchanged]
):
    """The first one was learned; the other contradicts it, and is counted and archived as such."""
    ask_about(world, range(1))
    trade()
    annotation = studio.annotate(studio.open_tasks()["e0"], ANN, "true")
    trade()
    trade()
    studio.change(annotation, "false")
    assert trade() == Exchanged(labels=1)
    assert trade() == Exchanged()
    assert [label for label, _ in by_event(world)["e0"]] == [True, False]


def test_two_annotators_and_a_third_where_they_differ(
    world: World, studio: StudioServer, trade: Callable[..., Exchanged]
):
    ask_about(world, range(2))
    trade(2)
    there = studio.open_tasks()
    mistaken = studio.annotate(there["e0"], ANN, "false")
    studio.annotate(there["e1"], ANN, "true")
    assert trade(2) == Exchanged()
    assert labels(world) == []
    studio.change(mistaken, "true")  # before the second answer: as it is now
    studio.annotate(there["e0"], BOB, "true")
    studio.annotate(there["e1"], BOB, "false")
    assert set(studio.open_tasks()) == set()
    assert trade(2) == Exchanged(labels=1)
    assert by_event(world) == {"e0": [(True, "person:ann@example.org+bob@example.org")]}
    assert set(studio.open_tasks()) == {"e1"}  # one more person is shown it
    studio.annotate(there["e1"], EVE, "false")
    assert trade(2) == Exchanged(labels=1)
    assert by_event(world)["e1"] == [(False, "person:bob@example.org+eve@example.org")]
    agreed = annotators_agree(world.settings, world.name)
    assert agreed is not None
    assert agreed.items == 2


def test_a_task_that_nobody_need_answer_any_more_goes_but_never_with_an_answer(
    world: World, studio: StudioServer, trade: Callable[..., Exchanged]
):
    ask_about(world, range(2))
    trade()
    answers = [Answer(one, label=True) for one in open_requests(world.settings, world.pipeline)]
    answer(world.settings, world.pipeline, answers, by="person:terminal")
    late = studio.open_tasks()["e1"]

    lists = iter(range(10))

    def somebody_is_quick(what: str) -> None:
        if what == "GET /api/tasks/" and next(lists) == 1:
            studio.annotate(late, ANN, "false")

    studio.before_answer = somebody_is_quick  # after both lists were made
    assert trade().closed == 1
    assert set(studio.tasks) == {late}
    assert trade().labels == 1  # it contradicts, and that is for the rules for labels to say
    assert [label for label, _ in by_event(world)["e1"]] == [True, False]


def test_an_answer_that_does_not_fit_is_told_of_and_somebody_else_is_asked(
    world: World, studio: StudioServer, trade: Callable[..., Exchanged]
):
    ask_about(world, range(1))
    trade()
    task = studio.open_tasks()["e0"]
    studio.annotate(task, ANN)
    assert studio.open_tasks() == {}
    (why,) = trade().unfit
    assert "person:ann@example.org: one label is needed, or cannot tell" in why
    assert studio.open_tasks() == {"e0": task}
    studio.annotate(task, BOB, "true")
    assert trade() == Exchanged(labels=1)


def test_personal_tokens_are_refreshed_and_a_wrong_one_is_named(world: World, studio: StudioServer):
    ask_about(world, range(3))
    studio.access_uses = 2
    done = exchange_label_studio(world.settings, asking(world), url=studio.url, token=PERSONAL)
    assert done["asked"] == 3
    assert [one for one in studio.refused if ": 401" not in one] == []
    assert studio.calls.count("POST /api/token/refresh/") >= 2
    with pytest.raises(ConfigurationError, match="Label Studio's token"):
        exchange_label_studio(world.settings, asking(world), url=studio.url, token="f" * 40)
    studio.refused.clear()


def test_an_exchange_from_the_command_line(make_world: Callable[..., World], studio: StudioServer):
    world = make_world(labelling="50")
    ask_about(world, range(2))
    command = [sys.executable, "-m", "stream.cli", "label", str(PIPELINE_FILE), "--label-studio"]
    where = {"DRIFTLOOP_LABEL_STUDIO_URL": studio.url, "DRIFTLOOP_LABEL_STUDIO_TOKEN": LEGACY}

    def run(**changes: str) -> subprocess.CompletedProcess[str]:
        environment = {**world.environment, **where, **changes}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert run().stdout.startswith("2 new tasks, 0 labels")
    studio.annotate(studio.open_tasks()["e0"], ANN, "true")
    assert run().stdout.startswith("0 new tasks, 1 labels, 0 cannot tell, 0 tasks removed")
    refused = run(DRIFTLOOP_LABEL_STUDIO_TOKEN="")
    assert refused.returncode != 0
    assert "DRIFTLOOP_LABEL_STUDIO_TOKEN" in refused.stderr
