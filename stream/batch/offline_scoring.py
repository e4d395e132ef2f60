"""Micro-batches scored as a score worker does it, with the state in memory and nothing published."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from stream.adapters.memory import MemoryStateStore
from stream.core.forms import WIRE, Form
from stream.core.records import Record
from stream.core.remembering import Remembered, encode_remembered
from stream.core.scoring import LiveModel, ScoreStep
from stream.pipeline import Pipeline
from stream.ports import Lease, Outgoing

__all__ = ["OfflineScoring"]

OBJECTS_MAX = 20_000  # remembered events, labelled or not


class OfflineScoring:
    """All partitions of one pipeline."""

    def __init__(self, pipeline: Pipeline, form: Form = WIRE) -> None:
        self._pipeline = pipeline
        self._form = form
        self._store = MemoryStateStore()
        self._partitions: dict[int, tuple[ScoreStep, Lease]] = {}
        self._newest: deque[tuple[int, list[str]]] = deque()  # partition, event ids of a batch
        self._objects = 0  # of all these batches

    @property
    def steps(self) -> list[ScoreStep]:
        """Of the partitions that had records."""
        return [step for step, _ in self._partitions.values()]

    async def score(self, partition: int, records: Sequence[Record], model: LiveModel) -> list[Outgoing]:
        """One micro-batch; returns what a worker would publish, in the form asked for."""
        store = self._store
        if partition not in self._partitions:
            acquired = await store.acquire(partition)
            step = ScoreStep(self._pipeline, partition, acquired, form=self._form)
            self._partitions[partition] = step, acquired.lease
        step, lease = self._partitions[partition]
        batch = step.parse(records)
        needs = step.needs(batch)
        fetched = await store.fetch(
            partition,
            generation=needs.generation,
            entities=needs.entities,
            event_ids=needs.event_ids,
            due_until_ms=needs.due_until_ms,
        )
        due = await store.remembered(partition, step.load(needs, fetched, batch))
        commit, outgoing = step.step(batch, due, model)
        commit.outbox = None
        await store.commit(lease, commit)
        if self._form is not WIRE:
            self._bound_objects(partition, commit.remember)
        return outgoing

    def _bound_objects(self, partition: int, remembered: Iterable[str]) -> None:
        """Of a history without labels, too, only the newest events are kept as objects."""
        changed = list(remembered)
        self._newest.append((partition, changed))
        self._objects += len(changed)
        while self._objects > OBJECTS_MAX:
            its, oldest = self._newest.popleft()
            self._objects -= len(oldest)
            kept: dict[str, Any] = self._store.partitions[its].remembered
            kept |= {
                event_id: encode_remembered(one)
                for event_id in oldest
                if isinstance(one := kept.get(event_id), Remembered)
            }
