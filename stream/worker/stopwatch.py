"""How long the models of a trial take."""

from __future__ import annotations

from collections import deque
from statistics import median
from time import perf_counter
from typing import Any

from stream.core.explaining import Answer, Scorer
from stream.core.slots import Spent

__all__ = ["Stopwatch"]

KEPT = 101
EVERY = 8  # calls are timed one in so many


class Stopwatch:
    """Times scorers by the base of their model, in one trial."""

    def __init__(self, trial: str = "") -> None:
        self.trial = trial
        self._times: dict[str, deque[float]] = {}  # base -> the last calls timed, microseconds
        self._calls: dict[str, int] = {}

    @property
    def spent(self) -> Spent:
        """What calls took: the median of the last ones, because a machine that pauses is no slow model."""
        times = self._times
        return Spent(
            self.trial, {base: (self._calls[base], self._calls[base] * median(its)) for base, its in times.items()}
        )

    def watch(self, base: str, scorer: Scorer) -> Scorer:
        """The same scorer, with some of its calls timed."""
        calls = 0

        def timed(x: dict[str, Any]) -> Answer:
            nonlocal calls
            calls += 1
            if calls % EVERY:
                return scorer(x)
            started_s = perf_counter()
            answer = scorer(x)
            took_us = (perf_counter() - started_s) * 1e6
            self._times.setdefault(base, deque(maxlen=KEPT)).append(took_us)
            self._calls[base] = self._calls.get(base, 0) + 1
            return answer

        return timed
