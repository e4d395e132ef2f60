"""A pipeline tried on made-up events before anything starts: build, features, predict, learn, snapshot, predict again.

What would fail for every event, or only at the first snapshot, is found here and named. The events are made up from the
declared features, so code of the user's own that knows only certain texts or ranges may be right to refuse some of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from river import base

from stream.core.accelerating import compile_learner
from stream.core.digest import state_digest
from stream.core.drifting import DriftWatch
from stream.core.explaining import Answer, compile_scorer
from stream.core.features import EntityFeatures
from stream.core.guarding import first_not_finite, parts_of, warnings_for
from stream.core.lean_pickle import dump_model, load_model
from stream.entity import EntityFeature
from stream.errors import ConfigurationError, RecordRejected, SnapshotRefused, UpdateRefused
from stream.pipeline import MAGNITUDE_MAX, Feature, Pipeline

__all__ = ["built", "rehearse"]

EVENTS = 60
ENTITIES = 4
STEP_MS = 600_000
EXPLODED = 1e6  # a regression's answer to labels around 0
TEXTS = ("a", "b", "c")
OURS = ("stream", "river", "numpy")  # an error from any other module comes from the user's own code
FOREIGN = ("sklearn.", "lightgbm.", "xgboost.", "catboost.")
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "binary": ((base.Classifier,), "classifier"),
    "multiclass": ((base.Classifier,), "classifier"),
    "regression": ((base.Regressor,), "regressor"),
    "anomaly": ((base.AnomalyDetector, base.AnomalyFilter), "anomaly detector that learns without labels"),
}

_encode, _decode = msgspec.msgpack.encode, msgspec.msgpack.decode
_encode_json = msgspec.json.encode

Warnings = list[tuple[str, str]]
Inputs = list[dict[str, Any]]


def rehearse(pipeline: Pipeline, extra_allowed: frozenset[str] = frozenset()) -> Warnings:
    """Take the pipeline once through all that workers do with it; return warnings as (code, text).

    Args:
        extra_allowed: names of the pipeline's own file that a snapshot may refer to.

    Raises:
        ConfigurationError: it cannot work, or a promise could not be kept with it.
    """
    model = built(pipeline)
    found = warnings_for(model, pipeline.task)
    model = _snapshot(pipeline, model, extra_allowed)  # a learner starts from a copy, too
    _check_custom_features(pipeline)
    _check_detector(pipeline)
    inputs = _inputs(pipeline, found)
    _predict(pipeline, model, inputs, found)
    _learn(pipeline, model, inputs, found)
    again = _snapshot(pipeline, model, extra_allowed)
    answers = _predict(pipeline, model, inputs, found)
    if _predict(pipeline, again, inputs, found) != answers:
        raise _mistake(pipeline, f"model_cannot_be_snapshotted: a snapshot of {_name(model)} predicts otherwise")
    largest = max((abs(a.prediction) for a in answers if isinstance(a.prediction, float)), default=0.0)
    if largest > EXPLODED:
        found.append(_explodes(f"after {EVENTS} labels around 0 it predicts {largest:.0e}"))
    return list({code: (code, text) for code, text in reversed(found)}.values())[::-1]  # the first of each code


def built(pipeline: Pipeline) -> Any:
    """A fresh model that fits the task and comes out the same each time. Raises ConfigurationError."""
    try:
        model, twin = pipeline.build(), pipeline.build()
    except Exception as error:
        raise _mistake(pipeline, f"build(params) raises {_described(error)}") from error
    foreign = _foreign(model)
    if foreign is not None:
        remedy = "use stream.boosting.BoostedClassifier or BoostedRegressor, which retraining fits, or River's own"
        raise _mistake(pipeline, f"{foreign} can only be stored as a pickle, and none is loaded: {remedy}")
    if not isinstance(model, base.Estimator):
        what = type(model).__name__
        raise _mistake(pipeline, f"build(params) returns a {what}; return a River estimator or pipeline")
    kinds, wanted = KINDS[pipeline.task]
    name = _name(model)
    if not isinstance(model, kinds):
        raise _mistake(pipeline, f"{name} is no {wanted}, and the task is {pipeline.task!r}")
    if pipeline.task == "multiclass" and not getattr(model, "_multiclass", True):
        raise _mistake(pipeline, f"{name} knows two classes only: wrap it in multiclass.OneVsRestClassifier(...)")
    if model is twin:
        raise _mistake(pipeline, "build(params) returns the same object each time: make the model inside it")
    if state_digest(model) != state_digest(twin):
        raise _mistake(
            pipeline, f"build(params) makes another {name} each time: pass params['seed'] on to all that draws"
        )
    return model


def _foreign(model: Any) -> str | None:
    """The first batch-trained model of another library in it, also within River's wrappers (`compat`)."""
    for _, part in parts_of(model):
        for one in (part, *getattr(part, "__dict__", {}).values()):
            name = f"{type(one).__module__}.{type(one).__name__}"
            if name.startswith(FOREIGN):
                return name
    return None


