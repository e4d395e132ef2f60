"""Verifying and unlearning on the real Kafka and Redis: what was served before and after a promotion, and by a canary."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from river import linear_model, preprocessing
from typer.testing import CliRunner

from stream.adapters.artifact_files import ArtifactFiles
from stream.batch.archiving import archive_examples
from stream.batch.releasing import ask, live_roster, release
from stream.batch.unlearning import unlearn
from stream.batch.verifying import Position, Verified, verify, verify_all
from stream.cli.main import app
from stream.cli.releases import read_releases
from stream.core.digest import state_digest
from stream.core.examples import Follower
from stream.core.model_bases import ModelBase, configuration_of, open_base, seal_base
from stream.core.records import Record
from stream.errors import ConfigurationError, SnapshotRefused
from stream.messages import Prediction
from stream.settings import Settings, load_settings
from tests.support.world import PIPELINE_FILE, World, card_stream

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def settings_of(world: World, archive: Path) -> Settings:
    return load_settings(
        brokers=world.stack.brokers,
        redis_url=world.stack.redis_url,
        signing_key=world.stack.signing_key(),
        artifact_url=world.stack.environment()["DRIFTLOOP_ARTIFACT_URL"],
        archive_url=str(archive),
    )


@pytest.fixture
def trial(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("DRIFTLOOP_TEST_ROLLOUT", "quick")
    yield make_world()


def environment(world: World, settings: Settings) -> dict[str, str]:
    return {**os.environ, **world.environment, "DRIFTLOOP_ARCHIVE_URL": settings.archive_url}


def predictions(world: World) -> list[tuple[Position, Prediction]]:
    return [
        (Position("predictions", r.partition, r.offset), msgspec.json.decode(r.value or b"", type=Prediction))
        for records in world.read("predictions").values()
        for r in records
    ]


def one_of(found: list[tuple[Position, Prediction]], wanted: Callable[[Prediction], bool]) -> Position:
    chosen = [position for position, its in found if wanted(its)]
    assert chosen
    return chosen[len(chosen) // 2]


def candidate(world: World, settings: Settings) -> str:
    """A better model of the same kind, as a retraining would make it."""
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression(l2=0.001)
    base = ModelBase(pipeline=world.name, shard=0, offset=0, model=model, provenance={"run": "r1"})
    sealed = seal_base(base, configuration=configuration_of(world.pipeline), key=settings.signing()[0])
    ArtifactFiles(settings.artifact_url, world.name).put_base(sealed, base.name)
    return base.name


def champion(world: World, settings: Settings) -> str:
    roster = live_roster(settings, world.name)
    assert roster is not None
    return roster.champion.partition("@")[0]


def part(records: list[Record], number: int, of: int) -> list[Record]:
    size = len(records) // of
    return records[number * size : (number + 1) * size]


def live_through_a_promotion(world: World, settings: Settings) -> tuple[str, str]:
    """Returns the first champion and the second."""
    records = card_stream(9_000, repeated=0.03, early=0.03, missing=0.05)
    world.produce(part(records, 0, 3))
    world.start("learn")
    world.start("score", pace_s=0.0003, batch_records_max="50")
    world.wait_settled()
    first, base = champion(world, settings), candidate(world, settings)
    release(settings, world.pipeline, base, by="person:ada")
    world.wait(lambda: world_released(world, settings, base), "the release")
    world.produce(part(records, 1, 3))
    world.wait_settled()
    ask(settings, world.name, "promote", base, by="person:ada")
    world.wait(lambda: champion(world, settings) == base, "the promotion")
    world.produce(part(records, 2, 3))
    world.wait_settled()
    return first, base


def world_released(world: World, settings: Settings, base: str) -> bool:
    return any(r.base == base and r.action == "released" for r in read_releases(settings, world.name))


def test_predictions_of_all_kinds(trial: World, tmp_path: Path):
    world, settings = trial, settings_of(trial, tmp_path)
    first, second = live_through_a_promotion(world, settings)
    world.stop_workers()
    found = predictions(world)
    labelled = {msgspec.json.decode(r.value or b"")["event_id"] for r in world.read("examples")[0]}
    kinds = {
        "before": one_of(found, lambda p: p.model.version.startswith(first) and p.duplicate_of is None),
        "after": one_of(found, lambda p: p.model.slot == "champion" and p.model.version.startswith(second)),
        "canary": one_of(found, lambda p: p.model.slot == "challenger" and p.duplicate_of is None),
        "repeat": one_of(found, lambda p: p.duplicate_of is not None),
        "clipped": one_of(found, lambda p: bool(p.clipped)),
        "unlabelled": one_of(found, lambda p: p.event_id not in labelled and int(p.event_id[1:]) > 8_500),
    }
    verified = dict(zip(kinds, verify_all(settings, world.pipeline, kinds.values()), strict=True))
    assert {kind: (its.outcome, its.reason) for kind, its in verified.items()} == dict.fromkeys(kinds, ("equal", ""))
    assert verified["canary"].provenance == {"run": "r1"}
    assert (verified["canary"].base_file or "").endswith(f"{second}.model")
    assert (verified["before"].base_file or "").endswith(f"{first}.model")
    assert verified["unlabelled"].features_from == "redis"
    assert (verified["before"].features_from or "").startswith(f"{world.name}.examples-0@")
    event = dict(found)[kinds["canary"]].source
    assert verify(settings, world.pipeline, "events", event.partition, event.offset).outcome == "equal"
    random.seed(1)
    chosen = [position for position, _ in random.sample(found, 300)]
    outcomes = [its.outcome for its in verify_all(settings, world.pipeline, chosen)]
    assert "differs" not in outcomes
    assert outcomes.count("equal") > 290  # others have no label, and Redis has forgotten them
    kafka_deletes_what_the_archive_has(world, settings, kinds["before"], verified["before"])
    a_forged_prediction(world, settings, kinds["before"])
    a_changed_file(world, settings, second, kinds["after"], kinds["before"])
    the_command(world, settings, kinds["before"])


def kafka_deletes_what_the_archive_has(world: World, settings: Settings, position: Position, before: Verified) -> None:
    done = archive_examples(settings, world.pipeline)
    admin = AdminClient(world.settings.kafka())
    for future in admin.delete_records([TopicPartition(world.names.examples, 0, done["to_offset"])]).values():
        future.result(20)
    its = verify(settings, world.pipeline, *position)
    assert (its.outcome, its.digest, its.features_from) == ("equal", before.digest, before.features_from)
    nowhere = settings.model_copy(update={"archive_url": settings.archive_url + "-lost"})
    its = verify(nowhere, world.pipeline, *position)
    assert its.outcome == "cannot_be_verified"


def a_forged_prediction(world: World, settings: Settings, position: Position) -> None:
    record = next(r for r in world.read("predictions")[position.partition] if r.offset == position.offset)
    body = msgspec.json.decode(record.value or b"")
    body["probabilities"] = {"false": 0.25, "true": 0.75}
    world.produce([msgspec.structs.replace(record, value=msgspec.json.encode(body))])
    forged = world.read("predictions")[position.partition][-1]
    its = verify(settings, world.pipeline, "predictions", forged.partition, forged.offset)
    assert (its.outcome, its.field) == ("differs", "probabilities")
    assert its.said == {"false": 0.25, "true": 0.75}
    assert its.rebuilt == msgspec.json.decode(record.value or b"")["probabilities"]
    assert "the prediction is not what was written" in its.reason
    position = Position("predictions", forged.partition, forged.offset)
    answer = invoke(world, settings, "verify", f"{world.names.predictions}-{position.partition}@{position.offset}")
    assert answer.exit_code == 1
    assert "probabilities: it says" in answer.stdout


def a_changed_file(world: World, settings: Settings, base: str, of_it: Position, of_another: Position) -> None:
    files = ArtifactFiles(settings.artifact_url, world.name)
    data = files.get_base(base)
    files.put_file(f"bases/{base}.model", data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    one, other = verify_all(settings, world.pipeline, [of_it, of_another])
    assert one.outcome == "cannot_be_verified"
    assert f"base {base}: snapshot_not_signed_by_us" in one.reason
    assert other.outcome == "equal"
    files.put_file(f"bases/{base}.model", data)


def invoke(world: World, settings: Settings, command: str, *arguments: str) -> Any:
    return CliRunner().invoke(app, [command, str(PIPELINE_FILE), *arguments], env=environment(world, settings))


def the_command(world: World, settings: Settings, position: Position) -> None:
    place = f"{world.names.predictions}-{position.partition}@{position.offset}"
    answer = invoke(world, settings, "verify", place)
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.startswith(f"equal  {place}")
    answer = invoke(world, settings, "verify", place, "--json")
    assert msgspec.json.decode(answer.stdout)["outcome"] == "equal"
    answer = invoke(world, settings, "verify", "--sample", "40", "--seed", "1", "--json")
    assert len(answer.stdout.splitlines()) == 40
    answer = invoke(world, settings, "verify")
    assert isinstance(answer.exception, ConfigurationError)


# -- unlearning --------------------------------------------------------------------------------------------------------


def poisoned(records: list[Record], since: int, until: int) -> list[Record]:
    """Between two places of the stream, half of the labels come from mallory, and are wrong."""
    changed, rng = list(records), random.Random(5)
    for at in range(since, until):
        record = changed[at]
        if record.topic == "labels" and rng.random() < 0.5:
            body = msgspec.json.decode(record.value or b"")
            body |= {"label": not body["label"], "source": "mallory"}
            changed[at] = msgspec.structs.replace(record, value=msgspec.json.encode(body))
    return changed


def never_saw(world: World, settings: Settings, base: str, until: int, source: str) -> str:
    """The digest of the model that learned the first base's examples but those of a source."""
    data = ArtifactFiles(settings.artifact_url, world.name).get_base(base)
    follower = Follower(world.pipeline, open_base(data, settings.signing(), pipeline=world.name))
    follower.step([
        record for record in world.read("examples")[0]
        if record.offset < until and msgspec.json.decode(record.value or b"")["label_source"] not in source.split(",")
    ])  # fmt: skip
    return state_digest(follower.pupil.model)


