"""What must hold of everything that lies in Kafka and Redis, whatever happened on the way.

O1 every source position has one prediction or one dead letter; O2 copies are byte-identical; O3 first copies stand in
order; O4 the final state is that of an uninterrupted sequential pass; O5 each label is learned once; O6 dead letters are
exactly the bad records, with their bytes. All of them follow from one comparison: an undisturbed pass in memory over
what lies in `events` and `labels`, with the model that each prediction names built anew from `examples`, must give what
lies in Kafka and Redis, byte for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from stream.adapters.artifact_files import ArtifactFiles
from stream.core.digest import state_digest
from stream.core.examples import Follower
from stream.core.explaining import compile_scorer
from stream.core.lean_pickle import dump_model, load_model
from stream.core.learning import LearnStep
from stream.core.model_bases import open_base
from stream.core.records import Record
from stream.core.remembering import decode_remembered
from stream.core.rollout import Decision
from stream.core.scoring import BesideModel, LiveModel
from stream.core.slots import Command
from stream.messages import Example, ModelRef, Release
from tests.support.partition import Outcome, run
from tests.support.world import World

__all__ = ["Verdict", "examine", "model_versions"]

ERROR = "driftloop.error."


class Verdict(NamedTuple):
    """What the examination counted, for assertions that a test was not vacuous."""

    predictions: int
    copies: int  # repeats on any output topic
    dead_letters: Counter[str]
    examples: int
    learned: int
    versions: int
    counts: Counter[str]
    drifts: int
    releases: list[Release]
    canaries: int  # events that a challenger answered


class Scored(NamedTuple):
    """Which models scored an event when it came."""

    champion: str
    beside: tuple[str, str] | None = None  # slot and version
    answered: bool = False  # by the one beside


def examine(world: World) -> Verdict:
    """Raises AssertionError. The world must be settled."""
    events, labels = (_from_the_beginning(world, topic) for topic in ("events", "labels"))
    predictions, dead = world.read("predictions"), world.read("dead_letters")
    examples, requests = world.read("examples")[0], world.read("label_requests")
    by_partition: dict[int, list[Record]] = {p: [] for p in range(world.partitions)}
    for record in examples:
        by_partition[msgspec.json.decode(record.value or b"")["partition"]].append(record)
    scored = _scored(world, predictions, examples)
    named = {scored_by.champion for scored_by in scored.values()}
    models = model_versions(world, examples, named | {s.beside[1] for s in scored.values() if s.beside is not None})
    copies, counts, codes = 0, Counter[str](), Counter[str]()
    for partition in range(world.partitions):
        expected = _undisturbed(world, partition, events[partition], labels[partition], scored, models)
        for topic, found in (
            ("predictions", predictions[partition]),
            ("examples", by_partition[partition]),
            ("dead_letters", dead[partition]),
            ("label_requests", requests[partition]),
        ):
            first = list(dict.fromkeys(map(_bytes_of, found)))
            copies += len(found) - len(first)
            wanted = [_bytes_of(record) for record in expected.of(topic)]
            assert first == wanted, _difference(topic, partition, first, wanted)
        codes.update(expected.codes())
        counts.update(_same_state(world, partition, expected))
    learned, drifts, releases = _same_model(world, examples)
    assert counts["predictions"] + codes_of_events(dead) == sum(map(len, events.values()))
    return Verdict(
        counts["predictions"], copies, codes, counts["examples"], learned, len(models), counts, drifts, releases,
        sum(scored_by.answered for scored_by in scored.values()),
    )  # fmt: skip


def _from_the_beginning(world: World, topic: str) -> dict[int, list[Record]]:
    """What lies in an input topic from where the state is said to begin."""
    control: dict[bytes, bytes] = world.redis.hgetall(f"{{{world.name}:control}}")  # type: ignore[assignment]
    read = world.read(topic)
    starts = {p: int(control.get(f"start:{topic}:{p}".encode(), b"0")) for p in range(world.partitions)}
    return {p: [record for record in read[p] if record.offset >= start] for p, start in starts.items()}


def codes_of_events(dead: dict[int, list[Record]]) -> int:
    positions = {(h[ERROR + "topic"], h[ERROR + "partition"], h[ERROR + "offset"]) for h in map(_headers, _all(dead))}
    return sum(topic.endswith(b".events") for topic, _, _ in positions)


def _all(found: dict[int, list[Record]]) -> Iterable[Record]:
    return (record for records in found.values() for record in records)


def _headers(record: Record) -> dict[str, bytes]:
    return {name: value or b"" for name, value in record.headers or []}


def _bytes_of(record: Any) -> tuple[Any, ...]:
    headers = tuple((name, value) for name, value in record.headers or [])
    return record.key, record.value or None, record.timestamp_ms, headers


def _difference(topic: str, partition: int, first: list[Any], wanted: list[Any]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(first, wanted, strict=False)) if a != b), min(len(first), len(wanted)))
    return f"{topic}-{partition}: {len(first)} records, expected {len(wanted)}; first difference at {at}:\n{first[at : at + 1]}\n{wanted[at : at + 1]}"


def _scored(
    world: World, predictions: dict[int, list[Record]], examples: list[Record]
) -> dict[tuple[int, int], Scored]:
    """Source position -> the models that scored it: as its prediction says, and what was remembered of it."""
    scored = {}
    for record in _all(predictions):
        value = msgspec.json.decode(record.value or b"")
        scored[value["source"]["partition"], value["source"]["offset"]] = Scored(value["model"]["version"])
    for record in examples:
        example = msgspec.json.decode(record.value or b"", type=Example)
        place = example.event_source.partition, example.event_source.offset
        beside = [(slot, served.version) for slot, served in example.served.items() if slot != "champion"]
        answered = example.slot != "champion"
        scored[place] = Scored(example.served["champion"].version, beside[0] if beside else None, answered)
    for partition in range(world.partitions):
        kept: Any = world.redis.hvals(f"{{{world.name}:{partition}}}:remembered")
        for its in map(decode_remembered, kept):
            if its.beside is not None:
                beside_of = (its.beside.slot, its.beside.version)
                scored[partition, its.offset] = Scored(its.version, beside_of, its.beside.answers)
    return scored


def model_versions(world: World, examples: list[Record], versions: set[str]) -> dict[str, LiveModel]:
    """Every version built anew from its base's file and the examples topic."""
    step = _learner(world)
    files = ArtifactFiles(world.settings.artifact_url, world.name)
    followers: dict[str, Follower] = {}
    built = {}
    for version in sorted(versions, key=lambda v: int(v.rpartition("@")[2])):
        name, _, offset = version.rpartition("@")
        step.step(examples[step.offset : int(offset)])  # for what the baselines knew
        if name not in followers:
            base = open_base(files.get_base(name), world.settings.signing(), pipeline=world.name)
            followers[name] = Follower(world.pipeline, base)
        follower = followers[name]
        follower.step(examples[follower.offset : int(offset)])
        scorer = compile_scorer(
            _copy(follower.pupil.model),
            world.pipeline.task,
            explained_top=world.pipeline.explained_top,
            threshold=world.pipeline.threshold,
        )
        serving = step.serving()
        built[version] = LiveModel(
            ModelRef(world.name, version), scorer, serving.persistence, serving.prior,
            serving.prior_probabilities, serving.half_width, serving.drifting,
        )  # fmt: skip
    return built


