"""What a learner is asked for: in the order of asking, each once; a candidate catches up, and can be called off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec
import pytest

from stream.adapters.memory import MemoryModelStore, MemoryPublisher
from stream.core.digest import state_digest
from stream.core.examples import Follower
from stream.core.model_bases import seal_base
from stream.core.records import Record
from stream.core.slots import Command, Spent
from stream.errors import Fenced, Unavailable
from stream.ports import LearnerSnapshot
from stream.worker.learn import LearnShard
from stream.worker.releasing import Desk
from tests.core.test_rollout import KEY, Live, candidate_of, right, with_a_tree_that_grows

DEADLINE_S = 30.0


class Bases:
    """Files of bases in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def get_base(self, base: str) -> bytes:
        try:
            return self.files[base]
        except KeyError:
            raise Unavailable(f"no base {base}") from None

    def put_base(self, data: bytes, base: str) -> None:
        self.files[base] = data

    replace_base = put_base


class Office:
    """A desk, and who comes to it."""

    def __init__(self, examples: int = 3_000) -> None:
        self.live = Live()
        self.live.run(examples)
        self.live.releases = []
        self.step = self.live.step
        self.store, self.bases = MemoryModelStore(), Bases()
        self.gate = threading.Event()  # reading stops until it is open
        self.gate.set()
        self.reads = 0
        self.desk = Desk(
            self.step, 0, self.store, self.bases, self.read, self.log_end, pipeline="cards", keys=[KEY], configuration="c"
        )  # fmt: skip

    def read(self, shard: int, start: int, end: int) -> Iterator[list[Record]]:
        for at in range(start, end, 500):
            self.reads += 1
            assert self.gate.wait(DEADLINE_S)
            yield self.live.log[at : min(at + 500, end)]

    def log_end(self, shard: int) -> int:
        return len(self.live.log)

    def candidate(self, rate: float = 0.5, offset: int = 0, high_water: dict[int, int] | None = None) -> str:
        base = candidate_of(self.live.pipeline, rate, offset)
        base = msgspec.structs.replace(base, high_water=high_water or {})
        self.live.guesses[base.name] = right(0.8)
        self.bases.files[base.name] = seal_base(base, configuration="c", key=KEY)
        return base.name

    async def ask(self, action: Any, base: str, command_id: str, at_ms: int, **more: Any) -> None:
        command = Command(
            command_id=command_id, action=action, base=base, by=f"person:{command_id}", at_ms=at_ms, **more
        )
        await self.store.request(0, command_id, msgspec.json.encode(command))

    async def look_until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await self.desk.look()
                await asyncio.sleep(0.005)

    @property
    def said(self) -> list[tuple[str, str, str]]:
        return [(r.action, r.decided_by, r.reason) for r in self.step.slots.state.outbox]

    @property
    def actions(self) -> list[str]:
        return [action for action, _, _ in self.said]


def catching_up() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("catch-up-")]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_a_candidate_is_released_once_it_stands_where_the_live_model_stands():
    async def test() -> None:
        office = Office()
        base = office.candidate()
        await office.ask("release", base, "r", 1)
        await office.look_until(lambda: bool(office.said))
        assert office.actions == ["released"]
        alone = Follower(office.live.pipeline, candidate_of(office.live.pipeline))
        alone.step(office.live.log)
        assert state_digest(office.step.slots.pupils["challenger"].model) == state_digest(alone.pupil.model)
        assert office.desk.handled == {"r"}

    run(test())


