"""The rules of asking: one person or two, disagreement, the same person twice, agreement."""

from __future__ import annotations

import pytest

from stream.core.annotating import (
    CLAIMS_MAX,
    DISAGREE,
    PAIRS_MAX,
    Annotations,
    Given,
    Verdict,
    agreement,
    give_back,
    put,
    take,
)  # fmt: skip
from stream.errors import ConfigurationError
from stream.lifecycle import Labelling, label_options
from stream.messages import LabelValue
from tests.support.records import pipeline_of


def claim(
    state: Annotations, run: str, events: list[str], annotators: int = 1, now_ms: int = 0, limit: int = 20
) -> list[tuple[str, str]]:
    return [
        (event, one.name)
        for event, one in take(
            state, events, run, limit=limit, annotators=annotators, now_ms=now_ms, until_ms=now_ms + 100
        )
    ]


def say(
    state: Annotations, event: str, form: str, by: str, label: LabelValue | None, annotators: int = 2
) -> Verdict | None:
    return put(state, event, Given(form, f"person:{by}", label), annotators=annotators)


def test_what_is_claimed_is_not_asked_again_until_it_is_given_back_or_its_time_is_over():
    state = Annotations()
    assert claim(state, "a", ["e1", "e2"]) == [("e1", "a#0"), ("e2", "a#1")]
    assert claim(state, "a", ["e1", "e2", "e3"]) == [("e1", "a#0"), ("e2", "a#1")]  # a retry
    assert claim(state, "b", ["e1", "e2", "e3"]) == [("e3", "b#0")]
    give_back(state, "e1", "a#0")
    assert claim(state, "c", ["e1", "e2", "e3"]) == [("e1", "c#0")]
    assert claim(state, "d", ["e2"], now_ms=101) == [("e2", "d#0")]
    assert set(state.events) == {"e2"}  # e1 and e3 are closed and nobody has a form for them


def test_an_answer_is_final_and_the_same_again_changes_nothing():
    state = Annotations()
    claim(state, "a", ["e1"])
    for _ in range(2):
        assert say(state, "e1", "a#0", "ann", True, annotators=1) == Verdict(True, "person:ann")
    assert say(state, "e1", "b#0", "bob", False, annotators=1) == Verdict(True, "person:ann")
    assert claim(state, "c", ["e1"], now_ms=1_000) == []  # its label is not seen yet, but it was given


def test_two_people_must_agree_and_a_third_decides():
    state = Annotations()
    assert claim(state, "a", ["e1"], 2) == [("e1", "a#0"), ("e1", "a#1")]
    assert say(state, "e1", "a#0", "ann", "x") is None
    assert say(state, "e1", "a#1", "ann", "y") is None  # the same person does not count twice
    assert "another person" in state.events["e1"].remark
    assert claim(state, "b", ["e1"], 2) == [("e1", "b#0")]
    assert say(state, "e1", "b#0", "bob", "y") is None
    assert claim(state, "c", ["e1"], 2) == [("e1", "c#0")]
    assert say(state, "e1", "c#0", "eve", "y") == Verdict("y", "person:bob+eve")
    assert claim(state, "d", ["e1"], 2) == []
    assert state.pairs == [("x", "y")]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([True, True], Verdict(True, "person:p0+p1")),
        ([None, None], Verdict(None, "person:p0+p1")),
        ([None, "x", "x"], Verdict("x", "person:p1+p2")),
        (["x", "y", None], Verdict(None, DISAGREE)),
    ],
)
def test_verdicts(labels: list[LabelValue | None], expected: Verdict):
    state = Annotations()
    *first, last = enumerate(labels)
    assert all(say(state, "e", f"r#{n}", f"p{n}", label) is None for n, label in first)
    assert say(state, "e", f"r#{last[0]}", f"p{last[0]}", last[1]) == expected


def test_all_is_bounded():
    state = Annotations()
    events = [f"e{n}" for n in range(CLAIMS_MAX + 500)]
    assert len(claim(state, "a", events, limit=10_000)) == CLAIMS_MAX
    assert claim(state, "b", events) == []
    assert claim(state, "c", [], now_ms=1_000) == []
    assert not state.events
    for number in range(PAIRS_MAX + 10):
        say(state, f"e{number}", "r#0", "ann", True)
        say(state, f"e{number}", "r#1", "bob", True)
    assert len(state.pairs) == PAIRS_MAX


def test_agreement_and_kappa():
    """Half of the raters' agreement is chance here: (0.7 - 0.5) / (1 - 0.5)."""
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    found = agreement(pairs)
    assert found is not None
    assert (found.items, found.share, found.kappa) == (50, 0.7, pytest.approx(0.4))
    assert agreement([]) is None
    assert agreement([("a", "a")]) == (1, 1.0, None)


def test_two_annotators_are_not_for_numbers():
    with pytest.raises(ConfigurationError, match=r"labelling\.annotators"):
        pipeline_of(task="regression", labelling=Labelling(per_1000=100, annotators=2))


def test_what_a_form_offers():
    assert label_options("binary", None) == label_options("anomaly", None) == ["true", "false"]
    assert label_options("multiclass", ["a", "b"]) == ["a", "b"]
    assert label_options("multiclass", ["a", "skip"]) == label_options("multiclass", None) == []
    assert label_options("regression", None) == []
