"""Parcels, and whether each came late, known two days later. Weight matters by bike, distance by van: no straight line fits.

driftloop replay examples/side_by_side/trees.py examples/side_by_side/generator.py --against examples/side_by_side/linear.py
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from typing import Any

MINUTE_MS = 60_000
START_MS = 1_735_689_600_000  # 2025-01-01
DELAY_MS = 2 * 24 * 60 * MINUTE_MS


def records(limit: int, seed: int = 7) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """`limit` events and their labels; the key is the courier."""
    rng = random.Random(seed)
    due: list[tuple[int, str, dict[str, Any]]] = []
    for number in range(limit):
        now_ms = START_MS + number * MINUTE_MS
        while due and due[0][0] <= now_ms:
            at_ms, key, label = heapq.heappop(due)
            yield "labels", key, at_ms, label
        courier = rng.randrange(30)
        bike = courier % 2 == 0
        distance, weight = rng.uniform(0.5, 20), rng.uniform(0.1, 30)
        chance = 0.9 if (weight > 18 if bike else distance > 12) else 0.1
        features = {"distance_km": round(distance, 2), "weight_kg": round(weight, 2), "bike": bike}
        key, event_id = f"courier-{courier:02d}", f"parcel-{number:07d}"
        yield "events", key, now_ms, {"event_id": event_id, "occurred_at_ms": now_ms, "features": features}
        at_ms = now_ms + DELAY_MS
        label = {"event_id": event_id, "label": rng.random() < chance, "labelled_at_ms": at_ms, "source": "customer"}
        heapq.heappush(due, (at_ms, key, label))
    while due:
        at_ms, key, label = heapq.heappop(due)
        yield "labels", key, at_ms, label