def _copy(model: Any) -> Any:
    return load_model(dump_model(model))


def _learner(world: World) -> LearnStep:
    return LearnStep(
        world.pipeline,
        shard=0,
        keys=world.settings.signing(),
        configuration="oracle",
        window=world.settings.metrics_window,
    )


def _undisturbed(
    world: World,
    partition: int,
    events: list[Record],
    labels: list[Record],
    scored: dict[tuple[int, int], Scored],
    models: dict[str, LiveModel],
) -> Outcome:
    merged = sorted([*events, *labels], key=lambda r: (r.timestamp_ms, r.topic != "events", r.offset))

    def model_for(batch: Any) -> LiveModel:
        (record,) = batch
        found = scored.get((partition, record.offset)) if record.topic == "events" else None
        if found is None:
            return next(iter(models.values()))
        live = models[found.champion]
        if found.beside is None:
            return live
        slot, version = found.beside
        other = models[version]
        beside = BesideModel(ModelRef(world.name, version, slot), other.scorer, 1.0 if found.answered else 0.0)
        return live._replace(beside=beside)

    return run(
        world.pipeline,
        [[record] for record in merged],
        partition=partition,
        model_for=model_for,
        partitions=world.partitions,
    )


def _same_state(world: World, partition: int, expected: Outcome) -> dict[str, int]:
    """O4: meta, entities, remembered events and early labels."""
    state = expected.store.partitions[partition]

    def stored(role: str) -> dict[bytes, bytes]:
        return dict(world.redis.hgetall(f"{{{world.name}:{partition}}}:{role}"))  # type: ignore[arg-type]

    meta = msgspec.json.decode(stored("state").get(b"meta", b"{}"))
    wanted = msgspec.json.decode(state.meta or b"{}")
    meta.pop("chunk_sequence", None), wanted.pop("chunk_sequence", None)
    assert meta == wanted, f"partition {partition}"
    generation = meta["watermark_ms"] // world.pipeline.limits.entity_idle_ms
    entities: dict[bytes, bytes] = {}
    expected_entities: dict[bytes, bytes] = {}
    for g in (generation - 1, generation):
        entities |= stored(f"entities:{g}")
        expected_entities |= {k.encode(): v for k, v in state.entities.get(g, {}).items()}
    assert entities == expected_entities, f"entities of partition {partition}"
    assert stored("remembered") == {k.encode(): v for k, v in state.remembered.items()}
    assert stored("early") == {k.encode(): v for k, v in state.early.items()}
    assert stored("outbox") == {}
    return dict(meta["counts"])


