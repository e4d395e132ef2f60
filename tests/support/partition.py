"""One score partition on the in-memory ports: feed records, look at what came out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from stream.adapters.memory import MemoryPublisher, MemoryStateStore
from stream.core.explaining import compile_scorer
from stream.core.records import Record
from stream.core.scoring import LiveModel
from stream.messages import ModelRef
from stream.pipeline import Pipeline
from stream.ports import Outgoing
from stream.worker.score import ScorePartition

__all__ = ["Outcome", "live_model", "run"]


def live_model(pipeline: Pipeline, model: Any = None, version: str = "base@0") -> LiveModel:
    scorer = compile_scorer(
        pipeline.build() if model is None else model,
        pipeline.task,
        explained_top=pipeline.explained_top,
        threshold=pipeline.threshold,
    )
    return LiveModel(ModelRef(pipeline.name, version), scorer)


class Outcome:
    """What one run left behind."""

    def __init__(self, store: MemoryStateStore, published: list[Outgoing]) -> None:
        self.store = store
        self.published = published

    def of(self, topic: str) -> list[Outgoing]:
        return [record for record in self.published if record.topic == topic]

    def values(self, topic: str) -> list[dict[str, Any]]:
        return [msgspec.json.decode(record.value or b"") for record in self.of(topic)]

    def counts(self, partition: int = 0) -> dict[str, int]:
        meta = self.store.partitions[partition].meta
        return dict(msgspec.json.decode(meta or b"")["counts"])

    def codes(self) -> list[str]:
        return [dict(r.headers or [])["driftloop.error.code"].decode() for r in self.of("dead_letters")]  # type: ignore[union-attr]


def run(
    pipeline: Pipeline,
    batches: Iterable[Sequence[Record]],
    model: LiveModel | None = None,
    *,
    partition: int = 0,
    model_for: Callable[[Sequence[Record]], LiveModel] | None = None,
    answered_until: dict[str, int] | None = None,
    partitions: int = 1,
) -> Outcome:
    """Process batches one after the other, as one owner without faults; `model_for` chooses the model of each."""

    async def work() -> Outcome:
        store, publisher = MemoryStateStore(), MemoryPublisher()
        live = model or live_model(pipeline)
        owner = ScorePartition(
            pipeline, partition, store, publisher, lambda: live, answered_until=answered_until, partitions=partitions
        )
        await owner.acquire()
        for batch in batches:
            if model_for is not None:
                live = model_for(batch)
            await owner.process(batch)
        await owner.finish()
        return Outcome(store, publisher.published)

    return asyncio.run(work())
