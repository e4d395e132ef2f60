"""The main path on the real Kafka and Redis, compared byte for byte with an undisturbed pass in memory."""

from __future__ import annotations

from collections.abc import Callable

import jsonschema
import msgspec
import pytest

from stream.cli.running import forget
from stream.contracts import schema_for
from stream.core.records import Record
from stream.local.process import Child
from stream.messages import Drift
from tests.support.oracles import examine
from tests.support.world import World, card_stream

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def test_events_become_predictions_and_labels_a_better_model(world: World):
    world.produce(card_stream(6_000))
    world.start("learn")
    world.start("score", pace_s=0.0003, batch_records_max="50")  # the model has time to learn
    world.wait_settled()
    verdict = examine(world)
    assert verdict.predictions == 6_000
    assert verdict.copies == 0
    assert not verdict.dead_letters
    assert verdict.learned > 5_000
    assert verdict.versions > 3
    metrics = world.status().learner["metrics"]["window"]  # type: ignore[index]
    assert metrics["model"]["roc_auc"] > 0.8
    assert metrics["skill_vs_prior"] > 0.1
    for topic in ("predictions", "examples"):
        schema = jsonschema.Draft202012Validator(schema_for(topic))
        for record in world.read(topic)[0][:300]:
            schema.validate(msgspec.json.decode(record.value or b""))
    world.stop_workers()


COMMON = [
    "on_time_labels", "early_labels", "correction_labels", "duplicate_labels", "duplicate_events",
    "labels_kept_early", "forgotten", "dead_letters.label_without_event", "dead_letters.event_key_mismatch",
]  # fmt: skip


@pytest.mark.parametrize(("missing", "cases"), [("default", ["default_labels"]), ("none", ["late_labels"])])
def test_every_label_case(make_world: Callable[..., World], missing: str, cases: list[str]):
    world = make_world(missing=missing)
    world.produce(
        card_stream(
            4_000, early=0.1, late=0.1, contradicting=0.1, duplicate=0.1, missing=0.2, unknown=0.05, repeated=0.05
        )
    )
    world.start("learn")
    world.start("score")
    world.wait_settled()
    verdict = examine(world)
    for case in [*COMMON, *cases]:
        assert verdict.counts[case] > 20, (case, verdict.counts)
    assert set(verdict.dead_letters) <= {"label_without_event", "label_key_mismatch", "event_key_mismatch"}


def test_a_change_becomes_one_drift(make_world: Callable[..., World]):
    # One partition: of two, one may be far ahead, and then each changes at another example.
    world = make_world(partitions=1)
    world.produce(card_stream(7_000, changed_at=4_000, partitions=1))
    world.start("learn")
    world.start("score")
    world.wait_settled()
    assert examine(world).drifts == 1
    (record,) = world.read("drifts")[0]
    drift = msgspec.json.decode(record.value or b"", type=Drift)
    jsonschema.Draft202012Validator(schema_for("drifts")).validate(msgspec.json.decode(record.value or b""))
    assert drift.signal in ("error", "label")
    examples = world.read("examples")[0]
    changed_ms = event_time(world.read("events"), "e4000")
    noticed = msgspec.json.decode(examples[drift.to_offset - 1].value or b"")["occurred_at_ms"]
    located = msgspec.json.decode(examples[drift.from_offset].value or b"")["occurred_at_ms"]
    assert changed_ms < noticed < changed_ms + 1_500_000  # an event a second
    assert abs(located - changed_ms) < 400_000  # labels come up to five minutes late, in no order
    assert record.timestamp_ms == examples[drift.to_offset - 1].timestamp_ms == drift.detected_at_ms
    world.stop_workers()


def event_time(events: dict[int, list[Record]], event_id: str) -> int:
    found = (msgspec.json.decode(r.value or b"") for records in events.values() for r in records)
    return next(event["occurred_at_ms"] for event in found if event["event_id"] == event_id)


