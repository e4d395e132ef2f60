"""Errors, labels, scores and features under watch, of all examples or of one segment."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from river import base as river_base
from river import drift as river_drift

from stream.core.drift_features import Features
from stream.core.drift_series import BLOCK, RECENT_BLOCKS, Alarm, Ranks, Series
from stream.messages import LabelValue, Served

__all__ = ["Row", "Scope", "measured_of"]

Row = tuple[float, Any, float, int, dict[str, Any]]  # error, label, score, event time, features
Measured = Callable[[LabelValue, Served], tuple[float, Any, float]]

# Error, label and score of one example. The error is 1 - the probability of what came true, or the absolute error; the score
# is the probability of true, that of the likeliest class, the predicted number, or the anomaly score.


def _binary(label: LabelValue, served: Served) -> tuple[float, Any, float]:
    p = served.probabilities
    score = p.get("true", 0.5) if p else 0.5
    return (1.0 - score, 1.0, score) if label else (score, 0.0, score)


def _multiclass(label: LabelValue, served: Served) -> tuple[float, Any, float]:
    p = served.probabilities or {}
    return 1.0 - p.get(str(label), 0.0), label, max(p.values(), default=0.0)


def _regression(label: LabelValue, served: Served) -> tuple[float, Any, float]:
    prediction, truth = float(served.prediction or 0.0), float(label)
    return abs(prediction - truth), truth, prediction


def _anomaly(label: LabelValue, served: Served) -> tuple[float, Any, float]:
    return float(served.prediction != label), float(bool(label)), served.score or 0.0


def _right_or_wrong(measured: Measured) -> Measured:
    """For detectors that count errors, and can do nothing with the probability of one."""

    def of(label: LabelValue, served: Served) -> tuple[float, Any, float]:
        return (float(served.prediction != label), *measured(label, served)[1:])

    return of


MEASURED: dict[str, Measured] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "regression": _regression,
    "anomaly": _anomaly,
}


def measured_of(task: str, detector: Callable[[], Any] | None) -> Measured:
    """What is watched of an example; `detector` is the user's."""
    if detector is not None and isinstance(detector(), river_base.BinaryDriftDetector):
        return _right_or_wrong(MEASURED[task])
    return MEASURED[task]


class Signal:
    """Errors, labels or scores of one scope."""

    def __init__(self, name: str, task: str, delta: float, detector: Callable[[], Any] | None) -> None:
        self.name = name
        self._of_texts = (task, name) == ("multiclass", "label")
        # What is in no known bounds is ranked.
        ranked = task == "regression" or self._of_texts or (task, name) == ("anomaly", "score")
        if self._of_texts:
            detector = None  # River's detectors watch numbers
        made: Any = detector() if detector is not None else None
        if name != "error" and isinstance(made, river_base.BinaryDriftDetector):
            made = detector = None  # those count errors
        self.make = detector
        self.failures = 0
        self._detector = made
        self.ranks = Ranks(of_texts=self._of_texts) if ranked and detector is None else None
        binary = name == "label" or (task, name) == ("anomaly", "error")
        self.series = Series(delta, rising=name == "error", binary=binary and not ranked)

    @property
    def ready(self) -> bool:
        return self._detector is not None or self.series.ready

    def block(self, values: Sequence[Any]) -> bool:
        """One block of values; true for an alarm."""
        if self._detector is not None:
            return self._feed(values)
        if self.ranks is None:
            return self.series.add(math.fsum(values))
        if not self.ranks.ready:
            self.ranks.gather(values)
            return False
        return self.series.add(sum(self.ranks.places(values)))

    def _feed(self, values: Sequence[Any]) -> bool:
        self.series.recent.append(math.fsum(values))
        found = False
        of_right = isinstance(self._detector, river_drift.binary.FHDDM)  # it counts right answers
        for value in values:
            try:
                self._detector.update(1.0 - value if of_right else value)
            except Exception:  # noqa: BLE001 - a user's code; `check` has tried it on values like these
                self.failures += 1
                continue
            found = found or self._detector.drift_detected
        return found and len(self.series.recent) > 1

    def alarm(self, segment: str | None, starts: Sequence[int]) -> Alarm:
        shift = self.series.shift()
        scale = BLOCK * (2 * self.ranks.middle if self.ranks is not None else 1)
        return Alarm(
            self.name,
            segment,
            "blocked_adwin" if self._detector is None else type(self._detector).__name__,
            abs(shift.effect),
            shift.before / scale,
            shift.after / scale,
            starts[shift.at - len(self.series.recent)],
            lambda: self._restart(shift.at),
        )

    def _restart(self, after: int) -> None:
        self.series.restart(after)
        if self.ranks is not None:
            self.ranks = Ranks(of_texts=self._of_texts)
            self.series.recent.clear()  # places among other quantiles
        if self.make is not None:
            self._detector = self.make()

    def bind(self, detector: Callable[[], Any] | None) -> None:
        """What a state leaves out."""
        self.make = detector if self._detector is not None else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "make": None}  # the pipeline has it


class Scope:
    """All examples, or those in one segment: what was answered, and the features."""

    def __init__(
        self, watched: list[str], task: str, delta: float, detector: Callable[[], Any] | None, features: Features
    ) -> None:
        self.features = features
        self._signals = [Signal(name, task, delta, detector) for name in watched]
        self._at = [("error", "label", "score").index(name) for name in watched]
        self._started = 0
        self._rows: list[Row] = []
        self._starts: deque[int] = deque(maxlen=RECENT_BLOCKS)  # offset of each block's first example

    @property
    def failures(self) -> int:
        """How often a user's detectors have raised."""
        return sum(signal.failures for signal in self._signals)

    def add(self, offset: int, row: Row, segment: str, alarms: list[Alarm]) -> None:
        """One example."""
        if not self._rows:
            self._started = offset
        self._rows.append(row)
        if len(self._rows) == BLOCK:
            rows, self._rows = self._rows, []
            self.block(self._started, rows, segment, alarms)

    def block(self, start: int, rows: Sequence[Row], segment: str | None, alarms: list[Alarm]) -> None:
        """One block of examples."""
        *signals, times, features = zip(*rows, strict=True)
        self._starts.append(start)
        for signal, at in zip(self._signals, self._at, strict=True):
            if signal.block(signals[at]):
                alarms.append(signal.alarm(segment, self._starts))
        if self.features.names:
            self.features.block(start, times[-1], features, segment, alarms)

    def bind(self, detector: Callable[[], Any] | None) -> None:
        """What a state leaves out."""
        for signal in self._signals:
            signal.bind(detector)

    def ready(self) -> list[bool]:
        return [signal.ready for signal in self._signals] + self.features.ready()
