"""One contract for the state store, kept by the in-memory twin and by the real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stream.adapters.memory import MemoryControl, MemoryModelStore, MemoryStateStore
from stream.adapters.redis_connections import redis_client
from stream.adapters.redis_models import RedisControl, RedisModelStore
from stream.adapters.redis_state import RedisStateStore
from stream.errors import Conflict, Fenced
from stream.ports import Commit, Due, LearnerSnapshot, ModelStore, StateStore

pytestmark = pytest.mark.integration

Check = Callable[[Any], Awaitable[None]]


@pytest.fixture(params=["memory", "redis"])
def against(request: pytest.FixtureRequest) -> Callable[[str, Check], None]:
    """Runs a check on the named store, in memory or on the real server."""
    stack = request.getfixturevalue("stack") if request.param == "redis" else None
    name = request.node.name.replace("[", "-").replace("]", "")

    @asynccontextmanager
    async def opened(kind: str) -> AsyncIterator[Any]:
        if stack is None:
            yield {"state": MemoryStateStore, "models": MemoryModelStore, "control": MemoryControl}[kind]()
            return
        client = redis_client(stack.redis_url, timeout_s=5.0)
        try:
            yield {"state": RedisStateStore, "models": RedisModelStore, "control": RedisControl}[kind](client, name)
        finally:
            await client.aclose()

    def run(kind: str, check: Check) -> None:
        async def work() -> None:
            async with opened(kind) as store:
                await check(store)

        asyncio.run(work())

    return run


async def read(store: StateStore, generation: int = 0, entities: Any = ("a", "b"), ids: Any = ("e1", "e2")) -> Any:
    return await store.fetch(0, generation=generation, entities=entities, event_ids=ids, due_until_ms=10**15)


def test_a_commit_is_there_for_the_next_owner(against: Any):
    async def check(store: StateStore) -> None:
        first = await store.acquire(0)
        assert (first.meta, first.early, first.outbox, first.lease.sequence) == (None, {}, [], 0)
        due = Due(b"c1", 5, [(5, "e1"), (9, "e2")])
        await store.commit(
            first.lease,
            Commit(meta=b"m1", generation=3, entities={"a": b"A"}, remember={"e1": b"1", "e2": b"2"}, due_add=[due],
                   early_set={"x": b"X"}, outbox=b"out"),
        )  # fmt: skip
        second = await store.acquire(0)
        assert second.lease.epoch == first.lease.epoch + 1
        assert (second.meta, second.early, second.outbox, second.lease.sequence) == (
            b"m1",
            {"x": b"X"},
            [(1, b"out")],
            1,
        )
        fetched = await read(store, generation=3)
        assert fetched.entities == {"a": b"A"}
        assert fetched.remembered == {"e1": b"1", "e2": b"2"}
        assert [(d.chunk, d.first_due_ms, [tuple(e) for e in d.entries]) for d in fetched.due] == [
            (b"c1", 5, [(5, "e1"), (9, "e2")])
        ]

    against("state", check)


def test_a_fenced_owner_writes_nothing(against: Any):
    async def check(store: StateStore) -> None:
        old = await store.acquire(0)
        new = await store.acquire(0)
        with pytest.raises(Fenced):
            await store.commit(old.lease, Commit(meta=b"old", entities={"a": b"old"}, outbox=b"old"))
        with pytest.raises(Fenced):
            await store.commit(old.lease, Commit(meta=b"old"))
        await store.commit(new.lease, Commit(meta=b"new", outbox=b"new"))
        with pytest.raises(Fenced):
            await store.trim(old.lease, 1)
        last = await store.acquire(0)
        assert (last.meta, last.outbox) == (b"new", [(1, b"new")])
        assert (await read(store)).entities == {}

    against("state", check)


def test_the_same_commit_again_changes_nothing(against: Any):
    async def check(store: StateStore) -> None:
        owner = await store.acquire(0)
        await store.commit(owner.lease, Commit(meta=b"1", outbox=b"o"))
        owner.lease.sequence = 0  # its answer was lost
        await store.commit(owner.lease, Commit(meta=b"1", outbox=b"o"))
        assert owner.lease.sequence == 1
        assert (await store.acquire(0)).outbox == [(1, b"o")]

    against("state", check)


def test_another_history_is_a_conflict(against: Any):
    async def check(store: StateStore) -> None:
        owner = await store.acquire(0)
        owner.lease.sequence = 5
        with pytest.raises(Conflict, match="sequence 5, stored 0"):
            await store.commit(owner.lease, Commit(meta=b"1"))

    against("state", check)


def test_generations_are_read_newest_first_and_dropped(against: Any):
    async def check(store: StateStore) -> None:
        lease = (await store.acquire(0)).lease
        await store.commit(lease, Commit(meta=b"", generation=3, entities={"a": b"a3", "b": b"b3"}))
        await store.commit(lease, Commit(meta=b"", generation=4, entities={"a": b"a4"}))
        assert (await read(store, generation=4)).entities == {"a": b"a4", "b": b"b3"}
        assert (await read(store, generation=5)).entities == {"a": b"a4"}
        await store.commit(lease, Commit(meta=b"", generation=5, drop_generations=[3, 4]))
        assert (await read(store, generation=4)).entities == {}

    against("state", check)


def test_what_is_removed_and_set_in_one_commit_is_set(against: Any):
    async def check(store: StateStore) -> None:
        lease = (await store.acquire(0)).lease
        await store.commit(
            lease, Commit(meta=b"", early_set={"x": b"1"}, remember={"e1": b"1"}, due_add=[Due(b"c", 1, [(1, "e1")])])
        )
        await store.commit(
            lease,
            Commit(meta=b"", early_remove=["x"], early_set={"x": b"2"}, forget=["e1", "e2"], remember={"e2": b"2"},
                   due_remove=[b"c"], due_add=[Due(b"d", 2, [(2, "e2")])]),
        )  # fmt: skip
        assert (await store.acquire(0)).early == {"x": b"2"}
        fetched = await read(store)
        assert fetched.remembered == {"e2": b"2"}
        assert [due.chunk for due in fetched.due] == [b"d"]

    against("state", check)


def test_due_chunks_come_in_time_order_up_to_a_time(against: Any):
    async def check(store: StateStore) -> None:
        lease = (await store.acquire(0)).lease
        chunks = [Due(b"%d" % at, at, [(at, "e")]) for at in (30, 10, 20)]
        await store.commit(lease, Commit(meta=b"", due_add=chunks))
        fetched = await store.fetch(0, generation=0, entities=[], event_ids=[], due_until_ms=20)
        assert [due.first_due_ms for due in fetched.due] == [10, 20]
        nothing = await store.fetch(0, generation=0, entities=[], event_ids=[], due_until_ms=None)
        assert nothing.due == []

    against("state", check)


def test_more_due_chunks_than_one_call_returns(against: Any):
    count = 12_000

    async def check(store: StateStore) -> None:
        lease = (await store.acquire(0)).lease
        chunks = [Due(b"%d" % at, at // 3, [(at // 3, "e")]) for at in range(count)]
        await store.commit(lease, Commit(meta=b"", due_add=chunks))
        fetched = await store.fetch(0, generation=0, entities=[], event_ids=[], due_until_ms=count)
        assert {due.chunk for due in fetched.due} == {due.chunk for due in chunks}
        assert len(fetched.due) == count

    against("state", check)


def test_the_outbox_is_trimmed_by_commits_and_by_trim(against: Any):
    async def check(store: StateStore) -> None:
        lease = (await store.acquire(0)).lease
        for number in range(4):
            await store.commit(lease, Commit(meta=b"", outbox=b"%d" % number, published_up_to=number - 1))
        assert [s for s, _ in (await store.acquire(0)).outbox] == [3, 4]
        lease = (await store.acquire(0)).lease
        await store.trim(lease, 3)
        assert [s for s, _ in (await store.acquire(0)).outbox] == [4]

    against("state", check)


def test_partitions_do_not_touch_each_other(against: Any):
    async def check(store: StateStore) -> None:
        one, other = await store.acquire(0), await store.acquire(1)
        await store.commit(one.lease, Commit(meta=b"0", entities={"a": b"0"}))
        await store.commit(other.lease, Commit(meta=b"1", entities={"a": b"1"}))
        assert (await store.acquire(0)).meta == b"0"
        fetched = await store.fetch(1, generation=0, entities=["a"], event_ids=[], due_until_ms=None)
        assert fetched.entities == {"a": b"1"}

    against("state", check)


def test_a_large_commit_is_one_call(against: Any):
    async def check(store: StateStore) -> None:
        lease = (await store.acquire(0)).lease
        many = {f"entity-{i}": b"x" * 10 for i in range(20_000)}
        await store.commit(lease, Commit(meta=b"", entities=many, remember=many, forget=["none"]))
        fetched = await read(store, entities=list(many), ids=list(many))
        assert len(fetched.entities) == len(fetched.remembered) == 20_000

    against("state", check)


# -- models and control --------------------------------------------------------------------------------------------------


def learner_snapshot(offset: int, *slots: str) -> LearnerSnapshot:
    models = {slot: f"{slot}@{offset}".encode() for slot in ("champion", *slots)}
    return LearnerSnapshot(offset, b"r%d" % offset, models, b"{}")


def test_a_model_store_fences_and_never_goes_back(against: Any):
    async def check(store: ModelStore) -> None:
        assert await store.roster(0) is None
        assert await store.models(0, ["champion"]) == {}
        old = await store.acquire(0)
        assert old.models == {}
        await store.commit(0, epoch=old.epoch, snapshot=learner_snapshot(5))
        new = await store.acquire(0)
        assert new.models == {"champion": b"champion@5"}
        with pytest.raises(Fenced):
            await store.commit(0, epoch=old.epoch, snapshot=learner_snapshot(9))
        with pytest.raises(Conflict):
            await store.commit(0, epoch=new.epoch, snapshot=learner_snapshot(4))
        await store.commit(0, epoch=new.epoch, snapshot=learner_snapshot(5))
        await store.commit(0, epoch=new.epoch, snapshot=learner_snapshot(8))
        assert (await store.roster(0), await store.status(0)) == (b"r8", b"{}")
        assert await store.roster(1) is None

    against("models", check)


def test_slots_and_roster_change_together_and_a_slot_that_is_gone_is_gone(against: Any):
    async def check(store: ModelStore) -> None:
        epoch = (await store.acquire(0)).epoch
        await store.commit(0, epoch=epoch, snapshot=learner_snapshot(5, "challenger", "previous"))
        assert await store.models(0, ["champion", "challenger"]) == {
            "roster": b"r5", "champion": b"champion@5", "challenger": b"challenger@5"
        }  # fmt: skip
        await store.commit(0, epoch=epoch, snapshot=learner_snapshot(6, "previous"))
        assert await store.models(0, ["champion", "challenger"]) == {"roster": b"r6", "champion": b"champion@6"}
        assert (await store.acquire(0)).models == {"champion": b"champion@6", "previous": b"previous@6"}

    against("models", check)


def test_a_command_stays_until_a_snapshot_has_carried_it_out(against: Any):
    async def check(store: ModelStore) -> None:
        old = await store.acquire(0)
        await store.request(0, "b", b"two")
        await store.request(0, "a", b"one")
        await store.request(0, "a", b"another")
        assert await store.commands(0) == {"a": b"one", "b": b"two"}
        new = await store.acquire(0)
        with pytest.raises(Fenced):
            await store.commit(0, epoch=old.epoch, snapshot=learner_snapshot(1), handled=["a"])
        assert await store.commands(0) == {"a": b"one", "b": b"two"}
        await store.commit(0, epoch=new.epoch, snapshot=learner_snapshot(1), handled=["a"])
        assert await store.commands(0) == {"b": b"two"}

    against("models", check)


def test_latencies_are_kept_by_worker(against: Any):
    async def check(store: ModelStore) -> None:
        await store.report_latency(0, "w1", b"1")
        await store.report_latency(0, "w2", b"2")
        await store.report_latency(0, "w1", b"3")
        assert await store.latencies(0) == {"w1": b"3", "w2": b"2"}
        assert await store.latencies(1) == {}

    against("models", check)


def test_the_first_claim_stands(against: Any):
    async def check(control: Any) -> None:
        assert await control.describe() == {}
        assert await control.claim({"a": "1"}) == {"a": "1"}
        assert await control.claim({"a": "2", "b": "3"}) == {"a": "1", "b": "3"}
        assert await control.describe() == {"a": "1", "b": "3"}

    against("control", check)


def test_a_script_that_redis_forgot_is_loaded_again(stack: Any):
    async def check() -> None:
        client = redis_client(stack.redis_url, timeout_s=5.0)
        store = RedisStateStore(client, "forgotten")
        lease = (await store.acquire(0)).lease
        await client.script_flush()
        assert (await read(store)).entities == {}
        await client.script_flush()
        await store.commit(lease, Commit(meta=b"1", outbox=b"o"))
        await client.script_flush()
        await store.trim(lease, 1)
        assert (await store.acquire(0)).meta == b"1"
        await client.aclose()

    asyncio.run(check())


def test_a_full_redis_applies_nothing_of_a_commit(stack: Any):
    from stream.errors import Unavailable

    async def check() -> None:
        client = redis_client(stack.redis_url, timeout_s=5.0)
        store = RedisStateStore(client, "full")
        lease = (await store.acquire(0)).lease
        await store.commit(lease, Commit(meta=b"before"))
        await client.config_set("maxmemory", 1)
        try:
            with pytest.raises(Unavailable, match="maxmemory"):
                await store.commit(lease, Commit(meta=b"after", entities={"a": b"A"}, remember={"e1": b"1"}))
        finally:
            await client.config_set("maxmemory", 0)
        assert (await store.acquire(0)).meta == b"before"
        assert (await read(store)).remembered == {}
        await client.aclose()

    asyncio.run(check())
