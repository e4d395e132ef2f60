"""`driftloop doctor`: each check alone, and the command on real servers that are out of order."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from typer.testing import CliRunner

from stream.adapters.file_pipelines import load_pipeline
from stream.cli.checks import CHECKS, examine
from stream.cli.facts import Facts, Newest
from stream.cli.main import app
from stream.cli.showing import PipelineStatus
from stream.codes import explained
from stream.core.partitioning import java_partition, murmur2
from stream.core.remembering import Meta
from stream.core.snapshot import SnapshotHeader, seal
from stream.settings import load_settings
from tests.support.world import PIPELINE_FILE, World, card_stream

NOW_MS = 1_800_000_000_000
KEY, OLD = "k" * 32, "o" * 32
KEYS = [f"card-{number}".encode() for number in range(200)]


def look(
    events: int = 1_000,
    lag: int = 0,
    *,
    labels: int = 900,
    labels_lag: int = 0,
    examples: int = 900,
    learned: int = 900,
    **counts: int,
) -> PipelineStatus:
    offsets = {"events": events - lag, "labels": labels - labels_lag}
    meta = Meta(offsets=offsets, counts={"events": events, "labels": 900, **counts})
    return PipelineStatus(
        "cards",
        {0: meta},
        {"events": {0: events}, "labels": {0: labels}, "examples": {0: examples}},
        {"version": f"b@{learned}"},
        {},
    )


def well(**changes: Any) -> Facts:
    """A pipeline that nothing ails."""
    header = SnapshotHeader(pipeline="cards", base="b", offset=1, shard=0, configuration="c", digest="d")
    newest = {
        (topic, p): Newest([k for k in KEYS if java_partition(k, 2) == p], NOW_MS - 5_000, NOW_MS - 6_000)
        for topic in ("events", "labels")
        for p in range(2)
    }
    facts = Facts(
        pipeline=load_pipeline(PIPELINE_FILE).pipeline,
        settings=load_settings(signing_key=KEY, signing_keys_old=OLD),
        now_ms=NOW_MS,
        topics={"events": 2, "labels": 2, "examples": 1},
        topic_settings={name: {"retention.ms": "864000000"} for name in ("events", "labels", "examples")},
        members={"score": 1, "learn": 1},
        looks=[look(), look()],
        newest=newest,
        redis_info={
            "redis_version": "7.2.1",
            "aof_enabled": 1,
            "maxmemory_policy": "noeviction",
            "maxmemory": 100,
            "used_memory": 1,
        },
        redis_clock_ms=3,
        snapshot=seal(header, b"model", b"state", KEY.encode()),
        airflow=dict.fromkeys(("metadatabase", "scheduler", "triggerer", "dag_processor"), "healthy"),
    )
    return msgspec.structs.replace(facts, **changes)


def sealed(key: str) -> bytes:
    header = SnapshotHeader(pipeline="cards", base="b", offset=1, shard=0, configuration="c", digest="d")
    return seal(header, b"model", b"state", key.encode())


STRAYED = {
    **{("events", p): Newest([k for k in KEYS if java_partition(k, 2) == p], NOW_MS, NOW_MS) for p in range(2)},
    **{("labels", p): Newest([k for k in KEYS if java_partition(k, 2) != p], NOW_MS, NOW_MS) for p in range(2)},
}
INFO = {"redis_version": "7.2.1", "aof_enabled": 1, "maxmemory_policy": "noeviction"}
AILMENTS: list[tuple[str, dict[str, Any]]] = [
    ("kafka_unreachable", {"failures": {"kafka": "no answer"}, "topics": {}, "looks": [], "newest": {}}),
    ("topic_missing", {"topics": {}, "looks": [], "newest": {}}),
    ("partition_counts_differ", {"failures": {"topics": "partition_counts_differ: 2 and 3"}}),
    ("topic_differs", {"warnings": ["cards.events: cleanup.policy is compact, declared delete"]}),
    ("retention_too_short", {"topic_settings": {"labels": {"retention.ms": "60000"}}}),
    ("partitioners_differ", {"newest": STRAYED}),
    ("labels_without_events", {"looks": [look(**{"dead_letters.label_without_event": 300})]}),
    ("no_labels", {"newest": {("events", 0): Newest([b"k"], NOW_MS, NOW_MS)}}),
    (
        "no_labels",
        {"newest": {("events", 0): Newest([b"k"], NOW_MS, NOW_MS), ("labels", 0): Newest([b"k"], NOW_MS - 900_000, 1)}},
    ),
    ("no_score_worker", {"members": {"score": 0, "learn": 1}}),
    ("no_learn_worker", {"members": {"score": 1, "learn": 0}}),
    ("no_progress", {"looks": [look(lag=50), look(lag=50)]}),
    ("lag_grows", {"looks": [look(5_000, 900), look(5_090, 930)]}),
    ("lag_grows", {"looks": [look(labels=5_000, labels_lag=900), look(labels=5_090, labels_lag=930)]}),
    ("lag_grows", {"looks": [look(examples=5_000, learned=4_100), look(examples=5_090, learned=4_160)]}),
    ("clock_differs", {"redis_clock_ms": -9_000}),
    ("time_in_future", {"newest": {**well().newest, ("events", 0): Newest([], NOW_MS + 300_000, NOW_MS)}}),
    ("redis_unreachable", {"failures": {"redis": "refused"}, "redis_info": {}}),
    ("redis_too_old", {"redis_info": {**INFO, "redis_version": "6.0.9"}}),
    ("redis_evicts", {"redis_info": {**INFO, "maxmemory_policy": "allkeys-lru"}}),
    ("redis_not_durable", {"redis_info": {**INFO, "aof_enabled": 0}}),
    ("redis_not_durable", {"redis_info": {**INFO, "aof_last_write_status": "err"}}),
    ("redis_nearly_full", {"redis_info": {**INFO, "maxmemory": 100, "used_memory": 90}}),
    ("signing_key_missing", {"failures": {"signing_key": "set it"}}),
    ("signing_key_not_rotated", {"snapshot": sealed(OLD)}),
    ("snapshot_not_signed_by_us", {"snapshot": sealed("x" * 32)}),
    ("snapshot_damaged", {"snapshot": b"nothing of the kind"}),
    ("no_model", {"looks": [msgspec.structs.replace(look(), learner=None)]}),
    ("artifacts_not_writable", {"failures": {"artifacts": "denied"}}),
    ("archive_unreachable", {"failures": {"archive": "denied"}}),
    ("not_looked_at", {"failures": {"records": "timed out"}}),
    ("archive_behind", {"first_unarchived_ms": NOW_MS - 6 * 86_400_000}),
    ("airflow_unreachable", {"failures": {"airflow": "refused"}}),
    ("airflow_unhealthy", {"airflow": {**well().airflow, "scheduler": "unhealthy"}}),
]


def test_lost_labels_are_counted_once():
    """Those that find no event are among the labels that came."""
    (found,) = examine(well(looks=[look(**{"dead_letters.label_without_event": 300})]))
    assert found.finding == "300 of 900 labels found no event"


@pytest.mark.parametrize(("code", "changes"), AILMENTS, ids=[f"{n}-{code}" for n, (code, _) in enumerate(AILMENTS)])
def test_what_ails_is_found_and_nothing_else(code: str, changes: dict[str, Any]):
    found = examine(well(**changes))
    assert {finding.code for finding in found} == {code}, found
    assert all(finding.finding and finding.remedy for finding in found)
    assert code in explained()


def test_a_stale_model_is_found_beside_the_missing_worker():
    found = examine(well(members={"score": 1, "learn": 0}, looks=[look(learned=100)] * 2))
    assert {finding.code for finding in found} == {"no_learn_worker", "model_is_stale"}


@pytest.mark.parametrize(
    "looks",
    [
        [look(5_000, 900), look(5_090, 890)],  # it catches up
        [look(5_000, 240), look(5_090, 290)],  # not ten seconds of 30 a second: the saw teeth of batches
        [look(5_000, 900), look(5_000, 800)],  # nothing comes any more
    ],
)
def test_a_lag_that_shrinks_or_is_short_is_none_that_grows(looks: list[PipelineStatus]):
    assert examine(well(looks=looks)) == []


def test_a_lag_is_measured_by_the_time_between_the_looks_and_by_partition():
    looks = [look(5_000, 900), look(5_090, 930)]
    assert [finding.code for finding in examine(well(looks=looks, apart_s=9.0))] == ["lag_grows"]
    assert examine(well(looks=looks, apart_s=0.9)) == []  # 930 are less than ten seconds of 100 a second
    for its, events, lag in zip(looks, (100_000, 101_000), (50_000, 40_000), strict=True):  # another one catches up
        its.ends["events"][1], its.partitions[1] = events, Meta(offsets={"events": events - lag, "labels": 0})
    (found,) = examine(well(looks=looks, apart_s=6.0))
    assert "a lag of 930, growing, on partitions 0: 15.0 come each second, 10.0 are processed" in found.finding


def test_nothing_is_wrong_with_a_pipeline_that_is_well():
    assert examine(well()) == []
    assert examine(well(snapshot=None, looks=[], newest={})) == []  # it has just been made
    assert len(CHECKS) == len(set(CHECKS))


def test_keys_go_where_java_puts_them():
    """The values of Kafka's own test of `Utils.murmur2`."""
    known = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    assert {key: murmur2(key) for key in known} == {key: value & 0xFFFFFFFF for key, value in known.items()}


