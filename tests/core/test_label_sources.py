"""Who gave a label."""

from __future__ import annotations

import pytest

from stream.core.label_sources import SOURCE_MAX, is_of, person, together

LONG = [f"{'x' * 20}.{name}@company.example" for name in ("ann", "bob")]


@pytest.mark.parametrize(
    ("label_source", "source", "expected"),
    [
        ("mallory", "mallory", True),
        ("person:ann", "person:ann", True),
        ("person:ann+bob", "person:ann+bob", True),
        ("person:ann+bob", "person:ann", True),
        ("person:ann+bob", "person:bob", True),
        ("person:ann+bob+eve", "person:bob", True),
        ("airflow:anonymous+bob", "person:bob", True),
        ("person:ann+bob", "person:b", False),
        ("person:annabel+bob", "person:ann", False),
        ("person:ann%2Bbob", "person:ann", False),
        ("person:ann+bob", "person:ann+eve", False),
        ("person:ann+bob", "feed:ann", False),
        ("feed:a+b", "feed:a", False),
        ("a+b", "a", False),
        ("person:ann", "person:", False),
    ],
)
def test_a_label_is_of_everyone_who_agreed_on_it(label_source: str, source: str, expected: bool):
    assert is_of(label_source, source) is expected


def test_names_with_a_plus_are_one_persons():
    ann, bob = person("ann+work@example.org"), person("bob")
    assert ann == "person:ann%2Bwork@example.org"
    assert is_of(together([ann, bob]), ann) and is_of(together([ann, bob]), bob)
    assert not is_of(ann, person("ann"))


def test_a_pair_that_is_cut_is_still_of_both():
    both = together([person(name) for name in LONG])
    assert len(both) == SOURCE_MAX
    assert all(is_of(both, person(name)) for name in LONG)
    assert not is_of(both, person("eve"))
