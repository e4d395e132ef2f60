"""The search over a pipeline's parameters: Optuna's trials, spread over tasks that share one log in Redis.

Each trial is one candidate, evaluated prequentially with the real label delay on the window's search part. The pipeline's
current parameters from scratch, the champion going on as it is, the one before it and another pipeline's model (where declared) are one trial
each, because a warm start brings its own parameters; all others are sampled (TPE: Bergstra et al. 2011, "Algorithms for
hyper-parameter optimization"). A trial whose figure is below the median of the others at the same point is given up.

With one worker a run is the same each time, also when it was killed and went on: each trial draws from its own seed. What
a killed task left running is run again when that task is retried.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import msgspec
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from stream.adapters.file_pipelines import LoadedPipeline
from stream.adapters.redis_search import RedisJournal
from stream.batch.candidates import Recipe, Starts, find_former, find_transfer, high_water_at, taken_back
from stream.batch.plans import Plan, Run
from stream.batch.search_results import write_results
from stream.batch.windows import ExampleSource, Window
from stream.core.prequential import Lesson, evaluate, timeline
from stream.errors import ConfigurationError, Unavailable
from stream.pipeline import Pipeline
from stream.search_space import Choice, Whole
from stream.settings import Settings

__all__ = ["finish_search", "plan_trials", "run_trials"]

STARTUP_SHARE = 0.3  # of the trials are drawn at random before the sampler believes in its model
PRUNED_AFTER = 2  # reports of a trial before it may be given up
ORPHAN_S = 120  # a trial without an owner for so long was left by a task that was killed while it began


def plan_trials(
    settings: Settings,
    loaded: LoadedPipeline,
    run: str,
    window: Mapping[str, Any],
    *,
    champion: str | None = None,
    trials: int | None = None,
    workers: int | None = None,
    source: ExampleSource | None = None,
) -> list[dict[str, Any]]:
    """Write down what the run is of and queue the first trials; one dictionary for each task, arguments of `run_trials`.

    Args:
        run: the run's name; a second call with it changes nothing.
        window: what `choose_window` returned under "window".
        champion: base of the live champion; None: the pipeline's fresh model.
        trials, workers: instead of the pipeline's own.
    """
    its = Run(settings, loaded, run, source)
    pipeline, rules = its.pipeline, its.pipeline.retrain
    if its.find("plan.json") is None:
        chosen = msgspec.convert(window, Window)
        before = high_water_at(its, champion, chosen.shard, chosen.from_offset)
        records = its.source.records(chosen.shard, chosen.from_offset, chosen.to_offset)
        left_out = taken_back(its, champion)
        found = timeline(pipeline, records, before, left_out)
        former = find_former(its, champion, chosen.from_offset) if "former" in rules.start_from else None
        transfer = find_transfer(its, found.lessons[0].came_at_ms) if "transfer" in rules.start_from else None
        plan = Plan(
            run=run, pipeline=pipeline.name, window=chosen, seed=pipeline.seed, trials=trials or rules.trials,
            workers=workers or rules.workers, champion=champion, former=former, transfer=transfer,
            high_water=before, left_out=list(left_out), data=found.digest,
        )  # fmt: skip
        its.keep("plan.json", plan)
    plan = its.plan()
    if its.find("trials.json") is None:
        with _study(its, plan) as (study, _):
            _queue_first(study, pipeline, plan)
    return [{"run": run, "part": part} for part in range(plan.workers)]


def run_trials(
    settings: Settings, loaded: LoadedPipeline, run: str, part: int, *, source: ExampleSource | None = None
) -> dict[str, Any]:
    """Run trials until the run has all of them, whoever ran them. A retry goes on; after `finish_search` it does nothing.

    Returns {"run", "part", "trials": how many ran here, "best": the best figure of all so far}.
    """
    its = Run(settings, loaded, run, source)
    plan = its.plan()
    if its.find("trials.json") is not None:
        return {"run": run, "part": part, "trials": 0, "best": None}
    window = plan.window
    lessons = [one for one in its.lessons(plan).lessons if one.offset < window.split_offset]
    starts = Starts(its, plan)
    ran = 0
    with _study(its, plan) as (study, journal):
        if its.find("trials.json") is not None:  # just now: this study is a new, empty one
            journal.delete()
            return {"run": run, "part": part, "trials": 0, "best": None}
        _requeue(study, part)
        while (trial := _next_trial(study, its.pipeline, plan, part)) is not None:
            with suppress(UpdateFinishedTrialError):
                _run_trial(study, trial, its.pipeline, starts, lessons, window.score_offset)
                ran += 1
        best = _best(study)
    return {"run": run, "part": part, "trials": ran, "best": None if best is None else best.value}


def finish_search(
    settings: Settings, loaded: LoadedPipeline, run: str, *, source: ExampleSource | None = None
) -> dict[str, Any]:
    """Keep the table of trials and its plots with the run, and drop the shared log; may be repeated.

    Returns {"run", "trials", "finished", "best": the row of the best}. Raises ConfigurationError if no trial finished.
    """
    its = Run(settings, loaded, run, source)
    rows = its.find("trials.json")
    if rows is None:
        plan = its.plan()
        with _study(its, plan) as (study, journal):
            rows = its.find("trials.json")  # if somebody else has finished it just now, this study is a new, empty one
            if rows is None:
                for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                    with suppress(UpdateFinishedTrialError):
                        _abandon(study, trial)
                rows = write_results(its, study)
            journal.delete()
    finished = [row for row in rows if row["state"] == "complete"]
    if not finished:
        reasons = sorted({row["error"] for row in rows if row["error"]})
        raise ConfigurationError("search_space", run, f"no trial finished: {'; '.join(reasons[:3]) or 'none ran'}")
    sign = its.pipeline.metric_sign
    best = max(finished, key=lambda row: (sign * row["figure"], -row["trial"]))
    return {"run": run, "trials": len(rows), "finished": len(finished), "best": best}


# -- the study -----------------------------------------------------------------------------------------------------------


@contextmanager
def _study(its: Run, plan: Plan) -> Iterator[tuple[Study, RedisJournal]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = RedisJournal(**its.settings.redis(), pipeline=its.pipeline.name, run=its.name)
    try:
        study = optuna.create_study(
            study_name=its.name,
            storage=optuna.storages.JournalStorage(journal),
            sampler=_SeededByTrial(plan),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=PRUNED_AFTER),
            direction="minimize" if its.pipeline.metric_sign < 0 else "maximize",
            load_if_exists=True,
        )
        yield study, journal
    finally:
        journal.close()


class _SeededByTrial(BaseSampler):  # type: ignore[misc]
    """Each trial draws from a seed of its own, so that a search that was killed goes on as it would have gone."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._number = -1
        self._sampler: Any = TPESampler(seed=plan.seed)

    def _of(self, study: Study, trial: FrozenTrial) -> Any:
        if trial.number != self._number:
            self._number = trial.number
            self._sampler = TPESampler(
                seed=(self._plan.seed * 1_000_003 + _slot(study, trial.number)) % (1 << 32),
                n_startup_trials=max(3, round(self._plan.trials * STARTUP_SHARE)),
            )
        return self._sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        return dict(self._of(study, trial).infer_relative_search_space(study, trial))

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        return dict(self._of(study, trial).sample_relative(study, trial, search_space))

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        return self._of(study, trial).sample_independent(study, trial, param_name, param_distribution)


