"""Hourly demand of eight districts, metered a day late. In the middle of the stream half of them have got heat pumps.

driftloop replay examples/energy/pipeline.py examples/energy/generator.py
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

HOUR_MS = 3_600_000
START_MS = 1_735_689_600_000  # 2025-01-01, a Wednesday
DELAY_H = 24
DISTRICTS = ("harbour", "old_town", "hills", "north", "south", "east", "west", "campus")
PUMPS = frozenset(DISTRICTS[:4])  # these change


def records(limit: int, seed: int = 7) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """`limit` events, rounded down to whole hours, and the labels that come meanwhile and after."""
    rng = random.Random(seed)
    hours = limit // len(DISTRICTS)
    sizes = {district: rng.uniform(60, 240) for district in DISTRICTS}
    history: dict[str, list[float]] = {district: [] for district in DISTRICTS}
    noise = 0.0
    for hour in range(hours + DELAY_H):
        now_ms = START_MS + hour * HOUR_MS
        noise = 0.97 * noise + rng.gauss(0, 0.5)
        temperature = _temperature(hour) + noise
        if hour < hours:
            for district in DISTRICTS:
                load = history[district]
                known = load[-48] if len(load) >= 48 else sizes[district]
                load.append(_demand(rng, sizes[district], temperature, hour, district in PUMPS and hour >= hours // 2))
                features = {
                    "cold": round(max(0.0, 15 - temperature), 2),
                    "heat": round(max(0.0, temperature - 22), 2),
                    "hour": f"{hour % 24:02d}",
                    "weekend": _weekend(hour),
                    "last_known": round(known, 2),
                    "district": district,
                }
                event = {"event_id": f"{district}-{hour}", "occurred_at_ms": now_ms, "features": features}
                yield "events", district, now_ms, event
        metered = hour - DELAY_H
        for district in DISTRICTS if metered >= 0 else ():
            value = round(history[district][metered], 2)
            label = {
                "event_id": f"{district}-{metered}", "label": value, "labelled_at_ms": now_ms, "source": "meter"
            }  # fmt: skip
            yield "labels", district, now_ms, label


def _weekend(hour: int) -> bool:
    return (hour // 24 + 2) % 7 >= 5


def _temperature(hour: int) -> float:
    """Of a year in the middle of Europe, and of a day."""
    year = -math.cos(2 * math.pi * (hour / 24 - 15) / 365)
    day = -math.cos(2 * math.pi * (hour % 24 - 3) / 24)
    return 11 + 10 * year + 4 * day


def _demand(rng: random.Random, size: float, temperature: float, hour: int, pumps: bool) -> float:
    day = 1 + 0.25 * math.sin(2 * math.pi * (hour % 24 - 8) / 24) + 0.12 * math.sin(4 * math.pi * (hour % 24 - 5) / 24)
    use = day * (0.85 if _weekend(hour) else 1.0)
    use += (0.035 if pumps else 0.008) * max(0.0, 15 - temperature) + 0.02 * max(0.0, temperature - 22)
    return max(0.0, size * use * (1 + rng.gauss(0, 0.02)))
