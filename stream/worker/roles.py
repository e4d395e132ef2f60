"""The two roles of a worker process. A role owns partitions (`transport.Ownership`) and drives one task for each."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from faust.types import TP

from stream.adapters.crash_points import CrashPoints
from stream.adapters.kafka_topics import KafkaTopics
from stream.core.beginning import Beginning
from stream.core.explaining import Scorer, compile_scorer
from stream.core.learning import LearnStep, Serving, open_for_serving
from stream.core.model_bases import seal_base
from stream.core.records import Record
from stream.core.scoring import BesideModel, LiveModel
from stream.core.slots import Roster
from stream.core.snapshot import SnapshotHeader
from stream.errors import DriftloopError, Fenced, StartupRefused
from stream.messages import CHAMPION, ModelRef
from stream.pipeline import Pipeline
from stream.ports import BaseStore, ModelStore, Publisher, StateStore
from stream.settings import Settings
from stream.topics import TopicNames
from stream.worker.catching_up import ReadExamples
from stream.worker.learn import LearnShard
from stream.worker.owner import Owner, retrying
from stream.worker.releasing import Desk
from stream.worker.score import ScorePartition
from stream.worker.stopwatch import Stopwatch
from stream.worker.telemetry import PartitionLook, Telemetry
from stream.worker.web.serving import WebThread

__all__ = ["LearnRole", "ScoreRole"]

log = logging.getLogger(__name__)

STOP_S = 5.0  # for the micro-batch that is under way
FINISH_S = 10.0  # for what it publishes
REVOCATION_S = 5.0  # beyond the session time-out, for Kafka to give a fenced partition to somebody else


class _Role:
    """What both roles share: one task per owned partition, a watchdog, and an end that is never silent."""

    name: str
    topics: tuple[str, ...]

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        kafka: KafkaTopics,
        publisher: Publisher,
        models: ModelStore,
        configuration: str,
        extra_allowed: frozenset[str],
    ) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._kafka = kafka
        self._publisher = publisher
        self._models = models
        self._configuration = configuration
        self._extra_allowed = extra_allowed
        self._names = TopicNames.of(pipeline)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._owned: dict[int, Owner] = {}
        self._taken_by_former = 0
        self._ends: dict[tuple[str, int], int] = {}  # log ends at assignment, until the transport knows better
        self._background: list[asyncio.Task[None]] = []
        self._crash_point = CrashPoints(settings.crash_at)
        self._app: Any = None
        self._telemetry: Telemetry | None = None
        self._web: WebThread | None = None

    # -- transport.Ownership ---------------------------------------------------------------------------------------

    async def on_assigned(self, partitions: list[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        offsets: dict[tuple[str, int], int] = {}
        for number in sorted({partition for _, partition in partitions}):
            owned, stored = await self._acquire(number)
            for topic in self.topics:
                start = await self._checked(topic, number, stored.get(topic))
                offsets[self._names[topic], number] = owned.started[topic] = start
            self._owned[number] = owned
            self._tasks[number] = asyncio.create_task(self._drive(number, owned), name=f"{self.name}-{number}")
        log.info("owns partitions %s", sorted(self._owned))
        return offsets

    async def on_revoked(self, partitions: list[tuple[str, int]]) -> None:
        numbers = {partition for _, partition in partitions}
        await asyncio.gather(*(self._release(number) for number in numbers))
        log.info("gave up partitions %s", sorted(numbers))

    def taken(self) -> int:
        return self._taken_by_former + sum(owned.taken for owned in list(self._owned.values()))

    def paused(self) -> frozenset[tuple[str, int]]:
        return frozenset(
            (self._names[topic], number) for number, owned in list(self._owned.items()) for topic in owned.paused
        )

    def offsets(self) -> Mapping[tuple[str, int], int]:
        return {
            (self._names[topic], number): offset
            for number, owned in list(self._owned.items())
            for topic, offset in owned.offsets.items()
        }

    # -- the life of a role ----------------------------------------------------------------------------------------

    async def start(self, app: Any) -> None:
        self._app = app
        self._background.append(asyncio.create_task(self._watchdog()))

    def tell(self, telemetry: Telemetry, web: WebThread | None) -> None:
        """From now on others are told how this worker is, also while it waits for a first model."""
        self._telemetry, self._web = telemetry, web
        self._background += [asyncio.create_task(telemetry.look()), asyncio.create_task(telemetry.tell())]
        if web is not None:
            web.start()

    async def close(self) -> None:
        for task in self._background:
            task.cancel()
        if self._web is not None:
            await self._web.close()
        if self._telemetry is not None:
            await self._telemetry.close()
        await asyncio.gather(*(self._release(number) for number in list(self._owned)))
        await self._publisher.close()
        await self._models.close()

    def take(self, topic: str, partition: int, records: Sequence[Record], until: int) -> None:
        """One fetched batch, from the Faust agent; the log goes on at offset `until`."""
        owned = self._owned.get(partition)
        if owned is None:
            self._taken_by_former += len(records)
        else:
            owned.add(topic, records, until)

    async def _acquire(self, number: int) -> tuple[Owner, Mapping[str, int]]:
        raise NotImplementedError

    async def _drive(self, number: int, owned: Any) -> None:
        try:
            await owned.run()
        except asyncio.CancelledError:
            raise
        except Fenced as error:
            log.warning("%s; what this worker held of it is dropped", error, extra={"code": "fenced"})
            owned.abandon()
            self._background.append(asyncio.create_task(self._expect_revocation(number, owned, error)))
        except Exception as error:  # noqa: BLE001 - whatever it was, the worker must not go on half alive
            self._app.fail(error)

    async def _expect_revocation(self, number: int, owned: Owner, error: Fenced) -> None:
        """A new owner in Redis without one in Kafka (the state was deleted, or a stale replica serves it): nobody works."""
        await asyncio.sleep(self._settings.session_timeout_ms / 1e3 + REVOCATION_S)
        if self._owned.get(number) is owned:
            self._app.fail(error)

    async def _release(self, number: int) -> None:
        task, owned = self._tasks.pop(number, None), self._owned.pop(number, None)
        if task is None or owned is None:
            return
        ended = task.done()  # fenced, or failed
        owned.stop()
        await asyncio.wait({task}, timeout=STOP_S)
        while not task.done():  # more than once: redis-py waits with wait_for, which may swallow it on Python 3.11
            task.cancel()
            await asyncio.wait({task}, timeout=0.2)
        if not ended:
            try:
                async with asyncio.timeout(FINISH_S):
                    await owned.finish()
            except (DriftloopError, TimeoutError) as error:
                log.warning("partition %d was left unfinished, its next owner finishes it: %s", number, error)
        self._taken_by_former += owned.received

    async def _checked(self, topic: str, number: int, stored: int | None) -> int:
        """The stored offset must lie within the log: a jump would lose records silently."""
        low, high = await asyncio.to_thread(self._kafka.offsets, topic, number)
        self._ends[topic, number] = high
        if stored is None:
            return low
        if stored < low:
            raise StartupRefused(
                "offset_before_log",
                f"{self._names[topic]}-{number}: Redis holds offset {stored}, the log starts at {low}; records were "
                "deleted before they were processed: raise retention.ms, then reset the pipeline or restore the topic",
            )
        if stored > high:
            raise StartupRefused(
                "offset_after_log",
                f"{self._names[topic]}-{number}: Redis holds offset {stored}, the log ends at {high}; the topic was "
                "truncated or made again: restore it, or reset the pipeline",
            )
        return stored

    # -- watching --------------------------------------------------------------------------------------------------

    def _lag(self) -> int:
        """Records in the log that are not yet processed."""
        consumer = self._app.consumer
        lag = 0
        for (topic, partition), offset in self.offsets().items():
            lag += max(0, consumer.highwater(TP(topic, partition)) - offset)
        return lag

    def look(self) -> dict[int, PartitionLook]:
        """What this worker owns, for its metrics and the page."""
        return {number: self._look(number, owned) for number, owned in self._owned.items()}

    def _look(self, number: int, owned: Any) -> PartitionLook:
        ends = {
            topic: max(
                self._app.consumer.highwater(TP(self._names[topic], number)), self._ends.get((topic, number), -1)
            )
            for topic in self.topics
        }
        return PartitionLook(dict(owned.offsets), ends, dict(owned.counts), owned.commits)

    def _log_ends(self) -> int:
        return sum(self._app.consumer.highwater(TP(*partition)) for partition in self.offsets())

    async def _watchdog(self) -> None:
        """Lag but no progress for too long: end the worker, so that its supervisor starts a fresh one."""
        progress, since_s, ends = -1, time.monotonic(), 0
        while True:
            await asyncio.sleep(min(1.0, self._settings.watchdog_s / 4))
            now = self.taken() + sum(owned.commits for owned in self._owned.values())
            busy = not all(owned.idle for owned in self._owned.values())
            # A log whose end does not move may end with transaction markers, which nobody delivers: not a lag of ours.
            end = self._log_ends()
            moved = end > ends
            if now != progress or not self._owned or not self._lag() or not (busy or moved):
                progress, since_s, ends = now, time.monotonic(), end
            elif time.monotonic() - since_s > self._settings.watchdog_s:
                self._app.fail(
                    DriftloopError(f"watchdog: lag {self._lag()} and no progress for {self._settings.watchdog_s:.0f} s")
                )
                return


class ScoreRole(_Role):
    """Owns partitions of `events` and `labels`, and keeps the live model fresh."""

    name = "score"
    topics = ("events", "labels")

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        kafka: KafkaTopics,
        publisher: Publisher,
        models: ModelStore,
        configuration: str,
        extra_allowed: frozenset[str],
        store: StateStore,
        beginning: Beginning,
        partitions: int,
    ) -> None:
        super().__init__(pipeline, settings, kafka, publisher, models, configuration, extra_allowed)
        self._partitions = partitions
        self._store = store
        self._beginning = beginning
        self._live: LiveModel | None = None
        self._roster: bytes | None = None
        self._stopwatch = Stopwatch()

    async def start(self, app: Any) -> None:
        await self._first_model()
        await super().start(app)
        self._background.append(asyncio.create_task(self._follow_model()))
        self._background.append(asyncio.create_task(self._report_latencies()))

    async def close(self) -> None:
        await super().close()
        await self._store.close()

    async def _first_model(self) -> None:
        try:
            async with asyncio.timeout(self._settings.model_wait_s):
                await self._refresh()
                while self._live is None:
                    await asyncio.sleep(self._settings.model_poll_ms / 1e3)
                    await self._refresh()
        except TimeoutError:
            raise StartupRefused(
                "no_model", f"no learn worker has published a model of {self._pipeline.name!r}; start one"
            ) from None

    async def _follow_model(self) -> None:
        poll_s = self._settings.model_poll_ms / 1e3
        while True:
            await asyncio.sleep(poll_s)
            try:
                started_s = time.perf_counter()
                await self._refresh()
                # Reading a large model must not eat the time for scoring.
                await asyncio.sleep(10 * (time.perf_counter() - started_s))
            except Exception as error:  # noqa: BLE001 - a bad snapshot is refused; the last good model goes on serving
                log.error("the new model was refused, the old one serves: %s", error, extra={"code": "model_refused"})
                await asyncio.sleep(1.0)

    async def _refresh(self) -> None:
        data = await retrying(lambda: self._models.roster(0), "roster")
        if data is None or data == self._roster:
            return
        beside = msgspec.json.decode(data, type=Roster).beside
        slots = [CHAMPION, *([beside.slot] if beside is not None else [])]
        found = await retrying(lambda: self._models.models(0, slots), "models")
        if CHAMPION in found:
            self._live = await asyncio.to_thread(self._ready, found)
            if found["roster"] == data:  # else it has changed between the two calls, and is read again
                self._roster = data

    def _ready(self, found: Mapping[str, bytes]) -> LiveModel:
        """The models of one moment, made ready to score."""
        beside = msgspec.json.decode(found["roster"], type=Roster).beside
        if beside is not None and beside.trial != self._stopwatch.trial:
            self._stopwatch = Stopwatch(beside.trial)
        header, scorer, serving = self._scorer(found[CHAMPION], watched=beside is not None)
        assert serving is not None
        live = LiveModel(
            ModelRef(self._pipeline.name, header.version),
            scorer,
            serving.persistence,
            serving.prior,
            serving.prior_probabilities,
            serving.half_width,
            serving.drifting,
        )
        if beside is None or beside.slot not in found:
            return live
        try:
            header, scorer, _ = self._scorer(found[beside.slot], watched=True)
        except Exception as error:  # noqa: BLE001 - it is not scored, and goes when too few labels have both answers
            log.error("the %s was refused: %s", beside.slot, error, extra={"code": "model_refused"})
            return live
        ref = ModelRef(self._pipeline.name, header.version, beside.slot)
        return live._replace(beside=BesideModel(ref, scorer, beside.share))

    def _scorer(self, data: bytes, *, watched: bool) -> tuple[SnapshotHeader, Scorer, Serving | None]:
        """`watched`: calls are timed, some of them."""
        pipeline = self._pipeline
        header, model, serving = open_for_serving(
            data,
            self._settings.signing(),
            pipeline=pipeline.name,
            shard=0,
            configuration=self._configuration,
            extra_allowed=self._extra_allowed,
        )
        scorer = compile_scorer(
            model, pipeline.task, explained_top=pipeline.explained_top, threshold=pipeline.threshold
        )
        return header, self._stopwatch.watch(header.base, scorer) if watched else scorer, serving

    async def _report_latencies(self) -> None:
        """While two models run side by side, the learner wants to know how long they take."""
        worker = f"{socket.gethostname()}-{os.getpid()}"
        while True:
            await asyncio.sleep(1.0)
            if self._live is None or self._live.beside is None:
                continue
            report = msgspec.json.encode(self._stopwatch.spent)
            await retrying(lambda report=report: self._models.report_latency(0, worker, report), "latencies")  # type: ignore[misc]

    def _model(self) -> LiveModel:
        assert self._live is not None
        return self._live

    async def _acquire(self, number: int) -> tuple[ScorePartition, Mapping[str, int]]:
        owned = ScorePartition(
            self._pipeline,
            number,
            self._store,
            self._publisher,
            self._model,
            batch_records_max=self._settings.batch_records_max,
            entities_max=self._settings.entities_max,
            dead_share_max=self._settings.dead_share_max,
            answered_until=self._beginning.answered_until(number),
            partitions=self._partitions,
            crash_point=self._crash_point,
        )
        offsets = await owned.acquire()
        owned.log_end = self._log_end(number)
        return owned, offsets

    async def _checked(self, topic: str, number: int, stored: int | None) -> int:
        """Of a topic of which nothing was read yet: from where the state is to begin."""
        return await super()._checked(
            topic, number, stored if stored is not None else self._beginning.starts.get((topic, number))
        )

    def _look(self, number: int, owned: ScorePartition) -> PartitionLook:
        now_s = time.monotonic()
        return msgspec.structs.replace(
            super()._look(number, owned),
            scoring=(list(owned.scoring.counts), owned.scoring.sum_s),
            age=(list(owned.age.counts), owned.age.sum_s),
            scoring_recent=owned.scoring.recent(now_s),
            age_recent=owned.age.recent(now_s),
            label_budget=owned.label_budget,
        )

    def _log_end(self, number: int) -> Callable[[str], int]:
        partitions = {topic: TP(self._names[topic], number) for topic in self.topics}

        def log_end(topic: str) -> int:
            return max(int(self._app.consumer.highwater(partitions[topic])), self._ends.get((topic, number), 0))

        return log_end


class LearnRole(_Role):
    """Owns partitions of `examples`: one model shard each."""

    name = "learn"
    topics = ("examples",)

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        kafka: KafkaTopics,
        publisher: Publisher,
        models: ModelStore,
        configuration: str,
        extra_allowed: frozenset[str],
        examples_from: Mapping[int, int],
        bases: BaseStore,
        read: ReadExamples,
    ) -> None:
        super().__init__(pipeline, settings, kafka, publisher, models, configuration, extra_allowed)
        self._examples_from = examples_from
        self._bases = bases
        self._read = read

    async def _acquire(self, number: int) -> tuple[LearnShard, Mapping[str, int]]:
        step = LearnStep(
            self._pipeline,
            shard=number,
            keys=self._settings.signing(),
            configuration=self._configuration,
            window=self._settings.metrics_window,
            extra_allowed=self._extra_allowed,
            start=self._examples_from.get(number, 0),
        )
        signing, configuration = self._settings.signing(), self._configuration
        desk = Desk(
            step,
            number,
            self._models,
            self._bases,
            self._read,
            lambda shard: self._kafka.offsets("examples", shard)[1],
            pipeline=self._pipeline.name,
            keys=signing,
            configuration=configuration,
            extra_allowed=self._extra_allowed,
            crash_point=self._crash_point,
        )
        owned = LearnShard(
            step,
            number,
            self._models,
            self._publisher,
            bases=self._bases,
            seal_first=lambda: seal_base(step.first, configuration=configuration, key=signing[0]),
            desk=desk,
            interval_s=self._settings.snapshot_interval_ms / 1e3,
            batch_records_max=self._settings.batch_records_max,
            crash_point=self._crash_point,
        )
        return owned, await owned.acquire()

    async def _checked(self, topic: str, number: int, stored: int | None) -> int:
        """Without a snapshot: from where the last reset left off; older examples count from another beginning."""
        start = await super()._checked(topic, number, stored)
        if stored is not None:
            return start
        return max(start, min(self._examples_from.get(number, 0), self._ends[topic, number]))
