"""How long events take, counted in fixed buckets: one count for a whole fetch, so it costs nothing per event."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

__all__ = ["EDGES_S", "Latencies", "percentile_s"]

# Upper edges of the buckets, in seconds; the last bucket has none.
EDGES_S = tuple(
    float(f"{base * 10.0**power:g}") for power in range(-3, 2) for base in (1, 1.5, 2, 3, 5, 7)
)  # 1 ms to 70 s  # fmt: skip
SLOT_S, SLOTS = 10.0, 6  # "recently": the last minute


class Latencies:
    """Counts since the start, and of the last minute."""

    def __init__(self) -> None:
        self.counts = [0] * (len(EDGES_S) + 1)
        self.sum_s = 0.0
        self._slots: deque[tuple[float, list[int]]] = deque(maxlen=SLOTS)

    def note(self, seconds: float, events: int, now_s: float) -> None:
        """So many events took so long."""
        at = bisect_left(EDGES_S, seconds)
        self.counts[at] += events
        self.sum_s += seconds * events
        if not self._slots or now_s - self._slots[-1][0] >= SLOT_S:
            self._slots.append((now_s, [0] * len(self.counts)))
        self._slots[-1][1][at] += events

    def recent(self, now_s: float) -> list[int]:
        """Counts of the last minute, to within ten seconds."""
        counts = [slot for began_s, slot in self._slots if now_s - began_s < SLOT_S * SLOTS]
        return [sum(column) for column in zip(*counts, strict=True)] if counts else []


def percentile_s(counts: Sequence[int], share: float) -> float | None:
    """Interpolated within its bucket; None of nothing. In the last, open bucket: its lower edge.

    >>> percentile_s([0, 100], 0.5)
    0.00125
    >>> percentile_s([], 0.5) is None
    True
    """
    wanted = share * sum(counts)
    if not wanted:
        return None
    before = 0
    for at, count in enumerate(counts):
        if before + count >= wanted:
            low = EDGES_S[at - 1] if at else 0.0
            high = EDGES_S[at] if at < len(EDGES_S) else low
            return low + (high - low) * (wanted - before) / count
        before += count
    return None
