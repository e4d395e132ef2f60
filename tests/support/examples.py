"""Examples as they lie on their topic."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec

from stream.core.records import Record
from stream.messages import Example, Served, Source

__all__ = ["START_MS", "example"]

# An hour ago, the same for child processes; what is older than its retention, Kafka deletes when it likes.
START_MS = int(os.environ.setdefault("DRIFTLOOP_TEST_START_MS", str(int(time.time()) * 1_000 - 3_600_000)))


def example(offset: int, *, value: bytes | None = b"", partition: int = 0, **changes: Any) -> Record:
    """One record of `examples`; `value`: these bytes instead of an example."""
    if value != b"":
        return Record("examples", partition, offset, START_MS + offset, b"card-1", value)
    fields: dict[str, Any] = {
        "event_id": f"e{offset}",
        "entity_id": f"card-{offset % 7}",
        "occurred_at_ms": START_MS + offset,
        "features": {"amount": offset + 0.5, "hour": offset % 24},
        "served": {
            "champion": Served("84c5abf7@17", True, {"false": 0.25, "true": 0.75}, None, False, False, {"false": 1.0})
        },
        "label": offset % 3 == 0,
        "label_source": "bank",
        "labelled_at_ms": START_MS + offset + 60_000,
        "timing": "on_time",
        "partition": 0,
        "sequence": offset + 1,
        "event_source": Source("cards.events", 0, 2 * offset),
        "label_source_position": Source("cards.labels", 0, offset),
    }
    body = msgspec.json.encode(Example(**{**fields, **changes}))
    return Record("examples", partition, offset, START_MS + offset, f"card-{offset % 7}".encode(), body)
