"""What is still there of a prediction's making: on Kafka, in the archive, in Redis, under the artifact URL."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.example_log import ExampleLog
from stream.adapters.kafka_ranges import read_at, read_range
from stream.adapters.kafka_topics import KafkaTopics
from stream.adapters.redis_connections import redis_client
from stream.adapters.redis_models import RedisControl, examples_from
from stream.adapters.redis_state import RedisStateStore
from stream.core.model_bases import ModelBase, configuration_of, open_base
from stream.core.rebuilding import unbroken
from stream.core.records import Record
from stream.errors import ConfigurationError, SnapshotRefused, StartupRefused
from stream.messages import Source
from stream.pipeline import Pipeline
from stream.settings import Settings
from stream.topics import TopicNames

__all__ = ["Evidence", "LiveEvidence", "opened_base"]

T = TypeVar("T")
Place = tuple[int, int]  # partition, offset


class Evidence(Protocol):
    """Where it is looked for. All raise Unavailable."""

    def records(self, topic: str, places: Iterable[Place]) -> dict[Place, Record]:
        """Single records; those that are not there any more are left out."""

    def answer(self, event: Record | None, partition: int, offset: int) -> Record | None:
        """The first prediction of an event's position; `event` is the record there, if it still is."""

    def examples(self, shard: int, start: int, end: int) -> Iterator[list[Record]]:
        """All examples in [start, end). Raises StartupRefused if one is gone."""

    def examples_left(self, shard: int, start: int, end: int) -> Iterator[list[Record]]:
        """Those of them that are still there."""

    def examples_end(self, shard: int) -> int: ...

    def examples_since(self, shard: int, timestamp_ms: int) -> int:
        """Offset of the first one on Kafka with this timestamp or a later one; the end if there is none."""

    def examples_start(self, shard: int) -> int:
        """Of the present state: a reset begins anew."""

    def remembered(self, partition: int, event_id: str) -> bytes | None: ...

    def base(self, name: str) -> tuple[str, bytes]:
        """Where the file is, and what is in it."""


def opened_base(
    evidence: Evidence,
    name: str,
    pipeline: Pipeline,
    keys: Sequence[bytes],
    extra_allowed: frozenset[str] = frozenset(),
) -> tuple[str, ModelBase]:
    """Where a base's file is, and what it holds. Raises Unavailable, SnapshotRefused."""
    path, data = evidence.base(name)
    base = open_base(
        data, keys, pipeline=pipeline.name, configuration=configuration_of(pipeline), extra_allowed=extra_allowed
    )
    if base.name != name:
        raise SnapshotRefused("snapshot_damaged", f"the file of {name} holds {base.name}")
    return path, base


class _Of(msgspec.Struct):
    source: Source


_decode_source = msgspec.json.Decoder(_Of).decode


class LiveEvidence:
    """Fulfils `Evidence` with the real servers."""

    def __init__(self, settings: Settings, pipeline: Pipeline) -> None:
        self._settings = settings
        self._name = pipeline.name
        self._names = TopicNames.of(pipeline)
        self._topics = KafkaTopics(settings.kafka(), self._names)
        self._log = ExampleLog(settings.kafka(), self._names, settings.archive_url)
        self._files = ArtifactFiles(settings.artifact_url, pipeline.name)
        self._starts: dict[int, int] | None = None

    def records(self, topic: str, places: Iterable[Place]) -> dict[Place, Record]:
        return read_at(self._settings.kafka(), self._names, topic, places)

    def answer(self, event: Record | None, partition: int, offset: int) -> Record | None:
        low, end = self._topics.offsets("predictions", partition)
        if event is not None:  # its prediction has its timestamp, and there is none as late before it
            low = max(low, self._topics.offsets_at("predictions", {partition: event.timestamp_ms})[partition])
        for batch in read_range(
            self._settings.kafka(), self._names, "predictions", partition, low, end, records_max=1_000
        ):
            for record in batch:
                if _source(record) == (self._names.events, partition, offset):
                    return record
        return None

    def examples(self, shard: int, start: int, end: int) -> Iterator[list[Record]]:
        yield from unbroken(self._log.batches(shard, start, end), start, end, f"{self._names.examples}-{shard}")

    def examples_left(self, shard: int, start: int, end: int) -> Iterator[list[Record]]:
        batches = self._log.batches(shard, start, end)
        try:
            first = next(batches, None)
        except StartupRefused:  # not archived either
            low, _ = self._topics.offsets("examples", shard)
            batches = self._log.batches(shard, max(start, low), end)
            first = next(batches, None)
        if first is not None:
            yield first
            yield from batches

    def examples_end(self, shard: int) -> int:
        return self._topics.offsets("examples", shard)[1]

    def examples_since(self, shard: int, timestamp_ms: int) -> int:
        return self._topics.offsets_at("examples", {shard: timestamp_ms})[shard]

    def examples_start(self, shard: int) -> int:
        if self._starts is None:
            self._starts = examples_from(self._control())
        return self._starts.get(shard, 0)

    def _control(self) -> Mapping[str, str]:
        client = redis_client(**self._settings.redis())

        async def describe() -> Mapping[str, str]:
            return await RedisControl(client, self._name).describe()

        return _run(describe, client.aclose)

    def remembered(self, partition: int, event_id: str) -> bytes | None:
        store = RedisStateStore(redis_client(**self._settings.redis()), self._name)

        async def read() -> bytes | None:
            return (await store.remembered(partition, [event_id])).get(event_id)

        return _run(read, store.close)

    def base(self, name: str) -> tuple[str, bytes]:
        return f"{self._settings.artifact_url}/{self._name}/bases/{name}.model", self._files.get_base(name)

    def sample(self, count: int, seed: int | None = None) -> list[Place]:
        """Positions of so many random predictions, or of all if there are fewer."""
        ranges = []
        described = self._topics.describe().topics
        if "predictions" not in described:
            raise ConfigurationError("--sample", count, f"{self._names.predictions} does not exist")
        for partition in range(described["predictions"].partitions):
            low, end = self._topics.offsets("predictions", partition)
            ranges.append((partition, low, end))
        total = sum(end - low for _, low, end in ranges)
        chosen = random.Random(seed).sample(range(total), min(count, total))
        places = []
        for number in chosen:
            for partition, low, end in ranges:
                if number < end - low:
                    places.append((partition, low + number))
                    break
                number -= end - low
        return places


def _source(record: Record) -> tuple[str, int, int] | None:
    try:
        its = _decode_source(record.value or b"").source
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return its.topic, its.partition, its.offset


def _run(call: Callable[[], Awaitable[T]], close: Callable[[], Awaitable[None]]) -> T:
    async def work() -> T:
        try:
            return await call()
        finally:
            await close()

    return asyncio.run(work())
