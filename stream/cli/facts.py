"""What `driftloop doctor` looks at: everything is read here, once, and judged in `stream/cli/checks.py`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import redis

from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.kafka_ranges import read_range
from stream.adapters.kafka_topics import KafkaTopics
from stream.cli.showing import PipelineStatus, read_status
from stream.errors import DriftloopError
from stream.local.airflow_client import AirflowClient
from stream.pipeline import Pipeline
from stream.settings import Settings
from stream.topics import INPUTS, TopicNames

__all__ = ["Facts", "Newest", "gather"]

LOOK_S = 3.0  # between two looks at the offsets
SAMPLE = 200  # newest records of each partition of an input
PARTITIONS_MAX = 32  # that are sampled
T = TypeVar("T")


class Newest(NamedTuple):
    """Newest records of one partition of an input."""

    keys: list[bytes]
    newest_ms: int  # Kafka timestamp
    newest_event_ms: int  # occurred_at_ms or labelled_at_ms; -1 if none can be read


class Facts(msgspec.Struct, kw_only=True):
    """`failures`: what could not be read, by what it is, and why; what depends on it has its empty value then."""

    pipeline: Pipeline
    settings: Settings
    now_ms: int
    failures: dict[str, str] = {}
    warnings: list[str] = []  # of topics that are not as declared
    topics: dict[str, int] = {}  # bare name -> partitions
    topic_settings: dict[str, dict[str, str]] = {}
    members: dict[str, int] = {}  # role -> workers that run
    looks: list[PipelineStatus] = []
    apart_s: float = LOOK_S  # the first look and the last
    newest: dict[tuple[str, int], Newest] = {}
    redis_info: dict[str, Any] = {}
    redis_clock_ms: int | None = None
    snapshot: bytes | None = None  # of the champion
    archive_end: int | None = None  # None: no archive can be read
    first_unarchived_ms: int = -1
    airflow: dict[str, str] = {}  # component -> health


def gather(pipeline: Pipeline, settings: Settings) -> Facts:
    """Look at everything; never raises because something is out of order."""
    facts = Facts(pipeline=pipeline, settings=settings, now_ms=int(time.time() * 1000))
    _attempt(facts, "signing_key", settings.signing)
    _attempt(facts, "redis", lambda: _look_at_redis(facts))
    kafka = KafkaTopics(settings.kafka(), TopicNames.of(pipeline))
    if _attempt(facts, "kafka", lambda: _look_at_topics(facts, kafka)) and facts.topics:
        checked = _attempt(facts, "topics", kafka.check)
        facts.warnings = checked.warnings if checked else []
        facts.topic_settings = _attempt(facts, "topic_settings", lambda: kafka.settings() or {}) or {}
        if "redis" not in facts.failures:
            _attempt(facts, "status", lambda: _look_twice(facts))
        _attempt(facts, "records", lambda: _sample(facts, kafka))
        if find_spec("deltalake") is not None:
            _attempt(facts, "archive", lambda: _look_at_archive(facts, kafka))
    _attempt(facts, "artifacts", lambda: _try_artifacts(facts))
    if settings.airflow_url:
        client = AirflowClient(settings.airflow_url, "", "")
        facts.airflow = _attempt(facts, "airflow", client.health) or {}
    return facts


def _attempt(facts: Facts, what: str, call: Callable[[], T]) -> T | None:
    try:
        return call()
    except (DriftloopError, redis.RedisError, OSError) as error:
        facts.failures[what] = str(error)
        return None


def _look_at_redis(facts: Facts) -> None:
    settings = facts.settings
    client = redis.Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=settings.redis_timeout_s,
        socket_connect_timeout=settings.redis_timeout_s,
    )
    try:
        facts.redis_info = dict(client.info())
        before_s = time.time()
        seconds, micros = client.time()
        facts.redis_clock_ms = int((seconds + micros / 1e6 - (before_s + time.time()) / 2) * 1000)
        stored: Any = client.hget(f"{{{facts.pipeline.name}:model:0}}:live", "model:champion")
        facts.snapshot = stored
    finally:
        client.close()


def _look_at_topics(facts: Facts, kafka: KafkaTopics) -> bool:
    facts.topics = {name: found.partitions for name, found in kafka.describe().topics.items()}
    facts.members = {role: kafka.members(f"{facts.pipeline.name}-{role}") for role in ("score", "learn")}
    return True


def _look_twice(facts: Facts) -> None:
    started_s = []
    for number in range(2):
        if number:
            time.sleep(LOOK_S)
        started_s.append(time.monotonic())
        facts.looks.append(read_status(facts.settings, facts.pipeline.name, facts.pipeline.reads))
    facts.apart_s = started_s[1] - started_s[0]


def _sample(facts: Facts, kafka: KafkaTopics) -> None:
    names = TopicNames.of(facts.pipeline)
    for topic in INPUTS:
        for partition in range(min(facts.topics.get(topic, 0), PARTITIONS_MAX)):
            low, high = kafka.offsets(topic, partition)
            start = max(low, high - SAMPLE)
            if start == high:
                continue
            records = [r for b in read_range(facts.settings.kafka(), names, topic, partition, start, high) for r in b]
            if records:
                facts.newest[topic, partition] = Newest(
                    [record.key for record in records if record.key],
                    max(record.timestamp_ms for record in records),
                    max(_event_ms(topic, record.value) for record in records),
                )


def _event_ms(topic: str, value: bytes | None) -> int:
    field = "occurred_at_ms" if topic == "events" else "labelled_at_ms"
    try:
        found = msgspec.json.decode(value or b"")[field]
    except (msgspec.DecodeError, KeyError, TypeError):
        return -1
    return found if isinstance(found, int) else -1


def _look_at_archive(facts: Facts, kafka: KafkaTopics) -> None:
    from stream.adapters.delta_archive import ExampleArchive

    url = facts.settings.archive_url
    if "://" not in url and not Path(url).is_dir():
        return  # nobody archives
    facts.archive_end = ExampleArchive(url, facts.pipeline.name).end(0)
    if "examples" in facts.topics and facts.archive_end < kafka.offsets("examples", 0)[1]:
        facts.first_unarchived_ms = kafka.timestamp_ms(
            "examples", 0, max(facts.archive_end, kafka.offsets("examples", 0)[0])
        )


def _try_artifacts(facts: Facts) -> None:
    files = ArtifactFiles(facts.settings.artifact_url, facts.pipeline.name)
    path, data = f"doctor/{secrets.token_hex(4)}", b"driftloop doctor was here"
    files.put_file(path, data)
    if files.find_file(path) != data:
        raise OSError(f"{facts.settings.artifact_url}: what was written is not what is read")
    files.delete_file(path)
