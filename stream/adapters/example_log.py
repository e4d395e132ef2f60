"""Examples that were emitted before: from their topic, and what Kafka has deleted since from the archive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from itertools import islice
from typing import Any

from stream.adapters.kafka_ranges import read_range
from stream.adapters.kafka_topics import KafkaTopics
from stream.core.records import Record
from stream.errors import StartupRefused
from stream.topics import TopicNames

__all__ = ["ExampleLog"]

BATCH = 5_000


class ExampleLog:
    """All examples of one pipeline that still exist."""

    def __init__(self, config: Mapping[str, Any], names: TopicNames, archive_url: str) -> None:
        self._config = config
        self._names = names
        self._archive_url = archive_url

    def batches(self, shard: int, start: int, end: int) -> Iterator[list[Record]]:
        """Examples with offsets in [start, end), ascending. Blocks.

        Raises:
            StartupRefused: `examples_gone`, some of them are neither in Kafka nor in the archive.
            Unavailable: a server does not answer.
        """
        if start >= end:
            return
        low, _ = KafkaTopics(self._config, self._names).offsets("examples", shard)
        if start < low:
            yield from self._archived(shard, start, min(low, end))
        yield from read_range(self._config, self._names, "examples", shard, max(start, low), end, records_max=BATCH)

    def _archived(self, shard: int, start: int, end: int) -> Iterator[list[Record]]:
        gone = f"{self._names.examples}-{shard}: examples {start} to {end} were deleted from Kafka"
        if find_spec("deltalake") is None:
            raise StartupRefused("examples_gone", f"{gone}, and deltalake is not installed to read the archive")
        from stream.adapters.delta_archive import ExampleArchive

        archive = ExampleArchive(self._archive_url, self._names.prefix)
        if archive.end(shard) < end:
            raise StartupRefused("examples_gone", f"{gone}, and the archive ends at {archive.end(shard)}")
        records = archive.records(shard, start, end)
        while batch := list(islice(records, BATCH)):
            yield batch