def stored(world: World, settings: Settings, base: str) -> ModelBase:
    data = ArtifactFiles(settings.artifact_url, world.name).get_base(base)
    return open_base(data, settings.signing(), pipeline=world.name, configuration=configuration_of(world.pipeline))


def test_bad_labels_are_taken_back(trial: World, tmp_path: Path):
    world, settings = trial, settings_of(trial, tmp_path)
    records = poisoned(card_stream(6_000, missing=0.0), 2_000, 8_000)
    world.produce(part(records, 0, 2))
    world.start("learn")
    world.start("score")
    world.wait_settled()
    first = champion(world, settings)
    bad = sum(msgspec.json.decode(r.value or b"")["label_source"] == "mallory" for r in world.read("examples")[0])
    assert bad > 300

    counted = unlearn(settings, world.pipeline, by="person:ada", source="mallory", dry_run=True)
    assert (counted.base, counted.left_out, counted.restored, counted.from_offset) == (None, bad, first, 0)
    assert ArtifactFiles(settings.artifact_url, world.name).bases() == [first]
    with pytest.raises(ConfigurationError, match="has learned none such"):
        unlearn(settings, world.pipeline, by="person:ada", source="nobody")
    with pytest.raises(ConfigurationError, match="has learned up to"):
        unlearn(settings, world.pipeline, by="person:ada", to_offset=10**6)

    made = unlearn(settings, world.pipeline, by="person:ada", source="mallory", and_release=True, reason="a bad feed")
    assert made.base is not None
    its = stored(world, settings, made.base)
    assert state_digest(its.model) == never_saw(world, settings, first, made.to_offset, "mallory")
    assert (its.offset, its.learned) == (made.to_offset, made.to_offset - bad)
    assert its.provenance["parent"] == first
    assert its.provenance["left_out"] == [{"to_offset": made.to_offset, "source": "mallory"}]
    world.wait(lambda: world_released(world, settings, str(made.base)), "the release")
    (record,) = [r for r in read_releases(settings, world.name) if r.action == "released"]
    assert record.evidence == {"left_out": bad, "restored": first}
    assert record.reason == f"without {bad} examples (a bad feed)"
    ask(settings, world.name, "promote", made.base, by="person:ada")
    world.wait(lambda: champion(world, settings) == made.base, "the promotion")

    world.produce(part(records, 1, 2))  # mallory goes on for a while
    world.wait_settled()
    of_the_new = one_of(predictions(world), lambda p: p.model.version.startswith(str(made.base)))
    assert verify(settings, world.pipeline, *of_the_new).outcome == "equal"

    again = unlearn(settings, world.pipeline, by="person:ada", source="mallory")
    assert (again.restored, again.from_offset) == (made.base, made.to_offset)
    assert state_digest(stored(world, settings, str(again.base)).model) == never_saw(
        world, settings, first, again.to_offset, "mallory"
    )
    # What was taken back stays so when an older base is restored for another reason.
    answer = invoke(world, settings, "unlearn", "--source", "bank", "--to", "500", "--json")
    assert answer.exit_code == 0, answer.output
    other = msgspec.json.decode(answer.stdout)
    assert other["restored"] == first
    left = stored(world, settings, other["base"]).provenance["left_out"]
    assert {(one.get("source"), one["to_offset"]) for one in left} == {("bank", 500), ("mallory", made.to_offset)}
    answer = invoke(world, settings, "unlearn", "--from", "10", "--to", "30", "--dry-run")
    assert "would leave out" in answer.stdout
    world.stop_workers()


def test_a_base_that_was_changed_is_not_restored(trial: World, tmp_path: Path):
    world, settings = trial, settings_of(trial, tmp_path)
    world.produce(poisoned(card_stream(600), 0, 1_000))
    world.start("learn")
    world.start("score")
    world.wait_settled()
    base = champion(world, settings)
    files = ArtifactFiles(settings.artifact_url, world.name)
    data = files.get_base(base)
    files.put_file(f"bases/{base}.model", data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    with pytest.raises(SnapshotRefused, match="not_signed_by_us"):
        unlearn(settings, world.pipeline, by="person:ada", source="mallory")
    world.stop_workers()
