"""The demo looks at an Airflow on a busy machine, which now and then does not answer."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from stream.cli import loop_story
from stream.cli.loop_story import LoopStory
from stream.errors import Unavailable
from stream.settings import load_settings
from tests.support.records import pipeline_of

DEADLINE_S = 20.0


class Airflow:
    """Answers only after so many calls."""

    def __init__(self, silent: int) -> None:
        self.silent = silent
        self.calls = 0

    def dags(self) -> list[str]:
        self.calls += 1
        if self.calls <= self.silent:
            raise Unavailable("timed out")
        return ["retrain_on_drift__cards"]


def story_of(client: Any, monkeypatch: pytest.MonkeyPatch) -> LoopStory:
    monkeypatch.setattr(loop_story, "LOOK_S", 0.01)
    return LoopStory(load_settings(), pipeline_of(), client)


def test_an_airflow_that_does_not_answer_for_a_while_ends_no_story(monkeypatch: pytest.MonkeyPatch):
    client = Airflow(silent=3)
    story = story_of(client, monkeypatch)
    looked, seen = [], threading.Event()

    def look() -> None:
        looked.append(1)
        if len(looked) in (2, 3):
            raise Unavailable("timed out")
        if len(looked) == 5:
            seen.set()

    monkeypatch.setattr(story, "_look_once", look)
    story.start()
    assert seen.wait(DEADLINE_S)
    story.close()
    assert client.calls == 4
    assert story.failure is None


def test_an_airflow_that_is_gone_ends_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop_story, "UNANSWERED_S", 0.05)
    story = story_of(Airflow(silent=0), monkeypatch)

    def look() -> None:
        raise Unavailable("gone")

    monkeypatch.setattr(story, "_look_once", look)
    story.start()
    story._thread.join(DEADLINE_S)
    assert isinstance(story.failure, Unavailable)
