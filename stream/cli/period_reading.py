"""What is known of a period, wherever it lies: examples in the archive and on Kafka, counts and audit logs on Kafka, runs
under the artifact URL, the state now in Redis. What cannot be had is named, with the reason; nothing of it is fatal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, TypeVar

import msgspec

from stream.adapters.kafka_ranges import read_range
from stream.adapters.kafka_topics import FoundTopic, KafkaTopics
from stream.adapters.redis_connections import redis_client
from stream.adapters.redis_models import RedisModelStore
from stream.batch.run_history import past_runs
from stream.cli.dead_letters import read_letters
from stream.cli.producing import follow
from stream.core.moments import moment_text
from stream.core.period_reports import Found, Missing, TrainingRun
from stream.core.periods import PeriodFold, Span, slots_of
from stream.core.records import Record
from stream.errors import ConfigurationError, DriftloopError
from stream.messages import Drift, LabelRequest, Release
from stream.pipeline import Pipeline
from stream.settings import Settings
from stream.topics import TopicNames

__all__ = ["read_period"]

SHARD = 0
LOOK_BACK = 5_000  # examples before the period: copies of them may lie in it
ON_KAFKA = "events, predictions, drifts, releases, dead letters, label requests, examples that are not archived yet"
T = TypeVar("T")


def read_period(
    settings: Settings,
    pipeline: Pipeline,
    since_ms: int,
    until_ms: int,
    on_step: Callable[[str], None] = lambda _: None,
) -> tuple[Span, Found]:
    """Everything that can be had of [since, until). Shard 0 of the model.

    Raises ConfigurationError for a URL that cannot be used; what does not answer is noted in `missing`.
    """
    return _Reading(settings, pipeline, since_ms, until_ms, on_step).read()


class _Reading:
    def __init__(
        self, settings: Settings, pipeline: Pipeline, since_ms: int, until_ms: int, on_step: Callable[[str], None]
    ) -> None:
        self._settings, self._pipeline = settings, pipeline
        self._since_ms, self._until_ms = since_ms, until_ms
        self._names = TopicNames.of(pipeline)
        self._kafka = KafkaTopics(settings.kafka(), self._names)
        self._topics: dict[str, FoundTopic] | None = None
        self._on_step = on_step
        self._no_archive = ""  # why there is none
        self.found = Found()

    def read(self) -> tuple[Span, Found]:
        found = self.found
        self._topics = self._tried(ON_KAFKA, lambda: self._kafka.describe().topics)
        for what in ("events", "predictions"):
            setattr(found, what, self._of_topic(what, what, self._count))
        found.drifts = self._of_topic("drifts", "drifts", lambda _: self._drifts())
        found.releases = self._of_topic("releases", "releases", lambda _: self._releases())
        found.letters = self._of_topic("dead letters", "dead_letters", lambda _: self._letters())
        if self._pipeline.labelling:
            found.requests = self._of_topic("label requests", "label_requests", lambda _: self._requests())
        url, name = self._settings.artifact_url, self._pipeline.name
        found.runs = self._tried("retraining runs", lambda: past_runs(url, name))
        span = self._tried("examples", self._examples)
        found.now = self._tried("the state now, in Redis", self._now)
        found.runs = self._runs_inside()
        return span or slots_of(self._since_ms, self._until_ms, self._since_ms, self._since_ms, 0), found

    def _runs_inside(self) -> list[TrainingRun] | None:
        """A run belongs to the period in which the last of its examples came."""
        runs, examples = self.found.runs, self.found.examples
        if runs is None:
            return None
        if examples is None:
            if runs:
                self._lack("retraining runs", "without examples nobody can tell which of them are of the period")
            return None
        return [
            msgspec.structs.replace(run, at_ms=self.found.times.get(run.to_offset - 1))
            for run in runs
            if examples.from_offset < run.to_offset <= examples.to_offset
        ]

    def _lack(self, what: str, why: str) -> None:
        self.found.missing.append(Missing(what, why))

    def _tried(self, what: str, read: Callable[[], T]) -> T | None:
        self._on_step(f"reading {what}")
        try:
            return read()
        except ConfigurationError:
            raise
        except DriftloopError as error:
            self._lack(what, str(error))
            return None

    def _of_topic(self, what: str, topic: str, read: Callable[[str], T]) -> T | None:
        if self._topics is None:
            return None  # said once, for all of them
        if topic not in self._topics:
            self._lack(what, f"the topic {self._names[topic]} does not exist")
            return None
        return self._tried(what, lambda: read(topic))

    # -- Kafka ---------------------------------------------------------------------------------------------------------

    def _deleted_until(self, topic: str) -> int | None:
        """The timestamp from which on a topic is whole, if that lies in the period; None: it is whole."""
        assert self._topics is not None
        latest = None
        for partition in range(self._topics[topic].partitions):
            start, end = self._kafka.offsets(topic, partition)
            if not start:
                continue
            first_ms = self._kafka.timestamp_ms(topic, partition, start) if start < end else self._until_ms
            if first_ms > self._since_ms:
                latest = max(latest or 0, first_ms)
        return latest

    def _count(self, topic: str) -> int | None:
        """Records with timestamps in the period, from offsets; None if Kafka has deleted some of them."""
        assert self._topics is not None
        if (gone := self._deleted_until(topic)) is not None:
            self._lack(
                topic,
                f"Kafka has deleted them up to {moment_text(gone)} UTC (retention.ms of {self._names[topic]}), and a part would mislead",
            )
            return None
        partitions = range(self._topics[topic].partitions)
        first = self._kafka.offsets_at(topic, dict.fromkeys(partitions, self._since_ms))
        last = self._kafka.offsets_at(topic, dict.fromkeys(partitions, self._until_ms))
        return sum(max(0, last[p] - first[p]) for p in partitions)

    def _whole(self, what: str, topic: str) -> None:
        if (gone := self._deleted_until(topic)) is not None:
            self._lack(
                what,
                f"those before {moment_text(gone)} UTC: Kafka has deleted them (retention.ms of {self._names[topic]})",
            )

    def _messages(self, topic: str, kind: Any, *, since: bool) -> Iterator[tuple[int, Any]]:
        since_ms = self._since_ms if since else None
        for message in follow(self._settings, self._names[topic], from_start=True, to_end=True, since_ms=since_ms):
            try:
                yield message.timestamp()[1], msgspec.json.decode(message.value() or b"", type=kind)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # somebody else's record

    def _drifts(self) -> list[Drift]:
        self._whole("drifts", "drifts")
        inside: dict[str, Drift] = {}
        for _, drift in self._messages("drifts", Drift, since=False):
            if self._since_ms <= drift.detected_at_ms < self._until_ms and drift.pipeline == self._pipeline.name:
                inside.setdefault(drift.drift_id, drift)
        return list(inside.values())

    def _releases(self) -> list[Release]:
        inside: dict[str, Release] = {}
        for _, release in self._messages("releases", Release, since=False):
            if self._since_ms <= release.decided_at_ms < self._until_ms and release.pipeline == self._pipeline.name:
                inside.setdefault(release.release_id, release)
        return list(inside.values())

    def _letters(self) -> list[tuple[int, Any]]:
        self._whole("dead letters", "dead_letters")
        letters = read_letters(self._settings, self._names, since_ms=self._since_ms)
        inside = [one for one in letters if self._since_ms <= one.timestamp_ms < self._until_ms]
        return [(one.timestamp_ms, one.about) for one in inside]

    def _requests(self) -> list[LabelRequest]:
        self._whole("label requests", "label_requests")
        found = self._messages("label_requests", LabelRequest, since=True)
        return [one for at_ms, one in found if self._since_ms <= at_ms < self._until_ms]

    # -- examples ------------------------------------------------------------------------------------------------------

    def _examples(self) -> Span | None:
        pipeline = self._pipeline
        rules = pipeline.labels
        later_ms = self._until_ms + rules.wait_ms + rules.keep_late_ms  # labels of the period's events
        parts: list[tuple[int, int, Callable[[int, int], Iterator[Record]]]] = []  # [from, to) with what came later
        inside: list[tuple[int, int, int]] = []  # examples of the period in each, first and last timestamp
        archive = self._archive()
        end = archive.end(SHARD) if archive is not None else 0
        if archive is not None and (whole := archive.extent(SHARD, self._since_ms, later_ms)) is not None:
            parts.append(
                (max(0, whole.from_offset - LOOK_BACK), whole.to_offset, lambda a, b: archive.records(SHARD, a, b))
            )
            if (its := archive.extent(SHARD, self._since_ms, self._until_ms)) is not None:
                inside.append((its.to_offset - its.from_offset, its.first_ms, its.last_ms))
        if (fresh := self._not_archived(archive, end, later_ms)) is not None:
            read_from, start, stop, to = fresh
            parts.append((read_from, to, self._from_kafka))
            if start < stop:
                first, last = (self._kafka.timestamp_ms("examples", SHARD, offset) for offset in (start, stop - 1))
                inside.append((stop - start, first, max(first, last)))
        if self._no_archive and "examples" not in (self._topics or {}):
            self._lack("archived examples", self._no_archive)
        if not inside:
            self._lack("examples", self._nothing_there(archive))
            return None
        count = sum(number for number, _, _ in inside)
        first_ms, last_ms = min(first for _, first, _ in inside), max(last for _, _, last in inside)
        span = slots_of(self._since_ms, self._until_ms, first_ms, min(last_ms, self._until_ms - 1), count)
        wanted = [drift.from_offset for drift in self.found.drifts or ()]
        wanted += [run.to_offset - 1 for run in self.found.runs or ()]
        fold = PeriodFold(pipeline, span, wanted)
        for start, to, read in parts:
            for record in read(start, to):
                fold.add(record)
        self.found.examples, self.found.times = fold.figures(), fold.times
        return span

    def _archive(self) -> Any:
        if find_spec("deltalake") is None:
            self._no_archive = "deltalake, which reads the archive, is not installed: pip install 'driftloop[archive]'"
            return None
        from stream.adapters.delta_archive import ExampleArchive

        archive = ExampleArchive(self._settings.archive_url, self._pipeline.name)
        topic_id = archive.topic_id()
        if topic_id is None:
            self._no_archive = f"nothing is archived at {archive.location}: run `driftloop archive`"
            return None
        return archive

    def _not_archived(self, archive: Any, end: int, later_ms: int) -> tuple[int, int, int, int] | None:
        """What lies on Kafka only: where to begin, [from, to) of the period, and the end of what came later; None: nothing."""
        if self._topics is None:
            return None
        topic = self._topics.get("examples")
        if topic is None:
            self._lack("examples that are not archived yet", f"the topic {self._names.examples} does not exist")
            return None
        if archive is not None and archive.topic_id() not in ("", topic.topic_id):
            self._lack("examples on Kafka", f"{archive.location} is the archive of an earlier topic of this name")
            return None

        def at(moment_ms: int) -> int:
            return max(end, self._kafka.offsets_at("examples", {SHARD: moment_ms})[SHARD])

        low, _ = self._kafka.offsets("examples", SHARD)
        if low > end:
            why = self._no_archive or "the archive ends before them: run `driftloop archive` more often"
            self._lack(f"examples {end:,} to {low - 1:,}", f"Kafka has deleted them, and {why}")
        start, stop, to = at(self._since_ms), at(self._until_ms), at(later_ms)
        return (max(low, end, start - LOOK_BACK), start, stop, to) if start < to else None

    def _from_kafka(self, start: int, stop: int) -> Iterator[Record]:
        for batch in read_range(self._settings.kafka(), self._names, "examples", SHARD, start, stop):
            yield from batch

    def _nothing_there(self, archive: Any) -> str:
        whole = archive.extent(SHARD) if archive is not None else None
        if whole is None:
            return "there are none that can be read"
        return f"none came in the period; the archive has them from {moment_text(whole.first_ms)} UTC to {moment_text(whole.last_ms)} UTC"

    # -- the rest ------------------------------------------------------------------------------------------------------

    def _now(self) -> dict[str, Any] | None:
        async def status() -> bytes | None:
            client = redis_client(**self._settings.redis())
            try:
                return await RedisModelStore(client, self._pipeline.name).status(SHARD)
            finally:
                await client.aclose()

        data = asyncio.run(status())
        if data is None:
            self._lack("the state now, in Redis", f"nothing is live under {self._pipeline.name!r}")
            return None
        its = msgspec.json.decode(data)
        trial = its.get("trial") or {}
        return {
            "version": its["version"],
            "learned": its["counts"].get("learned", 0),
            "trial": {key: trial[key] for key in ("base", "stage", "share", "labels") if key in trial} or None,
            "drift_episode": (its.get("drift") or {}).get("episode") or None,
        }
