"""`driftloop replay`, as a user calls it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from stream.adapters.file_pipelines import load_pipeline
from stream.batch.exact import ExactReplay
from stream.cli.history import from_topics, moment_ms
from stream.cli.main import app
from stream.cli.running import forget
from stream.cli.sources import Produced
from stream.core.beginning import Beginning
from stream.core.moments import moment_text
from stream.errors import ConfigurationError
from tests.support.archived import archive_history
from tests.support.world import PIPELINE_FILE, World, card_stream

EXAMPLES = Path(__file__).parents[2] / "examples" / "payments"
PIPELINE, GENERATOR = str(EXAMPLES / "pipeline.py"), str(EXAMPLES / "generator.py")


def run(*arguments: str, **environment: str) -> str:
    answer = CliRunner().invoke(app, ["replay", *arguments], env={**os.environ, "COLUMNS": "160", **environment})
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_a_generator_and_a_page_about_it(tmp_path: Path):
    page = tmp_path / "report.html"
    output = run(PIPELINE, GENERATOR, "--limit", "3000", "--report", str(page))
    assert "3,000 events, 3,000 predictions, 0 dead letters" in output
    assert "by channel, recently" in output
    text = page.read_text()
    assert text.count("<svg") == 1
    assert "avg. precision" in text
    assert "in_store" in text
    assert "http" not in text.replace("http://www.w3.org", "").replace(
        "https://matplotlib.org", ""
    )  # nothing from outside
    assert "<script" not in text


def test_two_files_side_by_side(tmp_path: Path):
    faster = tmp_path / "faster.py"
    faster.write_text((EXAMPLES / "pipeline.py").read_text().replace('"learning_rate": 0.05', '"learning_rate": 0.2'))
    page = tmp_path / "report.html"
    found = json.loads(
        run(PIPELINE, GENERATOR, "--limit", "3000", "--against", str(faster), "--report", str(page), "--json")
    )
    one, other = found[PIPELINE], found[str(faster)]
    assert one["counts"] == other["counts"]
    assert one["learner"]["digest"] != other["learner"]["digest"]
    assert str(faster) in page.read_text()


def test_a_table(tmp_path: Path):
    table = tmp_path / "cards.csv"
    rows = [f"card-{i % 9},{i * 7.5 % 300},{i % 24},{int(i % 11 == 0)}" for i in range(400)]
    table.write_text("\n".join(["card,amount,hour,fraud", *rows]))
    arguments = (str(PIPELINE_FILE), str(table), "--json", "--label", "fraud", "--key", "card")
    ((_, its),) = json.loads(run(*arguments, "--label-delay", "30s")).items()
    assert its["counts"]["predictions"] == its["learner"]["counts"]["learned"] == 400
    assert its["counts"]["on_time_labels"] == 400
    with pytest.raises(ConfigurationError, match=r"ends in \.html"):
        run(*arguments, "--report", "report.pdf")


def test_two_files_see_the_same_times_of_a_table_without_times(tmp_path: Path):
    """Windows and days begin where the clock says: a start per file would compare two histories."""
    table, other = tmp_path / "cards.csv", tmp_path / "other.py"
    rows = [f"card-{i % 9},{i * 7.5 % 300},{i % 24},{int(i % 11 == 0)}" for i in range(400)]
    table.write_text("\n".join(["card,amount,hour,fraud", *rows]))
    other.write_text(PIPELINE_FILE.read_text())
    arguments = (str(table), "--json", "--label", "fraud", "--key", "card", "--label-delay", "30s")
    one, two = json.loads(run(str(PIPELINE_FILE), *arguments, "--against", str(other))).values()
    assert one["course"][-1]["at_ms"] == two["course"][-1]["at_ms"] > 0
    for its in (one, two):
        del its["seconds"]
    assert one == two


def test_an_archive(tmp_path: Path):
    url = str(tmp_path / "archive")
    loaded = load_pipeline(PIPELINE_FILE).pipeline
    records = card_stream(1_500, partitions=1, missing=0.3)
    history = [Produced(r.topic, (r.key or b"").decode(), r.timestamp_ms, msgspec.json.decode(r.value or b"")) for r in records]  # fmt: skip
    archive_history(loaded, history, url)
    settings = {"DRIFTLOOP_ARCHIVE_URL": url, "DRIFTLOOP_TEST_NAME": loaded.name}
    its = json.loads(run(str(PIPELINE_FILE), "archive", "--json", **settings))[loaded.name]
    labels = sum(r.topic == "labels" for r in records)
    assert its["counts"]["labels"] == labels
    assert its["counts"]["events"] >= labels
    part = json.loads(run(str(PIPELINE_FILE), "archive", "--json", "--offsets", "0=100:400", **settings))[loaded.name]
    assert 200 < part["counts"]["events"] <= 300
    half = moment_text(records[len(records) // 2].timestamp_ms)
    late, early = (
        json.loads(run(str(PIPELINE_FILE), "archive", "--json", option, half, **settings))[loaded.name]["counts"]
        for option in ("--since", "--until")
    )
    assert late["labels"] + early["labels"] == labels
    for arguments, words in (
        (("--offsets", "0=100:4000000"), "holds 0 to"),
        (("--offsets", "1=0:10"), "partition 0"),
        (("--offsets", "0:10"), "write partition=from:to"),
        (("--offsets", "0=1:2", "--since", half), "without --since"),
        (("--since", "2099-01-01"), "holds no examples of this time"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            run(str(PIPELINE_FILE), "archive", *arguments, **settings)
    with pytest.raises(ConfigurationError, match="use it with `topics` or `archive`"):
        run(PIPELINE, GENERATOR, "--offsets", "0=1:2")


@pytest.mark.integration
@pytest.mark.timeout(180)
def test_what_lies_in_the_topics_teaches_what_it_taught_live(make_world: Any):
    world: World = make_world(partitions=1)
    records = card_stream(3_000, partitions=1, early=0.05, late=0.05, duplicate=0.05, poison=0.02)
    world.produce(records)
    world.start("learn")
    world.start("score")
    world.wait_settled()
    live = world.status()
    assert live.learner is not None
    environment = {
        "DRIFTLOOP_BROKERS": world.stack.brokers,
        "DRIFTLOOP_REDIS_URL": world.stack.redis_url,
        "DRIFTLOOP_TEST_NAME": world.name,
    }
    its = json.loads(run(str(PIPELINE_FILE), "topics", "--json", **environment))[world.name]
    assert its["learner"]["digest"] == live.learner["digest"]
    assert its["learner"]["counts"] == live.learner["counts"]
    assert its["counts"] == live.counts()
    half_ms = records[len(records) // 2].timestamp_ms
    later, earlier = (from_topics(world.settings, world.name, *span) for span in ((half_ms, None), (None, half_ms)))
    assert len(earlier) + len(later) == len(records)
    assert all(record.timestamp_ms < half_ms for record in earlier)
    assert msgspec.to_builtins(earlier[:5]) == msgspec.to_builtins(records[:5])
    events = [r for r in records if r.topic == "events"]
    some = from_topics(world.settings, world.name, None, None, ranges={0: (100, 1_000)})
    assert [r.offset for r in some if r.topic == "events"] == list(range(100, 1_000))
    span = events[100].timestamp_ms, events[1_000].timestamp_ms
    assert [r.offset for r in some if r.topic == "labels"] == [
        r.offset for r in records if r.topic == "labels" and span[0] <= r.timestamp_ms < span[1]
    ]
    rest = from_topics(world.settings, world.name, None, None, ranges={0: (1_000, None)})
    assert [r.offset for r in rest if r.topic == "events"] == list(range(1_000, len(events)))
    assert max(r.offset for r in rest if r.topic == "labels") == len(records) - len(events) - 1
    assert from_topics(world.settings, world.name, None, None, ranges={0: (7, 7)}) == []
    for wrong, words in ({0: (5, 4)}, "holds 0 to"), ({0: (0, 99_999)}, "holds 0 to"), ({3: (0, None)}, "has 1 part"):
        with pytest.raises(ConfigurationError, match=words):
            from_topics(world.settings, world.name, None, None, ranges=wrong)
    part = json.loads(run(str(PIPELINE_FILE), "topics", "--json", "--offsets", "0=100:1000", **environment))
    assert part[world.name]["counts"]["events"] <= 900
    world.stop_workers()


@pytest.mark.integration
@pytest.mark.timeout(180)
def test_live_predictions_are_made_again_byte_for_byte(make_world: Any):
    """Of a state that began at a moment, by two score workers of which one is killed."""
    old: World = make_world()
    records = card_stream(4_000, early=0.05, poison=0.02, repeated=0.03)
    old.produce(records)
    world: World = make_world(reads=old.name)
    since_ms = records[800].timestamp_ms
    starts = {
        (t, p): o
        for t in ("events", "labels")
        for p, o in world.kafka.offsets_at(t, {0: since_ms, 1: since_ms}).items()
    }
    forget(world.settings, world.name, Beginning(starts))
    world.start("learn", snapshot_interval_ms="20")
    slow = {"batch_records_max": "50"}
    world.wait_for_death(world.start("score", crash_at="score.after_publish:9", pace_s=0.0005, **slow), -9)
    for _ in range(2):
        world.start("score", pace_s=0.0005, **slow)
    world.wait_settled()
    environment = {k: v for k, v in world.environment.items() if k.startswith("DRIFTLOOP_")}
    its = json.loads(run(str(PIPELINE_FILE), "topics", "--exact", "--json", **environment))
    assert its["equal"] == its["predictions"] > 2_500
    assert its["versions"] > 10
    assert not its["first_difference"]
    assert (its["only_live"], its["only_replayed"], its["not_rebuilt"]) == (0, 0, 0)
    assert "predictions equal live's, byte for byte" in run(str(PIPELINE_FILE), "topics", "--exact", **environment)
    with pytest.raises(ConfigurationError, match="use it with `topics`"):
        run(str(PIPELINE_FILE), GENERATOR, "--exact", **environment)
    changed = world.read("predictions")[1][-1]  # somebody writes another answer to the last event
    value = msgspec.json.encode({**msgspec.json.decode(changed.value or b""), "uncertainty": 0.123})
    world.produce([msgspec.structs.replace(changed, value=value)])
    answer = CliRunner().invoke(
        app, ["replay", str(PIPELINE_FILE), "topics", "--exact"], env={**os.environ, "COLUMNS": "160", **environment}
    )
    assert answer.exit_code == 1
    assert "first difference: " in answer.stdout
    assert "uncertainty is live 0.123" in answer.stdout
    world.stop_workers()


@pytest.mark.parametrize(
    ("changes", "code"),
    [({}, 0), ({"equal": 8}, 1), ({"equal": 8, "not_rebuilt": 5}, 1), ({"not_rebuilt": 1}, 3), ({"predictions": 0, "equal": 0}, 3)],
)  # fmt: skip
def test_an_exact_replay_ends_with_0_only_if_everything_was_compared_and_is_equal(
    changes: dict[str, int], code: int, monkeypatch: pytest.MonkeyPatch
):
    its = ExactReplay(
        pipeline="p", events=9, predictions=9, equal=9, only_live=0, only_replayed=0, not_rebuilt=0, versions=2,
        versions_held_max=1, first_difference=None, seconds=0.1,
    )  # fmt: skip
    monkeypatch.setattr("stream.cli.history.exact", lambda *_: msgspec.structs.replace(its, **changes))
    answer = CliRunner().invoke(app, ["replay", str(PIPELINE_FILE), "topics", "--exact"], env=dict(os.environ))
    assert answer.exit_code == code


def test_moments():
    assert moment_ms("--since", "1970-01-02") == 86_400_000
    assert moment_ms("--since", "1970-01-01T01:00+01:00") == 0
    assert moment_ms("--since", None) is None
    with pytest.raises(ConfigurationError, match="2026-01-31"):
        moment_ms("--since", "yesterday")
