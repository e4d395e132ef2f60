"""What may be searched, and what is refused with its key, value and remedy."""

from __future__ import annotations

from typing import Any

import pytest

from stream import search_space
from stream.errors import ConfigurationError
from tests.support.records import pipeline_of


def test_a_space_with_conditions_is_taken():
    space = {
        "family": search_space.choice("a", "b"),
        "rate": search_space.number(0.001, 1, log=True, when={"family": "a"}),
        "trees": search_space.whole(1, 9, when={"family": "b"}),
        "on": search_space.choice(True, False, None),
        "one": search_space.choice(1, True),  # equal in Python, and two values all the same
    }
    assert pipeline_of(search_space=space).search_space == space


@pytest.mark.parametrize(
    ("parameter", "wanted"),
    [
        (3, "search_space['x'] = 3: use search_space.number(low, high), whole(low, high) or choice(...)"),
        (search_space.number(1, 1), "(1, 1): low must be less than high"),
        (search_space.number(0, 1, log=True), "(0, 1): log=True needs low above 0"),
        (search_space.number(0, float("inf")), "must be finite numbers"),
        (search_space.whole(0.5, 2), "must be whole numbers"),  # type: ignore[arg-type]
        (search_space.whole(True, 2), "must be whole numbers"),
        (search_space.choice(), "give one or more different"),
        (search_space.choice("a", "a"), "give one or more different"),
        (search_space.choice([1]), "give one or more different"),  # type: ignore[arg-type]
        (search_space.number(0, 1, when={"y": 1}), "name a choice(...) that stands before it"),
        (search_space.number(0, 1, when={"family": "c"}), "use one of ('a', 'b')"),
        (search_space.number(0, 1, when=3), "give a dictionary"),  # type: ignore[arg-type]
    ],
)
def test_a_mistake_is_named(parameter: Any, wanted: str):
    with pytest.raises(ConfigurationError) as caught:
        pipeline_of(search_space={"family": search_space.choice("a", "b"), "x": parameter})
    assert wanted in str(caught.value)
    assert "search_space['x']" in str(caught.value)
