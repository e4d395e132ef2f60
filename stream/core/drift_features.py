"""Every feature under watch: its place among its quantiles, and how far that is from the middle."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from stream.core.drift_series import BEFORE_MIN, BLOCK, RECENT_BLOCKS, REFERENCE_BLOCKS, Alarm, Ranks, Series, Shift
from stream.messages import Moved

__all__ = ["Features"]

REFERENCE_WINDOWS = 10  # of a window's feature, where a block is as long as the window
GROUP_BLOCKS = 4  # features are looked at in groups of so many blocks
MOVED_Z_MIN = 4.0  # standard errors from which a feature counts as moved
MOVED_MAX = 10


class Feature:
    """Its place among its quantiles, and how far from the middle."""

    def __init__(self, name: str, delta: float, window_ms: int, *, of_texts: bool) -> None:
        self.name = name
        self._of_texts = of_texts
        self.window_ms = window_ms  # of an entity's history; 0: none
        self._delta = delta
        self.begin()

    def begin(self) -> None:
        reference = REFERENCE_WINDOWS if self.window_ms else REFERENCE_BLOCKS
        self.ranks = Ranks(of_texts=self._of_texts)
        self.place = Series(self._delta, reference=reference)
        self.spread = Series(self._delta, reference=reference)
        # Of a window's feature: a block as long as the window, and where those before began.
        self.starts: deque[int] = deque(maxlen=RECENT_BLOCKS)
        self._open: list[float] | None = None  # first offset, event time it began at, blocks, totals

    def blocks(self, start: int, at_ms: int, places: list[int], spreads: list[int]) -> Series | None:
        """Totals of a group of blocks that begins at an offset; the series that alarms."""
        if self.window_ms:
            if self._open is None:
                self._open = [0, at_ms, 0, 0, 0]
                return None  # it began within the group
            its = self._open
            if not its[2]:
                its[0] = start
            its[2] += len(places)
            its[3] += sum(places)
            its[4] += sum(spreads)
            if at_ms - its[1] < self.window_ms:
                return None
            self._open = [0, at_ms, 0, 0, 0]
            self.starts.append(int(its[0]))
            places, spreads = [its[3] / its[2]], [its[4] / its[2]]  # type: ignore[list-item]
        found = [False, False]
        for place, spread in zip(places, spreads, strict=True):
            found[0] = self.place.add(place) or found[0]
            found[1] = self.spread.add(spread) or found[1]
        return self.place if found[0] else self.spread if found[1] else None

    def shift(self, series: Series, at: int | None = None) -> Shift:
        """What changed at a block."""
        shift = series.shift(at)
        if not self.window_ms:
            return shift
        # Long blocks say nothing of single values, but places are spread evenly: by that they are made.
        sd = (2 if series is self.place else 1) * self.ranks.middle / math.sqrt(12)
        return shift._replace(effect=(shift.after - shift.before) / (BLOCK * sd))


class Features:
    """Every feature, a group of blocks at a time."""

    def __init__(self, windows_ms: dict[str, int], texts: set[str], delta: float) -> None:
        self.names = tuple(windows_ms)
        self._features = [Feature(name, delta, its, of_texts=name in texts) for name, its in windows_ms.items()]
        self._began_ms = -1  # event time
        self._rows: list[dict[str, Any]] = []
        self._offsets: list[int] = []
        self._starts: deque[int] = deque(maxlen=RECENT_BLOCKS)

    def ready(self) -> list[bool]:
        return [series.ready for feature in self._features for series in (feature.place, feature.spread)]

    def block(
        self, start: int, at_ms: int, features: Sequence[dict[str, Any]], segment: str | None, alarms: list[Alarm]
    ) -> None:
        """The features of one block; `at_ms` is event time."""
        self._offsets.append(start)
        self._rows += features
        if len(self._offsets) == GROUP_BLOCKS:
            rows = [list(x.values()) for x in self._rows]
            self._starts.extend(self._offsets)
            self._rows, self._offsets = [], []
            if self._began_ms < 0:
                self._began_ms = at_ms
            self._group(rows, at_ms, segment, alarms)

    def _group(self, rows: list[list[Any]], at_ms: int, segment: str | None, alarms: list[Alarm]) -> None:
        watched, arrays = [], []
        for feature, column in zip(self._features, zip(*rows, strict=True), strict=True):
            if feature.ranks.ready:
                watched.append(feature)
                arrays.append(feature.ranks.places_array(column))
            elif at_ms - self._began_ms >= feature.window_ms:  # before, windows fill up: nothing is usual
                feature.ranks.gather(column)
        if not watched:
            return
        # Whole numbers: sums are exact, whatever the order.
        places = np.array(arrays).reshape(len(watched), GROUP_BLOCKS, BLOCK)
        middles = np.array([feature.ranks.middle for feature in watched]).reshape(-1, 1, 1)
        totals = places.sum(axis=2).tolist()
        spreads = np.abs(places - middles).sum(axis=2).tolist()
        start = self._starts[-GROUP_BLOCKS]
        for feature, its_totals, its_spreads in zip(watched, totals, spreads, strict=True):
            series = feature.blocks(start, at_ms, its_totals, its_spreads)
            if series is not None:
                alarms.append(self._alarm(feature, series, segment))

    def _starts_of(self, feature: Feature, series: Series) -> list[int]:
        """The first offset of each of the series' blocks."""
        return list(feature.starts if feature.window_ms else self._starts)[-len(series.recent) :]

    def _alarm(self, feature: Feature, series: Series, segment: str | None) -> Alarm:
        shift = feature.shift(series)
        scale = BLOCK * 2 * feature.ranks.middle
        return Alarm(
            f"feature:{feature.name}",
            segment,
            "blocked_adwin_on_ranks",
            abs(shift.effect),
            shift.before / scale,
            shift.after / scale,
            self._starts_of(feature, series)[shift.at],
            feature.begin,
        )

    def moved(self, from_offset: int) -> list[Moved]:
        """Which features are not what they were before this offset, the most moved first."""
        found = []
        for feature in self._features:
            moved = self._moved(feature, feature.place, from_offset) or self._moved(
                feature, feature.spread, from_offset
            )
            if moved is not None:
                found.append(moved)
        return sorted(found, key=lambda moved: -abs(moved.shift))[:MOVED_MAX]

    def _moved(self, feature: Feature, series: Series, from_offset: int) -> Moved | None:
        if not series.ready:
            return None
        starts = self._starts_of(feature, series)
        at = sum(1 for start in starts if start < from_offset)
        if not BEFORE_MIN <= at < len(starts):
            return None
        shift = feature.shift(series, at)
        if abs(shift.z) < MOVED_Z_MIN:
            return None
        scale = BLOCK * 2 * feature.ranks.middle
        if feature.ranks.of_texts:
            how = "other_values"
        elif series is feature.spread:
            how = "wider" if shift.z > 0 else "narrower"
        else:
            how = "higher" if shift.z > 0 else "lower"
        return Moved(feature.name, how, shift.effect, shift.before / scale, shift.after / scale)  # type: ignore[arg-type]
