"""Candidates on the real Kafka and Redis: released, tried, promoted and rolled back while workers are killed.

`examine` builds every model that scored anything anew from its base's file and `examples`, applies the rules again, and wants
predictions, examples, releases, figures and live models byte for byte.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from river import linear_model, optim, preprocessing, tree

from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.file_pipelines import load_pipeline
from stream.batch.releasing import ask, pending, release
from stream.cli.history import exact
from stream.core.model_bases import ModelBase, configuration_of, seal_base
from stream.errors import SnapshotRefused
from stream.local.process import Child
from stream.messages import Prediction, Release
from tests.support.oracles import examine
from tests.support.world import World, card_stream

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

EVENTS = 14_000
KILLED = -9
SLOW: Any = {"pace_s": 0.002, "batch_records_max": "100"}


def candidate(world: World, seed: int = 1) -> str:
    """A tree that finds the rule of the cards, which a line cannot; it begins before the first example."""
    model = preprocessing.StandardScaler() | tree.HoeffdingTreeClassifier(grace_period=50, max_depth=6 + seed)
    base = ModelBase(pipeline=world.name, shard=0, offset=0, model=model, provenance={"by": "a test"})
    sealed = seal_base(base, configuration=configuration_of(world.pipeline), key=world.settings.signing()[0])
    ArtifactFiles(world.settings.artifact_url, world.name).put_base(sealed, base.name)
    return base.name


def bad_candidate(world: World) -> str:
    """A tree that has learned the contrary, and goes on slowly."""
    model = preprocessing.StandardScaler() | tree.HoeffdingTreeClassifier(grace_period=100_000)
    for number in range(4_000):
        model.learn_one(dict.fromkeys(world.pipeline.feature_names, 0.0), number % 2 == 0)
    base = ModelBase(pipeline=world.name, shard=0, offset=0, model=model)
    sealed = seal_base(base, configuration=configuration_of(world.pipeline), key=world.settings.signing()[0])
    ArtifactFiles(world.settings.artifact_url, world.name).put_base(sealed, base.name)
    return base.name


def contrary_candidate(world: World) -> str:
    """A line that was taught the contrary of the cards' rule, and learns no more."""
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.05))
    rng = random.Random(2)
    for _ in range(4_000):
        x = {
            **dict.fromkeys(world.pipeline.feature_names, 0.0),
            "amount": rng.expovariate(1 / 200),
            "hour": rng.randrange(24),
        }
        model.learn_one(x, not (x["amount"] > 400 and x["hour"] < 12))
    line = model["LogisticRegression"]
    line.optimizer, line.intercept_lr = optim.SGD(1e-9), optim.schedulers.Constant(1e-9)
    base = ModelBase(pipeline=world.name, shard=0, offset=0, model=model)
    sealed = seal_base(base, configuration=configuration_of(world.pipeline), key=world.settings.signing()[0])
    ArtifactFiles(world.settings.artifact_url, world.name).put_base(sealed, base.name)
    return base.name


def newest_bases(world: World, count: int = 100) -> set[str]:
    """Of the models that made the last predictions of each partition."""
    return {
        msgspec.json.decode(record.value or b"", type=Prediction).model.version.partition("@")[0]
        for records in world.read("predictions").values()
        for record in records[-count:]
    }


def releases(world: World) -> list[Release]:
    values = dict.fromkeys(record.value or b"" for record in world.read("releases")[0])
    return [msgspec.json.decode(value, type=Release) for value in values]


def actions(world: World) -> list[str]:
    return [r.action for r in releases(world)]


def learned(world: World) -> int:
    learner = world.status().learner
    return int(learner["counts"].get("learned", 0)) if learner else 0


def begin(world: World, events: int, learner: str | None = None) -> Child:
    """Everything lies in Kafka; scorers take their time, so that what happens to models happens in the middle.

    Returns the learner, which has learned some.
    """
    child = world.start("learn", **({"crash_at": learner} if learner else {}))
    world.start("score", **SLOW)
    world.produce(card_stream(events))
    world.wait(lambda: learned(world) > 1_000, "some labels to be learned")
    return child


def answered_by(world: World) -> dict[str, set[str]]:
    """Slot -> bases of the models whose answers were given under it."""
    found: dict[str, set[str]] = {}
    for records in world.read("predictions").values():
        for record in records:
            model = msgspec.json.decode(record.value or b"", type=Prediction).model
            found.setdefault(model.slot, set()).add(model.version.partition("@")[0])
    return found


