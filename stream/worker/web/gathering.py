"""Everything the page shows, as JSON: of the whole system, from Redis and Kafka, so any worker's page shows the same.

It is gathered when somebody looks, and at most once a second however many look. What cannot be read is named in `trouble`,
and what was read last stays.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from stream.adapters.kafka_tails import KafkaTails, in_time
from stream.adapters.redis_models import RedisControl, RedisModelStore
from stream.adapters.redis_telemetry import RedisTelemetry
from stream.core.beginning import Beginning
from stream.core.estimating import estimate
from stream.core.evaluating import KEY_FIGURE
from stream.core.objectives import coverage_of, judge
from stream.core.records import Record
from stream.core.remembering import Meta
from stream.errors import DriftloopError
from stream.pipeline import Pipeline
from stream.worker.telemetry import Point, age_p99_ms, merged
from stream.worker.web import showing

__all__ = ["Gatherer"]

log = logging.getLogger(__name__)

EVERY_S = 1.0
TAILS_EVERY_S = 2.0  # records are read again
POINTS_MAX = 2_000
POINTS_NEW = 40  # read again each time
PREDICTIONS, LETTERS, AUDIT = 12, 20, 60  # records shown
COUNTED = ("events", "labels", "examples", "predictions", "dead_letters", "drifts", "releases")


class Gatherer:
    """Of one pipeline. All methods belong to one event loop."""

    def __init__(
        self,
        pipeline: Pipeline,
        models: RedisModelStore,
        telemetry: RedisTelemetry,
        control: RedisControl,
        tails: KafkaTails,
    ) -> None:
        self._control = control
        self._starts: dict[tuple[str, int], int] = {}
        self._pipeline = pipeline
        self._models = models
        self._telemetry = telemetry
        self._tails = tails
        self._lock = asyncio.Lock()
        self._gathered_s = -1e9
        self._trouble: dict[str, str] = {}
        self._state = b"{}"
        self._course = b"{}"
        self._points: list[Point] = []
        self._metas: list[Meta] = []
        self._estimated: dict[str, Any] | None = None
        self._status: dict[str, Any] | None = None
        self._reports: list[Any] = []
        self._partitions: dict[str, int] = {}
        self._ends: dict[str, dict[int, int]] = {}
        self._records: dict[str, list[Record]] = {}
        self._complete: dict[str, dict[int, int]] = {}  # ends up to which all records have come
        self._tails_s = -1e9
        self._tailing: asyncio.Task[None] | None = None

    async def state(self) -> bytes:
        """What is so now, at most a second old."""
        await self._gather()
        return self._state

    async def course(self) -> bytes:
        """How it came to be so: figures over time, thinned out."""
        await self._gather()
        return self._course

    async def close(self) -> None:
        if self._tailing is not None:
            await asyncio.gather(self._tailing, return_exceptions=True)
        await asyncio.to_thread(self._tails.close)
        await self._telemetry.close()
        await self._models.close()

    async def _gather(self) -> None:
        async with self._lock:
            if time.monotonic() - self._gathered_s < EVERY_S:
                return
            if self._tailing is None or (self._tailing.done() and time.monotonic() - self._tails_s >= TAILS_EVERY_S):
                unwatched = time.monotonic() - self._tails_s > 3 * TAILS_EVERY_S
                self._tails_s = time.monotonic()
                self._tailing = asyncio.create_task(self._try("Kafka", self._read_kafka))
                if unwatched:  # nobody has looked for a while: what is there is too old to be shown first
                    await asyncio.wait({self._tailing}, timeout=3.0)
            await self._try("Redis", self._read_redis)
            self._state = msgspec.json.encode(self._shown())
            self._gathered_s = time.monotonic()

    async def _try(self, what: str, read: Callable[[], Awaitable[None]]) -> None:
        try:
            await read()
            self._trouble.pop(what, None)
        except (DriftloopError, msgspec.DecodeError) as error:
            self._trouble[what] = str(error)
        except Exception as error:  # noqa: BLE001 - a viewer must see that something is wrong, not an empty page
            log.warning("the page: %s: %s", type(error).__name__, error, extra={"code": "page_failed"})
            self._trouble[what] = f"{type(error).__name__}: {error}"

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _read_redis(self) -> None:
        now_ms = int(time.time() * 1e3)
        metas = await self._telemetry.metas(self._partitions.get("events", 0))
        status = await self._models.status(0)
        self._reports, _ = merged(await self._telemetry.reports(), now_ms)
        self._starts = dict(Beginning.of(await self._control.describe()).starts)
        await self._read_points()
        wrong = []
        try:
            self._metas = [msgspec.json.decode(meta, type=Meta) if meta else Meta() for meta in metas]
        except msgspec.DecodeError as error:
            wrong.append(f"the state of a partition cannot be read: {error}")
        try:
            self._status = msgspec.json.decode(status, type=dict[str, Any]) if status else None
        except msgspec.DecodeError as error:
            wrong.append(f"the learner's status cannot be read: {error}")
        if wrong:
            raise DriftloopError("; ".join(wrong))
        asking = [meta.labelling.quality for meta in self._metas if meta.labelling is not None]
        self._estimated = estimate(asking, self._pipeline.task)

    async def _read_points(self) -> None:
        last_ms = self._points[-1].at_ms if self._points else -1
        found = _points(await self._telemetry.points(POINTS_NEW if self._points else POINTS_MAX))
        if self._points and (not found or found[0].at_ms > last_ms):  # there is a gap, or it was reset
            found = _points(await self._telemetry.points())
            self._points = []
            last_ms = -1
        new = [point for point in found if point.at_ms > last_ms]
        if new or not found:
            self._points = [*self._points, *new][-POINTS_MAX:] if found else []
            self._course = msgspec.json.encode(showing.course(self._points))

    async def _read_kafka(self) -> None:
        self._partitions, self._ends, self._records = await asyncio.to_thread(self._read_tails)

    def _read_tails(self) -> tuple[dict[str, int], dict[str, dict[int, int]], dict[str, list[Record]]]:
        tails = self._tails
        partitions = tails.partitions(COUNTED)
        ends = tails.ends(partitions)
        records = {}
        for topic, count in (
            ("predictions", PREDICTIONS), ("dead_letters", LETTERS), ("drifts", AUDIT), ("releases", AUDIT)
        ):  # fmt: skip
            its = ends.get(topic, {})
            if its == self._complete.get(topic):
                records[topic] = self._records[topic]
                continue
            found, complete = tails.last(topic, its, count)
            records[topic] = _fairly(found, count) if found or complete else self._records.get(topic, [])
            if complete:
                self._complete[topic] = its
        return partitions, ends, records

    # -- showing -----------------------------------------------------------------------------------------------------

    def _shown(self) -> dict[str, Any]:
        task = self._pipeline.task
        status = self._status
        try:
            learner = showing.learner(status, task) if status is not None else None
            self._trouble.pop("status", None)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            learner = None
            self._trouble["status"] = f"the learner's status is not one of ours: {type(error).__name__}: {error}"
        counts = showing.counts(self._metas)
        judged = judge(
            self._pipeline,
            status if learner is not None else None,
            label_coverage=coverage_of(counts),
            latency_p99_ms=age_p99_ms(self._reports),
        )
        return {
            "pipeline": self._pipeline.name,
            "task": task,
            "key": KEY_FIGURE[task],
            "trouble": [f"{what}: {text}"[:400] for what, text in self._trouble.items()],
            "workers": showing.workers(self._reports),
            "flow": showing.flow(self._reports, self._metas, self._ends, self._starts, learner),
            "learner": learner,
            "objectives": showing.objectives(judged),
            "labels": showing.labels(counts, learner),
            "estimated": self._estimated,
            "budget": showing.budget(self._pipeline.labelling or None, self._metas, counts),
            "dead": showing.dead_letters(counts, learner, self._records.get("dead_letters", [])),
            "predictions": showing.predictions(self._records.get("predictions", [])),
            "drifts": showing.drifts(self._records.get("drifts", [])),
            "releases": showing.releases(self._records.get("releases", [])),
        }


def _fairly(records: list[Record], count: int) -> list[Record]:
    """The newest, of every partition as many: one partition may be a moment ahead of the others."""
    by_partition: dict[int, list[Record]] = {}
    for record in records:
        by_partition.setdefault(record.partition, []).append(record)
    each = -(-count // max(1, len(by_partition)))
    kept = [record for its in by_partition.values() for record in its[-each:]]
    return sorted(kept, key=in_time)[-count:]


def _points(stored: list[bytes]) -> list[Point]:
    points = []
    for data in stored:
        try:
            points.append(msgspec.json.decode(data, type=Point))
        except msgspec.DecodeError:  # of another version
            continue
    return points
