"""A task that fails for good after one retry."""

from datetime import timedelta

from airflow.sdk import DAG, task

from stream.airflow.alerts import alert_failure

with DAG("failing", schedule=None, default_args={"on_failure_callback": alert_failure}):

    @task(retries=1, retry_delay=timedelta(seconds=1))
    def fail() -> None:
        raise ValueError("out of <luck>")

    fail()
