"""What anybody would have said: the last label, or the commonest class and the mean so far."""

from __future__ import annotations

import msgspec

from stream.core.sheets import CLASSES_MAX, OTHER, name_of
from stream.messages import LabelValue

__all__ = ["Baselines"]


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
        name = name_of(label) or ""
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
