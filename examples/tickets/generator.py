"""Support tickets and the team that solved each, some hours later. From half of the stream on there is a team `outages`.

driftloop replay examples/tickets/pipeline.py examples/tickets/generator.py
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from typing import Any

MINUTE_MS = 60_000
START_MS = 1_735_689_600_000  # 2025-01-01
LATE = "outages"
PRODUCTS = ("phone", "broadband", "tv")
LANGUAGES = ("de", "en", "fr")
TONES = ("calm", "angry", "asking")
TOPICS = {  # team: its usual topics
    "billing": ("invoice", "refund", "price"),
    "technics": ("slow", "setup", "router"),
    "contracts": ("cancel", "move", "price"),
    LATE: ("no_signal", "slow", "router"),
}


def records(limit: int, seed: int = 7) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """`limit` events and their labels."""
    rng = random.Random(seed)
    due: list[tuple[int, int, str, dict[str, Any]]] = []
    for number in range(limit):
        now_ms = START_MS + number * MINUTE_MS
        while due and due[0][0] <= now_ms:
            at_ms, _, key, label = heapq.heappop(due)
            yield "labels", key, at_ms, label
        teams = list(TOPICS) if number >= limit // 2 else [team for team in TOPICS if team != LATE]
        team = rng.choice(teams)
        features = {
            "product": rng.choice(PRODUCTS if team != LATE else PRODUCTS[:2]),
            "topic": rng.choice(TOPICS[team]) if rng.random() < 0.95 else rng.choice(TOPICS["billing"]),
            "tone": rng.choices(TONES, (1, 8, 1) if team == LATE else (4, 2, 4))[0],
            "language": rng.choice(LANGUAGES),
        }
        key, event_id = f"customer-{rng.randrange(500)}", f"t-{number}"
        yield "events", key, now_ms, {"event_id": event_id, "occurred_at_ms": now_ms, "features": features}
        at_ms = now_ms + rng.randrange(30, 600) * MINUTE_MS
        label = {"event_id": event_id, "label": team, "labelled_at_ms": at_ms, "source": "desk"}
        heapq.heappush(due, (at_ms, number, key, label))
    while due:
        at_ms, _, key, label = heapq.heappop(due)
        yield "labels", key, at_ms, label
