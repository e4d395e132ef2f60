"""What the owner of a partition has in common in both roles: records come in, one task works them off."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import TypeVar

from stream.core.records import Record
from stream.errors import Unavailable

__all__ = ["Owner", "retrying"]

log = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_LAST_S = 0.02, 1.0

T = TypeVar("T")


async def retrying(
    call: Callable[[], Awaitable[T]], what: str, *, tries: float = inf, first_s: float = RETRY_FIRST_S
) -> T:
    """Repeat a call while the server does not answer; the watchdog ends a worker that waits too long.

    Raises Unavailable after so many tries.
    """
    delay_s = first_s
    while True:
        try:
            return await call()
        except Unavailable as error:
            tries -= 1
            if tries < 1:
                raise
            log.warning("%s: %s; trying again", what, error, extra={"code": "unavailable"})
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RETRY_LAST_S)


class Owner:
    """Takes the records of one partition until it is stopped, or until somebody else owns the partition."""

    def __init__(self) -> None:
        self._queue: deque[Record] = deque()  # records that hold back fetching until they are processed
        self._fetched_until: dict[str, int] = {}
        self.started: dict[str, int] = {}  # where reading began, by topic
        self._arrived = asyncio.Event()
        self._stopping = False
        self._abandoned = False
        self._taken = 0
        self.paused: frozenset[str] = frozenset()  # topics not to be fetched for now
        self.commits = 0
        self.idle = False  # waiting for records, not for a server

    @property
    def offsets(self) -> Mapping[str, int]:
        """The next offset to read of each topic, were this owner to die now."""
        raise NotImplementedError

    @property
    def counts(self) -> dict[str, int]:
        """What the state has counted, by name."""
        raise NotImplementedError

    @property
    def received(self) -> int:
        """Every record that was given to this owner."""
        return self._taken + len(self._queue)

    @property
    def taken(self) -> int:
        """Records processed or dropped: the transport fetches on while this follows `received` closely."""
        return self._taken

    async def run(self) -> None:
        """Work until stopped. Raises Fenced, Conflict."""
        raise NotImplementedError

    async def finish(self) -> None:
        """Leave nothing half done, before the partition is given up."""
        raise NotImplementedError

    def add(self, topic: str, records: Sequence[Record], until: int) -> None:
        """Records of one fetch, in offset order; before offset `until` there are no more."""
        if self._abandoned:
            self._taken += len(records)
            return
        expected = max(self._fetched_until.get(topic, 0), self.offsets[topic])
        if records and records[0].offset < expected:  # a rebalance may deliver again what the stored offsets cover
            self._taken += sum(1 for record in records if record.offset < expected)
            records = [record for record in records if record.offset >= expected]
        if until > expected:
            self._fetched_until[topic] = until
            self._accept(topic, records)
            self._arrived.set()

    def _accept(self, topic: str, records: Sequence[Record]) -> None:
        """Keep records that were not seen before."""
        self._queue.extend(records)

    def abandon(self) -> None:
        """Somebody else owns the partition: records still under way are dropped, so that fetching goes on."""
        self._taken = self.received
        self._queue.clear()
        self._abandoned = True

    def stop(self) -> None:
        """End `run` after the micro-batch it is in."""
        self._stopping = True
        self._arrived.set()

    async def _arrival(self, timeout_s: float | None) -> None:
        """Wait until records came, or so long. Not `wait_for`: Python 3.11's may swallow a cancellation."""
        self.idle = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
        self.idle = False