def test_a_better_candidate_becomes_the_champion_and_a_person_takes_it_back(world: World):
    begin(world, EVENTS)
    first = world.status().learner["version"].partition("@")[0]  # type: ignore[index]
    base = candidate(world)
    release(world.settings, world.pipeline, base, by="run:test", command_id="r1", parent=first, reason="a test")
    world.wait(lambda: actions(world)[-1] == "confirmed", "the end of the probation", 100)
    assert not pending(world.settings, world.name)
    # A busy learner may decide both at once, on labels of answers from before.
    world.wait(lambda: base in answered_by(world).get("champion", set()), "an answer of the new champion")
    release(world.settings, world.pipeline, base, by="run:test", command_id="r1")  # a task that is tried again
    ask(world.settings, world.name, "roll_back", base, by="person:ada", reason="customers complain")
    world.wait(lambda: actions(world)[-1] == "rolled_back", "the roll-back")
    left = EVENTS - world.committed("events")
    assert left > 600
    world.wait_settled()
    verdict = examine(world)
    found = [r.action for r in verdict.releases]
    assert found == ["started", "released", "canary", "canary", "promoted", "confirmed", "rolled_back"]
    assert verdict.canaries > 50
    assert verdict.copies == 0
    assert answered_by(world) == {"champion": {first, base}, "challenger": {base}}
    assert (verdict.releases[-1].decided_by, verdict.releases[-1].parent) == ("person:ada", first)
    assert newest_bases(world) == {first}
    world.stop_workers()
    replayed = exact(world.settings, world.pipeline, load_pipeline(world.file).allowed, lambda _: None)
    assert replayed.same and replayed.complete, replayed
    assert replayed.equal == verdict.predictions


def test_a_bad_model_that_a_person_promoted_is_taken_back_by_a_rule(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
):
    """The former champion comes back by itself, on late labels of what the bad one really answered."""
    monkeypatch.setenv("DRIFTLOOP_TEST_PROBATION", "5000")  # as it comes; the rule needs about 1,800 labels
    world = make_world()
    begin(world, EVENTS)
    first = world.status().learner["version"].partition("@")[0]  # type: ignore[index]
    scorer = world.workers[-1]
    scorer.signal(15)  # no label comes on which the shadow would be rejected before somebody promotes it
    world.wait_for_death(scorer, 0)
    base = contrary_candidate(world)
    release(world.settings, world.pipeline, base, by="person:ada", command_id="r1", parent=first, reason="I like it")
    world.wait(lambda: actions(world)[-1] == "released", "the release")
    ask(world.settings, world.name, "promote", base, by="person:ada", reason="I know better")
    world.wait(lambda: actions(world)[-1] == "promoted", "the promotion")
    promoted_at = world.committed("events")
    world.start("score", **SLOW)
    world.wait(lambda: base in answered_by(world).get("champion", set()), "an answer of the bad champion")
    world.wait(lambda: actions(world)[-1] == "rolled_back", "the roll-back", 120)
    assert EVENTS - world.committed("events") > 600
    world.wait_settled()
    verdict = examine(world)
    assert [r.action for r in verdict.releases] == ["started", "released", "promoted", "rolled_back"]
    promoted, back = verdict.releases[2:]
    assert (promoted.base, promoted.parent, promoted.decided_by) == (base, first, "person:ada")
    assert (back.base, back.parent, back.decided_by) == (base, first, "rule:sequential_test")
    assert back.reason.startswith("worse than the former champion: evidence ")
    assert back.evidence["evidence_worse"] >= 20  # type: ignore[operator]
    assert back.evidence["accuracy_candidate"] < back.evidence["accuracy_rival"]  # type: ignore[operator]
    assert answered_by(world) == {"champion": {first, base}}
    assert newest_bases(world) == {first}
    slots = world.status().learner["slots"]  # type: ignore[index]
    assert {slot: version.partition("@")[0] for slot, version in slots.items()} == {"champion": first}
    assert promoted_at < EVENTS // 2
    world.stop_workers()


