"""Taking back what was learned from bad labels: the nearest base that has not learned them, and the examples since then
without them. What comes of it is a base like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.example_log import ExampleLog
from stream.adapters.kafka_ranges import read_range
from stream.adapters.kafka_topics import KafkaTopics
from stream.batch.releasing import live_roster, release
from stream.core.examples import LEARNED, ExampleReader, Follower
from stream.core.guarding import first_not_finite
from stream.core.label_sources import names_a_person
from stream.core.lean_pickle import dump_model, load_model
from stream.core.model_bases import ModelBase, configuration_of, open_base, seal_base
from stream.core.rebuilding import unbroken
from stream.core.records import Record
from stream.core.unlearning import (
    LEFT_OUT,
    Labelled,
    LeftOut,
    begins_of,
    has_learned,
    learned_line,
    left_out_of,
    nearest_base,
)
from stream.errors import ConfigurationError, DriftloopError, StartupRefused, Unavailable
from stream.messages import Example, Release
from stream.pipeline import Pipeline
from stream.settings import Settings
from stream.topics import TopicNames

__all__ = ["Unlearned", "lineage_of", "unlearn"]

Progress = Callable[[str, int, int], None]


class Unlearned(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken back, or would be."""

    base: str | None  # the new one; None: nothing was made
    champion: str  # version of the live champion that has learned them
    restored: str  # base that the new one begins with ...
    from_offset: int  # ... and its offset
    to_offset: int  # of the examples that were learned again, exclusive
    left_out: int  # examples that were asked to be left out and that the champion has learned
    first_offset: int  # of the first one of them
    released: bool


def unlearn(
    settings: Settings,
    pipeline: Pipeline,
    *,
    by: str,
    from_offset: int = 0,
    to_offset: int | None = None,
    source: str | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    dry_run: bool = False,
    and_release: bool = False,
    reason: str = "",
    extra_allowed: frozenset[str] = frozenset(),
    on_progress: Progress = lambda *_: None,
) -> Unlearned:
    """Build the live champion again without the examples for which all of this is true.

    Args:
        by: `person:<name>` or `run:<id>`.
        from_offset, to_offset: of `examples`; `to_offset` is exclusive, None: all that are learned by now.
        source: of the labels; of a person also those that were agreed on with another one (`core.label_sources`).
        since_ms, until_ms: Kafka timestamps of the labels, [since, until).
        dry_run: only count.
        and_release: ask for the rollout of what was built.

    Raises:
        ConfigurationError: the champion has learned none of them.
        StartupRefused: `no_model`, nothing is live; `examples_gone`, some that are needed are not there any more;
            `no_base`, every base has learned some of them.
        SnapshotRefused: a base's file is not ours or damaged.
        Unavailable.
    """
    run = _Unlearning(settings, pipeline, extra_allowed, on_progress)
    asked = LeftOut(
        from_offset=from_offset,
        to_offset=run.end if to_offset is None else to_offset,
        source=source,
        agreed=source is not None and names_a_person(source),
        since_ms=since_ms,
        until_ms=until_ms,
    )
    if asked.to_offset > run.end:
        raise ConfigurationError(
            "--to", to_offset, f"the live model has learned up to {run.end}: use at most that, or wait"
        )
    found = run.plan(asked)
    if dry_run:
        return found
    base = run.build(asked, found, by, reason)
    if and_release:
        words = f"without {found.left_out} examples" + (f" ({reason})" if reason else "")
        release(
            settings,
            pipeline,
            base,
            by=by,
            parent=found.champion.partition("@")[0],
            reason=words,
            evidence={"left_out": found.left_out, "restored": found.restored},
            extra_allowed=extra_allowed,
        )
    return msgspec.structs.replace(found, base=base, released=and_release)


