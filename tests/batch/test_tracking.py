"""A retraining run in MLflow: all of it, once, and never in the way of the run.

The client is the one that Airflow's environment has. It writes to a real tracking server where `.venv-mlflow` is
(`make install-mlflow`, 600 MB, not part of `make test`), and always to a store in files.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import msgspec
import pytest
import redis
import yaml
from pydantic import SecretStr

from stream.adapters import mlflow_runs
from stream.adapters.delta_archive import ExampleArchive
from stream.batch import retraining as steps
from stream.batch.plans import Run
from stream.batch.tracking import track
from stream.core.lean_pickle import dump_model, load_model
from stream.core.model_bases import ModelBase, seal_base
from stream.core.slots import Roster
from stream.errors import Unavailable
from stream.local.process import wait_until
from stream.local.servers import RedisServer, free_port
from stream.settings import Settings
from tests.support.retraining import Retraining, examples

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / ".venv-airflow" / "bin" / "python"
SERVER = ROOT / ".venv-mlflow" / "bin" / "mlflow"
LOOK = """
import json, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
experiment = client.get_experiment_by_name(sys.argv[2])
runs = client.search_runs([experiment.experiment_id], max_results=1000) if experiment else []
def files(run, path=None):
    for one in client.list_artifacts(run.info.run_id, path):
        yield from files(run, one.path) if one.is_dir else [one.path]
def steps(run):
    return {name: len(client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics}
print(json.dumps([{"id": r.info.run_id, "status": r.info.status, "tags": r.data.tags, "params": r.data.params,
                   "metrics": r.data.metrics, "steps": steps(r), "files": sorted(files(r))} for r in runs]))
"""


@pytest.fixture(autouse=True)
def client() -> None:
    if not CLIENT.exists():
        pytest.skip(f"{CLIENT.relative_to(ROOT)} is missing: MLflow's client is not tried (make install-airflow)")


@pytest.fixture(params=["files", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a real tracking store."""
    if request.param == "files":
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        yield (tmp_path / "mlflow").as_uri()
        return
    if not SERVER.exists():
        pytest.skip(f"{SERVER.relative_to(ROOT)} is missing: no server has been asked (make install-mlflow)")
    port, home = free_port(), tmp_path / "server"
    home.mkdir()
    url = f"http://127.0.0.1:{port}"
    # As compose.yaml starts it, elsewhere.
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["mlflow"]
    here = {"0.0.0.0": "127.0.0.1", "5000": str(port), "sqlite:////data/mlflow.db": f"sqlite:///{home}/mlflow.db",
            "/data/artifacts": str(home / "artifacts")}  # fmt: skip
    hosts = f"mlflow:5000,127.0.0.1:{port}"
    command = [str(SERVER), *(here.get(part, hosts if "mlflow:5000" in part else part) for part in compose["command"])]
    environment = {**os.environ, **compose["environment"]}
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=home, stdout=log, stderr=log, env=environment, start_new_session=True)

    def healthy() -> bool:
        assert server.poll() is None, (home / "log").read_text()[-2_000:]
        try:
            return bool(urlopen(f"{url}/health", timeout=2).status == 200)
        except OSError:
            return False

    try:
        wait_until(healthy, 180.0, "MLflow to answer")
        asked = Request(f"{url}/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": "mlflow:5000"})
        assert urlopen(asked, timeout=30).status == 200  # the name that Airflow calls it by is allowed
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # it has children, and a session of its own
        server.wait(30)


@pytest.fixture
def done(retraining: Retraining, search_redis: RedisServer, tmp_path: Path) -> Retraining:
    """A run up to its verdict, not tracked yet: archived examples, a live champion, a search, a fit and a comparison."""
    loaded = retraining.load(retrain='{"trials": 7}')
    retraining.settings = settings = retraining.settings.model_copy(update={"archive_url": str(tmp_path / "archive")})
    rng = random.Random(1)
    rows = [{"a": rng.gauss(0, 1), "b": rng.gauss(0, 1)} for _ in range(700)]
    table = [(x, (x["a"] - x["b"] + rng.gauss(0, 0.5) > 0.8) != (i > 200)) for i, x in enumerate(rows)]
    ExampleArchive(settings.archive_url, retraining.name).append(0, examples(table, 30))

    its = Run(settings, loaded, "run-1")
    model = load_model(dump_model(loaded.pipeline.build()), extra_allowed=loaded.allowed)
    base = ModelBase(pipeline=retraining.name, shard=0, offset=0, model=model)
    its.files.put_base(seal_base(base, configuration=its.configuration, key=its.keys[0]), base.name)
    with redis.Redis.from_url(search_redis.url) as live:
        live.hset(
            f"{{{retraining.name}:model:0}}:live", "roster", msgspec.json.encode(Roster(champion=f"{base.name}@700"))
        )

    taken = {"why": "drift", "from_offset": 0, "drift": {"drift_id": "searched-0-17"}, "stage": 0}
    window = steps.choose_window(settings, loaded, run_id="run-1", taken=taken)
    for part in steps.plan_trials(settings, loaded, run_id="run-1", window=window):
        steps.run_trials(settings, loaded, run_id="run-1", part=part["part"])
    steps.fit(settings, loaded, run_id="run-1")
    steps.compare(settings, loaded, run_id="run-1")
    return retraining


