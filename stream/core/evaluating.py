"""Delayed progressive validation: how good the predictions were that were really served.

Each example is judged by what was served when its event came (Gomes et al. 2017, "Adaptive random forests", call it
delayed prequential evaluation), beside two baselines under the same delay, because without them a number means nothing:
persistence repeats the last label that was known at serving time; prior is the majority class or the mean known then.

Everything is kept twice: over all labels and over a sliding window, as whole counts and as sums that are exact
(`math.fsum` over the window's own values), so rounding cannot build up. Undefined figures are None.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from stream.core.scores import ANOMALY_BINS, BINS, ScoreHistogram, anomaly_bin_of, bin_of
from stream.messages import LabelValue, Served

__all__ = ["KEY_FIGURE", "SYSTEMS", "Baselines", "Evaluation", "loss_of"]

BLOCK = 64  # labels that are judged together
CLASSES_MAX = 100
OTHER = "(other)"
_log = math.log
HUGE = 1e150  # the square of a larger one would not be finite
PROBABILITY_MIN = 1e-6  # log loss of a probability of 0 is that of this
SYSTEMS = ("model", "persistence", "prior")
# The one figure that shows best how good a model is.
KEY_FIGURE = {"regression": "mae", "binary": "average_precision", "anomaly": "roc_auc", "multiclass": "accuracy"}


NAMES: dict[object, str] = {True: "true", False: "false"}  # of labels, as JSON has them

Counts = dict[tuple[str, str], int]  # (label, prediction) -> count
Pairs = dict[str, dict[str, int]]  # label -> prediction -> count


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
            columns = self._judge_classes([_name(label) or "" for label in labels], served)
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
        _count(self._counts, labels, *predictions)
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
            overall = {system: _number_sheet(self._sums[system], variance) for system in SYSTEMS}
        else:
            pairs = [_nested(counts) for counts in self._counts]
            labels = _total(pairs[0])
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
                system: _number_sheet(*_window_sums(columns[0], errors))
                for system, errors in zip(SYSTEMS, columns[1:], strict=True)
            }
        else:
            counted: tuple[Counts, ...] = ({}, {}, {})
            _count(counted, *columns[:4])
            pairs = [_nested(counts) for counts in counted]
            sums = {"model": _recent_sums(*columns[4:6]), "prior": _recent_sums(*columns[6:8])}
            nothing = [0.0, 0.0, 0.0, 0.0]
            recent = {s: self._class_sheet(pairs[i], sums.get(s, nothing)) for i, s in enumerate(SYSTEMS)}
            came_true = self._came_true(list(columns[0]), list(columns[1]))
            recent["model"] |= self._ranking(_recent_histogram(self._bins, came_true, columns[8]))
        return {"labels": len(columns[0]), **recent, **self._skills(recent)}

    def _skills(self, sheets: dict[str, Any]) -> dict[str, float | None]:
        return _skills(sheets, "mae", -1) if self._task == "regression" else _skills(sheets, "accuracy", 1)

    def _ranking(self, histogram: ScoreHistogram) -> dict[str, Any]:
        figures = histogram.figures(self._alert_share) if self._task != "multiclass" else {}
        if self._task != "anomaly":
            figures["calibration_error"] = histogram.calibration_error()
        return figures

    def _class_sheet(self, pairs: Pairs, sums: list[float]) -> dict[str, Any]:
        sheet: dict[str, Any] = _agreement(pairs)
        if self._task == "multiclass":
            sheet |= _per_class(pairs)
        else:
            sheet |= _two_class(pairs)
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


def _name(value: LabelValue | None) -> str | None:
    if value is None:
        return None
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _open(counts: Counts, label: str, prediction: str, count: int = 1) -> None:
    """Count a pair; beyond CLASSES_MAX squared pairs all further ones are one."""
    pair = (label, prediction)
    if pair not in counts and len(counts) >= CLASSES_MAX**2:
        pair = (OTHER, OTHER if label == prediction else "(wrong)")
    counts[pair] = counts.get(pair, 0) + count


def _count(known: tuple[Counts, ...], labels: Iterable[str], *predictions: Iterable[str | None]) -> None:
    """Count what each system said of these labels."""
    for (label, *its), count in Counter(zip(labels, *predictions, strict=True)).items():
        for counts, prediction in zip(known, its, strict=True):
            if prediction is not None:
                _open(counts, label, prediction, count)


def _recent_histogram(bins: int, labels: Iterable[str], places: Iterable[int | None]) -> ScoreHistogram:
    histogram = ScoreHistogram(bins)
    histogram.count(labels, places)
    return histogram


def _recent_sums(losses: Sequence[float | None], briers: Sequence[float | None]) -> list[float]:
    known = [loss for loss in losses if loss is not None]
    return [float(len(known)), math.fsum(known), math.fsum([brier for brier in briers if brier is not None]), 0.0]


def _nested(counts: Counts) -> Pairs:
    pairs: Pairs = {}
    for (label, prediction), count in counts.items():
        pairs.setdefault(label, {})[prediction] = count
    return pairs


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
    loss: float | None = _losses_of([_name(label) or ""], [probabilities], [0.0] * 4)[0][0]
    return loss


def _total(pairs: Pairs) -> int:
    return sum(sum(row.values()) for row in pairs.values())


def _agreement(pairs: Pairs) -> dict[str, Any]:
    """Accuracy and Cohen's kappa."""
    total = _total(pairs)
    if not total:
        return {"labels": 0, "accuracy": None, "kappa": None}
    right = sum(row.get(label, 0) for label, row in pairs.items())
    predicted: dict[str, int] = {}
    for row in pairs.values():
        for prediction, count in row.items():
            predicted[prediction] = predicted.get(prediction, 0) + count
    chance = sum(sum(row.values()) * predicted.get(label, 0) for label, row in pairs.items()) / total**2
    accuracy = right / total
    return {"labels": total, "accuracy": accuracy, "kappa": (accuracy - chance) / (1 - chance) if chance < 1 else None}