@pytest.mark.parametrize(
    ("point", "done_before"),
    [
        ("learn.in_catch_up", []),
        ("learn.before_release:1", []),
        ("learn.after_release:1", ["released"]),
        ("learn.before_release:3", ["released", "canary"]),
        ("learn.after_release:4", ["released", "canary", "canary", "promoted"]),
    ],
)
def test_a_learner_killed_in_a_rollout(world: World, point: str, done_before: list[str]):
    learner = begin(world, EVENTS)
    scorer = world.workers[-1]
    for worker in (learner, scorer):  # events wait until there is somebody to judge their answers
        worker.signal(15)
        world.wait_for_death(worker, 0)
    base = candidate(world)
    release(world.settings, world.pipeline, base, by="run:test", command_id="r1")
    doomed = world.start("learn", crash_at=point)
    if "canary" in done_before:
        scorer = world.start("score", **SLOW)
    world.wait_for_death(doomed, KILLED)
    if "canary" in done_before:
        scorer.signal(15)
        world.wait_for_death(scorer, 0)
    in_redis = msgspec.json.decode(world.redis.hget(f"{{{world.name}:model:0}}:live", "roster") or b"{}")  # type: ignore[arg-type]
    assert (in_redis.get("beside") is not None) == bool(done_before)
    if not done_before:
        assert [c.base for c in pending(world.settings, world.name)] == [base]
    world.start("learn")
    world.wait(lambda: "released" in actions(world), "the release")
    world.start("score", **SLOW)
    world.wait(lambda: "promoted" in actions(world), "the promotion", 100)
    world.wait_settled()
    verdict = examine(world)
    found = [r.action for r in verdict.releases]
    assert found[:5] == ["started", "released", "canary", "canary", "promoted"]
    assert found.count("promoted") == 1
    assert verdict.canaries > 0
    world.stop_workers()


@pytest.mark.parametrize("point", ["score.after_commit", "score.before_publish"])
def test_scorers_killed_in_a_canary(world: World, point: str):
    begin(world, EVENTS)
    scorer = world.workers[-1]
    release(world.settings, world.pipeline, candidate(world), by="run:test")
    world.wait(lambda: "canary" in actions(world), "the canary", 60)
    scorer.kill()
    doomed = world.start("score", crash_at=f"{point}:5", **SLOW)
    world.wait_for_death(doomed, KILLED)
    assert "promoted" not in actions(world)
    world.start("score", **SLOW)
    world.wait(lambda: "promoted" in actions(world), "the promotion", 100)
    world.wait_settled()
    verdict = examine(world)
    assert verdict.canaries > 0
    assert verdict.predictions == EVENTS
    world.stop_workers()


def test_a_bad_candidate_never_answers_more_than_its_share_and_goes(world: World):
    begin(world, EVENTS)
    release(world.settings, world.pipeline, bad_candidate(world), by="run:test")
    world.wait(lambda: actions(world)[-1] == "rejected", "the rejection", 60)
    world.wait_settled()
    verdict = examine(world)
    assert "promoted" not in [r.action for r in verdict.releases]
    assert verdict.canaries <= 0.5 * verdict.predictions
    world.stop_workers()


def test_a_corrupted_or_unsigned_base_is_refused_and_the_champion_goes_on(world: World):
    world.start("learn")
    world.start("score")
    stream = card_stream(1_500)
    world.produce(stream[:1_000])
    world.wait_settled()
    base = candidate(world)
    files = ArtifactFiles(world.settings.artifact_url, world.name)
    data = bytearray(files.get_base(base))
    data[len(data) // 2] ^= 1
    files.put_file(f"bases/{base}.model", bytes(data))
    with pytest.raises(SnapshotRefused, match="snapshot_not_signed_by_us"):
        release(world.settings, world.pipeline, base, by="run:test")
    ask(world.settings, world.name, "release", base, by="run:test")  # somebody goes round the check
    world.wait(lambda: actions(world) == ["started", "rejected"], "the refusal")
    assert "snapshot_not_signed_by_us" in releases(world)[-1].reason
    world.produce(stream[1_000:])
    world.wait_settled()
    assert answered_by(world).keys() == {"champion"}
    world.stop_workers()


def test_two_releases_at_once_and_a_stale_one(make_world: Callable[..., World]):
    world: Any = make_world()
    world.start("learn")
    world.start("score")
    world.produce(card_stream(600))
    world.wait_settled()
    one, other = candidate(world, 1), candidate(world, 2)
    release(world.settings, world.pipeline, one, by="run:1")
    release(world.settings, world.pipeline, other, by="run:2")
    release(world.settings, world.pipeline, one, by="run:3", parent="cafecafe")
    world.wait(lambda: len(actions(world)) == 4, "all three answers")
    assert sorted(actions(world)) == ["rejected", "rejected", "released", "started"]
    assert not pending(world.settings, world.name)
    examine(world)
    world.stop_workers()
