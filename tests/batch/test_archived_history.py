"""An archive of examples is a history again: what was learned of it is learned anew, and nothing is computed twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from stream import Labels, entity
from stream.batch.archived_history import ArchivedHistory
from stream.batch.replaying import Replayed, replay
from stream.core.records import Record
from stream.errors import ConfigurationError
from stream.pipeline import Pipeline
from stream.ports import Outgoing
from tests.support.cards import pipeline
from tests.support.world import card_stream

RULES: dict[str, Any] = {"wait": "10m", "keep_late": "5m", "early_wait": "5m"}
cards = replace(pipeline, labels=Labels(**RULES))


def live(**changes: Any) -> tuple[Replayed, list[Record]]:
    """A history in which every third event never gets a label, and its examples as the archive has them."""
    out: list[Outgoing] = []
    records = card_stream(3_000, partitions=1, missing=0.3, early=0.05, contradicting=0.05, **changes)
    its = replay(cards, records, on_output=out.append)
    examples = (o for o in out if o.topic == "examples")
    return its, [Record("examples", 0, i, o.timestamp_ms, o.key, o.value) for i, o in enumerate(examples)]


def again(pipeline: Pipeline, examples: list[Record]) -> tuple[Replayed, ArchivedHistory]:
    history = ArchivedHistory(examples)
    scored_as, records = history.of(pipeline)
    return replay(pipeline, records, scored_as=scored_as), history


def test_what_was_learned_is_learned_anew():
    its, examples = live()
    other, history = again(cards, examples)
    assert cards.entity_features  # of all events, labelled or not
    assert other.learner["digest"] == its.learner["digest"]
    assert other.learner["counts"] == its.learner["counts"]
    assert other.drifts == its.drifts
    assert other.counts["events"] == history.events < its.counts["events"]
    assert "dead_letters" not in other.counts


def test_what_stands_there_twice_counts_once():
    """After a reset or a backfill the archive has the same events again."""
    its, examples = live()
    other, _ = again(cards, [*examples, *examples, Record("examples", 0, 9, 9, b"k", b"{")])
    assert other.learner["digest"] == its.learner["digest"]
    assert other.counts["events"] == len({msgspec.json.decode(x.value or b"")["event_id"] for x in examples})


def test_defaults_are_given_again_and_not_taken_for_labels():
    with_default = replace(cards, labels=Labels(**RULES, missing="default", default=False))
    out: list[Outgoing] = []
    replay(with_default, card_stream(2_000, partitions=1, missing=0.5), on_output=out.append)
    examples = [o for o in out if o.topic == "examples"]
    records = [Record("examples", 0, i, o.timestamp_ms, o.key, o.value) for i, o in enumerate(examples)]
    defaults = sum(msgspec.json.decode(o.value or b"")["timing"] == "default" for o in examples)
    assert defaults > 200
    other, _ = again(with_default, records)
    assert other.counts["default_labels"] > 200
    assert other.counts["labels"] == len(examples) - defaults
    none, _ = again(cards, records)  # a file that gives no defaults
    assert none.counts["events"] == other.counts["events"]
    assert "default_labels" not in none.counts


def test_what_the_archive_does_not_have_is_named():
    _, examples = live()
    wanted = replace(cards, entity_features=[*cards.entity_features, entity.count("9m")])
    with pytest.raises(ConfigurationError, match=r"count_9m.* replay `topics` or a file instead"):
        ArchivedHistory(examples).of(wanted)
    fewer = replace(cards, entity_features=())
    assert again(fewer, examples)[0].counts["predictions"] > 1_000
