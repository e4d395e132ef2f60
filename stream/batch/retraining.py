"""The steps of a retraining run, in order. Each may run again, anywhere, and gives the same; small JSON in and out.

    take_up -> archive_examples -> choose_window -> plan_trials -> run_trials (spread) -> fit -> compare -> release

The DAGs call these and nothing else; `driftloop retrain` calls them one after the other. What they leave behind lies under
the artifact URL in `runs/<run>/`, and in MLflow where that is set (`tracking.py`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from stream.adapters.file_pipelines import LoadedPipeline
from stream.batch import archiving, comparing, fitting, releasing, searching, taking_up, tracking
from stream.batch.candidates import line_start, taken_back
from stream.batch.plans import Run
from stream.batch.windows import choose_window as find_window
from stream.errors import Conflict
from stream.lifecycle import RELEASE
from stream.settings import Settings

__all__ = [
    "archive_examples",
    "by_the_clock",
    "choose_window",
    "compare",
    "fail",
    "fit",
    "plan_trials",
    "release",
    "run_trials",
    "take_up",
]


ATTEMPTS = 10


def take_up(settings: Settings, loaded: LoadedPipeline, *, run_id: str) -> dict[str, Any]:
    """Is there a drift to retrain for? See `taking_up.take_up`."""
    answer = taking_up.take_up(settings, loaded.pipeline, run_id)
    if not answer["go"]:
        tracking.track_early_end(settings, loaded, run_id, said=answer["why"])
    return answer


def by_the_clock(settings: Settings, loaded: LoadedPipeline) -> dict[str, Any]:
    """For a run by the clock. See `taking_up.by_the_clock`."""
    return taking_up.by_the_clock()


def archive_examples(settings: Settings, loaded: LoadedPipeline) -> dict[str, Any]:
    """Archive what is new. Being overtaken by another archiver is no failure: the rows are there."""
    for left in reversed(range(ATTEMPTS)):
        try:
            return archiving.archive_examples(settings, loaded.pipeline)
        except Conflict:
            if not left:
                raise
            time.sleep(random.uniform(0.0, 1.0))  # else two would meet again and again
    raise AssertionError


def choose_window(
    settings: Settings, loaded: LoadedPipeline, *, run_id: str, taken: Mapping[str, Any]
) -> dict[str, Any]:
    """Which examples the run is about, and whose champion the candidate must beat.

    Args:
        taken: what `take_up` or `by_the_clock` returned; `from_offset` is the change point, or None.

    Returns {"go", "why", "window", "champion"}. It is written down at the first call: a retry gets the same.
    """
    run = Run(settings, loaded, run_id)
    found = run.find("window.json")
    if found is None:
        roster = releasing.live_roster(settings, loaded.pipeline.name)
        if roster is None:
            found = {"go": False, "why": "nothing is live under this name", "window": None, "champion": None}
        else:
            champion = roster.champion.partition("@")[0]
            # Examples from before the last reset are of another numbering.
            since = max(taken.get("from_offset") or 0, line_start(run, champion))
            left_out = taken_back(run, champion)
            chosen = find_window(loaded.pipeline, run.source, change_point=since or None, left_out=left_out)
            found = {"go": chosen["window"] is not None, **chosen, "champion": champion}
            if not found["go"]:
                run.keep("no_window.json", found)  # the run has an answer; more labels start the next
        if found["go"]:  # a window that is too short today may be long enough at a retry
            run.keep("window.json", found)
            drift = taken.get("drift") or {}
            run.keep(
                "cause.json", {"why": taken.get("why"), "drift_id": drift.get("drift_id"), "stage": taken.get("stage")}
            )
    if not found["go"]:
        tracking.track_early_end(settings, loaded, run_id, said=found["why"])
    return dict(found)


def plan_trials(
    settings: Settings, loaded: LoadedPipeline, *, run_id: str, window: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What the tasks of the search are called with. `window`: as `choose_window` returned it."""
    return searching.plan_trials(settings, loaded, run_id, window["window"], champion=window["champion"])


def run_trials(settings: Settings, loaded: LoadedPipeline, *, run_id: str, part: int) -> dict[str, Any]:
    """One task's share of the trials."""
    return searching.run_trials(settings, loaded, run_id, part)


