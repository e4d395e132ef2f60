"""What people and retrainings ask of a learner, each once, in the order in which it was asked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from stream.core.examples import Follower
from stream.core.learning import LearnStep
from stream.core.model_bases import open_base
from stream.core.rollout import Decision
from stream.core.slots import Command, Spent
from stream.errors import ConfigurationError
from stream.ports import BaseStore, ModelStore
from stream.worker.catching_up import TRIES, TRY_AGAIN_S, CatchUp, ReadExamples
from stream.worker.owner import retrying

__all__ = ["Desk"]

log = logging.getLogger(__name__)

LATENCY_CALLS_MIN = 200


class Desk:
    """Takes commands for one shard. What it changes in the step is for the caller to commit.

    `log_end`: of a shard's examples; blocks, raises Unavailable.
    """

    def __init__(
        self,
        step: LearnStep,
        shard: int,
        store: ModelStore,
        bases: BaseStore,
        read: ReadExamples,
        log_end: Callable[[int], int],
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
        self._log_end = log_end
        self._pipeline = pipeline
        self._keys = keys
        self._configuration = configuration
        self._extra_allowed = extra_allowed
        self._crash_point = crash_point
        self._catch_up: CatchUp | None = None
        self.handled: set[str] = set()  # since the last snapshot

    async def look(self) -> None:
        """Take what is asked by now. A release takes several looks."""
        releases: list[Command] = []  # asked, and not done
        for command in await self._asked():
            if command.action == "release":
                if self._catch_up is None:
                    self._begin(command)
                if command.command_id not in self.handled:  # it was not refused at once
                    releases.append(command)
            elif command.action == "reject" and (called_off := [r for r in releases if r.base == command.base]):
                for release in called_off:
                    await self._call_off(
                        release, f"called off{f': {command.reason}' if command.reason else ''}", command
                    )
                releases = [release for release in releases if release not in called_off]
                self._done(command)
            else:
                champion = self._step.base
                self._carry_out(command)
                if self._catch_up is not None and command.action == "roll_back" and self._step.base != champion:
                    why = f"the champion {champion}, with which it was to be compared, is rolled back"
                    await self._call_off(self._catch_up.command, why)
        if self.ready:
            await self._end()
        await self._look_at_latencies()

    @property
    def ready(self) -> bool:
        """A look now ends what has caught up; the longer it takes, the longer the live model waits for it."""
        return self._catch_up is not None and self._catch_up.near

    def room(self) -> int | None:
        """How many examples the live model may learn before the next turn of a candidate; None: as many as it likes."""
        return self._catch_up.room() if self._catch_up is not None else None

    async def _asked(self) -> list[Command]:
        """The oldest first."""
        found = []
        for command_id, data in (await retrying(lambda: self._store.commands(self._shard), "commands")).items():
            if command_id in self.handled:
                continue
            if command_id in self._step.slots.state.handled:
                self.handled.add(command_id)
                self._step.slots.changed = True
            elif (command := self._decode(command_id, data)) is not None:
                found.append(command)
        return sorted(found, key=lambda command: (command.at_ms, command.command_id))

    def _decode(self, command_id: str, data: bytes) -> Command | None:
        """None, and a record of it, for what is no command."""
        try:
            command = msgspec.json.decode(data, type=Command)
            msgspec.msgpack.encode(command)  # as a snapshot will hold what is made of it
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            why = f"{type(error).__name__}: {error}"
        else:
            if command.command_id == command_id:  # a clock that is ahead must not date what comes after it
                return msgspec.structs.replace(command, at_ms=min(command.at_ms, int(time.time() * 1e3)))
            why = f"it calls itself {command.command_id!r:.100}"
        log.error("command %.100r cannot be read: %s", command_id, why, extra={"code": "command_refused"})
        self._step.slots.refuse_unread(command_id, self._step.offset, why, int(time.time() * 1e3))
        self.handled.add(command_id)
        return None

    def _done(self, command: Command) -> None:
        self._step.slots.handle(command.command_id)
        self.handled.add(command.command_id)

    def _carry_out(self, command: Command, candidate: Follower | None = None) -> None:
        log.info("%s %s, asked by %s", command.action, command.base, command.by)
        self._step.command(command, candidate)
        self.handled.add(command.command_id)

    def _refuse(self, command: Command, why: str, by: str | None = None) -> None:
        log.error("%s %s is refused: %s", command.action, command.base, why, extra={"code": "release_refused"})
        self._step.slots.refuse(command, self._step.offset, why, by)
        self._done(command)

    # -- a release ---------------------------------------------------------------------------------------------------

    def _begin(self, command: Command) -> None:
        if self._step.slots.refusal(command) is not None:
            self._carry_out(command)  # which leaves the record that says so
            return

        async def candidate() -> Follower:
            return await self._candidate(command)

        self._catch_up = CatchUp(command, self._step, self._shard, candidate, self._read, self._crash_point)

    async def _candidate(self, command: Command) -> Follower:
        async def read() -> bytes:
            return await asyncio.to_thread(self._bases.get_base, command.base)

        base = open_base(
            await retrying(read, f"base {command.base}", tries=TRIES, first_s=TRY_AGAIN_S),
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
        if base.offset > self._step.offset:  # the archive may be ahead of a learner that lags, but not of the log

            async def log_end() -> int:
                return await asyncio.to_thread(self._log_end, self._shard)

            end = await retrying(log_end, "the end of the examples", tries=TRIES, first_s=TRY_AGAIN_S)
            if base.offset > end:
                remedy = f"it begins at {base.offset}, beyond the end of the examples ({end}): retrain"
                raise ConfigurationError("base", command.base, remedy)
        return self._step.follower(base)

    async def _call_off(self, release: Command, why: str, by: Command | None = None) -> None:
        """A release that has not been carried out, and will not be."""
        if self._catch_up is not None and self._catch_up.command.command_id == release.command_id:
            await self.close()
        self._refuse(release, why, by.by if by is not None else None)

    async def _end(self) -> None:
        """The candidate is near: no live example is learned until it stands where the live model stands."""
        assert self._catch_up is not None
        catch_up, self._catch_up = self._catch_up, None
        try:
            self._carry_out(catch_up.command, await catch_up.finish())
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a candidate must not end the champion's learner
            self._refuse(catch_up.command, f"{type(error).__name__}: {error}")

    async def close(self) -> None:
        """A candidate under way begins again with the next owner."""
        catch_up, self._catch_up = self._catch_up, None
        if catch_up is not None:
            await catch_up.cancel()

    # -- the guard on latency ------------------------------------------------------------------------------------------

    async def _look_at_latencies(self) -> None:
        """Scorers say how long the models of a trial take; that is not in the examples, so it is looked at here."""
        slots = self._step.slots
        trial = slots.trial
        if trial is None:
            return
        spent: dict[str, list[float]] = {}
        for data in (await retrying(lambda: self._store.latencies(self._shard), "latencies")).values():
            try:
                report = msgspec.json.decode(data, type=Spent)
            except msgspec.DecodeError:  # of a scorer of another version
                continue
            if report.trial != trial.trial_id:  # what it says is of an earlier one
                continue
            for base, (calls, total_us) in report.times.items():
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