class _Unlearning:
    """Shard 0: the only one that scorers read."""

    def __init__(
        self, settings: Settings, pipeline: Pipeline, extra_allowed: frozenset[str], on_progress: Progress
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._extra_allowed = extra_allowed
        self._on_progress = on_progress
        self._names = TopicNames.of(pipeline)
        self._log = ExampleLog(settings.kafka(), self._names, settings.archive_url)
        self._files = ArtifactFiles(settings.artifact_url, pipeline.name)
        self._configuration = configuration_of(pipeline)
        roster = live_roster(settings, pipeline.name)
        if roster is None:
            raise StartupRefused("no_model", f"nothing is live under {pipeline.name!r}: start a learn worker")
        self._champion = roster.champion
        self.end = int(roster.champion.partition("@")[2])  # a base may not begin beyond what is learned
        self._lineage: list[ModelBase] = []

    def plan(self, asked: LeftOut) -> Unlearned:
        """What would be done. Raises as `unlearn` does."""
        self._lineage = lineage_of(self._settings, self._pipeline, self._open, self._champion.partition("@")[0])
        champion, begins = self._lineage[0], begins_of(self._lineage)[0]
        matching = list(self._matching(asked, max(begins, asked.from_offset)))
        learned = [its for its in matching if its.offset >= champion.offset or has_learned(champion, begins, its)]
        if not learned:
            raise ConfigurationError(
                "examples", len(matching), f"the champion {self._champion} has learned none such: nothing to take back"
            )
        base = nearest_base(self._lineage, learned)
        if base is None:
            raise StartupRefused(
                "no_base",
                f"{self._lineage[-1].name}, the oldest base that is left, has learned some of them: retrain with a window without them",
            )
        return Unlearned(
            base=None,
            champion=self._champion,
            restored=base.name,
            from_offset=base.offset,
            to_offset=self.end,
            left_out=len(learned),
            first_offset=learned[0].offset,
            released=False,
        )

    def _matching(self, asked: LeftOut, start: int) -> Iterator[Labelled]:
        """Of the examples that are learned, not archived only."""
        reader = ExampleReader(self._pipeline)
        for record in self._examples("looking", start, asked.to_offset):
            example = reader.read(record)
            if example is not None and example.timing in LEARNED:
                its = Labelled.of(record, example)
                if asked.holds(its):
                    yield its

    def build(self, asked: LeftOut, found: Unlearned, by: str, reason: str) -> str:
        """Make and store the base; returns its name."""
        restored = next(base for base in self._lineage if base.name == found.restored)
        without = [asked]
        for newer in self._lineage[: self._lineage.index(restored) + 1]:
            # What was taken back before stays so, as far as it was.
            without += [part.until(newer.offset) for part in left_out_of(newer.provenance)]
        without = list({msgspec.json.encode(part): part for part in without}.values())

        def leave_out(record: Record, example: Example) -> bool:
            its = Labelled.of(record, example)
            return any(part.holds(its) for part in without)

        follower = Follower(self._pipeline, restored, self._extra_allowed, leave_out)
        batch: list[Record] = []
        for record in self._examples("learning", restored.offset, self.end):
            batch.append(record)
            if len(batch) == 1_000:
                follower.step(batch)
                batch = []
        follower.step(batch)
        pupil = follower.pupil
        bad = first_not_finite(pupil.model)
        if bad is not None:
            raise DriftloopError(f"{bad} is not finite without these examples: retrain instead")
        base = ModelBase(
            pipeline=self._pipeline.name,
            shard=0,
            offset=self.end,
            model=load_model(dump_model(pupil.model), extra_allowed=self._extra_allowed),
            high_water=follower.high_water,
            learned=pupil.learned,
            provenance={
                "made_by": "unlearn",
                "by": by,
                "reason": reason,
                "parent": restored.name,
                "replaces": self._champion,
                "from_offset": restored.offset,
                "to_offset": self.end,
                LEFT_OUT: msgspec.to_builtins(without),
                "examples_left_out": follower.left_out,
            },
        )
        data = seal_base(base, configuration=self._configuration, key=self._settings.signing()[0])
        self._put(base, data)
        return base.name

    def _put(self, base: ModelBase, data: bytes) -> None:
        """The same model may have been made before, with another provenance: then that file stays."""
        if self._files.find_file(f"bases/{base.name}.model") is None:
            self._files.put_base(data, base.name)
        else:
            self._open(base.name)

    def _open(self, name: str) -> ModelBase:
        return open_base(
            self._files.get_base(name),
            self._settings.signing(),
            pipeline=self._pipeline.name,
            configuration=self._configuration,
            extra_allowed=self._extra_allowed,
        )

    def _examples(self, what: str, start: int, end: int) -> Iterator[Record]:
        self._on_progress(what, 0, end - start)
        batches = self._log.batches(0, start, end)
        for batch in unbroken(batches, start, end, f"{self._names.examples}-0"):
            yield from batch
            self._on_progress(what, batch[-1].offset + 1 - start, end - start)


def lineage_of(
    settings: Settings, pipeline: Pipeline, read: Callable[[str], ModelBase], champion: str
) -> list[ModelBase]:
    """A base, what it was made from or replaced, and so on to the first (`learned_line`); bases whose file is gone are passed over.

    Raises SnapshotRefused, Unavailable: of the champion's own file.
    """
    parents: dict[str, str | None] = {}
    started: str | None = None
    config, names = settings.kafka(), TopicNames.of(pipeline)
    low, end = KafkaTopics(config, names).offsets("releases", 0)
    for batch in read_range(config, names, "releases", 0, low, end):
        for record in batch:
            its = msgspec.json.decode(record.value or b"", type=Release)
            if its.action == "started":
                started = its.base
            elif its.action == "released":
                parents[its.base] = its.parent

    def read_if_there(name: str) -> ModelBase | None:
        try:
            return read(name)
        except Unavailable:
            if name == champion:
                raise
            return None

    return learned_line(champion, read_if_there, parents, started)
