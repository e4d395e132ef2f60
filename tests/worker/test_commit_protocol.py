"""The commit protocol with a fault at every await: whatever happens, the outcome is that of an undisturbed pass.

Each call to a port may go well, be lost before or after it was applied, kill the worker before or after it was applied,
or find that another worker has taken the partition over meanwhile.
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st

from stream import Labels
from stream.adapters.memory import MemoryPublisher, MemoryStateStore
from stream.core.records import Record
from stream.errors import Conflict, Fenced, Unavailable
from stream.ports import Outgoing
from stream.worker import score as score_module
from stream.worker.score import ScorePartition
from tests.core.test_scoring import STEP, build_stream, flat
from tests.support.partition import Outcome, live_model, run
from tests.support.records import pipeline_of

PIPELINE = pipeline_of(
    labels=Labels(wait="1m", keep_late="30s", early_wait="20s", early_max=3, missing="default", default=False)
)
MODEL = live_model(PIPELINE)

LAG = {
    "predictions": 0,
    "examples": 12,
    "dead_letters": 3,
}  # turns of the event loop until a topic's records are acknowledged
FAULTS = ("lost_before", "lost_after", "killed_before", "killed_after", "stolen")


class Killed(Exception):
    """The worker is gone; nothing it would have done next happens."""


class Faults:
    """Deals the planned faults to the calls, in order; then all is well."""

    def __init__(self, plan: list[tuple[int, str]]) -> None:
        self._plan = list(plan)
        self._calls_until = plan[0][0] if plan else -1
        self.dealt: Counter[str] = Counter()
        self.thief: Any = None
        self.dead = False  # a killed worker does nothing more, in none of its tasks

    async def around(self, call: Any, apply: Any) -> Any:
        if self.dead:
            raise Killed
        fault = self.next()
        if fault is None:
            return await apply()
        self.dealt[f"{fault} {call}"] += 1
        if fault == "stolen" and self.thief is not None:
            await self.thief()
            return await apply()
        if fault.endswith("_after"):
            await apply()
        if fault.startswith("killed"):
            self.dead = True
            raise Killed
        raise Unavailable(f"planned: {fault}")

    def next(self) -> str | None:
        if not self._plan:
            return None
        if self._calls_until > 0:
            self._calls_until -= 1
            return None
        fault = self._plan.pop(0)[1]
        self._calls_until = self._plan[0][0] if self._plan else -1
        return fault


class FaultyStore:
    """Fulfils ports.StateStore on top of the twin."""

    def __init__(self, inner: MemoryStateStore, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if name != "commit":
                return await self._faults.around(name, lambda: method(*args, **kwargs))
            lease, commit = args
            mine = copy.copy(lease)  # when the answer is lost, the owner's lease has not moved
            await self._faults.around(name, lambda: method(mine, commit))
            lease.sequence = mine.sequence

        return call


class FaultyPublisher:
    """Kafka's producer retries by itself, so a publication is only ever cut short by a death.

    Like the real one it keeps order within a topic's partition only: one topic may lag behind another.
    """

    def __init__(self, inner: MemoryPublisher, faults: Faults) -> None:
        self._inner, self._faults = inner, faults
        self._turn: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def publish(self, records: Iterable[Outgoing]) -> None:
        fault = self._faults.next()
        by_topic: defaultdict[str, list[Outgoing]] = defaultdict(list)
        for record in records:
            by_topic[record.topic].append(record)
        await asyncio.gather(*(self._deliver(topic, its, fault) for topic, its in by_topic.items()))

    async def _deliver(self, topic: str, records: list[Outgoing], fault: str | None) -> None:
        async with self._turn[topic]:
            for _ in range(LAG[topic]):
                await asyncio.sleep(0)
            if self._faults.dead:
                raise Killed
            dies = fault in ("killed_before", "killed_after")
            await self._inner.publish(records[: len(records) // 2] if fault == "killed_before" else records)
            if dies:
                self._faults.dealt[f"{fault} publish"] += 1
                self._faults.dead = True
                raise Killed

    async def close(self) -> None:
        return None


def disturbed(records: list[Record], sizes: list[int], plan: list[tuple[int, str]]) -> tuple[Outcome, Faults]:
    async def work() -> tuple[Outcome, Faults]:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # nobody asks after a killed worker's tasks
        store, publisher, faults = MemoryStateStore(), MemoryPublisher(), Faults(plan)

        def owner() -> ScorePartition:
            return ScorePartition(
                PIPELINE, 0, FaultyStore(store, faults), FaultyPublisher(publisher, faults), lambda: MODEL
            )

        async def thief() -> None:
            """Another worker: takes over, goes a little further, and dies."""
            faults.thief = None
            other = ScorePartition(PIPELINE, 0, store, publisher, lambda: MODEL)
            offsets = await other.acquire()
            await other.process([r for r in records if r.offset >= offsets.get(r.topic, 0)][:3])
            await other.finish()

        for _ in range(len(plan) + 1):
            faults.thief = thief
            current = owner()
            try:
                offsets = await current.acquire()
                left = [r for r in records if r.offset >= offsets.get(r.topic, 0)]
                at = 0
                for size in [*sizes, len(left)]:
                    await current.process(left[at : at + size])
                    at += size
                await current.finish()
                break
            except (Killed, Fenced):
                left_behind = asyncio.all_tasks() - {asyncio.current_task()}
                for task in left_behind:
                    task.cancel()
                await asyncio.gather(*left_behind, return_exceptions=True)
                faults.dead = False
        else:
            pytest.fail("the faults did not end")
        return Outcome(store, publisher.published), faults

    return asyncio.run(work())


PLAN = st.lists(st.tuples(st.integers(min_value=0, max_value=12), st.sampled_from(FAULTS)), max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=30), st.lists(st.integers(min_value=1, max_value=6), max_size=12), PLAN)
def test_no_fault_changes_the_outcome(
    steps: list[tuple[str, int, int, bool]], sizes: list[int], plan: list[tuple[int, str]]
):
    score_module.RETRY_FIRST_S = 0.0
    records = build_stream(steps)
    expected = run(PIPELINE, [[record] for record in records], MODEL)
    outcome, faults = disturbed(records, sizes, plan)
    for dealt in faults.dealt:
        note(dealt)
    got, wanted = flat(outcome), flat(expected)
    # O4: the state is that of an uninterrupted pass.
    assert got[:-1] == wanted[:-1]
    # O1 to O3, O6: on every topic the same records in the same order; repeats are identical copies.
    for topic in LAG:
        assert _unique(outcome.of(topic)) == _unique(expected.of(topic))
    assert len(outcome.published) >= len(expected.published)
    # O5: example numbers without gaps.
    sequences = list(dict.fromkeys(e["sequence"] for e in outcome.values("examples")))
    assert sequences == list(range(1, len(sequences) + 1))
    assert outcome.store.partitions[0].outbox == {}


def _unique(published: list[Outgoing]) -> list[Any]:
    return list(
        dict.fromkeys((r.topic, r.partition, r.key, r.value, r.timestamp_ms, repr(r.headers)) for r in published)
    )


def test_the_faults_are_really_dealt():
    steps = [("event", 1_000, i, True) for i in range(12)] + [("label", 10, i, True) for i in range(12)]
    records = build_stream(steps)
    met: Counter[str] = Counter()
    for at in range(40):
        for fault in FAULTS:
            _, faults = disturbed(records, [3] * 8, [(at, fault)])
            met += faults.dealt
    for fault in ("lost_before", "lost_after", "killed_before", "killed_after", "stolen"):
        for call in ("acquire", "fetch", "commit", "trim"):
            assert met[f"{fault} {call}"] > 0, f"{fault} {call}"
    assert met["killed_before publish"] > 0
    assert met["killed_after publish"] > 0


def test_a_commit_that_another_history_stands_before_is_a_conflict():
    async def work() -> None:
        store = MemoryStateStore()
        owner = ScorePartition(PIPELINE, 0, store, MemoryPublisher(), lambda: MODEL)
        await owner.acquire()
        records = build_stream([("event", 1, 0, True)] * 4)
        await owner.process(records[:2])
        store.partitions[0].sequence -= 1  # Redis came back from an older copy
        with pytest.raises(Conflict, match="sequence 1, stored 0"):
            await owner.process(records[2:])

    asyncio.run(work())
