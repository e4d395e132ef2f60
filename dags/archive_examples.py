"""Examples leave Kafka for the archive, every few minutes: one DAG per pipeline."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, CronTriggerTimetable, task

from stream.airflow.alerts import alert_failure
from stream.airflow.pipelines import call, pipelines
from stream.settings import load_settings


@task
def archive_examples(file: str) -> dict:
    return call("archive_examples", file)


for listed in pipelines():
    with DAG(
        f"archive_examples__{listed.name}",
        schedule=CronTriggerTimetable(load_settings().archive_cron, timezone="UTC"),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        default_args={
            "retries": 3,
            "retry_delay": timedelta(seconds=10),
            "execution_timeout": timedelta(minutes=30),
            "on_failure_callback": alert_failure,
        },
        tags=["driftloop", listed.name],
        doc_md=__doc__,
    ):
        archive_examples(listed.file)
