"""Every example gives what its `expected.json` says, by the steps that run live."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.adapters.file_pipelines import load_pipeline
from stream.adapters.kafka_topics import KafkaTopics
from stream.batch.replaying import Replayed, replay
from stream.cli.history import from_produced
from stream.cli.producing import produce
from stream.cli.running import worker_command
from stream.cli.showing import read_status
from stream.cli.sources import Columns, read_source
from stream.entity import duration_ms
from stream.local.process import wait_until
from stream.local.stack import Stack
from stream.messages import Example
from stream.settings import load_settings
from stream.topics import TopicNames

EXAMPLES = Path(__file__).parents[2] / "examples"
RUNS = [
    pytest.param(path.parent, run, id=f"{path.parent.name}-{Path(run['file']).stem}")
    for path in sorted(EXAMPLES.glob("*/expected.json"))
    for run in json.loads(path.read_text())
]
NO_COLUMNS = Columns(None, None, None, None, None)


def produced(folder: Path, run: dict[str, Any], seed: int = 7) -> Any:
    source = run["source"] if run["source"].startswith("river:") else str(folder / run["source"])
    return read_source(
        load_pipeline(folder / run["file"]).pipeline,
        source,
        columns=NO_COLUMNS,
        limit=run["limit"],
        delay_ms=duration_ms(run.get("label_delay", "1m")),
        interval_ms=1_000,
        seed=seed,
    )


def replayed(folder: Path, run: dict[str, Any], on_output: Callable[[Any], None] | None = None) -> Replayed:
    loaded = load_pipeline(folder / run["file"])
    random.seed(0)  # a model without a seed of its own must not make this test flaky
    return replay(
        loaded.pipeline, from_produced(produced(folder, run)), extra_allowed=loaded.allowed, on_output=on_output
    )


def test_every_example_says_what_to_expect():
    folders = {path.parent for path in EXAMPLES.glob("*/*.py")}
    assert folders == {path.parent for path in EXAMPLES.glob("*/expected.json")}
    listed = (EXAMPLES / "README.md").read_text()
    for folder in folders:
        assert f"[{folder.name}]({folder.name})" in listed
        named = {run["file"] for run in json.loads((folder / "expected.json").read_text())}
        assert named == {path.name for path in folder.glob("*.py") if path.name != "generator.py"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # River leaves its file open
@pytest.mark.parametrize(("folder", "run"), RUNS)
def test_an_example(folder: Path, run: dict[str, Any]):
    its = replayed(folder, run)
    events = its.counts["events"]
    assert 0.95 * run["limit"] <= events <= run["limit"]
    assert its.counts["predictions"] == events
    assert "dead_letters" not in its.counts
    found = {}
    for span in ("overall", "window"):
        sheet = its.learner["metrics"][span]
        figures = {**sheet["model"], **{key: value for key, value in sheet.items() if key.startswith("skill")}}
        for name, (low, high) in run.get(span, {}).items():
            found[f"{span} {name}"] = (low <= figures[name] <= high, figures[name])
    assert found
    assert all(fits for fits, _ in found.values()), found
    low, high = run["drifts"]
    assert low <= len(its.drifts) <= high, its.drifts
    if "drift_from" in run:
        first, last = run["drift_from"]
        assert first <= its.drifts[0].from_offset <= last
    if "drift_told_by" in run:  # the payments change at example 5,677
        assert its.drifts[0].to_offset <= run["drift_told_by"]


def test_the_class_that_appears_late_is_learned():
    """No prediction names it before its first label came, and most of its tickets are found in the end."""
    folder = EXAMPLES / "tickets"
    (run,) = json.loads((folder / "expected.json").read_text())
    examples: list[Example] = []

    def take(out: Any) -> None:
        if out.topic == "examples":
            examples.append(msgspec.json.decode(out.value, type=Example))

    replayed(folder, run, take)
    late = [example for example in examples if example.label == "outages"]
    first = min(example.labelled_at_ms or 0 for example in late)
    told = [example for example in examples if example.served["champion"].prediction == "outages"]
    assert 1_000 < len(late) < 2_500
    assert min(example.occurred_at_ms for example in told) >= first
    newest = sorted(late, key=lambda example: example.occurred_at_ms)[-300:]
    assert sum(example.served["champion"].prediction == "outages" for example in newest) > 200


def test_the_tree_beats_the_line_on_the_same_stream():
    folder = EXAMPLES / "side_by_side"
    runs = json.loads((folder / "expected.json").read_text())
    by_file = {run["file"]: replayed(folder, run) for run in runs}
    areas = {file: its.learner["metrics"]["window"]["model"]["roc_auc"] for file, its in by_file.items()}
    assert areas["trees.py"] > areas["linear.py"] + 0.05
    assert areas["trees.py"] > areas["bayes.py"] + 0.05


@pytest.mark.integration
@pytest.mark.timeout(240)
def test_three_pipelines_side_by_side_live(stack: Stack):
    """Each event is sent once, and each of the three answers all of them and learns all labels."""
    folder = EXAMPLES / "side_by_side"
    settings = load_settings(
        brokers=stack.brokers, redis_url=stack.redis_url, signing_key=stack.signing_key(), partitions=2
    )
    files = [folder / name for name in ("linear.py", "bayes.py", "trees.py")]
    pipelines = [load_pipeline(file).pipeline for file in files]
    kafkas = [KafkaTopics(settings.kafka(), TopicNames.of(pipeline)) for pipeline in pipelines]
    for kafka in kafkas:
        kafka.create(2, 1)
    run = {"file": "linear.py", "source": "generator.py", "limit": 600}
    counts = produce(settings, TopicNames.of(pipelines[0]), produced(folder, run))
    assert counts == {"events": 600, "labels": 600}
    workers = [
        stack.add(f"{p.name}-{role}", worker_command(file, role))
        for p, file in zip(pipelines, files, strict=True)
        for role in ("learn", "score")
    ]

    def done() -> bool:
        for worker in workers:
            assert worker.running(), worker.tail(20)
        looks = [read_status(settings, p.name, p.reads) for p in pipelines]
        return all(
            look.learner is not None and not any(look.lag(topic) for topic in ("events", "labels", "examples"))
            for look in looks
        )

    try:
        wait_until(done, 180, "three pipelines to answer and to learn everything", 1.0)
        for pipeline in pipelines:
            status = read_status(settings, pipeline.name, pipeline.reads)
            assert status.counts()["predictions"] == 600
            assert status.learner is not None
            assert status.learner["counts"]["learned"] == 600
        versions = {read_status(settings, p.name, p.reads).learner["version"].partition("@")[0] for p in pipelines}  # type: ignore[index]
        assert len(versions) == 3
    finally:
        for worker in workers:
            worker.signal(15)
        for worker in workers:
            worker.stop(30)
        for kafka in reversed(kafkas):
            kafka.delete()


def test_generators_are_seeded():
    for folder in ("energy", "pumps", "tickets", "side_by_side"):
        run = json.loads((EXAMPLES / folder / "expected.json").read_text())[0] | {"limit": 400}
        one, same, other = (list(produced(EXAMPLES / folder, run, seed)) for seed in (7, 7, 8))
        assert one == same
        assert one != other
        in_time = [record.timestamp_ms for record in one]
        assert in_time == sorted(in_time)
        by_topic = defaultdict(list)
        for record in one:
            by_topic[record.topic].append(record)
        assert 390 < len(by_topic["events"]) <= 400
