"""What is checked before a worker reads its first record, and how the parts are put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import redis.asyncio as aioredis
from redis.exceptions import RedisError

from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.example_log import ExampleLog
from stream.adapters.kafka_publisher import KafkaPublisher
from stream.adapters.kafka_tails import KafkaTails
from stream.adapters.kafka_topics import CheckedTopics, KafkaTopics
from stream.adapters.redis_connections import redis_client
from stream.adapters.redis_models import FORGETTING, RedisControl, RedisModelStore, examples_from
from stream.adapters.redis_state import RedisStateStore
from stream.adapters.redis_telemetry import RedisTelemetry
from stream.core.beginning import Beginning
from stream.core.model_bases import configuration_of
from stream.core.objectives import Judged, coverage_of, judge
from stream.core.remembering import Meta, summed
from stream.errors import StartupRefused, Unavailable
from stream.lifecycle import Objectives
from stream.pipeline import Pipeline
from stream.settings import Settings
from stream.topics import INPUTS, TopicNames
from stream.worker.app import WorkerApp
from stream.worker.roles import LearnRole, ScoreRole
from stream.worker.telemetry import Report, Telemetry, age_p99_ms
from stream.worker.web.gathering import Gatherer
from stream.worker.web.hosts import AllowedHosts
from stream.worker.web.metrics import WorkerMetrics, registry
from stream.worker.web.serving import Server, WebThread

__all__ = ["Claimed", "check_redis", "claim", "create_worker"]

log = logging.getLogger(__name__)

REDIS_OLDEST = (6, 2)


async def check_redis(client: aioredis.Redis) -> None:
    """Raises StartupRefused for a Redis that is too old or evicts, Unavailable when it does not answer."""
    try:
        info = await client.info()
    except RedisError as error:
        raise Unavailable(f"Redis: {error}; check DRIFTLOOP_REDIS_URL") from error
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    if version < REDIS_OLDEST:
        raise StartupRefused("redis_too_old", f"Redis is {info['redis_version']}; 6.2 or newer is needed")
    if not info.get("aof_enabled"):
        log.warning(
            "Redis writes no append-only file: when it restarts it may come back with older state, and then a worker "
            "stops at `conflict`; set `appendonly yes`",
            extra={"code": "redis_not_durable"},
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StartupRefused(
            "redis_evicts",
            f"maxmemory-policy is {policy}: Redis would delete state silently; run "
            "`CONFIG SET maxmemory-policy noeviction` and set it in redis.conf",
        )


class Claimed(NamedTuple):
    """The world a pipeline runs in."""

    configuration: str
    cluster: CheckedTopics
    examples_from: dict[int, int]  # by shard: where the examples of this state begin, after a reset
    beginning: Beginning


async def claim(pipeline: Pipeline, settings: Settings, kafka: KafkaTopics, client: aioredis.Redis) -> Claimed:
    """Check Redis and topics, and that this name still stands for this configuration on this cluster.

    Raises StartupRefused, Unavailable.
    """
    await check_redis(client)
    cluster = await asyncio.to_thread(kafka.check)
    for warning in cluster.warnings:
        log.warning("%s", warning, extra={"code": "topic_differs"})
    configuration = configuration_of(pipeline)
    wanted = {"configuration": configuration, "cluster": cluster.cluster_id}
    wanted |= {f"topic:{name}": found.topic_id for name, found in cluster.topics.items()}
    wanted["partitions"] = str(cluster.topics["events"].partitions)
    stored = await RedisControl(client, pipeline.name).claim(wanted)
    if FORGETTING in stored:
        raise StartupRefused("reset_unfinished", f"a reset of {pipeline.name!r} was cut off; run it again")
    _compare(pipeline, wanted, stored)
    return Claimed(configuration, cluster, examples_from(stored), Beginning.of(stored))


def _compare(pipeline: Pipeline, wanted: dict[str, str], stored: Mapping[str, str]) -> None:
    name = pipeline.name
    reset = "`driftloop reset <its file>` forgets the stored state"
    for key, value in wanted.items():
        if stored[key] == value:
            continue
        if key == "configuration":
            raise StartupRefused(
                "configuration_changed",
                f"the state in Redis under {name!r} was made by configuration {stored[key]}, this file is {value}; "
                f"give the changed pipeline another name, or {reset}",
            )
        if key == "partitions":
            raise StartupRefused(
                "partitions_changed",
                f"{TopicNames.of(pipeline).events} had {stored[key]} partitions and has {value}: keys now go elsewhere; {reset}",
            )
        what = "another Kafka cluster" if key == "cluster" else f"another {key.removeprefix('topic:')} topic"
        if key.removeprefix("topic:") in INPUTS:
            what += " (has `reads` changed?)"
        raise StartupRefused(
            "topic_recreated",
            f"the state in Redis under {name!r} belongs to {what} (stored {stored[key]}, found {value}); {reset}",
        )


async def create_worker(
    pipeline: Pipeline, role: str, settings: Settings, extra_allowed: frozenset[str] = frozenset()
) -> WorkerApp:
    """The Faust app of one role, checked and wired. Call it on the event loop that will run it."""
    settings.signing()
    names = TopicNames.of(pipeline)
    kafka = KafkaTopics(settings.kafka(), names)
    client = redis_client(**settings.redis())
    claimed = await claim(pipeline, settings, kafka, client)
    publisher = KafkaPublisher(settings.kafka(), names, settings.linger_ms)
    models = RedisModelStore(redis_client(**settings.redis()), pipeline.name)
    shared = (pipeline, settings, kafka, publisher, models, claimed.configuration, extra_allowed)
    owner: ScoreRole | LearnRole
    if role == "score":
        partitions = claimed.cluster.topics["events"].partitions
        owner = ScoreRole(*shared, RedisStateStore(client, pipeline.name), claimed.beginning, partitions)
    else:
        await client.aclose()
        bases = ArtifactFiles(settings.artifact_url, pipeline.name)
        log_of_examples = ExampleLog(settings.kafka(), names, settings.archive_url)
        owner = LearnRole(*shared, claimed.examples_from, bases, log_of_examples.batches)
    told = RedisTelemetry(redis_client(**settings.redis()), pipeline.name)
    judges = _judge(pipeline, told, claimed.cluster.topics["events"].partitions) if role == "learn" else None
    telemetry = Telemetry(told, role, owner.look, lambda: models.status(0), judges)
    owner.tell(telemetry, _web(pipeline, settings, names, telemetry) if settings.web_port else None)
    topics = {topic: names[topic] for topic in owner.topics}
    return WorkerApp(f"{pipeline.name}-{role}", owner, topics, settings)


def _judge(
    pipeline: Pipeline, told: RedisTelemetry, partitions: int
) -> Callable[[bytes, Sequence[Report]], Awaitable[list[Judged]]]:
    """Judges the objectives: the learner knows the quality, Redis the coverage, the scorers' reports the latency."""

    async def judged(status: bytes, reports: Sequence[Report]) -> list[Judged]:
        if pipeline.objectives == Objectives():  # none is declared: nothing is read for them
            return []
        stored = await told.metas(partitions)
        try:
            metas = [msgspec.json.decode(meta, type=Meta) for meta in stored if meta]
            coverage = coverage_of(summed(meta.counts for meta in metas))
        except msgspec.DecodeError:  # damaged: the page says so
            coverage = None
        learner = msgspec.json.decode(status)
        return judge(pipeline, learner, label_coverage=coverage, latency_p99_ms=age_p99_ms(reports))

    return judged


def _web(pipeline: Pipeline, settings: Settings, names: TopicNames, telemetry: Telemetry) -> WebThread:
    """The page and the metrics, with connections of their own."""

    def make() -> tuple[Server, Gatherer]:
        client = redis_client(**settings.redis())
        gatherer = Gatherer(
            pipeline,
            RedisModelStore(client, pipeline.name),
            RedisTelemetry(client, pipeline.name),
            RedisControl(client, pipeline.name),
            KafkaTails(settings.kafka(), names),
        )
        metrics = registry(WorkerMetrics(pipeline.name, pipeline.task, telemetry))
        hosts = AllowedHosts(settings.web_host, settings.web_allowed_hosts)
        return Server(hosts, gatherer, telemetry, metrics), gatherer

    return WebThread(settings.web_host, settings.web_port, make)
