"""An estimate of the quality without labels is near the truth, says how sure it is, and is held against what turned out."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import pytest

from stream.core.estimating import PANE, QualityState, estimate, note_label, note_prediction


def feed(
    state: QualityState,
    rng: random.Random,
    events: int,
    *,
    labelled: float,
    start: int = 0,
    temperature: float = 1.0,
    task: str = "binary",
) -> list[bool]:
    """Predictions whose log odds are `temperature` times too extreme; returns which of them were right."""
    rights = []
    for offset in range(start, start + events):
        odds = rng.gauss(0, 1.5)
        p = 1 / (1 + math.exp(-odds * temperature))
        true = rng.random() < 1 / (1 + math.exp(-odds))
        if task == "binary":
            prediction: Any = p >= 0.5
            label: Any = true
            probabilities = {"false": 1 - p, "true": p}
        else:
            prediction = "a" if p >= 0.5 else "b"
            label = "a" if true else "b"
            probabilities = {"a": p, "b": 1 - p}
        note_prediction(state, task, offset, prediction, probabilities)
        rights.append(prediction == label)
        if rng.random() < labelled:
            note_label(state, task, offset, prediction, probabilities, label, labelled)
    return rights


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_truth_lies_in_the_interval(task: str, temperature: float):
    """Also of a model that is far too sure of itself, once some labels have come: nine times of ten."""
    held = 0
    for seed in range(40):
        state, rng = QualityState(), random.Random(seed)
        feed(state, rng, 3 * PANE, labelled=0.05, temperature=temperature, task=task)
        rights = feed(state, rng, PANE - 1, labelled=0.0, start=3 * PANE, temperature=temperature, task=task)
        found = estimate([state], task)
        assert found is not None
        recent = sum(rights) / len(rights)
        assert found["accuracy"] == pytest.approx(recent, abs=0.06)
        assert found["low"] < found["accuracy"] < found["high"]
        assert found["high"] - found["low"] < 0.12
        held += found["low"] <= recent <= found["high"]
    assert held >= 33


def test_without_a_label_the_scores_are_believed_and_the_interval_is_wide():
    state, few = QualityState(), QualityState()
    rng = random.Random(1)
    feed(state, rng, PANE, labelled=0.0)
    feed(few, rng, PANE, labelled=0.3)
    bare, known = estimate([state], "binary"), estimate([few], "binary")
    assert bare is not None
    assert known is not None
    assert bare["coverage"] == 0.0
    assert bare["calibration_labels"] == 0
    assert bare["high"] - bare["low"] > 2 * (known["high"] - known["low"])
    assert known["coverage"] == pytest.approx(0.3, abs=0.03)


def test_what_was_expected_is_kept_until_it_turns_out_otherwise():
    """The world changes: scores say what they said, labels do not. The estimate is wrong, and it shows."""
    state, rng = QualityState(), random.Random(3)
    feed(state, rng, 2 * PANE, labelled=0.1)
    waiting = []
    for offset in range(2 * PANE, 4 * PANE):
        p = 0.5 + 0.45 * rng.random()
        probabilities = {"false": 1 - p, "true": p}
        note_prediction(state, "binary", offset, True, probabilities)
        waiting.append((offset, probabilities))
    for offset, probabilities in waiting[::10]:
        note_label(state, "binary", offset, True, probabilities, rng.random() < 0.3, 0.1)
    note_prediction(state, "binary", 4 * PANE, True, {"false": 0.1, "true": 0.9})
    found = estimate([state], "binary")
    assert found is not None
    turned_out = found["turned_out"]
    assert turned_out["labelled"] > 300
    assert turned_out["expected"] > turned_out["accuracy"] + 0.1
    assert found["accuracy"] < turned_out["expected"]  # the calibration has learned of it


def test_labels_that_nobody_asked_for_tell_the_coverage_only():
    state = QualityState()
    for offset in range(100):
        note_prediction(state, "binary", offset, True, {"false": 0.2, "true": 0.8})
        note_label(state, "binary", offset, True, {"false": 0.2, "true": 0.8}, False, None)
    found = estimate([state], "binary")
    assert found is not None
    assert found["coverage"] == 1.0
    assert found["calibration_labels"] == 0
    assert found["accuracy"] > 0.7


def test_weights_undo_what_asking_for_hard_ones_does():
    """Labels of wrong answers are ten times as likely to be asked for within the same scores."""
    state, rng = QualityState(), random.Random(5)
    for offset in range(PANE - 1):
        probabilities = {"false": 0.3, "true": 0.7}
        right = rng.random() < 0.7
        note_prediction(state, "binary", offset, True, probabilities)
        propensity = 0.05 if right else 0.5
        if rng.random() < propensity:
            note_label(state, "binary", offset, True, probabilities, right, propensity)
    found = estimate([state], "binary")
    assert found is not None
    assert found["accuracy"] == pytest.approx(0.7, abs=0.06)


def test_partitions_are_taken_together_and_the_state_is_small():
    states, rng = [QualityState() for _ in range(3)], random.Random(7)
    for state in states:
        feed(state, rng, 6 * PANE, labelled=0.3)
        stored = msgspec.json.encode(state)
        assert len(stored) < 5_000
        assert msgspec.json.decode(stored, type=QualityState) == state
        assert state.labels < 2_000
    together = estimate(states, "binary")
    assert together is not None
    assert together["predictions"] == sum(sum(sum(pane.counts) for pane in state.panes[-2:]) for state in states)
    assert 0.6 < together["roc_auc"] < 0.95
    assert together["recall"] == pytest.approx(0.7, abs=0.08)


def test_nothing_is_said_of_nothing():
    assert estimate([QualityState()], "binary") is None
    state = QualityState()
    note_prediction(state, "binary", 0, None, None)
    assert estimate([state], "binary") is None
