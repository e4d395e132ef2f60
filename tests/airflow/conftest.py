"""Airflow beside the stack's Kafka and Redis, started once for these tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.adapters.file_pipelines import load_pipeline
from stream.adapters.kafka_topics import KafkaTopics
from stream.adapters.redis_drift_inbox import RedisDriftInbox
from stream.core.episodes import Outcome
from stream.errors import Unavailable
from stream.local.airflow import AirflowServer
from stream.local.process import wait_until
from stream.local.stack import Stack
from stream.messages import Drift
from stream.pipeline import Pipeline
from stream.settings import Settings, load_settings
from stream.topics import TopicNames
from tests.support.listeners import mail_server, webhook_server

collect_ignore_glob = ["dags/*", "pipelines/*"]  # these run in Airflow
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NAME = "watched"
LOOPED = "looped"
ASKED = "asked"
KILLED = "killed"
APPROVED = "approved"
NAMES = (NAME, LOOPED, ASKED, KILLED, APPROVED)
PIPELINES = HERE / "pipelines"


@dataclass
class Watched:
    """The running Airflow, the pipeline it watches, and the alerts that came."""

    server: AirflowServer
    pipeline: Pipeline
    settings: Settings
    mails: list[str]
    posts: list[dict[str, Any]]
    slack: list[dict[str, Any]]
    holds: Path  # a file here, named after a task of the pipeline "killed", keeps that task from ending
    sent: int = 0

    def __post_init__(self) -> None:
        self.client = self.server.client()
        self.dag_id = f"retrain_on_drift__{self.pipeline.name}"

    def drift(self) -> str:
        """Put a drift on the topic; returns its id."""
        from confluent_kafka import Producer

        self.wait(lambda: self.cool_until_ms() <= time.time() * 1_000, "the cool-down of the last drift to be over")
        names = TopicNames(self.pipeline.name)
        drift_id = f"d{self.sent}"
        message = Drift(
            drift_id=drift_id, pipeline=self.pipeline.name, signal="error", detector="x", severity=1.0,
            examples_topic=names.examples, from_offset=self.sent, to_offset=self.sent + 1, detected_at_ms=0,
        )  # fmt: skip
        self.sent += 1
        producer = Producer({"bootstrap.servers": self.settings.brokers, "log_level": 0})
        producer.produce(names["drifts"], msgspec.json.encode(message), self.pipeline.name.encode(), 0)
        assert producer.flush(30) == 0
        return drift_id

    def cool_until_ms(self) -> int:
        inbox = RedisDriftInbox(**self.settings.redis(), pipeline=self.pipeline.name)
        try:
            episode = inbox.load().inbox.episode
            return episode.cool_until_ms if episode else 0
        finally:
            inbox.close()

    def outcomes(self) -> dict[str | None, Outcome]:
        inbox = RedisDriftInbox(**self.settings.redis(), pipeline=self.pipeline.name)
        try:
            return {outcome.drift_id: outcome for outcome in inbox.outcomes()}
        finally:
            inbox.close()

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = 90.0) -> None:
        try:
            wait_until(lambda: self._holds(condition), timeout_s, what, 0.2)
        except TimeoutError as error:
            logs = "\n".join(f"--- {p.name} (running: {p.running()})\n{p.tail(6)}" for p in self.server.parts.values())
            raise AssertionError(f"{error}\n{logs}") from None

    @staticmethod
    def _holds(condition: Callable[[], bool]) -> bool:
        try:
            return condition()
        except Unavailable:  # an api-server on a busy machine
            return False

    def answers(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """What the steps that may end a run have said."""
        states = self.client.tasks(dag_id, run_id)
        steps = [step for step in ("take_up", "choose_window", "compare", "release") if states.get(step) == "success"]
        return {step: self.client.result(dag_id, run_id, step, key="answer") for step in steps}

    def wait_run(self, dag_id: str, run_id: str, timeout_s: float = 90.0) -> str:
        """Until it has ended; returns its state."""
        ended = ("success", "failed")
        self.wait(lambda: self.client.run(dag_id, run_id)["state"] in ended, f"{dag_id} {run_id} to end", timeout_s)
        return str(self.client.run(dag_id, run_id)["state"])


@pytest.fixture(scope="session")
def watched(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    pipeline = load_pipeline(PIPELINES / "watched.py").pipeline
    settings = load_settings(brokers=stack.brokers, redis_url=stack.redis_url, signing_key=stack.signing_key())
    for name in NAMES:
        KafkaTopics(settings.kafka(), TopicNames(name)).create(2, 1)
    dags = tmp_path_factory.mktemp("dags")
    for file in (*(ROOT / "dags").glob("*.py"), *(HERE / "dags").glob("*.py")):
        shutil.copy(file, dags)
    holds = tmp_path_factory.mktemp("holds")
    with (
        webhook_server() as (url, posts),
        webhook_server() as (slack_url, slack),
        mail_server() as (port, mails),
    ):
        hook = {"conn_type": "slackwebhook", "host": slack_url, "password": "T0/B0/secret"}
        smtp = {
            "conn_type": "smtp", "host": "127.0.0.1", "port": port,
            "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "driftloop@example.org"},
        }  # fmt: skip
        server = AirflowServer(
            tmp_path_factory.mktemp("airflow"),
            ROOT / ".venv-airflow" / "bin" / "python",
            stack.reaper,
            environment=stack.environment(
                DRIFTLOOP_PIPELINES=str(PIPELINES),
                DRIFTLOOP_DRIFT_GAP_S="2",
                DRIFTLOOP_ARCHIVE_CRON="0 0 29 2 *",
                DRIFTLOOP_DRIFT_CHECK_CRON="0 0 29 2 *",  # not now: the clock would hide what the wake-up does
                DRIFTLOOP_LABEL_GAP_S="2",
                DRIFTLOOP_LABEL_CHECK_CRON="0 0 29 2 *",
                DRIFTLOOP_ALERT_EMAIL="ops@example.org",
                DRIFTLOOP_ALERT_WEBHOOK_URL=url,
                DRIFTLOOP_ALERT_SLACK_CONNECTION="slack_here",
                DRIFTLOOP_TEST_HOLDS=str(holds),
            ),
            pipelines=NAMES,
            kafka=settings.kafka(),
            dags=dags,
            connections={"smtp_default": json.dumps(smtp), "slack_here": json.dumps(hook)},
            cache=ROOT / ".driftloop",
        )
        # Once, and not in each DAG file's process at the same time.
        listing = [
            str(ROOT / ".venv-airflow" / "bin" / "python"),
            "-c",
            "from stream.airflow.pipelines import pipelines; pipelines()",
        ]
        subprocess.run(listing, env=server.environment, check=True, timeout=300)
        try:
            server.start()
            server.wait_ready()
            found = Watched(server, pipeline, settings, mails, posts, slack, holds)
            found.wait(lambda: found.dag_id in found.client.dags(), "the DAGs to be read", 300)
            yield found
        finally:
            server.stop()
