"""Delayed progressive validation: how good the predictions were that were really served.

Each example is judged by what was served when its event came (Gomes et al. 2017, "Adaptive random forests", call it
delayed prequential evaluation), beside two baselines under the same delay, because without them a number means nothing:
persistence repeats the last label that was known at serving time; prior is the majority class or the mean known then.

Everything is kept twice: over all labels and over a sliding window, as whole counts and as sums that are exact
(`math.fsum` over the window's own values), so rounding cannot build up. Undefined figures are None.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from stream.core.scores import ANOMALY_BINS, BINS, ScoreHistogram, anomaly_bin_of, bin_of
from stream.core.sheets import (
    NAMES,
    Counts,
    Pairs,
    agreement,
    count_pairs,
    name_of,
    nested,
    number_sheet,
    per_class,
    skills_of,
    total_of,
    two_class,
    window_sums,
)
from stream.lifecycle import METRICS
from stream.messages import LabelValue, Served

__all__ = ["KEY_FIGURE", "SYSTEMS", "Evaluation", "loss_of"]

BLOCK = 64  # labels that are judged together
_log = math.log
HUGE = 1e150  # the square of a larger one would not be finite
PROBABILITY_MIN = 1e-6  # log loss of a probability of 0 is that of this
SYSTEMS = ("model", "persistence", "prior")
# The one figure that shows best how good a model is.
KEY_FIGURE = {task: names[0] for task, names in METRICS.items()}


class _State(msgspec.Struct, array_like=True):
    """What `to_state` writes."""

    task: str
    window_size: int
    counts: list[list[tuple[str, str, int]]]  # per system
    sums: dict[str, list[float]]  # system -> [count, loss, squared loss or Brier, error], overall
    target: list[float]  # count, mean, m2 of the labels (regression)
    window: list[Any]
    histogram: list[list[int]]


class Evaluation:
    """The figures of one slot.

    Args:
        task: binary, multiclass, regression or anomaly.
        window: labels in the sliding window.
        alert_share: the share of events for which `recall_at_alert_share` is given.

    >>> evaluation = Evaluation("binary", window=100)
    >>> evaluation.update(True, Served("m@0", True, {"false": 0.2, "true": 0.8}))
    >>> evaluation.report()["overall"]["model"]["accuracy"]
    1.0
    """

    def __init__(self, task: str, window: int = 1_000, alert_share: float = 0.01) -> None:
        self._task = task
        self._alert_share = alert_share
        self._window_size = window
        self._counts: tuple[Counts, Counts, Counts] = ({}, {}, {})  # per system
        self._sums: dict[str, list[float]] = {system: [0.0, 0.0, 0.0, 0.0] for system in SYSTEMS}
        self._target = [0.0, 0.0, 0.0]
        self._columns: list[deque[Any]] = [deque(maxlen=window) for _ in range(4 if task == "regression" else 9)]
        self._bins = ANOMALY_BINS if task == "anomaly" else BINS
        self._histogram = ScoreHistogram(self._bins)
        self._waiting: list[tuple[LabelValue, Served]] = []

    def update(self, label: LabelValue, served: Served) -> None:
        """Take one served prediction. Judged are whole blocks, in half the time, and what waits when somebody asks."""
        waiting = self._waiting
        waiting.append((label, served))
        if len(waiting) >= BLOCK:
            self._judge()

    def _judge(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        if self._task == "regression":
            rows = [self._judge_number(float(label), served) for label, served in waiting]
            columns: Any = zip(*rows, strict=True)
        else:
            labels, served = zip(*waiting, strict=True)
            columns = self._judge_classes([name_of(label) or "" for label in labels], served)
        for kept, column in zip(self._columns, columns, strict=True):
            kept.extend(column)

    # -- classes -----------------------------------------------------------------------------------------------------

    def _judge_classes(self, labels: list[str], served: Sequence[Served]) -> list[Sequence[Any]]:
        """The window's columns: label, three predictions, loss and Brier of model and prior, bin of the score."""
        predictions = [
            [None if (value := one.prediction) is None else NAMES.get(value) or str(value) for one in served],
            [None if (value := one.persistence) is None else NAMES.get(value) or str(value) for one in served],
            [None if (value := one.prior) is None else NAMES.get(value) or str(value) for one in served],
        ]
        count_pairs(self._counts, labels, *predictions)
        probabilities = [one.probabilities for one in served]
        losses = _losses_of(labels, probabilities, self._sums["model"])
        prior_losses = _losses_of(labels, [one.prior_probabilities for one in served], self._sums["prior"])
        places: list[int | None] = [None] * len(labels)
        if self._task == "binary":
            places = [None if its is None else bin_of(its.get("true", 0.0)) for its in probabilities]
        elif self._task == "anomaly":
            places = [None if one.score is None else anomaly_bin_of(one.score) for one in served]
        elif self._task == "multiclass":
            places = [
                None if its is None or name is None else bin_of(its.get(name, 0.0))
                for its, name in zip(probabilities, predictions[0], strict=True)
            ]
        self._histogram.count(self._came_true(labels, predictions[0]), places)
        return [labels, *predictions, *losses, *prior_losses, places]

    def _came_true(self, labels: Sequence[str], predictions: Sequence[str | None]) -> Sequence[str]:
        """What the scores in the histogram are the probability of: "true", or that the predicted class is right."""
        if self._task != "multiclass":
            return labels
        return ["true" if label == said else "false" for label, said in zip(labels, predictions, strict=True)]

    # -- numbers -----------------------------------------------------------------------------------------------------

    def _judge_number(self, label: float, served: Served) -> tuple[float | None, ...]:
        """A row of the window: label, errors of the three systems or None."""
        label = min(max(label, -HUGE), HUGE)
        target = self._target
        target[0] += 1
        delta = label - target[1]
        target[1] += delta / target[0]
        target[2] += delta * (label - target[1])
        errors: list[float | None] = []
        for system, prediction in zip(SYSTEMS, (served.prediction, served.persistence, served.prior), strict=True):
            if prediction is None:
                errors.append(None)
                continue
            error = min(max(float(prediction) - label, -HUGE), HUGE)
            errors.append(error)
            sums = self._sums[system]
            sums[0] += 1
            sums[1] += abs(error)
            sums[2] += error * error
            sums[3] += error
        return (label, *errors)

    def interval_half_width(self) -> float | None:
        """Half the width of an interval around a regression's prediction that held 90 % of the window's labels."""
        self._judge()
        errors = sorted([abs(error) for error in self._columns[1] if error is not None])
        if len(errors) < 20:
            return None
        return float(errors[min(len(errors) - 1, math.ceil(0.9 * (len(errors) + 1)) - 1)])

    # -- the report --------------------------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """JSON: `overall` and `window`, each with a figure sheet per system and the skill against both baselines."""
        self._judge()
        if self._task == "regression":
            labels = int(self._target[0])
            variance = self._target[2] / labels if labels else 0.0
            overall = {system: number_sheet(self._sums[system], variance) for system in SYSTEMS}
        else:
            pairs = [nested(counts) for counts in self._counts]
            labels = total_of(pairs[0])
            overall = {s: self._class_sheet(pairs[i], self._sums[s]) for i, s in enumerate(SYSTEMS)}
            overall["model"] |= self._ranking(self._histogram)
        return {
            "task": self._task,
            "overall": {"labels": labels, **overall, **self._skills(overall)},
            "window": self.recent(),
        }

    def recent(self) -> dict[str, Any]:
        """The part `window` of the report."""
        self._judge()
        columns = self._columns
        if self._task == "regression":
            recent = {
                system: number_sheet(*window_sums(columns[0], errors))
                for system, errors in zip(SYSTEMS, columns[1:], strict=True)
            }
        else:
            counted: tuple[Counts, ...] = ({}, {}, {})
            count_pairs(counted, *columns[:4])
            pairs = [nested(counts) for counts in counted]
            sums = {"model": _recent_sums(*columns[4:6]), "prior": _recent_sums(*columns[6:8])}
            nothing = [0.0, 0.0, 0.0, 0.0]
            recent = {s: self._class_sheet(pairs[i], sums.get(s, nothing)) for i, s in enumerate(SYSTEMS)}
            came_true = self._came_true(list(columns[0]), list(columns[1]))
            recent["model"] |= self._ranking(_recent_histogram(self._bins, came_true, columns[8]))
        return {"labels": len(columns[0]), **recent, **self._skills(recent)}

    def _skills(self, sheets: dict[str, Any]) -> dict[str, float | None]:
        return skills_of(sheets, "mae", -1) if self._task == "regression" else skills_of(sheets, "accuracy", 1)

    def _ranking(self, histogram: ScoreHistogram) -> dict[str, Any]:
        figures = histogram.figures(self._alert_share) if self._task != "multiclass" else {}
        if self._task != "anomaly":
            figures["calibration_error"] = histogram.calibration_error()
        return figures

    def _class_sheet(self, pairs: Pairs, sums: list[float]) -> dict[str, Any]:
        sheet: dict[str, Any] = agreement(pairs)
        if self._task == "multiclass":
            sheet |= per_class(pairs)
        else:
            sheet |= two_class(pairs)
        if sums[0]:
            sheet["log_loss"] = sums[1] / sums[0]
            if self._task == "binary":
                sheet["brier"] = sums[2] / sums[0]
        return sheet

    # -- state -------------------------------------------------------------------------------------------------------

    def to_state(self) -> bytes:
        self._judge()
        counts = [[(*pair, count) for pair, count in its.items()] for its in self._counts]
        histogram, window = self._histogram.counts, list(zip(*self._columns, strict=True))
        return msgspec.msgpack.encode(
            _State(self._task, self._window_size, counts, self._sums, self._target, window, histogram)
        )

    @classmethod
    def from_state(cls, data: bytes, alert_share: float = 0.01) -> Evaluation:
        state = msgspec.msgpack.decode(data, type=_State)
        made = cls(state.task, state.window_size, alert_share)
        for counts, pairs in zip(made._counts, state.counts, strict=True):
            counts.update({(label, prediction): count for label, prediction, count in pairs})
        made._sums, made._target, made._histogram.counts = state.sums, state.target, state.histogram
        for kept, column in zip(made._columns, zip(*state.window, strict=True), strict=False):
            kept.extend(column)
        return made


