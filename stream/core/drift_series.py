"""One sequence of block totals under watch, where it changed, and values without bounds as places among quantiles."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from river import drift as river_drift

__all__ = [
    "BEFORE_MIN",
    "BLOCK",
    "RECENT_BLOCKS",
    "REFERENCE_BLOCKS",
    "Alarm",
    "Ranks",
    "Series",
    "Shift",
    "change_point",
]

BLOCK = 32
REFERENCE_BLOCKS = 40
REFERENCE_VALUES = 32 * BLOCK
RECENT_BLOCKS = 96  # some 3,000 examples, among which a change is located
QUANTILES = 32
BEFORE_MIN = 5  # blocks before a change
HUGE = 1e300


class Series:
    """Totals of blocks under watch."""

    def __init__(
        self, delta: float, *, rising: bool = False, binary: bool = False, reference: int = REFERENCE_BLOCKS
    ) -> None:
        self._delta = delta
        self._rising = rising
        self._binary = binary
        self._reference = reference
        self.recent: deque[float] = deque(maxlen=RECENT_BLOCKS)
        self._left = reference
        self._mean = self._m2 = self.sd = 0.0
        self._adwin: Any = None

    @property
    def ready(self) -> bool:
        return self._adwin is not None

    def add(self, total: float) -> bool:
        """One more block; true for an alarm."""
        self.recent.append(total)
        if self._adwin is None:
            self._learn(total)
            return False
        self._adwin.update((total - self._mean) / self.sd)
        return self._adwin.drift_detected and (not self._rising or self._rose())

    def _rose(self) -> bool:
        # ADWIN's estimate does not say: it forgets the oldest first, and in a learning curve those are the highest.
        shift = self.shift()
        if shift.after > shift.before:
            return True
        self._forget(shift.at)  # else a rise that follows would be taken for this fall
        return False

    def _forget(self, before: int) -> None:
        for _ in range(before):
            self.recent.popleft()

    def _learn(self, total: float) -> None:
        self._left -= 1
        n = self._reference - self._left
        delta = total - self._mean
        self._mean += delta / n
        self._m2 += delta * (total - self._mean)
        if self._left:
            return
        sd = math.sqrt(self._m2 / (n - 1))
        if self._binary:  # rare ones: a reference with one of them, or none, says little about the spread
            values = n * BLOCK
            share = (self._mean * n + 1.0) / (values + 2.0)
            sd = max(sd, math.sqrt(BLOCK * share * (1.0 - share)))
        self.sd = sd or 1.0
        self._adwin = river_drift.ADWIN(delta=self._delta, clock=1)

    def restart(self, after: int) -> None:
        """After an alarm: what is usual is learned anew; of the past, only the blocks after the change are kept."""
        self._forget(after)
        kept = self.recent
        self.__init__(  # type: ignore[misc]
            self._delta, rising=self._rising, binary=self._binary, reference=self._reference
        )
        self.recent = kept

    def shift(self, at: int | None = None) -> Shift:
        """What changed at a block; without one, at the likeliest."""
        recent = list(self.recent)
        if at is None:
            at = change_point(recent)
        sides = recent[:at], recent[at:]
        before, after = (math.fsum(side) / len(side) for side in sides)
        squares = math.fsum((v - mean) ** 2 for side, mean in zip(sides, (before, after), strict=True) for v in side)
        sd = math.sqrt(squares / max(1, len(recent) - 2)) or self.sd or 1.0
        z = (after - before) / (sd * math.sqrt(1 / len(sides[0]) + 1 / len(sides[1])))
        return Shift(at, before, after, (after - before) / (sd * math.sqrt(BLOCK)), z)


class Shift(NamedTuple):
    at: int  # the first block after the change
    before: float  # mean totals of blocks
    after: float
    effect: float  # in standard deviations of single values (Cohen's d, if they are independent)
    z: float  # in standard errors


def change_point(values: Sequence[float]) -> int:
    """Where the mean shifted: the maximum-likelihood split for one change and equal variances (Hinkley 1970,
    "Inference about the change-point in a sequence of random variables", Biometrika 57:1).

    >>> change_point([0.1, 0.0, 0.2, 0.1, 0.1, 0.0, 0.9, 1.0, 0.8])
    6
    """
    n, total = len(values), math.fsum(values)
    first = min(BEFORE_MIN, n - 1)
    left, best, at = math.fsum(values[:first]), -1.0, first
    for k in range(first, n):
        gain = (left - total * k / n) ** 2 * n / (k * (n - k))
        if gain > best:
            best, at = gain, k
        left += values[k]
    return at


class Alarm(NamedTuple):
    signal: str
    segment: str | None
    detector: str
    severity: float
    before: float
    after: float
    from_offset: int
    restart: Callable[[], None]


class Ranks:
    """Replaces values by their places: 0 (below all quantiles) to 2k (above), odd ones on a quantile itself."""

    def __init__(self, *, of_texts: bool) -> None:
        self.of_texts = of_texts
        self._reference: list[Any] = []
        self._cuts: list[float] = []
        self._cuts_array: Any = None
        self._place_of: dict[Any, int] = {}
        self.middle = 0

    @property
    def ready(self) -> bool:
        return self.middle > 0

    def gather(self, column: Sequence[Any]) -> None:
        """Values of the reference; there are enough of them after a whole number of blocks."""
        self._reference += column if self.of_texts else [v for v in map(number_of, column) if v == v]
        if len(self._reference) < REFERENCE_VALUES:
            return
        if self.of_texts:
            # Ordered by how often they come: a shift between two texts moves the mean place.
            common = sorted(Counter(self._reference).items(), key=lambda item: (-item[1], str(item[0])))[
                : QUANTILES - 1
            ]
            self._place_of = {text: 2 * i + 1 for i, (text, _) in enumerate(common)}
            self.middle = len(common) + 1
        else:
            ordered = sorted(self._reference)
            last = len(ordered) - 1
            edges = sorted({ordered[round(i * last / (QUANTILES - 1))] for i in range(QUANTILES)})
            self._cuts = [cut for edge in edges for cut in (edge, math.nextafter(edge, math.inf))]
            self._cuts_array = np.array(self._cuts)
            self.middle = len(edges)
        self._reference = []

    def places(self, column: Sequence[Any]) -> list[int]:
        if self.of_texts:
            other = 2 * self.middle
            place_of = self._place_of
            return [place_of.get(value, other) for value in column]
        cuts = self._cuts
        return [bisect_right(cuts, value) for value in column]

    def places_array(self, column: Sequence[Any]) -> np.ndarray[Any, Any]:
        if self.of_texts:
            return np.array(self.places(column))
        try:
            values = np.array(column, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):  # an example that no scorer of ours wrote
            values = np.array([number_of(value) for value in column])
        places: np.ndarray[Any, Any] = self._cuts_array.searchsorted(values, side="right")
        return places


def number_of(value: Any) -> float:
    return float(min(max(value, -HUGE), HUGE)) if isinstance(value, int | float) else math.nan