# -- inputs ------------------------------------------------------------------------------------------------------------


def _inputs(pipeline: Pipeline, found: Warnings) -> Inputs:
    """What the model would see: made-up features of a few entities, and the features of their history."""
    rng = random.Random(pipeline.seed)
    features = EntityFeatures(pipeline.entity_features)
    states: dict[int, list[Any] | None] = {}
    inputs, failures = [], []
    for x, at_ms in _events(pipeline, rng):
        entity = rng.randrange(ENTITIES)
        try:
            states[entity], values = features.advance(states.get(entity), x, at_ms)
        except RecordRejected as rejected:
            failures.append((x, rejected.__cause__ or rejected))
            continue
        inputs.append({**x, **values})
    if failures:
        x, error = failures[0]
        text = f"{_described(error)} for the made-up event {x}"
        if len(failures) == EVENTS and not _has_texts(pipeline):
            raise ConfigurationError(
                "entity_features", [f.name for f in _custom(pipeline)], f"{text}; mend the function"
            )
        found.append(("entity_feature_fails", f"{text}; live, such an event becomes a dead letter"))
    return inputs


def _events(pipeline: Pipeline, rng: random.Random) -> Iterable[tuple[dict[str, Any], int]]:
    for i in range(EVENTS):
        yield {name: _value(feature, rng) for name, feature in pipeline.declared.items()}, i * STEP_MS


def _value(feature: Feature, rng: random.Random) -> Any:
    if feature.type is str:
        return rng.choice(TEXTS)
    if feature.type is bool:
        return rng.random() < 0.5
    low, high = feature.low, feature.high
    if low > -MAGNITUDE_MAX and high < MAGNITUDE_MAX:
        value = rng.uniform(low, high)
    else:
        value = min(max(rng.gauss(0.0, 5.0), low), high)
    return value if feature.type is float else int(value)


def _check_custom_features(pipeline: Pipeline) -> None:
    """A function must give the same for the same, and leave the old state alone: a batch may be done again."""
    for position, feature in enumerate(pipeline.entity_features):
        if feature.kind != "custom":
            continue
        key, function, stored = f"entity_features[{position}].function", feature.function, _encode(feature.initial)
        assert function is not None
        for x, at_ms in _events(pipeline, random.Random(pipeline.seed)):
            state = _decode(stored)
            try:
                answers = [_encode(function(each, x, at_ms)) for each in (state, _decode(stored))]
            except Exception:  # noqa: BLE001 - `_inputs` reports it
                continue
            if _encode(state) != stored:
                remedy = "it changes its state in place: return a new one, such as {**state, 'n': state['n'] + 1}"
                raise ConfigurationError(key, feature.name, remedy)
            if answers[0] != answers[1]:
                raise ConfigurationError(
                    key, feature.name, "it gives another answer each time: no clock, no random numbers"
                )
            stored = _encode(_decode(answers[0])[0])


def _check_detector(pipeline: Pipeline) -> None:
    """A user's drift detector must be River's, and fit into a snapshot."""
    settings = pipeline.drift_settings
    if settings is None or settings.detector is None:
        return
    key, name = "drift.detector", getattr(settings.detector, "__qualname__", settings.detector)
    rng = random.Random(pipeline.seed)
    try:
        detector, twin = settings.detector(), settings.detector()
        of_errors = isinstance(detector, base.BinaryDriftDetector)
        same = state_digest(detector) == state_digest(twin)
        for _ in range(500):
            value = abs(rng.gauss(0.0, 5.0)) if pipeline.task == "regression" else rng.random()
            detector.update(float(value > 0.5) if of_errors else value)
        found = detector.drift_detected
        watch = DriftWatch(pipeline, 0)
        same = same and watch.restore(watch.to_state())
    except SnapshotRefused as refused:
        raise ConfigurationError(key, name, str(refused)) from refused
    except Exception as error:
        remedy = f"{_described(error)}; give a function that makes a River drift detector, such as drift.PageHinkley"
        raise ConfigurationError(key, name, remedy) from error
    if of_errors and pipeline.task == "regression":
        remedy = "it counts wrong predictions, and numbers are never quite right: use drift.ADWIN or drift.PageHinkley"
        raise ConfigurationError(key, name, remedy)
    if not isinstance(found, bool):
        raise ConfigurationError(key, name, "its drift_detected is no boolean")
    if not same:
        raise ConfigurationError(key, name, "it makes another detector each time: give it a seed")


