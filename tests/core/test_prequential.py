"""A model on the past gives the figures that it would have had live."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import linear_model, preprocessing, tree

from stream import Labels
from stream.batch.replaying import replay
from stream.boosting import BoostedClassifier
from stream.core.digest import state_digest
from stream.core.learning import LearnStep
from stream.core.prequential import Lesson, evaluate, scored_lessons, timeline, train
from stream.core.records import Record
from stream.errors import ConfigurationError
from tests.support.records import pipeline_of
from tests.support.world import card_stream

CARDS = {"features": {"amount": float, "hour": int}, "segments": ["hour"], "labels": Labels(wait="10m", keep_late="5m")}
MODELS = {
    "logistic": lambda params: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "tree": lambda params: tree.HoeffdingTreeClassifier(max_share_to_split=1.0, grace_period=50),
}


def examples_of(pipeline: Any, records: list[Record], refresh: int = 1) -> tuple[Any, list[Record]]:
    out: list[Any] = []
    its = replay(
        pipeline, records, refresh=refresh, on_output=lambda o: out.append(o) if o.topic == "examples" else None
    )
    return its, [Record("examples", 0, i, o.timestamp_ms, o.key, o.value) for i, o in enumerate(out)]


@pytest.mark.parametrize("name", MODELS)
def test_the_figures_are_those_of_a_replay_that_refreshes_its_model_at_once(name: str):
    pipeline = pipeline_of(model=MODELS[name], **CARDS)
    stream = card_stream(1_500, partitions=1, missing=0.0, late=0.1, contradicting=0.1)
    second = stream[0].timestamp_ms % 1_000
    tied = {r.offset for r in stream if r.topic == "labels" and r.timestamp_ms % 1_000 == second}  # with an event
    its, records = examples_of(pipeline, [r for r in stream if r.topic == "events" or r.offset not in tied])
    lessons = timeline(pipeline, records).lessons
    model = pipeline.build()
    judged = evaluate(pipeline, model, lessons, score_from=0, refresh=1, segments=True)
    metrics = its.learner["metrics"]
    assert judged.report["overall"]["labels"] == metrics["overall"]["labels"] > 500
    # A scorer without explanations walks a tree through River: the same but for the last bits.
    assert _close(judged.report, metrics)
    assert judged.segments["hour"].keys() == its.learner["segments"]["hour"].keys()
    assert state_digest(model) == its.learner["digest"]


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    return one == pytest.approx(other, rel=1e-9, abs=1e-12) if isinstance(one, float) else one == other


def test_training_on_a_range_is_what_the_live_learner_does():
    pipeline = pipeline_of(**CARDS)
    _, records = examples_of(pipeline, card_stream(1_000, contradicting=0.1), refresh=200)
    repeated = [*records[:300], *records[200:]]  # a score worker that came back sends some again
    records = [msgspec.structs.replace(r, offset=i) for i, r in enumerate(repeated)]
    step = LearnStep(pipeline, shard=0, keys=[b"k" * 32], configuration="c")
    step.step(records)
    found = timeline(pipeline, records)
    model = pipeline.build()
    assert train(pipeline, model, found.lessons, fit_to=None) == step.counts["learned"]
    assert state_digest(model) == state_digest(step.model)
    assert found.high_water == step._high_water
    first = timeline(pipeline, records[:400])
    rest = timeline(pipeline, records[400:], first.high_water)
    assert [one.offset for one in first.lessons + rest.lessons] == [one.offset for one in found.lessons]
    assert rest.high_water == found.high_water


def test_what_cannot_be_an_example_is_passed_over():
    pipeline = pipeline_of(**CARDS)
    _, records = examples_of(pipeline, card_stream(200), refresh=200)
    broken = [Record("examples", 0, 10_000, 0, b"k", value) for value in (None, b"", b"{}", b"\xff", b"[" * 5_000)]
    assert timeline(pipeline, [*records, *broken]).lessons == timeline(pipeline, records).lessons


class Spy:
    """Notes what it had learned when it was asked."""

    def __init__(self) -> None:
        self.learned: list[float] = []
        self.asked: list[tuple[float, list[float]]] = []

    def predict_proba_one(self, x: dict[str, Any]) -> dict[bool, float]:
        self.asked.append((x["amount"], list(self.learned)))
        return {True: 0.5, False: 0.5}

    def learn_one(self, x: dict[str, Any], y: bool) -> None:
        self.learned.append(x["amount"])


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=25), st.integers(0, 20))
def test_nothing_is_known_before_its_label_came(times: list[tuple[int, int]], score_from: int):
    """By brute force: at every answer the model knows exactly the labels that came strictly before the event."""
    lessons, now = [], 0
    for number, (occurred, delay) in enumerate(sorted(times, key=sum)):
        now = max(now, occurred + delay)
        lessons.append(Lesson(number, occurred, now, {"amount": float(number)}, True))
    scored = scored_lessons(lessons, score_from)
    known = max((one.learned_at_ms for one in lessons[:score_from]), default=-1)
    assert scored == [n >= score_from and one.came_at_ms > known for n, one in enumerate(lessons)]
    spy = Spy()
    if not any(scored):
        with pytest.raises(ConfigurationError, match="labels take longer"):
            evaluate(pipeline_of(), spy, lessons, score_from=score_from)
        return
    judged = evaluate(pipeline_of(), spy, lessons, score_from=score_from, refresh=1)
    assert judged.labels == sum(scored) == len(spy.asked)
    for number, learned in spy.asked:
        event = lessons[int(number)]
        assert learned == [x.features["amount"] for x in lessons if x.learned_at_ms < event.came_at_ms]
    assert spy.learned == [float(n) for n in range(len(lessons))]


def test_reports_come_in_order_and_may_end_the_run():
    rng = random.Random(1)
    lessons = [Lesson(i, i, i + 20, {"amount": rng.gauss(0, 1)}, rng.random() < 0.3) for i in range(600)]
    found: list[tuple[int, float | None]] = []
    judged = evaluate(
        pipeline_of(), pipeline_of().build(), lessons, score_from=200, on_report=lambda *r: found.append(r)
    )
    assert [number for number, _ in found] == list(range(1, 9))
    assert found[-1][1] == judged.figure

    def stop(number: int, figure: float | None) -> None:
        raise StopIteration

    with pytest.raises(StopIteration):
        evaluate(pipeline_of(), pipeline_of().build(), lessons, score_from=200, on_report=stop)


def test_a_batch_trained_model_is_fitted_on_what_was_known_then():
    """Its answers are those of a model fitted by hand on the first part."""
    rng = random.Random(2)
    lessons = []
    for i in range(800):
        x = {"amount": rng.gauss(0, 1)}
        lessons.append(Lesson(i, i, i + 50, x, (x["amount"] > 0) != (rng.random() < 0.1)))
    pipeline = pipeline_of()
    model, by_hand = BoostedClassifier(trees=5), BoostedClassifier(trees=5)
    by_hand.fit([one.features for one in lessons[:400]], [one.label for one in lessons[:400]])
    judged = evaluate(pipeline, model, lessons, score_from=400)
    assert state_digest(model) == state_digest(by_hand)
    assert judged.labels == 350  # the first fifty came while labels of the first part were still to come
    again = evaluate(pipeline, by_hand, lessons, score_from=400, fit=False)
    assert (judged.report, judged.failures) == (again.report, 0)


def test_labels_that_cannot_be_learned_count_in_the_scored_part_only():
    """A champion that began within the window is compared with a candidate that began with it."""

    class Refuses(linear_model.LogisticRegression):
        def learn_one(self, x: dict[str, Any], y: Any) -> None:
            if x["a"] > 1.0:
                raise ValueError("too large")
            super().learn_one(x, y)

    rng = random.Random(1)
    lessons = [Lesson(i, 10 * i, 10 * i + 5, {"a": rng.gauss(0.0, 1.0)}, rng.random() < 0.5) for i in range(400)]
    pipeline = pipeline_of(features={"a": float}, entity_features=(), model=lambda params: Refuses())
    of_both = [
        evaluate(
            pipeline, Refuses(), [one for one in lessons if one.offset >= since], score_from=300, fit=False
        ).failures
        for since in (0, 250)
    ]
    assert of_both[0] == of_both[1] == sum(one.features["a"] > 1.0 for one in lessons[300:]) > 5