def tracked(its: Retraining, uri: str, **changes: Any) -> dict[str, Any]:
    """Asked of the client of Airflow's environment."""
    settings: Settings = its.settings.model_copy(update={"mlflow_tracking_uri": uri, **changes})
    answer = track(settings, its.loaded, "run-1", ended=True, python=str(CLIENT))
    assert answer is not None
    assert answer == Run(settings, its.loaded, "run-1").find("mlflow.json")
    return answer


def look(uri: str, experiment: str) -> list[dict[str, Any]]:
    out = subprocess.run(
        [str(CLIENT), "-W", "ignore", "-c", LOOK, uri, experiment], capture_output=True, check=True, timeout=100
    )
    return list(msgspec.json.decode(out.stdout))


def test_a_run_is_logged_once_with_all_that_it_left(done: Retraining, store: str):
    answer = tracked(done, store)
    assert (answer["logged"], answer["trials"]) == (True, 7), answer["why"]
    runs = look(store, f"driftloop.{done.name}")
    (parent,) = [run for run in runs if "driftloop.trial" not in run["tags"]]
    children = [run for run in runs if "driftloop.trial" in run["tags"]]
    its = Run(done.settings, done.loaded, "run-1")
    fit, verdict, trials = (its.find(f"{name}.json") for name in ("fit", "verdict", "trials"))

    assert parent["status"] == "FINISHED"
    tags = {name.removeprefix("driftloop."): value for name, value in parent["tags"].items()}
    assert (tags["run"], tags["pipeline"], tags["cause"], tags["drift_id"]) == (
        "run-1", done.name, "drift", "searched-0-17"
    )  # fmt: skip
    assert (tags["base"], tags["verdict"]) == (fit["base"], verdict["why"])
    assert parent["metrics"]["verdict.candidate"] == pytest.approx(verdict["figures"]["candidate"])
    assert parent["params"]["window.to_offset"] == str(its.plan().window.to_offset)
    wanted = {f"base/{fit['base']}.model", "plots/history.svg", "trials.csv", "verdict.json"}
    assert wanted <= set(parent["files"])

    assert sorted(int(run["tags"]["driftloop.trial"]) for run in children) == [row["trial"] for row in trials]
    for child in children:
        row = trials[int(child["tags"]["driftloop.trial"])]
        assert child["tags"]["mlflow.parentRunId"] == parent["id"]
        assert child["params"].keys() == {name for name, value in row["params"].items() if value is not None}
        if row["reports"]:
            assert child["steps"]["average_precision"] == len([1 for _, value in row["reports"] if value is not None])

    again = tracked(done, store)  # a task that was tried again
    assert (again["run_id"], again["trials"]) == (answer["run_id"], 0)
    assert sorted(look(store, f"driftloop.{done.name}"), key=lambda run: run["id"]) == sorted(
        runs, key=lambda run: run["id"]
    )


def test_a_run_that_fails_says_why_and_is_the_same_one_when_it_is_tried_again(
    done: Retraining, store: str, monkeypatch: pytest.MonkeyPatch
):
    settings = done.settings.model_copy(update={"mlflow_tracking_uri": store})
    monkeypatch.setattr("stream.batch.tracking.sys.executable", str(CLIENT))
    monkeypatch.setattr("stream.batch.tracking.find_spec", lambda _: True)

    def parents() -> list[tuple[str, str, str | None]]:
        runs = look(store, f"driftloop.{done.name}")
        return [
            (run["id"], run["status"], run["tags"].get("driftloop.failure"))
            for run in runs if "driftloop.trial" not in run["tags"]
        ]  # fmt: skip

    track(settings, done.loaded, "run-1", ended=False, python=str(CLIENT))  # the verdict is in, the release is to come
    ((run, status, why),) = parents()
    assert (status, why) == ("RUNNING", None)
    steps.fail(settings, done.loaded, run_id="run-1", at="release", why="Unavailable: Redis is gone")
    assert parents() == [(run, "FAILED", "release: Unavailable: Redis is gone")]
    steps.fail(settings, done.loaded, run_id="run-1", at="release", why="Unavailable: still")
    assert parents() == [(run, "FAILED", "release: Unavailable: still")]
    track(settings, done.loaded, "run-1", ended=False)  # compare, cleared by somebody
    assert parents() == [(run, "RUNNING", None)]
    track(settings, done.loaded, "run-1", ended=True)
    assert parents() == [(run, "FINISHED", None)]


