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
from collections.abc import Sequence
from typing import Any

import msgspec

from stream.core.scores import ANOMALY_BINS, BINS, ScoreHistogram, anomaly_bin_of, bin_of
from stream.messages import LabelValue, Served

__all__ = ["KEY_FIGURE", "SYSTEMS", "Baselines", "Evaluation", "loss_of"]

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
        self._model_sums, self._prior_sums = self._sums["model"], self._sums["prior"]
        self._target = [0.0, 0.0, 0.0]
        self._window: deque[Any] = deque(maxlen=window)
        self._bins = ANOMALY_BINS if task == "anomaly" else BINS
        self._histogram = ScoreHistogram(self._bins)

    def update(self, label: LabelValue, served: Served) -> None:
        """Judge one served prediction."""
        if self._task == "regression":
            self._judge_number(float(label), served)
        else:
            self._judge_class(_name(label) or "", served)

    # -- classes -----------------------------------------------------------------------------------------------------

    def _judge_class(self, label: str, served: Served) -> None:
        """The window's entry: (label, three predictions, loss and Brier of model and prior, bin of the score)."""
        # Written out: a learner spends a tenth of its time here.
        model_counts, persistence_counts, prior_counts = self._counts
        predicted, persisted, prior = served.prediction, served.persistence, served.prior
        if predicted is not None:
            predicted = NAMES.get(predicted) or str(predicted)
            pair = (label, predicted)
            if pair in model_counts:
                model_counts[pair] += 1
            else:
                _open(model_counts, label, predicted)
        if persisted is not None:
            persisted = NAMES.get(persisted) or str(persisted)
            pair = (label, persisted)
            if pair in persistence_counts:
                persistence_counts[pair] += 1
            else:
                _open(persistence_counts, label, persisted)
        if prior is not None:
            prior = NAMES.get(prior) or str(prior)
            pair = (label, prior)
            if pair in prior_counts:
                prior_counts[pair] += 1
            else:
                _open(prior_counts, label, prior)
        loss, brier = _losses(label, served.probabilities)
        prior_loss, prior_brier = _losses(label, served.prior_probabilities)
        if loss is not None:
            sums = self._model_sums
            sums[0] += 1
            sums[1] += loss
            sums[2] += brier
        if prior_loss is not None:
            sums = self._prior_sums
            sums[0] += 1
            sums[1] += prior_loss
            sums[2] += prior_brier
        at = None
        if self._task == "binary":
            if served.probabilities is not None:
                at = bin_of(served.probabilities.get("true", 0.0))
        elif self._task == "anomaly" and served.score is not None:
            at = anomaly_bin_of(served.score)
        if at is not None:
            self._histogram.counts[label == "true"][at] += 1
        self._window.append((label, predicted, persisted, prior, loss, brier, prior_loss, prior_brier, at))

    # -- numbers -----------------------------------------------------------------------------------------------------

    def _judge_number(self, label: float, served: Served) -> None:
        """The window's entry: (label, errors of the three systems or None)."""
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
        self._window.append((label, *errors))

    def interval_half_width(self) -> float | None:
        """Half the width of an interval around a regression's prediction that held 90 % of the window's labels."""
        errors = sorted(abs(entry[1]) for entry in self._window if entry[1] is not None)
        if len(errors) < 20:
            return None
        return float(errors[min(len(errors) - 1, math.ceil(0.9 * (len(errors) + 1)) - 1)])

    # -- the report --------------------------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """JSON: `overall` and `window`, each with a figure sheet per system and the skill against both baselines."""
        if self._task == "regression":
            labels = int(self._target[0])
            variance = self._target[2] / labels if labels else 0.0
            overall = {system: _number_sheet(self._sums[system], variance) for system in SYSTEMS}
        else:
            pairs = [_nested(counts) for counts in self._counts]
            labels = _total(pairs[0])
            overall = {s: self._class_sheet(pairs[i], self._sums[s]) for i, s in enumerate(SYSTEMS)}
            if self._task in ("binary", "anomaly"):
                overall["model"] |= self._ranking(self._histogram)
        return {
            "task": self._task,
            "overall": {"labels": labels, **overall, **self._skills(overall)},
            "window": self.recent(),
        }

    def recent(self) -> dict[str, Any]:
        """The part `window` of the report."""
        if self._task == "regression":
            window = list(self._window)
            recent = {system: _number_sheet(*_window_sums(window, i)) for i, system in enumerate(SYSTEMS, 1)}
        else:
            columns = list(zip(*self._window, strict=True)) or [()] * 9
            pairs = [_nested(_recent_counts(columns[0], columns[i])) for i in (1, 2, 3)]
            sums = {"model": _recent_sums(*columns[4:6]), "prior": _recent_sums(*columns[6:8])}
            nothing = [0.0, 0.0, 0.0, 0.0]
            recent = {s: self._class_sheet(pairs[i], sums.get(s, nothing)) for i, s in enumerate(SYSTEMS)}
            if self._task in ("binary", "anomaly"):
                recent["model"] |= self._ranking(_recent_histogram(self._bins, columns[0], columns[8]))
        return {"labels": len(self._window), **recent, **self._skills(recent)}

    def _skills(self, sheets: dict[str, Any]) -> dict[str, float | None]:
        return _skills(sheets, "mae", -1) if self._task == "regression" else _skills(sheets, "accuracy", 1)

    def _ranking(self, histogram: ScoreHistogram) -> dict[str, Any]:
        figures = histogram.figures(self._alert_share)
        if self._task == "binary":
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
        counts = [[(*pair, count) for pair, count in its.items()] for its in self._counts]
        histogram = self._histogram.counts
        return msgspec.msgpack.encode(
            _State(self._task, self._window_size, counts, self._sums, self._target, list(self._window), histogram)
        )

    @classmethod
    def from_state(cls, data: bytes, alert_share: float = 0.01) -> Evaluation:
        state = msgspec.msgpack.decode(data, type=_State)
        made = cls(state.task, state.window_size, alert_share)
        for counts, pairs in zip(made._counts, state.counts, strict=True):
            counts.update({(label, prediction): count for label, prediction, count in pairs})
        made._model_sums, made._prior_sums = state.sums["model"], state.sums["prior"]
        made._sums, made._target, made._histogram.counts = state.sums, state.target, state.histogram
        made._window.extend(state.window)
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


