"""The flow of `label_requests`: take a batch, ask for each request with a form of its own, put each answer away at once.

Where Label Studio is configured, requests and answers are exchanged with it instead.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Connection, Param, task, task_group

from stream.adapters.pipeline_manifest import Listed
from stream.airflow.alerts import alert_failure
from stream.airflow.asking import AskOperator
from stream.airflow.pipelines import call
from stream.airflow.retraining import run_name
from stream.errors import ConfigurationError
from stream.lifecycle import CANNOT_TELL, SEND, SKIP
from stream.settings import load_settings

__all__ = ["LabelOperator", "labelling_flow", "uses_label_studio"]

STEPS = "annotation"
DEFAULTS: dict[str, Any] = {
    "retries": 5,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=5),
    "execution_timeout": timedelta(minutes=10),
    "on_failure_callback": alert_failure,
}


class LabelOperator(AskOperator):
    """What is written in the form is checked by our step: an unfit text must not fail the task, as it does in Airflow."""

    def validate_params_input(self, params_input: Any) -> None:
        """All of it goes on."""


def uses_label_studio() -> bool:
    settings = load_settings()
    return bool(settings.label_studio_connection or settings.label_studio_url)


def label_studio() -> dict[str, str]:
    """Its `url` and `token`, in a task: of the connection, or of the settings. Raises ConfigurationError."""
    settings = load_settings()
    name = settings.label_studio_connection
    if name is None:
        return settings.label_studio()
    found = Connection.get(name)
    if not found.host or not found.password:
        raise ConfigurationError(
            f"Airflow's connection {name}", found.host, "give it a host, and the token as password"
        )
    if "://" in found.host:
        return {"url": found.host, "token": found.password}
    port = f":{found.port}" if found.port else ""
    return {"url": f"{found.schema or 'https'}://{found.host}{port}", "token": found.password}


def labelling_flow(listed: Listed) -> None:
    """Add the tasks to the DAG at hand."""
    file = listed.file

    if uses_label_studio():

        @task
        def exchange() -> Any:
            return call("exchange_label_studio", file, "label_studio", **label_studio())

        exchange()
        return

    @task
    def take_requests(ti: Any = None) -> Any:
        return call("take_requests", file, STEPS, run_id=run_name(ti))

    @task(retries=100)  # a person's answer: worth hours of an outage, before the request would be asked again
    def put_answer(item: Any, response: Any) -> Any:
        return call("put_answer", file, STEPS, item=item, response=response)

    @task_group
    def person(item: Any) -> None:
        asked = LabelOperator(
            task_id="ask",
            subject="{{ ti.xcom_pull(task_ids='take_requests')[ti.map_index]['subject'] }}",
            body="{{ ti.xcom_pull(task_ids='take_requests')[ti.map_index]['body'] }}",
            options=[*(listed.label_options or [SEND]), CANNOT_TELL, SKIP],
            params={} if listed.label_options else {"label": Param("", type=["null", "string"], title="Label")},
            within=timedelta(seconds=listed.label_within_s),
            otherwise=SKIP,
            execution_timeout=None,
            retries=10,
            retry_delay=timedelta(seconds=1),
            retry_exponential_backoff=False,
        )
        put_answer(item, asked.output)

    person.expand(item=take_requests())
