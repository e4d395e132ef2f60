"""What a user writes: one `Pipeline` in one Python file. Every mistake is named with its key, value and remedy.

Nothing here connects to anything. Where and with which credentials things run comes from the environment
(`stream/settings.py`).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

import msgspec

from stream import entity, lifecycle, search_space
from stream.errors import ConfigurationError
from stream.lifecycle import Labelling, Objectives, Retrain, Rollout
from stream.messages import LabelValue

__all__ = ["OTHER_VALUE", "Drift", "Explain", "Feature", "Labels", "Limits", "Pipeline", "Task", "number"]

Task = Literal["binary", "multiclass", "regression", "anomaly"]
TASKS = ("binary", "multiclass", "regression", "anomaly")
TYPES: tuple[type, ...] = (float, int, str, bool)
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
FEATURE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}")
OTHER_VALUE = "(other)"  # of a segment: all values beyond `segment_values_max`
MAGNITUDE_MAX = 1e15  # squares and sums of squares of such values stay finite


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One declared feature of an event.

    Args:
        type: `float`, `int`, `str` or `bool`. Numbers must be finite and at most 1e15 in magnitude.
        low, high: reference quantiles (numbers only): a value beyond them is brought back to the nearer one before the
            model sees it (winsorised), and the prediction lists the feature in `clipped`.
        default: used when the event has null or lacks the feature. Without one, such an event is a dead letter.
    """

    type: type
    low: float = -MAGNITUDE_MAX
    high: float = MAGNITUDE_MAX
    default: float | int | str | bool | None = None

    @property
    def bounded(self) -> bool:
        return self.low > -MAGNITUDE_MAX or self.high < MAGNITUDE_MAX


