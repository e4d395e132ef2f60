"""Names, rights and connections in docs/deploying.md are those that the code makes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stream.adapters.airflow_connections import WATCHED, kafka_connection
from stream.airflow.connections import connections
from stream.settings import Settings, load_settings
from tests.e2e.test_secured import KAFKA_RIGHTS, NAME, REDIS_RIGHTS, WATCHER_GROUPS

TEXT = (Path(__file__).parents[2] / "docs" / "deploying.md").read_text()
PIPELINE = "payments"  # the document's


@pytest.fixture
def documented(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the document's own lines set."""
    lines = re.findall(r"^    (DRIFTLOOP_(?:BROKERS|KAFKA)\w*)=(\S+)", TEXT, re.MULTILINE)
    assert len(lines) == 6
    for name, value in lines:
        monkeypatch.setenv(name, value)
    return load_settings()


def granted(text: str) -> set[tuple[str, str, str]]:
    """Of the tables of rights: kind, name, operation."""
    rows = re.findall(r"^\| (topic|group)s? `([\w.-]+)`[^|]*\| ([\w, ]+) \|$", text, re.MULTILINE)
    return {(kind, name, operation) for kind, name, operations in rows for operation in operations.split(", ")}


def test_rights_on_kafka_are_those_that_a_secured_one_is_tried_with():
    tried = {(kind.name.lower(), name, operation.name) for kind, name, operation in KAFKA_RIGHTS}
    tried |= {("group", name, "READ") for name in WATCHER_GROUPS}
    wanted = {(kind, name.replace(NAME, PIPELINE), operation.replace("_", "")) for kind, name, operation in tried}
    assert {(kind, name, operation.upper()) for kind, name, operation in granted(TEXT)} == wanted


def test_rights_on_redis_are_those_that_a_secured_one_is_tried_with():
    assert REDIS_RIGHTS.replace(NAME, PIPELINE) in TEXT


def test_groups_and_variables_of_airflows_watchers(documented: Settings):
    made = connections(documented, PIPELINE)
    groups = {json.loads(value)["extra"]["group.id"] for value in made.values()}
    assert groups == {name for kind, name, _ in granted(TEXT) if kind == "group" and name.startswith("driftloop-")}
    named = re.findall(r"^    (AIRFLOW_CONN_\w+)=", TEXT, re.MULTILINE)
    assert named == list(made)
    for topic in WATCHED:
        assert f"`{kafka_connection({}, '<name>', topic)[0].replace('_NAME_', '<NAME>')}`" in TEXT


def test_the_connection_that_is_shown_is_the_one_of_the_settings_that_are_shown(documented: Settings):
    shown = re.search(r"AIRFLOW_CONN_DRIFTLOOP_KAFKA_PAYMENTS='(\{.*?\})'$", TEXT, re.DOTALL | re.MULTILINE)
    assert shown is not None
    _, value = kafka_connection(documented.kafka(), PIPELINE)
    assert json.loads(shown[1]) == json.loads(value)


def test_the_command_prints_them(documented: Settings):
    command = re.search(r"python -m stream\.airflow\.connections payments", TEXT)
    assert command is not None
    run = [sys.executable, *command[0].split()[1:]]
    answer = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True, env=dict(os.environ))
    lines = [f"{name}={value}" for name, value in connections(documented, PIPELINE).items()]
    assert answer.stdout.splitlines() == lines
    wrong = subprocess.run(run[:-1], capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "usage:" in wrong.stderr
