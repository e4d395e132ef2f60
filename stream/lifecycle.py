"""What happens to a pipeline's model over its life: when it is retrained, how a candidate is let in, what it must keep to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from stream import entity
from stream.errors import ConfigurationError

__all__ = ["Labelling", "Objectives", "Retrain", "Rollout", "label_options", "mistakes"]

STARTS = ("scratch", "champion", "former", "transfer")
RELEASE, REJECT = "Release", "Reject"  # answers to the question whether a candidate may be released
CANNOT_TELL, SKIP, SEND = "cannot tell", "skip", "send"  # in a form, beside the labels
OPTIONS_MAX = 30
STRATEGIES = ("balanced", "variable", "split", "random")


# By which a model may be judged; the first is the one that is taken unless another is declared.
METRICS = {
    "binary": (
        "average_precision", "roc_auc", "accuracy", "balanced_accuracy", "kappa", "f1", "recall_at_alert_share", "log_loss",
        "brier",
    ),
    "anomaly": ("roc_auc", "average_precision", "recall_at_alert_share", "f1", "balanced_accuracy"),
    "multiclass": ("accuracy", "macro_f1", "kappa", "log_loss"),
    "regression": ("mae", "rmse", "r2"),
}  # fmt: skip
LOWER_IS_BETTER = frozenset(("mae", "rmse", "log_loss", "brier"))


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """When and how a candidate is made. The steps run in Airflow, or by `driftloop retrain`.

    Args:
        on_drift: a message on `drifts` starts a run.
        schedule: cron in UTC ("0 3 * * *"); None: never by the clock.
        cool_down: after a run for a drift, further drifts are suppressed for so long.
        follow_ups: a drift's search is repeated when so many more labels have come since the change point: at first there
            are few.
        trials: of the search over `search_space`, in each run.
        workers: tasks that the trials are spread over.
        window_max: examples to learn from, the newest.
        compare_share: the share of the window, its end, on which champion and candidate are compared. Where labels take long,
            few events there came after all labels before it were known; then it begins earlier, with this share of what can
            be scored.
        labels_min: a window with fewer is not searched.
        metric: what candidates are searched and judged by; None: mean absolute error, average precision, the area under the
            ROC curve (anomaly) or accuracy (multiclass).
        gain_min: how much better than the champion a candidate must be there, in this metric.
        segment_loss_max: how much worse it may be in any segment with at least 100 labels.
        size_bytes_max: of the candidate.
        latency_us_max: mean time of one prediction; None: not looked at.
        automation: "automatic", or "approval": a person decides in Airflow before the release.
        approval_timeout: an approval that nobody gives is a rejection after so long.
        start_from: what candidates may start from: "scratch", "champion" (it goes on learning), "former" (the champion before
            this one, as if it had gone on learning), "transfer".
        transfer_from: the pipeline from whose newest base "transfer" starts, of those that knew no label of the window; its
            features must be the same.
    """

    on_drift: bool = True
    schedule: str | None = None
    cool_down: str = "6h"
    follow_ups: Sequence[int] = (500, 1_500, 4_000, 10_000)
    trials: int = 24
    workers: int = 2
    window_max: int = 100_000
    compare_share: float = 0.25
    labels_min: int = 200
    metric: str | None = None
    gain_min: float = 0.0
    segment_loss_max: float = 0.1
    size_bytes_max: int = 16 * 1024 * 1024
    latency_us_max: float | None = None
    automation: Literal["automatic", "approval"] = "automatic"
    approval_timeout: str = "24h"
    start_from: Sequence[str] = ("scratch", "champion", "former")
    transfer_from: str | None = None

    @property
    def cool_down_ms(self) -> int:
        return entity.duration_ms(self.cool_down)

    @property
    def approval_timeout_ms(self) -> int:
        return entity.duration_ms(self.approval_timeout)


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """How a candidate becomes the champion: judged on labels of predictions that were really made, both models side by side.

    Args:
        shadow_labels: labels that must have come before it serves anybody.
        shares: the shares of entities that it serves, one after the other; none: from shadow to champion.
        share_labels: labels that must have come at each share. After so many the next share follows, or, if the newest
            show it clearly behind, the one before.
        alpha: how often a candidate that is no better is promoted, at most, however often one looks.
        labels_max: a candidate without the evidence to win by then is rejected.
        probation_labels: for so many labels after a promotion the former champion is scored beside it, and comes back by
            itself if it proves better.
        failures_max: a candidate that raises for a larger share of the events is rejected, once 64 of their labels have come;
            until then the champion answers the events for which it raises.
        latency_ratio_max: so many times the champion's mean time per prediction, at most; this needs no labels.
        distribution_shift_max: how far the answers may differ from the champion's, unless labels say so far that they are
            the better ones: total variation distance of the predicted classes, 0 to 1; of numbers the difference of means in
            standard deviations, times 0.25.
        promote: "automatic", or "by_hand": a candidate that has won waits for `driftloop promote`.
    """

    shadow_labels: int = 500
    shares: Sequence[float] = (0.05, 0.2, 0.5)
    share_labels: int = 300
    alpha: float = 0.05
    labels_max: int = 20_000
    probation_labels: int = 5_000
    failures_max: float = 0.01
    latency_ratio_max: float = 5.0
    distribution_shift_max: float = 0.5
    promote: Literal["automatic", "by_hand"] = "automatic"


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """What the pipeline promises its users. `driftloop status` says whether it is kept; alerts go out when it is not.

    Args:
        quality: the least (of a regression's error: the largest) value of the key figure in the sliding window.
        skill: the least skill against delayed persistence in the sliding window.
        latency_p99_ms: from an event's timestamp to its prediction.
        label_delay: half of the labels come within so long after their events ("2d").
        label_coverage: the least share of events that get a label.

    Where labels come on request, quality and skill are those of all events, by inverse propensity (docs/labelling.md).
    """

    quality: float | None = None
    skill: float | None = None
    latency_p99_ms: float | None = None
    label_delay: str | None = None
    label_coverage: float | None = None


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """Which events people are asked to label, and how often. Requests go onto `label_requests`.

    Args:
        strategy: "balanced" (the most uncertain, evenly over time), "variable", "split" or "random"; see core/querying.py.
        per_1000: requests per 1,000 events, over all partitions together: never more at any moment, counted from the first.
        per_day: requests per day of event time, over all partitions together; None: no such bound. Each partition has its
            part of it, so a bound near the number of partitions or below leaves some of them little or none.
        uniform_share: of the requests that are picked at random, always: what makes figures unbiased, and finds mistakes of
            which the model is certain.
        warm_up: so many of the strategy's first requests are picked at random, too.
        drift_boost: while a drift is open the strategy asks so many times as often, as long as what was saved lasts.
        drift_reserve: requests of so many events are saved for that.
        segment_floor: the least share of its part of the budget that any value of a segment gets; 0: none.
        expires: how long after its event a request may be answered ("2d"); None, and at most: as long as a label is learned
            (`labels.wait`).
        batch: forms that one run of the DAG `label_requests` opens, at most.
        within: how long such a form stands; then the request may go into another one.
        learn_times: a class that somebody was asked for is learned so many times: few labels must turn a model round that
            many would. 1 for noisy annotators, or a model whose learning rate was chosen for few labels. Not for numbers.
        annotators: 1, or 2: two people must say the same, and a third decides where they do not.
    """

    strategy: Literal["balanced", "variable", "split", "random"] = "balanced"
    per_1000: float = 10.0
    per_day: int | None = None
    uniform_share: float = 0.3
    warm_up: int = 50
    drift_boost: float = 2.0
    drift_reserve: int = 1_000
    segment_floor: float = 0.5
    expires: str | None = None
    batch: int = 20
    within: str = "4h"
    learn_times: int = 3
    annotators: int = 1

    @property
    def within_ms(self) -> int:
        return entity.duration_ms(self.within)

    def expires_ms(self, wait_ms: int) -> int:
        """`wait_ms`: how long a label is learned."""
        return wait_ms if self.expires is None else min(wait_ms, entity.duration_ms(self.expires))


def mistakes(
    retrain: object, rollout: object, objectives: object, labelling: object = None
) -> Iterator[ConfigurationError]:
    """What is wrong in the four sections."""
    if isinstance(labelling, Labelling):
        yield from _labelling(labelling)
    elif labelling is not None and labelling is not False:
        yield ConfigurationError("labelling", labelling, "give Labelling(...), such as Labelling(per_1000=10), or None")
    if isinstance(retrain, Retrain):
        yield from _retrain(retrain)
    else:
        yield ConfigurationError("retrain", retrain, "give Retrain(...), such as Retrain(schedule='0 3 * * *')")
    if isinstance(rollout, Rollout):
        yield from _rollout(rollout)
    else:
        yield ConfigurationError("rollout", rollout, "give Rollout(...), such as Rollout(shares=(0.1, 0.5))")
    if isinstance(objectives, Objectives):
        yield from _objectives(objectives)
    else:
        yield ConfigurationError("objectives", objectives, "give Objectives(...), such as Objectives(skill=0.1)")


def _retrain(retrain: Retrain) -> Iterator[ConfigurationError]:
    wholes = {"trials": 1, "workers": 1, "window_max": 100, "labels_min": 10, "size_bytes_max": 1}
    yield from _wholes("retrain", retrain, wholes)
    yield from _numbers("retrain", retrain, {"gain_min": (0, 1e12), "segment_loss_max": (0, 1e12)})
    yield from _numbers("retrain", retrain, {"compare_share": (0.05, 0.9)})
    if not isinstance(retrain.on_drift, bool):
        yield ConfigurationError("retrain.on_drift", retrain.on_drift, "use True or False")
    if retrain.latency_us_max is not None and not _within(retrain.latency_us_max, 0.1, 1e9):
        yield ConfigurationError("retrain.latency_us_max", retrain.latency_us_max, "use microseconds, or None")
    if retrain.schedule is not None and not _is_cron(retrain.schedule):
        yield ConfigurationError("retrain.schedule", retrain.schedule, "use five cron fields, such as '0 3 * * *'")
    if retrain.automation not in ("automatic", "approval"):
        yield ConfigurationError("retrain.automation", retrain.automation, "use 'automatic' or 'approval'")
    follow_ups = retrain.follow_ups
    if not _is_list(follow_ups) or not all(_whole(count, 1) for count in follow_ups) or list(follow_ups) != sorted(
        set(follow_ups)
    ):  # fmt: skip
        yield ConfigurationError("retrain.follow_ups", follow_ups, "use ascending whole numbers, such as (500, 1_500)")
    for key in ("cool_down", "approval_timeout"):
        yield from _duration(f"retrain.{key}", getattr(retrain, key))
    starts = retrain.start_from
    if not _is_list(starts) or not starts or not set(starts) <= set(STARTS):
        yield ConfigurationError("retrain.start_from", starts, f"use one or more of: {', '.join(STARTS)}")
    elif ("transfer" in starts) != (retrain.transfer_from is not None):
        remedy = "start_from=(..., 'transfer') and transfer_from='<pipeline>' go together"
        yield ConfigurationError("retrain.transfer_from", retrain.transfer_from, remedy)


def _rollout(rollout: Rollout) -> Iterator[ConfigurationError]:
    wholes = {"shadow_labels": 1, "share_labels": 1, "labels_max": 100, "probation_labels": 0}
    yield from _wholes("rollout", rollout, wholes)
    yield from _numbers(
        "rollout", rollout, {"alpha": (1e-6, 0.5), "failures_max": (0, 1), "distribution_shift_max": (0, 1)}
    )
    yield from _numbers("rollout", rollout, {"latency_ratio_max": (1, 1e6)})
    shares = rollout.shares
    if not _is_list(shares) or not all(_within(s, 0.001, 1) for s in shares) or list(shares) != sorted(set(shares)):
        yield ConfigurationError("rollout.shares", shares, "use ascending shares, such as (0.05, 0.2, 0.5)")
    if rollout.promote not in ("automatic", "by_hand"):
        yield ConfigurationError("rollout.promote", rollout.promote, "use 'automatic' or 'by_hand'")


def _objectives(objectives: Objectives) -> Iterator[ConfigurationError]:
    for key in ("quality", "skill", "latency_p99_ms", "label_coverage"):
        value = getattr(objectives, key)
        if value is not None and not _within(value, -1e12, 1e12):
            yield ConfigurationError(f"objectives.{key}", value, "use a number, or None")
    if objectives.label_delay is not None:
        yield from _duration("objectives.label_delay", objectives.label_delay)


def _labelling(labelling: Labelling) -> Iterator[ConfigurationError]:
    if labelling.strategy not in STRATEGIES:
        yield ConfigurationError("labelling.strategy", labelling.strategy, f"use one of: {', '.join(STRATEGIES)}")
    numbers: dict[str, tuple[float, float]] = {
        "per_1000": (0.01, 1_000),
        "uniform_share": (0.01, 1),
        "drift_boost": (1, 100),
        "segment_floor": (0, 1),
    }
    yield from _numbers("labelling", labelling, numbers)
    yield from _wholes("labelling", labelling, {"warm_up": 0, "drift_reserve": 0, "batch": 1, "learn_times": 1})
    if _whole(labelling.batch, 201):
        yield ConfigurationError("labelling.batch", labelling.batch, "use at most 200: each is a task")
    if _whole(labelling.learn_times, 21):
        yield ConfigurationError("labelling.learn_times", labelling.learn_times, "use at most 20")
    if labelling.annotators not in (1, 2):
        yield ConfigurationError("labelling.annotators", labelling.annotators, "use 1 or 2")
    yield from _duration("labelling.within", labelling.within)
    if labelling.per_day is not None and not _whole(labelling.per_day, 1):
        yield ConfigurationError("labelling.per_day", labelling.per_day, "use a whole number from 1, or None")
    if labelling.expires is not None:
        yield from _duration("labelling.expires", labelling.expires)


def label_options(task: str, classes: Sequence[str] | None) -> list[str]:
    """What a form lets people choose from; empty where the label must be written: numbers, unknown or very many classes."""
    if task in ("binary", "anomaly"):
        return ["true", "false"]
    options = list(classes or ()) if task == "multiclass" else []
    taken = {CANNOT_TELL, SKIP, SEND}
    return options if len(options) <= OPTIONS_MAX and not taken & set(options) else []


def _wholes(section: str, value: object, least: dict[str, int]) -> Iterator[ConfigurationError]:
    for key, low in least.items():
        if not _whole(getattr(value, key), low):
            yield ConfigurationError(f"{section}.{key}", getattr(value, key), f"use a whole number from {low}")


def _numbers(section: str, value: object, ranges: dict[str, tuple[float, float]]) -> Iterator[ConfigurationError]:
    for key, (low, high) in ranges.items():
        if not _within(getattr(value, key), low, high):
            yield ConfigurationError(f"{section}.{key}", getattr(value, key), f"use a number, {low:g} to {high:g}")


def _duration(key: str, text: str) -> Iterator[ConfigurationError]:
    try:
        entity.duration_ms(text)
    except ConfigurationError as error:
        yield ConfigurationError(key, text, error.remedy)


def _whole(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _within(value: object, low: float, high: float) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
    )


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _is_cron(text: object) -> bool:
    return isinstance(text, str) and len(text.split()) == 5