def number(low: float = -MAGNITUDE_MAX, high: float = MAGNITUDE_MAX, default: float | None = None) -> Feature:
    """A numeric feature with reference quantiles.

    >>> number(low=0, high=5_000).bounded
    True
    """
    return Feature(type=float, low=low, high=high, default=default)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The label rules, all by event time.

    Args:
        wait: how long after the event a label is still learned ("7d").
        keep_late: how much longer the event is remembered, so that a late label or a correction still reaches the archive.
        missing: "none": an event without a label teaches nothing; "default": after `wait` it is learned as `default`.
        default: the label of an event that nobody contradicted in time.
        classes: the allowed classes of a multiclass pipeline (at least two); None accepts any string.
        early_wait: how long a label that came before its event is kept; then it is a dead letter.
        early_max: labels kept per partition that came before their event; beyond that the oldest becomes a dead letter.
        source_share_max: beginning of a source's name -> the share of all first labels that such sources may give together,
            in each partition, of late: {"person:": 0.3}. What goes beyond it is a dead letter (`label_source_capped`).
        source_times_max: beginning of a source's name -> how often a label on request by such a source is learned at most:
            {"person:trainee": 1}. Without it, `Labelling.learn_times`.
    """

    wait: str = "7d"
    keep_late: str = "1d"
    missing: Literal["none", "default"] = "none"
    default: LabelValue | None = None
    classes: tuple[str, ...] | None = None
    early_wait: str = "1h"
    early_max: int = 10_000
    source_share_max: Mapping[str, float] = field(default_factory=dict)
    source_times_max: Mapping[str, int] = field(default_factory=dict)

    @property
    def wait_ms(self) -> int:
        return entity.duration_ms(self.wait)

    @property
    def early_wait_ms(self) -> int:
        return entity.duration_ms(self.early_wait)

    @property
    def keep_late_ms(self) -> int:
        return entity.duration_ms(self.keep_late)


@dataclass(frozen=True, kw_only=True)
class Explain:
    """How predictions are explained.

    Args:
        top: contributions that a prediction lists, the largest by magnitude; the others are summed up in `rest`.
    """

    top: int = 5


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What is watched for change. Everything is watched in the order of the examples, so once labels have come.

    Args:
        errors, labels, scores, features: which of them are watched.
        segment_features: features are watched in every declared segment, too. That is as many monitors once more for each
            value: their state is a part of every snapshot, and the false alarms are divided among more.
        detector: a function that makes a River drift detector; it then watches errors, labels (numbers, not classes) and
            scores in place of ours, value by value, and `false_alarms_per` does not apply to it. One that counts errors
            (River's `drift.binary`: DDM, EDDM, FHDDM, HDDM) watches whether predictions are right, and nothing else.
        false_alarms_per: so many examples may bring one false alarm, over all monitors together.
        episode: examples without another alarm after which a drift is over. Until then alarms belong to it, and there is
            one message for all of them.
        shift_min: scores and features that move by less, in standard deviations, are let pass: a model that learns, and
            most seasons, move them a little all the time.
    """

    errors: bool = True
    labels: bool = True
    scores: bool = True
    features: bool = True
    segment_features: bool = False
    detector: Callable[[], Any] | None = None
    false_alarms_per: int = 100_000
    episode: int = 4_000
    shift_min: float = 0.2


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds that keep one bad producer or one bad model from harming the rest.

    Args:
        record_bytes_max: a larger record is a dead letter and is never parsed.
        string_length_max: of a string feature or a class, in characters.
        future_ms_max: how far an event's own time may lie ahead of its Kafka timestamp.
        entity_idle: an entity not seen for this long (event time) is forgotten, at the latest after twice as long.
        tree_leaves_max: leaves per Hoeffding tree; River's own `max_size` does not bound a tree.
        snapshot_bytes_max: a larger model is not published and the learner stops.
    """

    record_bytes_max: int = 65_536
    string_length_max: int = 256
    future_ms_max: int = 300_000
    entity_idle: str = "30d"
    tree_leaves_max: int = 1_000
    snapshot_bytes_max: int = 64 * 1024 * 1024

    @property
    def entity_idle_ms(self) -> int:
        return entity.duration_ms(self.entity_idle)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A stream of events, a model on it, and the rules of both.

    Args:
        name: lower case; prefixes topics and Redis keys.
        task: binary (labels true/false), multiclass (strings), regression (numbers), anomaly (true/false, optional).
        features: name -> `float`, `int`, `str`, `bool`, or a `Feature` / `number(low=, high=)`.
        model: `build(params) -> River estimator or pipeline`. It must be deterministic: pass `params["seed"]` on.
        params: what `model` is called with; `seed` is added.
        search_space: what retraining tries for `params`: name -> `search_space.number(...)`, `whole(...)`, `choice(...)`.
        entity_features: from `stream.entity`; computed from the entity's history before each event.
        labels: `Labels(...)`, the label rules.
        threshold: binary: the probability from which the prediction is true; anomaly: the score.
        explain: True, False or `Explain(top=...)`.
        drift: True, False or `Drift(...)`.
        segments: declared features (str, bool or int) by whose values figures are kept apart and drift is watched, too.
        segment_values_max: values of one segment that are told apart, in the order they come; all others are one.
        alert_share: binary and anomaly: the share of events that people can look at; recall is also reported for it.
        retrain: `Retrain(...)`, when and how candidates are made.
        rollout: `Rollout(...)`, how a candidate becomes the champion.
        objectives: `Objectives(...)`, what is promised to users.
        labelling: `Labelling(...)`, which events people are asked to label; None or False: none.
        limits: `Limits(...)`, bounds that keep one bad producer or model from harming the rest.
        seed: of all randomness, and `params["seed"]`.
        reads: the name of another pipeline, whose `events` and `labels` this one reads in place of topics of its own: a new
            version beside the one that serves. What it writes, and all its state, is its own.

    Raises:
        ConfigurationError: with every mistake in its text, one a line.
    """

    name: str
    task: Task
    features: Mapping[str, type | Feature]
    model: Callable[[dict[str, Any]], Any]
    params: Mapping[str, Any] = field(default_factory=dict)
    search_space: Mapping[str, Any] = field(default_factory=dict)
    entity_features: Sequence[entity.EntityFeature] = ()
    labels: Labels = Labels()
    explain: bool | Explain = True
    threshold: float = 0.5
    drift: bool | Drift = True
    segments: Sequence[str] = ()
    segment_values_max: int = 10
    alert_share: float = 0.01
    retrain: Retrain = field(default_factory=Retrain)
    rollout: Rollout = field(default_factory=Rollout)
    objectives: Objectives = field(default_factory=Objectives)
    labelling: Labelling | Literal[False] | None = None
    limits: Limits = Limits()
    seed: int = 42
    reads: str | None = None

    def __post_init__(self) -> None:
        mistakes = list(_mistakes(self))
        if len(mistakes) == 1:
            raise mistakes[0]
        if mistakes:
            raise ConfigurationError("pipeline", self.name, "mend all of these:\n  " + "\n  ".join(map(str, mistakes)))

    @property
    def declared(self) -> dict[str, Feature]:
        """Every feature in full, in declaration order."""
        return {name: kind if isinstance(kind, Feature) else Feature(type=kind) for name, kind in self.features.items()}

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What the model sees, in order: declared features, then entity features."""
        return (*self.declared, *(feature.name for feature in self.entity_features))

    @property
    def bounds(self) -> tuple[tuple[str, float, float], ...]:
        return tuple((n, f.low, f.high) for n, f in self.declared.items() if f.bounded)

    @property
    def explained_top(self) -> int:
        """How many contributions to list; 0 turns explanations off."""
        if isinstance(self.explain, Explain):
            return self.explain.top
        return Explain().top if self.explain else 0

    @property
    def drift_settings(self) -> Drift | None:
        """None if nothing is watched."""
        if isinstance(self.drift, Drift):
            return self.drift
        return Drift() if self.drift else None

    def build(self) -> Any:
        """A fresh model, the same each time."""
        return self.model({"seed": self.seed, **self.params})

    @property
    def metric(self) -> str:
        """What candidates are searched and judged by."""
        return self.retrain.metric or lifecycle.METRICS[self.task][0]

    @property
    def metric_sign(self) -> float:
        """1: a higher metric is better; -1: a lower one."""
        return -1.0 if self.metric in lifecycle.LOWER_IS_BETTER else 1.0

    def fingerprint(self, model_digest: str) -> str:
        """Changes when the meaning of stored state or of the model would change; 16 hex digits."""
        meaning = {
            "task": self.task,
            "features": [(n, f.type.__name__, f.low, f.high, f.default) for n, f in self.declared.items()],
            "entity_features": [feature.describe() for feature in self.entity_features],
            "labels": [
                self.labels.wait_ms,
                self.labels.keep_late_ms,
                self.labels.missing,
                self.labels.default,
                self.labels.classes,
            ],
            "entity_idle_ms": self.limits.entity_idle_ms,
            "seed": self.seed,
            "model": model_digest,
        }
        return hashlib.sha256(msgspec.json.encode(meaning)).hexdigest()[:16]


def _mistakes(pipeline: Pipeline) -> list[ConfigurationError]:
    found = [*_scalar_mistakes(pipeline), *_section_mistakes(pipeline)]
    if isinstance(pipeline.labels, Labels):
        found += _label_mistakes(pipeline.task, pipeline.labels)
    if isinstance(pipeline.limits, Limits):
        found += _limit_mistakes(pipeline.limits)
    if not isinstance(pipeline.features, Mapping) or not _is_list(pipeline.entity_features):
        return found
    for name, kind in pipeline.features.items():
        found += _feature_mistakes(name, kind, pipeline.limits)
    found += _segment_mistakes(pipeline)
    if isinstance(pipeline.drift, Drift):
        found += _drift_mistakes(pipeline.drift)
    elif not isinstance(pipeline.drift, bool):
        found.append(ConfigurationError("drift", pipeline.drift, "use True, False or Drift(...)"))
    if pipeline.task == "regression" and pipeline.labelling and getattr(pipeline.labelling, "annotators", 1) != 1:
        remedy = "use 1: two people seldom give the same number"
        found.append(ConfigurationError("labelling.annotators", pipeline.labelling.annotators, remedy))
    metric = getattr(pipeline.retrain, "metric", None)
    if metric is not None and metric not in lifecycle.METRICS.get(pipeline.task, ()):
        remedy = f"use one of {', '.join(lifecycle.METRICS.get(pipeline.task, ()))}"
        found.append(ConfigurationError("retrain.metric", metric, remedy))
    found += lifecycle.mistakes(pipeline.retrain, pipeline.rollout, pipeline.objectives, pipeline.labelling)
    types = {n: k.type if isinstance(k, Feature) else k for n, k in pipeline.features.items()}
    found += entity.validate(pipeline.entity_features, types)
    return found or _idle_mistakes(pipeline)


def _section_mistakes(pipeline: Pipeline) -> list[ConfigurationError]:
    """Sections of the wrong kind; what is in them is looked at elsewhere."""
    found = []
    if not isinstance(pipeline.features, Mapping) or not pipeline.features:
        found.append(
            ConfigurationError("features", pipeline.features, "declare at least one, such as {'amount': float}")
        )
    if not _is_list(pipeline.entity_features):
        found.append(
            ConfigurationError("entity_features", pipeline.entity_features, "give a list, such as [entity.count('1h')]")
        )
    for key in ("params", "search_space"):
        section = getattr(pipeline, key)
        if not isinstance(section, Mapping) or not all(isinstance(name, str) for name in section):
            found.append(ConfigurationError(key, section, "give a dictionary by names, such as {'lr': 0.01}"))
        elif key == "search_space":
            found += search_space.mistakes(section)
    if not isinstance(pipeline.labels, Labels):
        found.append(ConfigurationError("labels", pipeline.labels, "give Labels(...), such as Labels(wait='7d')"))
    if not isinstance(pipeline.limits, Limits):
        found.append(
            ConfigurationError("limits", pipeline.limits, "give Limits(...), such as Limits(entity_idle='30d')")
        )
    return found


def _scalar_mistakes(pipeline: Pipeline) -> list[ConfigurationError]:
    found = []
    if not isinstance(pipeline.name, str) or not NAME.fullmatch(pipeline.name):
        found.append(
            ConfigurationError(
                "name",
                pipeline.name,
                "use lower-case letters, digits, - and _, starting with a letter, at most 63",
            )
        )
    if pipeline.reads is not None and (
        not isinstance(pipeline.reads, str) or not NAME.fullmatch(pipeline.reads) or pipeline.reads == pipeline.name
    ):
        found.append(
            ConfigurationError("reads", pipeline.reads, "name another pipeline, whose events and labels this one reads")
        )
    if pipeline.task not in TASKS:
        found.append(ConfigurationError("task", pipeline.task, f"use one of: {', '.join(TASKS)}"))
    if not callable(pipeline.model):
        found.append(
            ConfigurationError("model", pipeline.model, "give a function build(params) that returns a River model")
        )
    if not _is_number(pipeline.threshold) or (pipeline.task == "binary" and not 0 < pipeline.threshold < 1):
        found.append(ConfigurationError("threshold", pipeline.threshold, "use a number between 0 and 1"))
    if not _is_whole(pipeline.seed, 0):
        found.append(ConfigurationError("seed", pipeline.seed, "use a whole number from 0"))
    if not isinstance(pipeline.explain, bool | Explain) or (
        isinstance(pipeline.explain, Explain) and not _is_whole(pipeline.explain.top, 1, 100)
    ):
        found.append(ConfigurationError("explain", pipeline.explain, "use True, False or Explain(top=1..100)"))
    return found


def _segment_mistakes(pipeline: Pipeline) -> list[ConfigurationError]:
    found = []
    if not _is_whole(pipeline.segment_values_max, 2, 100):
        found.append(
            ConfigurationError("segment_values_max", pipeline.segment_values_max, "use a whole number, 2 to 100")
        )
    if not _is_number(pipeline.alert_share) or not 0 < pipeline.alert_share < 1:
        found.append(ConfigurationError("alert_share", pipeline.alert_share, "use a share between 0 and 1"))
    if not _is_list(pipeline.segments):
        return [
            *found,
            ConfigurationError("segments", pipeline.segments, "give a list of features, such as ['country']"),
        ]
    for segment in pipeline.segments:
        kind = pipeline.features.get(segment)
        kind = kind.type if isinstance(kind, Feature) else kind
        if kind not in (str, bool, int):
            found.append(ConfigurationError("segments", segment, "name declared features of type str, bool or int"))
    if len(set(pipeline.segments)) != len(pipeline.segments):
        found.append(ConfigurationError("segments", pipeline.segments, "name each feature once"))
    return found


def _drift_mistakes(drift: Drift) -> list[ConfigurationError]:
    found = []
    for key in ("errors", "labels", "scores", "features", "segment_features"):
        if not isinstance(getattr(drift, key), bool):
            found.append(ConfigurationError(f"drift.{key}", getattr(drift, key), "use True or False"))
    for key, low in (("false_alarms_per", 1_000), ("episode", 1)):
        if not _is_whole(getattr(drift, key), low):
            found.append(ConfigurationError(f"drift.{key}", getattr(drift, key), f"use a whole number from {low}"))
    if not _is_number(drift.shift_min) or drift.shift_min < 0:
        found.append(ConfigurationError("drift.shift_min", drift.shift_min, "use a number from 0"))
    if drift.detector is not None and not callable(drift.detector):
        remedy = "give a function that makes a River drift detector, such as drift.PageHinkley"
        found.append(ConfigurationError("drift.detector", drift.detector, remedy))
    return found


def _limit_mistakes(limits: Limits) -> list[ConfigurationError]:
    found = []
    least = {
        "record_bytes_max": 1,
        "string_length_max": 1,
        "tree_leaves_max": 1,
        "snapshot_bytes_max": 1,
        "future_ms_max": 0,
    }
    for key, low in least.items():
        if not _is_whole(getattr(limits, key), low):
            found.append(ConfigurationError(f"limits.{key}", getattr(limits, key), f"use a whole number from {low}"))
    return found + _duration_mistakes("limits.entity_idle", limits.entity_idle)


def _idle_mistakes(pipeline: Pipeline) -> list[ConfigurationError]:
    """An entity that is forgotten within a window would have a shorter history than the feature's name says."""
    windows = [feature for feature in pipeline.entity_features if feature.window is not None]
    longest = max(windows, key=lambda feature: feature.window_ms, default=None)
    if longest is None or pipeline.limits.entity_idle_ms >= longest.window_ms:
        return []
    remedy = f"{longest.name!r} looks back {longest.window}: use at least that"
    return [ConfigurationError("limits.entity_idle", pipeline.limits.entity_idle, remedy)]


