"""A search over the real Redis: with the delay, resumable, by several processes, and what is kept of it."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis

from stream.batch.searching import finish_search, plan_trials, run_trials
from stream.batch.windows import choose_window
from stream.core.model_bases import ModelBase, seal_base
from stream.core.prequential import evaluate, timeline
from stream.core.records import Record
from stream.core.unlearning import LeftOut
from stream.errors import ConfigurationError
from stream.messages import Example
from tests.support.retraining import Retraining, examples

pytestmark = pytest.mark.integration

Row = tuple[dict[str, Any], bool]


def separable(n: int, seed: int = 1) -> Iterator[Row]:
    rng = random.Random(seed)
    for _ in range(n):
        x = {"a": rng.gauss(0, 1), "b": rng.gauss(0, 1)}
        yield x, x["a"] - x["b"] + rng.gauss(0, 0.5) > 0.8


def moody(n: int, seed: int = 1) -> Iterator[Row]:
    """A mood that lasts about sixty events decides nearly everything; what can be known in advance is in `a`."""
    rng = random.Random(seed)
    mood = True
    for _ in range(n):
        if rng.random() < 1 / 60:
            mood = not mood
        label = mood if rng.random() < 0.8 else rng.random() < 0.5
        yield {"a": rng.gauss(0.8 if label else -0.8, 1.5), "b": rng.gauss(0, 1)}, label


def planned(
    retraining: Retraining, records: list[Record], run: str = "run-1", **arguments: Any
) -> list[dict[str, Any]]:
    source = retraining.write(records)
    window = choose_window(retraining.loaded.pipeline, source)
    assert window["window"] is not None, window["why"]
    return plan_trials(
        retraining.settings, retraining.loaded, run, window["window"], source=source, **arguments
    )  # fmt: skip


def searched(retraining: Retraining, records: list[Record], run: str = "run-1", **arguments: Any) -> dict[str, Any]:
    for part in planned(retraining, records, run, **arguments):
        run_trials(retraining.settings, retraining.loaded, **part, source=retraining.source)
    return finish_search(retraining.settings, retraining.loaded, run, source=retraining.source)


def table(retraining: Retraining, run: str = "run-1") -> list[dict[str, Any]]:
    path = retraining.directory / "artifacts" / retraining.name / "runs" / run / "trials.json"
    return json.loads(path.read_bytes())


def wait_for(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_run_leaves_a_table_plots_and_no_log(retraining: Retraining):
    retraining.load(retrain='{"trials": 12}')
    found = searched(retraining, examples(separable(900), 30))
    rows = table(retraining)
    assert found["trials"] == len(rows) == 12
    assert [row["start"] for row in rows[:3]] == ["scratch", "champion", "scratch"]
    assert rows[0]["params"] == {"family": "logistic", "learning_rate": 0.01}
    assert rows[1]["params"] == {}
    assert found["best"]["figure"] == max(row["figure"] for row in rows if row["figure"] is not None)
    assert found["best"]["figure"] > rows[0]["figure"]
    assert found["best"]["figures"]["labels"] > 300
    folder = retraining.directory / "artifacts" / retraining.name / "runs" / "run-1"
    assert (folder / "trials.csv").read_text().startswith("trial,state,start,average_precision,family,learning_rate,")
    assert b"<svg" in (folder / "history.svg").read_bytes()
    client = redis.Redis.from_url(retraining.redis_url)
    assert not client.exists(f"{{{retraining.name}}}:search:run-1")
    client.close()
    assert finish_search(retraining.settings, retraining.loaded, "run-1", source=retraining.source) == found
    done = run_trials(retraining.settings, retraining.loaded, "run-1", 0, source=retraining.source)
    assert done["trials"] == 0


def test_planning_again_changes_nothing(retraining: Retraining):
    retraining.load()
    records = examples(separable(600), 30)
    first = planned(retraining, records, trials=5)
    assert planned(retraining, records, trials=7, workers=3) == first == [{"run": "run-1", "part": 0}]
    run_trials(retraining.settings, retraining.loaded, "run-1", 0, source=retraining.source)
    assert finish_search(retraining.settings, retraining.loaded, "run-1", source=retraining.source)["trials"] == 5


def test_parameters_that_build_cannot_take_are_failed_trials(retraining: Retraining):
    retraining.load(families="logistic,broken")
    searched(retraining, examples(separable(600), 30), trials=9)
    rows = table(retraining)
    broken = [row for row in rows if row["params"].get("family") == "broken"]
    assert len(rows) == 9
    assert broken and all(row["error"] == "ValueError: no such family" and row["figure"] is None for row in broken)
    assert all("learning_rate" not in row["params"] for row in broken)


def test_a_run_is_the_same_each_time(retraining: Retraining):
    retraining.load()
    records = examples(separable(700), 30)
    for run in ("one", "two"):
        searched(retraining, records, run)
    assert stripped(table(retraining, "one")) == stripped(table(retraining, "two"))


def stripped(rows: list[dict[str, Any]]) -> list[Any]:
    return [
        (row["state"], row["start"], row["params"], row["figure"], row["reports"]) for row in rows if row["error"] == ""
    ]


def trials_in(client: redis.Redis, retraining: Retraining, run: str) -> int:
    lines = client.lrange(f"{{{retraining.name}}}:search:{run}", 0, -1)
    return sum(json.loads(line).get("state") in (1, 2) for line in lines if b'"op_code": 6' in line)


def test_a_search_that_is_killed_goes_on_as_it_would_have_gone(retraining: Retraining):
    retraining.load()
    records = examples(separable(700), 30)
    searched(retraining, records, "whole")
    planned(retraining, records, "killed")
    client = redis.Redis.from_url(retraining.redis_url)
    for wanted in (2, 4):
        worker = retraining.start("run_trials", "killed", 0, DRIFTLOOP_TEST_PACE_S="0.3")
        wait_for(lambda wanted=wanted: trials_in(client, retraining, "killed") >= wanted, "trials")
        time.sleep(0.1)  # somewhere in the next trial
        worker.kill()
        worker.communicate()
    client.close()
    worker = retraining.start("run_trials", "killed", 0)
    out, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0
    assert 0 < json.loads(out)["trials"] <= 8
    finish_search(retraining.settings, retraining.loaded, "killed", source=retraining.source)
    assert stripped(table(retraining, "killed")) == stripped(table(retraining, "whole"))


def test_two_workers_share_the_trials(retraining: Retraining):
    retraining.load(retrain='{"trials": 10, "workers": 2}')
    parts = planned(retraining, examples(separable(600), 30))
    assert [part["part"] for part in parts] == [0, 1]
    workers: list[subprocess.Popen[bytes]] = [
        retraining.start("run_trials", part["run"], part["part"], DRIFTLOOP_TEST_PACE_S="1.0") for part in parts
    ]
    answers = [json.loads(worker.communicate(timeout=90)[0]) for worker in workers]
    found = finish_search(retraining.settings, retraining.loaded, "run-1", source=retraining.source)
    assert found["trials"] == 10
    assert {row["part"] for row in table(retraining)} == {0, 1}
    assert sum(answer["trials"] for answer in answers) == 10


def test_with_the_delay_the_search_takes_what_is_better_under_delay(retraining: Retraining):
    """Without it, the fastest learner wins, because it repeats the last label; with labels 300 events late it is the worst."""
    loaded = retraining.load()
    rates = {}
    for delay in (0, 300):
        best = searched(retraining, examples(moody(4_000), delay), f"delay-{delay}", trials=12)["best"]
        rates[delay] = best["params"].get("learning_rate", 0.01)
    pipeline = loaded.pipeline
    later = timeline(pipeline, examples(moody(6_000, seed=2), 300)).lessons
    figures = {
        delay: evaluate(
            pipeline, pipeline.model({**pipeline.params, "learning_rate": rate}), later, score_from=1_000
        ).figure
        for delay, rate in rates.items()
    }
    assert rates[0] > 3 * rates[300]
    assert figures[300] > figures[0] + 0.02


def test_boosted_trees_win_where_features_are_rich(retraining: Retraining):
    retraining.load(families="logistic,boosted")
    rng = random.Random(3)

    def rich() -> Iterator[Row]:
        for _ in range(3_000):
            x = {"a": rng.gauss(0, 1), "b": rng.gauss(0, 1), "c": rng.choice("uvw")}
            yield x, (x["a"] * x["b"] > 0.3 if x["c"] == "u" else x["a"] ** 2 > 1.5) != (rng.random() < 0.05)

    found = searched(retraining, examples(rich(), 100), trials=10)
    assert found["best"]["params"]["family"] == "boosted"
    online = [row["figure"] for row in table(retraining) if row["params"].get("family") == "logistic" and row["figure"]]
    assert found["best"]["figure"] > max(online) + 0.2


def test_another_pipelines_model_is_one_of_the_candidates(retraining: Retraining):
    name = f"{retraining.name}-other"
    loaded = retraining.load(
        retrain=json.dumps({"start_from": ["scratch", "champion", "transfer"], "transfer_from": name, "trials": 4})
    )
    pipeline = loaded.pipeline
    taught = pipeline.build()
    for one in timeline(pipeline, examples(separable(2_000, seed=5), 0)).lessons:
        taught.learn_one(one.features, one.label)
    facts = {"features": list(pipeline.feature_names), "task": "binary", "until_ms": -1}
    from stream.adapters.artifact_files import ArtifactFiles

    other = ArtifactFiles(retraining.settings.artifact_url, name)
    for provenance in (
        facts, {**facts, "features": ["a"]}, {**facts, "until_ms": 10_000_000_000}, {},
    ):  # fmt: skip
        offset = 7 + len(provenance.get("features", ())) + max(provenance.get("until_ms", 0), 0)
        base = ModelBase(pipeline=name, shard=0, offset=offset, model=taught, provenance=provenance)
        other.put_base(seal_base(base, configuration="c", key=b"k" * 32), base.name)
    found = searched(retraining, examples(separable(500), 20))
    rows = table(retraining)
    assert [row["start"] for row in rows] == ["scratch", "champion", "transfer", "scratch"]
    assert found["best"]["start"] == "transfer"
    plan = json.loads((retraining.directory / "artifacts" / retraining.name / "runs/run-1/plan.json").read_bytes())
    assert plan["transfer"] == ModelBase(pipeline=name, shard=0, offset=9, model=taught).name


def test_an_archive_that_has_changed_is_noticed(retraining: Retraining):
    retraining.load()
    planned(retraining, examples(separable(600), 30))
    other = retraining.write(examples(separable(600, seed=2), 30))
    with pytest.raises(ConfigurationError, match="not what they were"):
        run_trials(retraining.settings, retraining.loaded, "run-1", 0, source=other)


def test_too_little_is_refused_in_words(retraining: Retraining):
    pipeline = retraining.load().pipeline
    few = choose_window(pipeline, retraining.write(examples(separable(80), 10)))
    assert few["window"] is None
    assert "80 labels have come in the window, retrain.labels_min is 100" in few["why"]
    late = choose_window(pipeline, retraining.write(examples(separable(400), 390)))
    assert late["window"] is None and late["why"].endswith("labels take long, wait for more")
    narrow = retraining.load(retrain='{"window_max": 300}').pipeline
    never = choose_window(narrow, retraining.write(examples(separable(900), 390)))
    assert never["window"] is None and never["why"].endswith("labels take long, raise retrain.window_max")
    bad = [LeftOut(to_offset=350)]
    without = choose_window(pipeline, retraining.write(examples(separable(400), 10)), left_out=bad)
    assert "50 labels have come in the window" in without["why"]
    changed = choose_window(pipeline, retraining.write(examples(separable(400), 10)), change_point=350)
    assert "50 labels have come since the change" in changed["why"]


def test_a_window_has_four_marks(retraining: Retraining):
    pipeline = retraining.load(retrain='{"window_max": 400, "compare_share": 0.25}').pipeline
    source = retraining.write(examples(separable(1_000), 10))
    window = choose_window(pipeline, source)["window"]
    assert window == {
        "shard": 0, "from_offset": 600, "score_offset": 700, "split_offset": 900, "to_offset": 1_000, "labels": 400,
    }  # fmt: skip
    assert choose_window(pipeline, source, change_point=800)["window"]["from_offset"] == 800
    assert choose_window(pipeline, source, change_point=100, to_offset=900)["window"]["from_offset"] == 500


def test_late_labels_leave_enough_to_compare(retraining: Retraining):
    """Of 4,000 labels that come 1,000 events late, the last quarter are of events nobody could have answered fairly."""
    pipeline = retraining.load().pipeline
    source = retraining.write(examples(separable(4_000), 1_000))
    window = choose_window(pipeline, source)["window"]
    split, score, end = window["split_offset"], window["score_offset"], window["to_offset"]
    assert end - split > 1_000, "late events of the quarter came before what is before it was known"
    compared, searched = end - split - 1_000, split - score - 1_000
    assert 0 <= compared / (compared + searched) - pipeline.retrain.compare_share < 0.03
    in_time = choose_window(pipeline, retraining.write(examples(separable(4_000), 1)))["window"]
    assert in_time["split_offset"] == 3_000


def test_labels_that_come_once_a_night_leave_enough_to_compare(retraining: Retraining):
    """What can be scored jumps from night to night with the split."""
    pipeline = retraining.load(retrain='{"labels_min": 100}').pipeline
    nights = [night for night, events in enumerate((71, 75, 109, 77, 143)) for _ in range(events)]
    records = []
    for record, night in zip(examples(separable(len(nights)), 0), nights, strict=True):
        its = msgspec.json.decode(record.value or b"", type=Example)
        its = msgspec.structs.replace(its, event_timestamp_ms=1_000_000 * night + record.offset)
        records.append(
            msgspec.structs.replace(record, value=msgspec.json.encode(its), timestamp_ms=1_000_000 * (night + 2))
        )
    window = choose_window(pipeline, retraining.write(records))["window"]
    assert window is not None and window["split_offset"] in range(146, 255), "a whole night lies before and behind it"
