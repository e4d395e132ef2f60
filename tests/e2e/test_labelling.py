"""Labels from people on the real Kafka and Redis: asked for by the rules, answered, learned once with their propensity."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from rich.console import Console

from stream.batch.label_requests import Answer, OpenRequest, answer, open_requests
from stream.cli.labelling import read_answers, session, write_requests
from stream.contracts import schema_for
from stream.core.records import Record
from stream.errors import ConfigurationError
from tests.support.oracles import examine
from tests.support.world import PIPELINE_FILE, World, card_stream

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def values(records: list[Record]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(record.value or b"") for record in records]


def read(world: World, topic: str) -> list[dict[str, Any]]:
    return [value for records in world.read(topic).values() for value in values(records)]


def typed(*answers: str) -> Callable[[str], str]:
    """A person at the keyboard, who goes away after the last answer."""
    rest = iter(answers)

    def read_line(_: str) -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    return read_line


def asked(make_world: Callable[..., World], missing: float) -> World:
    """A pipeline that has asked about a twentieth of its events; the share of its labels that come from elsewhere is 1 - missing."""
    world = make_world(missing="none", labelling="50")
    world.produce(card_stream(4_000, missing=missing))
    world.start("learn")
    world.start("score", pace_s=0.0002, batch_records_max="50")
    world.wait_settled()
    return world


@pytest.fixture
def asking(make_world: Callable[..., World]) -> World:
    return asked(make_world, 0.5)


@pytest.fixture
def asking_in_vain(make_world: Callable[..., World]) -> World:
    """Which events are asked depends on which model a worker had when; so many are open that the last ones suffice."""
    return asked(make_world, 0.9)


def test_requests_are_those_of_an_undisturbed_pass_and_an_answer_is_learned_once(asking: World):
    world = asking
    verdict = examine(world)  # label_requests too, byte for byte
    requests = read(world, "label_requests")
    assert verdict.counts["label_requests"] == len(requests)
    assert 150 <= len(requests) <= 200
    assert len({(r["source"]["partition"], r["source"]["offset"]) for r in requests}) == len(requests)
    assert {"balanced", "uniform", "warm_up"} <= {r["strategy"] for r in requests}
    schema = jsonschema.Draft202012Validator(schema_for("label_requests"))
    for request in requests:
        schema.validate(request)
    status = world.status()
    assert status.estimated is not None
    assert 0.5 < status.estimated["low"] < status.estimated["high"] <= 1.0
    assert status.learner is not None
    assert status.learner["metrics"]["unbiased"]["overall"]["labels"] > 20

    open_now = open_requests(world.settings, world.pipeline)
    labelled = {label["event_id"] for label in read(world, "labels")}
    assert open_now
    assert not labelled & {asked.request.event_id for asked in open_now}
    one = open_now[-1]
    for _ in range(2):  # as a task that is tried again
        answer(world.settings, world.pipeline, [Answer(one, label=True)], by="person:ann")
    world.wait_settled()
    world.wait(lambda: world.status().counts().get("duplicate_labels", 0) >= 1, "the second copy to be seen")
    world.wait_settled()
    (example,) = [e for e in read(world, "examples") if e["event_id"] == one.request.event_id]
    assert example["requested"] is True
    assert example["propensity"] == one.request.propensity
    assert example["label_source"] == "person:ann"
    assert example["timing"] in ("on_time", "late")
    examine(world)
    assert world.status().learner["label_sources"]["person:ann"]["labels"] == 1  # type: ignore[index]
    left = {asked.request.event_id for asked in open_requests(world.settings, world.pipeline)}
    assert left == {asked.request.event_id for asked in open_now} - {one.request.event_id}


def test_a_session_asks_nothing_twice_and_a_file_goes_out_and_comes_back(asking_in_vain: World, tmp_path: Path):
    world = asking_in_vain
    pipeline, settings = world.pipeline, world.settings
    first = open_requests(settings, pipeline)
    assert len(first) >= 10
    screen = Console(file=io.StringIO(), width=120)
    given = []
    for one in session(pipeline, first, typed("maybe", "y", "?", "s", "n"), screen):
        given.append(one.label)
        answer(settings, pipeline, [one], by="person:ann")
    assert given == [True, None, False]
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "does not fit the task" in text
    for part in ("amount", "predicted", "asked because", first[0].request.event_id):
        assert part in text
    second = open_requests(settings, pipeline)
    done = {first[number].request.event_id for number in (0, 1, 3)}
    assert [a.request.event_id for a in second] == [a.request.event_id for a in first if a.request.event_id not in done]

    path = tmp_path / "requests.csv"
    write_requests(pipeline, path, second)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(second)
    rows[0]["label"], rows[1]["label"], rows[2]["label"] = "true", "?", "FALSE"
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, rows[0])
        out.writeheader()
        out.writerows(rows)
    answers, passed_over = read_answers(pipeline, path, second)
    assert [one.label for one in answers] == [True, None, False]
    assert passed_over == len(rows) - 3
    assert answer(settings, pipeline, answers, by="person:bob") == {"labels": 2, "declined": 1}
    third = open_requests(settings, pipeline)
    assert len(third) == len(second) - 3
    assert read_answers(pipeline, path, third) == ([], len(rows))  # the same file again changes nothing
    by_source = [label["source"] for label in read(world, "labels")]
    assert (by_source.count("person:ann"), by_source.count("person:bob")) == (2, 2)
    with pytest.raises(ConfigurationError, match="does not fit"):
        answer(settings, pipeline, [Answer(third[0], label=True), Answer(third[1], label="x")], by="person:ann")
    assert len(open_requests(settings, pipeline)) == len(third)

    command = [sys.executable, "-m", "stream.cli", "label", str(PIPELINE_FILE), "--source", "person:eve"]
    said = subprocess.run(
        command, input="y\nq\n", env=world.environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert f"1 of {len(third)}" in said.stdout
    assert "1 labels, 0 cannot tell" in said.stdout
    assert len(open_requests(settings, pipeline)) == len(third) - 1


def test_what_has_expired_is_not_asked(asking: World):
    """By event time: the labels of these events would not be learned any more."""
    world = asking
    before: list[OpenRequest] = open_requests(world.settings, world.pipeline)
    assert before
    newest = max(e["occurred_at_ms"] for e in read(world, "events"))
    later = msgspec.json.encode(
        {"event_id": "later", "occurred_at_ms": newest + 700_000, "features": {"amount": 1.0, "hour": 1}}
    )
    offsets = {p: len(records) for p, records in world.read("events").items()}
    world.produce(
        [Record("events", p, offset, newest + 700_000, b"card-%d" % p, later) for p, offset in offsets.items()]
    )
    world.wait_settled()
    assert {asked.request.event_id for asked in open_requests(world.settings, world.pipeline)} <= {"later"}
