"""Bytes from a topic to a typed, checked message, or to a `RecordRejected` with a code.

All checks that need no state are here: size, key, JSON, schema, types, finite and bounded numbers, time. What comes
out can go into a model.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from stream.core.generating import named
from stream.errors import RecordRejected
from stream.messages import EpochMs, Identifier, Label
from stream.pipeline import MAGNITUDE_MAX, Feature, Pipeline

__all__ = ["EventParser", "LabelParser", "ParsedEvent", "Record"]

ENTITY_ID_BYTES_MAX = 256
_values = msgspec.structs.astuple


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One record of a topic, as it lies there."""

    topic: str  # the bare name: "events"
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]] | None = None


class ParsedEvent(msgspec.Struct, frozen=True, gc=False):
    """A valid event: `features` holds a value for every declared feature, in declaration order."""

    record: Record
    entity_id: str
    event_id: str
    occurred_at_ms: int
    features: dict[str, Any]


def _entity_id(record: Record) -> str:
    key = record.key
    if not key:
        raise RecordRejected("key_missing", "the record has no key; produce it with the entity id as its key")
    if len(key) > ENTITY_ID_BYTES_MAX:
        raise RecordRejected("key_too_long", f"the key has {len(key)} bytes; at most {ENTITY_ID_BYTES_MAX}")
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise RecordRejected("key_not_utf8", "the key is not UTF-8 text") from None


def _value(record: Record, bytes_max: int) -> bytes:
    value = record.value
    if not value:
        raise RecordRejected("value_empty", "the record has no value (a tombstone or an empty one)")
    if len(value) > bytes_max:
        raise RecordRejected(
            "value_too_large", f"the value has {len(value)} bytes; limits.record_bytes_max is {bytes_max}"
        )
    return value


def _rejection(error: Exception) -> RecordRejected:
    """msgspec's messages name types and declared paths; only unknown names would quote the payload."""
    text = str(error)
    if isinstance(error, msgspec.ValidationError):
        if "unknown field" in text:
            return RecordRejected("feature_unknown", "features has a name that the pipeline does not declare")
        if "missing required field" in text:
            return RecordRejected("field_missing", text)
        return RecordRejected("value_invalid", text)
    if isinstance(error, RecursionError):
        return RecordRejected("value_too_deep", "the value is nested too deeply")
    return RecordRejected("json_invalid", "the value is not valid JSON in UTF-8")


def _feature_type(feature: Feature, string_length_max: int) -> Any:
    kind: Any = feature.type
    if kind in (int, float):
        kind = Annotated[kind, Meta(ge=-int(MAGNITUDE_MAX), le=int(MAGNITUDE_MAX))]
    elif kind is str:
        kind = Annotated[str, Meta(max_length=string_length_max)]
    return kind if feature.default is None else kind | None


class EventParser:
    """Parses events of one pipeline.

    >>> from stream.pipeline import Pipeline
    >>> parser = EventParser(Pipeline(name="p", task="binary", features={"amount": float}, model=dict))
    >>> record = Record("events", 0, 7, 1_000, b"card-1", b'{"event_id": "e1", "occurred_at_ms": 900, "features": {"amount": 3}}')
    >>> parser.parse(record).features
    {'amount': 3.0}
    """

    def __init__(self, pipeline: Pipeline) -> None:
        limits = pipeline.limits
        declared = pipeline.declared
        fields: list[Any] = []
        rename = {}
        for number, (name, feature) in enumerate(declared.items()):
            kind = _feature_type(feature, limits.string_length_max)
            field = f"f{number}"  # a feature's name need not be an identifier
            rename[field] = name
            fields.append((field, kind) if feature.default is None else (field, kind, feature.default))
        features = msgspec.defstruct(
            "Features", fields, rename=rename, kw_only=True, forbid_unknown_fields=True, gc=False
        )
        self._features_of = named(tuple(declared))
        event = msgspec.defstruct(
            "Event",
            [("event_id", Identifier), ("occurred_at_ms", EpochMs), ("features", features)],
            gc=False,
        )
        self._decode = msgspec.json.Decoder(event).decode
        self._bytes_max = limits.record_bytes_max
        self._future_ms_max = limits.future_ms_max
        self._defaults = {name: f.default for name, f in declared.items() if f.default is not None}

    def parse(self, record: Record) -> ParsedEvent:
        """Raises RecordRejected."""
        value = _value(record, self._bytes_max)
        entity_id = _entity_id(record)
        try:
            event: Any = self._decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _rejection(error) from None
        occurred_at_ms: int = event.occurred_at_ms
        if occurred_at_ms > record.timestamp_ms + self._future_ms_max:
            raise RecordRejected(
                "event_in_future",
                f"occurred_at_ms lies more than {self._future_ms_max} ms after the record's own timestamp",
            )
        features = self._features_of(_values(event.features))
        if self._defaults:
            for name, default in self._defaults.items():
                if features[name] is None:
                    features[name] = default
        return ParsedEvent(record, entity_id, event.event_id, occurred_at_ms, features)


class LabelParser:
    """Parses labels of one pipeline: strictly of the task's type, never "1" for true."""

    def __init__(self, pipeline: Pipeline) -> None:
        kind: Any = {"binary": bool, "anomaly": bool, "regression": float, "multiclass": str}[pipeline.task]
        if pipeline.task == "multiclass":
            kind = Annotated[str, Meta(min_length=1, max_length=pipeline.limits.string_length_max)]
        elif pipeline.task == "regression":
            kind = Annotated[float, Meta(ge=-int(MAGNITUDE_MAX), le=int(MAGNITUDE_MAX))]
        fields = [(f.name, kind if f.name == "label" else f.type, f.default) for f in msgspec.structs.fields(Label)]
        label = msgspec.defstruct(
            "Label", [f if f[2] is not msgspec.NODEFAULT else f[:2] for f in fields], kw_only=True, gc=False
        )
        self._decode = msgspec.json.Decoder(label).decode
        self._classes = frozenset(pipeline.labels.classes or ())
        self._bytes_max = pipeline.limits.record_bytes_max

    def parse(self, record: Record) -> tuple[str, Label]:
        """The entity id and the label. Raises RecordRejected."""
        value = _value(record, self._bytes_max)
        entity_id = _entity_id(record)
        try:
            label: Any = self._decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _rejection(error) from None
        if self._classes and label.label not in self._classes:
            raise RecordRejected("class_unknown", "the label is not one of labels.classes")
        return entity_id, label
