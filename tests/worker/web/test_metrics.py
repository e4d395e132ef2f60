"""What a scrape says of what the telemetry holds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stream.adapters.redis_connections import redis_client
from stream.adapters.redis_telemetry import RedisTelemetry
from stream.core.learning import LearnStep
from stream.core.objectives import judge
from stream.core.unbiased import UnbiasedFigures
from stream.lifecycle import Labelling, Objectives
from stream.local.servers import free_port
from stream.messages import Served
from stream.worker.telemetry import PartitionLook, Telemetry
from stream.worker.web.metrics import WorkerMetrics
from tests.support.records import pipeline_of

WANTED = Objectives(quality=0.5, skill=0.1, latency_p99_ms=250, label_delay="2h", label_coverage=0.75)


def told(task: str, **known: float) -> dict[tuple[str, str], float]:
    """(metric, objective) -> value, of a learner that owns a shard."""
    nowhere = RedisTelemetry(redis_client(f"redis://127.0.0.1:{free_port()}", 1.0), "cards")  # a scrape asks nobody
    telemetry = Telemetry(nowhere, "learn", dict, lambda: None)
    telemetry.judged = judge(pipeline_of(task=task, objectives=WANTED), None, **known)
    telemetry.latest = {0: PartitionLook({}, {}, {}, 0)}
    return {
        (sample.name.removeprefix("driftloop_objective_"), sample.labels["objective"]): sample.value
        for family in WorkerMetrics("cards", task, telemetry).collect()
        for sample in family.samples
        if sample.name.startswith("driftloop_objective_")
    }


def test_one_metric_has_one_unit():
    assert told("binary", latency_p99_ms=125.0, label_coverage=0.5) == pytest.approx(
        {
            ("target_ratio", "average_precision"): 0.5,
            ("target_ratio", "skill_vs_persistence"): 0.1,
            ("target_ratio", "label_coverage"): 0.75,
            ("current_ratio", "label_coverage"): 0.5,
            ("kept", "label_coverage"): 0,
            ("target_seconds", "latency_p99"): 0.25,
            ("current_seconds", "latency_p99"): 0.125,
            ("kept", "latency_p99"): 1,
            ("target_seconds", "label_delay_p50"): 7_200,
        }
    )


def test_a_regressions_error_is_in_the_unit_of_its_labels():
    found = told("regression")
    assert found["target_label_units", "mae"] == 0.5
    assert ("target_ratio", "mae") not in found


def of_a_learner(status: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """(metric, *labels beside the pipeline) -> value."""
    nowhere = RedisTelemetry(redis_client(f"redis://127.0.0.1:{free_port()}", 1.0), "cards")
    telemetry = Telemetry(nowhere, "learn", dict, lambda: None)
    telemetry.status = msgspec.json.encode(status)
    telemetry.latest = {0: PartitionLook({}, {}, {}, 0)}
    return {
        (sample.name, *(value for name, value in sample.labels.items() if name != "pipeline")): sample.value
        for family in WorkerMetrics("cards", "binary", telemetry).collect()
        for sample in family.samples
    }


def test_figures_of_all_events_are_there_where_people_are_asked():
    step = LearnStep(pipeline_of(labelling=Labelling()), shard=0, keys=[b"k" * 32], configuration="c")
    step.slots.start(0, 5)
    status = msgspec.json.decode(step.snapshot().status)
    figures = UnbiasedFigures("binary")
    for label, chance in ((True, 0.9), (False, 0.8), (False, 0.1)):
        served = Served("b@0", chance > 0.5, {"false": 1 - chance, "true": chance}, persistence=False)
        figures.update(label, served, 1.0 if label else 0.25)
    status["metrics"]["unbiased"] = figures.report()
    found = of_a_learner(status)
    kept = {key[1:]: value for key, value in found.items() if key[0] == "driftloop_unbiased_quality"}
    assert {(figure, system) for figure, _, system in kept} == {
        ("accuracy", "model"), ("accuracy", "persistence"), ("log_loss", "model"), ("average_precision", "model"),
        ("roc_auc", "model"), ("recall_at_alert_share", "model"), ("skill_vs_persistence", "model"),
    }  # fmt: skip
    assert kept["accuracy", "window", "model"] == pytest.approx(5 / 9)
    assert kept["average_precision", "window", "model"] == 1.0
    assert found["driftloop_unbiased_labels", "window"] == pytest.approx(81 / 33)
    plain = of_a_learner({**status, "metrics": {k: v for k, v in status["metrics"].items() if k != "unbiased"}})
    assert not [key for key in plain if key[0].startswith("driftloop_unbiased")]


def test_what_became_of_models_is_counted_and_a_winner_that_waits_is_told():
    step = LearnStep(pipeline_of(), shard=0, keys=[b"k" * 32], configuration="c")
    step.slots.start(0, 5)
    status = msgspec.json.decode(step.snapshot().status)
    found = of_a_learner(status)
    assert found["driftloop_releases_total", "started"] == 1
    actions = ("released", "canary", "promoted", "confirmed", "rolled_back", "rejected")
    assert [found["driftloop_releases_total", action] for action in actions] == [0] * 6  # there before it happens
    assert found["driftloop_trial_won",] == 0
    figures = {"share": 0.5, "labels": 9, "evidence_better": 30.0, "evidence_worse": 0.1, "needed": 20.0}
    assert of_a_learner({**status, "trial": {**figures, "won": True}})["driftloop_trial_won",] == 1
    assert of_a_learner({**status, "trial": {**figures, "won": False}})["driftloop_trial_won",] == 0
    del status["releases"]  # as a learner from before has written it
    assert of_a_learner(status)["driftloop_releases_total", "rolled_back"] == 0
