"""Examples become typed columns, whatever they hold and however they are cut."""

from __future__ import annotations

import msgspec
import pytest

from stream.core.tabulating import FEATURES_MAX, Kind, tabulate
from stream.messages import Served
from tests.support.examples import START_MS, example


def column(name: str, *records: object) -> list[object]:
    return tabulate(list(records), {})[name].values  # type: ignore[arg-type]


def test_what_a_person_looks_for_is_a_column_of_its_own():
    columns = {name: its.values[0] for name, its in tabulate([example(6)], {}).items()}
    value = columns.pop("value")
    assert msgspec.json.decode(value)["event_id"] == "e6"
    assert columns == {
        "offset": 6,
        "timestamp_ms": START_MS + 6,
        "key": b"card-6",
        "event_id": "e6",
        "entity_id": "card-6",
        "occurred_at_ms": START_MS + 6,
        "labelled_at_ms": START_MS + 60_006,
        "label": "true",
        "label_number": 1.0,
        "previous_label": None,
        "label_source": "bank",
        "timing": "on_time",
        "partition": 0,
        "sequence": 7,
        "event_partition": 0,
        "event_offset": 12,
        "label_partition": 0,
        "label_offset": 6,
        "served.champion.version": "84c5abf7@17",
        "served.champion.prediction": "true",
        "served.champion.prediction_number": 1.0,
        "served.champion.probability_of_label": 0.75,
        "served.champion.probabilities": '{"false":0.25,"true":0.75}',
        "served.champion.score": None,
        "served.champion.persistence": "false",
        "served.champion.prior": "false",
        "feature.amount": 6.5,
        "feature.hour": 6.0,
    }


@pytest.mark.parametrize(
    "value",
    [None, b"\xff\x00", b"{}", b"[" * 100_000, b'{"event_id": "\\ud800"}', b"null", b'{"event_id": 1e999}'],
)
def test_what_is_no_example_has_its_bytes_and_nothing_else(value: bytes | None):
    columns = {name: its.values for name, its in tabulate([example(3, value=value)], {}).items()}
    assert columns["value"] == [value]
    filled = {name for name, values in columns.items() if values != [None]}
    assert filled - {"value"} == {"offset", "timestamp_ms", "key"}


def test_classes_and_numbers_as_labels():
    assert column("label", example(0, label="setosa"), example(1, label=1.5)) == ["setosa", "1.5"]
    assert column("label_number", example(0, label="setosa"), example(1, label=1.5)) == [None, 1.5]
    served = {"champion": Served("b@0", "setosa", {"setosa": 0.9})}
    name = "served.champion.probability_of_label"
    assert column(name, example(0, label="setosa", served=served), example(1, label="virginica", served=served)) == [
        0.9,
        None,
    ]


def test_a_feature_that_changes_its_kind_goes_on_in_a_column_of_that_kind():
    first = tabulate([example(0, features={"hour": 3})], {})
    known: dict[str, Kind] = {name: its.kind for name, its in first.items()}
    assert known["feature.hour"] == "double"
    then = tabulate([example(1, features={"hour": "late"}), example(2, features={"hour": 2.5})], known)
    assert then["feature.hour:string"].values == ["late", None]
    assert then["feature.hour"].values == [None, 2.5]
    again: dict[str, Kind] = {name: its.kind for name, its in then.items()}
    forged = tabulate([example(3, features={"hour:string": "forged"})], again)  # no feature has such a name
    assert "feature.hour:string" not in forged
    flags = tabulate([example(3, features={"hour": True})], known)
    assert flags["feature.hour:boolean"].values == [True]


def test_names_that_cannot_be_columns_stay_in_the_value():
    columns = tabulate(
        [example(0, features={"amount": 1.0, "Amount": 2.0, "AMOUNT": 2.0, "a b": 3.0, "x" * 200: 1.0, "none": None}, served={"A;": Served("v", None)})], {}
    )  # fmt: skip
    assert {name for name in columns if name.startswith(("feature.", "served."))} == {
        "feature.amount",
        "feature.Amount:double",
    }


def test_numbers_beyond_a_column_are_null():
    body = msgspec.json.decode(example(0).value or b"")
    body["features"] = {"amount": 1, "huge": 10**400}
    body["occurred_at_ms"] = 2**70
    columns = tabulate([example(0, value=msgspec.json.encode(body).replace(b'"huge":null', b'"huge":1'))], {})
    assert columns["feature.amount"].values in ([1.0], [None])
    assert columns["occurred_at_ms"].values == [None]


def test_columns_are_bounded():
    many = {f"f{i}": 1.0 for i in range(2 * FEATURES_MAX)}
    slots = {f"slot_{chr(97 + i)}": Served("v", None) for i in range(20)}
    columns = tabulate([example(0, features=many, served=slots)], {})
    assert sum(name.startswith("feature.") for name in columns) == FEATURES_MAX
    assert sum(name.endswith(".version") for name in columns) == 8
