"""The same task run twice at once, and two retrainings at once: real processes side by side, step by step."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.adapters.delta_archive import ExampleArchive
from stream.batch.releasing import pending
from stream.local.process import wait_until
from stream.messages import Release
from tests.support.oracles import examine
from tests.support.twins import STEPS
from tests.support.world import World, card_stream

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(300)]

FILE = Path(__file__).parents[1] / "support" / "retrained.py"
EVENTS = 4_000


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A champion, and examples that it has learned."""
    made = make_world(file=FILE)
    made.start("learn")
    made.start("score", pace_s=0.0005, batch_records_max="100")
    made.produce(card_stream(EVENTS))
    made.wait_settled()
    return made


def side_by_side(world: World, directory: Path, runs: list[str]) -> list[dict[str, Any]]:
    """What each process answered, step by step."""
    logs = [directory / f"log-{me}" for me in range(len(runs))]
    processes = []
    for me, (run, log) in enumerate(zip(runs, logs, strict=True)):
        arguments = [str(FILE), run, str(me), str(directory), str(len(runs))]
        with log.open("wb") as errors:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.support.twins", *arguments], env=world.environment, stderr=errors
                )
            )
    try:
        wait_until(
            lambda: all(p.poll() is not None for p in processes) or any(p.poll() for p in processes), 200, "both"
        )
        for process, log in zip(processes, logs, strict=True):
            assert not process.poll(), log.read_text()[-3_000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [json.loads((directory / f"answers-{me}.json").read_text()) for me in range(len(runs))]


def releases(world: World) -> list[Release]:
    values = dict.fromkeys(record.value or b"" for record in world.read("releases")[0])
    return [msgspec.json.decode(value, type=Release) for value in values]


def overlapped(answers: list[dict[str, Any]]) -> list[str]:
    """Steps that were really done at the same time."""
    return [
        step
        for step in STEPS
        if max(answer[f"{step}.time"][0] for answer in answers) < min(answer[f"{step}.time"][1] for answer in answers)
    ]


def archived_once(world: World) -> None:
    archive = ExampleArchive(world.settings.archive_url, world.name)
    kept = [(record.offset, record.value) for record in archive.records(0, 0, archive.end(0))]
    assert kept == [(record.offset, record.value) for record in world.read("examples")[0]]


def test_each_task_of_a_run_twice_at_once_is_as_once(world: World, tmp_path: Path):
    answers = side_by_side(world, tmp_path, ["run-1", "run-1"])
    assert set(overlapped(answers)) >= {"archive_examples", "fit", "compare", "release"}
    one, other = ({step: answer[step] for step in STEPS[1:]} for answer in answers)
    one["run_trials"] = other["run_trials"] = None  # they share the trials
    for answer in (one, other):
        answer["compare"] = {key: value for key, value in answer["compare"].items() if key != "figures"}  # with timings
    assert one == other
    assert one["release"]["released"]
    world.wait(lambda: len(releases(world)) == 2 and not pending(world.settings, world.name), "the release")
    assert [(r.action, r.base) for r in releases(world)][1:] == [("released", one["fit"]["base"])]
    archived_once(world)
    examine(world)
    world.stop_workers()


def test_of_two_retrainings_at_once_one_is_released(world: World, tmp_path: Path):
    answers = side_by_side(world, tmp_path, ["run-1", "run-2"])
    assert set(overlapped(answers)) >= {"archive_examples", "run_trials", "fit", "compare", "release"}
    assert all(answer["release"]["released"] for answer in answers)  # that is: asked for
    world.wait(lambda: len(releases(world)) == 3 and not pending(world.settings, world.name), "both answers")
    found = releases(world)
    assert [r.action for r in found] == ["started", "released", "rejected"]
    assert {r.decided_by for r in found[1:]} == {"run:run-1", "run:run-2"}
    assert found[1].parent == found[0].base
    assert found[2].reason.startswith("release refused: ")
    archived_once(world)
    examine(world)
    world.stop_workers()
