"""The DAGs in a real Airflow: drifts wake a run up, alerts go out, no answer is lost, and what is killed goes on."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream.errors import DriftloopError
from stream.lifecycle import SEND
from tests.airflow.conftest import Watched

FAILED = 4  # mlflow.entities.RunStatus, as its files have it

pytestmark = [pytest.mark.integration, pytest.mark.airflow, pytest.mark.timeout(300)]


def wait_taken_up(watched: Watched, drift_id: str) -> str:
    """Until a run has taken the drift up; returns the run's id. The run is then ended: other tests see to its end."""
    watched.wait(lambda: drift_id in watched.outcomes(), f"{drift_id} to have an outcome")
    outcome = watched.outcomes()[drift_id]
    assert outcome.outcome == "retrained"
    assert outcome.run_id is not None
    dag_id, _, run_id = outcome.run_id.partition(".")
    assert dag_id == watched.dag_id

    def taken_up() -> bool:
        return watched.client.tasks(dag_id, run_id).get("take_up") == "success"

    watched.wait(taken_up, "take_up to end")
    if watched.client.run(dag_id, run_id)["state"] not in ("success", "failed"):
        watched.client.end(dag_id, run_id)
    return run_id


def test_a_broken_pipeline_file_is_shown_and_holds_nobody_up(watched: Watched):
    watched.wait(lambda: len(watched.client.import_errors()) > 0, "the import error")
    (error,) = watched.client.import_errors()
    assert error["filename"].endswith("check_pipelines.py")
    assert "divination" in error["stack_trace"]
    dags = set(watched.client.dags())
    assert {"archive_examples__watched", "retrain_on_drift__watched", "retrain_scheduled__watched"} <= dags


def test_a_drift_starts_a_run_by_itself(watched: Watched):
    drift_id = watched.drift()
    run_id = wait_taken_up(watched, drift_id)
    assert run_id.startswith("asset_triggered")
    answer = watched.client.result(watched.dag_id, run_id, "take_up")
    assert answer is True
    watched.wait(lambda: any("retraining" in post["subject"] for post in watched.posts), "the alert")


def test_a_drift_that_comes_while_the_triggerer_is_dead_is_not_lost(watched: Watched):
    watched.server.kill("triggerer")
    drift_id = watched.drift()
    watched.server.restart("triggerer")
    wait_taken_up(watched, drift_id)


def test_a_lost_wake_up_is_found_by_the_next_run(watched: Watched):
    """Whatever starts it: here a person; else the clock."""
    watched.client.pause(watched.dag_id)
    try:
        drift_id = watched.drift()
    finally:
        watched.client.pause(watched.dag_id, False)
    watched.client.trigger(watched.dag_id)
    wait_taken_up(watched, drift_id)


def test_a_failure_is_told_by_mail_webhook_and_slack_once_it_is_final(watched: Watched):
    run_id = watched.client.trigger("failing")
    assert watched.wait_run("failing", run_id) == "failed"
    watched.wait(lambda: any(post["run_id"] == run_id for post in watched.posts), "the post")
    posts = [post for post in watched.posts if post["run_id"] == run_id]
    assert [post["subject"] for post in posts] == ["failing: fail failed"]
    assert "ValueError: out of <luck>" in posts[0]["text"]
    watched.wait(lambda: any("Subject: failing: fail failed" in mail for mail in watched.mails), "the mail")
    (mail,) = [mail for mail in watched.mails if "Subject: failing: fail failed" in mail]
    assert "To: ops@example.org" in mail
    watched.wait(lambda: any("failing: fail failed" in message["text"] for message in watched.slack), "Slack's message")
    (message,) = [message for message in watched.slack if "failing: fail failed" in message["text"]]
    assert message["text"].startswith("*failing: fail failed*\n")
    assert "ValueError: out of &lt;luck&gt;" in message["text"]
    assert run_id in message["text"]


def test_a_run_that_fails_ends_as_failed_in_mlflow_once_it_is_final(watched: Watched):
    watched.wait(lambda: "failing_tracked" in watched.client.dags(), "the DAG to be read")
    run_id = watched.client.trigger("failing_tracked")
    assert watched.wait_run("failing_tracked", run_id) == "failed"
    store = Path(watched.server.environment["DRIFTLOOP_ARTIFACT_URL"] + "-mlflow")

    def found() -> list[dict[str, Any]]:
        metas = [yaml.safe_load(meta.read_text()) for meta in store.glob("[0-9]*/*/meta.yaml")]
        return [meta for meta in metas if meta]  # one that is being written is empty

    watched.wait(lambda: [run["status"] for run in found()] == [FAILED], "the run to be failed in MLflow", 40)
    (run,) = found()
    assert run["run_name"] == f"failing_tracked.{run_id}"
    (failure,) = store.glob(f"*/{run['run_id']}/tags/driftloop.failure")
    assert failure.read_text().startswith("release: ")
    assert "00000000" in failure.read_text()  # why the last attempt failed, not the first one
    watched.wait(lambda: any(post["run_id"] == run_id for post in watched.posts), "the alert, as ever")


