"""Where `driftloop produce` gets its records: CSV, JSON lines, a River data set, or a generator of the user's own."""

from __future__ import annotations

import csv
import heapq
import importlib.util
import inspect
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from stream.errors import ConfigurationError
from stream.pipeline import Pipeline

__all__ = ["Columns", "Produced", "a_year_ago_ms", "load_generator", "read_source"]

TRUE, FALSE = frozenset(("1", "true", "yes", "y", "t")), frozenset(("0", "false", "no", "n", "f"))


class Produced(NamedTuple):
    """One record to produce."""

    topic: str  # "events" or "labels"
    key: str
    timestamp_ms: int  # event time
    value: dict[str, Any]


class Columns(NamedTuple):
    """Which columns of a table mean what; None where the table has none."""

    label: str | None
    key: str | None
    time: str | None
    event_id: str | None
    positive: str | None  # the label's text that means true


def read_source(
    pipeline: Pipeline,
    source: str,
    *,
    columns: Columns,
    limit: int | None,
    delay_ms: int,
    interval_ms: int,
    seed: int,
    start_ms: int | None = None,
) -> Iterator[Produced]:
    """Records in event time, labels `delay_ms` after their events.

    Args:
        start_ms: event time of the first row of a table without times; a year ago if not given.

    Raises ConfigurationError for a source that cannot be read or does not fit the pipeline.
    """
    path = Path(source)
    if source.startswith("river:"):
        rows = _river(source.removeprefix("river:"), pipeline)
    elif path.suffix == ".py":
        return _generator(path, limit or 40_000, seed)
    elif path.suffix == ".csv":
        rows = _table(_csv_rows(path), pipeline, columns)
    elif path.suffix in (".jsonl", ".ndjson"):
        rows = _table(_json_rows(path), pipeline, columns)
    else:
        raise ConfigurationError("source", source, "use a .csv, a .jsonl, river:<DataSet>, or a generator's .py")
    start_ms = a_year_ago_ms() if start_ms is None else start_ms
    return _in_time(itertools.islice(rows, limit), delay_ms, interval_ms, start_ms)


class _Row(NamedTuple):
    key: str
    event_id: str | None
    at_ms: int | None
    features: dict[str, Any]
    label: Any


def a_year_ago_ms() -> int:
    """Where a table without times begins: event time must not run ahead of Kafka's."""
    return int(time.time() * 1000) - 365 * 86_400_000


def _in_time(rows: Iterable[_Row], delay_ms: int, interval_ms: int, start_ms: int) -> Iterator[Produced]:
    """Events with their labels woven in by event time.

    A table without times gets one event per interval.
    """
    due: list[tuple[int, int, Produced]] = []
    for number, row in enumerate(rows):
        at_ms = row.at_ms if row.at_ms is not None else start_ms + number * interval_ms
        while due and due[0][0] <= at_ms:
            yield heapq.heappop(due)[2]
        event_id = row.event_id or f"{start_ms}-{number}"
        event = {"event_id": event_id, "occurred_at_ms": at_ms, "features": row.features}
        yield Produced("events", row.key, at_ms, event)
        if row.label is not None:
            label = {"event_id": event_id, "label": row.label, "labelled_at_ms": at_ms + delay_ms, "source": "file"}
            heapq.heappush(due, (at_ms + delay_ms, number, Produced("labels", row.key, at_ms + delay_ms, label)))
    while due:
        yield heapq.heappop(due)[2]


# -- tables --------------------------------------------------------------------------------------------------------------


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise ConfigurationError("source", str(path), "no such file")
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise ConfigurationError("source", str(path), "no such file")
    with path.open() as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ConfigurationError(f"line {number}", line[:40], "each line must be one JSON object")
                yield row


def _table(rows: Iterable[dict[str, Any]], pipeline: Pipeline, columns: Columns) -> Iterator[_Row]:
    for number, row in enumerate(rows):
        if number == 0:
            _check_columns(row, pipeline, columns)
        features = {
            name: _convert(row[name], f.type, name, number) for name, f in pipeline.declared.items() if name in row
        }
        label = None
        if columns.label is not None and row[columns.label] not in (None, ""):
            label = _label(row[columns.label], pipeline, columns.positive, number)
        yield _Row(
            str(row[columns.key]) if columns.key else f"entity-{number % 1000}",
            str(row[columns.event_id]) if columns.event_id else None,
            int(float(row[columns.time])) if columns.time else None,
            features,
            label,
        )


def _check_columns(row: dict[str, Any], pipeline: Pipeline, columns: Columns) -> None:
    required = [name for name, feature in pipeline.declared.items() if feature.default is None]
    named = [column for column in (columns.label, columns.key, columns.time, columns.event_id) if column]
    missing = [name for name in [*required, *named] if name not in row]
    if missing:
        raise ConfigurationError("columns", missing, f"not in the source, which has: {', '.join(row)}")


def _convert(value: Any, kind: type, name: str, number: int) -> Any:
    if value is None or value == "":
        return None
    try:
        if kind is bool:
            return _truth(value)
        return kind(float(value)) if kind is int else kind(value)
    except (ValueError, TypeError):
        raise ConfigurationError(f"row {number}, {name}", value, f"is not a {kind.__name__}") from None


def _truth(value: Any) -> bool:
    text = str(value).strip().lower()
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise ValueError(text)


def _label(value: Any, pipeline: Pipeline, positive: str | None, number: int) -> Any:
    if pipeline.task == "multiclass":
        return str(value)
    if pipeline.task == "regression":
        return _convert(value, float, "label", number)
    if positive is not None:
        return str(value) == positive
    try:
        return _truth(value)
    except ValueError:
        raise ConfigurationError(
            f"row {number}, label", value, "is not true or false; name the true one: --positive"
        ) from None


# -- River and generators ------------------------------------------------------------------------------------------------


def _river(name: str, pipeline: Pipeline) -> Iterator[_Row]:
    from river import datasets  # slow to import, and rarely needed

    kind = getattr(datasets, name, None)
    if kind is None or not inspect.isclass(kind):
        known = ", ".join(n for n in dir(datasets) if n[0].isupper())
        raise ConfigurationError("source", f"river:{name}", f"River ships: {known}")
    made: Any = kind
    for number, (x, y) in enumerate(made()):
        at_ms = None
        values = dict(x)
        for value in x.values():
            if isinstance(value, datetime):  # a moment is the event's time, and its parts are features
                at_ms = int(value.replace(tzinfo=UTC).timestamp() * 1000)
                values |= {"hour": value.hour, "weekday": value.weekday(), "month": value.month}
        features = {n: _convert(values[n], f.type, n, number) for n, f in pipeline.declared.items() if n in values}
        label: Any = str(y) if pipeline.task == "multiclass" else float(y) if pipeline.task == "regression" else bool(y)
        yield _Row(f"entity-{number % 100}", None, at_ms, features, label)


def _generator(path: Path, limit: int, seed: int) -> Iterator[Produced]:
    module = load_generator(path)
    if not callable(getattr(module, "records", None)):
        raise ConfigurationError("source", str(path), "define records(limit, seed) that yields (topic, key, ms, value)")
    return (Produced(*record) for record in module.records(limit, seed))


def load_generator(path: Path) -> Any:
    """Run a generator's file; returns its module. Raises ConfigurationError if there is none."""
    spec = importlib.util.spec_from_file_location(f"driftloop_generator_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ConfigurationError("source", str(path), "no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
