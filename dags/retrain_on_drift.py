"""A drift wakes this DAG up: one per pipeline with `Retrain(on_drift=True)`.

What is to be done is read from the topic by `take_up`, so the clock finds what a lost wake-up left, and follow-ups.
"""

from datetime import UTC, datetime

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable

from stream.adapters.airflow_connections import connection_id
from stream.airflow.pipelines import pipelines
from stream.airflow.retraining import defaults, retraining_flow
from stream.airflow.triggers import DriftTrigger
from stream.settings import load_settings
from stream.topics import TopicNames

settings = load_settings()
for listed in pipelines():
    if not listed.on_drift:
        continue
    topic = TopicNames(listed.name)["drifts"]
    trigger = DriftTrigger(topics=[topic], kafka_config_id=connection_id(listed.name), min_gap_s=settings.drift_gap_s)
    drifts = Asset(topic, uri=f"driftloop://{topic}", watchers=[AssetWatcher(name=topic, trigger=trigger)])
    with DAG(
        f"retrain_on_drift__{listed.name}",
        schedule=AssetOrTimeSchedule(
            assets=[drifts], timetable=CronTriggerTimetable(settings.drift_check_cron, timezone="UTC")
        ),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        default_args=defaults(listed),
        tags=["driftloop", listed.name],
        doc_md=__doc__,
    ):
        retraining_flow(listed, "drift")
