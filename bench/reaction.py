"""How soon a drift message on Kafka has a run of Airflow. One message after another, each when the last run is over."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import msgspec
from confluent_kafka import Producer

from bench.harness import figure
from stream.adapters.kafka_topics import KafkaTopics
from stream.local.airflow import AIRFLOW_PYTHON, AirflowServer
from stream.local.process import wait_until
from stream.local.stack import Stack
from stream.messages import Drift
from stream.settings import load_settings
from stream.topics import TopicNames

__all__ = ["run"]

ROOT = Path(__file__).parents[1]
NAME = "watched"
DAG_ID = f"retrain_on_drift__{NAME}"
NEVER = "0 0 29 2 *"


def run(stack: Stack, quick: bool) -> None:
    if not AIRFLOW_PYTHON.is_file():
        print("reaction left out: no Airflow, make install-airflow installs it", file=sys.stderr)
        return
    settings = load_settings(brokers=stack.brokers, redis_url=stack.redis_url, signing_key=stack.signing_key())
    KafkaTopics(settings.kafka(), TopicNames(NAME)).create(2, 1)
    with tempfile.TemporaryDirectory() as directory:
        pipelines = Path(directory) / "pipelines"
        pipelines.mkdir()
        shutil.copy(ROOT / "tests" / "airflow" / "pipelines" / "watched.py", pipelines)
        server = AirflowServer(
            Path(directory) / "airflow",
            AIRFLOW_PYTHON,
            stack.reaper,
            environment=stack.environment(
                DRIFTLOOP_PIPELINES=str(pipelines),
                DRIFTLOOP_ARCHIVE_CRON=NEVER,
                DRIFTLOOP_DRIFT_CHECK_CRON=NEVER,
                DRIFTLOOP_LABEL_CHECK_CRON=NEVER,
                DRIFTLOOP_DRIFT_GAP_S="1",
            ),
            pipelines=[NAME],
            kafka=settings.kafka(),
            cache=ROOT / ".driftloop",
        )
        listing = [str(AIRFLOW_PYTHON), "-c", "from stream.airflow.pipelines import pipelines; pipelines()"]
        subprocess.run(listing, env=server.environment, check=True, timeout=300)
        try:
            server.start()
            server.wait_ready()
            _measure(server, stack.brokers, 3 if quick else 10)
        finally:
            server.stop()


def _measure(server: AirflowServer, brokers: str, messages: int) -> None:
    client = server.client()
    wait_until(lambda: DAG_ID in client.dags(), 300, "the DAGs to be read", 0.5)
    producer = Producer({"bootstrap.servers": brokers, "log_level": 0})
    topic = TopicNames(NAME)["drifts"]
    started: list[float] = []
    for number in range(messages):
        drift = Drift(
            drift_id=f"d{number}", pipeline=NAME, signal="error", detector="x", severity=1.0,
            examples_topic=f"{NAME}.examples", from_offset=number, to_offset=number + 1, detected_at_ms=0,
        )  # fmt: skip
        before = {run["dag_run_id"] for run in client.runs(DAG_ID)}
        told_s = time.time()
        producer.produce(topic, msgspec.json.encode(drift), NAME.encode(), 0)
        producer.flush(30)

        def new_run(before: set[str] = before) -> str | None:
            runs = [run for run in client.runs(DAG_ID) if run["dag_run_id"] not in before and run["start_date"]]
            return runs[-1]["dag_run_id"] if runs else None

        wait_until(lambda: new_run() is not None, 120, "a run", 0.2)
        run_id = str(new_run())
        started.append(datetime.fromisoformat(client.run(DAG_ID, run_id)["start_date"]).timestamp() - told_s)

        def taken_up(run_id: str = run_id) -> bool:
            return client.tasks(DAG_ID, run_id).get("take_up") == "success"

        wait_until(taken_up, 60, "the run to take the drift up", 0.2)
        client.end(DAG_ID, run_id)
        time.sleep(3.0)  # the gap between two wake-ups, and the cool-down
    figure("reaction.drift_to_run", statistics.median(started), "s", longest=round(max(started), 1), messages=messages)