def test_commands_are_carried_out_in_the_order_of_asking_not_of_their_ids():
    async def test() -> None:
        office = Office(0)
        base = office.candidate()
        await office.ask("reject", base, "a", 2)
        await office.ask("release", base, "b", 1)
        await office.look_until(lambda: len(office.desk.handled) == 2)
        assert [(action, by) for action, by, _ in office.said] == [("rejected", "person:a")]
        assert "called off" in office.said[0][2]

    run(test())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "truncated"),
        (b"\xff\xfe", "ValidationError|DecodeError"),
        (b'{"command_id":"odd\\n","action":"conquer","base":"b","by":"x","at_ms":1}', "Invalid enum value 'conquer'"),
        (b'{"command_id":"odd\\n","action":"reject","base":"b","by":"x","at_ms":%d}' % 10**30, "Expected `int` <="),
        (
            b'{"command_id":"odd\\n","action":"reject","base":"b","by":"x","at_ms":1,"evidence":{"n":%d}}' % 10**30,
            "OverflowError",
        ),
        (b'{"command_id":"other","action":"reject","base":"b","by":"x","at_ms":1}', "it calls itself 'other'"),
    ],
)
def test_what_cannot_be_read_leaves_a_record_a_line_in_the_log_and_is_gone(
    data: bytes, words: str, caplog: pytest.LogCaptureFixture
):
    async def test() -> None:
        office = Office(0)
        await office.store.request(0, "odd\n", data)
        for _ in range(3):
            await office.desk.look()
        ((action, by, reason),) = office.said
        assert (action, by) == ("rejected", "unknown")
        assert reason.startswith("command refused: 'odd\\n': ")
        assert any(word in reason for word in words.split("|"))
        assert [r.__dict__.get("code") for r in caplog.records] == ["command_refused"]
        assert office.desk.handled == {"odd\n"}
        office.step.snapshot()

    run(test())


@pytest.mark.parametrize("action", ["reject", "roll_back"])
def test_a_candidate_is_called_off_at_once_while_it_catches_up(action: str):
    async def test() -> None:
        office = Office()
        first = office.step.base
        if action == "roll_back":
            office.live.release(right(0.9), rate=0.9)
            office.step.command(office.live.command("promote", office.step.slots.pupils["challenger"].base))
            office.step.slots.state.trial = None  # its probation is over
            office.step.slots.state.outbox = []
        office.gate.clear()
        champion, base = office.step.base, office.candidate()
        await office.ask("release", base, "r", 1)
        await office.look_until(lambda: office.reads > 0)
        assert catching_up() == [f"catch-up-{base}"]
        assert office.said == []
        await office.ask(
            action, base if action == "reject" else champion, "no", 2, reason="it was trained on a mistake"
        )
        await office.desk.look()  # one look, though nothing can be read
        assert catching_up() == []
        office.gate.set()
        if action == "reject":
            reason = "release refused: called off: it was trained on a mistake"
            assert office.said == [("rejected", "person:no", reason)]
        else:
            assert office.actions == ["rolled_back", "rejected"]
            assert f"{champion}, with which it was to be compared, is rolled back" in office.said[1][2]
            assert office.step.base == first
        assert office.desk.handled == {"r", "no"}
        await office.desk.look()
        assert catching_up() == []

    run(test())


def test_a_candidate_on_trial_is_rejected_though_its_release_was_asked_twice():
    async def test() -> None:
        office = Office(10)
        base = office.live.release(right(0.8)).name
        office.step.slots.state.outbox = []
        await office.ask("release", base, "again", 1)
        await office.ask("reject", base, "no", 2)
        await office.desk.look()
        assert [(action, by) for action, by, _ in office.said] == [
            ("rejected", "person:again"),
            ("rejected", "person:no"),
        ]
        assert "it is here already" in office.said[0][2]
        assert "challenger" not in office.step.slots.pupils

    run(test())


def test_the_record_of_a_model_that_has_grown_too_large_is_published_with_its_snapshot():
    async def test() -> None:
        live, _ = with_a_tree_that_grows()
        publisher = MemoryPublisher()
        shard = LearnShard(live.step, 0, MemoryModelStore(), publisher, interval_s=3_600.0)
        await shard.acquire()  # a first snapshot
        live.run(300)
        await shard.snapshot()
        said = [msgspec.json.decode(one.value or b"") for one in publisher.published if one.topic == "releases"]
        assert said[-1]["action"] == "rejected"
        assert said[-1]["decided_by"] == "rule:size"

    run(test())


class Stolen(MemoryModelStore):
    """Somebody else has taken the shard over."""

    stolen = False

    async def commit(self, shard: int, *, epoch: int, snapshot: LearnerSnapshot, handled: Any = ()) -> None:
        if self.stolen:
            raise Fenced("somebody else owns it")
        await super().commit(shard, epoch=epoch, snapshot=snapshot, handled=handled)


