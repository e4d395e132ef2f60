"""How good the predictions are while their labels are missing: an estimate with an interval, from calibrated scores.

Confidence-based performance estimation (NannyML's documented "CBPE"): what share of the predictions with such a score came
true, counted on the events whose labels are known, says what to expect of those whose labels are not. Scores are calibrated
by isotonic regression (Zadrozny and Elkan 2002, "Transforming classifier scores into accurate multiclass probability
estimates", KDD) over 20 bins in log odds, each label weighted by 1 / the probability that it was asked for.

The estimate assumes that scores mean what they meant when the last labels came: it sees other events, not another truth.
So what was expected of each pane of events is kept until its labels have come, and shown beside what turned out.
Binary and multiclass; a partition keeps some hundred numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from stream.core.scores import ScoreHistogram, bin_of, middle_of
from stream.messages import LabelValue

__all__ = ["SLOTS", "Pane", "QualityState", "estimate", "note_label", "note_prediction"]

SLOTS = 20
PER_SLOT = 10  # bins of core/scores.py
PANE = 2_000  # offsets of events
PANES_MAX = 5
LABELS_KEPT = 2_000  # of one partition; then all counts of the calibration are halved, so it follows what changes
Z = 1.645  # 90 %


class Pane(msgspec.Struct, array_like=True):
    """The predictions of `PANE` event offsets in a row."""

    number: int
    counts: list[int]  # binary: predicted false by slot of P(true), then predicted true; multiclass: by confidence
    labelled: int = 0
    asked: int = 0  # of them, on request: the only ones with a weight
    weight: float = 0.0
    right: float = 0.0  # weight of those that were predicted right
    squares: float = 0.0
    expected: float | None = None  # accuracy, as it was estimated when the pane was over


class QualityState(msgspec.Struct, array_like=True):
    """What one partition keeps: recent panes, and by slot the weight of labels, of those that came true, and squares."""

    panes: list[Pane] = []
    weights: list[float] = msgspec.field(default_factory=lambda: [0.0] * SLOTS)
    trues: list[float] = msgspec.field(default_factory=lambda: [0.0] * SLOTS)
    squares: list[float] = msgspec.field(default_factory=lambda: [0.0] * SLOTS)
    labels: int = 0


def slot_of(task: str, probabilities: dict[str, float] | None) -> int | None:
    """The slot of P(true), or of the confidence in the likeliest class."""
    if not probabilities:
        return None
    p = probabilities.get("true", 0.0) if task == "binary" else max(probabilities.values())
    return bin_of(p) // PER_SLOT


def note_prediction(state: QualityState, task: str, offset: int, prediction: Any, probabilities: Any) -> None:
    """One prediction, by the offset of its event."""
    slot = slot_of(task, probabilities)
    if slot is None:
        return
    panes, number = state.panes, offset // PANE
    if not panes or panes[-1].number != number:
        if panes:
            panes[-1].expected = _accuracy([panes[-1]], _calibrated([state]), task)[0]
        panes.append(Pane(number, [0] * (2 * SLOTS if task == "binary" else SLOTS)))
        del panes[:-PANES_MAX]
    panes[-1].counts[slot + SLOTS if prediction is True else slot] += 1


def note_label(
    state: QualityState,
    task: str,
    offset: int,
    prediction: LabelValue | None,
    probabilities: dict[str, float] | None,
    label: LabelValue,
    propensity: float | None,
) -> None:
    """The first label of an event; without a propensity it tells the coverage only: nobody knows what it stands for."""
    slot = slot_of(task, probabilities)
    if slot is None:
        return
    pane = next((pane for pane in state.panes if pane.number == offset // PANE), None)
    if pane is not None:
        pane.labelled += 1
    if propensity is None:
        return
    weight = 1.0 / propensity
    right = prediction == label
    if pane is not None:
        pane.asked += 1
        pane.weight += weight
        pane.right += weight * right
        pane.squares += weight * weight
    state.labels += 1
    state.weights[slot] += weight
    state.trues[slot] += weight * (bool(label) if task == "binary" else right)
    state.squares[slot] += weight * weight
    if state.labels >= LABELS_KEPT:
        state.labels //= 2
        for sums in (state.weights, state.trues, state.squares):
            sums[:] = [value / 2.0 for value in sums]


def estimate(states: Iterable[QualityState], task: str, alert_share: float = 0.01) -> dict[str, Any] | None:
    """JSON for people, over all partitions: `accuracy` with `low` and `high` (90 %), of a binary pipeline further figures,
    `coverage` (labels per prediction), and `turned_out`: what was expected of older panes, and what was true.
    None without predictions that have probabilities.
    """
    states = [state for state in states if state.panes]
    recent = [pane for state in states for pane in state.panes[-2:]]
    predictions = sum(sum(pane.counts) for pane in recent)
    if not predictions:
        return None
    calibration = _calibrated(states)
    accuracy, error = _accuracy(recent, calibration, task)
    found: dict[str, Any] = {
        "predictions": predictions,
        "labelled": sum(pane.labelled for pane in recent),
        "coverage": sum(pane.labelled for pane in recent) / predictions,
        "calibration_labels": sum(state.labels for state in states),
        "accuracy": accuracy,
        "low": max(0.0, accuracy - Z * error),
        "high": min(1.0, accuracy + Z * error),
    }
    if task == "binary":
        found |= _two_class(recent, calibration[0], alert_share)
    over = [pane for state in states for pane in state.panes[:-1] if pane.expected is not None and pane.weight]
    if over:
        size = sum(sum(pane.counts) for pane in over)
        found["turned_out"] = {
            "predictions": size,
            "labelled": sum(pane.asked for pane in over),
            "expected": sum(sum(pane.counts) * (pane.expected or 0.0) for pane in over) / size,
            "accuracy": sum(pane.right for pane in over) / sum(pane.weight for pane in over),
        }
    return found


def _calibrated(states: Sequence[QualityState]) -> tuple[list[float], list[float]]:
    """By slot: the share that comes true, never falling from slot to slot, and its variance. The score itself counts as
    one more label, so that a slot without labels has an answer.
    """
    blocks: list[list[float]] = []  # [value, weight, effective labels, slots]: pool adjacent violators
    for slot in range(SLOTS):
        weight = sum(state.weights[slot] for state in states)
        trues = sum(state.trues[slot] for state in states)
        squares = sum(state.squares[slot] for state in states)
        labels = weight * weight / squares if squares else 0.0
        share = trues / weight if weight else 0.0
        middle = sum(middle_of(slot * PER_SLOT + at) for at in range(PER_SLOT)) / PER_SLOT
        blocks.append([(share * labels + middle) / (labels + 1.0), labels + 1.0, labels, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            value, n, its, slots = blocks.pop()
            last = blocks[-1]
            last[0] = (last[0] * last[1] + value * n) / (last[1] + n)
            last[1] += n
            last[2] += its
            last[3] += slots
    shares, variances = [], []
    for value, _, labels, slots in blocks:
        spread = max(value * (1.0 - value), 0.25 / (labels + 2.0))  # of all alike, too, little is known
        shares += [value] * int(slots)
        variances += [spread / (labels + 1.0)] * int(slots)
    return shares, variances


def _accuracy(panes: Sequence[Pane], calibration: tuple[list[float], list[float]], task: str) -> tuple[float, float]:
    """Expected accuracy, and its standard error: of the labels that are to come, and of the calibration."""
    shares, variances = calibration
    total = sum(sum(pane.counts) for pane in panes)
    if not total:
        return 0.0, 0.0
    expected = variance = 0.0
    for slot in range(SLOTS):
        share = shares[slot]
        if task == "binary":
            no = sum(pane.counts[slot] for pane in panes)
            yes = sum(pane.counts[slot + SLOTS] for pane in panes)
            expected += no * (1.0 - share) + yes * share
            count, net = no + yes, yes - no
        else:
            count = net = sum(pane.counts[slot] for pane in panes)
            expected += count * share
        variance += count * share * (1.0 - share) + net * net * variances[slot]
    return expected / total, math.sqrt(variance) / total


def _two_class(panes: Sequence[Pane], shares: Sequence[float], alert_share: float) -> dict[str, Any]:
    """Precision, recall, and the ranking figures, from expected counts."""
    histogram = ScoreHistogram(SLOTS)
    tp = positives = alarms = 0.0
    for slot, share in enumerate(shares):
        no = sum(pane.counts[slot] for pane in panes)
        yes = sum(pane.counts[slot + SLOTS] for pane in panes)
        tp += yes * share
        alarms += yes
        positives += (no + yes) * share
        histogram.counts[0][slot] = (no + yes) * (1.0 - share)  # type: ignore[call-overload]
        histogram.counts[1][slot] = (no + yes) * share  # type: ignore[call-overload]
    ranking = histogram.figures(alert_share)
    return {
        "precision": tp / alarms if alarms else None,
        "recall": tp / positives if positives else None,
        "roc_auc": ranking["roc_auc"],
        "average_precision": ranking["average_precision"],
    }
