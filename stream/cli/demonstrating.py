"""`driftloop demo`: an example streamed through everything, here, with a report at the end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import redis
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from stream.adapters.file_pipelines import load_pipeline
from stream.adapters.kafka_topics import KafkaTopics
from stream.cli.producing import produce, read_drifts
from stream.cli.running import airflow_beside, interruptible, page_url, web_ports, worker_command
from stream.cli.showing import PipelineStatus, drift_text, quality_table, read_status, status_view
from stream.cli.sources import Columns, Produced, load_generator, read_source
from stream.core.evaluating import KEY_FIGURE
from stream.errors import ConfigurationError, DriftloopError, Unavailable
from stream.local.process import Child, wait_until
from stream.local.stack import Stack
from stream.messages import Drift
from stream.pipeline import Pipeline
from stream.settings import Settings, load_settings
from stream.topics import TopicNames

if TYPE_CHECKING:
    from stream.cli.loop_story import LoopStory

__all__ = ["demo"]

SETTLE_S = 120.0
READY_S = 60.0
EVENTS = 30_000
LOOP_EVENTS, LOOP_RATE = 300_000, 500.0  # 10 minutes; the story ends it sooner
LOOP_CHANGE_AT = 20_000  # soon: most of the stream is for what comes after
LOOP_SETTINGS = {
    "DRIFTLOOP_DRIFT_CHECK_CRON": "* * * * *",
    "DRIFTLOOP_DRIFT_GAP_S": "5",
    "DRIFTLOOP_FETCH_WAIT_MS": "100",  # fewer, larger micro-batches: Airflow needs the processors
    "DRIFTLOOP_FETCH_MIN_BYTES": "100000",
}


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


def demo(
    data: str, events: int | None, rate: float | None, directory: Path, console: Console, *, airflow: bool = False
) -> None:
    """See `driftloop demo`."""
    if airflow and data != "payments":
        raise ConfigurationError("--airflow", data, "only payments shows the retraining loop")
    if data not in DEMOS:
        raise ConfigurationError("data", data, f"use one of: {', '.join(DEMOS)}")
    chosen = DEMOS[data]
    examples = Path(__file__).parents[2] / "examples"
    pipeline_file = examples / chosen.pipeline
    source = str(examples / chosen.source) if chosen.source.endswith(".py") else chosen.source
    pipeline = load_pipeline(pipeline_file).pipeline
    with interruptible() as stop, Stack(directory, fresh=True, say=lambda t: console.print(t, style="dim")) as stack:
        os.environ.update({k: v for k, v in stack.environment().items() if k.startswith("DRIFTLOOP_")})
        if airflow:
            os.environ.update(LOOP_SETTINGS)
        settings = load_settings()
        KafkaTopics(settings.kafka(), TopicNames.of(pipeline)).create(settings.partitions, 1)
        ports = web_ports(settings, ("learn", "score"))
        workers = [
            stack.add(role, worker_command(pipeline_file, role), DRIFTLOOP_WEB_PORT=str(port))
            for role, port in ports.items()
        ]
        console.print("starting a score and a learn worker ...", style="dim")
        _await_workers(settings, pipeline.name, workers)
        console.print(f"page: [bold]{page_url(settings, ports['learn'])}[/]", highlight=False)
        story = _Story(pipeline.task)
        with airflow_beside(pipeline, pipeline_file, directory, stack.reaper, console, wanted=airflow) as server:
            if server is None:
                records = read_source(
                    pipeline,
                    source,
                    columns=Columns(None, None, None, None, None),
                    limit=(events or EVENTS) if data == "payments" else None,
                    delay_ms=chosen.label_delay_ms,
                    interval_ms=chosen.interval_ms,
                    seed=7,
                )
                loop = None
            else:
                from stream.cli.loop_story import LoopStory

                records = _changing_early(examples / chosen.source, events or LOOP_EVENTS)
                loop = LoopStory(settings, pipeline, server.client())
                rate = rate or LOOP_RATE
            sent = _stream(settings, pipeline, records, rate or chosen.rate, workers, story, stop, console, loop)
        if stop.is_set():
            raise KeyboardInterrupt
        status, drifts = read_status(settings, pipeline.name), read_drifts(settings, pipeline.name)
        _report(status, sent, story, drifts, console, list_drifts=loop is None)
        if loop is not None:
            loop.report(console, lambda text: console.print(text, style="dim"))


def _changing_early(generator: Path, events: int) -> Iterator[Produced]:
    """The payments of the example, whose fraudsters change soon."""
    made = load_generator(generator).payments(
        events, seed=7, change_at=min(LOOP_CHANGE_AT / events, 0.5), days=events / 1_000
    )
    return (Produced(*record) for record in made)


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
    loop: LoopStory | None,
) -> dict[str, int]:
    """Produce in a thread while the screen follows; returns what was sent once everything is processed.

    With a loop to tell of, producing ends with its story.
    """
    sent: dict[str, int] = {}
    failure: list[BaseException] = []

    def produce_all() -> None:
        try:
            wanted = takewhile(lambda _: not (stop.is_set() or (loop is not None and loop.over)), records)
            sent.update(produce(settings, TopicNames.of(pipeline), wanted, rate=rate))
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            failure.append(error)

    thread = threading.Thread(target=produce_all, name="produce")
    if loop is not None:
        loop.start()
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
                if loop is not None and loop.failure is not None:
                    raise loop.failure
                told = [loop.text()] if loop is not None else []
                live.update(Group(status_view(status), Text(story.line()), *told), refresh=True)
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
        if loop is not None:
            loop.close()
    return sent


def _settled(status: PipelineStatus, sent: dict[str, int]) -> bool:
    arrived = all(sum(status.ends[topic].values()) >= count for topic, count in sent.items())
    return arrived and not any(status.lag(topic) for topic in ("events", "labels", "examples"))


def _report(
    status: PipelineStatus,
    sent: dict[str, int],
    story: _Story,
    drifts: list[Drift],
    console: Console,
    *,
    list_drifts: bool,
) -> None:
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
    for drift in drifts if list_drifts else ():
        console.print(drift_text(drift))
    console.print(f"{len(drifts)} drifts on {status.name}.drifts", highlight=False)
    if counts.get("predictions", 0) + counts.get("dead_letters", 0) < sent["events"]:
        raise DriftloopError("some events have neither a prediction nor a dead letter")
