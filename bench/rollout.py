"""How often a candidate that is no better wins, how soon one that is better does, and what a bad one costs.

No broker is needed: the trial's evidence is fed with differences of losses. Nulls: independent, in bursts, and the real errors
of two models on elec2 whose blocks of 256 are given to the one or the other by a coin.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence

from river import linear_model, optim, preprocessing

from bench.drift import DATA, elec2
from bench.harness import figure
from stream.core.evidence import Evidence

__all__ = ["run"]

LABELS = 10_000
NEEDED = 20.0
FLIP = 256
Gains = Callable[[random.Random], Sequence[float]]


def run(quick: bool) -> None:
    replays = 100 if quick else 1_000
    nulls: dict[str, Gains | None] = {
        "independent": lambda rng: _noise(rng, 0.0, 0.3, 0.0),
        "bursts_of_20": lambda rng: _noise(rng, 0.0, 0.3, 0.95),
        "bursts_of_100": lambda rng: _noise(rng, 0.0, 0.3, 0.99),
        "rare": lambda rng: [gain if rng.random() < 0.01 else 0.0 for gain in _noise(rng, 0.0, 0.5, 0.0)],
        "elec2": _flipped(),
    }
    for name, gains in nulls.items():
        if gains is None:
            continue
        won = sum(_won_at(gains(random.Random(seed))) is not None for seed in range(replays))
        figure(f"rollout.false_promotions.{name}", won / replays, "of equal candidates", goal=0.05)
    better: dict[str, Gains] = {
        "two_points": lambda rng: _answers(rng, 0.80, 0.82),
        "four_points": lambda rng: _answers(rng, 0.80, 0.84),
    }
    for name, gains in better.items():
        at = [_won_at(gains(random.Random(seed))) for seed in range(replays // 5)]
        promoted = [labels for labels in at if labels is not None]
        figure(f"rollout.promoted.{name}", len(promoted) / len(at), f"of candidates within {LABELS} labels", goal=0.95)
        if promoted:
            figure(f"rollout.labels_to_promote.{name}", statistics.median(promoted), "labels")


def _won_at(gains: Sequence[float]) -> int | None:
    """After how many labels the candidate has won; None if it has not, or was turned away before."""
    evidence = Evidence()
    for number, gain in enumerate(gains, 1):
        if evidence.add(gain):
            if evidence.worse >= NEEDED:
                return None
            if evidence.better >= NEEDED:
                return number
    return None


def _noise(rng: random.Random, mean: float, spread: float, inertia: float) -> list[float]:
    """Differences around a mean, in bursts of about 1 / (1 - inertia)."""
    level, fresh, gains = 0.0, math.sqrt(1.0 - inertia * inertia), []
    for _ in range(LABELS):
        level = inertia * level + fresh * rng.gauss(0.0, 1.0)
        gains.append(min(max(mean + spread * level, -1.0), 1.0))
    return gains


def _answers(rng: random.Random, first: float, second: float) -> list[float]:
    """Right or wrong answers of two models that mostly fail together: they disagree about one event in ten."""
    disagree = 0.1
    only_second = (disagree + second - first) / 2
    gains = []
    for _ in range(LABELS):
        u = rng.random()
        gains.append(1.0 if u < only_second else -1.0 if u < disagree else 0.0)
    return gains


def _flipped() -> Gains | None:
    """Differences of half Brier scores between two learning rates on elec2; None where the stream is missing."""
    if not (DATA / "elec2_electricity.zip").exists():
        print("rollout.false_promotions.elec2 left out: no data", file=sys.stderr)
        return None
    models = [preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(rate)) for rate in (0.01, 0.1)]
    gains = []
    for x, label in elec2():
        losses = []
        for model in models:
            p = model.predict_proba_one(x).get(True, 0.5)
            losses.append((p - label) ** 2)
            model.learn_one(x, label)
        gains.append(losses[0] - losses[1])

    def made(rng: random.Random) -> list[float]:
        start = rng.randrange(len(gains) - LABELS)
        part = gains[start : start + LABELS]
        signs = [rng.choice((-1.0, 1.0)) for _ in range(LABELS // FLIP + 1)]
        return [gain * signs[i // FLIP] for i, gain in enumerate(part)]

    return made