def _recent_counts(labels: Sequence[str], predictions: Sequence[str | None]) -> Counts:
    counts: Counts = {}
    for (label, prediction), count in Counter(zip(labels, predictions, strict=True)).items():
        if prediction is not None:
            _open(counts, label, prediction, count)
    return counts


def _recent_histogram(bins: int, labels: Sequence[str], places: Sequence[int | None]) -> ScoreHistogram:
    histogram = ScoreHistogram(bins)
    for (label, at), count in Counter(zip(labels, places, strict=True)).items():
        if at is not None:
            histogram.counts[label == "true"][at] += count
    return histogram


def _recent_sums(losses: Sequence[float | None], briers: Sequence[float | None]) -> list[float]:
    known = [loss for loss in losses if loss is not None]
    return [float(len(known)), math.fsum(known), math.fsum([brier for brier in briers if brier is not None]), 0.0]


def _nested(counts: Counts) -> Pairs:
    pairs: Pairs = {}
    for (label, prediction), count in counts.items():
        pairs.setdefault(label, {})[prediction] = count
    return pairs


def _losses(label: str, probabilities: dict[str, float] | None) -> tuple[Any, Any]:
    if not probabilities:
        return None, None
    p = probabilities.get(label, 0.0)
    miss = 1.0 - p
    return -_log(p if p > PROBABILITY_MIN else PROBABILITY_MIN), miss * miss


def loss_of(label: LabelValue, probabilities: dict[str, float] | None) -> float | None:
    """Log loss of one answer."""
    loss: float | None = _losses(_name(label) or "", probabilities)[0]
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


def _window_sums(window: list[Any], at: int) -> tuple[list[float], float]:
    errors = [entry[at] for entry in window if entry[at] is not None]
    labels = [entry[0] for entry in window]
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
