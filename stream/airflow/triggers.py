"""Waking a DAG when a drift comes. Imported by Airflow's triggerer by its dotted path.

The message is a wake-up and no more: `batch.taking_up` reads the topic itself. So many messages need one run, and a
message that is lost here is found by the DAG's clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.apache.kafka.triggers.shared_stream import KafkaSharedStreamTrigger
from airflow.triggers.base import TriggerEvent

__all__ = ["DriftTrigger", "spaced"]


class DriftTrigger(KafkaSharedStreamTrigger):
    """Fires at the first message, and for all that come within `min_gap_s` once more when that time is over.

    Args:
        topics: Kafka's names.
        kafka_config_id: Airflow's connection; it needs `enable.auto.commit` false and a group.id of its own.
        poll_timeout: seconds; all Kafka triggers of a triggerer take turns in one thread, each for so long.
        min_gap_s: seconds between two events.
    """

    def __init__(
        self,
        *,
        topics: list[str],
        kafka_config_id: str,
        poll_timeout: float = 0.1,
        min_gap_s: float = 20.0,
        dlq_topic: str | None = None,
    ) -> None:
        super().__init__(topics=topics, kafka_config_id=kafka_config_id, poll_timeout=poll_timeout, dlq_topic=dlq_topic)
        self.min_gap_s = min_gap_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        _, arguments = super().serialize()
        return f"{__name__}.DriftTrigger", {**arguments, "min_gap_s": self.min_gap_s}

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        async for _ in spaced(shared_stream, self.min_gap_s):
            yield TriggerEvent("drift")


async def spaced(stream: AsyncIterator[Any], gap_s: float) -> AsyncIterator[None]:
    """Once for the first item, then once for all items of each gap, at its end; the stream is never kept waiting."""
    clock = asyncio.get_running_loop().time
    next_s, owed = 0.0, False
    upcoming: asyncio.Task[Any] | None = None
    try:
        while True:
            if upcoming is None:
                upcoming = asyncio.ensure_future(anext(stream))
            await asyncio.wait({upcoming}, timeout=max(0.0, next_s - clock()) if owed else None)
            if upcoming.done():
                try:
                    upcoming.result()
                except StopAsyncIteration:
                    return
                upcoming, owed = None, True
            if owed and clock() >= next_s:
                owed, next_s = False, clock() + gap_s
                yield
    finally:
        if upcoming is not None:
            upcoming.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await upcoming