def test_an_answer_given_at_once_is_not_lost(watched: Watched):
    """Airflow's own operator fails in most of these: see stream/airflow/asking.py."""
    run_id = watched.client.trigger("asking")
    answered: set[str] = set()

    def all_answered() -> bool:
        for question in watched.client.questions("asking", run_id):
            task_id = question["task_instance"]["task_id"]
            if task_id not in answered:
                option = "Release" if int(task_id[-1]) % 2 else "Reject"
                try:
                    watched.client.answer("asking", run_id, task_id, option)
                except DriftloopError as error:
                    if "409" not in str(error):
                        continue  # it is not waiting yet
                answered.add(task_id)
        return len(answered) == 6

    watched.wait(all_answered, "all questions to be answered")
    watched.wait_run("asking", run_id)
    assert set(watched.client.tasks("asking", run_id).values()) == {"success"}
    results = {n: watched.client.result("asking", run_id, f"decide_{n}") for n in range(6)}
    assert results == {n: "Release" if n % 2 else "Reject" for n in range(6)}


def test_what_is_written_into_a_form_fails_no_run_whatever_it_is(watched: Watched):
    """Airflow's own operator fails for a value that its form did not declare; ours hands it on to the step that knows labels."""
    written: dict[str, dict[str, Any]] = {
        "regression_0": {"label": ["12.5"]},
        "regression_1": {"label": "much", "note": "a field that the form does not have"},
        "regression_2": {"label": "12.5"},
        "regression_3": {"label": 0},  # the form says text
        "multiclass_0": {"label": {"class": "rot"}},
        "multiclass_1": {"label": "rot"},
    }
    watched.wait(lambda: "writing" in watched.client.dags(), "the DAG to be read")
    run_id = watched.client.trigger("writing")
    answered: set[str] = set()

    def all_answered() -> bool:
        for question in watched.client.questions("writing", run_id):
            name = question["task_instance"]["task_id"].removeprefix("ask_")
            if name not in answered:
                try:
                    watched.client.answer("writing", run_id, f"ask_{name}", SEND, written=written[name])
                except DriftloopError as error:
                    if "409" not in str(error):
                        continue  # it is not waiting yet
                answered.add(name)
        return len(answered) == len(written)

    watched.wait(all_answered, "all forms to be answered", 120)
    assert watched.wait_run("writing", run_id, 120) == "success"
    assert set(watched.client.tasks("writing", run_id).values()) == {"success"}
    results = {name: watched.client.result("writing", run_id, f"read_{name}") for name in written}
    refused = {name: results.pop(name) for name in ("regression_0", "regression_1", "multiclass_0")}
    assert results == {"regression_2": 12.5, "regression_3": 0.0, "multiclass_1": "rot"}
    assert all(answer.startswith("refused: label") for answer in refused.values()), refused
    assert "'much'" in refused["regression_1"]


def test_nobodys_answer_is_the_default(watched: Watched):
    run_id = watched.client.trigger("nobody_answers")
    assert watched.wait_run("nobody_answers", run_id) == "success"
    assert watched.client.result("nobody_answers", run_id, "decide") == "Reject"


@pytest.mark.faults
@pytest.mark.parametrize("answer", ["Release", None])
def test_a_dead_triggerer_neither_loses_the_answer_nor_ends_the_run(watched: Watched, answer: str | None):
    """After a crash only it can read an answer; without one the question is still open when its time is over."""
    dag_id = "nobody_answers_nor_triggers"
    watched.server.kill("triggerer")
    try:
        run_id = watched.client.trigger(dag_id)
        watched.wait(lambda: watched.client.tasks(dag_id, run_id).get("ask") == "deferred", "the task to wait")
        if answer is not None:
            watched.client.answer(dag_id, run_id, "ask", answer)
        over = time.monotonic() + 22  # the question stands for 20 s
        states = ("success", "running") if answer else ("running",)  # an answer may wake the task without a triggerer
        watched.wait(
            lambda: watched.client.run(dag_id, run_id)["state"] not in states or time.monotonic() > over, "the end"
        )
        assert watched.client.run(dag_id, run_id)["state"] in states
    finally:
        watched.server.restart("triggerer")
    assert watched.wait_run(dag_id, run_id, timeout_s=150) == "success"
    assert watched.client.result(dag_id, run_id, "decide") == (answer or "Reject")


@pytest.mark.faults
def test_a_scheduler_killed_in_the_middle_of_a_task_is_no_end_of_the_run(watched: Watched):
    run_id = watched.client.trigger("slow")
    watched.wait(lambda: watched.client.tasks("slow", run_id).get("sleep") == "running", "the task to run")
    watched.server.parts["scheduler"].signal(signal.SIGSTOP)
    watched.server.kill("scheduler")
    watched.server.restart("scheduler")
    assert watched.wait_run("slow", run_id, timeout_s=240) == "success"
    assert watched.client.result("slow", run_id, "sleep") == 2
