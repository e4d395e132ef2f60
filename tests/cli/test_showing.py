"""What status says of a pipeline, from figures as Redis and Kafka give them."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from stream.cli.releases import trial_text
from stream.cli.showing import PipelineStatus, drift_text, status_view
from stream.core.evaluating import Evaluation
from stream.core.learning import LearnStep
from stream.core.objectives import UNBIASED, Judged
from stream.core.records import Record
from stream.core.remembering import Meta
from stream.core.rollout import Trial
from stream.core.unbiased import UnbiasedFigures
from stream.messages import Drift, Moved, Served
from tests.support.records import pipeline_of


def shown(learner: dict[str, Any] | None, **counts: int) -> str:
    meta = Meta(offsets={"events": 8, "labels": 2}, counts=counts)
    status = PipelineStatus("cards", {0: meta}, {"events": {0: 10}, "labels": {0: 2}}, learner, {})
    console = Console(width=160)
    with console.capture() as capture:
        console.print(status_view(status))
    return capture.get()


def learner_of(**counts: int) -> dict[str, Any]:
    return {
        "version": "base@7", "model_size_bytes": 1_000, "counts": counts, "metrics": Evaluation("binary").report(),
        "segments": {"shop": {"s1": Evaluation("binary").report()}},
        "drift": {"episode": "cards-0-17", "episodes": 2, "monitors": 9, "ready": 3},
    }  # fmt: skip


def test_flow_lag_labels_and_dead_letters_are_shown():
    text = shown(learner_of(learned=7), events=8, dead_letters=1, **{"dead_letters.json_invalid": 1, "late_labels": 3})
    for part in (
        "drift: 2 so far, 3 of 9 monitors ready; now cards-0-17",
        "by shop, recently",
        "s1",
        "lag events",
        "json_invalid 1",
        "late 3",
        "model base@7: learned 7",
    ):
        assert part in text
    assert "learner:" not in text
    assert "no model yet" in shown(None)


def test_failures_of_a_detector_of_the_pipelines_own_are_shown():
    learner = learner_of(learned=7)
    assert "raised" not in shown(learner)
    learner["drift"]["failures"] = 1_234
    assert "the pipeline's own detector raised 1,234 times" in shown(learner)


def test_what_comes_from_records_cannot_write_on_the_terminal():
    learner = learner_of(learned=7)
    learner["segments"] = {"shop": {"[/red]\x1b[2J": Evaluation("binary").report()}}
    text = shown(learner)
    assert "\x1b" not in text
    assert r"[/red]\x1b[2J" in text
    drift = Drift(
        drift_id="d\x1b", pipeline="p", signal="error", detector="x", severity=1.0, examples_topic="e", from_offset=1,
        to_offset=2, detected_at_ms=0, segment="shop=[/x]\x1b", moved=[Moved("f\x1b", "higher", 1.0, 0.1, 0.2)],
    )  # fmt: skip
    assert drift_text(drift).plain.count(r"\x1b") == 3
    assert "\x1b" not in drift_text(drift).plain


def test_a_learner_of_an_earlier_version_is_shown():
    learner = learner_of(learned=7)
    del learner["segments"], learner["drift"]
    assert "learned 7" in shown(learner)


def test_what_the_learner_could_not_use_is_shown():
    text = shown(learner_of(updates_refused=2, gaps=1, **{"dead_letters": 4, "dead_letters.learn_failed": 4}))
    assert "learner: updates refused 2, gaps in the examples 1, dead letters: learn_failed 4" in text


def test_the_learner_counts_its_dead_letters_by_code():
    step = LearnStep(pipeline_of(), shard=0, keys=[b"k" * 32], configuration="c")
    step.step([Record("examples", 0, 0, 0, b"k", b"{broken"), Record("examples", 0, 1, 0, b"k", None)])
    assert step.counts == {"dead_letters": 2, "dead_letters.example_invalid": 1, "dead_letters.value_empty": 1}


def test_asking_for_labels_is_shown():
    learner = learner_of(learned=7)
    figures = UnbiasedFigures("binary")
    figures.update(True, Served("b@0", True), 0.25)
    learner["metrics"]["unbiased"] = figures.report()
    learner["label_sources"] = {"person:[ann]": {"labels": 40, "contradicted": 9, "contradicts": 0, "flagged": True}}
    estimated = {"accuracy": 0.91, "low": 0.88, "high": 0.94, "predictions": 3_000, "coverage": 0.05}
    estimated["turned_out"] = {"expected": 0.9, "accuracy": 0.7, "labelled": 120}
    meta = Meta(offsets={"events": 8, "labels": 2}, counts={"label_requests": 30})
    status = PipelineStatus("cards", {0: meta}, {"events": {0: 10}, "labels": {0: 2}}, learner, {}, estimated=estimated)
    console = Console(width=300)
    promised = [Judged("average_precision", "at least 0.5", 0.8, True, 0.5, UNBIASED)]
    with console.capture() as capture:
        console.print(status_view(status, promised))
    text = capture.get()
    assert "kept  of all events, by inverse propensity" in text
    for part in (
        "asked: 30 requests",
        "accuracy 0.910 (0.880 to 0.940) of the last 3,000 predictions, 5.0% of them labelled",
        "0.900 was expected, 0.700 turned out (120 labels)",
        "accuracy over all events, by inverse propensity: all 1.000",
        "1 requested labels, worth 1",
        "labels of person:[ann]: others contradicted 9 of 40",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.00123, 0.0456, "better by +0.00123 to +0.0456, in loss"),
        (0.0, None, "better by at least +0, in loss"),
        (None, -0.02, "better by at most -0.02, in loss"),
        (None, None, "better by not known yet, in loss"),
    ],
)
def test_by_how_much_a_model_on_trial_is_better(low: float | None, high: float | None, says: str):
    trial = Trial.begin(pipeline_of(), "11111111", "22222222")
    trial.labels = 1
    shown = {
        "base": trial.base, "rival": trial.rival, "stage": "canary", "share": 0.25, "won": False, "needed": 20.0,
        **trial.figures("binary"), **trial.gain(0.05), "gain_low": low, "gain_high": high,
    }  # fmt: skip
    text = trial_text(shown).plain
    assert says in text
    assert "90% confidence, whenever one looks" in text
    assert "gain" not in text
    for name in ("gain_low", "gain_high", "gain_confidence"):
        del shown[name]
    assert "better by" not in trial_text(shown).plain  # of a learner of before
