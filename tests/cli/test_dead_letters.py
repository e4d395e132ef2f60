"""Dead letters are listed, shown safely, and sent again once; a worker that would make nothing else stops."""

from __future__ import annotations

import os
import time
from collections import Counter

import msgspec
import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from stream.adapters.redis_resubmissions import RedisResubmissions
from stream.cli.dead_letters import PROVENANCE, _shown, read_letters, resubmissions, resubmit
from stream.cli.main import app
from stream.errors import Unavailable
from tests.support.world import PIPELINE_FILE, World, card_stream

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

REFUSED = 3


def run(world: World, *arguments: str) -> str:
    settings = {
        "DRIFTLOOP_BROKERS": world.stack.brokers,
        "DRIFTLOOP_REDIS_URL": world.stack.redis_url,
        "DRIFTLOOP_TEST_NAME": world.name,
        "COLUMNS": "200",
    }
    answer = CliRunner().invoke(app, ["dead-letters", str(PIPELINE_FILE), *arguments], env={**os.environ, **settings})
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_what_was_too_large_is_sent_again_once_the_limit_is_raised(world: World):
    records = card_stream(300, missing=1.0)
    padded = records[::10]
    records = [
        msgspec.structs.replace(r, value=(r.value or b"") + b" " * 400, headers=[("trace", b"7")]) if r in padded else r
        for r in records
    ]
    world.produce(records)
    world.start("learn")
    score = world.start("score", test_bytes_max="300")
    world.wait_settled()
    letters = read_letters(world.settings, world.names)
    assert [letter.about.code for letter in letters] == ["value_too_large"] * 30
    assert "value_too_large        30" in run(world)
    assert letters[0].source in run(world, "--code", "value_too_large", "--limit", "30")
    assert r'{"event_id":"e' in run(world, "--code", "value_too_large", "--values")
    assert run(world, "--code", "json_invalid") == "no dead letters with code json_invalid\n"
    score.signal(15)
    assert score.wait(30) == 0

    store = RedisResubmissions(**world.settings.redis(), pipeline=world.name)
    assert store.claim(letters[3].identity)  # somebody was cut off
    assert resubmit(world.settings, world.name, letters) == (29, 0, 1, 0)
    assert resubmit(world.settings, world.name, letters) == (0, 29, 1, 0)
    output = run(world, "--resubmit", "--again", "--yes")
    assert "sent 1 records again, 29 had been sent before" in output
    assert "value_too_large        30           30" in run(world)
    store.close()

    world.start("score")
    world.wait_settled()
    predictions = [r for records in world.read("predictions").values() for r in records]
    assert len({msgspec.json.decode(r.value or b"")["event_id"] for r in predictions}) == len(predictions) == 300
    assert len(read_letters(world.settings, world.names)) == 30
    sent = {
        dict(r.headers or [])[PROVENANCE].decode(): r
        for records in world.read("events").values()
        for r in records
        if r.headers and PROVENANCE in dict(r.headers)
    }
    assert set(sent) == {letter.where for letter in letters}
    for letter in letters:
        record = sent[letter.where]
        assert (record.key, record.value) == (letter.key, letter.value)
        assert record.partition == letter.about.partition
        assert record.headers == [("trace", b"7"), (PROVENANCE, letter.where.encode())]


def test_one_that_the_topic_refuses_holds_up_no_other(world: World):
    """A record of the largest size has no room for the header that says where it was."""
    records = card_stream(20, missing=1.0)
    records[5] = msgspec.structs.replace(records[5], value=b"x" * 1_048_480)
    for i in (3, 9):
        records[i] = msgspec.structs.replace(records[i], value=b"?")
    world.produce(records, **{"message.max.bytes": 2_000_000})
    world.start("learn")
    world.start("score")
    world.wait_settled()
    letters = read_letters(world.settings, world.names)
    assert Counter(letter.about.code for letter in letters) == {"json_invalid": 2, "value_too_large": 1}
    (large,) = (letter for letter in letters if letter.about.code == "value_too_large")
    for sent in (2, 0):
        with pytest.raises(Unavailable, match=rf"{sent} records were sent again, 1 refused \({large.source}: "):
            resubmit(world.settings, world.name, letters)
    states = resubmissions(world.settings, world.name)
    assert set(states.values()) == {"sent"} and large.identity not in states
    world.wait_settled()
    assert len(read_letters(world.settings, world.names)) == 5


