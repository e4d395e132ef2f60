"""Label requests without a score worker, and the labels that came of them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from stream.core.records import Record
from stream.messages import Explanation, LabelRequest, LabelValue
from tests.support.world import World

__all__ = ["ask_about", "labels"]


def ask_about(world: World, numbers: Iterable[int], prediction: LabelValue = True) -> None:
    """Requests e<number>, on both partitions by turns."""
    now_ms = int(time.time() * 1_000)  # Kafka deletes what is older than its topic's retention, at any moment
    for number in numbers:
        body = LabelRequest(
            event_id=f"e{number}", features={"amount": 1.0, "what": "<b>|[x](http://evil)"}, prediction=prediction,
            uncertainty=0.4, reason="uncertain", expires_at_ms=10**15, probabilities={"true": 0.6, "false": 0.4},
            explanation=Explanation("log_odds", 0.1, [("amount", 0.5)], 0.0), requested_at_ms=number,
        )  # fmt: skip
        world.produce([Record("label_requests", number % 2, 0, now_ms + number, b"card", msgspec.json.encode(body))])


def labels(world: World) -> list[dict[str, Any]]:
    return [msgspec.json.decode(r.value or b"") for records in world.read("labels").values() for r in records]
