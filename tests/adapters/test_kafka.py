"""The publisher and the topics on the real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions

from stream.adapters.kafka_publisher import KafkaPublisher
from stream.adapters.kafka_topics import KafkaTopics
from stream.adapters.memory import MemoryPublisher
from stream.errors import StartupRefused, Unavailable
from stream.ports import Outgoing, Publisher
from stream.topics import DECLARATIONS, TopicNames
from tests.support.world import World

pytestmark = pytest.mark.integration


@pytest.fixture(params=["memory", "kafka"])
def publisher(request: pytest.FixtureRequest, make_world: Callable[..., World]) -> Any:
    """(a function that makes the publisher, a function that reads everything published to a topic's partition)."""
    if request.param == "memory":
        kept = MemoryPublisher()
        return lambda: kept, lambda topic, partition: [
            r for r in kept.published if (r.topic, r.partition) == (topic, partition)
        ]
    world = make_world()
    return lambda: KafkaPublisher(world.settings.kafka(), world.names), lambda topic, partition: world.read(topic)[
        partition
    ]


def test_what_is_published_is_there_whole_and_in_order(publisher: Any):
    make, read = publisher
    headers: list[tuple[str, bytes | None]] = [
        ("driftloop.error.code", b"json_invalid"),
        ("empty", None),
        ("same", b"1"),
        ("same", b"2"),
    ]
    records = [Outgoing("predictions", i % 2, b"k%d" % i, b"v%d" % i, 1_700_000_000_000 + i) for i in range(500)]
    letter = Outgoing("dead_letters", 1, None, b"\x00\xff", 1_700_000_000_000, headers)
    tombstone = Outgoing("dead_letters", 0, b"k", None, 1_700_000_000_000, None)

    async def work() -> None:
        out: Publisher = make()
        await asyncio.gather(out.publish(records[:200]), out.publish(records[200:]))
        await out.publish([letter, tombstone])
        await out.close()

    asyncio.run(work())
    for partition in (0, 1):
        found = read("predictions", partition)
        assert [(r.key, r.value, r.timestamp_ms) for r in found] == [
            (r.key, r.value, r.timestamp_ms) for r in records if r.partition == partition
        ]
    (back,) = read("dead_letters", 1)
    assert (back.key, back.value, [tuple(h) for h in back.headers]) == (None, b"\x00\xff", headers)
    assert read("dead_letters", 0)[0].value is None


def test_publishing_waits_for_a_broker_that_is_away(world: World):
    async def work() -> None:
        out = KafkaPublisher(world.settings.kafka(), world.names)
        await out.publish([Outgoing("predictions", 0, b"k", b"before", 1_700_000_000_000)])
        world.stack.kafka.kill()
        waiting = asyncio.create_task(out.publish([Outgoing("predictions", 0, b"k", b"after", 1_700_000_000_000)]))
        done, _ = await asyncio.wait({waiting}, timeout=0.5)
        assert not done
        await asyncio.to_thread(world.stack.kafka.restart)
        async with asyncio.timeout(60):
            await waiting
        await out.close()

    asyncio.run(work())
    assert [r.value for r in world.read("predictions")[0]] == [b"before", b"after"]


def test_topics_are_made_as_declared_and_only_once(world: World):
    cluster = world.kafka.check()
    assert set(cluster.topics) == set(DECLARATIONS)
    assert cluster.topics["events"].partitions == cluster.topics["labels"].partitions == 2
    assert cluster.topics["releases"].partitions == 1
    assert world.kafka.create(9, 1) == []
    assert cluster.warnings == []
    assert len({found.topic_id for found in cluster.topics.values()}) == len(DECLARATIONS)


def test_topics_that_do_not_fit_are_refused(world: World):
    admin = AdminClient(world.settings.kafka())
    for future in admin.create_partitions([NewPartitions(world.names.events, 3)]).values():
        future.result(20)
    world.wait(lambda: world.kafka.describe().topics["events"].partitions == 3, "the new partition")
    with pytest.raises(StartupRefused) as caught:
        world.kafka.check()
    assert caught.value.code == "partition_counts_differ"
    missing = KafkaTopics(world.settings.kafka(), TopicNames("nothing-here"))
    with pytest.raises(StartupRefused, match="driftloop topics"):
        missing.check()


def set_topic(world: World, topic: str, **settings: str) -> None:
    """As somebody else may have made it."""
    kind = ConfigResource.Type.TOPIC
    entries = [
        ConfigEntry(key.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for key, value in settings.items()
    ]
    admin = AdminClient(world.settings.kafka())
    for future in admin.incremental_alter_configs(
        [ConfigResource(kind, world.names[topic], incremental_configs=entries)]
    ).values():
        future.result(20)


@pytest.mark.parametrize(
    ("topic", "setting", "code"),
    [
        ("events", {"message_timestamp_after_max_ms": str(2**63 - 1)}, "event_time_unbounded"),
        ("labels", {"cleanup_policy": "compact"}, "topic_compacted"),
        ("examples", {"cleanup_policy": "compact,delete"}, "topic_compacted"),
        ("dead_letters", {"max_message_bytes": "1000000"}, "dead_letters_too_small"),
    ],
)
def test_settings_that_would_lose_or_corrupt_records_are_refused(
    world: World, topic: str, setting: dict[str, str], code: str
):
    set_topic(world, topic, **setting)
    with pytest.raises(StartupRefused, match=world.names[topic]) as caught:
        world.wait(lambda: bool(world.kafka.check().warnings), "the setting to be seen")
    assert caught.value.code == code


def test_other_settings_than_declared_are_warned_of(world: World):
    set_topic(world, "events", retention_ms="1000", message_timestamp_after_max_ms="3600000")
    world.wait(lambda: len(world.kafka.check().warnings) == 2, "the settings to be seen")
    first, second = sorted(world.kafka.check().warnings)
    assert first == f"{world.names.events}: message.timestamp.after.max.ms is 3600000, declared 300000"
    assert second == f"{world.names.events}: retention.ms is 1000, declared 604800000"


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stream.adapters.kafka_topics.TIMEOUT_S", 1.0)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        KafkaTopics({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, TopicNames("x")).describe()


def test_inputs_that_are_anothers_are_neither_made_nor_deleted(world: World):
    names = TopicNames("reader-of-" + world.name, world.name)
    kafka = KafkaTopics(world.settings.kafka(), names)
    made = kafka.create(7, 1)
    assert set(made) == DECLARATIONS.keys() - {"events", "labels"}
    found = kafka.check().topics
    assert found["predictions"].partitions == found["events"].partitions == 2  # not 7
    assert found["events"].topic_id == world.kafka.describe().topics["events"].topic_id
    kafka.delete()
    world.wait(lambda: set(kafka.describe().topics) == {"events", "labels"}, "its own topics to be gone")
    of_nothing = KafkaTopics(world.settings.kafka(), TopicNames("reader", "nothing-here"))
    for call in (lambda: of_nothing.create(2, 1), of_nothing.check):
        with pytest.raises(StartupRefused, match=r"nothing-here\.events does not exist; `reads` names it"):
            call()


def test_offsets_by_time_and_members_of_a_group(world: World):
    from tests.support.world import card_stream

    records = [r for r in card_stream(300, partitions=2) if r.topic == "events"]
    world.produce(records)
    first = [r for r in records if r.partition == 0]
    middle = first[40].timestamp_ms
    last = records[-1].timestamp_ms
    assert world.kafka.offsets_at("events", {0: middle}) == {0: 40}
    assert world.kafka.offsets_at("events", {0: middle - 1, 1: last + 1})[0] == 40
    assert world.kafka.offsets_at("events", {1: last + 1}) == {1: len(records) - len(first)}
    assert world.kafka.offsets_at("events", {}) == {}
    assert world.kafka.timestamp_ms("events", 0, 40) == middle
    assert world.kafka.timestamp_ms("events", 0, len(first)) == -1
    assert world.kafka.members(f"{world.name}-learn") == 0
    world.start("learn")
    world.wait(lambda: world.kafka.members(f"{world.name}-learn") == 1, "the worker to be in its group")
    world.stop_workers()
    world.wait(lambda: world.kafka.members(f"{world.name}-learn") == 0, "the worker to be out of its group")