def test_two_pipelines_and_one_of_them_poisoned(make_world: Callable[..., World]):
    """On one Kafka and one Redis: neither takes anything from the other, nor is held up by it."""
    poisoned, healthy = make_world(), make_world()
    poisoned.produce(card_stream(4_000, seed=2, poison=0.7))
    healthy.produce(card_stream(4_000, seed=3))
    for world in (poisoned, healthy):
        world.start("learn")
        world.start("score")
    for world in (healthy, poisoned):
        world.wait_settled()
    verdict = examine(healthy)
    assert verdict.predictions == 4_000
    assert not verdict.dead_letters
    assert sum(examine(poisoned).dead_letters.values()) > 2_500
    assert all(worker.running() for world in (poisoned, healthy) for worker in world.workers)


def test_poison_at_ten_percent(world: World):
    records = card_stream(3_999, poison=0.1)
    largest = b"x" * 1_048_400  # the broker takes 1,048,588 with what surrounds it
    records.append(Record("events", 1, 0, records[-1].timestamp_ms, b"card-1", largest, [("trace", b"0" * 50)]))
    world.produce(records, **{"message.max.bytes": 2_000_000})
    world.start("learn")
    world.start("score")
    world.wait_settled()
    verdict = examine(world)
    assert sum(verdict.dead_letters.values()) + verdict.predictions == 4_000
    assert 300 < sum(verdict.dead_letters.values()) < 500
    assert len(verdict.dead_letters) >= 6
    assert largest in {record.value for record in world.read("dead_letters")[1]}


def test_every_codec_is_read(world: World):
    records = card_stream(1_200)
    for number, codec in enumerate(("none", "gzip", "snappy", "lz4", "zstd")):
        world.produce(records[number::5], **{"compression.type": codec})
    world.start("learn")
    world.start("score")
    world.wait_settled()
    assert len(world.read("predictions")[0]) + len(world.read("predictions")[1]) == 1_200


def test_producers_may_use_transactions(world: World):
    """Markers end the log: the worker must know that nothing more is to come, and align what comes later."""
    first, second = halves(card_stream(4_000))
    world.produce_in_transactions(first)
    world.start("learn")
    score = world.start("score")
    world.wait(world.done, "the first half to be processed")
    score.signal(19)
    world.produce_in_transactions(second)
    assert world.lag() > 2_000
    score.signal(18)
    world.wait(world.done, "the second half to be processed")
    verdict = examine(world)
    assert verdict.predictions == 4_000
    assert verdict.counts["on_time_labels"] > 3_500


def halves(records: list[Record]) -> tuple[list[Record], list[Record]]:
    return records[: len(records) // 2], records[len(records) // 2 :]


def test_two_workers_share_the_partitions(make_world: Callable[..., World]):
    world = make_world(partitions=4)
    world.produce(card_stream(12_000, partitions=4))
    world.start("learn")
    workers = [world.start("score", pace_s=0.0005, batch_records_max="50") for _ in range(2)]
    world.wait(lambda: sorted(map(len, map(_owned, workers))) == [2, 2], "a share for each")
    assert world.lag() > 0
    world.wait_settled()
    assert examine(world).predictions == 12_000
    world.stop_workers()


def _owned(worker: Child) -> list[str]:
    lines = [line for line in worker.tail(100).splitlines() if "owns partitions [" in line]
    return lines[-1].partition("partitions [")[2].partition("]")[0].replace(",", " ").split() if lines else []


def test_after_a_reset_every_example_is_learned_once_more(world: World):
    """Examples are numbered from one again; those of the time before lie in the log and must not be taken for them."""
    world.produce(card_stream(1_500))
    world.start("learn")
    world.start("score")
    world.wait_settled()
    first = world.status().learner["counts"]["learned"]  # type: ignore[index]
    world.stop_workers()
    forget(world.settings, world.name)
    world.start("learn")
    world.start("score")
    world.wait_settled()
    counts = world.status().learner["counts"]  # type: ignore[index]
    assert counts["learned"] == first > 1_000
    assert "repeats" not in counts
    world.stop_workers()
