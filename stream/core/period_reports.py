"""Everything that is told of a period, and what could not be known. Pure; `driftloop report` reads, this puts together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from stream.core.evaluating import KEY_FIGURE
from stream.core.objectives import UNBIASED, judge
from stream.core.periods import ExampleFigures, Span, kept_slots
from stream.messages import DeadLetter, Drift, LabelRequest, Release
from stream.pipeline import Pipeline

__all__ = ["Found", "Missing", "PeriodReport", "TrainingRun", "put_together"]

CODES_MAX = 15
DAY_MS = 86_400_000


class Missing(msgspec.Struct, frozen=True):
    """What the report does not know, and why."""

    what: str
    why: str


class TrainingRun(msgspec.Struct, frozen=True, kw_only=True):
    """One retraining run, from the files that it left. None: it did not get so far, or nobody wrote it down."""

    run: str
    cause: str | None = None
    drift_id: str | None = None
    from_offset: int
    to_offset: int
    at_ms: int | None = None  # when the last of its examples came
    labels: int
    trials: int | None = None
    champion: str | None = None
    base: str | None = None
    accepted: bool | None = None
    why: str = ""
    figure: str | None = None
    of_candidate: float | None = None
    of_champion: float | None = None
    released: bool | None = None


class Found(msgspec.Struct, kw_only=True):
    """What was read for a period; None: it could not be, and `missing` says why.

    Args:
        letters: of dead letters, with their timestamps, oldest first, copies left out.
        requests: label requests, the record's timestamp beside each.
        times: examples offset -> timestamp, as far as asked for and known.
        now: what the learner says of itself at this moment.
    """

    events: int | None = None
    predictions: int | None = None
    examples: ExampleFigures | None = None
    drifts: list[Drift] | None = None
    releases: list[Release] | None = None
    letters: list[tuple[int, DeadLetter]] | None = None
    requests: list[LabelRequest] | None = None
    runs: list[TrainingRun] | None = None
    times: dict[int, int] = {}
    now: dict[str, Any] | None = None
    missing: list[Missing] = []


class Objective(msgspec.Struct, frozen=True):
    """A declared objective over the period. `slots_kept` of `slots_known` slots kept it, where it is looked at by slot.

    `basis`: of a figure of quality, where it stands in `examples`: "quality", or "unbiased.overall" (labels on request, by
    inverse propensity; not looked at by slot).
    """

    name: str
    wanted: str
    figure: float | None
    kept: bool | None
    slots_kept: int | None = None
    slots_known: int | None = None
    target: float = math.nan  # what `wanted` says, as a number
    basis: str = ""


class NotedDrift(msgspec.Struct, frozen=True):
    """A drift, and when the world changed, most likely; None if that example is not known any more."""

    drift: Drift
    began_at_ms: int | None


class Code(msgspec.Struct, frozen=True):
    """Dead letters of one code."""

    code: str
    count: int
    message: str  # of the newest
    newest_at_ms: int


class Requests(msgspec.Struct, frozen=True):
    """Labels that people were asked for. `budget`: how many the declared bounds allow; None: not known."""

    asked: int
    declined: int
    answered: int
    by_strategy: dict[str, int]
    budget: float | None


class PeriodReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `driftloop report --json` gives. Times are epoch milliseconds, UTC."""

    pipeline: str
    task: str
    key_figure: str
    lower_is_better: bool
    span: Span
    made_at_ms: int
    events: int | None
    predictions: int | None
    coverage: float | None
    examples: ExampleFigures | None
    objectives: list[Objective]
    drifts: list[NotedDrift] | None
    releases: list[Release] | None
    runs: list[TrainingRun] | None
    requests: Requests | None
    dead_letters: list[Code] | None
    dead_letter_count: int | None
    now: dict[str, Any] | None
    missing: list[Missing]


def put_together(pipeline: Pipeline, span: Span, found: Found, made_at_ms: int) -> PeriodReport:
    """The report. What was not read stays None; nothing becomes a zero that is not one."""
    examples = found.examples
    coverage = None
    if examples is not None and found.events:
        coverage = min(1.0, examples.given / found.events)
    return PeriodReport(
        pipeline=pipeline.name,
        task=pipeline.task,
        key_figure=KEY_FIGURE[pipeline.task],
        lower_is_better=pipeline.task == "regression",
        span=span,
        made_at_ms=made_at_ms,
        events=found.events,
        predictions=found.predictions,
        coverage=coverage,
        examples=examples,
        objectives=_objectives(pipeline, examples, coverage),
        drifts=_drifts(found),
        releases=found.releases,
        runs=found.runs,
        requests=_requests(pipeline, span, found),
        dead_letters=None if found.letters is None else _codes(found.letters),
        dead_letter_count=None if found.letters is None else len(found.letters),
        now=found.now,
        missing=found.missing,
    )


def _objectives(pipeline: Pipeline, examples: ExampleFigures | None, coverage: float | None) -> list[Objective]:
    learner: dict[str, Any] | None = None
    if examples is not None:
        metrics: dict[str, Any] = {"window": examples.quality, "overall": examples.quality}
        if examples.unbiased is not None:
            metrics["unbiased"] = {**examples.unbiased, "window": examples.unbiased["overall"]}
        learner = {"metrics": metrics, "label_delay_ms": examples.delay_ms}
    by_slot = {
        KEY_FIGURE[pipeline.task]: ("figure", pipeline.objectives.quality, pipeline.task == "regression"),
        "skill_vs_persistence": ("skill_vs_persistence", pipeline.objectives.skill, False),
    }
    objectives = []
    for one in judge(pipeline, learner, label_coverage=coverage):
        kept, known = None, None
        basis = {"": "", UNBIASED: "unbiased.overall"}.get(one.basis, "quality")
        if one.name in by_slot and examples is not None and one.basis != UNBIASED:
            field, wanted, most = by_slot[one.name]
            kept, known = kept_slots(examples.course, field, float(wanted or 0.0), most=most)
        objectives.append(Objective(one.name, one.wanted, one.now, one.kept, kept, known, one.target, basis))
    return objectives


def _drifts(found: Found) -> list[NotedDrift] | None:
    if found.drifts is None:
        return None
    return [NotedDrift(drift, found.times.get(drift.from_offset)) for drift in found.drifts]


def _codes(letters: Sequence[tuple[int, DeadLetter]]) -> list[Code]:
    counts = Counter(about.code for _, about in letters)
    newest: Mapping[str, tuple[int, DeadLetter]] = {about.code: (at_ms, about) for at_ms, about in letters}
    return [Code(code, n, newest[code][1].message, newest[code][0]) for code, n in counts.most_common(CODES_MAX)]


def _requests(pipeline: Pipeline, span: Span, found: Found) -> Requests | None:
    if found.requests is None:
        return None
    asked: dict[Any, LabelRequest] = {}
    declined = set()
    for request in found.requests:
        event = request.source or request.event_id
        if request.declined_by is None:
            asked.setdefault(event, request)
        else:
            declined.add(event)
    labelling, budget = pipeline.labelling, None
    if labelling and found.events is not None:
        budget = labelling.per_1000 * found.events / 1_000
        if labelling.per_day is not None:
            budget = min(budget, labelling.per_day * max(1.0, (span.until_ms - span.since_ms) / DAY_MS))
    answered = found.examples.answered if found.examples is not None else 0
    by_strategy = Counter(request.strategy or request.reason for request in asked.values())
    return Requests(len(asked), len(declined), answered, dict(by_strategy.most_common()), budget)