def _recent_histogram(bins: int, labels: Iterable[str], places: Iterable[int | None]) -> ScoreHistogram:
    histogram = ScoreHistogram(bins)
    histogram.count(labels, places)
    return histogram


def _recent_sums(losses: Sequence[float | None], briers: Sequence[float | None]) -> list[float]:
    count, loss = _sum_of_known(losses)
    return [count, loss, _sum_of_known(briers)[1], 0.0]


def _sum_of_known(values: Sequence[float | None]) -> tuple[float, float]:
    try:
        return float(len(values)), math.fsum(values)  # type: ignore[arg-type]
    except TypeError:  # some answers had no probabilities: seldom, and a look at each costs more than the sum
        known = [value for value in values if value is not None]
        return float(len(known)), math.fsum(known)


def _losses_of(
    labels: Sequence[str], probabilities: Sequence[dict[str, float] | None], sums: list[float]
) -> tuple[list[Any], list[Any]]:
    """Log losses and Brier scores of a block; `sums` grows by them, one after the other."""
    losses: list[Any] = []
    briers: list[Any] = []
    known, loss_sum, brier_sum, _ = sums
    for label, its in zip(labels, probabilities, strict=True):
        if not its:
            losses.append(None)
            briers.append(None)
            continue
        p = its.get(label, 0.0)
        loss = -_log(p if p > PROBABILITY_MIN else PROBABILITY_MIN)
        miss = 1.0 - p
        brier = miss * miss
        losses.append(loss)
        briers.append(brier)
        known += 1
        loss_sum += loss
        brier_sum += brier
    sums[:3] = known, loss_sum, brier_sum
    return losses, briers


def loss_of(label: LabelValue, probabilities: dict[str, float] | None) -> float | None:
    """Log loss of one answer."""
    loss: float | None = _losses_of([name_of(label) or ""], [probabilities], [0.0] * 4)[0][0]
    return loss
