"""An archive of examples as a pipeline would have made them live: a history is replayed, and what it emits is kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from stream.adapters.delta_archive import ExampleArchive
from stream.batch.replaying import replay
from stream.cli.history import from_produced
from stream.core.records import Record
from stream.messages import Drift
from stream.pipeline import Pipeline
from stream.ports import Outgoing

__all__ = ["archive_history"]


def archive_history(pipeline: Pipeline, history: Iterable[Any], url: str, *, batches: int = 3) -> list[Drift]:
    """Archive the examples of a history (as `read_source` gives it) under a URL, shard 0; returns the drifts in it."""
    outputs: list[Outgoing] = []
    replay(pipeline, from_produced(history), on_output=outputs.append)
    examples = [out for out in outputs if out.topic == "examples"]
    records = [
        Record("examples", 0, offset, out.timestamp_ms, out.key, out.value) for offset, out in enumerate(examples)
    ]
    archive, size = ExampleArchive(url, pipeline.name), -(-len(records) // batches)
    for start in range(0, len(records), size):
        archive.append(0, records[start : start + size])
    return [msgspec.json.decode(out.value or b"", type=Drift) for out in outputs if out.topic == "drifts"]
