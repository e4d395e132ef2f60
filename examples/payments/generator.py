"""Card payments with fraud, late labels and a known change in the middle. Seeded: the same arguments, the same stream.

Before the change, fraudsters test a stolen card with a burst of small online payments at new merchants and then take a
large one. After it they buy once or twice at electronics and jewellery shops, in store, at daytime. A model that
learned only the first pattern goes blind; one that goes on learning recovers.

    driftloop produce examples/payments/pipeline.py examples/payments/generator.py --limit 40000
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_767_225_600_000  # 2026-01-01
MERCHANT_TYPES = ("grocery", "fuel", "restaurant", "travel", "electronics", "jewellery", "online_services")
COUNTRIES = ("DE", "FR", "ES", "IT", "PL", "US", "BR", "CN")


class Record(NamedTuple):
    """One record to produce, in time order."""

    topic: str  # "events" or "labels"
    key: str
    timestamp_ms: int
    value: dict[str, Any]


class _Card(NamedTuple):
    name: str
    country: str
    spending: float  # log of the typical amount
    merchants: tuple[int, ...]


def records(limit: int, seed: int = 7) -> Iterator[Record]:
    """What `driftloop produce` asks a generator for: `limit` events, a thousand a day, and their labels."""
    return payments(limit, seed=seed, days=max(limit / 1_000, 1.0))


def payments(
    n_events: int,
    *,
    seed: int = 7,
    change_at: float = 0.5,
    cards: int = 2_000,
    days: float = 30.0,
    fraud_share: float = 0.02,
    missing: float = 0.02,
    duplicate: float = 0.0,
    contradicting: float = 0.0,
    unknown: float = 0.0,
) -> Iterator[Record]:
    """Events and labels in time order.

    Args:
        change_at: where the fraudsters change, as a share of the events.
        days: event time that the stream covers.
        fraud_share: about this share of the events is fraud.
        missing, duplicate, contradicting, unknown: shares of the labels that misbehave in this way.
    """
    rng = random.Random(seed)
    deck = [_card(rng, number) for number in range(cards)]
    step_ms = days * DAY_MS / n_events
    queue: list[tuple[float, int, Record]] = []  # planned fraud and labels
    planned = 0
    made = 0
    now_ms = float(START_MS)
    burst = 5.0  # events of one theft, about
    while made < n_events or queue:
        if made < n_events:
            now_ms += rng.expovariate(1.0) * step_ms
        while queue and (queue[0][0] <= now_ms or made >= n_events):
            record = heapq.heappop(queue)[2]
            if record.topic == "events":
                if made >= n_events:
                    continue
                made += 1
                for when_ms, label in _labels(rng, record, True, missing, duplicate, contradicting, unknown):
                    planned += 1
                    heapq.heappush(queue, (when_ms, planned, label))
            yield record
        if made >= n_events:
            continue
        card = deck[int(cards * rng.random() ** 2.5)]
        event = _normal(rng, card, now_ms, made)
        made += 1
        yield event
        for when_ms, label in _labels(rng, event, False, missing, duplicate, contradicting, unknown):
            planned += 1
            heapq.heappush(queue, (when_ms, planned, label))
        if rng.random() < fraud_share / burst:
            victim = deck[rng.randrange(cards)]
            theft = _burst if made < change_at * n_events else _shopping
            for when_ms, record in theft(rng, victim, now_ms, planned):
                planned += 1
                heapq.heappush(queue, (when_ms, planned, record))


def _card(rng: random.Random, number: int) -> _Card:
    country = COUNTRIES[min(int(rng.expovariate(0.7)), len(COUNTRIES) - 1)]
    merchants = tuple(rng.randrange(3_000) for _ in range(rng.randrange(5, 25)))
    return _Card(f"card-{number:05d}", country, rng.gauss(3.2, 0.5), merchants)


def _event(card: str, at_ms: float, event_id: str, features: dict[str, Any]) -> Record:
    at = int(at_ms)
    hour = at // HOUR_MS % 24
    value = {"event_id": event_id, "occurred_at_ms": at, "features": {**features, "hour": hour}}
    return Record("events", card, at, value)


def _merchant(number: int) -> dict[str, str]:
    return {"merchant": f"m{number}", "merchant_type": MERCHANT_TYPES[number * 7 % 11 % len(MERCHANT_TYPES)]}


def _normal(rng: random.Random, card: _Card, now_ms: float, number: int) -> Record:
    usual = rng.random() < 0.9
    merchant = rng.choice(card.merchants) if usual else rng.randrange(3_000)
    features = {
        "amount": round(math.exp(rng.gauss(card.spending, 0.7)), 2),
        **_merchant(merchant),
        "country": card.country if rng.random() < 0.97 else rng.choice(COUNTRIES),
        "channel": "online" if rng.random() < 0.35 else "in_store",
    }
    return _event(card.name, now_ms, f"p-{number}", features)


def _burst(rng: random.Random, card: _Card, now_ms: float, number: int) -> Iterator[tuple[float, Record]]:
    at_ms = now_ms
    tests = rng.randrange(3, 7)
    for i in range(tests + 1):
        at_ms += rng.uniform(20_000, 240_000)
        amount = rng.uniform(0.5, 4.0) if i < tests else rng.uniform(200, 900)
        features = {
            "amount": round(amount, 2),
            **_merchant(rng.randrange(3_000)),
            "country": card.country,
            "channel": "online",
        }
        yield at_ms, _event(card.name, at_ms, f"f-{number}-{i}", features)


def _shopping(rng: random.Random, card: _Card, now_ms: float, number: int) -> Iterator[tuple[float, Record]]:
    # The next daytime: 10 to 18 o'clock.
    at_ms = now_ms + (rng.uniform(10, 15) * HOUR_MS - now_ms % DAY_MS) % DAY_MS
    for i in range(rng.randrange(3, 7)):
        at_ms += rng.uniform(0.2, 1.0) * HOUR_MS
        features = {
            "amount": round(rng.uniform(80, 400), 2),
            "merchant": f"m{rng.randrange(3_000, 3_020)}",
            "merchant_type": rng.choice(("electronics", "jewellery")),
            "country": rng.choice(COUNTRIES),
            "channel": "in_store",
        }
        yield at_ms, _event(card.name, at_ms, f"g-{number}-{i}", features)


def _labels(
    rng: random.Random,
    event: Record,
    fraud: bool,
    missing: float,
    duplicate: float,
    contradicting: float,
    unknown: float,
) -> Iterator[tuple[float, Record]]:
    """The label of one event, with its misbehaviour. Fraud is noticed after 1 to 48 hours, peace after a day."""
    delay_ms = rng.uniform(1, 48) * HOUR_MS if fraud else 24 * HOUR_MS
    at_ms = event.timestamp_ms + delay_ms
    if missing and rng.random() < missing:
        return
    yield at_ms, _label(event.key, event.value["event_id"], fraud, at_ms)
    if duplicate and rng.random() < duplicate:
        yield at_ms + HOUR_MS, _label(event.key, event.value["event_id"], fraud, at_ms + HOUR_MS)
    if contradicting and rng.random() < contradicting:
        yield at_ms + 2 * HOUR_MS, _label(event.key, event.value["event_id"], not fraud, at_ms + 2 * HOUR_MS)
    if unknown and rng.random() < unknown:
        yield at_ms, _label(event.key, "unknown-" + event.value["event_id"], fraud, at_ms)


def _label(card: str, event_id: str, fraud: bool, at_ms: float) -> Record:
    at = int(at_ms)
    return Record("labels", card, at, {"event_id": event_id, "label": fraud, "labelled_at_ms": at, "source": "bank"})
