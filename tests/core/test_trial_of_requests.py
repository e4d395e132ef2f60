"""A trial whose labels people were asked for: the strategy asks where the champion is probably wrong, and the verdict must be
about all events all the same."""

from __future__ import annotations

import math
import random

import pytest

from stream import Labelling, Labels, Rollout
from stream.core.evidence import Losses
from stream.core.querying import Querying, uniform_every
from stream.core.rollout import Trial
from stream.messages import Example, Served, Source
from tests.support.records import pipeline_of

ALPHA = 0.05
PIPELINE = pipeline_of(
    entity_features=(), features={"amount": float}, rollout=Rollout(shadow_labels=100, shares=(), alpha=ALPHA),
    labelling=Labelling(per_1000=100, warm_up=50),
)  # fmt: skip


def answered(p: float, version: str) -> Served:
    return Served(version, p > 0.5, {"false": 1.0 - p, "true": p})


def trial_of(seed: int, events: int, noise: float, *, weighted: bool) -> Trial:
    """Champion and candidate see the log odds through noise of their own, and know how noisy they are: both are calibrated.
    The candidate's is `noise`, the champion's 2.
    """
    rng = random.Random(seed)
    assert PIPELINE.labelling
    least = 1 / uniform_every(PIPELINE.labelling)
    trial = Trial.begin(PIPELINE, "new", "old")
    for number in range(events):
        truth = rng.gauss(0.0, 2.0)
        seen = [(truth + rng.gauss(0.0, spread)) * 4.0 / (4.0 + spread * spread) for spread in (2.0, noise)]
        old, new = (1 / (1 + math.exp(-log_odds)) for log_odds in seen)
        label = rng.random() < 1 / (1 + math.exp(-truth))
        unsure = abs(old - 0.5) < 0.05
        if not unsure and rng.random() > least:
            continue
        example = Example(
            event_id=str(number), entity_id="k", sequence=number, partition=0, timing="on_time", features={"amount": 1.0}, label=label,
            occurred_at_ms=number, labelled_at_ms=number, event_source=Source("cards.events", 0, number),
            label_source="person:ann", served={"champion": answered(old, "old@0"), "challenger": answered(new, "new@0")},
            requested=True, propensity=(1.0 if unsure else least) if weighted else None,
        )  # fmt: skip
        decision = trial.update(example, PIPELINE)
        if decision is not None and decision.action in ("promoted", "rejected"):
            break
    return trial


def test_with_a_default_every_event_has_a_label_and_each_counts_the_same():
    rules = Labels(wait="1m", missing="default", default=False)
    pipeline = pipeline_of(labels=rules, labelling=Labelling(per_1000=100), entity_features=())
    trial = Trial.begin(pipeline, "new", "old")
    for number in range(10):
        example = Example(
            event_id=str(number), entity_id="k", sequence=number, partition=0, timing="on_time", features={"amount": 1.0}, label=True,
            occurred_at_ms=number, labelled_at_ms=number, event_source=Source("cards.events", 0, number),
            label_source="person:ann", served={"champion": answered(0.6, "old@0"), "challenger": answered(0.9, "new@0")},
            requested=True, propensity=1.0,
        )  # fmt: skip
        trial.update(example, pipeline)
    assert trial.losses.stands_for == 10.0


def promoted(trial: Trial) -> bool:
    return trial.evidence.better >= 1 / ALPHA


def test_a_candidate_that_is_no_better_is_not_promoted_by_what_the_champion_was_unsure_of():
    naive = sum(promoted(trial_of(seed, 150_000, 2.0, weighted=False)) for seed in range(4))
    honest = sum(promoted(trial_of(seed, 150_000, 2.0, weighted=True)) for seed in range(8))
    assert naive == 4  # taken as they come the labels lie
    assert honest <= 1


def test_a_better_candidate_is_promoted_all_the_same():
    assert sum(promoted(trial_of(seed, 150_000, 1.0, weighted=True)) for seed in range(3)) >= 2


def test_the_figures_of_a_trial_are_those_of_all_events():
    rng = random.Random(1)
    losses = Losses("binary")
    for _ in range(
        20_000
    ):  # right on 9 of 10 easy events, and on half of the hard ones, of which three times as many are asked
        hard = rng.random() < 0.2
        if rng.random() > (0.3 if hard else 0.1):
            continue
        p = 0.9 if rng.random() < (0.5 if hard else 0.9) else 0.1
        losses.gain(True, answered(p, "old@0"), answered(p, "new@0"), 0.1 / (0.3 if hard else 0.1))
    assert losses.figures()[0] == pytest.approx(0.82, abs=0.02)


def test_the_least_propensity_is_that_of_the_random_share():
    assert PIPELINE.labelling
    least = 1 / uniform_every(PIPELINE.labelling)
    querying = Querying(PIPELINE.labelling, seed=1, partition=0, partitions=1)
    rng = random.Random(1)
    found = [querying.decide(n, n, n, rng.random(), 0.0, False, {}) for n in range(5_000)]
    assert min(asked.propensity for asked in found if asked) == least
