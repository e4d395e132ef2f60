"""A replay is the live path without the wait: the same records give the same features, examples and model."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stream import Labels
from stream.batch.replaying import replay
from stream.core.digest import state_digest
from stream.core.learning import LearnStep
from stream.core.records import Record
from stream.pipeline import Pipeline
from stream.ports import Outgoing
from tests.support.records import pipeline_of
from tests.support.world import card_stream

FEATURES = {"amount": float, "hour": int}


def cards(**changes: Any) -> Pipeline:
    return pipeline_of(**{"features": FEATURES, "labels": Labels(wait="10m", keep_late="5m"), **changes})


def outputs(pipeline: Pipeline, records: list[Record], refresh: int) -> dict[str, list[Outgoing]]:
    found: dict[str, list[Outgoing]] = {"predictions": [], "examples": [], "dead_letters": []}
    replay(pipeline, records, refresh=refresh, on_output=lambda out: found[out.topic].append(out))
    return found


def test_everything_comes_out_and_is_learned_once():
    records = card_stream(3_000, partitions=2, poison=0.02, late=0.1)
    done: list[int] = []
    its = replay(cards(), records, on_records=done.append)
    counts, learner = its.counts, its.learner
    assert sum(done) == len(records)
    assert counts["events"] + sum(n for code, n in counts.items() if code.startswith("dead_letters.value")) <= 3_000
    assert counts["predictions"] + counts["dead_letters"] >= 3_000
    assert counts["late_labels"] > 50
    assert learner["counts"]["learned"] == counts["on_time_labels"]
    assert learner["metrics"]["overall"]["labels"] == counts["on_time_labels"]
    assert its.course[-1].labels == counts["on_time_labels"]
    assert [point.labels for point in its.course] == sorted({point.labels for point in its.course})
    assert its.key_figure == "average_precision"


def test_the_same_history_gives_the_same_bytes():
    records = card_stream(1_500)
    assert outputs(cards(), records, 200) == outputs(cards(), records, 200)


@pytest.mark.parametrize("refresh", [1, 37, 1_000])
def test_how_often_the_model_is_refreshed_changes_answers_only(refresh: int):
    """The features, their labels and so the model that is learned do not depend on who answered."""
    records = card_stream(1_200, partitions=1)
    usual, other = (outputs(cards(), records, size)["examples"] for size in (200, refresh))
    stripped = [
        [{**msgspec.json.decode(out.value or b""), "served": None} for out in examples] for examples in (usual, other)
    ]
    assert stripped[0] == stripped[1]


def test_labels_are_learned_when_they_come_and_not_before():
    """With labels that come after everything, all is answered by the model that knows nothing."""
    records = card_stream(800, missing=0.0)
    last_ms = records[-1].timestamp_ms
    late = [msgspec.structs.replace(r, timestamp_ms=last_ms + 1) for r in records if r.topic == "labels"]
    found = outputs(cards(), [r for r in records if r.topic == "events"] + late, 100)
    versions = {
        msgspec.json.decode(out.value or b"")["model"]["version"].partition("@")[2] for out in found["predictions"]
    }
    assert versions == {"0"}
    found = outputs(cards(), records, 100)
    versions = {
        msgspec.json.decode(out.value or b"")["model"]["version"].partition("@")[2] for out in found["predictions"]
    }
    assert len(versions) > 5


def test_a_change_is_found_in_history():
    its = replay(cards(), card_stream(7_000, changed_at=4_000))
    (drift,) = its.drifts
    assert drift.signal in ("error", "label")
    assert its.learner["drift"]["episodes"] == 1


def test_the_model_is_that_of_its_examples():
    records = card_stream(1_000)
    found = outputs(cards(), records, 200)["examples"]
    step = LearnStep(cards(), shard=0, keys=[b"k" * 32], configuration="c")
    step.step([Record("examples", 0, i, out.timestamp_ms, out.key, out.value) for i, out in enumerate(found)])
    assert replay(cards(), records).learner["digest"] == state_digest(step.model)