def test_a_learner_that_was_fenced_teaches_no_candidate_any_more():
    async def test() -> None:
        office = Office()
        office.desk._store = office.store = store = Stolen()
        shard = LearnShard(office.step, 0, store, MemoryPublisher(), desk=office.desk, interval_s=0.0)
        await shard.acquire()
        office.gate.clear()
        await office.ask("release", office.candidate(), "r", 1)
        work = asyncio.create_task(shard.run())
        async with asyncio.timeout(DEADLINE_S):
            await until(lambda: office.reads > 0)
            store.stolen = True
            office.live.log.append(office.live._example())
            shard.add("examples", office.live.log[-1:], len(office.live.log))
            with pytest.raises(Fenced):
                await work
        assert catching_up() == []
        office.gate.set()

    run(test())


def test_a_candidate_does_not_starve_behind_a_backlog():
    async def test() -> None:
        office = Office(4_000)
        backlog = Live(seed=1)
        backlog.run(30_000)
        office.live.log = backlog.log
        store = office.store
        shard = LearnShard(office.step, 0, store, MemoryPublisher(), desk=office.desk, batch_records_max=1_000)
        await shard.acquire()
        await office.ask("release", office.candidate(), "r", 1)
        shard.add("examples", backlog.log[4_000:], len(backlog.log))
        work = asyncio.create_task(shard.run())
        async with asyncio.timeout(DEADLINE_S):
            await until(lambda: "challenger" in office.step.slots.pupils)
        at = office.step.offset
        shard.stop()
        await work
        assert 4_000 < at < 25_000  # long before the backlog was worked off

    run(test())


def test_a_candidate_from_ahead_of_a_learner_that_lags_waits_for_it():
    async def test() -> None:
        office = Office(1_000)
        ahead = Live(seed=1)
        ahead.run(6_000)
        office.live.log = ahead.log[:5_000]
        shard = LearnShard(office.step, 0, office.store, MemoryPublisher(), desk=office.desk)
        await shard.acquire()
        twin = ahead.fresh()
        twin.step(ahead.log[:5_000])
        base = office.candidate(offset=5_000, high_water=dict(twin._high_water))
        await office.ask("release", base, "r", 1)
        work = asyncio.create_task(shard.run())
        async with asyncio.timeout(DEADLINE_S):
            await until(lambda: catching_up() == [f"catch-up-{base}"])
            shard.add("examples", ahead.log[1_000:4_900], 4_900)
            await until(lambda: office.step.offset == 4_900)
            await asyncio.sleep(0.3)  # several looks
            assert office.said == [] and office.desk.handled == set()
            office.live.log = ahead.log
            shard.add("examples", ahead.log[4_900:], 6_000)
            await until(lambda: "challenger" in office.step.slots.pupils)
        shard.stop()
        await work
        assert office.step.slots.pupils["challenger"].base == base

    run(test())


def test_a_candidate_from_beyond_the_log_is_refused():
    async def test() -> None:
        office = Office(1_000)
        await office.ask("release", office.candidate(offset=1_001), "r", 1)
        await office.look_until(lambda: bool(office.said))
        ((action, _, reason),) = office.said
        assert action == "rejected"
        assert "it begins at 1001, beyond the end of the examples (1000): retrain" in reason

    run(test())


@pytest.mark.parametrize("mine", [True, False])
def test_latencies_of_an_earlier_trial_do_not_count(mine: bool):
    async def test() -> None:
        office = Office(10)
        office.live.release(right(0.8))
        trial = office.step.slots.trial
        assert trial is not None
        office.step.slots.state.outbox = []
        roster = office.step.slots.roster(office.step.offset)
        assert roster.beside is not None
        assert roster.beside.trial == trial.trial_id != ""
        times = {trial.base: (1_000, 1e6), trial.rival: (1_000, 1e3)}
        await office.store.report_latency(0, "old", msgspec.json.encode(times))  # as an older scorer says it
        spent = Spent(trial.trial_id if mine else "another", times)
        await office.store.report_latency(0, "w", msgspec.json.encode(spent))
        await office.desk.look()
        assert office.actions == (["rejected"] if mine else [])

    run(test())
