"""Champion and candidate on the same later examples: is the candidate let in, and why?

The candidate is the best trial's recipe, trained on what lies before the compare range. The champion is what it was when the
range began (see `candidates`). Both then predict and learn through the range with the real label delay, and are judged on
the same events. No trial of the search has seen them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stream.adapters.file_pipelines import LoadedPipeline
from stream.batch.candidates import Recipe, Starts, base_before, champion_at
from stream.batch.plans import Plan, Run
from stream.batch.searching import finish_search
from stream.batch.windows import ExampleSource
from stream.core.explaining import compile_scorer
from stream.core.guarding import first_not_finite
from stream.core.lean_pickle import dump_model
from stream.core.prequential import Judged, Lesson, evaluate, known_at
from stream.pipeline import Pipeline
from stream.settings import Settings

__all__ = ["compare", "judge"]

SEGMENT_LABELS_MIN = 100
TIMED_EVENTS = 1_000
TIMED_RUNS = 5


def compare(
    settings: Settings, loaded: LoadedPipeline, run: str, *, source: ExampleSource | None = None
) -> dict[str, Any]:
    """Judge the best trial against the champion; kept with the run as verdict.json.

    Returns {"run", "accepted", "why": a sentence, "figures": {...}}; where it was refused, `why` names every reason.
    """
    its = Run(settings, loaded, run, source)
    plan = its.plan()
    window, pipeline = plan.window, its.pipeline
    best = finish_search(settings, loaded, run, source=source)["best"]
    lessons = its.lessons(plan).lessons
    known_at_ms = known_at(lessons, window.split_offset)
    candidate = Starts(its, plan).model(Recipe(best["start"], best["params"]))
    candidates = evaluate(
        pipeline, candidate, lessons, score_from=window.split_offset, known_at_ms=known_at_ms,
        fit=best["start"] == "scratch", segments=True,
    )  # fmt: skip
    champion, from_offset = _champion(its, plan)
    champions = evaluate(
        pipeline, champion, [one for one in lessons if one.offset >= from_offset], score_from=window.split_offset,
        known_at_ms=known_at_ms, fit=False, segments=True,
    )  # fmt: skip
    latest = lessons[-TIMED_EVENTS:]
    sizes = {
        "size_bytes": len(dump_model(candidate)), "latency_us": latency_us(pipeline, candidate, latest),
        "champion_size_bytes": len(dump_model(champion)), "champion_latency_us": latency_us(pipeline, champion, latest),
    }  # fmt: skip
    verdict = {"run": run, **judge(pipeline, candidates, champions, sizes, first_not_finite(candidate))}
    its.keep(
        "verdict.json",
        {**verdict, "trial": best["trial"], "start": best["start"], "params": best["params"], "champion": plan.champion,
         "window": window, "candidate_report": candidates.report, "champion_report": champions.report},
    )  # fmt: skip
    return verdict


def _champion(its: Run, plan: Plan) -> tuple[Any, int]:
    """The live champion's line, at the window's start or at the base that began within the window before the split."""
    window = plan.window
    base = base_before(its, plan.champion, window.shard, window.split_offset)
    if base.offset >= window.from_offset:
        return base.model, base.offset
    return champion_at(its, plan.champion, window.shard, window.from_offset).model, window.from_offset


def latency_us(pipeline: Pipeline, model: Any, lessons: Sequence[Lesson]) -> float:
    """Microseconds per prediction with its explanation: the mean of the fastest of five runs over these events."""
    scorer = compile_scorer(model, pipeline.task, explained_top=pipeline.explained_top, threshold=pipeline.threshold)
    fastest = float("inf")
    for _ in range(TIMED_RUNS):
        began_s = time.perf_counter()
        for lesson in lessons:
            scorer(lesson.features)
        fastest = min(fastest, time.perf_counter() - began_s)
    return fastest / len(lessons) * 1e6


def judge(
    pipeline: Pipeline,
    candidate: Judged,
    champion: Judged,
    sizes: Mapping[str, float],
    not_finite: str | None = None,
) -> dict[str, Any]:
    """The verdict: {"accepted", "why", "figures"}.

    A candidate must be better in the metric, by at least `gain_min`; no worse than `segment_loss_max` in any segment
    with 100 labels; within `size_bytes_max` and `latency_us_max`; and finite.
    """
    rules, figure = pipeline.retrain, pipeline.metric
    gain = _gain(pipeline, candidate.figure, champion.figure)
    worst = max(_segment_losses(pipeline, candidate, champion), default=None)
    against = list(_objections(pipeline, candidate, champion, gain, sizes, worst))
    if not_finite is not None:
        against.append(f"its {not_finite} is not finite")
    accepted = not against
    better = "lower" if pipeline.metric_sign < 0 else "higher"
    figures = {
        "figure": figure, "candidate": candidate.figure, "champion": champion.figure, "gain": gain,
        "gain_min": rules.gain_min, "labels": candidate.labels, "candidate_failures": candidate.failures,
        "champion_failures": champion.failures, **sizes,
        "worst_segment": worst[1] if worst else None, "worst_segment_loss": worst[0] if worst else None,
        **{f"candidate_{k}": candidate.report["overall"][k] for k in ("skill_vs_persistence", "skill_vs_prior")},
    }  # fmt: skip
    name = figure.replace("_", " ")
    head = (
        f"{name} {_text(candidate.figure)} against the champion's {_text(champion.figure)} on {candidate.labels} later "
        f"labels ({better} is better)"
    )
    why = f"Accepted: {head}." if accepted else f"Refused: {'; '.join(against)}. {head[0].upper()}{head[1:]}."
    return {"accepted": accepted, "why": why, "figures": figures}


def _objections(
    pipeline: Pipeline,
    candidate: Judged,
    champion: Judged,
    gain: float | None,
    sizes: Mapping[str, float],
    worst: tuple[float, str] | None,
) -> Iterator[str]:
    rules = pipeline.retrain
    if candidate.figure is None:
        yield "the figure is not defined for it there"
    elif gain is not None and gain <= 0:
        yield "it is no better" if gain == 0 else f"it is worse by {-gain:.4g}"
    elif gain is not None and gain < rules.gain_min:
        yield f"it is better by {gain:.4g}, retrain.gain_min is {rules.gain_min:g}"
    if candidate.failures > champion.failures:
        yield f"it fails for {candidate.failures} events or labels, the champion for {champion.failures}"
    if worst is not None and worst[0] > rules.segment_loss_max:
        yield f"where {worst[1]} it is worse by {worst[0]:.4g}, retrain.segment_loss_max is {rules.segment_loss_max:g}"
    if sizes["size_bytes"] > rules.size_bytes_max:
        yield f"it has {sizes['size_bytes']:.0f} bytes, retrain.size_bytes_max is {rules.size_bytes_max}"
    if rules.latency_us_max is not None and sizes["latency_us"] > rules.latency_us_max:
        yield f"it takes {sizes['latency_us']:.0f} µs, retrain.latency_us_max is {rules.latency_us_max:g}"


def _gain(pipeline: Pipeline, candidate: float | None, champion: float | None) -> float | None:
    """Positive: the candidate is better. None: one of them has no figure."""
    if candidate is None or champion is None:
        return None
    return pipeline.metric_sign * (candidate - champion)


def _segment_losses(pipeline: Pipeline, candidate: Judged, champion: Judged) -> Iterator[tuple[float, str]]:
    key = pipeline.metric
    for segment, values in champion.segments.items():
        for value, report in values.items():
            other = candidate.segments.get(segment, {}).get(value)
            if other is None or report["overall"]["labels"] < SEGMENT_LABELS_MIN:
                continue
            gain = _gain(pipeline, other["overall"]["model"].get(key), report["overall"]["model"].get(key))
            if gain is not None:
                yield -gain, f"{segment}={value}"


def _text(figure: float | None) -> str:
    return "undefined" if figure is None else f"{figure:.4g}"
