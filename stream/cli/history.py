"""Where `driftloop replay` gets its history: what `produce` reads, or what lies in the pipeline's own topics or archive."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from stream.adapters.kafka_ranges import read_range
from stream.adapters.kafka_topics import KafkaTopics
from stream.adapters.redis_models import examples_from
from stream.batch.archived_history import ArchivedHistory
from stream.batch.evidence import LiveEvidence, opened_base
from stream.batch.exact import ExactReplay, LivePredictions, ReleasedBases, exact_replay
from stream.batch.replaying import in_order
from stream.cli.answering import source_of
from stream.cli.dead_letters import read_letters
from stream.cli.producing import follow
from stream.cli.showing import read_status
from stream.cli.sources import Produced
from stream.core.beginning import Beginning
from stream.core.model_bases import ModelBase
from stream.core.records import Record
from stream.errors import ConfigurationError, SnapshotRefused, Unavailable
from stream.pipeline import Pipeline
from stream.settings import Settings
from stream.topics import TopicNames

__all__ = ["exact", "from_archive", "from_produced", "from_topics", "moment_ms", "offset_ranges"]

BASE = re.compile(r"[0-9a-f]{1,64}")
RANGE = re.compile(r"(\d{1,9})=(\d{1,18}):(\d{1,18})?", re.ASCII)

_encode = msgspec.json.Encoder().encode


def from_produced(records: Iterable[Produced]) -> Iterator[Record]:
    """As they would lie in topics of one partition."""
    offsets = {"events": 0, "labels": 0}
    for topic, key, timestamp_ms, value in records:
        yield Record(topic, 0, offsets[topic], timestamp_ms, key.encode(), _encode(value))
        offsets[topic] += 1


Ranges = Mapping[int, tuple[int, int | None]]  # partition -> from, to (exclusive; None: the end of the log)


def from_topics(
    settings: Settings,
    name: str,
    since_ms: int | None,
    until_ms: int | None,
    reads: str | None = None,
    ranges: Ranges | None = None,
) -> list[Record]:
    """Events and labels with Kafka timestamps in [since, until), in the order in which workers take them.

    All of them are held in memory. `reads`: as the pipeline has it. `ranges`: in place of moments, offsets of `events`.
    Raises Unavailable, ConfigurationError.
    """
    names = TopicNames(name, reads)
    if ranges:
        return in_order(_ranges(settings, names, ranges))
    return in_order(
        _record(topic, m)
        for topic in ("events", "labels")
        for m in follow(settings, names[topic], from_start=True, to_end=True, since_ms=since_ms)
        if until_ms is None or m.timestamp()[1] < until_ms
    )


def _ranges(settings: Settings, names: TopicNames, ranges: Ranges) -> Iterator[Record]:
    """Events of a partition by offset, and its labels from the moment of the first of them to that of the next event."""
    kafka = KafkaTopics(settings.kafka(), names)
    found = kafka.describe().topics.get("events")
    partitions = found.partitions if found is not None else 0
    for partition, (start, stop) in ranges.items():
        if partition >= partitions:
            raise ConfigurationError(
                "--offsets", partition, f"{names.events} has {partitions} partitions, numbered from 0"
            )
        low, high = kafka.offsets("events", partition)
        stop = high if stop is None else stop
        if not low <= start <= stop <= high:
            raise ConfigurationError(
                "--offsets", f"{partition}={start}:{stop}", f"{names.events}-{partition} holds {low} to {high}"
            )
        spans = {"events": (start, stop)}
        first_ms = kafka.timestamp_ms("events", partition, start)
        if start < stop and first_ms >= 0:
            next_ms = kafka.timestamp_ms("events", partition, stop) if stop < high else -1
            _, end = kafka.offsets("labels", partition)
            until = kafka.offsets_at("labels", {partition: next_ms})[partition] if next_ms >= 0 else end
            since = kafka.offsets_at("labels", {partition: first_ms})[partition]
            spans["labels"] = (since, max(since, until))
        for topic, span in spans.items():
            for batch in read_range(settings.kafka(), names, topic, partition, *span):
                yield from batch


def from_archive(
    settings: Settings, name: str, since_ms: int | None, until_ms: int | None, ranges: Ranges | None = None
) -> ArchivedHistory:
    """The examples of an archive with timestamps in [since, until), or with offsets in `ranges` (of shard 0), as a history.

    Raises ConfigurationError if there are none, Unavailable.
    """
    from stream.adapters.delta_archive import ExampleArchive  # needs the extra `archive`

    archive = ExampleArchive(settings.archive_url, name)
    extent = archive.extent(0, since_ms, until_ms)
    if extent is None:
        remedy = "`driftloop archive <file>` fills it; DRIFTLOOP_ARCHIVE_URL says where it is"
        raise ConfigurationError("archive", archive.location, f"holds no examples of this time; {remedy}")
    first, last = extent.from_offset, extent.to_offset
    if ranges:
        if set(ranges) != {0}:
            raise ConfigurationError("--offsets", sorted(ranges), "of an archive: offsets of `examples`, partition 0")
        start, stop = ranges[0]
        stop = last if stop is None else stop
        if not first <= start <= stop <= last:
            raise ConfigurationError("--offsets", f"0={start}:{stop}", f"{archive.location} holds {first} to {last}")
        first, last = start, stop
    return ArchivedHistory(
        record
        for record in archive.records(0, first, last)
        if (since_ms is None or record.timestamp_ms >= since_ms)
        and (until_ms is None or record.timestamp_ms < until_ms)
    )


def offset_ranges(texts: Iterable[str]) -> dict[int, tuple[int, int | None]]:
    """Of `--offsets`: partition -> from, to.

    >>> offset_ranges(["0=100:5000", "2=7:"])
    {0: (100, 5000), 2: (7, None)}

    Raises ConfigurationError.
    """
    found: dict[int, tuple[int, int | None]] = {}
    for text in texts:
        match = RANGE.fullmatch(text)
        if match is None or int(match[1]) in found:
            raise ConfigurationError(
                "--offsets", text, "write partition=from:to, such as 0=100:5000 or 0=100:, once for each partition"
            )
        found[int(match[1])] = int(match[2]), int(match[3]) if match[3] else None
    return found


def exact(
    settings: Settings, pipeline: Pipeline, allowed: frozenset[str], on_records: Callable[[int], None]
) -> ExactReplay:
    """Compare every live prediction of the present state with one made anew from `events`, `labels` and `examples`.

    Raises:
        ConfigurationError: the beginning of `examples` is no longer there.
        Unavailable.
    """
    names = TopicNames.of(pipeline)
    control = read_status(settings, pipeline.name, pipeline.reads).control
    beginning, examples_start = Beginning.of(control), examples_from(control).get(0, 0)
    kafka = KafkaTopics(settings.kafka(), names)
    oldest, _ = kafka.offsets("examples", 0)
    if oldest > examples_start:
        raise ConfigurationError(
            "--exact",
            pipeline.name,
            f"{names.examples} begins at {oldest}, the model at {examples_start}: it cannot be built",
        )
    firsts: dict[int, int] = {}
    for (topic, partition), offset in (*beginning.starts.items(), *beginning.answered.items()):
        if topic == "events":  # under `predictions` are those of a restored state, which are its own
            firsts[partition] = max(offset, firsts.get(partition, 0))
    history = [
        record
        for record in from_topics(settings, pipeline.name, None, None, pipeline.reads)
        if record.offset >= beginning.starts.get((record.topic, record.partition), 0)
    ]
    letters = read_letters(settings, names)
    partitions = kafka.describe().topics["predictions"].partitions
    live = LivePredictions(
        firsts,
        failed={
            (letter.about.partition, letter.about.offset)
            for letter in letters
            if letter.about.code == "model_failed" and letter.about.topic == names.events
        },
        shortened={
            p: oldest
            for p in range(partitions)
            if (oldest := kafka.offsets("events", p)[0]) > beginning.starts.get(("events", p), 0)
        },
        looks_back=bool(pipeline.entity_features),
        trimmed={p for p in range(partitions) if kafka.offsets("predictions", p)[0] > 0},
    )
    for m in follow(settings, names.predictions, from_start=True, to_end=True):
        live.add(_record("predictions", m))
    examples = (
        _record("examples", m)
        for m in follow(settings, names.examples, from_start=True, to_end=True)
        if m.partition() == 0 and m.offset() >= examples_start
    )

    def fetch_live(partition: int, offset: int) -> bytes | None:
        found = None
        for m in follow(settings, names.predictions, from_start=True, to_end=True):
            source = source_of(m.value())
            if source is not None and (source.partition, source.offset) == (partition, offset):
                found = m.value()
        return found

    return exact_replay(
        pipeline, history, live, examples, examples_start=examples_start, window=settings.metrics_window, extra_allowed=allowed,
        released=_released(settings, pipeline, allowed), fetch_live=fetch_live, on_records=on_records,
    )  # fmt: skip


def _released(settings: Settings, pipeline: Pipeline, allowed: frozenset[str]) -> ReleasedBases:
    """Bases by their files, and the examples after them, where needed from the archive."""
    evidence = LiveEvidence(settings, pipeline)

    def open_named(name: str) -> ModelBase | None:
        if not BASE.fullmatch(name):  # whoever writes to `predictions` chooses no files
            return None
        try:
            return opened_base(evidence, name, pipeline, settings.signing(), allowed)[1]
        except (Unavailable, SnapshotRefused):
            return None

    return ReleasedBases(open_named, lambda start, end: evidence.examples(0, start, end))


def _record(topic: str, m: Any) -> Record:
    return Record(topic, m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers())


def moment_ms(option: str, text: str | None) -> int | None:
    """Epoch milliseconds of a moment, UTC unless it says otherwise. Raises ConfigurationError."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(option, text, "write a moment such as 2026-01-31T12:00") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
