"""The declared segments that an example belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stream.pipeline import OTHER_VALUE

__all__ = ["segment_values", "told_apart"]


def segment_values(segments: Sequence[str], features: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """The segments that an example belongs to, one value of each."""
    for segment in segments:
        value = features[segment]
        yield segment, ("true" if value else "false") if isinstance(value, bool) else str(value)


def told_apart(value: str, known: Mapping[str, Any], values_max: int) -> str:
    """The value, or `OTHER_VALUE` once there is no place for one more."""
    return value if value in known or len(known) < values_max - 1 else OTHER_VALUE
