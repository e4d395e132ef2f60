"""What is kept of a search: its table, and two plots (how the figure rose, which parameters mattered)."""

from __future__ import annotations

import csv
import io
import warnings
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from stream.batch.plans import Run

__all__ = ["write_results"]

IMPORTANCE_MIN = 6  # finished trials


def write_results(run: Run, study: Study) -> list[dict[str, Any]]:
    """Write trials.csv, history.svg, importance.svg and, last, trials.json; returns the rows."""
    trials = [one for one in study.get_trials(deepcopy=False) if one.user_attrs.get("void") != "surplus"]
    rows = [_row(one) for one in trials]
    figure = run.pipeline.metric
    run.keep("trials.csv", _csv(rows, figure))
    run.keep("history.svg", _history(rows, figure, run.pipeline.metric_sign < 0))
    importance = _importance(study)
    if importance:
        run.keep("importance.svg", _bars(importance, figure))
        run.keep("importance.json", importance)
    run.keep("trials.json", rows)
    return rows


def _row(trial: FrozenTrial) -> dict[str, Any]:
    facts = trial.user_attrs
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "start": facts.get("start", "scratch"),
        "params": facts.get("params", trial.params),
        "figure": trial.value if trial.state == TrialState.COMPLETE else None,
        "reports": [[step, value] for step, value in sorted(trial.intermediate_values.items())],
        "figures": facts.get("figures", {}),
        "part": facts.get("part"),
        "seconds": facts.get("seconds"),
        "error": facts.get("error", facts.get("void", "")),
    }


def _csv(rows: list[dict[str, Any]], figure: str) -> bytes:
    names = sorted({name for row in rows for name in row["params"]})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", "state", "start", figure, *names, "seconds", "error"])
    for row in rows:
        params = [row["params"].get(name, "") for name in names]
        table.writerow([row["trial"], row["state"], row["start"], row["figure"], *params, row["seconds"], row["error"]])
    return text.getvalue().encode()


def _importance(study: Study) -> dict[str, float]:
    """How much of what tells good trials from others each parameter explains (Watanabe et al. 2023, "PED-ANOVA")."""
    finished = [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if t.params]
    if len(finished) < IMPORTANCE_MIN or len({t.value for t in finished}) < 2:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of parameters that few trials had
            found = optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    except (ValueError, RuntimeError):
        return {}  # no parameter that all of them have
    return {name: float(value) for name, value in found.items()}


# -- plots ---------------------------------------------------------------------------------------------------------------


def _history(rows: list[dict[str, Any]], name: str, lower_is_better: bool) -> bytes:
    done = [row for row in rows if row["figure"] is not None]
    best, course = None, []
    for row in done:
        value = row["figure"]
        best = value if best is None else (min if lower_is_better else max)(best, value)
        course.append(best)

    def draw(axes: Any) -> None:
        numbers = [row["trial"] for row in done]
        axes.plot(numbers, [row["figure"] for row in done], "o", ms=4, label="trial")
        axes.plot(numbers, course, drawstyle="steps-post", label="best so far")
        pruned = [row for row in rows if row["state"] == "pruned" and row["reports"]]
        axes.plot([r["trial"] for r in pruned], [r["reports"][-1][1] for r in pruned], "x", ms=4, label="given up")
        axes.set_xlabel("trial")
        axes.set_ylabel(name.replace("_", " "))
        axes.legend()

    return _svg(draw)


def _bars(importance: dict[str, float], name: str) -> bytes:
    def draw(axes: Any) -> None:
        axes.barh(list(reversed(importance)), list(reversed(importance.values())))
        axes.set_xlabel(f"share in what makes {name.replace('_', ' ')} good")

    return _svg(draw)


def _svg(draw: Any) -> bytes:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    draw(figure.add_subplot())
    out = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})
    return out.getvalue()
