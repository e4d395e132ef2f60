"""Where `driftloop replay` gets its history: what `produce` reads, or what lies in the pipeline's own topics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from operator import attrgetter

import msgspec

from stream.cli.producing import follow
from stream.cli.sources import Produced
from stream.core.records import Record
from stream.errors import ConfigurationError
from stream.settings import Settings
from stream.topics import TopicNames

__all__ = ["from_produced", "from_topics", "moment_ms"]

_encode = msgspec.json.Encoder().encode


def from_produced(records: Iterable[Produced]) -> Iterator[Record]:
    """As they would lie in topics of one partition."""
    offsets = {"events": 0, "labels": 0}
    for topic, key, timestamp_ms, value in records:
        yield Record(topic, 0, offsets[topic], timestamp_ms, key.encode(), _encode(value))
        offsets[topic] += 1


def from_topics(settings: Settings, name: str, since_ms: int | None, until_ms: int | None) -> list[Record]:
    """Events and labels with Kafka timestamps in [since, until), in the order in which workers take them.

    All of them are held in memory. Raises Unavailable.
    """
    names = TopicNames(name)
    records = [
        Record(topic, m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers())
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


def moment_ms(option: str, text: str | None) -> int | None:
    """Epoch milliseconds of a moment, UTC unless it says otherwise. Raises ConfigurationError."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(option, text, "write a moment such as 2026-01-31T12:00") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
