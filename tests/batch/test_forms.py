"""What stays in one process is not encoded; all that comes of it is the same to the byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import anomaly, compose, forest, linear_model, optim, preprocessing, tree

from stream import Labels, entity, number
from stream.batch import offline_scoring
from stream.batch.offline_scoring import OfflineScoring
from stream.batch.replaying import replay
from stream.core.explaining import Answer, Scorer, compile_scorer
from stream.core.forms import EXAMPLES_ONLY, IN_PROCESS, WIRE, Form, encoded
from stream.core.learning import LearnStep
from stream.core.records import Record
from stream.core.scoring import LiveModel
from stream.lifecycle import Labelling
from stream.messages import ModelRef
from stream.pipeline import Pipeline
from stream.ports import Outgoing
from tests.support.records import event, label, pipeline_of
from tests.support.world import card_stream

HISTORY = [entity.count("1m"), entity.mean("amount", "1m"), entity.std("amount", "1m"), entity.seconds_since_last()]
WAITS = {"wait": "20s", "keep_late": "20s", "early_wait": "20s"}


def small_tree(params: dict[str, Any]) -> Any:
    return tree.HoeffdingTreeClassifier(grace_period=5, delta=0.1, max_share_to_split=1.0)


def encoded_amount(params: dict[str, Any]) -> Any:
    return compose.TransformerUnion(compose.Select("amount")) | linear_model.LogisticRegression()


def numbers(params: dict[str, Any]) -> Any:
    return preprocessing.StandardScaler() | linear_model.LinearRegression(optimizer=optim.SGD(0.001), clip_gradient=10)


PIPELINES: dict[str, Callable[[], Pipeline]] = {
    "logistic": lambda: pipeline_of(labels=Labels(**WAITS), entity_features=HISTORY),
    "default": lambda: pipeline_of(labels=Labels(**WAITS, missing="default", default=False), explain=False),
    "clipped": lambda: pipeline_of(labels=Labels(**WAITS), features={"amount": number(low=0, high=3, default=1)}),
    "transformed": lambda: pipeline_of(labels=Labels(**WAITS), model=encoded_amount),
    "tree": lambda: pipeline_of(labels=Labels(**WAITS), model=small_tree),
    "forest": lambda: pipeline_of(
        labels=Labels(**WAITS), entity_features=[], model=lambda p: forest.ARFClassifier(n_models=2, seed=1, grace_period=5)
    ),
    "asking": lambda: pipeline_of(labels=Labels(**WAITS), labelling=Labelling(per_1000=200)),
    "classes": lambda: pipeline_of(task="multiclass", labels=Labels(**WAITS), model=small_tree),
    "softmax": lambda: pipeline_of(
        task="multiclass", labels=Labels(**WAITS), model=lambda p: linear_model.SoftmaxRegression()
    ),
    # The default is a whole number, which JSON cannot tell from 3.0.
    "numbers": lambda: pipeline_of(
        task="regression", labels=Labels(**WAITS, missing="default", default=3), model=numbers, entity_features=HISTORY
    ),
    "tree_of_numbers": lambda: pipeline_of(
        task="regression", labels=Labels(**WAITS), model=lambda p: tree.HoeffdingTreeRegressor(grace_period=5)
    ),
    "strange": lambda: pipeline_of(
        task="anomaly", labels=Labels(**WAITS), entity_features=[], model=lambda p: anomaly.HalfSpaceTrees(seed=1, window_size=5)
    ),
}  # fmt: skip
LABELS: dict[str, tuple[Any, Any]] = {"multiclass": ("a", "bé"), "regression": (2, -0.5)}

# (kind, which event, which label or amount, milliseconds since the last record)
MOVES = st.lists(
    st.tuples(
        st.sampled_from(("event", "event", "event", "label", "label", "again", "poison")),
        st.integers(0, 12),
        st.sampled_from((0.0, -0.0, 1.0, 2.5, 1e15, -7.0)),
        st.sampled_from((0, 1, 900, 9_000, 30_000)),
    ),
    min_size=1,
    max_size=90,
)


def history(pipeline: Pipeline, moves: list[tuple[str, int, float, int]]) -> list[Record]:
    """Events, repeats of events, labels on time, early, late, twice and contradicting, and what cannot be read."""
    records: list[Record] = []
    offsets = {"events": 0, "labels": 0}
    values = LABELS.get(pipeline.task, (True, False))
    now_ms, events = 1_000, 0
    for kind, which, amount, wait_ms in moves:
        now_ms += wait_ms
        if kind in ("event", "again"):
            number_ = events if kind == "event" else which
            events += kind == "event"
            record = event(
                offsets["events"], f"e{number_}", key=f"k{number_ % 3}", at_ms=now_ms, features={"amount": amount}
            )
        elif kind == "label":
            about = max(0, events + 2 - which)  # one or two of them have not come yet
            record = label(
                offsets["labels"], f"e{about}", values[amount > 0], key=f"k{about % 3}", at_ms=now_ms, source="bänk"
            )
        else:
            record = Record("events", 0, offsets["events"], now_ms, b"k0", b'{"event_id": 1}')
        offsets[record.topic] += 1
        records.append(record)
    return records


def looped(
    pipeline: Pipeline, records: list[Record], form: Form, size: int, scorer: Scorer | None = None
) -> tuple[list[Outgoing], bytes, list[bytes]]:
    """All outputs as records, the learner's status at the end, and the state of every partition."""
    scoring = OfflineScoring(pipeline, form)
    learner = LearnStep(pipeline, shard=0, keys=[b"k" * 32], configuration="c", window=50)
    explains = form.predictions or bool(pipeline.labelling)
    found: list[Outgoing] = []

    async def run() -> None:
        for at in range(0, len(records), size):
            made = scorer or compile_scorer(
                learner.model, pipeline.task, explained_top=pipeline.explained_top, threshold=pipeline.threshold,
                explains=explains,
            )  # fmt: skip
            live = LiveModel(
                ModelRef(pipeline.name, learner.version), made, *msgspec.structs.astuple(learner.serving())
            )
            out = await scoring.score(0, records[at : at + size], live)
            found.extend(map(encoded, out))
            examples = [one for one in out if one.topic == "examples"]
            if form is WIRE:
                first = learner.offset
                found.extend(
                    learner.step(
                        [
                            Record("examples", 0, first + i, one.timestamp_ms, one.key, one.value)
                            for i, one in enumerate(examples)
                        ]
                    )
                )
            else:
                found.extend(learner.step_in_process(examples))

    asyncio.run(run())
    return found, learner.snapshot().status, [msgspec.json.encode(step.meta) for step in scoring.steps]