def _slot(study: Study, number: int) -> int:
    """Which trial of the plan this is: how many before it count."""
    return sum(one.number < number and "void" not in one.user_attrs for one in study.get_trials(deepcopy=False))


def _best(study: Study) -> FrozenTrial | None:
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return study.best_trial if finished else None


# -- which trial is next ---------------------------------------------------------------------------------------------------


def _queue_first(study: Study, pipeline: Pipeline, plan: Plan) -> None:
    """The current parameters from scratch, the champion as it is, the one before it, the other pipeline's model."""
    missing = {name for name, base in (("former", plan.former), ("transfer", plan.transfer)) if base is None}
    there = {one.user_attrs.get("first") for one in study.get_trials(deepcopy=False)}
    for start in pipeline.retrain.start_from:
        if start in there or start in missing:
            continue
        params = _current(pipeline) if start == "scratch" else {}
        study.enqueue_trial(params, user_attrs={"first": start, "start": start, "names": list(params)})


def _current(pipeline: Pipeline) -> dict[str, Any]:
    """The pipeline's own values of what is searched, where they lie in the space."""
    found: dict[str, Any] = {}
    for name, parameter in pipeline.search_space.items():
        if name in pipeline.params and _applies(parameter, {**pipeline.params}):
            value = pipeline.params[name]
            if _within(parameter, value):
                found[name] = value
    return found


def _within(parameter: Any, value: Any) -> bool:
    if isinstance(parameter, Choice):
        return value in parameter.values
    whole = isinstance(value, int) and not isinstance(value, bool)
    return (whole or (isinstance(value, float) and not isinstance(parameter, Whole))) and (
        parameter.low <= value <= parameter.high
    )


def _next_trial(study: Study, pipeline: Pipeline, plan: Plan, part: int) -> Trial | None:
    """None when the plan has all its trials."""
    while True:
        trial = _asked(study, pipeline, plan, part)
        first = trial.user_attrs.get("first") if trial is not None else None
        if trial is None or first is None:
            return trial
        before = study.get_trials(deepcopy=False)[: trial.number]
        if all(one.user_attrs.get("first") != first or "void" in one.user_attrs for one in before):
            return trial
        _void(study, trial, "it was queued twice")


