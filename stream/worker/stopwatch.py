"""How long the models of a trial take."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from stream.core.explaining import Answer, Scorer

__all__ = ["Stopwatch"]

EVERY = 8  # calls are timed one in so many


class Stopwatch:
    """Times scorers by the base of their model."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}  # base -> [calls timed, microseconds]

    def reset(self) -> None:
        self.spent = {}

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
            spent = self.spent.setdefault(base, [0, 0.0])
            spent[0] += 1
            spent[1] += (perf_counter() - started_s) * 1e6
            return answer

        return timed
