"""A worker's metrics for Prometheus: of its own partitions, so the sum over workers is the whole system.

Counts of the state are kept with the state: they go on after a restart, and move with a partition. Labels are bounded: by
partitions, documented codes, slots, and the pipeline's own segments and features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from stream.core.evaluating import KEY_FIGURE, SYSTEMS
from stream.core.objectives import Judged
from stream.messages import ReleaseAction
from stream.worker.latencies import EDGES_S
from stream.worker.telemetry import PartitionLook, Telemetry

__all__ = ["METRICS", "WorkerMetrics", "registry"]

# name -> (kind, labels beside the pipeline, meaning). A counter's name gets `_total`, a histogram's `_bucket` and so on.
METRICS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "driftloop_worker": ("info", ("role", "worker"), "The worker that answers."),
    "driftloop_worker_start_time_seconds": ("gauge", ("role",), "When it started, Unix time."),
    "driftloop_worker_partitions": ("gauge", ("role",), "Partitions that it owns."),
    "driftloop_position_offset": ("gauge", ("topic", "partition"), "Next offset to be processed."),
    "driftloop_lag_records": ("gauge", ("topic", "partition"), "Records in the log that are not processed."),
    "driftloop_commits": ("counter", ("role", "partition"), "Commits to Redis since this worker owns the partition."),
    "driftloop_events": ("counter", ("partition",), "Events that were valid."),
    "driftloop_duplicate_events": ("counter", ("partition",), "Events with an id that was there before."),
    "driftloop_predictions": ("counter", ("partition",), "Predictions."),
    "driftloop_labels": ("counter", ("partition", "timing"), "Labels, by when they came and what became of them."),
    "driftloop_examples": ("counter", ("partition",), "Examples made of an event and its label."),
    "driftloop_dead_letters": ("counter", ("role", "partition", "code"), "Records that broke a rule."),
    "driftloop_scoring_seconds": ("histogram", ("partition",), "From an event's fetch to its published prediction."),
    "driftloop_event_age_seconds": (
        "histogram",
        ("partition",),
        "From an event's Kafka timestamp to its published prediction; events older than an hour are left out.",
    ),
    "driftloop_examples_learned": ("counter", (), "Examples that the champion has learned."),
    "driftloop_updates_refused": ("counter", (), "Updates that would have damaged the model."),
    "driftloop_example_gaps": ("counter", (), "Gaps in the numbers of examples."),
    "driftloop_model_offset": ("gauge", (), "Offset of the next example."),
    "driftloop_model_size_bytes": ("gauge", (), "Of all models of the shard."),
    "driftloop_slot": ("gauge", ("slot", "base"), "1 for the model in each slot."),
    "driftloop_quality": ("gauge", ("figure", "span", "system"), "Figures of served predictions and of baselines."),
    "driftloop_unbiased_quality": (
        "gauge",
        ("figure", "span", "system"),
        "Figures of all events, from labels on request by inverse propensity; where people are asked.",
    ),
    "driftloop_unbiased_labels": ("gauge", ("span",), "How many unweighted labels those figures are worth."),
    "driftloop_skill_ratio": ("gauge", ("baseline", "span"), "1 is perfect, 0 no better than the baseline."),
    "driftloop_judged_labels": ("gauge", ("span",), "Labels that the figures rest on."),
    "driftloop_segment_quality": ("gauge", ("segment", "value"), "The key figure in the window of a segment."),
    "driftloop_objective_target_ratio": ("gauge", ("objective",), "What is promised, of an objective without a unit."),
    "driftloop_objective_current_ratio": ("gauge", ("objective",), "Its figure now; no value while it is not known."),
    "driftloop_objective_target_seconds": ("gauge", ("objective",), "What is promised, of a latency or a delay."),
    "driftloop_objective_current_seconds": ("gauge", ("objective",), "Its figure now; no value while it is not known."),
    "driftloop_objective_target_label_units": (
        "gauge",
        ("objective",),
        "What is promised, of a regression's error: in the unit of its labels.",
    ),
    "driftloop_objective_current_label_units": (
        "gauge",
        ("objective",),
        "Its figure now; no value while it is not known.",
    ),
    "driftloop_objective_kept": ("gauge", ("objective",), "1 kept, 0 broken; no value while that is not known."),
    "driftloop_label_requests": ("counter", ("partition",), "Label requests that were made."),
    "driftloop_label_requests_answered": (
        "counter",
        ("partition",),
        "First labels of events of which a request was sent, whoever gave them.",
    ),
    "driftloop_label_budget_allowed": (
        "counter",
        ("partition",),
        "Requests that the budget allows for the events so far.",
    ),
    "driftloop_label_budget_spent": ("counter", ("partition",), "Requests that were spent of it."),
    "driftloop_drifts": ("counter", (), "Drifts that were told."),
    "driftloop_drift_active": ("gauge", (), "1 while a drift lasts."),
    "driftloop_drift_monitors": ("gauge", ("state",), "Monitors: all, and those that know what is usual."),
    "driftloop_releases": (
        "counter",
        ("action",),
        "Records on `releases`: what became of models, by rules and people; a refused command is `rejected`, too.",
    ),
    "driftloop_trial_won": ("gauge", (), "1 while a candidate has won and waits for a person to promote it, else 0."),
    "driftloop_canary_share_ratio": ("gauge", (), "Share of the entities that the model on trial answers."),
    "driftloop_trial_labels": ("gauge", (), "Labels that the trial rests on."),
    "driftloop_trial_evidence": ("gauge", ("direction",), "Evidence that the model on trial is better, and worse."),
    "driftloop_trial_evidence_needed": ("gauge", (), "Evidence that decides."),
    "driftloop_feature_distance_ratio": (
        "gauge",
        ("feature",),
        "Total variation distance of a feature's distribution from its first one.",
    ),
}
FAMILIES = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
    "info": InfoMetricFamily,
}
NAMED = {
    "examples_learned": "learned",
    "updates_refused": "updates_refused",
    "example_gaps": "gaps",
    "drifts": "drifts",
}


class WorkerMetrics(Collector):
    """Reads what the worker's telemetry holds; a scrape costs the worker's own loop nothing."""

    def __init__(self, pipeline: str, task: str, telemetry: Telemetry) -> None:
        self._pipeline = pipeline
        self._key = KEY_FIGURE[task]
        self._telemetry = telemetry

    def describe(self) -> Iterable[Metric]:
        """Nothing is collected at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Any] = {
            name: FAMILIES[kind](name, meaning, labels=("pipeline", *(label for label in labels if kind != "info")))
            for name, (kind, labels, meaning) in METRICS.items()
        }
        for name, labels, value in self._values(self._telemetry):
            _add(families[f"driftloop_{name}"], (self._pipeline, *labels), value)
        yield from families.values()

    def _values(self, telemetry: Telemetry) -> Iterator[tuple[str, tuple[str, ...], Any]]:
        role = telemetry.role
        yield "worker", (), {"role": role, "worker": telemetry.worker}
        yield "worker_start_time_seconds", (role,), telemetry.started_at_ms / 1e3
        looks = telemetry.latest
        yield "worker_partitions", (role,), len(looks)
        for number, look in looks.items():
            yield from _partition(role, str(number), look)
        if role == "learn" and looks:
            for one in telemetry.judged:
                yield from _objective(one)
        if role == "learn" and telemetry.status is not None and looks:
            try:
                yield from _learner(msgspec.json.decode(telemetry.status), self._key)
            except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
                return  # the page says so


