"""How a candidate catches up with the live model.

It has learned the examples before its base; a live model that lags behind those is waited for. Those since then are read
from the log and learned in slices between live micro-batches. While it learns, the live model takes half as many examples as
the candidate, so that the distance shrinks however much is waiting; scoring is another process's and goes on. Nothing of this
is stored: a learner that dies in it begins again, because the command stays until a snapshot has carried it out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from math import inf

from stream.core.examples import Follower
from stream.core.learning import LearnStep
from stream.core.records import Record
from stream.core.slots import Command
from stream.worker.owner import retrying

__all__ = ["CatchUp", "ReadExamples"]

log = logging.getLogger(__name__)

CLOSE = 500  # examples: so near, the live model waits for the candidate
PATIENCE_S = 0.5  # the live model waits no longer for the log to be read
SLICE_S = 0.01  # the candidate learns for so long, then it is the live model's turn
TRIES, TRY_AGAIN_S = 5, 0.5
LAG_LOOK_S = 0.1

ReadExamples = Callable[[int, int, int], Iterator[list[Record]]]
"""(shard, start, end) -> batches of examples with offsets in [start, end).

Blocks. Raises Unavailable, or StartupRefused when they are gone.
"""


class CatchUp:
    """One release on its way. Begins at once, as a task of the running loop."""

    def __init__(
        self,
        command: Command,
        step: LearnStep,
        shard: int,
        candidate: Callable[[], Awaitable[Follower]],
        read: ReadExamples,
        crash_point: Callable[[str], None],
    ) -> None:
        """`candidate`: opens its base, or raises what is wrong with it."""
        self.command = command
        self._step = step
        self._shard = shard
        self._candidate = candidate
        self._read = read
        self._crash_point = crash_point
        self._bound_until_s = 0.0  # the live model's pace is bound to the candidate's
        self._ahead = 0  # examples that it has learned since the live model's last turn
        self._task = asyncio.create_task(self._approach(), name=f"catch-up-{command.base}")

    @property
    def near(self) -> bool:
        """Or it has failed: `finish` says so."""
        return self._task.done()

    def room(self) -> int | None:
        """How many examples the live model may learn now; None: as many as it likes."""
        if time.monotonic() > self._bound_until_s:
            return None
        room = self._ahead // 2
        self._ahead -= 2 * room
        return room

    async def finish(self) -> Follower:
        """The candidate as it stands where the live model stands, which must learn nothing meanwhile.

        Raises whatever is wrong with the candidate, Unavailable, StartupRefused.
        """
        follower = self._task.result()
        while follower.offset < self._step.offset:
            await self._learn_until(follower, self._step.offset)
        return follower

    async def cancel(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _approach(self) -> Follower:
        follower = await self._candidate()
        live = self._step
        if live.offset < follower.offset:
            log.info(
                "%s begins at %d: it waits for the live model at %d", self.command.base, follower.offset, live.offset
            )
        while live.offset < follower.offset:  # noqa: ASYNC110 - learning is nobody's event
            await asyncio.sleep(LAG_LOOK_S)
        distance = live.offset - follower.offset
        log.info("%s catches up from %d to %d", self.command.base, follower.offset, live.offset)
        while distance > CLOSE:
            before = distance
            await self._learn_until(follower, live.offset)
            distance = live.offset - follower.offset
            if distance > before / 2:
                # What came while the reading began anew: it would come again, each time.
                log.info("%s is %d examples behind: the live model waits for it", self.command.base, distance)
                break
        return follower

    async def _learn_until(self, follower: Follower, end: int) -> None:
        async def learn() -> None:
            batches = self._read(self._shard, follower.offset, end)
            self._bound_until_s = time.monotonic() + PATIENCE_S
            while (records := await asyncio.to_thread(next, batches, None)) is not None:
                self._bound_until_s = inf
                await self._learn(follower, records)
                self._crash_point("learn.in_catch_up")
                self._bound_until_s = time.monotonic() + PATIENCE_S

        try:
            await retrying(learn, f"catch-up of {self.command.base}", tries=TRIES, first_s=TRY_AGAIN_S)
        finally:
            self._bound_until_s = 0.0
        follower.offset = end

    async def _learn(self, follower: Follower, records: Sequence[Record]) -> None:
        began_s = time.perf_counter()
        for record in records:
            follower.step((record,))
            self._ahead += 1
            if time.perf_counter() - began_s > SLICE_S:
                await asyncio.sleep(0)
                began_s = time.perf_counter()