def _same_model(world: World, examples: list[Record]) -> tuple[int, int, list[Release]]:
    """O5: the live models are those of a pass over the examples, each number once; so are drifts and releases, copies
    apart. What people and retrainings asked for is done again where its record says that it was done.
    """
    step = _learner(world)
    recorded = list(dict.fromkeys(record.value or b"" for record in world.read("releases")[0]))
    releases = [msgspec.json.decode(value, type=Release) for value in recorded]
    out = []
    found: list[bytes] = []
    files = ArtifactFiles(world.settings.artifact_url, world.name)
    for number, release in enumerate(releases):
        offset = int(release.version.rpartition("@")[2])
        out += step.step(examples[step.offset : offset])
        found += _released(step)
        if len(found) == number:  # not what the rules decide by themselves
            _ask(world, step, release, examples, files)
            found += _released(step)
    out += step.step(examples[step.offset :])
    found += _released(step)
    assert found == recorded
    drifts = [_bytes_of(record) for record in out if record.topic == "drifts"]
    told = [record for record in world.read("drifts")[0] if record.value not in world.made_up]
    assert list(dict.fromkeys(map(_bytes_of, told))) == drifts
    status = world.status().learner
    assert status is not None
    assert status["version"] == step.version
    assert status["digest"] == state_digest(step.model)
    assert status["counts"] == step.counts
    assert "gaps" not in step.counts
    once = {(e["partition"], e["sequence"]): e for e in (msgspec.json.decode(r.value or b"") for r in examples)}
    learnable = sum(e["timing"] in ("on_time", "early", "default") for e in once.values())
    assert step.counts.get("learned", 0) == learnable
    expected = msgspec.json.decode(step.snapshot().status)
    for part in ("metrics", "segments", "drift", "slots", "trial"):
        assert status.get(part) == expected.get(part), part
    return learnable, len(drifts), releases


def _released(step: LearnStep) -> list[bytes]:
    state = step.slots.state
    values, state.outbox = [msgspec.json.encode(release) for release in state.outbox], []
    return values


def _ask(world: World, step: LearnStep, release: Release, examples: list[Record], files: ArtifactFiles) -> None:
    at_ms, by, reason = release.decided_at_ms, release.decided_by, release.reason
    if release.action == "started":
        step.slots.start(step.offset, at_ms)
        return
    if by.startswith("rule:"):  # latency, which is not in the examples
        action: Any = release.action
        step.slots.decide(Decision(action, by.partition(":")[2], reason, release.evidence), step.offset, at_ms)
        return
    action = {"released": "release", "promoted": "promote", "rolled_back": "roll_back", "rejected": "reject"}[
        release.action
    ]
    refused: Any
    refused, _, why = reason.partition(" refused: ")
    if why:
        asked = Command(
            command_id=release.release_id,
            action=refused,
            base=release.base,
            by=by,
            evidence=release.evidence,
            at_ms=at_ms,
        )
        step.slots.refuse(asked, step.offset, why)
        return
    candidate = None
    if action == "release":
        candidate = Follower(
            world.pipeline, open_base(files.get_base(release.base), world.settings.signing(), pipeline=world.name)
        )
        candidate.step(examples[candidate.offset : step.offset])
    asked = Command(
        command_id=release.release_id, action=action, base=release.base, by=by, reason=reason, evidence=release.evidence,
        at_ms=at_ms,
    )  # fmt: skip
    step.command(asked, candidate)
