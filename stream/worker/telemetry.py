"""What a worker says of itself: once a second to itself, for its metrics; every two seconds to Redis, for anybody's page.

A learner also keeps the course of the pipeline's figures, a point every five seconds, 2,000 at most. Nothing here is
state: it may fail, be late or be lost, and the worker goes on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from stream.adapters.redis_telemetry import RedisTelemetry
from stream.core.evaluating import KEY_FIGURE
from stream.core.objectives import Judged
from stream.errors import Unavailable
from stream.worker.latencies import percentile_s

__all__ = [
    "STALE_MS", "PartitionLook", "PartitionReport", "Point", "Report", "Telemetry", "TrialPoint", "age_p99_ms", "merged"
]  # fmt: skip

log = logging.getLogger(__name__)

LOOK_S, REPORT_S, POINT_S = 1.0, 2.0, 5.0
IDLE_POINT_S = 60.0  # between two points when nothing happens
STALE_MS = 10_000  # a report older than this is of a worker that is gone
SEGMENT_VALUES_SHOWN = 8


class PartitionLook(msgspec.Struct, frozen=True):
    """One owned partition, as its owner sees it."""

    offsets: dict[str, int]  # topic -> next offset
    ends: dict[str, int]  # topic -> the log's end; -1 while it is not known
    counts: dict[str, int]  # what the state has counted
    commits: int
    scoring: tuple[list[int], float] | None = None  # seconds from fetch to publication: counts by bucket, sum
    age: tuple[list[int], float] | None = None  # seconds from the event's Kafka timestamp to publication
    scoring_recent: list[int] = []  # of the last minute
    age_recent: list[int] = []
    label_budget: tuple[float, int] | None = None  # requests allowed and spent, where labels are asked for


class PartitionReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What others are told of a partition."""

    per_s: float = 0.0  # records of events, or of examples
    scoring: list[int] = []
    age: list[int] = []


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker says."""

    worker: str
    role: str
    at_ms: int
    started_at_ms: int
    partitions: dict[int, PartitionReport] = {}


class TrialPoint(msgspec.Struct, frozen=True, array_like=True):
    """How a trial stood."""

    base: str
    stage: str
    share: float
    labels: int
    candidate: float | None
    rival: float | None
    better: float
    worse: float
    needed: float


class Point(msgspec.Struct, frozen=True, omit_defaults=True):
    """One point of a pipeline's course."""

    at_ms: int
    offset: int  # of the next example
    base: str
    model: float | None = None  # the key figure in the sliding window
    prior: float | None = None
    persistence: float | None = None
    segments: dict[str, dict[str, float | None]] = {}
    trial: TrialPoint | None = None
    per_s: float = 0.0  # events
    p50_s: float | None = None
    p99_s: float | None = None


