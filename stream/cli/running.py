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

from rich.console import Console

from stream.adapters.file_pipelines import load_pipeline
from stream.adapters.kafka_topics import KafkaTopics
from stream.adapters.redis_connections import redis_client
from stream.adapters.redis_models import RedisControl
from stream.core.beginning import Beginning
from stream.errors import DriftloopError
from stream.local.airflow import AIRFLOW_PYTHON, AirflowServer
from stream.local.process import Child, Reaper, write_private
from stream.local.servers import free_port
from stream.local.stack import Stack
from stream.pipeline import Pipeline
from stream.settings import Settings, load_settings
from stream.topics import TopicNames

__all__ = ["forget", "interruptible", "refuse_running", "run_up", "supervise", "worker_command"]

FAILURES_MAX = 5  # of one worker within a minute: then something is wrong that a restart does not mend


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
                with airflow_beside(pipeline, pipeline_file, directory, stack.reaper, console, wanted=airflow):
                    supervise(pipeline, pipeline_file, score, directory, stack.reaper, stop, console)
            return
        directory.mkdir(parents=True, exist_ok=True)
        reaper = Reaper()
        try:
            with airflow_beside(pipeline, pipeline_file, directory, reaper, console, wanted=airflow):
                supervise(pipeline, pipeline_file, score, directory, reaper, stop, console)
        finally:
            reaper.close()


@contextmanager
def airflow_beside(
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
    ports = web_ports(settings, roles)
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
        console.print(f"page: [bold]{page_url(settings, ports['learn'])}[/]", highlight=False)
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


def web_ports(settings: Settings, roles: Sequence[str]) -> dict[str, int]:
    """A port for each worker: the first has the configured one, if there is one."""
    return {role: (not i and settings.web_port) or free_port() for i, role in enumerate(roles)}


def page_url(settings: Settings, port: int) -> str:
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


def refuse_running(kafka: KafkaTopics, name: str) -> None:
    """Whoever changes state as a whole does so alone. A killed worker counts until its session is over.

    Raises DriftloopError when workers of the pipeline run, Unavailable.
    """
    for role in ("score", "learn"):
        if running := kafka.members(f"{name}-{role}"):
            raise DriftloopError(f"{running} {role} workers of {name!r} run: stop them first, then try again")


def forget(settings: Settings, name: str, beginning: Beginning | None = None) -> int:
    """Delete a pipeline's keys in Redis; returns how many. Examples that lie in the log stay unread.

    Args:
        beginning: where its next state is to begin.

    Raises DriftloopError when workers of it run (they would go on writing what they know), Unavailable.
    """
    begin = beginning.fields() if beginning is not None else None
    kafka = KafkaTopics(settings.kafka(), TopicNames(name))
    refuse_running(kafka, name)
    examples = kafka.describe().topics.get("examples")
    ends = {shard: kafka.offsets("examples", shard)[1] for shard in range(examples.partitions if examples else 0)}

    async def delete() -> int:
        client = redis_client(**settings.redis())
        try:
            return await RedisControl(client, name).forget(ends, begin)
        finally:
            await client.aclose()

    return asyncio.run(delete())
