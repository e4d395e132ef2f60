"""Records as Kafka would deliver them, and pipelines to process them."""

from __future__ import annotations

from typing import Any

import msgspec
from river import linear_model, preprocessing

from stream import Labels, Pipeline, entity
from stream.core.records import Record

__all__ = ["event", "label", "logistic", "pipeline_of"]


def event(
    offset: int,
    event_id: str | None = None,
    *,
    key: str = "card-1",
    at_ms: int | None = None,
    features: dict[str, Any] | None = None,
    timestamp_ms: int | None = None,
    partition: int = 0,
) -> Record:
    """One valid event; event time and Kafka timestamp are its offset in seconds if not given."""
    at_ms = offset * 1_000 if at_ms is None else at_ms
    value = {
        "event_id": event_id or f"e{offset}",
        "occurred_at_ms": at_ms,
        "features": {"amount": float(offset % 7)} if features is None else features,
    }
    stamp = at_ms if timestamp_ms is None else timestamp_ms
    return Record("events", partition, offset, stamp, key.encode(), msgspec.json.encode(value))


def label(
    offset: int,
    event_id: str,
    value: Any = True,
    *,
    key: str = "card-1",
    at_ms: int = 0,
    source: str = "bank",
    partition: int = 0,
) -> Record:
    """One label, `at_ms` being its Kafka timestamp and its own time."""
    body = {"event_id": event_id, "label": value, "labelled_at_ms": at_ms, "source": source}
    return Record("labels", partition, offset, at_ms, key.encode(), msgspec.json.encode(body))


def logistic(params: dict[str, Any]) -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def pipeline_of(**changes: Any) -> Pipeline:
    """A small binary pipeline."""
    settings: dict[str, Any] = {
        "name": "cards",
        "task": "binary",
        "features": {"amount": float},
        "entity_features": [entity.count("1m"), entity.mean("amount", "1m"), entity.seconds_since_last()],
        "model": logistic,
        "labels": Labels(wait="1m", keep_late="30s", early_wait="20s"),
    }
    return Pipeline(**{**settings, **changes})
