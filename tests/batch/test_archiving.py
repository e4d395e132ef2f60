"""From the real topic to the archive: all of it, once, and never over a gap unseen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from stream.adapters.delta_archive import ExampleArchive
from stream.batch.archiving import archive_examples
from stream.cli.main import app
from stream.core.records import Record
from stream.errors import ConfigurationError, StartupRefused
from stream.settings import Settings, load_settings
from tests.support.examples import START_MS, example
from tests.support.world import PIPELINE_FILE, World

pytestmark = pytest.mark.integration


def settings_of(world: World, directory: Path) -> Settings:
    return load_settings(brokers=world.stack.brokers, redis_url=world.stack.redis_url, archive_url=str(directory))


def archived(world: World, directory: Path) -> list[Record]:
    return list(ExampleArchive(str(directory), world.name).records(0, 0, 2**62))


def on_kafka(world: World) -> list[Record]:
    return [Record(*(getattr(r, f) for f in Record.__struct_fields__[:-1])) for r in world.read("examples")[0]]


def test_a_run_archives_what_is_new(world: World, tmp_path: Path):
    settings = settings_of(world, tmp_path)
    bad = [Record("examples", 0, 0, START_MS, None, b"\xff\x00"), Record("examples", 0, 0, START_MS, b"k", None)]
    assert archive_examples(settings, world.pipeline) == {"from_offset": 0, "to_offset": 0, "rows": 0, "lost": 0}
    world.produce([*map(example, range(500)), *bad, example(3), *map(example, range(500, 700))])
    seen: list[tuple[int, int]] = []
    done = archive_examples(
        settings, world.pipeline, batch_records=200, on_rows=lambda done, total: seen.append((done, total))
    )
    assert done == {"from_offset": 0, "to_offset": 703, "rows": 703, "lost": 0}
    assert seen[0] == (0, 703)
    assert seen[-1] == (703, 703)
    assert len(seen) >= 5  # a batch at a time
    assert archived(world, tmp_path) == on_kafka(world)
    assert archive_examples(settings, world.pipeline)["rows"] == 0
    world.produce(map(example, range(700, 1_000)))
    some = archive_examples(settings, world.pipeline, examples_max=120)
    assert some == {"from_offset": 703, "to_offset": 823, "rows": 120, "lost": 0}
    assert archive_examples(settings, world.pipeline)["rows"] == 180
    assert archived(world, tmp_path) == on_kafka(world)


def test_what_transactions_left_in_the_log_is_passed_over(world: World, tmp_path: Path):
    world.produce_in_transactions(map(example, range(450)), size=100)
    settings = settings_of(world, tmp_path)
    done = archive_examples(settings, world.pipeline, batch_records=70)
    assert done["rows"] == 450
    assert archive_examples(settings, world.pipeline)["rows"] == 0
    assert archived(world, tmp_path) == on_kafka(world)


def delete_before(world: World, offset: int) -> None:
    place = TopicPartition(world.names.examples, 0, offset)
    admin = AdminClient(world.settings.kafka())  # its futures need it alive
    for future in admin.delete_records([place]).values():
        future.result(20)


def test_a_gap_is_refused_until_it_is_accepted(world: World, tmp_path: Path):
    settings = settings_of(world, tmp_path)
    world.produce(map(example, range(100)))
    archive_examples(settings, world.pipeline)
    world.produce(map(example, range(100, 200)))
    delete_before(world, 130)
    with pytest.raises(StartupRefused, match=r"offsets 100 to 129 .* --accept-gap") as caught:
        archive_examples(settings, world.pipeline)
    assert caught.value.code == "archive_gap"
    assert len(archived(world, tmp_path)) == 100
    done = archive_examples(settings, world.pipeline, accept_gap=True)
    assert done == {"from_offset": 130, "to_offset": 200, "rows": 70, "lost": 30}
    assert [r.offset for r in archived(world, tmp_path)] == [*range(100), *range(130, 200)]
    assert archive_examples(settings, world.pipeline) == {"from_offset": 200, "to_offset": 200, "rows": 0, "lost": 0}


def test_a_first_run_begins_where_the_log_does_and_says_so(world: World, tmp_path: Path):
    world.produce(map(example, range(50)))
    delete_before(world, 20)
    done = archive_examples(settings_of(world, tmp_path), world.pipeline)
    assert done == {"from_offset": 20, "to_offset": 50, "rows": 30, "lost": 20}
    assert archived(world, tmp_path) == list(map(example, range(20, 50)))


def make_again(world: World) -> None:
    world.kafka.delete()
    world.wait(lambda: not world.kafka.describe().topics, "the topics to go")
    world.wait(lambda: bool(world.kafka.create(2, 1)), "the topics to come")


@pytest.mark.parametrize("then", [10, 100])  # shorter, and longer than it was
def test_a_topic_that_was_made_again_is_refused(world: World, tmp_path: Path, then: int):
    settings = settings_of(world, tmp_path)
    world.produce(map(example, range(50)))
    archive_examples(settings, world.pipeline)
    make_again(world)
    world.produce(map(example, range(then)))
    with pytest.raises(StartupRefused, match="DRIFTLOOP_ARCHIVE_URL") as caught:
        archive_examples(settings, world.pipeline, accept_gap=True)
    assert caught.value.code == "archive_of_another_topic"
    assert len(archived(world, tmp_path)) == 50


def test_a_log_shorter_than_the_archive_is_refused(world: World, tmp_path: Path):
    """The ids may be equal: a cluster restored from a backup."""
    world.produce(map(example, range(50)))
    archive_examples(settings_of(world, tmp_path), world.pipeline)
    ExampleArchive(str(tmp_path), world.name).append(0, [example(60)])
    with pytest.raises(StartupRefused, match="ends at offset 61"):
        archive_examples(settings_of(world, tmp_path), world.pipeline)


def test_a_shard_that_is_not_there_is_named(world: World, tmp_path: Path):
    with pytest.raises(ConfigurationError, match="1 partitions"):
        archive_examples(settings_of(world, tmp_path), world.pipeline, shard=1)


def test_the_command_says_what_it_did(world: World, tmp_path: Path):
    world.produce(map(example, range(1_500)))
    environment = {
        **os.environ,
        "DRIFTLOOP_BROKERS": world.stack.brokers,
        "DRIFTLOOP_ARCHIVE_URL": str(tmp_path),
        "DRIFTLOOP_TEST_NAME": world.name,
    }
    answer = CliRunner().invoke(app, ["archive", str(PIPELINE_FILE), "--limit", "1200"], env=environment)
    assert answer.exit_code == 0, answer.output
    assert f"archived 1,200 rows: offsets 0 to 1200 (exclusive) of {world.name}.examples-0" in answer.stdout
    answer = CliRunner().invoke(app, ["archive", str(PIPELINE_FILE)], env=environment)
    assert "archived 300 rows: offsets 1200 to 1500" in answer.stdout
    assert archived(world, tmp_path) == on_kafka(world)
