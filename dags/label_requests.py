"""A label request wakes this DAG up: one per pipeline with `labelling=Labelling(...)`. Each request becomes a form,
or, where Label Studio is configured, a task there.

What is open is read from the topic by `take_requests`, so the clock finds what a lost wake-up left, and what is asked again.
"""

from datetime import UTC, datetime

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable

from stream.adapters.airflow_connections import connection_id
from stream.airflow.labelling import DEFAULTS, labelling_flow, uses_label_studio
from stream.airflow.pipelines import pipelines
from stream.airflow.triggers import DriftTrigger
from stream.settings import load_settings
from stream.topics import TopicNames

settings = load_settings()
for listed in pipelines():
    if not listed.labelling:
        continue
    topic = TopicNames(listed.name)["label_requests"]
    connection = connection_id(listed.name, "label_requests")
    trigger = DriftTrigger(topics=[topic], kafka_config_id=connection, min_gap_s=settings.label_gap_s)
    requests = Asset(topic, uri=f"driftloop://{topic}", watchers=[AssetWatcher(name=topic, trigger=trigger)])
    with DAG(
        f"label_requests__{listed.name}",
        schedule=AssetOrTimeSchedule(
            assets=[requests], timetable=CronTriggerTimetable(settings.label_check_cron, timezone="UTC")
        ),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1 if uses_label_studio() else 8,  # with forms a run lasts as long as they wait
        default_args=DEFAULTS,
        tags=["driftloop", listed.name],
        doc_md=__doc__,
    ):
        labelling_flow(listed)
