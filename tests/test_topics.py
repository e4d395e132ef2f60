"""Names of topics, and a pipeline that reads another's."""

from __future__ import annotations

import pytest

from stream.core.beginning import Beginning
from stream.errors import ConfigurationError
from stream.topics import DECLARATIONS, TopicNames
from tests.support.records import pipeline_of


def test_only_inputs_are_shared():
    names = TopicNames.of(pipeline_of(name="cards-2", reads="cards"))
    assert {names[topic] for topic in ("events", "labels")} == {"cards.events", "cards.labels"}
    assert all(names[topic] == f"cards-2.{topic}" for topic in DECLARATIONS if topic not in ("events", "labels"))
    alone = TopicNames.of(pipeline_of(name="cards"))
    assert all(alone[topic] == f"cards.{topic}" for topic in DECLARATIONS)


@pytest.mark.parametrize("reads", ["cards", "Cards", 3, ""])
def test_a_name_to_read_that_cannot_be_is_refused(reads: object):
    with pytest.raises(ConfigurationError, match=r"^reads = .*name another pipeline"):
        pipeline_of(name="cards", reads=reads)


def test_what_is_read_is_no_part_of_the_meaning():
    """Stored topic ids, not the fingerprint, refuse a change: the model and its features mean the same."""
    assert pipeline_of(name="b", reads="a").fingerprint("m") == pipeline_of(name="b").fingerprint("m")


def test_a_beginning_comes_back_from_what_is_stored():
    beginning = Beginning({("events", 0): 5, ("labels", 12): 7}, {("events", 0): 9})
    stored = {**beginning.fields(), "configuration": "x", "examples_from:0": "3"}
    assert Beginning.of(stored) == beginning
    assert beginning.answered_until(0) == {"events": 9}
    assert beginning.answered_until(12) == {}
