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

from stream.core.digest import state_digest
from stream.core.explaining import compile_scorer
from stream.core.learning import LearnStep, open_for_serving
from stream.core.records import Record
from stream.core.scoring import LiveModel
from stream.messages import ModelRef
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


def examine(world: World) -> Verdict:
    """Raises AssertionError. The world must be settled."""
    events, labels = (_from_the_beginning(world, topic) for topic in ("events", "labels"))
    predictions, dead = world.read("predictions"), world.read("dead_letters")
    examples, requests = world.read("examples")[0], world.read("label_requests")
    by_partition: dict[int, list[Record]] = {p: [] for p in range(world.partitions)}
    for record in examples:
        by_partition[msgspec.json.decode(record.value or b"")["partition"]].append(record)
    served = _served(predictions)
    models = model_versions(world, examples, set(served.values()))
    copies, counts, codes = 0, Counter[str](), Counter[str]()
    for partition in range(world.partitions):
        expected = _undisturbed(world, partition, events[partition], labels[partition], served, models)
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
    learned, drifts = _same_model(world, examples)
    assert counts["predictions"] + codes_of_events(dead) == sum(map(len, events.values()))
    return Verdict(
        counts["predictions"], copies, codes, counts["examples"], learned, len(set(served.values())), counts,
        drifts,
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


def _served(predictions: dict[int, list[Record]]) -> dict[tuple[int, int], str]:
    """Source position -> the version that its prediction names."""
    served = {}
    for record in _all(predictions):
        value = msgspec.json.decode(record.value or b"")
        served[value["source"]["partition"], value["source"]["offset"]] = value["model"]["version"]
    return served


def model_versions(world: World, examples: list[Record], versions: set[str]) -> dict[str, LiveModel]:
    """Every version built anew from the examples topic."""
    keys = world.settings.signing()
    step = LearnStep(world.pipeline, shard=0, keys=keys, configuration="oracle", window=world.settings.metrics_window)
    wanted = sorted({int(version.rpartition("@")[2]) for version in versions})
    built = {}
    for offset in wanted:
        step.step(examples[step.offset : offset])
        header, model, serving = open_for_serving(
            step.snapshot().models["champion"],
            keys,
            pipeline=world.pipeline.name,
            shard=0,
            configuration=step._configuration,
        )
        scorer = compile_scorer(
            model, world.pipeline.task, explained_top=world.pipeline.explained_top, threshold=world.pipeline.threshold
        )
        built[header.version] = LiveModel(
            ModelRef(world.name, header.version), scorer, serving.persistence, serving.prior,
            serving.prior_probabilities, serving.half_width, serving.drifting,
        )  # fmt: skip
    assert versions <= built.keys()
    return built


def _undisturbed(
    world: World,
    partition: int,
    events: list[Record],
    labels: list[Record],
    served: dict[tuple[int, int], str],
    models: dict[str, LiveModel],
) -> Outcome:
    merged = sorted([*events, *labels], key=lambda r: (r.timestamp_ms, r.topic != "events", r.offset))

    def model_for(batch: Any) -> LiveModel:
        (record,) = batch
        version = served.get((partition, record.offset)) if record.topic == "events" else None
        return models[version] if version is not None else next(iter(models.values()))

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


def _same_model(world: World, examples: list[Record]) -> tuple[int, int]:
    """O5: the live model is that of a pass over the examples, each number once; so are the drifts, copies apart."""
    step = LearnStep(
        world.pipeline,
        shard=0,
        keys=world.settings.signing(),
        configuration="oracle",
        window=world.settings.metrics_window,
    )
    drifts = [_bytes_of(record) for record in step.step(examples) if record.topic == "drifts"]
    assert list(dict.fromkeys(map(_bytes_of, world.read("drifts")[0]))) == drifts
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
    for part in ("metrics", "segments", "drift"):
        assert status[part] == expected[part], part
    return learnable, len(drifts)