def assert_all_forms_agree(pipeline: Pipeline, records: list[Record], size: int, scorer: Scorer | None = None) -> None:
    wire, status, states = looped(pipeline, records, WIRE, size, scorer)
    assert all(isinstance(out.value, bytes) for out in wire)
    assert (wire, status, states) == looped(pipeline, records, IN_PROCESS, size, scorer)
    without = [out for out in wire if out.topic != "predictions"]
    assert (without, status, states) == looped(pipeline, records, EXAMPLES_ONLY, size, scorer)


@pytest.mark.parametrize("name", PIPELINES)
@given(moves=MOVES, size=st.sampled_from((1, 7, 40)))
@settings(max_examples=12, deadline=None)
def test_objects_give_the_bytes_that_encoding_gives(name: str, moves: list[tuple[str, int, float, int]], size: int):
    pipeline = PIPELINES[name]()
    assert_all_forms_agree(pipeline, history(pipeline, moves), size)


@pytest.mark.parametrize("answer", [1, object(), "\ud800", True], ids=["number", "object", "surrogate", "boolean"])
def test_what_a_model_may_not_answer_is_refused_at_the_same_place(answer: Any):
    """A number as a class can be written and not learned; an object cannot even be written."""
    pipeline = pipeline_of(task="multiclass")
    records = [event(0, "e0"), event(1, "e1"), label(0, "e0", "a", at_ms=2_000)]
    assert_all_forms_agree(pipeline, records, 2, lambda x: Answer(answer, {"a": 0.5, "b": 0.5}, None, None))
    found, _, _ = looped(pipeline, records, IN_PROCESS, 2, lambda x: Answer(answer, {"a": 1.0}, None, None))
    (code, *_) = [dict(out.headers or [])["driftloop.error.code"] for out in found if out.topic == "dead_letters"]
    assert code == (b"label_type" if answer in (1, True) else b"model_failed")


def test_few_events_are_kept_as_objects(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(offline_scoring, "OBJECTS_MAX", 20)
    records = card_stream(400, partitions=1, missing=0.5)
    pipeline = pipeline_of(
        features={"amount": float, "hour": int}, labels=Labels(wait="7d"), entity_features=[entity.count("1h")]
    )
    assert_all_forms_agree(pipeline, records, 10)


def test_a_replay_says_the_same_whether_somebody_listens_or_not_and_gives_the_bytes_of_the_steps():
    records = card_stream(2_500, partitions=1, poison=0.02, late=0.1, changed_at=1_500)
    pipeline = pipeline_of(features={"amount": float, "hour": int}, labels=Labels(wait="10m", keep_late="5m"))
    heard: list[Outgoing] = []
    told = replay(pipeline, records, on_output=heard.append)
    untold = replay(pipeline, records)
    assert msgspec.structs.replace(told, seconds=0.0) == msgspec.structs.replace(untold, seconds=0.0)
    wire, _, _ = looped(pipeline, records, WIRE, 200)
    assert heard == wire
