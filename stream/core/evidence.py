"""Which of two models is better, asked after every block of labels and never too often.

An e-process: a gambler bets on "the second model is better" against a fair game, block by block. If the second model is no
better, its wealth reaches 1/alpha with probability alpha at most, at whatever moment one looks (Ville's inequality; Waudby-Smith
and Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS B 86). It bets on means of 160 differences,
not on single ones: errors of a stream come in bursts, and a test on single events then promotes one in three models that are
no better (with bursts of 100 events one in six on blocks of 64, one in seventeen on blocks of 128, scatter measured as it was then:
decision 12).

A difference is between two proper scores of predictions that were really made for the same event, in [-1, 1]:

- classes: half the Brier score (Brier 1950), weighted by the class: a rare class counts as much as a frequent one, up to
  tenfold. Without probabilities: right or wrong.
- numbers: absolute errors, in units of four times the first model's mean absolute error so far.

Units, weights and scales are taken from what came before the event, as a bet must be.
"""

from __future__ import annotations

import math

import msgspec

from stream.core.intervals import BETS, Interval, gamble, wealth
from stream.messages import LabelValue, Served

__all__ = ["BLOCK", "UNITS", "Evidence", "Losses"]

BLOCK = 160
CLIP_AT = 3.0  # standard deviations of a block's mean
BLOCKS_FIRST = 3  # only show how far block means scatter; nobody bets on them
WEIGHT_MAX = 10.0
UNITS = {
    "classes": WEIGHT_MAX,
    "regression": 4.0,
}  # a difference of 1, as a loss and in mean absolute errors of the first


class Evidence(msgspec.Struct, array_like=True):
    """That the second model is better, and that it is worse.

    >>> evidence = Evidence()
    >>> for _ in range(12 * BLOCK):
    ...     full = evidence.add(0.04)
    >>> evidence.better > 20 > 0.5 > evidence.worse
    True
    """

    blocks: int = 0  # nobody reads it any more; stored evidence is an array, in which it has its place
    # Last mean, sum of squared differences between neighbours, how many; of two numbers: an earlier version's, of no use.
    scatter: tuple[float, ...] = ()
    sum_now: float = 0.0
    count_now: int = 0
    total: float = 0.0
    log_better: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(BETS))
    log_worse: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(BETS))
    interval: Interval | None = None  # where it is wanted, how large the difference is

    def add(self, gain: float) -> bool:
        """Take one difference, first loss minus second, in [-1, 1]; true when a block is full."""
        self.sum_now += gain
        self.total += gain
        self.count_now += 1
        if self.count_now < BLOCK:
            return False
        mean = self.sum_now / BLOCK
        before, squares, known = self.scatter if len(self.scatter) == 3 else (mean, 0.0, -1.0)
        if known >= BLOCKS_FIRST - 1:
            if self.interval is not None:
                self.interval.add(mean, self._cut())
            gamble(self.log_better, self.log_worse, self._stake(mean))
        self.scatter = (mean, squares + (mean - before) ** 2, known + 1.0)
        self.sum_now, self.count_now = 0.0, 0
        return True

    def _stake(self, mean: float) -> float:
        """A block's mean in units of how the blocks before it scattered, -1 to 1."""
        scale = self._cut()
        if abs(mean) >= scale:
            return math.copysign(1.0, mean) if mean else 0.0
        return mean / scale

    def _cut(self) -> float:
        """From differences of neighbours: after a drift one model may be far better at first, and less so when the other has
        caught up; that slope is no scatter (von Neumann 1941, "Distribution of the ratio of the mean square successive
        difference to the variance", Annals of Mathematical Statistics 12).
        """
        _, squares, known = self.scatter
        return CLIP_AT * math.sqrt(squares / known / 2.0)

    def again(self) -> Evidence:
        """Nothing is known of who is better, but how far block means scatter is."""
        return Evidence(scatter=self.scatter, interval=Interval())

    @property
    def better(self) -> float:
        """Wealth of those who bet on the second model; 1 at the start."""
        return wealth(self.log_better)

    @property
    def worse(self) -> float:
        """Wealth of those who bet against it."""
        return wealth(self.log_worse)


class Losses(msgspec.Struct, array_like=True):
    """Turns two served predictions and a label into a difference of losses; keeps what weights and scales come from."""

    task: str
    labels: dict[str, int] = {}
    count: int = 0
    absolute: float = 0.0  # sum of the first model's absolute errors
    first_right: float = (
        0.0  # right answers, or absolute errors, of all that were compared, as the label stands for them
    )
    second_right: float = 0.0
    stands_for: float = 0.0  # sum of the labels' shares
    by_class: dict[str, float] = {}  # the same, of each class

    def gain(self, label: LabelValue, first: Served, second: Served, share: float = 1.0) -> float | None:
        """First loss minus second, in [-1, 1]; None where one of them has no answer.

        Args:
            share: 0 to 1, what the label counts; see `Trial` for labels that were asked for.
        """
        if first.prediction is None or second.prediction is None:
            return None
        if self.task == "regression":
            gain = self._numbers(float(label), float(first.prediction), float(second.prediction), share)
            return None if gain is None else share * gain
        name = str(label).lower() if isinstance(label, bool) else str(label)
        weight = self._weight(name)
        self.labels[name] = self.labels.get(name, 0) + 1
        self.by_class[name] = self.by_class.get(name, 0.0) + share
        self.count += 1
        self.stands_for += share
        self.first_right += share * (first.prediction == label)
        self.second_right += share * (second.prediction == label)
        return share * weight * (_loss(name, label, first) - _loss(name, label, second)) / WEIGHT_MAX

    def _weight(self, name: str) -> float:
        classes = max(2, len(self.labels))
        return min(WEIGHT_MAX, (self.count + classes) / (classes * (self.labels.get(name, 0) + 1)))

    def _numbers(self, label: float, first: float, second: float, share: float) -> float | None:
        first_error, second_error = min(abs(first - label), 1e150), min(abs(second - label), 1e150)
        scale = 4.0 * self.absolute / self.count if self.count else 0.0
        self.count += 1
        self.absolute += first_error
        self.stands_for += share
        self.first_right += share * first_error
        self.second_right += share * second_error
        if not scale:
            return None
        return min(max((first_error - second_error) / scale, -1.0), 1.0)

    def figures(self) -> tuple[float, float]:
        """Accuracy (of numbers: mean absolute error) of both, over what was compared."""
        whole = self.stands_for or 1.0
        return self.first_right / whole, self.second_right / whole


def _loss(name: str, label: LabelValue, served: Served) -> float:
    """Half the Brier score, 0 to 1."""
    probabilities = served.probabilities
    if not probabilities:
        return float(served.prediction != label)
    loss = 0.0 if name in probabilities else 1.0
    for known, probability in probabilities.items():
        miss = probability - (known == name)
        loss += miss * miss
    return min(loss / 2.0, 1.0)
