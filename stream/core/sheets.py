"""Figures of classes and numbers from counts and sums. Undefined figures are None."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from stream.messages import LabelValue

__all__ = [
    "CLASSES_MAX", "NAMES", "OTHER", "Counts", "Pairs", "agreement", "count_pairs", "name_of", "nested", "number_sheet",
    "per_class", "skills_of", "total_of", "two_class", "window_sums",
]  # fmt: skip

CLASSES_MAX = 100
OTHER = "(other)"
NAMES: dict[object, str] = {True: "true", False: "false"}  # of labels, as JSON has them

Counts = dict[tuple[str, str], int]  # (label, prediction) -> count
Pairs = dict[str, dict[str, int]]  # label -> prediction -> count


def name_of(value: LabelValue | None) -> str | None:
    if value is None:
        return None
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _open(counts: Counts, label: str, prediction: str, count: int = 1) -> None:
    """Count a pair; beyond CLASSES_MAX squared pairs all further ones are one."""
    pair = (label, prediction)
    if pair not in counts and len(counts) >= CLASSES_MAX**2:
        pair = (OTHER, OTHER if label == prediction else "(wrong)")
    counts[pair] = counts.get(pair, 0) + count


def count_pairs(known: tuple[Counts, ...], labels: Iterable[str], *predictions: Iterable[str | None]) -> None:
    """Count what each system said of these labels."""
    for (label, *its), count in Counter(zip(labels, *predictions, strict=True)).items():
        for counts, prediction in zip(known, its, strict=True):
            if prediction is not None:
                _open(counts, label, prediction, count)


def nested(counts: Counts) -> Pairs:
    pairs: Pairs = {}
    for (label, prediction), count in counts.items():
        pairs.setdefault(label, {})[prediction] = count
    return pairs


def total_of(pairs: Pairs) -> int:
    return sum(sum(row.values()) for row in pairs.values())


def agreement(pairs: Pairs) -> dict[str, Any]:
    """Accuracy and Cohen's kappa."""
    total = total_of(pairs)
    if not total:
        return {"labels": 0, "accuracy": None, "kappa": None}
    right = sum(row.get(label, 0) for label, row in pairs.items())
    predicted = _predicted(pairs)
    chance = sum(sum(row.values()) * predicted.get(label, 0) for label, row in pairs.items()) / total**2
    accuracy = right / total
    return {"labels": total, "accuracy": accuracy, "kappa": (accuracy - chance) / (1 - chance) if chance < 1 else None}


def _predicted(pairs: Pairs) -> dict[str, int]:
    """How often each class was said."""
    predicted: dict[str, int] = {}
    for row in pairs.values():
        for prediction, count in row.items():
            predicted[prediction] = predicted.get(prediction, 0) + count
    return predicted


def two_class(pairs: Pairs) -> dict[str, Any]:
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


def per_class(pairs: Pairs) -> dict[str, Any]:
    recalls = {label: _ratio(row.get(label, 0), _size(row)) for label, row in sorted(pairs.items())}
    predicted, scores = _predicted(pairs), []
    for label, row in pairs.items():
        f1 = _ratio(2 * row.get(label, 0), _size(row) + predicted.get(label, 0))
        if f1 is not None and _size(row):
            scores.append(f1)
    return {"macro_f1": sum(scores) / len(scores) if scores else None, "recall_by_class": recalls}


def _size(row: dict[str, int]) -> int:
    return sum(row.values())


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def number_sheet(sums: list[float], variance: float) -> dict[str, Any]:
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


def window_sums(labels: Sequence[float], known: Sequence[float | None]) -> tuple[list[float], float]:
    errors = [error for error in known if error is not None]
    mean = math.fsum(labels) / len(labels) if labels else 0.0
    variance = math.fsum((label - mean) ** 2 for label in labels) / len(labels) if labels else 0.0
    squares = math.fsum(error * error for error in errors)
    return [float(len(errors)), math.fsum(map(abs, errors)), squares, math.fsum(errors)], variance


def skills_of(sheets: dict[str, Any], key: str, better: int) -> dict[str, float | None]:
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