def call(world: World, **environment: str) -> tuple[int, set[str], list[dict[str, str]]]:
    ours = {k: v for k, v in world.environment.items() if k.startswith("DRIFTLOOP_")}
    answer = CliRunner().invoke(
        app, ["doctor", str(PIPELINE_FILE), "--json"], env={**os.environ, **ours, **environment}
    )
    assert answer.stdout, answer.exception
    found = json.loads(answer.stdout)
    return answer.exit_code, {finding["code"] for finding in found}, found


@pytest.mark.integration
@pytest.mark.timeout(180)
def test_a_real_pipeline_well_and_ill(world: World):
    records = card_stream(400, partitions=2)
    _send(world, records, "murmur2_random", "murmur2_random")
    world.start("learn")
    world.start("score")
    world.wait_settled()
    assert call(world) == (0, set(), [])
    # The owner of labels uses librdkafka's default partitioner, and somebody has shortened a topic.
    _send(world, card_stream(300, seed=2, partitions=2), "murmur2_random", "consistent_random")
    admin = AdminClient({"bootstrap.servers": world.stack.brokers, "log_level": 0})
    short = ConfigEntry("retention.ms", "60000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, world.names.examples, incremental_configs=[short])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)
    code, codes, found = call(world, DRIFTLOOP_SIGNING_KEY="n" * 32)
    assert code == 1
    assert codes >= {"partitioners_differ", "retention_too_short", "snapshot_not_signed_by_us"}, found
    assert any("puts them: labels" in finding["finding"] for finding in found)
    world.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert "redis_evicts" in call(world)[1]
    finally:
        world.redis.config_set("maxmemory-policy", "noeviction")
    world.stop_workers()
    assert call(world)[1] >= {"no_score_worker", "no_learn_worker"}
    nowhere = {"DRIFTLOOP_REDIS_URL": "redis://127.0.0.1:1/0", "DRIFTLOOP_ARTIFACT_URL": "/proc/nowhere"}
    _, codes, found = call(world, DRIFTLOOP_AIRFLOW_URL="http://127.0.0.1:1", **nowhere)
    assert codes >= {"redis_unreachable", "artifacts_not_writable", "airflow_unreachable"}, found


@pytest.mark.integration
@pytest.mark.timeout(180)
def test_a_lag_that_grows_while_a_worker_works_is_found(world: World):
    world.start("learn")
    world.start("score", pace_s=0.02, batch_records_max="10")  # at most 50 events a second
    events = [record for record in card_stream(5_000, partitions=2) if record.topic == "events"]
    world.produce(events[:2_000])  # ten seconds of what comes next, and more
    world.wait(lambda: world.committed() > 20, "the first events to be scored")
    with ThreadPoolExecutor(1) as pool:
        fed = pool.submit(world.produce, events[2_000:], rate=150)
        while not (found := [f for f in call(world)[2] if f["code"] == "lag_grows"]):
            assert not fed.done(), "the doctor did not find it while more came than was processed"
        fed.result()
    assert all(f["finding"].startswith("events: a lag of ") and "more score workers" in f["remedy"] for f in found)
    assert "lag_grows" not in call(world)[1]  # it is still there, and grows no more


def _send(world: World, records: Any, *partitioners: str) -> None:
    """Events with the first partitioner, labels with the second."""
    base_ms = int(time.time() * 1000) - 30_000
    for topic, partitioner in zip(("events", "labels"), partitioners, strict=True):
        producer = Producer({"bootstrap.servers": world.stack.brokers, "partitioner": partitioner, "log_level": 0})
        for record in records:
            if record.topic == topic:
                producer.produce(world.names[topic], record.value, record.key, timestamp=base_ms)
        assert producer.flush(20) == 0
