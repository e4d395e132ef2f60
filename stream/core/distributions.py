"""How the features are distributed: when they were first seen, and now. For people; drift detection has ranks of its own.

"Then" are the first 2,048 examples, of a window of history the first after that window has passed; "now" are the last 2,048.
Of both, every fourth is counted, in the same bins, which "then" fixes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

__all__ = ["FEATURES_MAX", "SAMPLE", "Bins", "Distributions"]

SAMPLE = 512  # examples that are counted ...
EVERY = 4  # ... one in so many
FEATURES_MAX = 40  # shown; the others are left out
VALUES_MAX = 8  # texts that have a bin of their own
WHOLE_MAX = 24  # whole numbers in so small a range have a bin each
INNER = 12  # bins of other numbers between the first and the last hundredth
TEXT_MAX = 40  # characters of a value
REFRESH = 256  # examples after which "now" is counted anew


class Bins(msgspec.Struct, omit_defaults=True):
    """How one feature is counted. Numbers: below, between the edges, above. Values: each one, then all others."""

    edges: list[float] = []
    values: list[str] = []
    then: list[float] = []  # share of each bin
    at_ms: int = 0  # event time of the last example of "then"

    def shares(self, column: Sequence[Any]) -> list[float]:
        """What part of a column lies in each bin."""
        counts = self._of_values(column) if self.values else self._of_numbers(column)
        whole = sum(counts) or 1
        return [round(count / whole, 4) for count in counts]

    def _of_values(self, column: Sequence[Any]) -> list[int]:
        found = Counter(map(_text, column))
        counts = [found.pop(value, 0) for value in self.values]
        return [*counts, sum(found.values())]

    def _of_numbers(self, column: Sequence[Any]) -> list[int]:
        edges = self.edges
        last = len(edges) - 1
        counts = [0] * (last + 2)
        for value in _numbers(column):
            counts[last if value == edges[last] else bisect_right(edges, value)] += 1
        return counts


def _text(value: Any) -> str:
    if value is None:
        return "(none)"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"


def _numbers(column: Sequence[Any]) -> list[float]:
    return [float(v) for v in column if isinstance(v, int | float) and abs(v) < 1e300]


def bins_of(column: Sequence[Any], at_ms: int) -> Bins:
    """Bins that fit a first sample.

    >>> bins_of(["a", "b", "a"], 0).then
    [0.6667, 0.3333, 0.0]
    >>> bins_of([1, 2, 2, 4], 0).edges
    [0.5, 1.5, 2.5, 3.5, 4.5]
    """
    numbers = [] if any(isinstance(v, bool | str) for v in column) else sorted(_numbers(column))
    if not numbers:
        values = sorted(Counter(map(_text, column)).items(), key=lambda item: (-item[1], item[0]))
        bins = Bins(values=[value for value, _ in values[:VALUES_MAX]], at_ms=at_ms)
    else:
        bins = Bins(edges=_edges(numbers), at_ms=at_ms)
    bins.then = bins.shares(column)
    return bins


def _edges(ordered: Sequence[float]) -> list[float]:
    last = len(ordered) - 1
    low, high = ordered[round(0.01 * last)], ordered[round(0.99 * last)]
    small = max(-low, high) < 1e9
    if small and high - low < WHOLE_MAX and all(value.is_integer() for value in ordered):
        return [low - 0.5 + i for i in range(int(high - low) + 2)]
    width = (high - low) / INNER
    edges = sorted({float(f"{low + width * i:.6g}") for i in range(INNER + 1)})
    if len(edges) > 1:
        return edges
    around = max(0.5, abs(low) * 1e-3)
    return [low - around, low + around]


class Distributions:
    """Of one model shard.

    Args:
        windows: every feature in the order of examples, and the window of history it looks at, ms of event time.
    """

    def __init__(self, windows: Mapping[str, int]) -> None:
        self._windows = dict(list(windows.items())[:FEATURES_MAX])
        self._then: dict[str, Bins] = {}
        self._recent: deque[dict[str, Any]] = deque(maxlen=SAMPLE)
        self._began_ms = -1
        self._count = 0
        self._shown = msgspec.Raw(b"[]")
        self._shown_at = 0

    def add(self, features: dict[str, Any], occurred_at_ms: int) -> None:
        """The features of one example."""
        self._count += 1
        if self._count % EVERY:
            return
        self._recent.append(features)
        if self._began_ms < 0:
            self._began_ms = occurred_at_ms
        if self._count % (EVERY * SAMPLE) == 0 and len(self._then) < len(self._windows):
            age_ms = occurred_at_ms - self._began_ms
            for name, window_ms in self._windows.items():
                if name not in self._then and age_ms >= window_ms:
                    self._then[name] = bins_of([x[name] for x in self._recent], occurred_at_ms)

    def report(self) -> msgspec.Raw:
        """JSON: a list with bins, and what part of the examples lay and lies in each, per feature."""
        if self._count - self._shown_at >= REFRESH and len(self._recent) >= SAMPLE // 8:
            self._shown_at = self._count
            shown = []
            for name, bins in self._then.items():
                now = bins.shares([x[name] for x in self._recent])
                moved = sum(abs(a - b) for a, b in zip(bins.then, now, strict=True)) / 2
                shown.append(
                    {"name": name, **msgspec.to_builtins(bins), "now": now, "distance": min(1.0, round(moved, 4))}
                )
            self._shown = msgspec.Raw(msgspec.json.encode(shown))
        return self._shown

    def to_state(self) -> bytes:
        return msgspec.msgpack.encode((self._began_ms, self._then))

    def restore(self, state: bytes) -> None:
        """Go on from a state; "now" begins anew."""
        began_ms, then = msgspec.msgpack.decode(state, type=tuple[int, dict[str, Bins]])
        self._began_ms = began_ms
        self._then = {name: bins for name, bins in then.items() if name in self._windows}
