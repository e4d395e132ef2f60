"""Declared objectives, kept or broken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from stream import entity
from stream.core.evaluating import KEY_FIGURE
from stream.pipeline import Pipeline

__all__ = ["DELAYED", "GIVEN", "Delays", "Judged", "coverage_of", "judge"]

GIVEN = frozenset(("on_time", "early", "late"))  # timings of labels that somebody gave
DELAYED = GIVEN - {"early"}  # after the event
PER_DOUBLING = 4
WINDOW, UNBIASED = "window", "unbiased.window"
# Where less than this share of the judged labels came on request, nearly all came by themselves: plain figures are hardly
# biased, and in their window ten times as recent.
REQUESTED_MIN = 0.1
EFFECTIVE_MIN = 30.0  # one random label may stand for hundreds of events: fewer say nothing of a promise


class Judged(msgspec.Struct, frozen=True):
    """One objective. `kept` is None while its figure is not known.

    `basis`: of a figure of quality, where in the learner's `metrics` it stands: "window" (labels as they came) or
    "unbiased.window" (labels on request, by inverse propensity).
    """

    name: str
    wanted: str
    now: float | None
    kept: bool | None
    target: float = math.nan  # what `wanted` says, as a number
    basis: str = ""


class Delays(msgspec.Struct, array_like=True):
    """How long labels take, counted in bins of a quarter of a doubling.

    >>> delays = Delays()
    >>> for ms in (1_000, 1_000, 60_000):
    ...     delays.add(ms)
    >>> 900 < delays.quantile(0.5) < 1_200
    True
    """

    counts: dict[int, int] = {}

    def add(self, delay_ms: int) -> None:
        """A delay; one below a millisecond counts as one."""
        at = int(PER_DOUBLING * math.log2(max(delay_ms, 1)))
        self.counts[at] = self.counts.get(at, 0) + 1

    def quantile(self, share: float) -> float | None:
        """In milliseconds, within a fifth; None without any."""
        left = share * sum(self.counts.values())
        for at in sorted(self.counts):
            left -= self.counts[at]
            if left <= 0:
                return float(2.0 ** ((at + 0.5) / PER_DOUBLING))
        return None

    def report(self) -> dict[str, float | None]:
        """p50, p90 and p99."""
        return {f"p{round(share * 100)}": self.quantile(share) for share in (0.5, 0.9, 0.99)}


def coverage_of(counts: Mapping[str, int]) -> float | None:
    """Labels that somebody gave, per prediction, 0 to 1; None before the first prediction.

    Args:
        counts: of the score stage's state, all partitions together.

    >>> coverage_of({"predictions": 10, "on_time_labels": 3, "late_labels": 1, "duplicate_labels": 2})
    0.4
    """
    given = sum(counts.get(f"{timing}_labels", 0) for timing in GIVEN)
    return given / counts["predictions"] if counts.get("predictions") else None


def judge(
    pipeline: Pipeline,
    learner: Mapping[str, Any] | None,
    *,
    label_coverage: float | None = None,
    latency_p99_ms: float | None = None,
) -> list[Judged]:
    """Every objective that is declared, in order.

    Where people are asked for labels, plain figures are mostly those of hard events: quality and skill are then those of
    all events, by inverse propensity, and not known before they rest on what 30 unweighted labels are worth.

    Args:
        learner: what the learner's status says; None before the first.
        label_coverage: labels per prediction so far.
        latency_p99_ms: from an event's timestamp to its prediction.
    """
    wanted = pipeline.objectives
    figure = KEY_FIGURE[pipeline.task]
    basis, quality, skill = _quality(pipeline, (learner or {}).get("metrics", {}), figure)
    delay_ms = (learner or {}).get("label_delay_ms", {}).get("p50")
    lower = pipeline.task == "regression"
    found = []
    if wanted.quality is not None:
        found.append(_judged(figure, wanted.quality, quality, most=lower, basis=basis))
    if wanted.skill is not None:
        found.append(_judged("skill_vs_persistence", wanted.skill, skill, most=False, basis=basis))
    if wanted.latency_p99_ms is not None:
        found.append(_judged("latency_p99_ms", wanted.latency_p99_ms, latency_p99_ms, most=True))
    if wanted.label_delay is not None:
        found.append(_judged("label_delay_p50_ms", entity.duration_ms(wanted.label_delay), delay_ms, most=True))
    if wanted.label_coverage is not None:
        found.append(_judged("label_coverage", wanted.label_coverage, label_coverage, most=False))
    return found


def _quality(pipeline: Pipeline, metrics: Mapping[str, Any], figure: str) -> tuple[str, float | None, float | None]:
    """Whose figures count, the key figure, and the skill."""
    plain, unbiased = metrics.get("window", {}), metrics.get("unbiased", {})
    weighted = unbiased.get("window", {})
    name = "model" if unbiased.get("figure") == figure else figure
    judged = metrics.get("overall", {}).get("labels", 0)
    on_request = unbiased.get("overall", {}).get("labels", 0)
    if not pipeline.labelling or name not in weighted or on_request < REQUESTED_MIN * judged:
        return WINDOW, plain.get("model", {}).get(figure), plain.get("skill_vs_persistence")
    if weighted["effective_labels"] < EFFECTIVE_MIN:
        return UNBIASED, None, None
    return UNBIASED, weighted[name], weighted.get("skill_vs_persistence")


def _judged(name: str, wanted: float, now: float | None, *, most: bool, basis: str = "") -> Judged:
    kept = None if now is None else (now <= wanted if most else now >= wanted)
    return Judged(name, f"{'at most' if most else 'at least'} {wanted:g}", now, kept, wanted, basis)
