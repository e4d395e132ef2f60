"""The score step: predictions, label cases, time, and that nothing depends on how records are cut into batches."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import base, linear_model

from stream import Explain, Labels, entity, number
from stream.core.explaining import Answer
from stream.core.forms import EXAMPLES_ONLY, IN_PROCESS, encoded
from stream.core.records import Record
from stream.core.scoring import BesideModel, ScoreStep
from stream.messages import ModelRef
from stream.pipeline import Limits
from stream.ports import Acquired, Fetched, Lease
from tests.support.partition import live_model, run
from tests.support.records import event, label, pipeline_of

PIPELINE = pipeline_of()


def feed(*records: Record, **changes: Any) -> Any:
    return run(pipeline_of(**changes), [records])


# -- predictions -------------------------------------------------------------------------------------------------------


def test_a_prediction_names_its_event_model_and_source():
    outcome = feed(event(4, "e", at_ms=9_000, timestamp_ms=9_500))
    (prediction,) = outcome.values("predictions")
    assert msgspec.json.encode(prediction) == outcome.of("predictions")[0].value
    assert prediction == {
        "event_id": "e",
        "prediction": True,
        "probabilities": {"false": 0.5, "true": 0.5},
        "uncertainty": 1.0,
        "model": {"name": "cards", "version": "base@0", "slot": "champion"},
        "source": {"topic": "cards.events", "partition": 0, "offset": 4},
        "occurred_at_ms": 9_000,
        "scored_at_ms": 9_500,
        "explanation": {"scale": "log_odds", "bias": 0.0, "contributions": [], "rest": 0.0},
    }
    (record,) = outcome.of("predictions")
    assert (record.partition, record.key, record.timestamp_ms) == (0, b"card-1", 9_500)


def test_values_beyond_their_range_are_clipped_and_said_so():
    pipeline = pipeline_of(features={"amount": number(low=0, high=10)}, entity_features=[entity.last("amount")])
    model = linear_model.LogisticRegression()
    model.learn_one({"amount": 1.0}, True)
    events = [event(0, features={"amount": 99.0}), event(1, features={"amount": 10.0})]
    clipped, inside = run(pipeline, [events], live_model(pipeline, model)).values("predictions")
    assert clipped["clipped"] == ["amount"]
    assert clipped["probabilities"] == inside["probabilities"]
    assert "clipped" not in inside


def test_an_explanation_adds_up_and_lists_only_the_largest():
    names = [f"f{i}" for i in range(8)]
    pipeline = pipeline_of(features=dict.fromkeys(names, float), entity_features=(), explain=Explain(top=3))
    model = linear_model.LogisticRegression()
    for i in range(20):
        model.learn_one({name: float((i * k) % 5) for k, name in enumerate(names)}, i % 3 == 0)
    x = {name: float(i) for i, name in enumerate(names)}
    (prediction,) = run(pipeline, [[event(0, features=x)]], live_model(pipeline, model)).values("predictions")
    explanation = prediction["explanation"]
    contributions = dict(explanation["contributions"])
    assert len(contributions) == 3
    exact = {name: model.weights[name] * value for name, value in x.items()}
    assert list(contributions) == sorted(exact, key=lambda n: abs(exact[n]), reverse=True)[:3]
    raw = explanation["bias"] + sum(contributions.values()) + explanation["rest"]
    assert raw == pytest.approx(model._raw_dot_one(x))


def test_a_model_that_fails_costs_one_event_and_not_the_stream():
    def scorer(x: dict[str, Any]) -> Any:
        if x["amount"] == 3.0:
            raise ValueError(f"private {x}")
        return live_model(PIPELINE).scorer(x)

    outcome = run(PIPELINE, [[event(i) for i in range(5)]], live_model(PIPELINE)._replace(scorer=scorer))
    assert len(outcome.of("predictions")) == 4
    assert outcome.codes() == ["model_failed"]
    message = dict(outcome.of("dead_letters")[0].headers)["driftloop.error.message"].decode()
    assert "ValueError" in message
    assert "private" not in message


def other_model(slot: str, scorer: Any = None, share: float = 0.0) -> BesideModel:
    return BesideModel(ModelRef("cards", "other@0", slot), scorer or live_model(PIPELINE).scorer, share)


def broken(_: Any) -> Any:
    raise ValueError("no")


def test_where_a_new_champion_fails_the_former_one_answers_and_the_judge_is_told():
    model = live_model(PIPELINE)._replace(scorer=broken, beside=other_model("previous"))
    outcome = run(PIPELINE, [[event(0, "e"), event(1, "e"), label(0, "e", True)]], model)
    first, again = outcome.values("predictions")
    assert first["model"] == again["model"] == {"name": "cards", "version": "other@0", "slot": "previous"}
    assert first["prediction"] == again["prediction"]
    assert outcome.codes() == []
    (example,) = outcome.values("examples")
    assert example["slot"] == "previous"
    assert example["served"]["champion"] == {"version": "base@0", "prediction": None, "failed": True}
    assert example["served"]["previous"]["probabilities"] == {"false": 0.5, "true": 0.5}


def test_where_an_answer_cannot_be_written_the_former_champion_stands_in_too():
    pipeline = pipeline_of(task="multiclass", model=lambda params: linear_model.SoftmaxRegression())
    odd = live_model(pipeline)._replace(
        scorer=lambda x: Answer(object(), None, None, None),  # type: ignore[arg-type]
        beside=BesideModel(ModelRef("cards", "other@0", "previous"), lambda x: Answer("a", {"a": 1.0}, None, None)),
    )
    outcome = run(pipeline, [[event(0, "e"), label(0, "e", "a")]], odd)
    assert [value["model"]["slot"] for value in outcome.values("predictions")] == ["previous"]
    (example,) = outcome.values("examples")
    assert example["served"]["champion"]["failed"]


@pytest.mark.parametrize("form", [IN_PROCESS, EXAMPLES_ONLY])
def test_what_the_former_champion_answers_is_the_same_in_process(form: Any):
    model = live_model(PIPELINE)._replace(scorer=broken, beside=other_model("previous"))
    step = ScoreStep(PIPELINE, 0, Acquired(Lease(0, 1, 0, "w"), None, {}, []), form=form)
    batch = step.parse([event(0, "e"), label(0, "e", True)])
    step.load(step.needs(batch), Fetched({}, {}, []), batch)
    _, out = step.step(batch, {}, model)
    wire = run(PIPELINE, [[event(0, "e"), label(0, "e", True)]], model)
    assert [encoded(one).value for one in out if one.topic == "examples"] == [one.value for one in wire.of("examples")]


@pytest.mark.parametrize(
    ("beside", "answered"),
    [
        (other_model("challenger"), 0),  # nobody has seen yet what a candidate in shadow is worth
        (other_model("challenger", share=1.0), 1),
        (other_model("previous", broken), 0),
    ],
)
def test_where_the_champion_fails_who_else_may_answer(beside: BesideModel, answered: int):
    outcome = run(PIPELINE, [[event(0)]], live_model(PIPELINE)._replace(scorer=broken, beside=beside))
    assert len(outcome.of("predictions")) == answered
    assert outcome.codes() == ["model_failed"] * (1 - answered)


def test_a_dead_letter_keeps_the_original_bytes_headers_and_time():
    poison = Record("events", 0, 3, 77, b"k", b"{poison", [("trace", b"abc"), ("empty", None)])
    outcome = feed(poison)
    (letter,) = outcome.of("dead_letters")
    assert (letter.key, letter.value, letter.timestamp_ms, letter.partition) == (b"k", b"{poison", 77, 0)
    headers = letter.headers
    assert headers[:2] == [("trace", b"abc"), ("empty", None)]
    errors = {k.removeprefix("driftloop.error."): v.decode() for k, v in headers[2:]}
    assert errors == {
        "topic": "cards.events",
        "partition": "0",
        "offset": "3",
        "stage": "score",
        "code": "json_invalid",
        "message": "the value is not valid JSON in UTF-8",
    }


def test_the_same_event_id_again_gets_the_first_answer_and_teaches_nothing_twice():
    outcome = feed(event(0, "e"), event(1, "x"), event(2, "e", features={"amount": 999.0}), label(0, "e", at_ms=3_000))
    first, _, again = outcome.values("predictions")
    assert again["duplicate_of"] == {"topic": "cards.events", "partition": 0, "offset": 0}
    assert again["source"]["offset"] == 2
    assert {k: again[k] for k in ("prediction", "probabilities")} == {
        k: first[k] for k in ("prediction", "probabilities")
    }
    assert len(outcome.of("examples")) == 1
    assert outcome.counts()["duplicate_events"] == 1


# -- label cases -------------------------------------------------------------------------------------------------------


def test_a_label_on_time_makes_an_example_of_what_was_known_and_served():
    outcome = feed(event(0, "e", at_ms=1_000), event(1, "f", at_ms=2_000), label(9, "f", at_ms=3_000))
    (example,) = outcome.values("examples")
    assert example["features"] == {"amount": 1.0, "count_1m": 1.0, "amount_mean_1m": 0.0, "seconds_since_last": 1.0}
    assert example["served"]["champion"]["version"] == "base@0"
    assert (example["timing"], example["label"], example["sequence"], example["partition"]) == ("on_time", True, 1, 0)
    assert example["event_source"] == {"topic": "cards.events", "partition": 0, "offset": 1}
    assert example["label_source_position"] == {"topic": "cards.labels", "partition": 0, "offset": 9}


def timings(outcome: Any) -> list[tuple[str, str, bool]]:
    return [(e["event_id"], e["timing"], e["label"]) for e in outcome.values("examples")]


def test_an_early_label_waits_for_its_event():
    outcome = feed(event(0, "a"), label(0, "late-event", False), event(1, "b"), event(2, "late-event"))
    assert timings(outcome) == [("late-event", "early", False)]
    assert outcome.codes() == []
    assert outcome.store.partitions[0].early == {}


def test_contradicting_early_labels_the_first_wins_and_the_other_is_a_correction():
    outcome = feed(label(0, "e", True), label(1, "e", False), label(2, "e", True, at_ms=5), event(0, "e"))
    assert timings(outcome) == [("e", "early", True), ("e", "correction", False)]
    assert outcome.counts()["duplicate_labels"] == 1


def test_an_early_label_whose_event_never_comes_is_a_dead_letter_when_its_time_is_over():
    early = label(0, "never", at_ms=0)
    assert feed(event(0, at_ms=0), early, event(1, at_ms=20_000)).codes() == []
    outcome = feed(event(0, at_ms=0), early, event(1, at_ms=20_001))
    assert outcome.codes() == ["label_without_event"]
    assert outcome.of("dead_letters")[0].value == early.value


@pytest.mark.parametrize("said_ms", [0, 4_102_444_800_000])
def test_a_label_from_before_all_events_waits_from_the_first_on_whatever_time_it_claims(said_ms: int):
    start_ms = 1_700_000_000_000
    early = msgspec.structs.replace(label(0, "never", at_ms=said_ms), timestamp_ms=start_ms - 1)
    within = [early, event(0, at_ms=start_ms), event(1, at_ms=start_ms + 20_000)]
    assert feed(*within).codes() == []
    for records in ([within[0]], within[1:2], within[2:]), (within,):  # in one batch, or in three
        outcome = run(pipeline_of(), [*records, [event(2, at_ms=start_ms + 20_001)]])
        assert outcome.codes() == ["label_without_event"]
        assert outcome.store.partitions[0].early == {}


def test_an_example_by_default_bears_the_time_of_the_record_that_made_it_due():
    rules = Labels(wait="1m", missing="default", default=False)
    last = event(1, at_ms=90_000, timestamp_ms=1_700_000_000_000)  # an old event, produced again today
    (example,) = feed(event(0, at_ms=0), last, labels=rules).of("examples")
    assert example.timestamp_ms == 1_700_000_000_000


def test_early_labels_are_bounded_and_the_oldest_goes_first():
    labels = [label(i, f"never-{i}") for i in range(4)]
    outcome = feed(*labels, labels=Labels(wait="1m", early_max=2))
    assert outcome.codes() == ["label_without_event"] * 2
    assert [r.value for r in outcome.of("dead_letters")] == [labels[0].value, labels[1].value]
    assert feed(labels[0], labels=Labels(wait="1m", early_max=0)).codes() == ["label_without_event"]


def test_the_same_label_twice_is_counted_and_learned_once():
    outcome = feed(event(0, "e"), label(0, "e"), label(1, "e"))
    assert timings(outcome) == [("e", "on_time", True)]
    assert outcome.counts()["duplicate_labels"] == 1


def test_a_contradicting_label_is_archived_as_a_correction():
    outcome = feed(event(0, "e"), label(0, "e", True), label(1, "e", False), label(2, "e", False))
    assert timings(outcome) == [("e", "on_time", True), ("e", "correction", False), ("e", "correction", False)]
    assert outcome.values("examples")[1]["previous_label"] is True


def test_a_late_label_is_archived_and_after_the_keeping_time_unknown():
    def at(watermark_ms: int) -> Any:
        return feed(event(0, "e", at_ms=0), event(1, at_ms=watermark_ms), label(0, "e", at_ms=watermark_ms))

    assert timings(at(60_000)) == [("e", "on_time", True)]
    assert timings(at(60_001)) == [("e", "late", True)]
    assert timings(at(90_000)) == [("e", "late", True)]
    forgotten = at(90_001)
    assert timings(forgotten) == []
    assert forgotten.counts()["forgotten"] == 1
    assert forgotten.store.partitions[0].remembered.keys() == {"e1"}


def test_a_missing_label_teaches_nothing_or_the_default():
    passing = [event(0, "e", at_ms=0), event(1, at_ms=60_001), event(2, at_ms=60_002)]
    assert timings(feed(*passing)) == []
    rules = Labels(wait="1m", keep_late="30s", missing="default", default=False)
    outcome = feed(*passing, label(0, "e", True, at_ms=60_002), labels=rules)
    assert timings(outcome) == [("e", "default", False), ("e", "correction", True)]
    assert "label_source_position" not in outcome.values("examples")[0]
    # Each default is learned once, however time goes on.
    later = feed(*passing, *[event(3 + i, at_ms=60_100 + 1_000 * i) for i in range(29)], labels=rules)
    assert timings(later) == [("e", "default", False)]


def test_labels_that_do_not_fit_are_dead_letters():
    outcome = feed(event(0, "e", key="a"), label(0, "e", key="b"), label(1, "e", "true", key="a"))
    assert outcome.codes() == ["label_key_mismatch", "value_invalid"]
    assert outcome.of("examples") == []


def test_an_idle_entity_is_forgotten_after_at_most_twice_its_time():
    limits = Limits(entity_idle="1h")
    hours = [event(i, key=f"card-{i}", at_ms=i * 3_600_000) for i in range(6)]
    outcome = run(pipeline_of(limits=limits), [[e] for e in hours])
    kept = {key for entities in outcome.store.partitions[0].entities.values() for key in entities}
    assert kept == {"card-4", "card-5"}
    back = feed(*hours, event(6, "again", key="card-0", at_ms=6 * 3_600_000), limits=limits)
    assert back.store.partitions[0].entities[6].keys() == {"card-5", "card-0"}
    assert back.values("predictions")[-1]["explanation"] == back.values("predictions")[0]["explanation"]


def test_memory_of_remembered_events_and_due_times_is_given_back():
    pipeline = pipeline_of(labels=Labels(wait="10s", keep_late="5s"))
    outcome = run(pipeline, [[event(i) for i in range(b * 10, b * 10 + 10)] for b in range(30)])
    partition = outcome.store.partitions[0]
    assert len(partition.remembered) == 16
    assert sum(len(due.entries) for due in partition.due.values()) <= 16 + 10
    assert outcome.counts()["forgotten"] == 300 - 16


# -- nothing depends on batches ----------------------------------------------------------------------------------------

STEP = st.tuples(
    st.sampled_from(["event", "event", "event", "label", "label", "poison", "repeat"]),
    st.integers(min_value=-5_000, max_value=25_000),
    st.integers(min_value=0, max_value=30),
    st.booleans(),
)


def build_stream(steps: list[tuple[str, int, int, bool]]) -> list[Record]:
    """Events and labels of three cards, in an arbitrary but legal order."""
    records: list[Record] = []
    offsets = {"events": 0, "labels": 0}
    now_ms = 100_000
    for kind, step_ms, number_, flag in steps:
        now_ms = max(0, now_ms + step_ms)
        topic = "labels" if kind == "label" else "events"
        offset = offsets[topic]
        offsets[topic] += 1
        key = f"card-{number_ % 3}"
        if kind == "event":
            records.append(event(offset, f"e{offset}", key=f"card-{offset % 3}", at_ms=now_ms))
        elif kind == "repeat":
            records.append(event(offset, f"e{number_}", key=key, at_ms=now_ms))
        elif kind == "poison":
            records.append(Record("events", 0, offset, now_ms, b"k", b"{poison"))
        else:
            records.append(label(offset, f"e{number_}", flag, key=key, at_ms=now_ms))
    return records


def cut(records: list[Record], sizes: list[int]) -> list[list[Record]]:
    batches, at = [], 0
    for size in sizes:
        batches.append(records[at : at + size])
        at += size
    return [*[b for b in batches if b], *([records[at:]] if at < len(records) else [])]


def flat(outcome: Any) -> tuple[Any, ...]:
    """Everything that is left, apart from how due times are grouped in chunks."""
    partition = outcome.store.partitions[0]
    meta = msgspec.json.decode(partition.meta or b"{}")
    meta.pop("chunk_sequence", None)
    due = sorted(entry for chunk in partition.due.values() for entry in chunk.entries)
    alive = [entry for entry in due if entry[0] >= meta.get("watermark_ms", -1)]
    generations = sorted(partition.entities)
    entities = {key: state for g in generations for key, state in partition.entities[g].items()}
    entities = {
        key: state for key, state in entities.items() if msgspec.msgpack.decode(state)[0] >= generations[-1] - 1
    }
    return meta, entities, partition.remembered, partition.early, alive, outcome.published


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=40), st.lists(st.integers(min_value=1, max_value=9), max_size=20), st.booleans())
def test_the_cut_into_batches_changes_nothing(
    steps: list[tuple[str, int, int, bool]], sizes: list[int], defaults: bool
):
    rules = Labels(wait="1m", keep_late="30s", early_wait="20s", early_max=3)
    if defaults:
        rules = Labels(wait="1m", keep_late="30s", early_wait="20s", missing="default", default=False)
    pipeline = pipeline_of(labels=rules, limits=Limits(entity_idle="2m"))
    records = build_stream(steps)
    one_by_one = run(pipeline, [[record] for record in records])
    assert flat(run(pipeline, cut(records, sizes))) == flat(one_by_one)


# -- what a user's code or a foreign producer may do --------------------------------------------------------------------


def test_an_event_id_under_another_key_is_no_repeat_of_the_first():
    outcome = feed(event(0, "e", key="card-1"), event(1, "e", key="card-2"), event(2, "e", key="card-1"))
    assert outcome.codes() == ["event_key_mismatch"]
    assert [p.get("duplicate_of") is not None for p in outcome.values("predictions")] == [False, True]


@pytest.mark.parametrize(
    ("value", "dead"),
    [(np.float64(0.5), []), (1, []), ("word", []), (np.int64(3), ["entity_feature_failed"]),
     (math.inf, ["entity_feature_failed"]), ([1.0], ["entity_feature_failed"])],
)  # fmt: skip
def test_a_value_of_a_users_function_is_checked(value, dead):
    def function(state: Any, features: Any, occurred_at_ms: int) -> tuple[Any, Any]:
        return state, value

    pipeline = pipeline_of(entity_features=[entity.custom("mine", function, initial=0)])
    outcome = run(pipeline, [[event(0), event(1)]], live_model(pipeline, linear_model.LogisticRegression()))
    assert outcome.codes() == 2 * dead
    assert len(outcome.of("predictions")) == (0 if dead else 2)


class NumpyModel(base.Classifier):
    """Answers as a wrapped scikit-learn model would."""

    def learn_one(self, x: Any, y: Any) -> None:
        """Nothing."""

    def predict_proba_one(self, x: Any) -> Any:
        return {False: np.float64(0.25), True: np.float32(0.75)}


def test_numpy_probabilities_are_written_as_numbers():
    pipeline = pipeline_of()
    outcome = run(pipeline, [[event(0)]], live_model(pipeline, NumpyModel()))
    assert outcome.values("predictions")[0]["probabilities"] == {"false": 0.25, "true": 0.75}


# -- a state that is built again -----------------------------------------------------------------------------------------


def test_what_was_answered_is_processed_without_an_answer():
    """Predictions and dead letters of records below the mark are not given again; state, counts and examples are the same."""
    records = [
        event(0, "a"),
        event(1, "b"),
        label(0, "a", True),
        Record("events", 0, 2, 0, b"card-1", b"{"),
        event(3, "c"),
    ]
    usual = feed(*records)
    again = run(PIPELINE, [records], answered_until={"events": 3, "labels": 1})
    assert [v["source"]["offset"] for v in again.values("predictions")] == [3]
    assert again.of("predictions") == usual.of("predictions")[2:]
    assert usual.codes() == ["json_invalid"]
    assert again.codes() == []
    assert again.of("examples") == usual.of("examples")
    assert again.store.partitions[0].meta == usual.store.partitions[0].meta
    assert again.store.partitions[0].remembered == usual.store.partitions[0].remembered


def test_a_source_gives_no_more_than_its_share_of_the_labels():
    """What goes beyond is a dead letter, and not the event's label: another source may still give it."""
    rules = Labels(wait="1h", source_share_max={"person:": 0.25})
    records = [event(n, at_ms=1_000) for n in range(400)]
    flood = [label(n, f"e{n}", True, at_ms=1_000, source=f"person:{n % 9}") for n in range(400)]
    bank = [label(400 + n, f"e{n}", False, at_ms=1_000) for n in range(400)]
    outcome = run(pipeline_of(labels=rules), [[*records, *flood, *bank]])
    sources = Counter(
        value["label_source"].partition(":")[0] for value in outcome.values("examples") if value["timing"] == "on_time"
    )
    assert sources == {"person": 25, "bank": 375}
    assert Counter(outcome.codes()) == {"label_source_capped": 375}
    assert "person:" in dict(outcome.of("dead_letters")[0].headers or [])["driftloop.error.message"].decode()  # type: ignore[union-attr]
    evenly = [label(n, f"e{n}", at_ms=1_000, source="bank" if n % 5 else "person:ann") for n in range(400)]
    assert not run(pipeline_of(labels=rules), [[*records, *evenly]]).codes()
