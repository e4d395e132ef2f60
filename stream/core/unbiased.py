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
from stream.core.sheets import skills_of
from stream.messages import Example, LabelValue, Served

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
        # (weight, one value or None per system, whether the label is positive, bin of the score or None)
        self._window: deque[Any] = deque(maxlen=window)
        self._bins = {"binary": BINS, "anomaly": ANOMALY_BINS}.get(task, 0)
        self._state = _State(window, 0, 0.0, 0.0, [[0.0, 0.0] for _ in SYSTEMS], [0.0, 0.0], [], [])
        self._state.histogram = [[0.0] * self._bins, [0.0] * self._bins]

    def take(self, example: Example, served: Served) -> None:
        """Take an example, if somebody was asked for its label."""
        # Defaults bore a propensity once, and examples are kept.
        if example.propensity is not None and example.timing != "default":
            self.update(example.label, served, example.propensity)

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
        loss = None if self._task == "regression" else loss_of(label, served.probabilities)
        if loss is not None:
            state.loss[0] += weight
            state.loss[1] += weight * loss
        place = None
        if self._task == "binary" and served.probabilities is not None:
            place = bin_of(served.probabilities.get("true", 0.0))
        elif self._task == "anomaly" and served.score is not None:
            place = anomaly_bin_of(served.score)
        if place is not None:
            state.histogram[bool(label)][place] += weight
        self._window.append((weight, *values, bool(label), place))

    def report(self) -> dict[str, Any]:
        """JSON: the figure's name, and per span how many labels there are, how many unweighted ones they are worth, the
        figure of model and baselines, the skill against delayed persistence in it, and ranking figures; log loss overall.
        """
        state = self._state
        overall: dict[str, Any] = {"labels": state.labels, "effective_labels": _worth(state.weight, state.squares)}
        overall |= {s: sums[1] / sums[0] if sums[0] else None for s, sums in zip(SYSTEMS, state.sums, strict=True)}
        overall["log_loss"] = state.loss[1] / state.loss[0] if state.loss[0] else None
        overall |= self._ranking(state.histogram)
        weights = [entry[0] for entry in self._window]
        window: dict[str, Any] = {
            "labels": len(weights), "effective_labels": _worth(sum(weights), sum(weight * weight for weight in weights))
        }  # fmt: skip
        for at, system in enumerate(SYSTEMS, 1):
            known = [(entry[0], entry[at]) for entry in self._window if entry[at] is not None]
            total = sum(weight for weight, _ in known)
            window[system] = sum(weight * value for weight, value in known) / total if total else None
        histogram = [[0.0] * self._bins, [0.0] * self._bins]
        for weight, *_, positive, place in self._window:
            if place is not None:
                histogram[positive][place] += weight
        window |= self._ranking(histogram)
        figure, better = ("mae", -1) if self._task == "regression" else ("accuracy", 1)
        for span in (overall, window):
            skills = skills_of({system: {figure: span[system]} for system in SYSTEMS}, figure, better)
            span["skill_vs_persistence"] = skills["skill_vs_persistence"]
        return {"figure": figure, "overall": overall, "window": window}

    def _ranking(self, weights: list[list[float]]) -> dict[str, Any]:
        if not self._bins:
            return {}
        histogram = ScoreHistogram(self._bins)
        histogram.counts = weights  # type: ignore[assignment]
        return histogram.figures(self._alert_share)

    def to_state(self) -> bytes:
        self._state.window = list(self._window)
        return msgspec.msgpack.encode(self._state)

    def restore(self, data: bytes) -> None:
        self._state = msgspec.msgpack.decode(data, type=_State)
        entries = self._state.window
        whole = len(SYSTEMS) + 3
        # A state from before the window knew scores: they are out of the window soon.
        entries = [entry if len(entry) == whole else [*entry, False, None] for entry in entries]
        self._window = deque(entries, maxlen=self._state.window_size)


def _worth(weight: float, squares: float) -> float:
    """Kish's effective sample size."""
    return weight * weight / squares if squares else 0.0
