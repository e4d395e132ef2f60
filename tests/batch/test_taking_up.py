"""The inbox on the real Kafka and Redis: 10,000 drifts, two of each, takers at once, calls whose answer is lost."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.redis_drift_inbox import OUTCOMES_MAX, RedisDriftInbox
from stream.batch.taking_up import by_the_clock, take_up
from stream.core.records import Record
from stream.errors import Unavailable
from stream.lifecycle import Retrain
from stream.messages import Drift
from tests.support.world import World, batched

pytestmark = pytest.mark.integration
HOUR_MS = 3_600_000
START_MS = 1_000_000_000_000


def drifts(world: World, numbers: range, *, from_offset: int = 0) -> Iterator[Record]:
    for number in numbers:
        message = Drift(
            drift_id=f"d{number}", pipeline=world.name, signal="error", detector="x", severity=1.0,
            examples_topic=world.names.examples, from_offset=from_offset + number, to_offset=from_offset + number + 50,
            detected_at_ms=0,
        )  # fmt: skip
        yield Record("drifts", 0, 0, START_MS, world.name.encode(), msgspec.json.encode(message))


@pytest.fixture
def ask(world: World) -> Callable[..., dict[str, Any]]:
    pipeline = replace(world.pipeline, retrain=Retrain(cool_down="6h"))

    def take(run_id: str, hours: float = 0.0) -> dict[str, Any]:
        return take_up(world.settings, pipeline, run_id, now_ms=START_MS + int(hours * HOUR_MS))

    return take


def answers(world: World, run_id: str, name: str = "release", value: bytes = b"{}") -> None:
    """The run comes to an end."""
    ArtifactFiles(world.settings.artifact_url, world.name).put_file(f"runs/{run_id}/{name}.json", value)


@pytest.fixture
def inbox(world: World) -> Iterator[RedisDriftInbox]:
    opened = RedisDriftInbox(**world.settings.redis(), pipeline=world.name)
    yield opened
    opened.close()


def twice(records: Iterable[Record], together: int) -> Iterator[Record]:
    """As a learner that dies before it commits publishes them: so many, and the same again."""
    for part in batched(records, together):
        yield from part
        yield from part


def test_ten_thousand_drifts_two_of_each_have_an_outcome_each_and_one_run_per_cool_down(
    world: World, ask: Callable[..., dict[str, Any]], inbox: RedisDriftInbox
):
    runs: list[str] = []
    for part in range(4):
        world.produce(twice(drifts(world, range(part * 1_250, (part + 1) * 1_250)), 50 if part % 2 else 1))
        for number in range(3):
            answer = ask(f"run-{part}-{number}", hours=part * 2)  # hours 0, 2, 4 and 6
            json.dumps(answer)
            if answer["go"]:
                runs.append(f"run-{part}-{number}")
                answers(world, runs[-1])
    assert runs == ["run-0-0", "run-3-0"]
    outcomes = inbox.outcomes()
    assert [outcome.offset for outcome in outcomes] == list(range(10_000))
    assert Counter(o.outcome for o in outcomes)["retrained"] == 2
    assert [o.run_id for o in outcomes if o.outcome == "retrained"] == runs
    assert Counter(o.drift_id for o in outcomes) == {f"d{number}": 2 for number in range(5_000)}
    first = {o.drift_id: o.offset for o in reversed(outcomes)}
    copies = Counter(o.outcome for o in outcomes if o.offset != first[o.drift_id])
    assert sum(copies.values()) == 5_000
    assert copies.keys() <= {"merged", "suppressed"}
    assert all(o.until_ms == START_MS + 6 * HOUR_MS for o in outcomes if o.outcome == "suppressed")
    world.produce(drifts(world, range(5_000, 5_010)))
    ask("later", hours=6)
    assert len(inbox.outcomes()) == OUTCOMES_MAX
    totals = inbox.load().inbox.totals
    assert sum(totals[name] for name in ("retrained", "merged", "suppressed")) == 10_010


def test_a_retry_passes_again_and_knows_the_change(world: World, ask: Callable[..., dict[str, Any]]):
    assert ask("early") == {"go": False, "why": "nothing_new", "drift": None, "from_offset": None, "stage": 0}
    world.produce(drifts(world, range(1), from_offset=40))
    first = ask("run")
    assert (first["go"], first["why"], first["from_offset"], first["drift"]["drift_id"]) == (True, "drift", 40, "d0")
    assert ask("run") == first
    clock = by_the_clock()  # whatever has changed, it learns from everything
    assert (clock["go"], clock["why"], clock["from_offset"], clock["drift"]) == (True, "schedule", None, None)


def test_a_run_that_failed_for_good_is_started_again_and_one_that_answered_is_not(
    world: World, ask: Callable[..., dict[str, Any]], inbox: RedisDriftInbox, caplog: pytest.LogCaptureFixture
):
    world.produce(drifts(world, range(1), from_offset=40))
    assert ask("failed")["go"]
    answers(world, "failed", "verdict", b'{"accepted": true}')  # and it was never released
    assert not ask("soon", hours=0.2)["go"]
    again = ask("again", hours=0.3)
    assert (again["go"], again["why"], again["from_offset"], again["drift"]["drift_id"]) == (True, "restart", 40, "d0")
    assert ask("again", hours=0.3) == again
    assert "run failed for drift d0 ended without a verdict: run again takes its place" in caplog.text
    answers(world, "again", "window")  # it got further
    answers(world, "again", "no_window")
    assert not ask("early", hours=1.2)["go"]
    assert ask("third", hours=1.4)["why"] == "restart"
    answers(world, "third", "verdict", b'{"accepted": false}')
    assert ask("later", hours=6)["why"] == "nothing_new"
    assert inbox.load().inbox.totals["runs.restart"] == 2
    world.produce(drifts(world, range(1, 2), from_offset=40))
    assert ask("next", hours=7)["why"] == "drift"
    answers(world, "next", "no_window")  # too few labels: follow-ups come when there are more
    assert not ask("last", hours=12)["go"]


def test_of_takers_at_once_one_wins(world: World, ask: Callable[..., dict[str, Any]], inbox: RedisDriftInbox):
    world.produce(drifts(world, range(500)))
    together = threading.Barrier(6)

    def take(number: int) -> dict[str, Any]:
        together.wait(30)
        return ask(f"run-{number}")

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(take, range(6)))
    assert sum(answer["go"] for answer in answers) == 1
    assert [outcome.offset for outcome in inbox.outcomes()] == list(range(500))


def test_a_lost_answer_of_redis_is_no_lost_run(
    world: World, ask: Callable[..., dict[str, Any]], inbox: RedisDriftInbox, monkeypatch: pytest.MonkeyPatch
):
    world.produce(drifts(world, range(3)))
    store = RedisDriftInbox.store

    def applied_but_silent(self: RedisDriftInbox, *arguments: Any) -> bool:
        store(self, *arguments)
        raise Unavailable("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(RedisDriftInbox, "store", applied_but_silent)
        with pytest.raises(Unavailable):
            ask("run")
    assert ask("run")["go"]
    assert not ask("other")["go"]
    assert [outcome.offset for outcome in inbox.outcomes()] == [0, 1, 2]


def test_garbage_on_the_topic_is_passed_over(world: World, ask: Callable[..., dict[str, Any]], inbox: RedisDriftInbox):
    garbage = [Record("drifts", 0, 0, START_MS, None, value) for value in (b"", b"{", b"x" * 5_000, None)]
    world.produce([*garbage, *drifts(world, range(1))])
    assert ask("run")["go"]
    assert [outcome.outcome for outcome in inbox.outcomes()] == ["unreadable"] * 4 + ["retrained"]


def test_a_topic_made_anew_is_read_from_its_start(world: World, ask: Callable[..., dict[str, Any]]):
    world.produce(drifts(world, range(5)))
    assert ask("run")["go"]
    world.kafka.delete()

    def made_anew() -> bool:
        return "drifts" in world.kafka.create(2, 1) or "drifts" in world.kafka.describe().topics

    world.wait(made_anew, "the topic to be there again")
    world.produce(drifts(world, range(7, 8)))
    assert ask("other", hours=7)["drift"]["drift_id"] == "d7"
