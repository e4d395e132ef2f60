"""The Faust application of one worker process: one role, its own consumer group, its own lifecycle.

Faust gives the agent, the channel, rebalance signals and orderly start and stop. The transport is ours
(`stream/worker/transport.py`), and so are the offsets, the producer and the state.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Coroutine, Mapping
from typing import Any

import faust

from stream.errors import DriftloopError, StartupRefused
from stream.settings import Settings
from stream.worker.transport import BatchTransport, FetchedBatch, Ownership

__all__ = ["WorkerApp", "run"]

log = logging.getLogger(__name__)

REFUSED = 3  # exit code: starting again will not help
BATCH_BYTES_MAX = 1_048_576  # Kafka's default for the largest batch of records
BUFFER_BATCHES = 4  # micro-batches on their way between the polling thread and the step


class WorkerApp(faust.App):  # type: ignore[misc]
    """A Faust app over the batch transport. Give it its `role`, which owns partitions and takes their records."""

    def __init__(self, name: str, role: Any, topics: Mapping[str, str], settings: Settings) -> None:
        super().__init__(
            name,
            broker=f"kafka://{settings.brokers.split(',')[0]}",
            key_serializer="raw",
            value_serializer="raw",
            web_enabled=False,
            web_tables_enabled=False,
            web_router_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
            stream_wait_empty=False,
            stream_buffer_maxsize=4_096,
            stream_recovery_delay=0.0,
            broker_commit_livelock_soft_timeout=1e9,
            agent_supervisor="mode.CrashingSupervisor",
            worker_redirect_stdouts=False,
            autodiscover=False,
        )
        self.ownership: Ownership = role
        self.bare_topics = {kafka_name: bare for bare, kafka_name in topics.items()}
        self.buffer_records_max = BUFFER_BATCHES * settings.batch_records_max
        self.consumer_config = consumer_config(name, settings)
        self.failure: BaseException | None = None
        self.ended = asyncio.Event()
        channel = self.topic(*topics.values(), key_serializer="raw", value_serializer="raw", acks=False)

        @self.agent(channel, name=role.name)  # type: ignore[untyped-decorator]
        async def agent(stream: Any) -> None:
            async for event in stream.noack().events():
                batches: list[FetchedBatch] = event.message.value
                for batch in batches:
                    role.take(self.bare_topics[batch.topic], batch.partition, batch.records, batch.until)

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_producer, self)

    def _create_directories(self) -> None:
        """Faust's tables would keep files; we have none."""

    def started_or_failed(self, start: asyncio.Task[Any]) -> None:
        if not start.cancelled() and (error := start.exception()) is not None:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the worker: what it holds in memory is void, the next one starts from Redis."""
        if self.failure is None:
            self.failure = error
        self.ended.set()


def consumer_config(group: str, settings: Settings) -> dict[str, Any]:
    return {
        **settings.kafka(),
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,  # says where a log ends that ends with markers of transactions
        "auto.offset.reset": "error",  # start-up checks the stored offsets; a hole must never be jumped silently
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "range",  # events and labels with equal counts go to the same member
        "session.timeout.ms": settings.session_timeout_ms,
        "heartbeat.interval.ms": min(1_000, settings.session_timeout_ms // 4),
        "fetch.wait.max.ms": settings.fetch_wait_ms,
        "fetch.min.bytes": settings.fetch_min_bytes,
        "fetch.error.backoff.ms": 50,
        # What is fetched ahead delays a rebalance: librdkafka hands it out first. So only a little is.
        "queued.min.messages": 1_000,
        # Below the size of a producer's batches the broker serves the first partition of a request and starves the others.
        "max.partition.fetch.bytes": BATCH_BYTES_MAX,
        "queued.max.messages.kbytes": 8 * BATCH_BYTES_MAX // 1024,
        "fetch.queue.backoff.ms": 2,  # by default a full queue is looked at again after a whole second
        "max.poll.interval.ms": 300_000,
        "topic.metadata.refresh.interval.ms": 60_000,
    }


async def run(app: WorkerApp) -> int:
    """Start, work until SIGTERM, SIGINT or a failure, and stop in order. Returns the process's exit code.

    SIGUSR1 prints where every task stands.
    """
    _collect_garbage_rarely()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, app.ended.set)
    loop.add_signal_handler(signal.SIGUSR1, _print_tasks)
    try:
        if await _until_ended(app, app.ownership.start(app)):  # type: ignore[attr-defined]
            # Faust's start waits for the first assignment, and that may fail or never come.
            tasks = [asyncio.create_task(app.start()), asyncio.create_task(_faust_crash(app))]
            tasks[0].add_done_callback(app.started_or_failed)
            await app.ended.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    except Exception as error:  # noqa: BLE001 - every failure must reach the exit code
        app.fail(error)
    finally:
        await _stop(app)
    return _exit_code(app.failure)


def _collect_garbage_rarely() -> None:
    """By default Python looks for cycles after every 700 new objects, and ever again at all that a worker remembers.

    We make no cycles per record. With 50,000 entities in memory this gives half as much throughput again.
    """
    gc.collect()
    gc.freeze()  # what the imports left is never looked at again
    gc.set_threshold(20_000, 20, 50)


async def _until_ended(app: WorkerApp, start: Coroutine[Any, Any, None]) -> bool:
    """Whether the start was finished before the worker was told to end: it may wait for servers or for a first model."""
    starting = asyncio.create_task(start)
    ended = asyncio.create_task(app.ended.wait())
    await asyncio.wait({starting, ended}, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    while not starting.done():  # redis-py may swallow a cancellation
        starting.cancel()
        await asyncio.wait({starting}, timeout=0.2)
    if app.ended.is_set():
        return False
    starting.result()
    return True


def _exit_code(failure: BaseException | None) -> int:
    if failure is None:
        return 0
    refused = isinstance(failure, StartupRefused)
    ours = isinstance(failure, DriftloopError)  # what these say is enough
    log.error("the worker ends: %s", failure, exc_info=None if ours else failure, extra={"code": "worker_failed"})
    return REFUSED if refused else 1


def _print_tasks() -> None:
    """What a worker that seems stuck is waiting for."""
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)


async def _stop(app: WorkerApp) -> None:
    try:
        if app.started:
            async with asyncio.timeout(30.0):
                await app.stop()
    except Exception as error:  # noqa: BLE001 - stopping goes on
        app.fail(error)
    finally:
        await app.ownership.close()  # type: ignore[attr-defined]


async def _faust_crash(app: WorkerApp) -> None:
    await app._crashed.wait()
    app.fail(app.crash_reason or RuntimeError("Faust's app crashed"))