def test_a_retraining_that_fails_in_its_search_or_before_is_logged(
    done: Retraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlflow").as_uri()
    monkeypatch.setattr("stream.batch.tracking.sys.executable", str(CLIENT))
    monkeypatch.setattr("stream.batch.tracking.find_spec", lambda _: True)
    settings = done.settings.model_copy(update={"mlflow_tracking_uri": uri, "brokers": f"127.0.0.1:{free_port()}"})
    with pytest.raises(Unavailable):  # no Kafka: there is nothing to archive
        steps.retrain(settings, done.loaded, run_id="early")

    monkeypatch.setattr(steps, "archive_examples", lambda *_: {})  # they are there
    nowhere = settings.model_copy(update={"redis_url": SecretStr(f"redis://127.0.0.1:{free_port()}")})
    with pytest.raises(Exception, match=r"(?i)redis"):
        steps.retrain(nowhere, done.loaded, run_id="unsure")

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(steps.fitting, "fit", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        steps.retrain(settings, done.loaded, run_id="late")
    runs = [run for run in look(uri, f"driftloop.{done.name}") if "driftloop.trial" not in run["tags"]]
    found = {run["tags"]["driftloop.run"]: run for run in runs}
    assert len(runs) == 3 and {run["status"] for run in runs} == {"FAILED"}
    assert found["early"]["tags"]["driftloop.failure"].startswith("archiving examples: Unavailable: ")
    assert found["unsure"]["tags"]["driftloop.failure"].startswith("choosing the window: ")
    assert found["late"]["tags"]["driftloop.failure"] == "fitting: RuntimeError: out of memory"
    assert "window.to_offset" in found["late"]["params"]  # what it had come to


@pytest.fixture
def filed(done: Retraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Tracked by a store in files, with the client of Airflow's environment."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr("stream.batch.tracking.sys.executable", str(CLIENT))
    monkeypatch.setattr("stream.batch.tracking.find_spec", lambda _: True)
    return done.settings.model_copy(update={"mlflow_tracking_uri": (tmp_path / "mlflow").as_uri()})


def the_run(its: Retraining, settings: Settings, name: str) -> dict[str, Any]:
    runs = look(str(settings.mlflow_tracking_uri), f"driftloop.{its.name}")
    (found,) = [r for r in runs if r["tags"]["driftloop.run"] == name and "driftloop.trial" not in r["tags"]]
    return found


def test_a_failure_is_noted_first_and_without_the_base(done: Retraining, filed: Settings):
    steps.fail(filed, done.loaded, run_id="run-1", at="release", why="x")
    failed = the_run(done, filed, "run-1")
    assert (failed["status"], failed["tags"]["driftloop.failure"]) == ("FAILED", "release: x")
    assert "trials.csv" in failed["files"] and not any(file.startswith("base/") for file in failed["files"])
    cut_off = {
        "uri": filed.mlflow_tracking_uri, "experiment": f"driftloop.{done.name}", "run": "cut-off", "params": {},
        "tags": {"driftloop.pipeline": done.name}, "metrics": {}, "figure": None, "trials": [], "ended": True, "failed": "x",
        "artifacts": [["/nowhere/plot.svg", ""]],
    }  # fmt: skip
    answer = subprocess.run(
        [str(CLIENT), "-P", mlflow_runs.__file__], input=msgspec.json.encode(cut_off), capture_output=True, check=False
    )
    assert answer.returncode != 0  # there is no such file
    assert the_run(done, filed, "cut-off")["status"] == "FAILED"


def test_a_failure_is_noted_by_the_pipelines_name_where_its_file_does_not_load(done: Retraining, filed: Settings):
    steps.fail(filed, done.name, run_id="run-1", at="fit", why="ConfigurationError: it does not run")
    failed = the_run(done, filed, "run-1")
    assert (failed["status"], failed["tags"]["driftloop.failure"]) == (
        "FAILED", "fit: ConfigurationError: it does not run"
    )  # fmt: skip
    assert "window.to_offset" in failed["params"]
    assert Run(filed, done.loaded, "run-1").find("mlflow.json")["failed"] == failed["tags"]["driftloop.failure"]


def test_a_run_that_failed_and_ends_early_at_its_second_try_is_not_failed_any_more(
    done: Retraining, filed: Settings, monkeypatch: pytest.MonkeyPatch
):
    nothing = {"go": False, "why": "nothing_new"}
    monkeypatch.setattr(steps.taking_up, "take_up", lambda *_: nothing)
    assert steps.take_up(filed, done.loaded, run_id="never-failed") == nothing
    assert Run(filed, done.loaded, "never-failed").find("mlflow.json") is None  # nothing to tell of it
    for run_id, end, why in (
        ("early-1", lambda run: steps.take_up(filed, done.loaded, run_id=run), "nothing_new"),
        (
            "early-2",
            lambda run: steps.choose_window(filed, done.loaded, run_id=run, taken={"from_offset": 690}),
            "retrain.labels_min",
        ),
    ):
        steps.fail(filed, done.loaded, run_id=run_id, at="archive_examples", why="x")
        assert the_run(done, filed, run_id)["status"] == "FAILED"
        assert not end(run_id)["go"]
        again = the_run(done, filed, run_id)
        assert again["status"] == "FINISHED"
        assert "driftloop.failure" not in again["tags"]
        assert why in again["tags"]["mlflow.note.content"]
    assert Run(filed, done.loaded, "early-2").find("no_window.json")["go"] is False


def test_two_that_note_a_run_at_once_open_one(done: Retraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tasks that fail together. They have no metrics: of those, a store in files shows others what is half written."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlflow").as_uri()
    settings = done.settings.model_copy(update={"mlflow_tracking_uri": uri})
    track(settings, done.loaded, "run-0", ended=True, failed="x", python=str(CLIENT))  # the experiment is there

    def note(_: int) -> dict[str, Any]:
        answer = track(settings, done.loaded, "run-2", ended=True, failed="plan_trials: x", python=str(CLIENT))
        assert answer is not None and answer["logged"], answer
        return answer

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(note, range(4)))
    runs = [run for run in look(uri, f"driftloop.{done.name}") if run["tags"]["driftloop.run"] == "run-2"]
    assert {answer["run_id"] for answer in answers} == {run["id"] for run in runs}
    assert [run["status"] for run in runs] == ["FAILED"]


def test_a_server_that_never_answers_costs_a_bounded_time(done: Retraining):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began_s = time.monotonic()
        answer = tracked(done, f"http://127.0.0.1:{silent.getsockname()[1]}", mlflow_timeout_s=3.0)
    assert answer == {"logged": False, "why": "MLflow took longer than 3 s (DRIFTLOOP_MLFLOW_TIMEOUT_S)"}
    assert time.monotonic() - began_s < 20.0


def test_a_server_that_is_down_is_noted_and_the_step_goes_on(
    done: Retraining, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    settings = done.settings.model_copy(update={"mlflow_tracking_uri": f"http://127.0.0.1:{free_port()}"})
    monkeypatch.setattr("stream.batch.tracking.sys.executable", str(CLIENT))
    monkeypatch.setattr("stream.batch.tracking.find_spec", lambda _: True)
    verdict = steps.compare(settings, done.loaded, run_id="run-1")
    assert verdict["figures"]["labels"] > 50
    kept = Run(settings, done.loaded, "run-1").find("mlflow.json")
    assert kept["logged"] is False
    assert "run run-1 is not in MLflow" in caplog.text


def test_without_the_package_it_says_so(done: Retraining):
    settings = done.settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:1"})
    absent: Callable[[str], None] = lambda _: None  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stream.batch.tracking.find_spec", absent)
        answer = track(settings, done.loaded, "run-1", ended=True)
    assert answer == {"logged": False, "why": "mlflow is not installed: pip install 'driftloop[mlflow]'"}


def test_nothing_happens_where_it_is_not_asked_for(done: Retraining):
    assert track(done.settings, done.loaded, "run-1", ended=True) is None
    steps.fail(done.settings, done.loaded, run_id="run-1", at="fit", why="x")
    assert Run(done.settings, done.loaded, "run-1").find("mlflow.json") is None
