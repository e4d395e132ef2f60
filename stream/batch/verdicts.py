"""What is asked of a verification, and what it says."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

import msgspec

from stream.batch.evidence import Place
from stream.core.rebuilding import Difference, Witness
from stream.core.records import Record
from stream.errors import ConfigurationError
from stream.messages import Prediction
from stream.topics import TopicNames

__all__ = ["Case", "Outcome", "Position", "Verified", "place_text", "position_of"]

POSITION = re.compile(r"(.+)-(\d+)@(\d+)")
Outcome = Literal["equal", "differs", "cannot_be_verified"]


class Position(NamedTuple):
    """Of a prediction, or of the event that it answers."""

    topic: Literal["predictions", "events"]
    partition: int
    offset: int


class Verified(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What was found, and what it was found with."""

    position: str
    outcome: Outcome
    reason: str = ""
    field: str | None = None  # the first one that differs ...
    said: Any = None  # ... what the prediction says ...
    rebuilt: Any = None  # ... and what the model says that was built again
    not_compared: list[str] = []
    event_id: str | None = None
    event: str | None = None  # position
    duplicate_of: str | None = None
    version: str | None = None
    slot: str | None = None
    base_file: str | None = None
    provenance: dict[str, Any] = {}
    from_offset: int | None = None  # of the examples that the model was built with ...
    to_offset: int | None = None  # ... exclusive
    learned: int | None = None  # examples, with those of the base
    features_from: str | None = None
    digest: str | None = None  # of the model that was built again
    seconds: float | None = None


class Case:
    """One prediction under way."""

    def __init__(self, position: Position, names: TopicNames) -> None:
        self.position = position
        self.found = Verified(position=place_text(names, *position), outcome="cannot_be_verified")
        self.record: Record | None = None  # the prediction
        self.event: Record | None = None
        self.live: Prediction | None = None
        self.origin: Place = (0, 0)  # of the first event of this id, whose features count
        self.version: tuple[str, int] = ("", 0)
        self.witness: Witness | None = None
        self.done = False

    def cannot(self, reason: str) -> None:
        self.found.reason, self.done = reason, True

    def differs(self, difference: Difference, reason: str = "") -> None:
        its = self.found
        its.outcome, its.reason, self.done = "differs", reason, True
        its.field, its.said, its.rebuilt = difference

    def equal(self) -> None:
        self.found.outcome, self.done = "equal", True


def position_of(text: str, names: TopicNames) -> Position:
    """
    Raises ConfigurationError.

    >>> position_of("cards.predictions-2@1042", TopicNames("cards"))
    Position(topic='predictions', partition=2, offset=1042)
    """
    match = POSITION.fullmatch(text)
    topics: dict[str, Literal["predictions", "events"]] = {names.predictions: "predictions", names.events: "events"}
    if match is None or match[1] not in topics:
        raise ConfigurationError(
            "position", text, f"write {names.predictions}-<partition>@<offset> or {names.events}-<partition>@<offset>"
        )
    return Position(topics[match[1]], int(match[2]), int(match[3]))


def place_text(names: TopicNames, topic: str, partition: int, offset: int) -> str:
    return f"{names[topic]}-{partition}@{offset}"
