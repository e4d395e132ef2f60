"""Commands that run workers: `up` and `demo`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import redis
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from stream.adapters.file_pipelines import load_pipeline
from stream.adapters.kafka_topics import KafkaTopics
from stream.adapters.redis_connections import redis_client
from stream.adapters.redis_models import RedisControl
from stream.cli.producing import produce, read_drifts
from stream.cli.showing import PipelineStatus, drift_text, quality_table, read_status, status_view
from stream.cli.sources import Columns, read_source
from stream.core.beginning import Beginning
from stream.core.evaluating import KEY_FIGURE
from stream.errors import ConfigurationError, DriftloopError, Unavailable
from stream.local.airflow import AIRFLOW_PYTHON, AirflowServer
from stream.local.process import Child, Reaper, wait_until, write_private
from stream.local.servers import free_port
from stream.local.stack import Stack
from stream.messages import Drift
from stream.pipeline import Pipeline
from stream.settings import Settings, load_settings
from stream.topics import TopicNames

__all__ = ["demo", "forget", "interruptible", "run_up", "supervise", "worker_command"]

FAILURES_MAX = 5  # of one worker within a minute: then something is wrong that a restart does not mend
SETTLE_S = 120.0
READY_S = 60.0


class _Demo(NamedTuple):
    pipeline: str
    source: str
    label_delay_ms: int
    interval_ms: int
    rate: float  # events per second: a model needs time to learn between an event and its like


DEMOS = {
    "payments": _Demo("payments/pipeline.py", "payments/generator.py", 0, 0, 1_500),
    "phishing": _Demo("phishing/pipeline.py", "river:Phishing", 20_000, 1_000, 100),
    "segment": _Demo("segment/pipeline.py", "river:ImageSegments", 20_000, 1_000, 150),
    "shuttle": _Demo("shuttle/pipeline.py", "river:Shuttle", 100_000, 1_000, 3_000),
    "water-flow": _Demo("water_flow/pipeline.py", "river:WaterFlow", 86_400_000, 1_000, 80),
}


def worker_command(pipeline_file: Path, role: str) -> list[str]:
    return [sys.executable, "-m", "stream.cli", "worker", str(pipeline_file), "--role", role]


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, instead of an exception in the middle of something."""
    stop = threading.Event()
    before = {n: signal.signal(n, lambda *_: stop.set()) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_up(pipeline_file: Path, score: int, directory: Path, console: Console, *, airflow: bool = False) -> None:
    """See `driftloop up`."""
    pipeline = load_pipeline(pipeline_file).pipeline
    own_servers = "brokers" not in load_settings().model_fields_set  # neither in the environment nor in its file
    with interruptible() as stop:
        if own_servers:
            with Stack(directory, say=lambda text: console.print(text, style="dim")) as stack:
                os.environ.update({k: v for k, v in stack.environment().items() if k.startswith("DRIFTLOOP_")})
                environment = directory / "environment"
                write_private(environment, _exports())  # it holds the signing key
                console.print(f"in another terminal: [bold]source {environment}[/]", highlight=False)
                with _airflow(pipeline, pipeline_file, directory, stack.reaper, console, wanted=airflow):
                    supervise(pipeline, pipeline_file, score, directory, stack.reaper, stop, console)
            return
        directory.mkdir(parents=True, exist_ok=True)
        reaper = Reaper()
        try:
            with _airflow(pipeline, pipeline_file, directory, reaper, console, wanted=airflow):
                supervise(pipeline, pipeline_file, score, directory, reaper, stop, console)
        finally:
            reaper.close()


@contextmanager
def _airflow(
    pipeline: Pipeline, pipeline_file: Path, directory: Path, reaper: Reaper, console: Console, *, wanted: bool
) -> Iterator[AirflowServer | None]:
    """Airflow for this pipeline, if wanted, until the block ends."""
    if not wanted:
        yield None
        return
    settings = load_settings()
    # Its triggerer would complain of topics that do not exist yet.
    KafkaTopics(settings.kafka(), TopicNames(pipeline.name)).create(settings.partitions, settings.replication_factor)
    server = AirflowServer(
        directory / "airflow",
        AIRFLOW_PYTHON,
        reaper,
        environment={**os.environ, "DRIFTLOOP_PIPELINES": str(pipeline_file.absolute())},
        pipelines=[pipeline.name],
        kafka=settings.kafka(),
        cache=Path(".driftloop"),
    )
    try:
        console.print("starting Airflow ...", style="dim")
        server.start()
        server.wait_ready()
        login = f"user {server.username}, password {server.password}"
        console.print(f"Airflow: [bold]{server.url}[/] ({login})", highlight=False)
        yield server
    finally:
        server.stop()


def _exports() -> str:
    names = ("BROKERS", "REDIS_URL", "SIGNING_KEY", "ARTIFACT_URL", "ARCHIVE_URL")
    return "".join(f"export DRIFTLOOP_{name}={os.environ[f'DRIFTLOOP_{name}']}\n" for name in names)


def supervise(
    pipeline: Pipeline,
    pipeline_file: Path,
    score: int,
    directory: Path,
    reaper: Reaper,
    stop: threading.Event,
    console: Console,
    done: Callable[[], bool] = lambda: False,
) -> None:
    """Run workers, each started again if it ends, until `stop` is set or `done` says so."""
    settings = load_settings()
    settings.signing()
    kafka = KafkaTopics(settings.kafka(), TopicNames.of(pipeline))
    made = kafka.create(settings.partitions, settings.replication_factor)
    if made:
        console.print(f"created topics: {', '.join(made)}", style="dim", highlight=False)
    logs = directory / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    roles = ["learn", *(f"score-{number}" for number in range(1, score + 1))]
    ports = _web_ports(settings, roles)
    children = [
        Child(
            role,
            worker_command(pipeline_file, role.split("-")[0]),
            logs / f"{role}.log",
            reaper,
            {**os.environ, "DRIFTLOOP_WEB_PORT": str(ports[role])},
        )
        for role in roles
    ]
    failures: dict[str, list[float]] = {child.name: [] for child in children}
    try:
        for child in children:
            child.start()
        console.print(
            f"[bold]{pipeline.name}[/] is up: {', '.join(roles)} (logs in {logs}); Ctrl-C stops it", highlight=False
        )
        console.print(f"page: [bold]{_url(settings, ports['learn'])}[/]", highlight=False)
        console.print(f"metrics: {', '.join(f'{role} at port {ports[role]}' for role in roles)}", style="dim")
        while not stop.wait(0.2):
            for child in children:
                if not child.running():
                    _restart(child, failures[child.name], console)
            if done():
                break
    finally:
        console.print("stopping ...", style="dim")
        for child in children:
            if child.running():
                child.signal(signal.SIGTERM)
        for child in children:
            child.stop(40.0)


def _web_ports(settings: Settings, roles: Sequence[str]) -> dict[str, int]:
    """A port for each worker: the first has the configured one, if there is one."""
    return {role: (not i and settings.web_port) or free_port() for i, role in enumerate(roles)}


def _url(settings: Settings, port: int) -> str:
    host = settings.web_host
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _restart(child: Child, failures: list[float], console: Console) -> None:
    assert child.process is not None
    code = child.wait(1.0)
    now_s = time.monotonic()
    failures[:] = [at_s for at_s in failures if now_s - at_s < 60.0] + [now_s]
    if code in (2, 3) or len(failures) >= FAILURES_MAX:
        raise DriftloopError(f"{child.name} ended with exit code {code}:\n{child.tail()}")
    console.print(f"[yellow]{child.name} ended with exit code {code}; starting it again[/]")
    child.start()


def forget(settings: Settings, name: str, beginning: Beginning | None = None) -> int:
    """Delete a pipeline's keys in Redis; returns how many. Examples that lie in the log stay unread. Raises Unavailable.

    Args:
        beginning: where its next state is to begin.
    """
    begin = beginning.fields() if beginning is not None else None
    kafka = KafkaTopics(settings.kafka(), TopicNames(name))
    examples = kafka.describe().topics.get("examples")
    ends = {shard: kafka.offsets("examples", shard)[1] for shard in range(examples.partitions if examples else 0)}

    async def delete() -> int:
        client = redis_client(**settings.redis())
        try:
            return await RedisControl(client, name).forget(ends, begin)
        finally:
            await client.aclose()

    return asyncio.run(delete())


# -- demo ----------------------------------------------------------------------------------------------------------------


def demo(data: str, events: int, rate: float | None, directory: Path, console: Console) -> None:
    """See `driftloop demo`."""
    if data not in DEMOS:
        raise ConfigurationError("data", data, f"use one of: {', '.join(DEMOS)}")
    chosen = DEMOS[data]
    examples = Path(__file__).parents[2] / "examples"
    pipeline_file = examples / chosen.pipeline
    source = str(examples / chosen.source) if chosen.source.endswith(".py") else chosen.source
    pipeline = load_pipeline(pipeline_file).pipeline
    with interruptible() as stop, Stack(directory, fresh=True, say=lambda t: console.print(t, style="dim")) as stack:
        os.environ.update({k: v for k, v in stack.environment().items() if k.startswith("DRIFTLOOP_")})
        settings = load_settings()
        KafkaTopics(settings.kafka(), TopicNames.of(pipeline)).create(settings.partitions, 1)
        ports = _web_ports(settings, ("learn", "score"))
        workers = [
            stack.add(role, worker_command(pipeline_file, role), DRIFTLOOP_WEB_PORT=str(port))
            for role, port in ports.items()
        ]
        console.print("starting a score and a learn worker ...", style="dim")
        _await_workers(settings, pipeline.name, workers)
        console.print(f"page: [bold]{_url(settings, ports['learn'])}[/]", highlight=False)
        records = read_source(
            pipeline,
            source,
            columns=Columns(None, None, None, None, None),
            limit=events if data == "payments" else None,
            delay_ms=chosen.label_delay_ms,
            interval_ms=chosen.interval_ms,
            seed=7,
        )
        story = _Story(pipeline.task)
        sent = _stream(settings, pipeline, records, rate or chosen.rate, workers, story, stop, console)
        if stop.is_set():
            raise KeyboardInterrupt
        _report(read_status(settings, pipeline.name), sent, story, read_drifts(settings, pipeline.name), console)


def _await_workers(settings: Settings, name: str, workers: list[Child]) -> None:
    client = redis.Redis.from_url(settings.redis_url.get_secret_value())
    partitions = range(settings.partitions)

    def ready() -> bool:
        for child in workers:
            if not child.running():
                raise DriftloopError(f"the {child.name} worker ended:\n{child.tail()}")
        return all(client.hexists(f"{{{name}:{partition}}}:state", "epoch") for partition in partitions)

    try:
        wait_until(ready, READY_S, "the workers to own their partitions")
    finally:
        client.close()


class _Story:
    """How quality went over time, for the report."""

    def __init__(self, task: str) -> None:
        self.key = KEY_FIGURE[task]
        self.points: list[tuple[int, float]] = []

    def note(self, status: PipelineStatus) -> None:
        if status.learner is None:
            return
        window = status.learner["metrics"]["window"]
        value = window["model"].get(self.key)
        learned = status.learner["counts"].get("learned", 0)
        if value is not None and (not self.points or learned > self.points[-1][0]):
            self.points.append((learned, value))

    def line(self) -> str:
        """The course of the figure in the sliding window, as a sparkline."""
        if len(self.points) < 3:
            return ""
        step = max(1, len(self.points) // 60)
        values = [value for _, value in self.points[::step]]
        low, high = min(values), max(values)
        bars = "▁▂▃▄▅▆▇█"
        scaled = [bars[int((v - low) / (high - low) * 7)] if high > low else bars[0] for v in values]
        return f"{self.key.replace('_', ' ')} in the sliding window, from {low:.3f} to {high:.3f}: {''.join(scaled)}"


def _stream(
    settings: Settings,
    pipeline: Pipeline,
    records: Any,
    rate: float,
    workers: list[Child],
    story: _Story,
    stop: threading.Event,
    console: Console,
) -> dict[str, int]:
    """Produce in a thread while the screen follows; returns what was sent once everything is processed."""
    sent: dict[str, int] = {}
    failure: list[BaseException] = []

    def produce_all() -> None:
        try:
            wanted = (record for record in records if not stop.is_set())
            sent.update(produce(settings, TopicNames.of(pipeline), wanted, rate=rate))
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            failure.append(error)

    thread = threading.Thread(target=produce_all, name="produce")
    thread.start()
    settled_by_s = None
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while not stop.wait(0.5):
                if failure:
                    raise failure[0]
                for child in workers:
                    if not child.running():
                        raise DriftloopError(f"the {child.name} worker ended:\n{child.tail()}")
                status = read_status(settings, pipeline.name)
                story.note(status)
                live.update(Group(status_view(status), Text(story.line())), refresh=True)
                if thread.is_alive():
                    continue
                settled_by_s = settled_by_s or time.monotonic() + SETTLE_S
                if _settled(status, sent):
                    break
                if time.monotonic() > settled_by_s:
                    raise Unavailable(f"not everything was processed within {SETTLE_S:.0f} s")
    finally:
        stop_now = stop.is_set()
        if failure or not stop_now:
            stop.set() if thread.is_alive() else None
        thread.join(30)
    return sent


def _settled(status: PipelineStatus, sent: dict[str, int]) -> bool:
    arrived = all(sum(status.ends[topic].values()) >= count for topic, count in sent.items())
    return arrived and not any(status.lag(topic) for topic in ("events", "labels", "examples"))


def _report(status: PipelineStatus, sent: dict[str, int], story: _Story, drifts: list[Drift], console: Console) -> None:
    counts = status.counts()
    assert status.learner is not None
    console.rule(f"{status.name}: report")
    console.print(
        f"sent {sent['events']:,} events and {sent['labels']:,} labels; "
        f"{counts.get('predictions', 0):,} predictions, {counts.get('dead_letters', 0):,} dead letters, "
        f"{status.learner['counts'].get('learned', 0):,} labels learned, each once",
        highlight=False,
    )
    codes = ", ".join(
        f"{k.partition('.')[2]} {v:,}" for k, v in sorted(counts.items()) if k.startswith("dead_letters.")
    )
    if codes:
        console.print(f"dead letters by code: {codes}", style="yellow", highlight=False)
    console.print(quality_table(status.learner["metrics"]))
    console.print("skill: 1 is perfect, 0 no better than that baseline under the same delay", highlight=False)
    console.print(story.line(), highlight=False)
    for drift in drifts:
        console.print(drift_text(drift))
    console.print(f"{len(drifts)} drifts on {status.name}.drifts", highlight=False)
    if counts.get("predictions", 0) + counts.get("dead_letters", 0) < sent["events"]:
        raise DriftloopError("some events have neither a prediction nor a dead letter")
