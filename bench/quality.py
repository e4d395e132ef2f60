"""Is the loop worth it? A model that is frozen, one that learns, one that starts anew at each drift, and the whole loop.

Accuracy of what was served to users, on rare classes average precision, over all events after the first 1,000; and what a bad
candidate costs. No broker is needed: see `bench/loop.py`. Streams that are not there are left out (`bench/streams.py`).
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from typing import Any

import msgspec

from bench.harness import figure
from bench.loop import Live, Retraining, release
from bench.streams import Stream, streams
from stream.boosting import BoostedClassifier
from stream.core.explaining import Answer
from stream.core.lean_pickle import dump_model, load_model
from stream.core.model_bases import ModelBase
from stream.core.prequential import timeline
from stream.ports import Outgoing

__all__ = ["run"]

ROWS, ROWS_QUICK = 25_000, 5_000
DELAYS = (100, 1_000)
SYSTEMS = ("frozen", "online", "online_reset", "whole_loop")
HALF_COMPARED_FROM = 1_000  # from this delay also the whole loop with `compare_share=0.5`
SCHEDULED_EVERY = 5_000  # and on rare classes the loop that also retrains by the clock, after so many labels
FROZEN_SHARE = 0.2  # the frozen model learns for so long
BAD_LESSONS = 5_000


def run(quick: bool) -> None:
    for stream in streams(ROWS_QUICK if quick else ROWS):
        for delay in DELAYS[:1] if quick else DELAYS:
            _systems(stream, delay)
            if stream.pipeline.task != "regression":
                _bad_candidates(stream, delay)


def _systems(stream: Stream, delay: int) -> None:
    name = f"quality.{stream.name}.delay_{delay}"
    reached = {}
    variants = [*SYSTEMS]
    if delay >= HALF_COMPARED_FROM:
        variants.append("half_compared")
    if stream.figure == "average_precision":
        variants.append("scheduled")
    for system in variants:
        began_s = time.perf_counter()
        found, more = _run(stream, delay, system)
        reached[system] = found.pop(stream.figure) or 0.0
        others = {key: round(value, 4) for key, value in found.items() if value is not None}
        seconds = round(time.perf_counter() - began_s, 1)
        figure(
            f"{name}.{system}", reached[system], stream.figure.replace("_", " "), events=len(stream.events), **others,
            **more, seconds=seconds,
        )  # fmt: skip
    sign = stream.pipeline.metric_sign
    best = max(SYSTEMS, key=lambda system: sign * reached[system])
    behind = 100 * sign * (reached[best] - reached["whole_loop"])
    if sign < 0:
        figure(f"{name}.best_minus_loop", behind / reached[best], "% of the best's error", goal=0.5, best=best)
    else:
        figure(f"{name}.best_minus_loop", behind, "points", goal=0.5, best=best)


def _run(stream: Stream, delay: int, system: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of what was served, and what happened."""
    if system == "frozen":
        live = Live(stream, delay, learn_until=round(FROZEN_SHARE * len(stream.events))).run()
        return live.figure(), {}
    if system == "online":
        return Live(stream, delay).run().figure(), {}
    if system == "online_reset":
        resets: list[int] = []

        def reset(live: Live, out: list[Outgoing]) -> None:
            if any(one.topic == "drifts" for one in out):
                resets.append(live.learner.offset)
                live.fresh()

        return Live(stream, delay, on_batch=reset).run().figure(), {"resets": resets}
    if system == "half_compared":
        halved = dataclasses.replace(stream.pipeline.retrain, compare_share=0.5)
        stream = stream._replace(pipeline=dataclasses.replace(stream.pipeline, retrain=halved))
    retraining = Retraining(stream, SCHEDULED_EVERY if system == "scheduled" else None)
    live = Live(stream, delay, on_batch=retraining).run()
    records = live.learner.slots.state.outbox
    actions = Counter(one.action for one in records if not one.reason.startswith("release refused"))
    runs = Counter(one["outcome"] for one in retraining.runs)
    history = [
        [r.action, int(r.version.partition("@")[2]), r.decided_by] for r in records if r.decided_by.startswith("rule")
    ]
    told = [f"{one['at']}: {one['outcome']}, {one.get('recipe') or one.get('why')}" for one in retraining.runs]
    return live.figure(), {
        "drifts": len(retraining.drifts), "retrainings": dict(runs), "promotions": actions["promoted"],
        "roll_backs": actions["rolled_back"], "rejected": actions["rejected"], "runs": told,
        "history": history,
    }  # fmt: skip


# -- a bad candidate -------------------------------------------------------------------------------------------------------


def _bad_candidates(stream: Stream, delay: int) -> None:
    """Trees that have learned wrong labels; and one that is the champion's copy until it answers users, and wrong from then on."""
    for kind in ("inverted", "breaks_in_canary"):
        live = _with_bad(stream, delay, kind)
        records = live.learner.slots.state.outbox
        share = max((one.share for one in records if one.action == "canary"), default=0.0)
        trial = max(live.on_trial, 1)
        gone = next((one for one in records if one.action in ("rejected", "rolled_back")), None)
        figure(
            f"quality.{stream.name}.delay_{delay}.bad_candidate.{kind}", 100 * live.right_less_champion / trial,
            "points of accuracy, while it is tried", goal=-100 * share, answered=round(live.given / trial, 4),
            canary_share=share, events=live.on_trial, ended_by=gone.decided_by if gone else None,
            promoted=any(one.action == "promoted" for one in records),
        )  # fmt: skip


def _with_bad(stream: Stream, delay: int, kind: str) -> Live:
    middle, there = len(stream.events) // 2, False

    def put_in(live: Live, _: list[Outgoing]) -> None:
        nonlocal there
        if there or live.learner.offset + delay < middle:
            return
        there = True
        if kind == "inverted":
            model = _inverted(live)
        else:
            model = load_model(dump_model(live.learner.model))
        made = timeline(live.pipeline, live.log.records(0, 0, live.learner.offset))
        base = ModelBase(
            pipeline=live.pipeline.name, shard=0, offset=live.learner.offset, model=model, high_water=made.high_water
        )
        release(live, base, None, f"bad-{kind}")

    return Live(stream, delay, on_batch=put_in, breaks=_wrong if kind == "breaks_in_canary" else None).run()


def _inverted(live: Live) -> Any:
    """Trees that were taught wrong labels, and that learn nothing more: a linear model would be put right within its trial."""
    model, end = BoostedClassifier(trees=40, leaves=15), live.learner.offset
    lessons = timeline(live.pipeline, live.log.records(0, max(0, end - BAD_LESSONS), end)).lessons
    labels: list[Any] = sorted({one.label for one in lessons}, key=str)
    other = {label: labels[number - 1] for number, label in enumerate(labels)}
    model.fit([one.features for one in lessons], [other[one.label] for one in lessons])
    return load_model(dump_model(model))


def _wrong(answer: Answer) -> Answer:
    """The least likely class, with the probability of the likeliest."""
    probabilities = answer.probabilities or {}
    if len(probabilities) < 2:
        return answer
    names = sorted(probabilities, key=probabilities.__getitem__)
    swapped = dict(zip(names, (probabilities[name] for name in reversed(names)), strict=True))
    prediction = names[0] == "true" if isinstance(answer.prediction, bool) else names[0]
    return msgspec.structs.replace(answer, prediction=prediction, probabilities=swapped)
