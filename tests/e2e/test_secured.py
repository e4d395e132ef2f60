"""Workers on a Kafka with SASL_SSL and rights, and on a Redis with users behind TLS: what docs/deploying.md tells to grant."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AclOperation, AdminClient, ResourceType

from stream.adapters.airflow_connections import WATCHED
from stream.adapters.file_pipelines import load_pipeline
from stream.adapters.kafka_topics import KafkaTopics
from stream.airflow.connections import connections
from stream.cli.backing_up import back_up
from stream.cli.checks import examine
from stream.cli.facts import gather
from stream.cli.producing import follow, produce
from stream.cli.running import worker_command
from stream.cli.showing import read_status
from stream.cli.sources import Columns, read_source
from stream.local.process import Child, Reaper, wait_until
from stream.settings import Settings, load_settings
from stream.topics import TopicNames
from tests.conftest import KAFKA_CACHE
from tests.support.secured import ADMIN, WORKER, Authority, SecuredKafka, SecuredRedis, TlsTerminator

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

PIPELINE_FILE = Path(__file__).parents[2] / "examples" / "side_by_side" / "linear.py"
GENERATOR = str(PIPELINE_FILE.with_name("generator.py"))
NAME = "parcels"
KAFKA_RIGHTS = [
    (ResourceType.TOPIC, f"{NAME}.", AclOperation.READ),
    (ResourceType.TOPIC, f"{NAME}.", AclOperation.WRITE),
    (ResourceType.TOPIC, f"{NAME}.", AclOperation.DESCRIBE),
    (ResourceType.TOPIC, f"{NAME}.", AclOperation.DESCRIBE_CONFIGS),
    (ResourceType.GROUP, f"{NAME}-", AclOperation.READ),
]
WATCHER_GROUPS = [f"driftloop-airflow-{NAME}", f"driftloop-airflow-{NAME}-label_requests"]
REDIS_RIGHTS = (
    f"~{{{NAME}:*}}:* ~{{{NAME}:control}} ~{{{NAME}}}:* resetchannels -@all +@read +@write +@connection +@transaction "
    "+eval +evalsha +script|load +script|exists -@dangerous +info +time"
)


class Secured(NamedTuple):
    kafka: SecuredKafka
    redis: SecuredRedis
    terminator: TlsTerminator
    authority: Authority
    reaper: Reaper
    settings: Settings
    environment: dict[str, str]
    directory: Path


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured")
    for name in ("kafka", "redis"):
        (directory / name).mkdir()
    authority = Authority(directory)
    passwords = {user: secrets.token_hex(12) for user in (ADMIN, WORKER)}
    reaper = Reaper()
    kafka = SecuredKafka(directory / "kafka", KAFKA_CACHE / "libs", reaper, authority, passwords)
    server = SecuredRedis(directory / "redis", reaper, {WORKER: (passwords[WORKER], REDIS_RIGHTS)})
    with TlsTerminator(server.port, authority.server_context()) as terminator:
        try:
            server.start()
            kafka.start()
            server.wait_ready()
            kafka.wait_ready()
            kafka.grant(KAFKA_RIGHTS)
            environment = {
                "DRIFTLOOP_BROKERS": kafka.brokers,
                "DRIFTLOOP_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
                "DRIFTLOOP_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
                "DRIFTLOOP_KAFKA_SASL_USERNAME": WORKER,
                "DRIFTLOOP_KAFKA_SASL_PASSWORD": passwords[WORKER],
                "DRIFTLOOP_KAFKA_SSL_CA_LOCATION": str(authority.ca),
                "DRIFTLOOP_REDIS_URL": f"rediss://{WORKER}:{passwords[WORKER]}@127.0.0.1:{terminator.port}/0"
                f"?ssl_ca_certs={authority.ca}",
                "DRIFTLOOP_SIGNING_KEY": secrets.token_hex(32),
                "DRIFTLOOP_ARTIFACT_URL": str(directory / "artifacts"),
                "DRIFTLOOP_ARCHIVE_URL": str(directory / "archive"),
                "DRIFTLOOP_PARTITIONS": "2",
                "DRIFTLOOP_SESSION_TIMEOUT_MS": "2000",
            }
            with pytest.MonkeyPatch.context() as patch:
                for name, value in environment.items():
                    patch.setenv(name, value)
                settings = load_settings()
            yield Secured(kafka, server, terminator, authority, reaper, settings, environment, directory)
        finally:
            kafka.stop()
            server.stop()
            reaper.close()


def test_a_pair_of_workers_over_tls_with_no_more_rights_than_documented(secured: Secured):
    settings, names = secured.settings, TopicNames(NAME)
    pipeline = load_pipeline(PIPELINE_FILE).pipeline
    # Topics are made by somebody who may; a worker needs no such right.
    admin = settings.model_copy(update={"kafka_sasl_username": ADMIN})
    KafkaTopics({**admin.kafka(), **secured.kafka.client(ADMIN)}, names).create(2, 1)
    records = read_source(
        pipeline, GENERATOR, columns=Columns(None, None, None, None, None), limit=800, delay_ms=0, interval_ms=0, seed=7
    )
    produce(settings, names, records)
    environment = {**os.environ, **secured.environment, "PYTHONHASHSEED": "0"}
    workers = [
        Child(role, worker_command(PIPELINE_FILE, role), secured.directory / f"{role}.log", secured.reaper, environment)
        for role in ("learn", "score")
    ]
    for worker in workers:
        worker.start()

    def done() -> bool:
        for worker in workers:
            assert worker.running(), worker.tail(20)
        status = read_status(settings, NAME)
        return status.learner is not None and not any(status.lag(t) for t in ("events", "labels", "examples"))

    try:
        wait_until(done, 120, "workers to answer and to learn everything", 0.5)
        status = read_status(settings, NAME)
        assert status.learner is not None
        assert status.learner["counts"]["learned"] == 800
        assert len(list(follow(settings, names.predictions, from_start=True, to_end=True))) == 800
        assert secured.terminator.connections > 2
        assert examine(gather(pipeline, settings)) == []  # the doctor needs no more rights, and finds nothing
        _, manifest = back_up(settings, pipeline, str(secured.directory / "backups"))
        assert len(manifest.files) > 10
    finally:
        for worker in workers:
            worker.signal(15)
        codes = [worker.stop(30) for worker in workers]
    assert codes == [0, 0], [worker.tail(20) for worker in workers]


def test_airflows_watchers_join_with_their_connections_once_their_groups_are_granted(secured: Secured):
    """As Airflow's hook does: a consumer of what the connection says, subscribed, which commits."""
    KafkaTopics(secured.kafka.client(ADMIN), TopicNames(NAME)).create(2, 1)
    extras = [json.loads(value)["extra"] for value in connections(secured.settings, NAME).values()]
    assert [extra["group.id"] for extra in extras] == WATCHER_GROUPS
    for extra, topic in zip(extras, WATCHED, strict=True):
        assert join(extra, f"{NAME}.{topic}") == 0
    secured.kafka.grant([(ResourceType.GROUP, group, AclOperation.READ) for group in WATCHER_GROUPS], exactly=True)
    for extra, topic in zip(extras, WATCHED, strict=True):
        wait_until(
            lambda extra=extra, topic=topic: join(extra, f"{NAME}.{topic}") > 0, 20, "the brokers to know the right"
        )