def _feature_mistakes(name: str, kind: type | Feature, limits: Limits) -> list[ConfigurationError]:
    key = f"features[{name!r}]"
    if not isinstance(name, str) or not FEATURE_NAME.fullmatch(name):
        return [ConfigurationError(key, name, "name it with letters, digits, _, . and -, starting with a letter")]
    feature = kind if isinstance(kind, Feature) else Feature(type=kind)
    if feature.type not in TYPES:
        return [ConfigurationError(key, kind, "use float, int, str, bool, or number(low=..., high=...)")]
    found = []
    if not (_is_number(feature.low) and _is_number(feature.high) and feature.low < feature.high):
        found.append(ConfigurationError(key, (feature.low, feature.high), "low must be below high, both finite"))
    elif feature.bounded and feature.type not in (float, int):
        found.append(ConfigurationError(key, feature.type.__name__, "only numbers can have low and high"))
    return found + _default_mistakes(f"{key}.default", feature, limits)


def _default_mistakes(key: str, feature: Feature, limits: Limits) -> list[ConfigurationError]:
    """A default is held to what an event's own value is held to."""
    default = feature.default
    if default is None:
        return []
    accepted = (int, float) if feature.type is float else (feature.type,)
    if type(default) not in accepted:
        return [ConfigurationError(key, default, f"use a {feature.type.__name__}")]
    if feature.type in (int, float) and not (_is_number(default) and abs(float(default)) <= MAGNITUDE_MAX):
        return [ConfigurationError(key, default, "use a finite number of at most 1e15 in magnitude")]
    length_max = limits.string_length_max if isinstance(limits, Limits) else None
    if isinstance(default, str) and _is_whole(length_max, 1) and len(default) > length_max:
        return [
            ConfigurationError(key, default, f"limits.string_length_max is {length_max}: shorten it, or raise that")
        ]
    return []