def _two_class(pairs: Pairs) -> dict[str, Any]:
    yes, no = pairs.get("true", {}), pairs.get("false", {})
    tp, fn, fp, tn = yes.get("true", 0), yes.get("false", 0), no.get("true", 0), no.get("false", 0)
    recall, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    return {
        "precision": _ratio(tp, tp + fp),
        "recall": recall,
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "balanced_accuracy": None if recall is None or specificity is None else (recall + specificity) / 2,
        "positive_share": _ratio(tp + fn, tp + fn + fp + tn),
    }


def _per_class(pairs: Pairs) -> dict[str, Any]:
    recalls = {label: _ratio(row.get(label, 0), _size(row)) for label, row in sorted(pairs.items())}
    scores = []
    for label, row in pairs.items():
        tp = row.get(label, 0)
        fp = sum([other.get(label, 0) for name, other in pairs.items() if name != label])
        f1 = _ratio(2 * tp, tp + _size(row) + fp)
        if f1 is not None and _size(row):
            scores.append(f1)
    return {"macro_f1": sum(scores) / len(scores) if scores else None, "recall_by_class": recalls}


def _size(row: dict[str, int]) -> int:
    return sum(row.values())


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _number_sheet(sums: list[float], variance: float) -> dict[str, Any]:
    count = sums[0]
    if not count:
        return {"labels": 0, "mae": None, "rmse": None, "r2": None, "bias": None}
    mse = sums[2] / count
    return {
        "labels": int(count),
        "mae": sums[1] / count,
        "rmse": math.sqrt(mse),
        "r2": 1 - mse / variance if variance > 0 else None,
        "bias": sums[3] / count,
    }


def _window_sums(labels: Sequence[float], known: Sequence[float | None]) -> tuple[list[float], float]:
    errors = [error for error in known if error is not None]
    mean = math.fsum(labels) / len(labels) if labels else 0.0
    variance = math.fsum((label - mean) ** 2 for label in labels) / len(labels) if labels else 0.0
    squares = math.fsum(error * error for error in errors)
    return [float(len(errors)), math.fsum(map(abs, errors)), squares, math.fsum(errors)], variance


def _skills(sheets: dict[str, Any], key: str, better: int) -> dict[str, float | None]:
    """1 is perfect, 0 is no better than the baseline, below 0 is worse."""
    skills: dict[str, float | None] = {}
    for baseline in ("persistence", "prior"):
        mine, its = sheets["model"][key], sheets[baseline][key]
        name = f"skill_vs_{baseline}"
        losses = sheets["model"].get("log_loss"), sheets[baseline].get("log_loss")
        if losses[0] is not None and losses[1]:
            # Where a baseline gives probabilities, they are compared: accuracy says little about rare classes.
            skills[name] = 1 - losses[0] / losses[1]
            continue
        if mine is None or its is None:
            skills[name] = None
        elif better > 0:
            skills[name] = (mine - its) / (1 - its) if its < 1 else None
        else:
            skills[name] = 1 - mine / its if its > 0 else None
    return skills


class Baselines:
    """What is known of the labels so far; a snapshot carries it to the scorers.

    >>> baselines = Baselines("binary")
    >>> for label in (False, False, True):
    ...     baselines.update(label)
    >>> baselines.persistence, baselines.prior
    (True, False)
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self.persistence: LabelValue | None = None
        self._counts: dict[str, int] = {}
        self._labels = 0
        self._mean = 0.0

    def update(self, label: LabelValue) -> None:
        self.persistence = label
        self._labels += 1
        if self._task == "regression":
            self._mean += (float(label) - self._mean) / self._labels
            return
        name = _name(label) or ""
        if name not in self._counts and len(self._counts) >= CLASSES_MAX:
            name = OTHER
        self._counts[name] = self._counts.get(name, 0) + 1

    @property
    def prior(self) -> LabelValue | None:
        """The mean, or the commonest class (the first to get there, on a tie)."""
        if not self._labels:
            return None
        if self._task == "regression":
            return self._mean
        name = max(self._counts, key=self._counts.__getitem__)
        return name == "true" if self._task in ("binary", "anomaly") else name

    @property
    def prior_probabilities(self) -> dict[str, float] | None:
        if self._task == "regression" or not self._labels:
            return None
        return {name: count / self._labels for name, count in self._counts.items()}

    def to_state(self) -> bytes:
        return msgspec.msgpack.encode([self._task, self.persistence, self._counts, self._labels, self._mean])

    @classmethod
    def from_state(cls, data: bytes) -> Baselines:
        task, persistence, counts, labels, mean = msgspec.msgpack.decode(data)
        made = cls(task)
        made.persistence, made._counts, made._labels, made._mean = persistence, counts, labels, mean
        return made
