"""The flow that both retraining DAGs share: from what woke them up to a release. Each task calls one batch step.

take_up -> archive_examples -> choose_window -> plan_trials -> run_trials (spread) -> fit -> compare [-> approve] -> release

A step gets and returns small JSON; models lie in the artifact store under the run's name. Every step may run again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

from airflow.sdk import chain, task
from airflow.sdk.exceptions import AirflowFailException

from stream.adapters.pipeline_manifest import Listed
from stream.airflow.alerts import AlertNotifier, alert_drift, alert_failure, alert_release, alert_verdict
from stream.airflow.asking import AskOperator
from stream.airflow.pipelines import call
from stream.lifecycle import REJECT, RELEASE
from stream.settings import load_settings

__all__ = ["defaults", "retraining_flow", "track_failure"]

DEFAULTS: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=5),
    "execution_timeout": timedelta(minutes=30),
}


def defaults(listed: Listed) -> dict[str, Any]:
    """Of the tasks of a pipeline: a failure that is final is told to people, and ends the run in MLflow where it is tracked."""
    return {**DEFAULTS, "on_failure_callback": [alert_failure, track_failure(listed)]}


def track_failure(listed: Listed) -> Callable[[Any], None]:
    """An `on_failure_callback`. Nothing is imported or written where no tracking URI is set."""

    def track(context: Any) -> None:
        settings = load_settings()
        if not settings.mlflow_tracking_uri:
            return
        error, instance = context.get("exception"), context["ti"]
        if isinstance(error, AirflowFailException) and error.__cause__ is not None:
            error = error.__cause__  # ours, which `call` has wrapped
        why = f"{type(error).__name__}: {error}" if error else "no error was given; see Airflow's log"
        noted = {"run_id": run_name(instance), "at": instance.task_id, "why": why}
        try:
            call("fail", listed.file, **noted)
        except Exception:  # noqa: BLE001 - it does not load: that may be what has failed
            from stream.batch.retraining import fail

            fail(settings, listed.name, **noted)

    return track


def run_name(instance: Any) -> str:
    """Unique among all runs of all DAGs, and a fit name of a folder."""
    return f"{instance.dag_id}.{instance.run_id}"


def decided(step: str, file: str, instance: Any, **arguments: Any) -> bool:
    """Call a step that may end the run: its answer goes to XCom `answer`, its `go` says whether the run goes on."""
    answer = call(step, file, **arguments)
    instance.xcom_push(key="answer", value=answer)
    return bool(answer["go"])


def retraining_flow(listed: Listed, cause: Literal["drift", "schedule"]) -> None:
    """Add the tasks to the DAG at hand."""
    file = listed.file

    @task.short_circuit(on_success_callback=alert_drift)
    def take_up(ti: Any = None) -> bool:
        if cause == "drift":
            return decided("take_up", file, ti, run_id=run_name(ti))
        return decided("by_the_clock", file, ti)

    @task
    def archive_examples() -> Any:
        return call("archive_examples", file)

    @task.short_circuit
    def choose_window(taken: Any, ti: Any = None) -> bool:
        return decided("choose_window", file, ti, run_id=run_name(ti), taken=taken)

    @task
    def plan_trials(window: Any, ti: Any = None) -> Any:
        return call("plan_trials", file, run_id=run_name(ti), window=window)

    @task(
        max_active_tis_per_dagrun=listed.workers, execution_timeout=timedelta(hours=2), map_index_template="{{ share }}"
    )
    def run_trials(plan: Any, ti: Any = None) -> Any:
        from airflow.sdk import get_current_context

        get_current_context()["share"] = f"part {plan['part']}"
        return call("run_trials", file, run_id=run_name(ti), part=plan["part"])

    @task(execution_timeout=timedelta(hours=2))
    def fit(ti: Any = None) -> Any:
        return call("fit", file, run_id=run_name(ti))

    @task.short_circuit(execution_timeout=timedelta(hours=1), on_success_callback=alert_verdict)
    def compare(ti: Any = None) -> bool:
        return decided("compare", file, ti, run_id=run_name(ti))

    @task(on_success_callback=alert_release)
    def release(candidate: Any, verdict: Any, approval: Any = None, ti: Any = None) -> Any:
        said = (approval or {}) if listed.approval else None  # no answer is none that says yes
        answer = call("release", file, run_id=run_name(ti), candidate=candidate, verdict=verdict, approval=said)
        ti.xcom_push(key="answer", value=answer)
        return answer

    taken, archived = take_up(), archive_examples()
    window = choose_window(taken["answer"])
    plans = plan_trials(window["answer"])
    trials = run_trials.expand(plan=plans)
    candidate, verdict = fit(), compare()
    chain(taken, archived, window)
    chain(trials, candidate, verdict)
    if listed.approval:
        asked = approval_task(listed)
        chain(verdict, asked, release(candidate, verdict["answer"], asked.output))
    else:
        chain(verdict, release(candidate, verdict["answer"]))


def approval_task(listed: Listed) -> AskOperator:
    """Nobody's answer in time is a rejection."""
    return AskOperator(
        task_id="approve",
        subject=f"{listed.name}: release this model?",
        body="{{ ti.xcom_pull(task_ids='compare', key='answer') | tojson(indent=2) }}",
        options=[RELEASE, REJECT],
        within=timedelta(seconds=listed.approval_timeout_s),
        otherwise=REJECT,
        execution_timeout=None,
        retries=10,
        retry_delay=timedelta(seconds=1),
        retry_exponential_backoff=False,
        notifiers=[AlertNotifier(f"{listed.name}: a model waits for approval", "{{ ti.dag_id }}, {{ ti.run_id }}")],
    )
