"""The same exchanges with Label Studio itself, where its command is on the PATH. It says whether our server in
`tests/support/label_studio.py` is like it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from stream.adapters.file_pipelines import load_pipeline
from stream.adapters.label_studio_client import LabelStudioClient
from stream.batch.label_studio import Exchanged, exchange, exchange_label_studio
from stream.core.studio_tasks import label_config, read_task, task_of
from stream.errors import DriftloopError
from stream.lifecycle import Labelling
from stream.local.process import wait_until
from stream.local.servers import free_port
from stream.messages import LabelRequest
from tests.support.asking import ask_about, labels
from tests.support.label_studio import LEGACY
from tests.support.world import PIPELINE_FILE, World

COMMAND = shutil.which("label-studio")
START_S = 600.0  # it makes its database: a hundred migrations
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.skipif(COMMAND is None, reason="label-studio is not on the PATH"),
]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address; LEGACY is a token."""
    assert COMMAND is not None
    folder, port = tmp_path_factory.mktemp("label-studio"), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        COMMAND, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port), "--data-dir", str(folder),
        "--username", "ann@example.org", "--password", "a-password-of-a-test", "--user-token", LEGACY,
        "--enable-legacy-api-token",
    ]  # fmt: skip
    environment = {
        **os.environ, "COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false", "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
    }  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    client = LabelStudioClient(url, LEGACY)

    def ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-2_000:]
        try:
            return client.find_project("none") is None
        except DriftloopError:
            return False

    try:
        wait_until(ready, START_S, "Label Studio to answer", 1.0)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def test_requests_answers_changes_and_deletions(world: World, studio: str):
    client = LabelStudioClient(studio, LEGACY)
    found = load_pipeline(PIPELINE_FILE)
    one = found._replace(pipeline=replace(world.pipeline, labelling=Labelling()))

    def trade() -> Exchanged:
        return exchange(world.settings, one, client)

    def say(task: dict[str, Any], *choices: tuple[str, str], skip: bool = False) -> int:
        result = [
            {"from_name": name, "to_name": "about", "type": "choices", "value": {"choices": [choice]}}
            for name, choice in choices
        ]
        body = {"result": result, "was_cancelled": skip}
        return int(client._call("POST", f"/api/tasks/{task['id']}/annotations/", body)["id"])

    ask_about(world, range(5))
    assert trade() == Exchanged(asked=5)
    assert trade() == Exchanged()
    (project,) = client._call("GET", "/api/projects/")["results"]
    there = {
        task["data"]["request"].partition("/")[2]: task
        for task in client.tasks(project["id"], [("total_annotations", "equal", "Number", 0)])
    }
    assert there["e1"]["predictions"][0]["score"] == 0.6
    assert there["e1"]["data"]["uncertainty"] == 0.4
    annotation = say(there["e0"], ("label", "false"))
    say(there["e1"], ("cannot_tell", "cannot tell"))
    say(there["e2"], skip=True)
    client.delete_task(there["e3"]["id"])
    assert trade() == Exchanged(asked=1, labels=1, declined=1)
    assert [(label["event_id"], label["label"], label["source"]) for label in labels(world)] == [
        ("e0", False, "person:ann@example.org")
    ]
    assert trade() == Exchanged()
    result = [{"from_name": "label", "to_name": "about", "type": "choices", "value": {"choices": ["true"]}}]
    client._call("PATCH", f"/api/annotations/{annotation}/", {"result": result})
    assert trade() == Exchanged(labels=1)
    assert trade() == Exchanged()
    assert [label["label"] for label in labels(world)] == [False, True]

    personal = client._call("POST", "/api/token/", {})["token"]
    ask_about(world, [5])
    done = exchange_label_studio(world.settings, one, url=studio, token=personal)
    assert done["asked"] == 1


@pytest.mark.parametrize(
    ("task", "options", "prediction", "value"),
    [
        ("regression", [], 3.25, {"number": 2.5}),
        ("multiclass", [], "a<b", {"text": ["2.5"]}),
        ("multiclass", ['a<b&"c"', "2.5"], "2.5", {"choices": ["2.5"]}),
    ],
)
def test_every_kind_of_form_is_taken(
    studio: str, task: str, options: list[str], prediction: Any, value: dict[str, Any]
):
    client = LabelStudioClient(studio, LEGACY)
    fields = {"title": "driftloop: forms", "description": "", "label_config": label_config(task, options)}
    project = client.create_project({**fields, "maximum_annotations": 2})
    request = LabelRequest(
        event_id="e", features={"a": 1.0, "b": None}, prediction=prediction, uncertainty=0.1, reason="", expires_at_ms=1
    )
    client.import_tasks(project, [task_of("x", task, options, "0/e", b"\xff", request, "what?", "one\ntwo")])
    (there,) = client.tasks(project, [("total_annotations", "equal", "Number", 0)])
    assert len(there["predictions"]) == 1
    client.show_to(there["id"], 3)
    kind = {"number": "number", "text": "textarea", "choices": "choices"}[next(iter(value))]
    result = [{"from_name": "label", "to_name": "about", "type": kind, "value": value}]
    client._call("POST", f"/api/tasks/{there['id']}/annotations/", {"result": result})
    (answered,) = client.tasks(project, [("total_annotations", "greater", "Number", 0)])
    read = read_task(answered)
    assert read is not None
    assert read.overlap == 3
    assert read.key == b"\xff"
    assert [(one.kind, one.text) for one in read.responses] == [("label", "2.5")]
