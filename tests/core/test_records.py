"""Bad bytes become a RecordRejected with a code, whatever they are."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import Labels, number
from stream.core.records import EventParser, LabelParser, Record
from stream.errors import RecordRejected
from stream.pipeline import Feature, Limits
from tests.support.records import pipeline_of

SECRET = "s3cret-payload"
PIPELINE = pipeline_of(
    features={"amount": float, "hour": int, "shop": str, "online": bool, "note": Feature(type=str, default="none")},
    entity_features=(),
    limits=Limits(record_bytes_max=2_000, string_length_max=20, future_ms_max=1_000),
)
PARSE = EventParser(PIPELINE).parse
GOOD = {"amount": 1, "hour": 3, "shop": "a", "online": True}


def record(value: bytes | None, key: bytes | None = b"k", timestamp_ms: int = 1_000) -> Record:
    return Record("events", 0, 5, timestamp_ms, key, value)


def event_bytes(features: object = None, **changes: object) -> bytes:
    body = {"event_id": "e", "occurred_at_ms": 900, "features": GOOD if features is None else features}
    return msgspec.json.encode({**body, **changes})


def test_a_good_event_has_every_feature_in_declared_order_and_type():
    event = PARSE(record(event_bytes({"online": False, "shop": "b", "hour": 1, "amount": 2})))
    assert event.features == {"amount": 2.0, "hour": 1, "shop": "b", "online": False, "note": "none"}
    assert list(event.features) == ["amount", "hour", "shop", "online", "note"]
    assert type(event.features["amount"]) is float
    assert (event.entity_id, event.event_id, event.occurred_at_ms) == ("k", "e", 900)


def test_null_takes_the_default_where_one_is_declared():
    assert PARSE(record(event_bytes({**GOOD, "note": None}))).features["note"] == "none"


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (record(None), "value_empty"),
        (record(b""), "value_empty"),
        (record(event_bytes(), key=None), "key_missing"),
        (record(event_bytes(), key=b""), "key_missing"),
        (record(event_bytes(), key=b"\xff\xfe"), "key_not_utf8"),
        (record(event_bytes(), key=b"k" * 257), "key_too_long"),
        (record(b"x" * 2_001), "value_too_large"),
        (record(b"not json"), "json_invalid"),
        (record(b'{"event_id": "\xff"}'), "json_invalid"),
        (record(event_bytes() + b"x"), "json_invalid"),
        (record(b"[" * 1_500), "value_invalid"),
        (record(b'{"event_id":"e","occurred_at_ms":900,"features":{"amount":NaN,"hour":1}}'), "json_invalid"),
        (record(event_bytes({**GOOD, "amount": 1e400})), "value_invalid"),
        (record(event_bytes().replace(b'"amount":1', b'"amount":1e400')), "value_invalid"),
        (record(event_bytes({**GOOD, "amount": 1e16})), "value_invalid"),
        (record(event_bytes({**GOOD, "amount": SECRET})), "value_invalid"),
        (record(event_bytes({**GOOD, "hour": 1.5})), "value_invalid"),
        (record(event_bytes({**GOOD, "hour": True})), "value_invalid"),
        (record(event_bytes({**GOOD, "online": 1})), "value_invalid"),
        (record(event_bytes({**GOOD, "amount": None})), "value_invalid"),
        (record(event_bytes({**GOOD, "shop": SECRET * 2})), "value_invalid"),
        (record(event_bytes({**GOOD, SECRET: 1})), "feature_unknown"),
        (record(event_bytes({"amount": 1.0})), "field_missing"),
        (record(event_bytes(event_id="")), "value_invalid"),
        (record(event_bytes(event_id="i" * 257)), "value_invalid"),
        (record(event_bytes(occurred_at_ms=-1)), "value_invalid"),
        (record(event_bytes(occurred_at_ms="900")), "value_invalid"),
        (record(event_bytes(occurred_at_ms=2_001)), "event_in_future"),
        (record(b'{"event_id": "e"}'), "field_missing"),
        (record(b"[]"), "value_invalid"),
    ],
)
def test_every_bad_event_has_its_code(bad: Record, code: str):
    with pytest.raises(RecordRejected) as caught:
        PARSE(bad)
    assert caught.value.code == code
    assert SECRET not in str(caught.value)


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda b: event_bytes()[: len(b)] + b))
def test_any_bytes_are_parsed_or_rejected(value: bytes):
    try:
        PARSE(record(value))
    except RecordRejected as rejected:
        assert rejected.code


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries(dict.fromkeys(GOOD, JSON)) | JSON)
def test_what_is_accepted_has_the_declared_types(features: object):
    try:
        parsed = PARSE(record(event_bytes(features)))
    except RecordRejected:
        return
    for name, kind in (("amount", float), ("hour", int), ("shop", str), ("online", bool), ("note", str)):
        assert type(parsed.features[name]) is kind
    assert abs(parsed.features["amount"]) <= 1e15


@pytest.mark.parametrize(
    ("task", "classes", "value", "fits"),
    [
        ("binary", None, True, True),
        ("binary", None, 1, False),
        ("binary", None, "true", False),
        ("anomaly", None, False, True),
        ("regression", None, 2, True),
        ("regression", None, True, False),
        ("regression", None, 1e300, False),
        ("multiclass", None, "a", True),
        ("multiclass", None, "", False),
        ("multiclass", ("a", "b"), "c", False),
        ("multiclass", ("a", "b"), "b", True),
    ],
)
def test_a_label_is_strictly_of_the_tasks_type(task: str, classes: object, value: object, fits: bool):
    pipeline = pipeline_of(task=task, labels=Labels(classes=classes), features={"amount": number()})  # type: ignore[arg-type]
    body = msgspec.json.encode({"event_id": "e", "label": value, "labelled_at_ms": 1})
    parse = LabelParser(pipeline).parse
    if fits:
        assert parse(record(body))[1].label == value
    else:
        with pytest.raises(RecordRejected):
            parse(record(body))
