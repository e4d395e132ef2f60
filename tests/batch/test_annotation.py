"""Taking requests and putting answers on the real Kafka and Redis: takers at once, runs that die, forms filled in wrongly."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from stream.adapters.file_pipelines import LoadedPipeline, load_pipeline
from stream.batch import annotation
from stream.batch.annotation import annotators_agree, put_answer, take_requests
from stream.batch.label_requests import open_requests
from stream.core.records import Record
from stream.errors import Unavailable
from stream.lifecycle import Labelling
from tests.support.asking import ask_about, labels
from tests.support.world import PIPELINE_FILE, World

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
HOUR_MS = 3_600_000


def said(option: str, by: str = "ann", text: str | None = None) -> dict[str, Any]:
    params = {} if text is None else {"label": text}
    return {"chosen_options": [option], "params_input": params, "responded_by_user": {"id": by, "name": by}}


@pytest.fixture
def loaded(world: World) -> Callable[..., LoadedPipeline]:
    def load(**labelling: Any) -> LoadedPipeline:
        found = load_pipeline(PIPELINE_FILE)
        return found._replace(pipeline=replace(world.pipeline, labelling=Labelling(**labelling)))

    return load


def test_takers_at_once_share_what_is_open_and_a_retry_gets_its_own(
    world: World, loaded: Callable[..., LoadedPipeline]
):
    ask_about(world, range(12))
    one, together = loaded(batch=5), threading.Barrier(4)

    def taker(number: int) -> list[dict[str, Any]]:
        together.wait(30)
        return take_requests(world.settings, one, run_id=f"run-{number}")

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(taker, range(4)))
    assert sorted(len(items) for items in taken) == [0, 2, 5, 5]
    events = [item["event"] for items in taken for item in items]
    assert len(set(events)) == 12
    busy = next(number for number, items in enumerate(taken) if len(items) == 5)
    assert take_requests(world.settings, one, run_id=f"run-{busy}") == taken[busy]
    json.dumps(taken)
    assert "&lt;b&gt;\\|\\[x\\]\\(http&#8203;://evil\\)" in taken[busy][0]["body"]
    assert "true: 60.0%" in taken[busy][0]["body"]
    # Nobody ever answers: when the time of the forms is over, they are asked about again.
    later = take_requests(world.settings, loaded(batch=20), run_id="later", now_ms=2 * 10**12)
    assert len(later) == 12


def test_every_kind_of_answer(world: World, loaded: Callable[..., LoadedPipeline]):
    ask_about(world, range(5))
    one = loaded()
    items = take_requests(world.settings, one, run_id="run")
    responses = [
        said("true"),
        said("cannot tell"),
        said("skip"),
        {**said("skip"), "timedout": True},
        said("send", text="?"),
    ]

    def put(number: int) -> dict[str, Any]:
        return put_answer(world.settings, one, item=items[number], response=responses[number])

    outcomes = [put(number)["outcome"] for number in range(5)]
    assert outcomes == ["answered", "declined", "declined", "given_back", "given_back"]
    put(0)  # a task that is tried again: the same label once more, of which the second is a duplicate
    assert {(label["event_id"], label["label"], label["source"]) for label in labels(world)} == {
        ("e0", True, "person:ann")
    }
    again = take_requests(world.settings, one, run_id="next")
    assert [item["event"][2:] for item in again] == ["e3", "e4"]
    assert "Asked again: the last answer was not taken" in again[1]["body"]
    assert put_answer(world.settings, one, item=again[1], response=said("send", text="false"))["outcome"] == "answered"
    assert put_answer(world.settings, one, item=again[0], response=None)["why"] == "skipped"
    assert put_answer(world.settings, one, item=again[0], response=said("send"))["outcome"] == "given_back"


def test_what_was_answered_is_not_asked_again_though_its_request_is_published_once_more(
    world: World, loaded: Callable[..., LoadedPipeline]
):
    """A score worker that starts again publishes what it had published since its last commit."""
    ask_about(world, range(4))
    one = loaded()
    items = take_requests(world.settings, one, run_id="run")
    for item, option in zip(items, ("true", "cannot tell", "skip"), strict=False):
        put_answer(world.settings, one, item=item, response=said(option))
    ask_about(world, range(4))
    assert [asked.request.event_id for asked in open_requests(world.settings, one.pipeline)] == ["e3"]


def test_where_two_are_asked_a_skip_asks_somebody_else(world: World, loaded: Callable[..., LoadedPipeline]):
    ask_about(world, range(1))
    two = loaded(annotators=2)
    first, second = take_requests(world.settings, two, run_id="run")
    assert put_answer(world.settings, two, item=first, response=said("skip"))["outcome"] == "given_back"
    assert put_answer(world.settings, two, item=second, response=said("true", "b+b"))["outcome"] == "waiting"
    (third,) = take_requests(world.settings, two, run_id="next")
    assert put_answer(world.settings, two, item=third, response=said("true", "eve"))["outcome"] == "answered"
    assert [label["source"] for label in labels(world)] == ["person:b%2Bb+eve"]


def test_an_answer_whose_run_died_before_it_was_sent_is_sent_by_the_next(
    world: World, loaded: Callable[..., LoadedPipeline], monkeypatch: pytest.MonkeyPatch
):
    ask_about(world, range(1))
    one = loaded()
    (item,) = take_requests(world.settings, one, run_id="run")

    def dies(*_: Any, **__: Any) -> None:
        raise Unavailable("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(annotation, "answer", dies)
        with pytest.raises(Unavailable):
            put_answer(world.settings, one, item=item, response=said("false"))
    assert labels(world) == []
    assert take_requests(world.settings, one, run_id="next") == []
    assert [label["label"] for label in labels(world)] == [False]
    assert open_requests(world.settings, one.pipeline) == []
    take_requests(world.settings, one, run_id="third")
    assert len(labels(world)) == 1


def test_an_answer_that_was_not_sent_when_its_request_expired_is_sent_all_the_same(
    world: World, loaded: Callable[..., LoadedPipeline], monkeypatch: pytest.MonkeyPatch
):
    ask_about(world, range(2))
    one = loaded()
    items = take_requests(world.settings, one, run_id="run")
    with monkeypatch.context() as patched:
        patched.setattr(annotation, "answer", lambda *_, **__: None)  # it dies here
        put_answer(world.settings, one, item=items[0], response=said("false"))
    with monkeypatch.context() as patched:
        late = {0: 2 * 10**15, 1: 2 * 10**15}  # event time has moved on

        async def event_times(*_: Any) -> dict[int, int]:
            return late

        patched.setattr("stream.batch.label_requests._event_times", event_times)
        assert open_requests(world.settings, one.pipeline) == []
        with patched.context() as dying:
            dying.setattr(annotation, "answer", lambda *_, **__: None)  # and once more
            take_requests(world.settings, one, run_id="next", now_ms=2 * 10**12)
        assert take_requests(world.settings, one, run_id="third", now_ms=2 * 10**12) == []
    assert [(label["event_id"], label["label"]) for label in labels(world)] == [("e0", False)]


def test_what_is_no_label_of_the_pipeline_answers_nothing(world: World, loaded: Callable[..., LoadedPipeline]):
    """It becomes a dead letter, so somebody must still be asked."""
    ask_about(world, range(2))
    one = loaded()
    asked = open_requests(world.settings, one.pipeline)
    key, partition = asked[0].key, asked[0].partition

    def send(key: bytes, label: Any) -> None:
        value = {"event_id": "e0", "label": label, "labelled_at_ms": 1, "source": "bank"}
        now_ms = int(time.time() * 1_000) + 1_000
        world.produce([Record("labels", partition, 0, now_ms, key, msgspec.json.encode(value))])

    send(key, "perhaps")
    send(b"another", True)
    assert [its.request.event_id for its in open_requests(world.settings, one.pipeline)] == ["e0", "e1"]
    send(key, True)
    assert [its.request.event_id for its in open_requests(world.settings, one.pipeline)] == ["e1"]


def test_two_annotators_and_their_agreement(world: World, loaded: Callable[..., LoadedPipeline]):
    ask_about(world, range(2))
    two = loaded(annotators=2)
    items = take_requests(world.settings, two, run_id="run")
    assert [item["event"][2:] for item in items] == ["e0", "e0", "e1", "e1"]

    def put(item: dict[str, Any], *response: str) -> str:
        return str(put_answer(world.settings, two, item=item, response=said(*response))["outcome"])

    assert [put(items[0], "true", "ann"), put(items[1], "true", "bob")] == ["waiting", "answered"]
    assert [put(items[2], "true", "ann"), put(items[3], "false", "bob")] == ["waiting", "waiting"]
    (third,) = take_requests(world.settings, two, run_id="next")
    assert put(third, "true", "ann") == "waiting"  # she has said so already
    (fourth,) = take_requests(world.settings, two, run_id="last")
    assert "another person is needed" in fourth["body"]
    assert put(fourth, "false", "eve") == "answered"
    found = {label["event_id"]: (label["label"], label["source"]) for label in labels(world)}
    assert found == {"e0": (True, "person:ann+bob"), "e1": (False, "person:bob+eve")}
    agreed = annotators_agree(world.settings, world.name)
    assert agreed is not None
    assert (agreed.items, agreed.share) == (2, 0.5)
    command = [sys.executable, "-m", "stream.cli", "label", str(PIPELINE_FILE), "--agreement"]
    shown = subprocess.run(
        command, env=world.environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout  # fmt: skip
    assert shown.split(", Cohen")[0] == "2 items with two answers: 50.0% agree"
    assert "kappa 0.000" in shown
