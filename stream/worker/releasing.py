"""What people and retrainings ask of a learner, and how a candidate catches up with the live stream.

A candidate has learned the examples before its base. The learner reads those since then from the log, a little at a time
between live micro-batches, until it stands where the live model stands; then it is scored beside the champion. Nothing of
this is stored: a learner that dies in it begins again, because the command stays until a snapshot has carried it out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec

from stream.core.examples import Follower
from stream.core.learning import LearnStep
from stream.core.model_bases import open_base
from stream.core.records import Record
from stream.core.rollout import Decision
from stream.core.slots import Command
from stream.errors import ConfigurationError, Unavailable
from stream.ports import BaseStore, ModelStore
from stream.worker.owner import retrying

__all__ = ["Desk", "ReadExamples"]

log = logging.getLogger(__name__)

CLOSE = 500  # examples: so near, the live model waits for the candidate
CHUNK = 100  # examples learned at a stretch; live micro-batches come between
TRIES, TRY_AGAIN_S = 5, 1.0
LATENCY_CALLS_MIN = 200

ReadExamples = Callable[[int, int, int], Iterator[list[Record]]]
"""(shard, start, end) -> batches of examples with offsets in [start, end).

Blocks. Raises Unavailable, or StartupRefused when they are gone.
"""


class Desk:
    """Takes commands for one shard. What it changes in the step is for the caller to commit."""

    def __init__(
        self,
        step: LearnStep,
        shard: int,
        store: ModelStore,
        bases: BaseStore,
        read: ReadExamples,
        *,
        pipeline: str,
        keys: Sequence[bytes],
        configuration: str,
        extra_allowed: frozenset[str] = frozenset(),
        crash_point: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._step = step
        self._shard = shard
        self._store = store
        self._bases = bases
        self._read = read
        self._pipeline = pipeline
        self._keys = keys
        self._configuration = configuration
        self._extra_allowed = extra_allowed
        self._crash_point = crash_point
        self._catching_up: asyncio.Task[Follower] | None = None
        self._release: Command | None = None
        self.handled: set[str] = set()  # since the last snapshot

    async def look(self) -> None:
        """Take what is asked by now. A release takes several looks."""
        for command_id, data in sorted((await retrying(lambda: self._store.commands(self._shard), "commands")).items()):
            if command_id in self.handled:
                continue
            command = self._decode(command_id, data)
            if command is None or command.command_id in self._step.slots.state.handled:
                self.handled.add(command_id)
                self._step.slots.changed = True
            elif command.action != "release":
                self._carry_out(command)
            elif self._release is None:
                self._begin(command)
        if self._catching_up is not None and self._catching_up.done():
            await self._end()
        await self._look_at_latencies()

    def _decode(self, command_id: str, data: bytes) -> Command | None:
        try:
            command = msgspec.json.decode(data, type=Command)
        except msgspec.DecodeError as error:
            log.error("command %s cannot be read: %s", command_id, error, extra={"code": "command_refused"})
            return None
        return command if command.command_id == command_id else None

    def _carry_out(self, command: Command, candidate: Follower | None = None) -> None:
        log.info("%s %s, asked by %s", command.action, command.base, command.by)
        self._step.command(command, candidate)
        self.handled.add(command.command_id)

    def _refuse(self, command: Command, why: str) -> None:
        log.error("%s %s is refused: %s", command.action, command.base, why, extra={"code": "release_refused"})
        self._step.slots.handle(command)
        self._step.slots.refuse(command, self._step.offset, why)
        self.handled.add(command.command_id)

    # -- a release ---------------------------------------------------------------------------------------------------

    def _begin(self, command: Command) -> None:
        if self._step.slots.refusal(command) is not None:
            self._carry_out(command)  # which leaves the record that says so
            return
        self._release = command
        self._catching_up = asyncio.create_task(self._catch_up(command), name=f"catch-up-{command.base}")

    async def _catch_up(self, command: Command) -> Follower:
        data = await self._base(command.base)
        base = open_base(
            data,
            self._keys,
            pipeline=self._pipeline,
            configuration=self._configuration,
            extra_allowed=self._extra_allowed,
        )
        if base.name != command.base or base.shard != self._shard:
            raise ConfigurationError("base", command.base, f"the file holds {base.name} of shard {base.shard}")
        if base.offset < self._step.first.offset:
            raise ConfigurationError(
                "base",
                command.base,
                f"it begins at {base.offset}, before the last reset ({self._step.first.offset}): retrain",
            )
        if base.offset > self._step.offset:
            raise ConfigurationError("base", command.base, f"it begins at {base.offset}, beyond {self._step.version}")
        follower = self._step.follower(base)
        log.info("%s catches up from %d to %d", base.name, follower.offset, self._step.offset)
        while self._step.offset - follower.offset > CLOSE:
            await self._learn_until(follower, self._step.offset)
        return follower

    async def _learn_until(self, follower: Follower, end: int) -> None:
        for left in reversed(range(TRIES)):
            batches = self._read(self._shard, follower.offset, end)
            try:
                while (records := await asyncio.to_thread(next, batches, None)) is not None:
                    for start in range(0, len(records), CHUNK):
                        follower.step(records[start : start + CHUNK])
                        await asyncio.sleep(0)
                    self._crash_point("learn.in_catch_up")
            except Unavailable:
                if not left:
                    raise
                await asyncio.sleep(TRY_AGAIN_S)
            else:
                follower.offset = end
                return

    async def _base(self, name: str) -> bytes:
        for left in reversed(range(TRIES)):
            try:
                return await asyncio.to_thread(self._bases.get_base, name)
            except Unavailable:
                if not left:
                    raise
                await asyncio.sleep(TRY_AGAIN_S)
        raise AssertionError

    async def _end(self) -> None:
        """The candidate is near: no live example is learned until it stands where the live model stands."""
        assert self._catching_up is not None and self._release is not None
        command, task = self._release, self._catching_up
        self._release = self._catching_up = None
        try:
            follower = task.result()
            while follower.offset < self._step.offset:
                await self._learn_until(follower, self._step.offset)
            self._carry_out(command, follower)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a candidate must not end the champion's learner
            self._refuse(command, f"{type(error).__name__}: {error}")

    # -- the guard on latency ------------------------------------------------------------------------------------------

    async def _look_at_latencies(self) -> None:
        """Scorers say how long the models of a trial take; that is not in the examples, so it is looked at here."""
        slots = self._step.slots
        trial = slots.trial
        if trial is None:
            return
        spent: dict[str, list[float]] = {}
        for data in (await retrying(lambda: self._store.latencies(self._shard), "latencies")).values():
            for base, (calls, total_us) in msgspec.json.decode(data, type=dict[str, tuple[int, float]]).items():
                of_base = spent.setdefault(base, [0.0, 0.0])
                of_base[0] += calls
                of_base[1] += total_us
        if any(spent.get(base, [0.0])[0] < LATENCY_CALLS_MIN for base in (trial.base, trial.rival)):
            return
        mine_us, its_us = (spent[base][1] / spent[base][0] for base in (trial.base, trial.rival))
        limit = slots.latency_ratio_max
        if mine_us <= limit * its_us:
            return
        reason = (
            f"a prediction takes {mine_us:.0f} us, {mine_us / its_us:.1f} times the rival's; the limit is {limit:g}"
        )
        evidence = {"latency_us": round(mine_us, 1), "rival_latency_us": round(its_us, 1)}
        out: Literal["rolled_back", "rejected"] = "rolled_back" if trial.stage == "probation" else "rejected"
        slots.decide(Decision(out, "latency", reason, dict(evidence)), self._step.offset, int(time.time() * 1e3))

    async def close(self) -> None:
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.gather(self._catching_up, return_exceptions=True)
