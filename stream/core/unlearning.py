"""Which examples a model shall not have learned, and from which base it can be built without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from stream.core.label_sources import is_of
from stream.core.model_bases import ModelBase
from stream.core.records import Record
from stream.errors import ConfigurationError
from stream.messages import Example

__all__ = ["LEFT_OUT", "Labelled", "LeftOut", "begins_of", "has_learned", "learned_line", "left_out_of", "nearest_base"]

LEFT_OUT = "left_out"  # in the provenance of a base
AFRESH = ("scratch", "transfer")  # what a retraining began with, if not with this pipeline's own models


class Labelled(NamedTuple):
    """What is looked at of an example."""

    offset: int
    timestamp_ms: int  # Kafka's
    source: str  # of the label

    @classmethod
    def of(cls, record: Record, example: Example) -> Labelled:
        return cls(record.offset, record.timestamp_ms, example.label_source)


class LeftOut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Examples for which all that is given is true.

    Args:
        from_offset: of the first one.
        to_offset: behind the last one.
        source: `source` of their labels; "default" for those that nobody gave.
        agreed: also labels that the source agreed on with others (`label_sources.is_of`); what was built before this was
            thought of has them in.
        since_ms, until_ms: Kafka timestamps of the examples, which are those of their labels; [since, until).
    """

    from_offset: int = 0
    to_offset: int
    source: str | None = None
    agreed: bool = False
    since_ms: int | None = None
    until_ms: int | None = None

    def holds(self, its: Labelled) -> bool:
        """Whether this example is one of them."""
        return (
            self.from_offset <= its.offset < self.to_offset
            and (self.source is None or its.source == self.source or (self.agreed and is_of(its.source, self.source)))
            and (self.since_ms is None or its.timestamp_ms >= self.since_ms)
            and (self.until_ms is None or its.timestamp_ms < self.until_ms)
        )

    def until(self, offset: int) -> LeftOut:
        """The part that lies before an offset."""
        return msgspec.structs.replace(self, to_offset=min(self.to_offset, offset))


def left_out_of(provenance: Mapping[str, Any]) -> tuple[LeftOut, ...]:
    """What a base was built without. Raises ConfigurationError for a provenance that cannot be read."""
    try:
        return tuple(msgspec.convert(provenance.get(LEFT_OUT, []), type=list[LeftOut]))
    except msgspec.ValidationError as error:
        raise ConfigurationError("provenance", LEFT_OUT, f"it cannot be read: {error}") from error


def learned_line(
    champion: str, read: Callable[[str], ModelBase | None], released: Mapping[str, str | None], started: str | None
) -> list[ModelBase]:
    """A base, what it went on from, and so on to the first; of one that was made anew, the champion of that time.

    A retraining that starts from "champion" goes on from the newest base of the champion's line that had begun before its window; from
    "former", from a base that it names (`batch.candidates`). What it only was compared with is no part of it.

    Args:
        read: None: the file is gone, and the base is passed over.
        released: base -> its champion at the release; for bases that state no parent.
        started: the pipeline's first model.
    """

    line: list[ModelBase] = []
    seen: set[str] = set()
    name: str | None = champion
    begun_by: int | None = None
    while name is not None and name not in seen:
        seen.add(name)
        base = read(name)
        facts = {} if base is None else base.provenance
        parent, former = facts.get("parent"), facts.get("former")
        before = parent if isinstance(parent, str) else released.get(name)
        if base is not None and (begun_by is None or base.offset <= begun_by):
            line.append(base)
            start, window = facts.get("start"), facts.get("from_offset")
            begun_by = window if start == "champion" and isinstance(window, int) else None
            if start == "former" and isinstance(former, str):
                before = former
        name = before or started
    return line


def begins_of(lineage: Sequence[ModelBase]) -> list[int]:
    """By base, the first example that it may have learned: of one that a retraining made anew, where its window begins.

    Args:
        lineage: as `learned_line` has it.
    """
    root = lineage[-1]
    begins, first = [], root.offset if not root.learned else 0
    for base in reversed(lineage):
        window = base.provenance.get("from_offset")
        if base.provenance.get("start") in AFRESH and isinstance(window, int):
            first = window
        begins.append(first)
    return begins[::-1]


def has_learned(base: ModelBase, begins: int, its: Labelled) -> bool:
    """Whether an example is part of a base; `begins` as `begins_of` has it."""
    if not begins <= its.offset < base.offset:
        return False
    return not any(part.holds(its) for part in left_out_of(base.provenance))


def nearest_base(lineage: Sequence[ModelBase], asked: Sequence[Labelled]) -> ModelBase | None:
    """The newest base that has learned none of these examples; None if every one has."""
    for base, begins in zip(lineage, begins_of(lineage), strict=True):
        if not any(has_learned(base, begins, its) for its in asked):
            return base
    return None