def _label_mistakes(task: Task, labels: Labels) -> list[ConfigurationError]:
    found = _duration_mistakes("labels.wait", labels.wait) + _duration_mistakes("labels.keep_late", labels.keep_late)
    found += _duration_mistakes("labels.early_wait", labels.early_wait)
    if labels.missing not in ("none", "default"):
        found.append(ConfigurationError("labels.missing", labels.missing, "use 'none' or 'default'"))
    if labels.missing == "default" and not label_fits(task, labels.default):
        found.append(
            ConfigurationError(
                "labels.default", labels.default, f"missing='default' needs a label of the task {task!r}"
            )
        )
    if labels.missing == "none" and labels.default is not None:
        found.append(ConfigurationError("labels.default", labels.default, "set missing='default', or drop it"))
    if labels.classes is not None:
        if task != "multiclass" or not _are_classes(labels.classes):
            found.append(
                ConfigurationError("labels.classes", labels.classes, "two or more strings, and only for multiclass")
            )
        elif labels.default is not None and labels.default not in labels.classes:
            found.append(ConfigurationError("labels.default", labels.default, f"use one of {labels.classes}"))
    shares = labels.source_share_max
    if not isinstance(shares, Mapping) or not all(
        isinstance(name, str) and name and _is_number(share) and 0 < share <= 1 for name, share in shares.items()
    ):
        found.append(ConfigurationError("labels.source_share_max", shares, "use shares by name: {'person:': 0.3}"))
    times = labels.source_times_max
    if not isinstance(times, Mapping) or not all(
        isinstance(name, str) and name and _is_whole(most, 1, 20) for name, most in times.items()
    ):
        remedy = "use whole numbers from 1 to 20 by name: {'person:trainee': 1}"
        found.append(ConfigurationError("labels.source_times_max", times, remedy))
    if not _is_whole(labels.early_max, 0, 1_000_000):
        found.append(ConfigurationError("labels.early_max", labels.early_max, "use a whole number, 0 to 1,000,000"))
    return found


def _are_classes(classes: object) -> bool:
    return (
        isinstance(classes, tuple | list)
        and all(isinstance(name, str) and name for name in classes)
        and len(set(classes)) >= 2
    )


def _duration_mistakes(key: str, text: str) -> list[ConfigurationError]:
    try:
        entity.duration_ms(text)
    except ConfigurationError as error:
        return [ConfigurationError(key, text, error.remedy)]
    return []


def label_fits(task: Task, label: object) -> bool:
    """Whether a value can be a label of the task.

    >>> label_fits("binary", True), label_fits("binary", 1), label_fits("regression", 3)
    (True, False, True)
    """
    if task in ("binary", "anomaly"):
        return isinstance(label, bool)
    if task == "multiclass":
        return isinstance(label, str) and bool(label)
    return _is_number(label)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object, low: int, high: int | None = None) -> TypeGuard[int]:
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return low <= value and (high is None or value <= high)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)