def _asked(study: Study, pipeline: Pipeline, plan: Plan, part: int) -> Trial | None:
    sampled = bool(pipeline.search_space) and "scratch" in pipeline.retrain.start_from
    there = [one for one in study.get_trials(deepcopy=False) if "void" not in one.user_attrs]
    waiting = any(one.state == TrialState.WAITING for one in there)
    if not waiting and (not sampled or len(there) >= plan.trials):
        return None
    trial = study.ask()
    trial.set_user_attr("part", part)
    queued = "start" in trial.user_attrs
    if not queued and (not sampled or _slot(study, trial.number) >= plan.trials):  # two workers took the last one
        _void(study, trial, "surplus")
        return None
    if not queued:
        trial.set_user_attr("start", "scratch")
    return trial


def _void(study: Study, trial: Trial, why: str) -> None:
    trial.set_user_attr("void", why)
    _tell(study, trial, state=TrialState.FAIL)


def _tell(study: Study, trial: Trial | int, value: float | None = None, state: TrialState | None = None) -> None:
    """Raises UpdateFinishedTrialError: a second process of this task took it for one of a killed process, and runs it again."""
    try:
        study.tell(trial, value, state=state)
    except ValueError as error:
        raise UpdateFinishedTrialError(str(error)) from error


def _requeue(study: Study, part: int) -> None:
    """What this task left running when it was killed, and what nobody owns, is run again."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get("part")
        old = trial.datetime_start is not None and datetime.now() - trial.datetime_start > timedelta(seconds=ORPHAN_S)  # noqa: DTZ005 - as Optuna writes it
        if owner == part or (owner is None and old):
            facts = trial.user_attrs
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            again = {name: facts[name] for name in ("first", "start") if name in facts}
            try:
                _abandon(study, trial)
            except UpdateFinishedTrialError:
                continue
            if "params" in facts or "names" in facts:  # else it had not begun: another takes its place
                study.enqueue_trial(params, user_attrs={**again, "names": list(params)})


def _abandon(study: Study, trial: FrozenTrial) -> None:
    study._storage.set_trial_user_attr(trial._trial_id, "void", "its task ended before it")
    _tell(study, trial.number, state=TrialState.FAIL)


# -- one trial -------------------------------------------------------------------------------------------------------------


def _run_trial(
    study: Study, trial: Trial, pipeline: Pipeline, starts: Starts, lessons: list[Lesson], score_from: int
) -> None:
    params = _suggested(trial, pipeline)
    recipe = Recipe(trial.user_attrs["start"], params)
    trial.set_user_attr("params", params)
    first = "first" in trial.user_attrs

    def report(number: int, figure: float | None) -> None:
        if figure is not None:
            trial.report(figure, number)
            if not first and trial.should_prune():
                raise optuna.TrialPruned

    began_s = time.perf_counter()
    try:
        model = starts.model(recipe)
        judged = evaluate(
            pipeline, model, lessons, score_from=score_from, fit=recipe.start == "scratch", on_report=report
        )
    except optuna.TrialPruned:
        trial.set_user_attr("seconds", time.perf_counter() - began_s)
        _tell(study, trial, state=TrialState.PRUNED)
        return
    except (Unavailable, UpdateFinishedTrialError):
        raise  # the task is retried, and this trial with it; or that has happened already
    except Exception as error:  # noqa: BLE001 - parameters that the user's build() cannot take are a failed trial
        trial.set_user_attr("error", f"{type(error).__name__}: {error}"[:500])
        _tell(study, trial, state=TrialState.FAIL)
        return
    trial.set_user_attr("seconds", time.perf_counter() - began_s)
    sheet = judged.report["overall"]
    figures = {name: value for name, value in sheet["model"].items() if isinstance(value, int | float)}
    figures |= {name: sheet[name] for name in ("skill_vs_persistence", "skill_vs_prior")}
    trial.set_user_attr("figures", {**figures, "failures": judged.failures})
    if judged.figure is None:
        trial.set_user_attr("error", f"{pipeline.metric} is not defined on the {judged.labels} scored labels")
        _tell(study, trial, state=TrialState.FAIL)
    else:
        _tell(study, trial, judged.figure)


def _suggested(trial: Trial, pipeline: Pipeline) -> dict[str, Any]:
    """Values of the search space; of a queued trial, those that it was queued with."""
    names = trial.user_attrs.get("names")
    params: dict[str, Any] = {}
    for name, parameter in pipeline.search_space.items():
        if (names is not None and name not in names) or not _applies(parameter, {**pipeline.params, **params}):
            continue
        if isinstance(parameter, Choice):
            params[name] = trial.suggest_categorical(name, parameter.values)
        elif isinstance(parameter, Whole):
            params[name] = trial.suggest_int(name, parameter.low, parameter.high, log=parameter.log)
        else:
            params[name] = trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
    return params


def _applies(parameter: Any, params: Mapping[str, Any]) -> bool:
    return all(name in params and params[name] == value for name, value in parameter.when.items())
