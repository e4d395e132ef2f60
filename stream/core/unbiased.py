"""Figures that hold for all events, from labels of those that people were asked about.

Events that a strategy picks are the hard ones: plain figures over them look worse than the model is, and over the random
ones alone they are noisy. Each requested label is weighted by 1 / the probability with which it was requested (Horvitz and
Thompson 1952); sums are divided by the sum of weights (Hajek's estimator). Labels that nobody asked for have no weight here:
nobody knows which events they stand for. Unanswered requests are taken as unanswered at random.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from stream.core.evaluating import SYSTEMS, loss_of
from stream.core.scores import ANOMALY_BINS, BINS, ScoreHistogram, anomaly_bin_of, bin_of
from stream.messages import LabelValue, Served

__all__ = ["UnbiasedFigures"]


class _State(msgspec.Struct, array_like=True):
    window_size: int
    labels: int
    weight: float
    squares: float
    sums: list[list[float]]  # per system: weight, weighted right answers or absolute errors
    loss: list[float]  # weight, weighted log loss of the model
    window: list[Any]
    histogram: list[list[float]]


class UnbiasedFigures:
    """Key figures of served predictions, by inverse propensity.

    >>> figures = UnbiasedFigures("binary")
    >>> figures.update(True, Served("m@0", False), 1.0)  # one of the hard ones
    >>> figures.update(True, Served("m@0", True), 0.25)  # this one stands for four
    >>> figures.report()["overall"]["model"]
    0.8
    """

    def __init__(self, task: str, window: int = 1_000, alert_share: float = 0.01) -> None:
        self._task = task
        self._alert_share = alert_share
        self._window: deque[Any] = deque(maxlen=window)  # (weight, one value or None per system)
        bins = {"binary": BINS, "anomaly": ANOMALY_BINS}.get(task, 0)
        self._state = _State(window, 0, 0.0, 0.0, [[0.0, 0.0] for _ in SYSTEMS], [0.0, 0.0], [], [])
        self._state.histogram = [[0.0] * bins, [0.0] * bins]

    def update(self, label: LabelValue, served: Served, propensity: float) -> None:
        """Take one label that was asked for with this probability."""
        state, weight = self._state, 1.0 / propensity
        state.labels += 1
        state.weight += weight
        state.squares += weight * weight
        values: list[float | None] = []
        for sums, answer in zip(state.sums, (served.prediction, served.persistence, served.prior), strict=True):
            value = None
            if answer is not None:
                value = (
                    min(abs(float(answer) - float(label)), 1e150)
                    if self._task == "regression"
                    else float(answer == label)
                )
                sums[0] += weight
                sums[1] += weight * value
            values.append(value)
        self._window.append((weight, *values))
        loss = None if self._task == "regression" else loss_of(label, served.probabilities)
        if loss is not None:
            state.loss[0] += weight
            state.loss[1] += weight * loss
        if self._task == "binary" and served.probabilities is not None:
            state.histogram[bool(label)][bin_of(served.probabilities.get("true", 0.0))] += weight
        elif self._task == "anomaly" and served.score is not None:
            state.histogram[bool(label)][anomaly_bin_of(served.score)] += weight

    def report(self) -> dict[str, Any]:
        """JSON: the figure's name, and per span how many labels there are, how many unweighted ones they are worth, and the
        figure of model and baselines; ranking figures and log loss overall.
        """
        state = self._state
        overall: dict[str, Any] = {"labels": state.labels, "effective_labels": _worth(state.weight, state.squares)}
        overall |= {s: sums[1] / sums[0] if sums[0] else None for s, sums in zip(SYSTEMS, state.sums, strict=True)}
        overall["log_loss"] = state.loss[1] / state.loss[0] if state.loss[0] else None
        if state.histogram[0]:
            histogram = ScoreHistogram(len(state.histogram[0]))
            histogram.counts = state.histogram  # type: ignore[assignment]
            overall |= histogram.figures(self._alert_share)
        weights = [entry[0] for entry in self._window]
        window: dict[str, Any] = {
            "labels": len(weights), "effective_labels": _worth(sum(weights), sum(weight * weight for weight in weights))
        }  # fmt: skip
        for at, system in enumerate(SYSTEMS, 1):
            known = [(entry[0], entry[at]) for entry in self._window if entry[at] is not None]
            total = sum(weight for weight, _ in known)
            window[system] = sum(weight * value for weight, value in known) / total if total else None
        return {"figure": "mae" if self._task == "regression" else "accuracy", "overall": overall, "window": window}

    def to_state(self) -> bytes:
        self._state.window = list(self._window)
        return msgspec.msgpack.encode(self._state)

    def restore(self, data: bytes) -> None:
        self._state = msgspec.msgpack.decode(data, type=_State)
        self._window = deque(self._state.window, maxlen=self._state.window_size)


def _worth(weight: float, squares: float) -> float:
    """Kish's effective sample size."""
    return weight * weight / squares if squares else 0.0
