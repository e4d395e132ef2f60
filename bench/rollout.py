"""How often a candidate that is no better wins, how soon one that is better does, and how often its share changes.

No broker is needed: the trial's evidence is fed with differences of losses, whole trials with answers. Nulls: independent, in
bursts, and the real errors of two models on elec2 whose blocks of 256 are given to the one or the other by a coin.
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
from bench.loop import example_of
from bench.streams import Event
from stream import Pipeline
from stream.core.evidence import Evidence
from stream.core.rollout import Trial
from stream.messages import CHALLENGER, CHAMPION, Example, Served

__all__ = ["run"]

LABELS = 10_000
NEEDED = 20.0
FLIP = 256
PIPELINE = Pipeline(
    name="trial", task="binary", features={"x": float}, model=lambda _: linear_model.LogisticRegression()
)
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
    for name, second in (("equal", 0.80), ("two_points", 0.82)):
        for delay in (0, 1_000):
            _whole_trials(f"rollout.trial.{name}.delay_{delay}", second, delay, replays // 25)


def _whole_trials(name: str, second: float, delay: int, replays: int) -> None:
    """Candidates beside a champion that is 80 % right, through shadow and shares, at everybody's defaults."""
    ends: list[tuple[str, int]] = []
    changes = []
    for seed in range(replays):
        rng = random.Random(seed)
        trial, shares = Trial.begin(PIPELINE, "new", "old"), 0
        for number, gain in enumerate(_answers(rng, 0.80, second, PIPELINE.rollout.labels_max + delay)):
            decision = trial.update(_example(number, gain, rng.random() < 0.5, max(0, number - delay)), PIPELINE)
            if decision is not None and decision.action == "canary":
                trial.enter(decision.step, number + 1)
                shares += 1
            elif decision is not None:
                ends.append((decision.action, number))
                break
        changes.append(shares)
    promoted = [labels for action, labels in ends if action == "promoted"]
    figure(
        name, len(promoted) / replays, "promoted", of=replays, share_changes=statistics.fmean(changes),
        labels=statistics.median(promoted) if promoted else None,
    )  # fmt: skip


def _example(number: int, gain: float, label: bool, scored_at: int) -> Example:
    """One label; the better of two answers is right, and with no difference both are."""
    served = {}
    for slot, base, right in ((CHAMPION, "old", gain <= 0), (CHALLENGER, "new", gain >= 0)):
        prediction = label if right else not label
        probability = 0.7 if prediction else 0.3
        served[slot] = Served(f"{base}@{scored_at}", prediction, {"false": 1 - probability, "true": probability})
    return example_of(number, Event("k", {"x": 0.0}, label), served, CHAMPION, 0)


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


def _answers(rng: random.Random, first: float, second: float, labels: int = LABELS) -> list[float]:
    """Right or wrong answers of two models that mostly fail together: they disagree about one event in ten."""
    disagree = 0.1
    only_second = (disagree + second - first) / 2
    gains = []
    for _ in range(labels):
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