def join(config: dict[str, Any], topic: str) -> int:
    """How many partitions it is given, none without a right to the group; commits its place in the first one."""
    consumer = Consumer(config)
    try:
        consumer.subscribe([topic])
        deadline_s = time.monotonic() + 30
        while not (owned := consumer.assignment()):
            message = consumer.poll(0.2)
            if message is not None and (error := message.error()) is not None:
                if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                    return 0
                raise KafkaException(error)
            assert time.monotonic() < deadline_s, f"{topic}: nothing is assigned"
        consumer.commit(offsets=[TopicPartition(topic, owned[0].partition, 0)], asynchronous=False)
        return len(owned)
    finally:
        consumer.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"sasl.password": "wrong"},
        {"security.protocol": "PLAINTEXT"},
        {"security.protocol": "SASL_PLAINTEXT"},
        {"ssl.ca.location": None},
    ],
    ids=lambda wrong: "-".join(wrong),
)
def test_kafka_answers_nobody_else(secured: Secured, wrong: dict[str, str | None]):
    config = {key: value for key, value in {**secured.settings.kafka(), **wrong}.items() if value is not None}
    with pytest.raises(KafkaException):
        AdminClient(config).list_topics(timeout=4)
    assert AdminClient(secured.settings.kafka()).list_topics(timeout=10).brokers


def test_redis_answers_nobody_else_and_nothing_else(secured: Secured):
    url = secured.settings.redis_url.get_secret_value()
    allowed = redis.Redis.from_url(url)
    assert allowed.ping()
    for call in (
        lambda: allowed.get("another pipeline's key"),
        lambda: allowed.set("{parcels-2:0}:state", "x"),
        allowed.flushall,
        lambda: allowed.config_get("*"),
        lambda: allowed.keys("*"),
    ):
        with pytest.raises(redis.ResponseError, match=r"(?i)perm"):
            call()
    allowed.close()
    plain = redis.Redis(port=secured.redis.port)
    with pytest.raises(redis.AuthenticationError):
        plain.ping()
    plain.close()
    stranger = redis.Redis.from_url(url.partition("?")[0])  # without our authority
    with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        stranger.ping()
    stranger.close()
