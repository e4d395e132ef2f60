"""A worker stops when nearly everything of a micro-batch is wrong, and for no other reason."""

from __future__ import annotations

import asyncio

import pytest

from stream.adapters.memory import MemoryPublisher, MemoryStateStore
from stream.core.records import Record
from stream.errors import StartupRefused
from stream.worker.score import ScorePartition
from tests.support.partition import live_model
from tests.support.records import event, label, pipeline_of


def process(*batches: list[Record], share: float = 0.9) -> MemoryStateStore:
    pipeline = pipeline_of()

    async def work() -> MemoryStateStore:
        store, model = MemoryStateStore(), live_model(pipeline)
        owner = ScorePartition(pipeline, 0, store, MemoryPublisher(), lambda: model, dead_share_max=share)
        await owner.acquire()
        for batch in batches:
            await owner.process(batch)
        await owner.finish()
        return store

    return asyncio.run(work())


def bad(n: int) -> list[Record]:
    return [Record("events", 0, i, 1_000, b"k", b"{") for i in range(n)]


def test_nearly_all_wrong():
    with pytest.raises(StartupRefused, match=r"250 of 250 records .* 250 of them json_invalid") as error:
        process(bad(250))
    assert error.value.code == "mostly_dead_letters"
    process(bad(250), share=1.0)


def test_a_handful_is_nothing():
    process(bad(150))


def test_labels_that_waited_too_long_are_not_of_this_batch():
    early = [label(i, f"nobody-{i}", at_ms=1_000) for i in range(1_000)]
    later = [event(i + 1, at_ms=100_000 + i) for i in range(250)]
    store = process([event(0, at_ms=1_000)], early, later)
    assert b'"dead_letters.label_without_event":1000' in (store.partitions[0].meta or b"")
