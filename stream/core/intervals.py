"""By how much one of two models is better: a confidence sequence, which may be looked at at any time, as the evidence may.

It is the test of `evidence.py`, turned round (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by
betting", JRSS B 86): what the gamblers bet against "the mean difference is 0" is bet against every mean m of a grid, on blocks
from which m is taken. A mean is out while the wealth of those who say "it is more" (or "it is less") is 1/alpha or more. So each
bound is wrong, at any time at all, with probability alpha at most; and as 0 is on the grid, the lower bound leaves it when the
evidence suffices, and not before.

What it is of: the mean of blocks, each cut at three times the scatter of the blocks before it, on either side of that mean, as the
test is; and taken as the same in every block. If it changes, the bounds are about its average so far, and promise less. While
all blocks were equal there is no unit, and no bound; the test bets all the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

__all__ = ["BETS", "Interval", "gamble", "wealth"]

BETS = (0.05, 0.1, 0.2, 0.4, 0.8)  # shares of the wealth, each gambled by its own gambler
POINTS = [
    2.0 ** (k / 4) for k in range(-24, 17)
]  # in units of the first block's c: a bound is at most a fifth too wide
GRID = [-point for point in reversed(POINTS)] + [0.0] + POINTS
LOG_WEALTH_MAX = 600.0  # beyond that exp overflows, and nobody needs it


class Interval(msgspec.Struct, array_like=True):
    """Wealth of those who say that the mean is more, and less, than each of the grid.

    >>> interval = Interval()
    >>> for block in range(40):
    ...     interval.add(0.02 + 0.01 * (-1) ** block, 0.03)
    >>> low, high = interval.bounds(20.0)
    >>> 0.0 < low < 0.02 < high < 0.04
    True
    """

    unit: float = 0.0  # the first c; 0 before the first bet
    log_more: list[list[float]] = []  # by mean of the grid, by bet
    log_less: list[list[float]] = []

    def add(self, mean: float, cut: float) -> None:
        """A block's mean, and how far from m it is cut. The grid's unit is that of the first block, known before it came."""
        if cut <= 0.0:
            return  # blocks so far were all equal: nothing says how far a mean may be
        if not self.unit:
            self.unit = cut
            self.log_more = [[0.0] * len(BETS) for _ in GRID]
            self.log_less = [[0.0] * len(BETS) for _ in GRID]
        for point, more, less in zip(GRID, self.log_more, self.log_less, strict=True):
            stake = min(max((mean - point * self.unit) / cut, -1.0), 1.0)
            gamble(more, less, stake)

    def bounds(self, needed: float) -> tuple[float | None, float | None]:
        """The least and the largest mean that is left, to the grid; None where there is no bound yet.

        Never is a mean out on both sides: whoever wins by "more" has seen stakes whose sum is positive, by "less" negative.

        Args:
            needed: 1/alpha, the wealth at which a mean is out.
        """
        low = [point for point, logs in zip(GRID, self.log_more, strict=False) if wealth(logs) >= needed]
        high = [point for point, logs in zip(GRID, self.log_less, strict=False) if wealth(logs) >= needed]
        return (low[-1] * self.unit if low else None), (high[0] * self.unit if high else None)


def gamble(more: list[float], less: list[float], stake: float) -> None:
    """One round: log wealth of those who bet on a positive stake, and on a negative one, by bet; -1 <= stake <= 1."""
    for i, bet in enumerate(BETS):
        more[i] = min(more[i] + math.log1p(bet * stake), LOG_WEALTH_MAX)
        less[i] = min(less[i] + math.log1p(-bet * stake), LOG_WEALTH_MAX)


def wealth(logs: Sequence[float]) -> float:
    """Of all gamblers together, who began with 1."""
    return sum(map(math.exp, logs)) / len(logs)
