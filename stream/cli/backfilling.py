"""`driftloop backfill`: a pipeline's state is built from its topics, from a moment on. Why so: docs/decisions/009."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from stream.adapters.kafka_ranges import read_range
from stream.adapters.kafka_topics import KafkaTopics
from stream.adapters.redis_models import FORGETTING
from stream.cli.answering import Answers, source_of
from stream.cli.dead_letters import read_letters
from stream.cli.producing import follow
from stream.cli.running import forget, interruptible, refuse_running, supervise
from stream.cli.showing import PipelineStatus, read_status
from stream.core.beginning import Beginning
from stream.errors import ConfigurationError, DriftloopError
from stream.local.process import Reaper
from stream.pipeline import Pipeline
from stream.settings import Settings, load_settings
from stream.topics import INPUTS, TopicNames

__all__ = ["Backlog", "Start", "begin", "follow_backfill"]

LOOK_EVERY_S = 1.0


class Start(NamedTuple):
    """Where to begin: at a moment, at offsets of `events`, or, with neither, at the oldest event."""

    since_ms: int | None
    from_offsets: list[str]  # "3:17000"; partitions that are not named begin at their oldest event


def begin(pipeline: Pipeline, start: Start, agree: Callable[[str], bool], console: Console) -> Beginning:
    """Forget the state there is and say where the next one begins. Workers must not run.

    Args:
        agree: asked before anything is forgotten; False ends it.

    Raises:
        ConfigurationError: an offset is not in the log.
        DriftloopError: workers run, `agree` said no, or an event has no answer though later ones have.
        StartupRefused, Unavailable.
    """
    settings, names = load_settings(), TopicNames.of(pipeline)
    kafka = KafkaTopics(settings.kafka(), names)
    made = kafka.create(settings.partitions, settings.replication_factor)
    if made:
        console.print(f"created topics: {', '.join(made)}", style="dim", highlight=False)
    refuse_running(kafka, pipeline.name)
    starts = _starts(kafka, kafka.describe().topics["events"].partitions, start)
    before = read_status(settings, pipeline.name, pipeline.reads)
    if "configuration" in before.control or FORGETTING in before.control:
        question = f"Forget the model and all state of {pipeline.name!r}, and build them again from its topics?"
        if not agree(question):
            raise DriftloopError("nothing was changed")
    beginning = Beginning(starts, _answered(settings, pipeline, before, starts, start.since_ms))
    forget(settings, pipeline.name, beginning)
    oldest = before.oldest["events"]
    events = sum(end - starts.get(("events", p), oldest[p]) for p, end in before.ends["events"].items())
    console.print(
        f"{pipeline.name} begins {events:,} events back in {names.events}"
        + (", at the oldest" if start.since_ms is None and not start.from_offsets else ""),
        highlight=False,
    )
    if any(beginning.answered.values()):
        console.print("events that have their prediction already are not answered again", highlight=False)
    return beginning


def _starts(kafka: KafkaTopics, partitions: int, start: Start) -> dict[tuple[str, int], int]:
    """The first offset of every partition of both inputs. Labels begin at the moment at which their events do.

    An event partition that begins at its oldest is left out: until a worker comes, the oldest may be another.
    """
    spans = {p: kafka.offsets("events", p) for p in range(partitions)}
    if start.since_ms is not None:
        moments = dict.fromkeys(range(partitions), start.since_ms)
        return {(topic, p): o for topic in INPUTS for p, o in kafka.offsets_at(topic, moments).items()}
    named = _named(start.from_offsets, spans)
    events = {p: low for p, (low, _) in spans.items()} | named
    labels = kafka.offsets_at(
        "labels", {p: at for p in events if (at := kafka.timestamp_ms("events", p, events[p])) >= 0}
    )
    # Where no event lies there is nothing for a label to meet: what comes from now on is read.
    labels |= {p: kafka.offsets("labels", p)[1] for p in events if p not in labels and events[p] == spans[p][1] > 0}
    return {("events", p): o for p, o in named.items()} | {("labels", p): o for p, o in labels.items()}


def _named(texts: list[str], spans: dict[int, tuple[int, int]]) -> dict[int, int]:
    named = {}
    for text in texts:
        partition, _, offset = text.partition(":")
        if not partition.isdecimal() or not offset.isdecimal() or int(partition) not in spans:
            raise ConfigurationError(
                "--from-offset", text, f"write partition:offset, such as 0:17000; partitions are 0 to {len(spans) - 1}"
            )
        low, high = spans[int(partition)]
        if not low <= int(offset) <= high:
            raise ConfigurationError("--from-offset", text, f"partition {partition} holds offsets {low} to {high}")
        named[int(partition)] = int(offset)
    return named


def _answered(
    settings: Settings,
    pipeline: Pipeline,
    before: PipelineStatus,
    starts: Mapping[tuple[str, int], int],
    since_ms: int | None,
) -> dict[tuple[str, int], int]:
    """Up to where consumers have answers already."""
    names = TopicNames.of(pipeline)
    answered = {("labels", p): meta.offsets.get("labels", 0) for p, meta in before.partitions.items()}
    oldest, ends = before.oldest["events"], before.ends
    found = {
        p: Answers(f"{names.events}-{p}", starts.get(("events", p), oldest[p]), end)
        for p, end in ends["events"].items()
    }
    # Predictions and dead letters have the timestamps of their records.
    for message in follow(settings, names.predictions, from_start=True, to_end=True, since_ms=since_ms):
        source = source_of(message.value())
        if source is not None and source.partition == message.partition() in found and source.topic == names.events:
            found[source.partition].add(source.offset, prediction=True)
    for letter in read_letters(settings, names):
        place = letter.about.partition
        if letter.about.topic == names.events and place in found:
            found[place].add(letter.about.offset, prediction=False)
        elif letter.about.topic == names.labels:
            _raise_to(answered, ("labels", place), letter.about.offset + 1)
    for p, its in found.items():
        batches = read_range(settings.kafka(), names, "events", p, *its.span())
        answered["events", p] = its.until(record.offset for batch in batches for record in batch)
    return {place: min(o, ends[place[0]].get(place[1], 0)) for place, o in answered.items() if o}


def _raise_to(offsets: dict[tuple[str, int], int], place: tuple[str, int], offset: int) -> None:
    offsets[place] = max(offsets.get(place, 0), offset)


# -- how far it is ---------------------------------------------------------------------------------------------------------


class Backlog:
    """What is left to do. It is done when, three looks in a row, all that lay there at the look before is processed.

    Once would not do: what was scored at one look may be on `examples` at the next only, and learned at the one after.
    """

    def __init__(self, look: Callable[[], PipelineStatus], newest_ms: Callable[[str, int, int], int]) -> None:
        """`newest_ms(topic, partition, offset)`: negative if no record lies at this offset or behind it."""
        self._look = look
        self._newest_ms = newest_ms
        self._times = 0
        self.status = look()

    def look(self) -> bool:
        """Look again; true when it is done."""
        before, self.status = self.status, self._look()
        places = [(t, p, end) for t in (*INPUTS, "examples") for p, end in before.ends.get(t, {}).items()]
        done = self.status.learner is not None and all(self._over(before, *place) for place in places)
        self._times = self._times + 1 if done else 0
        return self._times >= 3

    def _over(self, before: PipelineStatus, topic: str, partition: int, end: int) -> bool:
        position = self.status.position(topic, partition)
        if position >= end:
            return True
        # A log may end with markers of transactions, which are never processed.
        return position == before.position(topic, partition) and self._newest_ms(topic, partition, position) < 0

    def done(self, topic: str) -> int:
        """Records processed since the beginning."""
        now = self.status
        return sum(now.position(topic, p) - now.start(topic, p) for p in now.ends.get(topic, {}))

    def total(self, topic: str) -> int:
        now = self.status
        return sum(end - now.start(topic, p) for p, end in now.ends.get(topic, {}).items())


def follow_backfill(pipeline: Pipeline, pipeline_file: Path | None, directory: Path, console: Console) -> None:
    """Bars for events, labels and examples until nothing is left; Ctrl-C ends the showing, not the backfill.

    Args:
        pipeline_file: start workers of it here, and stop them at the end; None: they run elsewhere.
    """
    settings = load_settings()
    kafka = KafkaTopics(settings.kafka(), TopicNames.of(pipeline))
    backlog = Backlog(lambda: read_status(settings, pipeline.name, pipeline.reads), kafka.timestamp_ms)
    started_s = time.monotonic()
    columns = (TextColumn("{task.description:>9}"), BarColumn(), TaskProgressColumn(),
               TextColumn("{task.fields[records]}"), TimeRemainingColumn())  # fmt: skip
    with interruptible() as stop, Progress(*columns, console=console) as progress:
        tasks = {topic: progress.add_task(topic, total=None, records="") for topic in (*INPUTS, "examples")}
        _show(progress, tasks, backlog)
        next_s = time.monotonic() + LOOK_EVERY_S

        def done() -> bool:
            nonlocal next_s
            if time.monotonic() < next_s:
                return False
            next_s = time.monotonic() + LOOK_EVERY_S
            finished = backlog.look()
            _show(progress, tasks, backlog)
            return finished

        if pipeline_file is None:
            while not stop.wait(0.2) and not done():
                pass
        else:
            _run_here(pipeline, pipeline_file, directory, stop, console, done)
        if stop.is_set():
            raise DriftloopError(
                "not done yet; workers go on from here"
                + (", `--follow --run` starts them again" if pipeline_file else "")
            )
    seconds = time.monotonic() - started_s
    console.print(
        f"caught up after {seconds:.0f} s: {backlog.done('events'):,} events, {backlog.done('labels'):,} labels, "
        f"{backlog.done('examples'):,} examples",
        highlight=False,
    )


def _run_here(
    pipeline: Pipeline,
    pipeline_file: Path,
    directory: Path,
    stop: threading.Event,
    console: Console,
    done: Callable[[], bool],
) -> None:
    reaper = Reaper()
    try:
        supervise(pipeline, pipeline_file, 1, directory, reaper, stop, console, done)
    finally:
        reaper.close()


def _show(progress: Progress, tasks: dict[str, TaskID], backlog: Backlog) -> None:
    for topic, task in tasks.items():
        done, total = backlog.done(topic), backlog.total(topic)
        # An empty topic is a finished one.
        progress.update(task, completed=done if total else 1, total=total or 1, records=f"{done:,} of {total:,}")
