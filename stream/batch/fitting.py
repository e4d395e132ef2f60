"""The best trial, trained on the whole window: a new base model."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from stream.adapters.file_pipelines import LoadedPipeline
from stream.batch.candidates import Recipe, Starts
from stream.batch.plans import Plan, Run
from stream.batch.searching import finish_search
from stream.batch.windows import ExampleSource
from stream.boosting import is_batch_trained
from stream.core.guarding import first_not_finite
from stream.core.lean_pickle import dump_model, load_model
from stream.core.model_bases import ModelBase, open_base, seal_base
from stream.core.prequential import train
from stream.core.unlearning import LEFT_OUT
from stream.errors import Conflict, DriftloopError
from stream.settings import Settings

__all__ = ["fit"]

LIBRARIES = ("driftloop", "river", "numpy", "lightgbm", "optuna")


def fit(settings: Settings, loaded: LoadedPipeline, run: str, *, source: ExampleSource | None = None) -> dict[str, Any]:
    """Train the recipe of the best trial on the window, up to its end, and store it as a base.

    It learns in the order of the labels, as live. A batch-trained model from scratch is fitted on the whole window; one with
    an online layer on the part before the comparison, and the layer on the rest, because on rows that the trees have seen
    their score is better than it will be.

    The same run gives the same base, in any process. Returns {"run", "base", "parent", "offset", "trial", "start", "params",
    "learned", "size_bytes"}.
    """
    its = Run(settings, loaded, run, source)
    plan = its.plan()
    window = plan.window
    best = finish_search(settings, loaded, run, source=source)["best"]
    recipe = Recipe(best["start"], best["params"])
    found = its.lessons(plan)
    model = Starts(its, plan).model(recipe)
    batch = recipe.start == "scratch" and is_batch_trained(model)
    fit_to = None
    if batch:
        fit_to = window.split_offset if model.online_layer else window.to_offset
    learned = train(its.pipeline, model, found.lessons, fit_to=fit_to)
    bad = first_not_finite(model)
    if bad is not None:
        raise DriftloopError(f"{bad} is not finite after training: narrow search_space, or scale the features")
    model = load_model(dump_model(model), extra_allowed=its.allowed)  # what will be served is a copy
    base = ModelBase(
        pipeline=its.pipeline.name,
        shard=window.shard,
        offset=window.to_offset,
        model=model,
        high_water=found.high_water,
        learned=learned,
        provenance=_provenance(its, plan, best, found.lessons[-1].learned_at_ms),
    )
    name = base.name
    _store(its, base, name)
    result = {
        "run": run, "base": name, "parent": plan.champion, "offset": base.offset, "trial": best["trial"],
        "start": recipe.start, "params": recipe.params, "learned": learned, "size_bytes": len(dump_model(model)),
    }  # fmt: skip
    its.keep("fit.json", {**result, "provenance": base.provenance})
    return result


def _store(its: Run, base: ModelBase, name: str) -> None:
    path = f"bases/{name}.model"
    stored = its.files.find_file(path)
    if stored is None:
        try:
            its.files.put_base(seal_base(base, configuration=its.configuration, key=its.keys[0]), name)
            return
        except Conflict:  # another run has come to the same model at the same moment
            stored = its.files.get_file(path)
    # By an earlier attempt, perhaps with a key that has been changed since: it must be ours and say its name.
    open_base(stored, its.keys, pipeline=base.pipeline, configuration=its.configuration, extra_allowed=its.allowed)


def _provenance(its: Run, plan: Plan, best: dict[str, Any], until_ms: int) -> dict[str, Any]:
    """Everything that is needed to make this base again, and what it was chosen for."""
    pipeline, window = its.pipeline, plan.window
    return {
        "run": its.name,
        "trial": best["trial"],
        "start": best["start"],
        "params": best["params"],
        "pipeline_params": dict(pipeline.params),
        "seed": pipeline.seed,
        "figure": best["figure"],
        "parent": plan.champion,
        "former": plan.former if best["start"] == "former" else None,
        "transfer": plan.transfer if best["start"] == "transfer" else None,
        "transfer_from": pipeline.retrain.transfer_from if best["start"] == "transfer" else None,
        "shard": window.shard,
        "from_offset": window.from_offset,
        "split_offset": window.split_offset,
        "to_offset": window.to_offset,
        "labels": window.labels,
        "data": plan.data,
        LEFT_OUT: msgspec.to_builtins(plan.left_out),
        "until_ms": until_ms,
        "task": pipeline.task,
        "features": list(pipeline.feature_names),
        "configuration": its.configuration,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
