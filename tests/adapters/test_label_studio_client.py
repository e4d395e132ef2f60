"""Calls of Label Studio that go wrong: which may be tried again, and which somebody must look at."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from stream.adapters.label_studio_client import LabelStudioClient
from stream.core.studio_tasks import label_config
from stream.errors import ConfigurationError, Unavailable
from tests.support.label_studio import LEGACY, PERSONAL, StudioServer, studio_server


@pytest.fixture
def studio() -> Iterator[StudioServer]:
    with studio_server() as server:
        yield server


def test_an_access_token_that_has_expired_is_fetched_anew_once(studio: StudioServer):
    studio.access_uses = 1
    client = LabelStudioClient(studio.url, PERSONAL)
    for _ in range(3):
        assert client.find_project("x") is None
    assert studio.calls.count("POST /api/token/refresh/") == 3
    studio.access_uses = 0  # none is ever good
    with pytest.raises(ConfigurationError, match="Label Studio's token = 'GET /api/projects/: 401"):
        client.find_project("x")
    with pytest.raises(ConfigurationError, match="POST /api/token/refresh/: 401"):
        LabelStudioClient(studio.url, "a.b.c").find_project("x")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_for_later(studio: StudioServer, status: int):
    studio.broken = lambda moment, _: status if moment == "before" else None
    with pytest.raises(Unavailable, match=f"GET /api/projects/: {status}"):
        LabelStudioClient(studio.url, LEGACY).find_project("x")
    assert Unavailable.retriable


def test_silence_and_absence_are_for_later_and_bounded_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unavailable, match="timed out"):
            LabelStudioClient(url, LEGACY, timeout_s=0.2).find_project("x")
    with pytest.raises(Unavailable, match="refused"):
        LabelStudioClient(url, LEGACY).find_project("x")


def test_what_is_refused_says_what_the_server_said(studio: StudioServer):
    client = LabelStudioClient(studio.url, LEGACY)
    with pytest.raises(ConfigurationError, match="unknown fields"):
        client.create_project({"colour": "red"})
    with pytest.raises(ConfigurationError, match="no such filter"):
        project = client.create_project({"title": "one", "label_config": label_config("binary", ["true", "false"])})
        client.import_tasks(project, [{"data": {"question": "", "about": "", "features": {}}}])
        list(client.tasks(project, [("colour", "equal", "Number", 0)]))


def test_pages_are_read_to_the_end(studio: StudioServer):
    client = LabelStudioClient(studio.url, LEGACY)
    for number in range(103):
        project = client.create_project(
            {"title": "one", "description": f"mark {number}.", "label_config": label_config("x", [])}
        )
    assert client.find_project("mark 102.") == project
    client.import_tasks(project, [{"data": {"question": "", "about": "", "features": {}}} for _ in range(205)])
    assert len(list(client.tasks(project, [("total_annotations", "equal", "Number", 0)]))) == 205


def test_the_token_follows_no_redirect(studio: StudioServer):
    with studio_server() as elsewhere:
        studio.broken = lambda moment, _: 302 if moment == "before" else None
        studio.location = f"{elsewhere.url}/api/projects/"
        with pytest.raises(ConfigurationError, match=f"it leads to {elsewhere.url}"):
            LabelStudioClient(studio.url, LEGACY).find_project("x")
        assert elsewhere.calls + elsewhere.refused == []


@pytest.mark.parametrize(
    ("url", "token"), [("file:///etc/passwd", "t"), ("labels.example.org", "t"), ("http://u@x", "t"), ("http://x", " ")]
)
def test_an_address_or_token_that_cannot_be_is_refused(url: str, token: str):
    with pytest.raises(ConfigurationError, match="Label Studio's"):
        LabelStudioClient(url, token)
