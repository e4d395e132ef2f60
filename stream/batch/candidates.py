"""Where a candidate starts from, and the rule against leakage.

A model that has learned an example must not be scored on it. So "as it was at offset X" never means today's model: it is
the newest base in the champion's own line (the base, its parent, the parent's parent ...) that begins at or before X,
rolled forward by the archived examples up to X exactly as the live learner would. Where the line ends, that is the
pipeline's fresh model from the first example.

Another pipeline's base may be transferred if its features and task are the same and it was made from labels that had all
come before this window began.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import msgspec

from stream.adapters.artifact_files import ArtifactFiles
from stream.batch.plans import Plan, Run
from stream.core.examples import Follower
from stream.core.lean_pickle import dump_model, load_model
from stream.core.model_bases import ModelBase, open_base
from stream.core.prequential import timeline
from stream.core.records import Record
from stream.core.unlearning import Labelled, LeftOut, left_out_of
from stream.errors import SnapshotRefused, Unavailable
from stream.messages import Example

__all__ = [
    "Recipe",
    "Starts",
    "base_before",
    "champion_at",
    "find_former",
    "find_transfer",
    "high_water_at",
    "line_start",
    "taken_back",
]


BATCH = 5_000  # examples read at once


class Recipe(msgspec.Struct, frozen=True):
    """A candidate: where it starts, and with what parameters it is built (`scratch` only)."""

    start: str = "scratch"
    params: dict[str, Any] = {}


def base_before(run: Run, name: str | None, shard: int, offset: int) -> ModelBase:
    """The newest base in a champion's line that begins at or before an offset.

    Raises Unavailable if a base is not there, SnapshotRefused if it is not ours.
    """
    while name is not None:
        try:
            data = run.files.get_base(name)
        except Unavailable:
            if name == _fresh(run, shard).name:
                break
            raise
        base = _opened(run, data, run.configuration)
        if base.offset <= offset:
            return base
        name = base.provenance.get("parent")
    return _fresh(run, shard)


def line_start(run: Run, name: str | None) -> int:
    """The examples offset at which a champion's line begins: that of its first base whose file is there and can be read.

    Raises as `base_before` does, for the champion itself.
    """
    start, found = 0, False
    while name is not None:
        try:
            base = _opened(run, run.files.get_base(name))
        except (Unavailable, SnapshotRefused):
            if not found:
                raise
            break  # an old file was deleted, or its key was retired: retraining goes on from what is left
        start, name, found = base.offset, base.provenance.get("parent"), True
    return start


def _opened(run: Run, data: bytes, configuration: str | None = None) -> ModelBase:
    return open_base(data, run.keys, pipeline=run.pipeline.name, configuration=configuration, extra_allowed=run.allowed)


def _fresh(run: Run, shard: int) -> ModelBase:
    model = load_model(dump_model(run.pipeline.build()), extra_allowed=run.allowed)
    return ModelBase(pipeline=run.pipeline.name, shard=shard, offset=0, model=model)


def champion_at(run: Run, name: str | None, shard: int, offset: int) -> ModelBase:
    """The champion as it was at an offset: its line's base, rolled forward."""
    base = base_before(run, name, shard, offset)
    if base.offset == offset:
        return base
    left_out = taken_back(run, name)

    def leave_out(record: Record, example: Example) -> bool:
        return any(part.holds(Labelled.of(record, example)) for part in left_out)

    follower = Follower(run.pipeline, base, run.allowed, leave_out)
    records = iter(run.source.records(shard, base.offset, offset))
    while batch := list(islice(records, BATCH)):
        follower.step(batch)
    return msgspec.structs.replace(
        base, offset=offset, model=follower.pupil.model, high_water=follower.high_water, learned=follower.pupil.learned
    )


def taken_back(run: Run, name: str | None) -> tuple[LeftOut, ...]:
    """Examples that the champion was built without; what is retrained from it is built without them, too."""
    if name is None:
        return ()
    return left_out_of(_opened(run, run.files.get_base(name)).provenance)


def high_water_at(run: Run, name: str | None, shard: int, offset: int) -> dict[int, int]:
    """Score partition -> sequence of its last example before an offset, as the live learner has it."""
    base = base_before(run, name, shard, offset)
    return timeline(run.pipeline, run.source.records(shard, base.offset, offset), base.high_water).high_water


def find_former(run: Run, champion: str | None, from_offset: int) -> str | None:
    """The base of the champion that this one was compared with and has replaced, if a candidate may start from it; after
    probation nothing else asks for it.

    None where the window begins before the champion does: there the champion's own line is the former's. None, too, where
    the champion was built without labels that the former may have learned, or the former's file is gone or cannot be read.
    """
    if champion is None:
        return None
    its = _opened(run, run.files.get_base(champion))
    former = its.provenance.get("parent")
    if not isinstance(former, str) or its.offset > from_offset or run.files.find_file(f"bases/{former}.model") is None:
        return None
    try:
        base_before(run, former, its.shard, from_offset)
    except SnapshotRefused:
        return None
    return former if set(left_out_of(its.provenance)) <= set(taken_back(run, former)) else None


def find_transfer(run: Run, before_ms: int) -> str | None:
    """The newest base of `retrain.transfer_from` that may be used: its labels had come before the window's first."""
    other = run.pipeline.retrain.transfer_from
    if other is None:
        return None
    files = ArtifactFiles(run.settings.artifact_url, other)
    usable = []
    for name in files.bases():
        try:
            facts = open_base(files.get_base(name), run.keys, pipeline=other, extra_allowed=run.allowed).provenance
        except SnapshotRefused:
            continue  # another River, an old key, a class of the other file
        same = tuple(facts.get("features", ())) == run.pipeline.feature_names and facts.get("task") == run.pipeline.task
        if same and facts.get("until_ms", before_ms + 1) <= before_ms:
            usable.append((facts["until_ms"], name))
    return max(usable)[1] if usable else None


class Starts:
    """Makes the models that candidates start from, each read and rolled forward once."""

    def __init__(self, run: Run, plan: Plan) -> None:
        self._run, self._plan = run, plan
        self._kept: dict[str, bytes] = {}

    def model(self, recipe: Recipe) -> Any:
        """A model of its own, as it is at the window's start."""
        run = self._run
        if recipe.start == "scratch":
            pipeline = run.pipeline
            made = pipeline.model({"seed": pipeline.seed, **pipeline.params, **recipe.params})
            return load_model(dump_model(made), extra_allowed=run.allowed)  # as live: see lean_pickle on sets
        if recipe.start not in self._kept:
            self._kept[recipe.start] = dump_model(self._warm(recipe.start))
        return load_model(self._kept[recipe.start], extra_allowed=run.allowed)

    def _warm(self, start: str) -> Any:
        run, plan = self._run, self._plan
        if start in ("champion", "former"):
            name = plan.champion if start == "champion" else plan.former
            return champion_at(run, name, plan.window.shard, plan.window.from_offset).model
        other = run.pipeline.retrain.transfer_from
        assert other is not None and plan.transfer is not None
        data = ArtifactFiles(run.settings.artifact_url, other).get_base(plan.transfer)
        return open_base(data, run.keys, pipeline=other, extra_allowed=run.allowed).model
