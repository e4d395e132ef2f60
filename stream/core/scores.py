"""ROC AUC and average precision from a fixed histogram of scores.

Scores of 0 to 1 fall into 200 bins, equally wide in log odds between 0.0001 and 0.9999, so that rare classes are
resolved where they live. Within a bin, positives and negatives count as tied: an AUC is off by at most half the
product of the shares of positives and negatives that meet in one bin.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["BINS", "ScoreHistogram", "bin_of"]

BINS = 200
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


class ScoreHistogram:
    """Counts of negatives and positives per bin."""

    def __init__(self) -> None:
        self.counts: list[list[int]] = [[0] * BINS, [0] * BINS]

    def figures(self) -> dict[str, Any]:
        """`roc_auc` and `average_precision`; None unless both classes were seen."""
        negatives, positives = self.counts
        negative_total, positive_total = sum(negatives), sum(positives)
        if not negative_total or not positive_total:
            return {"roc_auc": None, "average_precision": None}
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
        }
