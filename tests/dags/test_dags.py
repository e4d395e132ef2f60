"""The DAG files: thin, light to parse, and all there in a real DagBag."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DAG_FILES = sorted((ROOT / "dags").glob("*.py"))
PYTHON = ROOT / ".venv-airflow" / "bin" / "python"
LIGHT = {"datetime", "airflow", "stream"}
HEAVY = {"river", "numpy", "optuna", "polars", "lightgbm", "deltalake", "faust", "stream.core", "stream.batch"}

LOAD = """
import json, sys, time
started = time.perf_counter()
from airflow.dag_processing.dagbag import DagBag
imported = time.perf_counter()
bag = DagBag(sys.argv[1])
print(json.dumps({
    "dags": {name: sorted(dag.task_ids) for name, dag in bag.dags.items()},
    "errors": bag.import_errors,
    "parse_s": time.perf_counter() - imported,
    "modules": sorted(sys.modules),
    "active": {name: dag.max_active_runs for name, dag in bag.dags.items()},
    "retries": {f"{name}.{t.task_id}": t.retries for name, dag in bag.dags.items() for t in dag.tasks},
}))
"""
PIPELINE = """
from river import linear_model
from stream import Labelling, Pipeline, Retrain
pipeline = Pipeline(
    name="{name}", task="binary", features={{"amount": float}}, model=lambda params: linear_model.LogisticRegression(),
    retrain=Retrain({retrain}), labelling={labelling},
)
"""


@pytest.mark.parametrize("file", DAG_FILES, ids=lambda file: file.stem)
def test_a_dag_file_is_thin_and_imports_nothing_heavy(file: Path):
    text = file.read_text()
    assert len(text.splitlines()) <= 60
    for node in ast.parse(text).body:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            assert name.partition(".")[0] in LIGHT, name
            assert not any(name == heavy or name.startswith(f"{heavy}.") for heavy in HEAVY), name


TRACK = """
from types import SimpleNamespace
from stream.adapters.pipeline_manifest import Listed
from stream.airflow.retraining import track_failure
listed = Listed(file={file!r}, name="cards", on_drift=True, schedule=None, workers=1, approval=False, approval_timeout_s=1,
                labelling=False, label_options=[], label_within_s=1)
task = SimpleNamespace(dag_id="retrain", run_id="r1", task_id="fit")
track_failure(listed)(dict(exception=ValueError("out of luck"), ti=task))
print("{{}}")
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of Airflow, with three pipelines."""
    folder = tmp_path_factory.mktemp("pipelines")
    retrains = {"cards": "schedule='0 3 * * *', automation='approval'", "loans": "", "quiet": "on_drift=False"}
    asks = {"quiet": "Labelling()"}
    for name, retrain in retrains.items():
        (folder / f"{name}.py").write_text(PIPELINE.format(name=name, retrain=retrain, labelling=asks.get(name)))
    (folder / "generator.py").write_text("raise RuntimeError('not a pipeline file')\n")
    return {
        "AIRFLOW_HOME": str(folder / "home"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "DRIFTLOOP_PIPELINES": str(folder),
        "DRIFTLOOP_PIPELINES_CACHE": str(folder / "cache"),
        "PATH": "/usr/bin:/bin",
    }


def said(code: str, environment: dict[str, str]) -> dict[str, Any]:
    """The JSON that a program prints last, run where Airflow is installed."""
    answer = subprocess.run(
        [str(PYTHON), "-c", code, str(ROOT / "dags")],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-2000:]
    return dict(json.loads(answer.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def parsed(environment: dict[str, str]) -> dict[str, Any]:
    """What Airflow makes of the files; the second time, as the dag-processor does."""
    said(LOAD, environment)
    return said(LOAD, environment)


pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.mark.airflow
def test_every_pipeline_has_its_dags(parsed: dict[str, Any]):
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) == {
        "archive_examples__cards", "archive_examples__loans", "archive_examples__quiet",
        "retrain_on_drift__cards", "retrain_on_drift__loans", "retrain_scheduled__cards",
        "label_requests__quiet",
    }  # fmt: skip
    assert parsed["active"].pop("label_requests__quiet") > 1  # a run lasts as long as its forms wait
    assert set(parsed["active"].values()) == {1}
    assert set(parsed["dags"]["label_requests__quiet"]) == {"take_requests", "person.ask", "person.put_answer"}
    assert min(parsed["retries"].values()) >= 3


@pytest.mark.airflow
def test_a_person_is_asked_where_the_pipeline_wants_it(parsed: dict[str, Any]):
    steps = {
        "take_up", "archive_examples", "choose_window", "plan_trials", "run_trials", "fit", "compare", "release"
    }  # fmt: skip
    assert set(parsed["dags"]["retrain_on_drift__loans"]) == steps
    for cause in ("on_drift", "scheduled"):
        assert set(parsed["dags"][f"retrain_{cause}__cards"]) == {*steps, "approve"}


def test_a_failure_is_tracked_though_the_pipeline_file_does_not_load(environment: dict[str, str], tmp_path: Path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('half written')")
    settings = {
        "DRIFTLOOP_MLFLOW_TRACKING_URI": (tmp_path / "mlflow").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "DRIFTLOOP_ARTIFACT_URL": str(tmp_path / "kept"),
    }
    assert said(TRACK.format(file=str(broken)), {**environment, **settings}) == {}
    (note,) = (tmp_path / "kept").glob("**/mlflow.json")
    assert note.parent.name == "retrain.r1"
    noted = json.loads(note.read_text())
    assert noted["logged"], noted
    assert noted["failed"] == "fit: ValueError: out of luck"
    (meta,) = (tmp_path / "mlflow").glob("*/*/meta.yaml")
    assert "status: 4" in meta.read_text()  # FAILED


@pytest.mark.airflow
def test_parsing_is_quick_and_runs_no_pipeline_file(parsed: dict[str, Any]):
    assert not HEAVY & set(parsed["modules"])
    assert parsed["parse_s"] < 5.0  # 0.2 s on an idle machine; a pipeline's imports alone take longer


def test_with_a_connection_to_label_studio_requests_go_there(environment: dict[str, str]):
    there = {**environment, "DRIFTLOOP_LABEL_STUDIO_CONNECTION": "studio"}
    found = said(LOAD, there)
    assert found["errors"] == {}
    assert found["dags"]["label_requests__quiet"] == ["exchange"]
    assert found["active"]["label_requests__quiet"] == 1
    where = "import json; from stream.airflow.labelling import label_studio; print(json.dumps(label_studio()))"
    for connection, url in (
        ({"conn_type": "http", "host": "labels.example.org", "password": "t0k"}, "https://labels.example.org"),
        (
            {"conn_type": "http", "host": "labels", "schema": "http", "port": 8080, "password": "t0k"},
            "http://labels:8080",
        ),
        ({"conn_type": "http", "host": "http://labels/studio", "password": "t0k"}, "http://labels/studio"),
    ):
        assert said(where, {**there, "AIRFLOW_CONN_STUDIO": json.dumps(connection)}) == {"url": url, "token": "t0k"}
    settings = {"DRIFTLOOP_LABEL_STUDIO_URL": "http://labels", "DRIFTLOOP_LABEL_STUDIO_TOKEN": "t"}
    assert said(where, {**environment, **settings}) == {"url": "http://labels", "token": "t"}
