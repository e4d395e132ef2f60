"""How a candidate becomes the champion, or does not: the rules, applied to labels of predictions that were really made.

    released (shadow) ──► canary, share by share, up and down ──► promoted ──► confirmed
        │                    │                                       │
        └────────► rejected ◄┘                                       └──► rolled back

Shadow and canary: the candidate is scored beside the champion for every event; as a canary it also answers a share of the
entities. Probation: the former champion is scored beside the new one. Everything is decided from the examples alone, so a
learner that dies and comes back decides the same.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from stream.core.evidence import UNITS, Evidence, Losses
from stream.core.intervals import Interval
from stream.core.querying import uniform_every
from stream.core.segments import segment_values, told_apart
from stream.messages import Example, LabelValue, Served
from stream.pipeline import Pipeline

__all__ = ["Decision", "Trial"]

FAILURES_LABELS_MIN = 64
SHIFT_LABELS_MIN = 256
RAREST_MIN = 50  # labels of the rarer class before a candidate can win
Figures = dict[str, float | int | str | bool | None]


class Decision(msgspec.Struct, frozen=True):
    """What happens now, and why, in words and figures."""

    action: Literal["canary", "promoted", "confirmed", "rolled_back", "rejected"]
    rule: str
    reason: str
    evidence: Figures
    step: int = -1  # of a canary: the number of its share


class Stretch(msgspec.Struct, array_like=True):
    """Differences of losses since the share was looked at."""

    labels: int = 0
    gain: float = 0.0
    squares: float = 0.0

    def add(self, gain: float) -> None:
        self.labels += 1
        self.gain += gain
        self.squares += gain * gain

    @property
    def clearly_behind(self) -> bool:
        """By more than a standard deviation of such a sum; of equal models one stretch in six is."""
        return self.gain < -math.sqrt(self.squares)


class Trial(msgspec.Struct, kw_only=True):
    """Two models side by side: `base` is on trial, `rival` is what it is compared with.

    A label that people were asked for counts for the least propensity over its own. A strategy asks where the champion is
    probably wrong, and there any other model looks better: taken as they come, such labels promote candidates that are no
    better (decision 14).
    """

    base: str
    rival: str
    losses: Losses
    trial_id: str = ""  # of the record with which it began
    stage: Literal["shadow", "canary", "probation"] = "shadow"
    step: int = -1  # number of the share; -1 in shadow
    labels: int = 0  # pairs that were compared
    began: int = 0  # examples offset at which it began
    since: int = 0  # and its stage
    stage_labels: int = 0  # pairs of events that came, and were scored, in this stage
    seen: int = 0  # labels of events that came since it began
    scored: int = 0
    failures: int = 0
    won: bool = False  # at the last share, and waits for a person
    evidence: Evidence = msgspec.field(default_factory=lambda: Evidence(interval=Interval()))
    segments: dict[str, dict[str, tuple[Losses, Evidence]]] = {}
    answers: tuple[dict[str, int], dict[str, int]] = msgspec.field(default_factory=lambda: ({}, {}))  # rival, base
    spans: dict[int, list[int]] = {}  # partition -> offsets of the first and the last event that has a label
    sums: list[float] = msgspec.field(default_factory=lambda: [0.0, 0.0, 0.0])  # rival, base, squares of rival
    own: Stretch = msgspec.field(default_factory=Stretch)  # of the stage's pairs: whether it may have the next share
    newest: Stretch = msgspec.field(default_factory=Stretch)  # of all pairs: whether it must go back to the one before

    @staticmethod
    def begin(pipeline: Pipeline, base: str, rival: str, offset: int = 0) -> Trial:
        """A candidate against the champion."""
        return Trial(base=base, rival=rival, losses=Losses(pipeline.task), began=offset)

    def probation(self, offset: int = 0) -> Trial:
        """The one on trial has become the champion; now it is compared with the former one."""
        losses, evidence = Losses(self.losses.task), self.evidence.again()
        return Trial(
            base=self.base, rival=self.rival, losses=losses, stage="probation", began=offset, evidence=evidence
        )

    def update(self, example: Example, pipeline: Pipeline) -> Decision | None:
        """Take one label; the decision that it brings, if any. Later decisions are up to the caller's new trial."""
        rival, base = _of(example, self.rival), _of(example, self.base)
        if self._came_since(example):  # labels of earlier events may go on for long, and say nothing of who is scored
            self.seen += 1
            if self.seen % FAILURES_LABELS_MIN == 0 and (decision := self._without_pairs(pipeline)) is not None:
                return decision
        if base is None:  # answered before the trial began
            return None
        self.scored += 1
        self._note_span(example)
        self.failures += base.failed
        gain = None
        if rival is not None and not base.failed:
            share = _share_of(example, pipeline)
            gain = self.losses.gain(example.label, rival, base, share)
        if gain is not None:
            assert rival is not None
            self.labels += 1
            if int(base.version.rpartition("@")[2]) >= self.since:
                self.stage_labels += 1
                self.own.add(gain)
            self.newest.add(gain)
            self._note_answers(pipeline.task, rival, base)
            for segment, value in segment_values(pipeline.segments, example.features):
                self._judge_segment(pipeline, segment, value, example.label, rival, base, share)
        full = self.evidence.add(gain) if gain is not None else False
        if full or self.scored % FAILURES_LABELS_MIN == 0:
            return self._decide(pipeline)
        return None

    def _came_since(self, example: Example) -> bool:
        return any(int(its.version.rpartition("@")[2]) > self.began for its in example.served.values())

    def _judge_segment(
        self, pipeline: Pipeline, segment: str, value: str, label: LabelValue, rival: Served, base: Served, share: float
    ) -> None:
        judged = self.segments.setdefault(segment, {})
        value = told_apart(value, judged, pipeline.segment_values_max)
        if value not in judged:
            judged[value] = (Losses(pipeline.task), Evidence())
        losses, evidence = judged[value]
        gain = losses.gain(label, rival, base, share)
        if gain is not None:
            evidence.add(gain)

    def _note_span(self, example: Example) -> None:
        source = example.event_source
        span = self.spans.get(source.partition)
        if span is None:
            self.spans[source.partition] = [source.offset, source.offset]
        elif source.offset > span[1]:
            span[1] = source.offset
        elif source.offset < span[0]:
            span[0] = source.offset

    @property
    def coverage(self) -> float | None:
        """The share of the trial's events that have a label so far, from the first to the last of them in each partition."""
        events = sum(last - first + 1 for first, last in self.spans.values())
        return self.scored / events if events else None

    def _note_answers(self, task: str, rival: Served, base: Served) -> None:
        if task == "regression":
            of_rival, of_base = float(rival.prediction or 0.0), float(base.prediction or 0.0)
            self.sums[0] += of_rival
            self.sums[1] += of_base
            self.sums[2] += min(of_rival * of_rival, 1e300)
            return
        for answers, served in zip(self.answers, (rival, base), strict=True):
            name = str(served.prediction)
            answers[name] = answers.get(name, 0) + 1

    # -- the rules ---------------------------------------------------------------------------------------------------

    def _decide(self, pipeline: Pipeline) -> Decision | None:
        rollout = pipeline.rollout
        needed = 1.0 / rollout.alpha
        out = "rolled_back" if self.stage == "probation" else "rejected"
        if self.scored >= FAILURES_LABELS_MIN and self.failures > rollout.failures_max * self.scored:
            return self._decision(out, "failures", f"it failed for {self.failures} of {self.scored} events")
        shift = self.shift(pipeline.task)
        watched = self.stage != "probation" and self.labels >= SHIFT_LABELS_MIN and not self._ahead
        if watched and shift > rollout.distribution_shift_max:
            words = f"its answers differ too much, and are no better: distance {shift:.2f}, rollout.distribution_shift_max is"
            return self._decision(out, "distribution", f"{words} {rollout.distribution_shift_max:g}")
        if self.evidence.worse >= needed:
            words = f"worse than the {self._rival_name}: evidence {self.evidence.worse:.3g}, needed {needed:g}"
            return self._decision(out, "sequential_test", words)
        harmed = self._harmed(needed)
        if harmed is not None:
            return self._decision(out, "segment", f"worse than the {self._rival_name} where {harmed}")
        if self.stage == "probation":
            if self.labels >= rollout.probation_labels:
                return self._decision(
                    "confirmed", "probation", f"not worse than the former champion, {self.labels} labels"
                )
            return None
        return self._forward(pipeline, needed)

    def _without_pairs(self, pipeline: Pipeline) -> Decision | None:
        """A trial whose models are not both scored must end, too: the scorers may refuse one of them."""
        rollout = pipeline.rollout
        limit = max(rollout.labels_max, rollout.probation_labels)
        if self.won or self.seen < limit or self.labels * 2 >= self.seen:
            return None
        words = f"of {self.seen} labels only {self.labels} had answers of both models"
        return self._decision("confirmed" if self.stage == "probation" else "rejected", "no_answers", words)

    def _forward(self, pipeline: Pipeline, needed: float) -> Decision | None:
        rollout = pipeline.rollout
        enough = self.stage_labels >= (rollout.shadow_labels if self.step < 0 else rollout.share_labels)
        last = self.step + 1 >= len(rollout.shares)
        down = self._down(pipeline) if self.step >= 0 else None
        if down is not None:
            return down
        winning = self.evidence.better >= needed and self._rarest(pipeline.task) >= RAREST_MIN
        if winning and enough and last and rollout.promote == "automatic":
            words = f"better than the champion: evidence {self.evidence.better:.3g}, needed {needed:g}"
            return self._decision("promoted", "sequential_test", words)
        self.won = winning and (self.won or (enough and last))
        if self.labels >= rollout.labels_max and not winning:
            words = f"no better after {self.labels} labels: evidence {self.evidence.better:.3g}, needed {needed:g}"
            return self._decision("rejected", "labels_max", words)
        if self.step < 0:
            if enough and not last and not self._behind:
                return self._to_share(pipeline, 0, f"not behind after {self.labels} labels")
            return None
        return self._up(pipeline) if enough and not last else None

    def _down(self, pipeline: Pipeline) -> Decision | None:
        """A candidate that was good at first may be so no longer. All labels tell, also those of what came before this share."""
        newest = self.newest
        if newest.labels < pipeline.rollout.share_labels:
            return None
        self.newest = Stretch()
        below = self._place(pipeline) - 1
        if below < 0 or not newest.clearly_behind:
            return None
        self.won = False
        return self._to_share(pipeline, below, f"behind by the last {newest.labels} of {self.labels} labels")

    def _up(self, pipeline: Pipeline) -> Decision | None:
        """Labels of what came at this share tell."""
        own = self.own
        if own.labels < pipeline.rollout.share_labels:
            return None
        self.own = Stretch()
        if own.gain < 0.0 or self._behind:
            return None
        return self._to_share(pipeline, self.step + 1, f"not behind after {self.labels} labels")

    def share(self, pipeline: Pipeline) -> float:
        """The share of the entities that the one on trial answers."""
        place = self._place(pipeline)
        return pipeline.rollout.shares[place] if place >= 0 else 0.0

    def _place(self, pipeline: Pipeline) -> int:
        """The number of its share, -1 for none; the file may have fewer by now than the trial has gone through."""
        return min(self.step, len(pipeline.rollout.shares) - 1)

    def _to_share(self, pipeline: Pipeline, step: int, why: str) -> Decision:
        words = f"{why}: it answers {pipeline.rollout.shares[step]:.0%} of the entities"
        return self._decision("canary", "share", words, step)

    @property
    def _ahead(self) -> bool:
        """Of two that answer differently, by what labels say so far: a champion that a drift has left behind is no measure."""
        rival, base = self.losses.figures()
        righter = base < rival if self.losses.task == "regression" else base > rival
        return righter and not self._behind

    @property
    def _behind(self) -> bool:
        return self.evidence.total < 0.0 or self.evidence.better < self.evidence.worse

    def _rarest(self, task: str) -> int:
        """Labels of the rarest class, where there are two: the bet is not fair while hardly any have come."""
        if task not in ("binary", "anomaly"):
            return RAREST_MIN
        return int(min(self.losses.by_class.get(name, 0.0) for name in ("false", "true")))

    @property
    def _rival_name(self) -> str:
        return "former champion" if self.stage == "probation" else "champion"

    def _harmed(self, needed: float) -> str | None:
        """A segment in which the one on trial is worse; the more segments, the more evidence is needed."""
        needed *= max(1, sum(map(len, self.segments.values())))
        for segment, judged in self.segments.items():
            for value, (_, evidence) in judged.items():
                if evidence.worse >= needed:
                    return f"{segment} is {value}: evidence {evidence.worse:.3g}, needed {needed:g}"
        return None

    def shift(self, task: str) -> float:
        """How far the answers differ: total variation distance of classes; of numbers a quarter of the difference of
        means in standard deviations.
        """
        if not self.labels:
            return 0.0
        if task == "regression":
            mean = self.sums[0] / self.labels
            spread = math.sqrt(max(self.sums[2] / self.labels - mean * mean, 1e-300))
            return abs(self.sums[1] / self.labels - mean) / spread / 4.0
        rival, base = self.answers
        names = rival.keys() | base.keys()
        return sum(abs(rival.get(name, 0) - base.get(name, 0)) for name in names) / (2.0 * self.labels)

    def enter(self, step: int, offset: int) -> None:
        """Go on with the share of this number. Labels of what was answered before say nothing of it: they may be late."""
        self.stage, self.step, self.since, self.stage_labels = "canary", step, offset, 0
        self.own, self.newest = Stretch(), Stretch()

    def figures(self, task: str) -> Figures:
        """What the release record and `driftloop models` show."""
        rival, base = self.losses.figures()
        figure = "mae" if task == "regression" else "accuracy"
        return {
            "labels": self.labels,
            "label_coverage": None if self.coverage is None else round(self.coverage, 4),
            "failures": self.failures,
            f"{figure}_candidate": round(base, 6),
            f"{figure}_rival": round(rival, 6),
            "evidence_better": _shown(self.evidence.better),
            "evidence_worse": _shown(self.evidence.worse),
            "distribution_shift": round(self.shift(task), 4),
        }

    def gain(self, alpha: float) -> dict[str, Any]:
        """By how much the one on trial is better, with 1 - alpha at each end, at any time; see `intervals.py`.

        Of classes in losses from 0 to 1 (half the Brier score, by class), of numbers in mean absolute errors of the rival.
        What labels on request count for is taken out again by its mean so far.
        """
        low, high = self.evidence.interval.bounds(1.0 / alpha) if self.evidence.interval else (None, None)
        unit = UNITS["regression" if self.losses.task == "regression" else "classes"]
        if self.losses.stands_for:
            unit *= self.losses.count / self.losses.stands_for
        return {
            "gain_low": None if low is None else _shown(low * unit),
            "gain_high": None if high is None else _shown(high * unit),
            "gain_confidence": 1.0 - 2.0 * alpha,
        }

    def _decision(self, action: Any, rule: str, reason: str, step: int = -1) -> Decision:
        return Decision(action, rule, reason, self.figures(self.losses.task), step)


def _share_of(example: Example, pipeline: Pipeline) -> float:
    """What a label counts, 0 to 1: in proportion to 1 / propensity, and bounded, as a bet must be."""
    if example.propensity is None or not pipeline.labelling or pipeline.labels.missing == "default":
        return 1.0  # with a default every event has a label, asked for or not
    return min(1.0, 1.0 / (uniform_every(pipeline.labelling) * example.propensity))


def _of(example: Example, base: str) -> Served | None:
    """What the model answered when the event came, whatever slot it was in."""
    for served in example.served.values():
        if served.version.partition("@")[0] == base:
            return served
    return None


def _shown(wealth: float) -> float:
    return float(f"{wealth:.4g}")
