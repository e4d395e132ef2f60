"""Examples as columns, for the archive: what a person wants to look at, typed, beside the record's own bytes.

Columns of features and of model slots are made as they come. A column keeps its name and its kind for ever, whatever a
pipeline later declares, and the same records in any batches make the same columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import msgspec

from stream.core.records import Record
from stream.messages import Example, LabelValue, Served
from stream.pipeline import FEATURE_NAME

__all__ = ["RECORD_COLUMNS", "Column", "Kind", "tabulate"]

Kind = Literal["long", "double", "boolean", "string", "binary"]

FEATURES_MAX = 1_000  # columns of features in one archive; what is beyond stays in `value` only
SLOTS_MAX = 8
SLOT = re.compile(r"[a-z][a-z_]{0,31}")
LONG_MAX = 2**63 - 1
DOUBLE_MAX = 1e308

RECORD_COLUMNS: dict[str, Kind] = {  # the record as it lies on Kafka
    "offset": "long",
    "timestamp_ms": "long",
    "key": "binary",
    "value": "binary",
}
EXAMPLE_COLUMNS: dict[str, tuple[Kind, Callable[[Example], Any]]] = {  # null where the value is not an example
    "event_id": ("string", lambda x: x.event_id),
    "entity_id": ("string", lambda x: x.entity_id),
    "occurred_at_ms": ("long", lambda x: _long(x.occurred_at_ms)),
    "labelled_at_ms": ("long", lambda x: _long(x.labelled_at_ms)),
    "label": ("string", lambda x: _text(x.label)),
    "label_number": ("double", lambda x: _number(x.label)),
    "previous_label": ("string", lambda x: _text(x.previous_label)),
    "label_source": ("string", lambda x: x.label_source),
    "timing": ("string", lambda x: x.timing),
    "partition": ("long", lambda x: x.partition),
    "sequence": ("long", lambda x: x.sequence),
    "event_partition": ("long", lambda x: x.event_source.partition),
    "event_offset": ("long", lambda x: x.event_source.offset),
    "label_partition": ("long", lambda x: x.label_source_position and x.label_source_position.partition),
    "label_offset": ("long", lambda x: x.label_source_position and x.label_source_position.offset),
}
SLOT_COLUMNS: dict[str, tuple[Kind, Callable[[Served, LabelValue], Any]]] = {  # served.<slot>.<name>
    "version": ("string", lambda served, _: served.version),
    "prediction": ("string", lambda served, _: _text(served.prediction)),
    "prediction_number": ("double", lambda served, _: _number(served.prediction)),
    "probability_of_label": ("double", lambda served, label: (served.probabilities or {}).get(_text(label) or "")),
    "probabilities": ("string", lambda served, _: _json(served.probabilities)),
    "score": ("double", lambda served, _: served.score),
    "persistence": ("string", lambda served, _: _text(served.persistence)),
    "prior": ("string", lambda served, _: _text(served.prior)),
}
KIND_OF: dict[type, Kind] = {bool: "boolean", int: "double", float: "double", str: "string"}

_decode = msgspec.json.Decoder(Example).decode


class Column(msgspec.Struct):
    """A value or None for every record."""

    kind: Kind
    values: list[Any]


def tabulate(records: Sequence[Record], known: Mapping[str, Kind]) -> dict[str, Column]:
    """Columns of these records, by name.

    Numbers among the features become `double`, whatever they are on the wire: an `int` that a later version declares as
    `float` stays in its column, and integers up to 2^53 are exact.

    Args:
        records: of `examples`, in the order of the topic.
        known: the columns that the archive has.
    """
    examples = [_example(record.value) for record in records]
    columns = {
        name: Column(kind, [getattr(record, name) for record in records]) for name, kind in RECORD_COLUMNS.items()
    }
    for name, (kind, get) in EXAMPLE_COLUMNS.items():
        columns[name] = Column(kind, [None if example is None else get(example) for example in examples])
    columns.update(_slots(examples, known))
    columns.update(_features([{} if example is None else example.features for example in examples], known))
    return columns


def _example(value: bytes | None) -> Example | None:
    if not value:
        return None
    try:
        return _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # the learner makes a dead letter of it; here it is kept as it is


def _slots(examples: Sequence[Example | None], known: Mapping[str, Kind]) -> dict[str, Column]:
    slots = [name.split(".")[1] for name in known if name.startswith("served.") and name.endswith(".version")]
    for slot in dict.fromkeys(chain.from_iterable(example.served for example in examples if example is not None)):
        if slot not in slots and len(slots) < SLOTS_MAX and SLOT.fullmatch(slot):
            slots.append(slot)
    columns = {}
    for slot in slots:
        served = [None if example is None else example.served.get(slot) for example in examples]
        for name, (kind, get) in SLOT_COLUMNS.items():
            columns[f"served.{slot}.{name}"] = Column(
                kind,
                [
                    None if its is None or example is None else get(its, example.label)
                    for its, example in zip(served, examples, strict=True)
                ],
            )
    return columns


def _features(rows: Sequence[Mapping[str, Any]], known: Mapping[str, Kind]) -> dict[str, Column]:
    names = [name for name in dict.fromkeys(chain.from_iterable(rows)) if FEATURE_NAME.fullmatch(name)]
    values = {name: [row.get(name) for row in rows] for name in names}
    types = {name: set(map(type, its)) - {type(None)} for name, its in values.items()}
    kinds = {name: {KIND_OF[kind] for kind in its} for name, its in types.items()}
    placing = _Placing(known)
    if any(not placing.placed(name, kind) for name, its in kinds.items() for kind in its):
        seen = set()
        for row in rows:  # new columns are made in the order in which the stream brings them
            for name, value in row.items():
                if value is not None and name in values and (pair := (name, KIND_OF[type(value)])) not in seen:
                    seen.add(pair)
                    placing.place(*pair)
    columns = {}
    for name, its_kinds in kinds.items():
        for kind in its_kinds:
            column = placing.placed(name, kind)
            if column is not None:
                alike = types[name] in ({float}, {str}, {bool})
                columns[column] = Column(kind, values[name] if alike else _of_kind(values[name], kind))
    return columns


def _of_kind(values: list[Any], kind: Kind) -> list[Any]:
    if kind == "double":
        return [_number(value) if type(value) in (int, float) else None for value in values]
    return [value if KIND_OF.get(type(value)) == kind else None for value in values]


class _Placing:
    """Which column a feature's values of one kind go to: `feature.<name>`, or `feature.<name>:<kind>` once it is of another.

    Names that differ in case only are one column to Spark: the second one goes to the longer name, a third one nowhere.
    """

    def __init__(self, known: Mapping[str, Kind]) -> None:
        self._columns = {name.lower(): (name, kind) for name, kind in known.items() if name.startswith("feature.")}

    def placed(self, feature: str, kind: Kind) -> str | None:
        for column in (f"feature.{feature}", f"feature.{feature}:{kind}"):
            if self._columns.get(column.lower()) == (column, kind):
                return column
        return None

    def place(self, feature: str, kind: Kind) -> None:
        if self.placed(feature, kind) or len(self._columns) >= FEATURES_MAX:
            return
        for column in (f"feature.{feature}", f"feature.{feature}:{kind}"):
            if column.lower() not in self._columns:
                self._columns[column.lower()] = (column, kind)
                return


def _text(label: LabelValue | None) -> str | None:
    if label is None or isinstance(label, str):
        return label
    return msgspec.json.encode(label).decode()


def _number(value: Any) -> float | None:
    """True is 1, false 0; no number of a text."""
    if isinstance(value, bool | int | float) and -DOUBLE_MAX <= value <= DOUBLE_MAX:
        return float(value)
    return None


def _long(value: int) -> int | None:
    return value if -LONG_MAX <= value <= LONG_MAX else None


def _json(probabilities: dict[str, float] | None) -> str | None:
    return None if probabilities is None else msgspec.json.encode(probabilities).decode()
