"""Which events have their answer already, from what lies on the topics."""

from __future__ import annotations

import pytest

from stream.cli.answering import Answers
from stream.errors import DriftloopError


def answers(predicted: list[int], dead: list[int], low: int = 0, high: int = 100) -> Answers:
    made = Answers("cards.events-0", low, high)
    for offset in dead:
        made.add(offset, prediction=False)
    for offset in predicted:
        made.add(offset, prediction=True)
    return made


def test_all_up_to_the_last_answer():
    assert answers([], []).until(range(100)) == 0
    assert answers(list(range(10)), [10]).until(range(100)) == 11
    assert answers(list(range(20, 30)), []).until(range(100)) == 30  # what came before is another state's
    assert answers([], [3, 4]).until(range(100)) == 5


def test_a_hole_that_holds_events_is_refused_and_one_of_markers_is_none():
    its = answers([0, 1, 4], [])
    with pytest.raises(DriftloopError, match=r"2 events of cards\.events-0 from offset 2 to 3"):
        its.until(range(100))
    assert its.until([0, 1, 4, 5]) == 5


def test_a_dead_letter_that_is_older_than_all_predictions_makes_no_hole():
    """Dead letters are kept longer than predictions."""
    assert answers(list(range(60, 70)), [3]).until(range(100)) == 70


def test_dead_letters_behind_the_last_prediction_may_have_come_out_alone():
    assert answers([0, 1], [4]).until(range(100)) == 2


def test_an_event_with_both_is_predicted():
    assert answers([5, 6], [5]).until(range(100)) == 7