def _add(family: Any, labels: tuple[str, ...], value: Any) -> None:
    if value is None:
        return
    if isinstance(family, HistogramMetricFamily):
        counts, total = value
        running, buckets = 0, []
        for edge, count in zip((*map(str, EDGES_S), "+Inf"), counts, strict=True):
            running += count
            buckets.append((edge, running))
        family.add_metric(labels, buckets, total)
    else:
        family.add_metric(labels, value)


def _partition(role: str, number: str, look: PartitionLook) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    for topic, offset in look.offsets.items():
        yield "position_offset", (topic, number), offset
        if look.ends.get(topic, -1) >= 0:
            yield "lag_records", (topic, number), max(0, look.ends[topic] - offset)
    yield "commits", (role, number), look.commits
    counts = look.counts
    for name, count in counts.items():
        if name.startswith("dead_letters."):
            yield "dead_letters", (role, number, name.removeprefix("dead_letters.")), count
    if role != "score":
        return
    for name in ("events", "duplicate_events", "predictions", "examples"):
        yield name, (number,), counts.get(name, 0)
    for name, count in counts.items():
        if name.endswith("_labels"):
            yield "labels", (number, name.removesuffix("_labels")), count
    if look.label_budget is not None:
        allowed, spent = look.label_budget
        yield "label_budget_allowed", (number,), allowed
        yield "label_budget_spent", (number,), spent
        for name in ("label_requests", "label_requests_answered"):
            yield name, (number,), counts.get(name, 0)
    yield "scoring_seconds", (number,), look.scoring
    yield "event_age_seconds", (number,), look.age


