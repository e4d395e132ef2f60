"""ROC AUC and average precision from a fixed histogram of scores.

Scores of 0 to 1 fall into 200 bins, equally wide in log odds between 0.0001 and 0.9999, so that rare classes are
resolved where they live. An anomaly score may lie anywhere: beyond 0 and 1 there are 768 more bins on each side, 64 for
each doubling of the distance. Within a bin, positives and negatives count as tied: an AUC is off by at most half the
product of the shares of positives and negatives that meet in one bin.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

__all__ = ["ANOMALY_BINS", "BINS", "ScoreHistogram", "anomaly_bin_of", "bin_of", "middle_of", "uncertainty_of"]

BINS = 200
BEYOND = 768
PER_DOUBLING = 64
CALIBRATION_MIN = 500
ANOMALY_BINS = BEYOND + BINS + BEYOND
_EDGE = math.log(0.9999 / 0.0001)
_SCALE = BINS / (2 * _EDGE)


def bin_of(probability: float) -> int:
    """The bin of a score between 0 and 1.

    >>> bin_of(0.0), bin_of(0.5), bin_of(1.0)
    (0, 100, 199)
    """
    if probability <= 0.0001:
        return 0
    if probability >= 0.9999:
        return BINS - 1
    return int((math.log(probability / (1.0 - probability)) + _EDGE) * _SCALE)


def middle_of(number: int) -> float:
    """The probability in the middle of a bin; the outermost ones stand for 0 and 1.

    >>> middle_of(0), round(middle_of(100), 2), middle_of(199)
    (0.0, 0.51, 1.0)
    """
    if number in (0, BINS - 1):
        return float(number > 0)
    return 1.0 / (1.0 + math.exp(_EDGE - (number + 0.5) / _SCALE))


_MIDDLES = [middle_of(number) for number in range(BINS)]


def anomaly_bin_of(score: float) -> int:
    """The bin of any finite score.

    >>> anomaly_bin_of(-0.1), anomaly_bin_of(0.5), anomaly_bin_of(2.0), anomaly_bin_of(1e300)
    (759, 868, 1032, 1735)
    """
    if score > 1.0:
        return BEYOND + BINS + min(BEYOND - 1, int(PER_DOUBLING * math.log2(score)))
    if score < 0.0:
        return BEYOND - 1 - min(BEYOND - 1, int(PER_DOUBLING * math.log2(1.0 - score)))
    return BEYOND + bin_of(score)


class ScoreHistogram:
    """Counts of negatives and positives per bin."""

    def __init__(self, bins: int = BINS) -> None:
        self.counts: list[list[int]] = [[0] * bins, [0] * bins]

    def count(self, labels: Iterable[str], places: Iterable[int | None]) -> None:
        """Labels ("true", or any other) and the bins of their scores; None has none."""
        negatives, positives = self.counts
        for label, at in zip(labels, places, strict=True):
            if at is not None:
                (positives if label == "true" else negatives)[at] += 1

    def figures(self, alert_share: float) -> dict[str, Any]:
        """`roc_auc`, `average_precision` and `recall_at_alert_share`; None unless both classes were seen."""
        negatives, positives = self.counts
        negative_total, positive_total = sum(negatives), sum(positives)
        if not negative_total or not positive_total:
            return {"roc_auc": None, "average_precision": None, "recall_at_alert_share": None}
        below = auc = 0.0
        for n, p in zip(negatives, positives, strict=True):
            auc += p * (below + n / 2)
            below += n
        tp = fp = 0
        precision_sum = 0.0
        for n, p in zip(reversed(negatives), reversed(positives), strict=True):
            tp += p
            fp += n
            if p:
                precision_sum += p * tp / (tp + fp)
        return {
            "roc_auc": auc / (negative_total * positive_total),
            "average_precision": precision_sum / positive_total,
            "recall_at_alert_share": self._caught(alert_share * (negative_total + positive_total)) / positive_total,
        }

    def _caught(self, alerts: float) -> float:
        """Positives among the highest scores, as many as there are alerts; of a bin that is cut, its share."""
        caught = 0.0
        for n, p in zip(reversed(self.counts[0]), reversed(self.counts[1]), strict=True):
            if alerts <= n + p:
                return caught + (p * alerts / (n + p) if n + p else 0.0)
            caught += p
            alerts -= n + p
        return caught

    def calibration_error(self) -> float | None:
        """Mean distance between probability and share of positives (expected calibration error; Naeini, Cooper and
        Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning", AAAI). Of 200 bins, neighbours
        are taken together until they hold a twentieth of all and a hundred events; None below 500, where it would be noise. Of
        several classes the probability is that of the predicted one (Guo et al. 2017, "On calibration of modern neural
        networks", ICML).
        """
        total = sum(map(sum, self.counts))
        if total < CALIBRATION_MIN:
            return None
        error = events = expected = positives = 0.0
        enough = max(total / 20, 100)
        for number, (n, p) in enumerate(zip(*self.counts, strict=True)):
            events += n + p
            expected += (n + p) * _MIDDLES[number]
            positives += p
            if events >= enough or number == BINS - 1:
                error += abs(expected - positives)
                events = expected = positives = 0.0
        return error / total


def uncertainty_of(probabilities: dict[str, float] | None, half_width: float | None) -> float | None:
    """Least confidence scaled to 0..1 over the known classes; for a regression the interval's half-width."""
    if probabilities is None:
        return half_width
    classes = len(probabilities)
    if classes == 2:
        one, other = probabilities.values()
        return 2.0 * (one if one < other else other)
    if classes < 2:
        return 1.0 if not classes else 0.0
    return min(1.0, max(0.0, (1.0 - max(probabilities.values())) * classes / (classes - 1)))
