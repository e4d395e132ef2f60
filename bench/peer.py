"""What both peers do with a record: predict and learn as `plain_faust` does, and say how far they are.

It imports no more than River, msgspec and the pipeline's declaration, so it runs in a peer's own environment.
"""

from __future__ import annotations

import json
import time
from typing import Any

from bench.pipeline import build

__all__ = ["PredictAndLearn"]

EVERY = 1_000


class PredictAndLearn:
    """One model; features wait in a dict for their label, and a label for its event."""

    def __init__(self, model: str, count: int) -> None:
        self.model = build({"model": model, "more": []})
        self.count = count
        self.done = 0
        self._kept: dict[str, dict[str, float]] = {}
        self._early: dict[str, bool] = {}

    def event(self, value: dict[str, Any]) -> dict[str, Any]:
        """The answer to an event."""
        x = value["features"]
        p = self.model.predict_proba_one(x)[True]
        label = self._early.pop(value["event_id"], None)
        if label is None:
            self._kept[value["event_id"]] = x
        else:
            self.model.learn_one(x, label)
        self._advance()
        return {"event_id": value["event_id"], "prediction": p >= 0.5, "p": p}

    def label(self, value: dict[str, Any]) -> None:
        x = self._kept.pop(value["event_id"], None)
        if x is None:
            self._early[value["event_id"]] = value["label"]
        else:
            self.model.learn_one(x, value["label"])
        self._advance()

    def _advance(self) -> None:
        self.done += 1
        if self.done % EVERY == 0 or self.done == self.count:
            print(json.dumps([time.time(), self.done]), flush=True)
