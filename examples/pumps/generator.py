"""Forty pumps, read every half hour; now and then a bearing wears out over some hours. Only failures get a label.

driftloop replay examples/pumps/pipeline.py examples/pumps/generator.py
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from typing import Any

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
START_MS = 1_735_689_600_000  # 2025-01-01
PUMPS = 40
STEP_MS = 30 * MINUTE_MS
WEAR_STEPS = 24  # twelve hours from the first sign to the failure


def records(limit: int, seed: int = 7) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """`limit` events, and a label for each reading of a pump whose bearing was wearing out, if it comes before they end."""
    rng = random.Random(seed)
    usual = [(rng.uniform(2, 3), rng.uniform(45, 55), rng.uniform(11, 13)) for _ in range(PUMPS)]
    worn = [0] * PUMPS  # steps of wear so far
    due: list[tuple[int, int, str, dict[str, Any]]] = []
    for number in range(limit):
        step, pump = divmod(number, PUMPS)
        now_ms = START_MS + step * STEP_MS + pump * 1_000
        while due and due[0][0] <= now_ms:
            at_ms, _, key, label = heapq.heappop(due)
            yield "labels", key, at_ms, label
        if worn[pump] or (step > 240 and rng.random() < 1 / 1_000):
            worn[pump] += 1
        wear = worn[pump] / WEAR_STEPS
        vibration, temperature, current = usual[pump]
        features = {
            "vibration": round(max(0.0, rng.gauss(vibration + 7 * wear, 0.3 + wear)), 3),
            "temperature": round(rng.gauss(temperature + 35 * wear, 1.5), 2),
            "current": round(max(0.0, rng.gauss(current + 6 * wear, 0.4)), 3),
        }
        key, event_id = f"pump-{pump:02d}", f"r-{number}"
        yield "events", key, now_ms, {"event_id": event_id, "occurred_at_ms": now_ms, "features": features}
        if worn[pump]:
            at_ms = now_ms + rng.randrange(12, 60) * HOUR_MS
            label = {"event_id": event_id, "label": True, "labelled_at_ms": at_ms, "source": "technician"}
            heapq.heappush(due, (at_ms, number, key, label))
        if worn[pump] > WEAR_STEPS:
            worn[pump] = 0  # repaired
