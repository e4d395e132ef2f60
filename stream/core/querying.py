"""Which events people are asked to label: pure, deterministic, within a budget that is never exceeded.

A random share is always kept: of every `m` events in a row exactly one, at a place that a hash of (seed, partition, block)
picks. The rest goes where a strategy sees most to learn:

| strategy   | asks                                                                                                    |
|------------|---------------------------------------------------------------------------------------------------------|
| `balanced` | the events of a sliding window that are most likely predicted wrong, the threshold moved so that the    |
|            | budget is spent evenly: the balanced incremental quantile filter (Kottke, Krempl and Spiliopoulou 2015, |
|            | "Probabilistic active learning in datastreams", IDA)                                                    |
| `variable` | events below a threshold of confidence that falls with each request and rises without, randomised       |
|            | (Zliobaite et al. 2014, "Active learning with drifting streaming data", IEEE TNNLS)                     |
| `split`    | the same, not randomised, beside the random share (their "split")                                       |
| `random`   | at random alone                                                                                         |

How likely an answer is wrong is not left to the model alone: a model that the world has left behind is certain and wrong, and
would never ask where it errs. What recent labels said of answers as uncertain as this one counts, too.

**The budget.** A partition earns a request's part with each of its own events and may spend only what it has earned. So at
any moment a partition has asked at most `per_1000` / 1,000 of the events it has seen, and so have all of them together,
without a word between them. `per_day` is divided among the partitions; a day is one of event time, and an event that comes
after its day is over is not asked. Drift raises the share, from what was saved for it, never beyond what was earned.

**Propensities.** Each event's chance to be asked follows from the events before it: 1 if the strategy wants it, 1/m if only
the random share may pick it. In the first m events, whose random request is yet to be earned, it is the strategy's chance
alone, and 0 where it does not want them. While a day's part of `per_day` is used up, and for events that come after their
day, it is 0 for all, whatever they are. Weights 1 / propensity make figures of asked events unbiased for all that could be
asked (Horvitz and Thompson 1952, "A generalization of sampling without replacement from a finite universe", JASA).
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable
from statistics import NormalDist
from typing import Any, NamedTuple

from stream.core.remembering import QueryState
from stream.core.scores import BINS, bin_of
from stream.core.segments import told_apart
from stream.lifecycle import Labelling

__all__ = ["Asked", "Querying", "budget_of", "disagreement_of", "uniform_every"]

DAY_MS = 86_400_000
WHOLE = 1_000_000  # what one request costs; credit is counted in whole millionths, so nothing is rounded
WINDOW = 128  # utilities among which an event must stand out
TOLERANCE = 20.0  # requests overdue at which any event would be asked
SAVED = 0.05  # of the budget is put aside until what is saved for a drift is there
STEP = 0.01  # of the variable threshold
SLOTS = 17  # of uncertainty, for counting errors
PER_SLOT = 12  # bins of core/scores.py
PRIOR_LABELS = 2.0  # so many labels the model's own uncertainty is worth
KEPT = 0.9  # of what earlier labels of a slot say, with each further one
FORGET_AT = 10_000  # events of a segment's value, after which its counts are halved

_NORMAL = NormalDist(1.0, 1.0)
_MASK = (1 << 64) - 1


class Asked(NamedTuple):
    """Why an event is asked, and how likely that was before its place in the random share was known."""

    strategy: str  # the strategy, or "uniform", "warm_up", "segment", "disagreement"
    reason: str
    propensity: float
    uniform: bool  # the random share picked it


def _uniform_share(labelling: Labelling) -> float:
    return 1.0 if labelling.strategy == "random" else labelling.uniform_share


def uniform_every(labelling: Labelling) -> int:
    """Of so many events in a row the random share asks about one: the least propensity is 1 / this.

    >>> uniform_every(Labelling(per_1000=10, uniform_share=0.5))
    200
    """
    return max(1, math.ceil(round(1_000.0 / (labelling.per_1000 * _uniform_share(labelling)), 9)))


class Querying:
    """The decisions of one partition. Cost: some microseconds per event.

    Args:
        seed: of the pipeline.
        partitions: of the pipeline's events: they share `per_day` and the warm-up.
        segments: declared features whose values are given a floor.
    """

    def __init__(
        self,
        labelling: Labelling,
        *,
        seed: int,
        partition: int,
        partitions: int,
        segments: Iterable[str] = (),
        segment_values_max: int = 10,
        state: QueryState | None = None,
    ) -> None:
        self.state = state = QueryState() if state is None else state
        self._strategy = labelling.strategy
        share = labelling.per_1000 / 1_000
        uniform_share = _uniform_share(labelling)
        self._every = uniform_every(labelling)
        self._uniform_propensity = 1.0 / self._every
        self._earns = max(0, int(round(labelling.per_1000 * 1_000, 6)) - -(-WHOLE // self._every))
        self._share = self._earns / WHOLE
        self._full = max(2 * WHOLE, 2 * labelling.drift_reserve * self._earns)
        self._boost = labelling.drift_boost
        self._warm_up = -(-labelling.warm_up // partitions)
        self._floor = labelling.segment_floor * share
        self._per_day = self._per_day_strategy = 1 << 62
        if labelling.per_day is not None:
            self._per_day = labelling.per_day // partitions + (partition < labelling.per_day % partitions)
            self._per_day_strategy = int(self._per_day * (1.0 - uniform_share))
        self._segments = tuple(segments) if labelling.segment_floor else ()
        self._values_max = segment_values_max
        self._seed = _mix(seed * 1_000_003 + partition)
        if not state.errors:
            state.errors = [[0.0, 0.0] for _ in range(SLOTS)]
        self._errors = state.errors
        self._ring = bytearray(state.window)
        self._sorted = sorted(self._ring)
        self._block, self._place = -1, 0

    def sync(self) -> QueryState:
        """The state, complete, as it is written with a commit."""
        self.state.window = bytes(self._ring)
        return self.state

    def decide(
        self,
        offset: int,
        occurred_at_ms: int,
        watermark_ms: int,
        utility: float,
        disagreement: float,
        drifting: bool,
        features: dict[str, Any],
    ) -> Asked | None:
        """One event, in the order of its partition.

        Args:
            utility: how much its label would teach, 0 to 1.
            disagreement: of the models that are scored side by side, 0 to 1.
        """
        state = self.state
        number = state.events
        state.events = number + 1
        day = watermark_ms // DAY_MS
        if day != state.day:
            state.day, state.today, state.today_strategy = day, 0, 0
        block = number // self._every
        if block != self._block:
            self._block = block
            self._place = block * self._every + _mix(self._seed ^ block) % self._every
        uniform = number == self._place and block > 0  # the first block earns the second one's request
        credit = state.credit + self._earns
        state.credit = credit if credit < self._full else self._full
        # The threshold and the window go on with every event; whether there is budget is asked last.
        wanted, chance = self._wanted(offset, number, utility, disagreement, drifting)
        if self._segments and self._owed(features):
            wanted, chance = "segment", 1.0
        if not uniform and wanted is None:
            return None
        if state.today >= self._per_day or occurred_at_ms // DAY_MS != day:
            return None
        if credit < WHOLE or state.today_strategy >= self._per_day_strategy:
            wanted, chance = None, 0.0
        if wanted is None and not uniform:
            return None
        at_random = self._uniform_propensity if block > 0 else 0.0
        return self._ask(wanted, at_random + (1.0 - at_random) * chance, uniform, utility, disagreement, features)

    def _ask(
        self, wanted: str | None, propensity: float, uniform: bool, utility: float, disagreement: float,
        features: dict[str, Any],
    ) -> Asked:  # fmt: skip
        state = self.state
        state.asked += 1
        state.today += 1
        if wanted is not None:
            state.credit -= WHOLE
            state.strategy_asked += 1
            state.today_strategy += 1
            state.due -= 1.0
            if wanted in ("variable", "split"):
                state.threshold *= 1.0 - STEP
        for counted in self._counts(features):
            counted[1] += 1
        return Asked(wanted or "uniform", _words(wanted, utility, disagreement), min(1.0, propensity), uniform)

    # -- strategies --------------------------------------------------------------------------------------------------

    def _wanted(
        self, offset: int, number: int, utility: float, disagreement: float, drifting: bool
    ) -> tuple[str | None, float]:
        """The reason for which the strategy wants this event, and how likely that was."""
        state = self.state
        strategy = self._strategy
        if strategy == "random" or not self._earns:
            return None, 0.0
        share = self._share
        if drifting and state.credit > WHOLE:
            share = min(1.0, share * self._boost)
        else:
            share *= 1.0 - SAVED + 2.0 * SAVED * state.credit / self._full
        due = state.due + share
        state.due = due = min(due, TOLERANCE)
        if strategy == "balanced":
            chosen = self._stands_out(number, utility + disagreement * (1.0 - utility), share, due)
            chance = 1.0 if chosen else 0.0
        else:
            chosen, chance = self._below(offset, utility + disagreement * (1.0 - utility))
        if state.strategy_asked < self._warm_up:
            chance = min(1.0, share * (1.0 + max(0.0, due)))  # what was missed is made up for
            chosen = _unit(self._seed ^ offset) < chance
            return ("warm_up" if chosen else None), chance
        if not chosen:
            return None, chance
        return ("disagreement" if disagreement > utility else strategy), chance

    def _stands_out(self, number: int, utility: float, share: float, due: float) -> bool:
        """The balanced quantile filter over bins that are equally wide in log odds, so that rare classes are told apart."""
        at = bin_of(utility)
        ring, window = self._ring, self._sorted
        if len(ring) < WINDOW:
            ring.append(at)
        else:
            place = number % WINDOW
            del window[bisect_left(window, ring[place])]
            ring[place] = at
        insort(window, at)
        last = len(window) - 1
        quantile = window[min(last, int((1.0 - share) * (last + 1)))]
        spread = window[-1] - window[0]
        return at >= quantile - spread * due / TOLERANCE

    def _below(self, offset: int, utility: float) -> tuple[bool, float]:
        """The variable threshold; it rises while nothing is asked."""
        state = self.state
        confidence = 1.0 - utility
        threshold = state.threshold
        if self._strategy == "split":
            chosen, chance = confidence <= threshold, 1.0 if confidence <= threshold else 0.0
        else:
            chance = 1.0 - _NORMAL.cdf(confidence / threshold)
            chosen = _unit(self._seed ^ offset) < chance
        if not chosen and state.credit >= WHOLE:
            state.threshold = min(threshold * (1.0 + STEP), 1.0)
        return chosen, chance

    # -- segments ----------------------------------------------------------------------------------------------------

    def _counts(self, features: dict[str, Any]) -> list[list[int]]:
        """Of each segment's value: events, and how many of them were asked or labelled."""
        found = []
        for segment in self._segments:
            value = features[segment]
            name = ("true" if value else "false") if isinstance(value, bool) else str(value)
            counts = self.state.segments.setdefault(segment, {})
            name = told_apart(name, counts, self._values_max)
            if name not in counts:
                counts[name] = [0, 0]
            found.append(counts[name])
        return found

    def _owed(self, features: dict[str, Any]) -> bool:
        """Whether a value's events have had fewer labels than its floor promises."""
        owed = False
        for counted in self._counts(features):
            counted[0] += 1
            if counted[0] >= FORGET_AT:
                counted[0] //= 2
                counted[1] //= 2
            owed = owed or counted[0] * self._floor >= counted[1] + 1
        return owed

    # -- what labels say ---------------------------------------------------------------------------------------------

    def utility(self, uncertainty: float, classes: int) -> float:
        """How likely an answer is wrong, 0 to 1.

        Args:
            uncertainty: 0 to 1, least confidence scaled over `classes` (1 for one class: such a model knows nothing, and
                were it taken for certain, it would never ask and never learn a second class).
        """
        labels, wrong = self._errors[bin_of(uncertainty) // PER_SLOT]
        share = (classes - 1) / classes if classes > 1 else 1.0
        return (PRIOR_LABELS * uncertainty * share + wrong) / (PRIOR_LABELS + labels)

    def answered(self, uncertainty: float, *, right: bool) -> None:
        """A label came of an event that was answered with this uncertainty."""
        counted = self._errors[bin_of(uncertainty) // PER_SLOT]
        counted[0] = counted[0] * KEPT + 1.0
        counted[1] = counted[1] * KEPT + (not right)

    def unasked(self, features: dict[str, Any]) -> None:
        """A label came for an event that nobody was asked about: its segments need so much less."""
        for counted in self._counts(features):
            counted[1] += 1


def budget_of(labelling: Labelling, state: QueryState) -> tuple[float, int]:
    """Of one partition: requests that `per_1000` allows for the events so far, and those that were spent."""
    return state.events * labelling.per_1000 / 1_000, state.asked


def disagreement_of(
    mine: tuple[Any, dict[str, float] | None], its: tuple[Any, dict[str, float] | None], half_width: float | None
) -> float:
    """Of two answers (prediction, probabilities), 0 to 1: total variation distance of the probabilities; of numbers their
    distance in half-widths of the 90 % interval; 1 for different answers without probabilities.
    """
    if mine[1] and its[1]:
        names = mine[1].keys() | its[1].keys()
        return min(1.0, sum(abs(mine[1].get(name, 0.0) - its[1].get(name, 0.0)) for name in sorted(names)) / 2.0)
    if mine[0] is None or its[0] is None:
        return 0.0
    if isinstance(mine[0], float) and half_width:
        return min(1.0, abs(mine[0] - float(its[0])) / half_width)
    return float(mine[0] != its[0])


def _words(wanted: str | None, utility: float, disagreement: float) -> str:
    if wanted is None:
        return "picked at random: figures stay unbiased"
    if wanted == "warm_up":
        return "the first requests are picked at random"
    if wanted == "segment":
        return "its segment has had few labels"
    if wanted == "disagreement":
        return f"two models disagree: {disagreement:.2f}"
    return f"among those most likely wrong: {utility:.2f}"


def _mix(value: int) -> int:
    """SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _unit(value: int) -> float:
    """0 to 1, 1 excluded."""
    return (_mix(value) >> 11) * (1.0 / 9_007_199_254_740_992.0)


assert BINS <= 256  # a bin is a byte of the window