def test_a_forged_letter_goes_nowhere(world: World):
    headers = {"topic": "somebody.else", "partition": "0", "offset": "1", "stage": "score", "code": "x", "message": "y"}
    producer = Producer({"bootstrap.servers": world.stack.brokers})
    for topic in ("somebody.else", world.names.predictions, world.names.events):
        these = {**headers, "topic": topic}
        producer.produce(
            world.names.dead_letters, b"v", b"k", 0, headers=[(f"driftloop.error.{k}", v.encode()) for k, v in these.items()]
        )  # fmt: skip
    producer.produce(world.names.dead_letters, b"v", b"k", 0, headers=[("driftloop.error.topic", b"\xff")])
    ours = {**headers, "topic": world.names.events, "offset": "2", "code": "[/x]\x1b[2J", "message": "[/y]\x1b]0;title"}
    for partition in ("1", str(2**40)):  # it lies in 0
        these = {**ours, "partition": partition}
        producer.produce(
            world.names.dead_letters, b"v", b"k", 0, headers=[(f"driftloop.error.{k}", v.encode()) for k, v in these.items()]
        )  # fmt: skip
    producer.produce(
        world.names.dead_letters, b"v", b"k", 0, headers=[(f"driftloop.error.{k}", v.encode()) for k, v in ours.items()],
    )  # fmt: skip
    assert producer.flush(30) == 0
    letters = read_letters(world.settings, world.names)
    assert [(letter.about.topic, letter.about.offset) for letter in letters] == [
        (world.names.events, 1),
        (world.names.events, 2),
    ]
    output = run(world) + run(world, "--code", letters[1].about.code)
    assert "\x1b" not in output
    assert r"[/x]\x1b[2J" in output


def test_a_topic_that_was_made_again_has_the_same_positions_and_other_letters(world: World):
    """A reset keeps what was sent again; it must not stand for a record of the new topic."""
    now_ms = int(time.time() * 1_000)  # Kafka deletes what is older than its topic's retention, at any moment
    about = {
        "topic": world.names.events,
        "partition": "0",
        "offset": "5",
        "stage": "score",
        "code": "x",
        "message": "y",
    }
    headers = [(f"driftloop.error.{name}", value.encode()) for name, value in about.items()]

    def put(value: bytes, at_ms: int) -> None:
        producer = Producer({"bootstrap.servers": world.stack.brokers})
        producer.produce(world.names.dead_letters, value, b"k", 0, timestamp=at_ms, headers=headers)  # type: ignore[arg-type]
        assert producer.flush(30) == 0

    put(b"old", now_ms)
    put(b"old", now_ms)  # a copy
    assert resubmit(world.settings, world.name, read_letters(world.settings, world.names)) == (1, 0, 0, 0)
    put(b"new", now_ms)
    put(b"old", now_ms + 100_000)
    letters = read_letters(world.settings, world.names)
    assert [(letter.value, letter.source) for letter in letters] == [
        (value, f"{world.names.events}-0@5") for value in (b"old", b"new", b"old")
    ]
    assert resubmit(world.settings, world.name, letters) == (2, 1, 0, 0)
    assert resubmit(world.settings, world.name, letters) == (0, 3, 0, 0)
    assert [r.value for r in world.read("events")[0]] == [b"old", b"new", b"old"]


def test_a_worker_stops_when_nearly_everything_would_be_a_dead_letter(world: World):
    world.produce(card_stream(1_500, poison=1.0))
    world.start("learn")
    score = world.start("score")
    world.wait_for_death(score, REFUSED)
    assert "mostly_dead_letters" in score.tail(20)
    assert world.committed() < 1_500
    world.start("score", dead_share_max="1")
    world.wait_settled()
    assert len(read_letters(world.settings, world.names)) == 1_500


def test_a_payload_cannot_write_on_the_terminal():
    assert _shown(b"\x1b[31mred\r\n[bold]").plain == r"\x1b[31mred\r\n[bold]"
    assert _shown(b"\xff" * 300).plain.endswith("…")
    assert _shown(None).plain == "–"
