"""A worker stops when nearly everything of a topic is wrong, and for no other reason."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from stream import Labels
from stream.adapters.memory import MemoryPublisher, MemoryStateStore
from stream.core.records import Record
from stream.errors import StartupRefused
from stream.pipeline import Pipeline
from stream.worker.score import ScorePartition
from tests.support.partition import live_model
from tests.support.records import event, label, pipeline_of


def process(*batches: list[Record], share: float = 0.9, pipeline: Pipeline | None = None) -> MemoryStateStore:
    pipeline = pipeline or pipeline_of()

    async def work() -> MemoryStateStore:
        store, model = MemoryStateStore(), live_model(pipeline)
        owner = ScorePartition(pipeline, 0, store, MemoryPublisher(), lambda: model, dead_share_max=share)
        await owner.acquire()
        for batch in batches:
            await owner.process(batch)
        await owner.finish()
        return store

    return asyncio.run(work())


def bad(n: int, start: int = 0, topic: str = "events") -> list[Record]:
    return [Record(topic, 0, start + i, 1_000, b"k", b"{") for i in range(n)]


def good(n: int, start: int = 0) -> list[Record]:
    return [event(start + i, at_ms=1_000) for i in range(n)]


def labels(n: int, start: int = 0) -> list[Record]:
    return [label(start + i, f"e{start + i}", at_ms=1_000) for i in range(n)]


def test_nearly_all_wrong():
    with pytest.raises(StartupRefused, match=r"250 of the last 250 events .* lately json_invalid") as error:
        process(bad(250))
    assert error.value.code == "mostly_dead_letters"
    process(bad(250), share=1.0)


def test_a_source_that_has_had_its_share_stops_nobody():
    """That is what the cap is for: its labels are dead letters, the others go on."""
    rules = Labels(source_share_max={"bank": 0.3})
    store = process(good(600), *([one] for one in labels(600)), pipeline=pipeline_of(labels=rules))
    counts = msgspec.json.decode(store.partitions[0].meta or b"")["counts"]
    assert counts["dead_letters.label_source_capped"] > 400
    assert counts["predictions"] == 600


def test_a_handful_is_nothing():
    process(bad(150))


def test_batches_are_small_at_live_rates():
    with pytest.raises(StartupRefused, match="200 of the last 200 events"):
        process(*(bad(5, start) for start in range(0, 200, 5)))
    process(*(bad(5, start) for start in range(0, 195, 5)))


def test_good_labels_do_not_speak_for_bad_events():
    batches = [bad(1, start) + labels(1, start) for start in range(200)]
    with pytest.raises(StartupRefused, match=r"200 of the last 200 events .* lately json_invalid"):
        process(*batches)
    with pytest.raises(StartupRefused, match="250 of the last 250 events"):
        process(labels(250) + bad(250))


def test_good_events_do_not_speak_for_bad_labels():
    batches = [good(2, start) + bad(1, start // 2, "labels") for start in range(0, 400, 2)]
    with pytest.raises(StartupRefused, match=r"200 of the last 200 labels .* lately json_invalid"):
        process(*batches)


def test_what_was_good_long_ago_does_not_count():
    with pytest.raises(StartupRefused, match="181 of the last 200 events"):
        process(*(good(1, i) for i in range(300)), *(bad(1, 300 + i) for i in range(250)))


def test_a_repeated_event_is_answered():
    process(*([event(i, "e0", at_ms=1_000)] for i in range(250)))


def test_labels_that_waited_too_long_are_not_of_this_batch():
    early = [label(i, f"nobody-{i}", at_ms=1_000) for i in range(1_000)]
    later = [event(i + 1, at_ms=100_000 + i) for i in range(250)]
    store = process([event(0, at_ms=1_000)], early, later)
    assert b'"dead_letters.label_without_event":1000' in (store.partitions[0].meta or b"")