def fit(settings: Settings, loaded: LoadedPipeline, *, run_id: str) -> dict[str, Any]:
    """Train the best trial's recipe on the whole window and store it as a base."""
    return fitting.fit(settings, loaded, run_id)


def compare(settings: Settings, loaded: LoadedPipeline, *, run_id: str) -> dict[str, Any]:
    """Champion and candidate on later examples; "go" says whether the candidate may be released."""
    verdict = comparing.compare(settings, loaded, run_id)
    tracking.track(settings, loaded, run_id, ended=not verdict["accepted"])
    return {"go": verdict["accepted"], **verdict}


def release(
    settings: Settings,
    loaded: LoadedPipeline,
    *,
    run_id: str,
    candidate: Mapping[str, Any],
    verdict: Mapping[str, Any],
    approval: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Hand the candidate to the live system, once. `parent` is the champion that it was compared with.

    Args:
        approval: what a person has said, as Airflow's human-in-the-loop operator returns it; None: nobody is to be asked.

    Returns {"released", "base", "why"}.
    """
    why, evidence = str(verdict["why"]), _plain(verdict["figures"])
    if approval is not None and approval.get("chosen_options") != [RELEASE]:
        answer = {"released": False, "base": candidate["base"], "why": f"rejected by {_who(approval)}"}
    else:
        by = f"run:{run_id}" if approval is None else f"person:{_who(approval)} for run:{run_id}"
        releasing.release(
            settings,
            loaded.pipeline,
            candidate["base"],
            by=by,
            command_id=f"release-{run_id}",
            parent=candidate["parent"],
            reason=why,
            evidence=evidence,
            extra_allowed=loaded.allowed,
        )
        answer = {"released": True, "base": candidate["base"], "why": why}
    Run(settings, loaded, run_id).keep("release.json", answer)
    tracking.track(settings, loaded, run_id, ended=True)
    return answer


def fail(settings: Settings, loaded: LoadedPipeline | str, *, run_id: str, at: str, why: str) -> None:
    """Note where runs are tracked that this one has ended at a step that is not tried again. Never raises.

    `loaded`: the pipeline; or its name, where the file does not load.
    """
    tracking.track(settings, loaded, run_id, ended=True, failed=f"{at}: {why}")


def retrain(
    settings: Settings,
    loaded: LoadedPipeline,
    *,
    run_id: str,
    change_point: int | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """All steps in this process, without Airflow and without an approval.

    Returns {"released", "base", "why"}; `base` is None where there was too little to learn from.
    """
    now = "begin"

    def begin(step: str) -> None:
        nonlocal now
        now = step
        on_step(step)

    try:
        return _retrain(settings, loaded, run_id, change_point, begin)
    except (Exception, KeyboardInterrupt) as error:
        fail(settings, loaded, run_id=run_id, at=now, why=f"{type(error).__name__}: {error}")
        raise


def _retrain(
    settings: Settings, loaded: LoadedPipeline, run_id: str, change_point: int | None, on_step: Callable[[str], None]
) -> dict[str, Any]:
    on_step("archiving examples")
    archive_examples(settings, loaded)
    on_step("choosing the window")
    window = choose_window(settings, loaded, run_id=run_id, taken={"why": "by_hand", "from_offset": change_point})
    if not window["go"]:
        return {"released": False, "base": None, "why": window["why"]}
    for part in plan_trials(settings, loaded, run_id=run_id, window=window):
        on_step(f"searching, part {part['part']}")
        run_trials(settings, loaded, run_id=run_id, part=part["part"])
    on_step("fitting")
    candidate = fit(settings, loaded, run_id=run_id)
    on_step("comparing with the champion")
    verdict = compare(settings, loaded, run_id=run_id)
    if not verdict["go"]:
        return {"released": False, "base": candidate["base"], "why": verdict["why"]}
    on_step("releasing")
    return release(settings, loaded, run_id=run_id, candidate=candidate, verdict=verdict)


def _who(approval: Mapping[str, Any]) -> str:
    """Airflow's users have an id, and not all of them a name; without authentication there may be neither."""
    user = approval.get("responded_by_user") or {}
    nobody = "time-out" if approval.get("timedout") else "somebody unnamed"
    return str(user.get("name") or user.get("id") or nobody)


def _plain(figures: Any) -> dict[str, Any]:
    """What a release record may hold."""
    return {str(k): v for k, v in dict(figures).items() if isinstance(v, float | int | str | bool) or v is None}