# -- the model -----------------------------------------------------------------------------------------------------------


def _predict(pipeline: Pipeline, model: Any, inputs: Inputs, found: Warnings) -> list[Answer]:
    scorer = compile_scorer(model, pipeline.task, explained_top=pipeline.explained_top, threshold=pipeline.threshold)
    answers = []

    def answer(x: dict[str, Any], _: int) -> None:
        answers.append(scorer(x))
        _encode_json(answers[-1])

    _try(pipeline, "predicting", inputs, answer, found)
    return answers


def _learn(pipeline: Pipeline, model: Any, inputs: Inputs, found: Warnings) -> None:
    learner = compile_learner(model, pipeline.task)
    rng = random.Random(pipeline.seed)
    labels = [_label(pipeline, rng) for _ in inputs]
    _try(pipeline, "learning", inputs, lambda x, i: learner.learn(x, labels[i]), found)
    learner.sync()
    weight = first_not_finite(model)
    if weight is not None:
        found.append(_explodes(f"{weight} is not finite after {len(inputs)} made-up events"))


def _label(pipeline: Pipeline, rng: random.Random) -> Any:
    if pipeline.task == "regression":
        return rng.gauss(0.0, 1.0)
    if pipeline.task == "multiclass":
        return rng.choice(pipeline.labels.classes or TEXTS)
    return rng.random() < 0.5


def _try(
    pipeline: Pipeline, doing: str, inputs: Inputs, call: Callable[[dict[str, Any], int], object], found: Warnings
) -> None:
    failures = []
    for i, x in enumerate(inputs):
        try:
            call(dict(x), i)
        except Exception as error:  # noqa: BLE001 - each is judged below
            failures.append((x, error))
    if not failures:
        return
    x, first = failures[0]
    text = f"{doing} raises {_described(first)} for the made-up input {x}"
    if isinstance(first, UpdateRefused | ArithmeticError) or (
        isinstance(first, ValueError) and _module(first) == "stream"
    ):
        found.append(_explodes(text))
    elif _module(first) not in OURS and (_has_texts(pipeline) or len(failures) < len(inputs)):
        found.append(("model_fails", f"{text}; live, such an event becomes a dead letter"))
    else:
        remedy = (
            "encode texts (preprocessing.OneHotEncoder) or leave them out (compose.Discard)"
            if _has_texts(pipeline)
            else "mend it"
        )
        raise _mistake(pipeline, f"{text}: {remedy}")


def _explodes(text: str) -> tuple[str, str]:
    remedy = "scale the features (preprocessing.StandardScaler), declare number(low=, high=), or learn more slowly"
    return "model_explodes", f"{text}: {remedy}"


def _snapshot(pipeline: Pipeline, model: Any, extra_allowed: frozenset[str]) -> Any:
    """The model as a scorer would read it. Raises ConfigurationError."""
    try:
        data = dump_model(model)
        again = load_model(data, extra_allowed=extra_allowed)
    except SnapshotRefused as refused:
        raise _mistake(pipeline, f"model_cannot_be_snapshotted: {refused}") from refused
    limit = pipeline.limits.snapshot_bytes_max
    if len(data) > limit:
        raise ConfigurationError("limits.snapshot_bytes_max", limit, f"a fresh model has {len(data)} bytes: raise it")
    if state_digest(again) != state_digest(model):
        raise _mistake(pipeline, f"model_cannot_be_snapshotted: a snapshot of {_name(model)} is not the same model")
    return again


# -- words ---------------------------------------------------------------------------------------------------------------


def _mistake(pipeline: Pipeline, remedy: str) -> ConfigurationError:
    return ConfigurationError("model", getattr(pipeline.model, "__qualname__", pipeline.model), remedy)


def _name(model: Any) -> str:
    """The class that decides what a model is: of a pipeline, its last step's."""
    return _name(list(model.steps.values())[-1]) if hasattr(model, "steps") else type(model).__name__


def _custom(pipeline: Pipeline) -> list[EntityFeature]:
    return [feature for feature in pipeline.entity_features if feature.kind == "custom"]


def _has_texts(pipeline: Pipeline) -> bool:
    return any(feature.type is str for feature in pipeline.declared.values())


def _module(error: BaseException) -> str:
    """The top package of the code that raised; code that was generated counts as ours."""
    return str(_innermost(error).get("__name__", "stream")).partition(".")[0]


def _innermost(error: BaseException) -> dict[str, Any]:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_globals if trace is not None else {}


def _described(error: BaseException) -> str:
    """The events are made up: the error's own text may be shown."""
    return f"{type(error).__name__}: {error}"