def _objective(one: Judged) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """In the base unit that the metric's name ends with, so the objective is named without one."""
    name, unit, scale = one.name, "ratio", 1.0
    if name.endswith("_ms"):
        name, unit, scale = name.removesuffix("_ms"), "seconds", 1e-3
    elif name == KEY_FIGURE["regression"]:
        unit = "label_units"
    yield f"objective_target_{unit}", (name,), one.target * scale
    yield f"objective_current_{unit}", (name,), None if one.now is None else one.now * scale
    yield "objective_kept", (name,), None if one.kept is None else int(one.kept)


def _learner(status: Mapping[str, Any], key: str) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    for name, counted in NAMED.items():
        yield name, (), status["counts"].get(counted, 0)
    yield "model_offset", (), int(status["version"].rpartition("@")[2])
    yield "model_size_bytes", (), status["model_size_bytes"]
    for slot, version in status.get("slots", {}).items():
        yield "slot", (slot, version.rpartition("@")[0]), 1
    for span in ("overall", "window"):
        sheet = status["metrics"][span]
        yield "judged_labels", (span,), sheet["labels"]
        for system in ("model", "persistence", "prior"):
            for figure, value in sheet[system].items():
                if isinstance(value, int | float):
                    yield "quality", (figure, span, system), value
        for baseline in ("persistence", "prior"):
            yield "skill_ratio", (baseline, span), sheet.get(f"skill_vs_{baseline}")
    yield from _unbiased(status["metrics"].get("unbiased"))
    for segment, values in status.get("segments", {}).items():
        for value, report in values.items():
            yield "segment_quality", (segment, value), report["window"]["model"].get(key)
    drift = status.get("drift", {})
    yield "drift_active", (), int(bool(drift.get("episode")))
    for state in ("monitors", "ready"):
        yield "drift_monitors", (state.replace("monitors", "all"),), drift.get(state)
    for feature in status.get("features", []):
        yield "feature_distance_ratio", (feature["name"],), feature["distance"]
    releases = status.get("releases", {})
    for action in get_args(ReleaseAction):
        yield "releases", (action,), releases.get(action, 0)
    trial = status.get("trial")
    yield "trial_won", (), int(bool(trial and trial["won"]))
    yield "canary_share_ratio", (), trial["share"] if trial else 0.0
    if trial:
        yield "trial_labels", (), trial["labels"]
        yield "trial_evidence", ("better",), trial["evidence_better"]
        yield "trial_evidence", ("worse",), trial["evidence_worse"]
        yield "trial_evidence_needed", (), trial["needed"]


def _unbiased(report: Mapping[str, Any] | None) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    if report is None:
        return
    for span in ("overall", "window"):
        sheet = dict(report[span])
        yield "unbiased_labels", (span,), sheet.pop("effective_labels")
        sheet.pop("labels")
        for system in SYSTEMS:
            yield "unbiased_quality", (report["figure"], span, system), sheet.pop(system)
        for figure, value in sheet.items():  # ranking, log loss, skill: of the model alone
            yield "unbiased_quality", (figure, span, "model"), value


def registry(metrics: WorkerMetrics) -> CollectorRegistry:
    """What a scrape gives: ours, and the process's memory, processor time and open files."""
    made = CollectorRegistry(auto_describe=False)
    made.register(metrics)
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    return made
