"""Where `driftloop replay` gets its history: what `produce` reads, or what lies in the pipeline's own topics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import msgspec

from stream.adapters.kafka_topics import KafkaTopics
from stream.adapters.redis_models import examples_from
from stream.batch.exact import ExactReplay, LivePredictions, exact_replay
from stream.cli.producing import follow
from stream.cli.showing import read_status
from stream.cli.sources import Produced
from stream.core.beginning import Beginning
from stream.core.records import Record
from stream.errors import ConfigurationError
from stream.messages import Prediction
from stream.pipeline import Pipeline
from stream.settings import Settings
from stream.topics import TopicNames

__all__ = ["exact", "from_produced", "from_topics", "moment_ms"]

_encode = msgspec.json.Encoder().encode


def from_produced(records: Iterable[Produced]) -> Iterator[Record]:
    """As they would lie in topics of one partition."""
    offsets = {"events": 0, "labels": 0}
    for topic, key, timestamp_ms, value in records:
        yield Record(topic, 0, offsets[topic], timestamp_ms, key.encode(), _encode(value))
        offsets[topic] += 1


def from_topics(
    settings: Settings, name: str, since_ms: int | None, until_ms: int | None, reads: str | None = None
) -> list[Record]:
    """Events and labels with Kafka timestamps in [since, until), in the order in which workers take them.

    All of them are held in memory. `reads`: as the pipeline has it. Raises Unavailable.
    """
    names = TopicNames(name, reads)
    records = [
        _record(topic, m)
        for topic in ("events", "labels")
        for m in follow(settings, names[topic], from_start=True, to_end=True, since_ms=since_ms)
        if until_ms is None or m.timestamp()[1] < until_ms
    ]
    # An event before a label of the same moment, and each topic's partition in its own order even where clocks were not.
    latest: dict[tuple[str, int], int] = {}
    keyed = []
    for record in sorted(records, key=attrgetter("topic", "partition", "offset")):
        place = (record.topic, record.partition)
        latest[place] = max(latest.get(place, 0), record.timestamp_ms)
        keyed.append((latest[place], record.topic, record.offset, record.partition, record))
    keyed.sort(key=lambda item: item[:4])
    return [record for *_, record in keyed]


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
    oldest, _ = KafkaTopics(settings.kafka(), names).offsets("examples", 0)
    if oldest > examples_start:
        raise ConfigurationError(
            "--exact",
            pipeline.name,
            f"{names.examples} begins at {oldest}, the model at {examples_start}: it cannot be built",
        )
    firsts: dict[int, int] = {}
    for (topic, partition), offset in (*beginning.starts.items(), *beginning.answered.items()):
        if topic in ("events", "predictions"):
            firsts[partition] = max(offset, firsts.get(partition, 0))
    live = LivePredictions(firsts)
    for m in follow(settings, names.predictions, from_start=True, to_end=True):
        live.add(_record("predictions", m))
    history = [
        record
        for record in from_topics(settings, pipeline.name, None, None, pipeline.reads)
        if record.offset >= beginning.starts.get((record.topic, record.partition), 0)
    ]
    examples = (
        _record("examples", m)
        for m in follow(settings, names.examples, from_start=True, to_end=True)
        if m.partition() == 0 and m.offset() >= examples_start
    )

    def fetch_live(partition: int, offset: int) -> bytes | None:
        found = None
        for m in follow(settings, names.predictions, from_start=True, to_end=True):
            source = msgspec.json.decode(m.value() or b"", type=Prediction).source
            if (source.partition, source.offset) == (partition, offset):
                found = m.value()
        return found

    return exact_replay(
        pipeline, history, live, examples, examples_start=examples_start, window=settings.metrics_window, extra_allowed=allowed,
        fetch_live=fetch_live, on_records=on_records,
    )  # fmt: skip


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
