"""Retraining by the clock: one DAG per pipeline with `Retrain(schedule="...")`."""

from datetime import UTC, datetime

from airflow.sdk import DAG, CronDataIntervalTimetable

from stream.airflow.pipelines import pipelines
from stream.airflow.retraining import defaults, retraining_flow

for listed in pipelines():
    if listed.schedule is None:
        continue
    with DAG(
        f"retrain_scheduled__{listed.name}",
        schedule=CronDataIntervalTimetable(listed.schedule, timezone="UTC"),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        default_args=defaults(listed),
        tags=["driftloop", listed.name],
        doc_md=__doc__,
    ):
        retraining_flow(listed, "schedule")