class Telemetry:
    """Of one worker. `latest` may be read from another thread: it is replaced, never changed."""

    def __init__(
        self,
        store: RedisTelemetry,
        role: str,
        look: Callable[[], dict[int, PartitionLook]],
        status: Callable[[], Any],
        judge: Callable[[bytes, Sequence[Report]], Awaitable[list[Judged]]] | None = None,
    ) -> None:
        """`judge`: of the learner's status and everybody's reports, how the declared objectives stand."""
        self.worker = f"{socket.gethostname()}-{os.getpid()}"
        self.role = role
        self.started_at_ms = int(time.time() * 1e3)
        self.latest: Mapping[int, PartitionLook] = {}
        self.status: bytes | None = None  # the learner's, as Redis has it; of a scorer None
        self.judged: Sequence[Judged] = ()  # the objectives; of a scorer none
        self.looked_s = time.monotonic()
        self._store = store
        self._look = look
        self._read_status = status
        self._judge = judge
        self._before: dict[int, tuple[float, int]] = {}
        self._next_point_s = 0.0
        self._last: tuple[int, float] = (-1, 0.0)  # offset and time of the last point

    async def look(self) -> None:
        """Keep `latest` fresh. Runs until cancelled."""
        while True:
            self.latest, self.looked_s = self._look(), time.monotonic()
            await asyncio.sleep(LOOK_S)

    async def tell(self) -> None:
        """Tell Redis. Runs until cancelled."""
        while True:
            await asyncio.sleep(REPORT_S)
            try:
                await self._tell()
            except Unavailable as error:
                log.debug("telemetry: %s", error)
            except Exception as error:  # noqa: BLE001 - a picture is missing; the work must go on
                log.warning("telemetry: %s: %s", type(error).__name__, error, extra={"code": "telemetry_failed"})

    async def close(self) -> None:
        """Take the report back."""
        try:
            await self._store.forget([self.worker])
        except Unavailable:
            pass
        await self._store.close()

    async def _tell(self) -> None:
        now_ms = int(time.time() * 1e3)
        partitions = {number: self._partition(number, look) for number, look in self.latest.items()}
        report = Report(
            worker=self.worker, role=self.role, at_ms=now_ms, started_at_ms=self.started_at_ms, partitions=partitions
        )
        await self._store.report(self.worker, msgspec.json.encode(report))
        if self.role != "learn" or 0 not in partitions:
            return
        self.status = await self._read_status()
        if self._judge is not None and self.status is not None:
            reports, _ = merged(await self._store.reports(), now_ms)
            self.judged = await self._judge(self.status, reports)
        if time.monotonic() >= self._next_point_s:
            self._next_point_s = time.monotonic() + POINT_S - REPORT_S  # it is looked at every two seconds
            await self._add_point(now_ms)

    def _partition(self, number: int, look: PartitionLook) -> PartitionReport:
        position = look.offsets.get("events", look.offsets.get("examples", 0))
        now_s = time.monotonic()
        before_s, before = self._before.get(number, (now_s, position))
        self._before[number] = (now_s, position)
        per_s = (position - before) / (now_s - before_s) if now_s > before_s else 0.0
        return PartitionReport(round(max(0.0, per_s), 1), look.scoring_recent, look.age_recent)

    async def _add_point(self, now_ms: int) -> None:
        if self.status is None:
            return
        reports, gone = merged(await self._store.reports(), now_ms)
        await self._store.forget(gone)
        point = _point(msgspec.json.decode(self.status), reports, now_ms)
        offset, at_s = self._last
        if point.offset == offset and not point.per_s and time.monotonic() - at_s < IDLE_POINT_S:
            return
        self._last = (point.offset, time.monotonic())
        await self._store.add_point(msgspec.json.encode(point))


def merged(stored: Mapping[str, bytes], now_ms: int) -> tuple[list[Report], list[str]]:
    """The reports of workers that are alive, and the names of those that have been silent for a minute."""
    alive, gone = [], []
    for name, data in stored.items():
        try:
            report = msgspec.json.decode(data, type=Report)
        except msgspec.DecodeError:  # of another version, or damaged
            gone.append(name)
            continue
        if now_ms - report.at_ms <= STALE_MS:
            alive.append(report)
        elif now_ms - report.at_ms > 6 * STALE_MS:
            gone.append(name)
    return alive, gone


def age_p99_ms(reports: Sequence[Report]) -> float | None:
    """From an event's timestamp to its prediction, 99 %, of the last minute and all workers; None without events."""
    rows = [p.age for report in reports if report.role == "score" for p in report.partitions.values() if p.age]
    found = percentile_s([sum(column) for column in zip(*rows, strict=False)], 0.99)
    return None if found is None else found * 1e3


def _point(status: Mapping[str, Any], reports: list[Report], now_ms: int) -> Point:
    window = status["metrics"]["window"]
    key = KEY_FIGURE[status["metrics"]["task"]]
    scoring = [p for report in reports if report.role == "score" for p in report.partitions.values()]
    counts = [sum(column) for column in zip(*(p.scoring for p in scoring if p.scoring), strict=False)]
    segments = {
        name: {value: _rounded(its["window"]["model"].get(key)) for value, its in _largest(values)}
        for name, values in status.get("segments", {}).items()
    }
    base, _, offset = status["version"].rpartition("@")
    return Point(
        at_ms=now_ms,
        offset=int(offset),
        base=base,
        model=_rounded(window["model"].get(key)),
        prior=_rounded(window["prior"].get(key)),
        persistence=_rounded(window["persistence"].get(key)),
        segments=segments,
        trial=_trial(status["trial"]) if status.get("trial") else None,
        per_s=round(sum(p.per_s for p in scoring), 1),
        p50_s=_rounded(percentile_s(counts, 0.5)),
        p99_s=_rounded(percentile_s(counts, 0.99)),
    )


def _largest(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(values.items(), key=lambda item: -item[1]["overall"]["labels"])[:SEGMENT_VALUES_SHOWN]


def _trial(trial: Mapping[str, Any]) -> TrialPoint:
    figure = "mae" if "mae_candidate" in trial else "accuracy"
    return TrialPoint(
        trial["base"], trial["stage"], trial["share"], trial["labels"],
        trial.get(f"{figure}_candidate"), trial.get(f"{figure}_rival"),
        trial["evidence_better"], trial["evidence_worse"], trial["needed"],
    )  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
