"""What the demo tells of the retraining loop while it runs, and the figures at its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.example_log import ExampleLog
from stream.adapters.kafka_topics import KafkaTopics
from stream.batch.releasing import release
from stream.cli.producing import read_drifts
from stream.cli.releases import read_releases, release_text
from stream.core.evaluating import KEY_FIGURE, Evaluation
from stream.core.examples import ExampleParser, Follower
from stream.core.model_bases import ModelBase, configuration_of, seal_base
from stream.core.prequential import evaluate, scored_lessons, timeline
from stream.core.records import Record
from stream.errors import DriftloopError, Unavailable
from stream.local.airflow_client import AirflowClient
from stream.local.process import wait_until
from stream.messages import Release
from stream.pipeline import Pipeline
from stream.settings import Settings
from stream.topics import TopicNames

__all__ = ["LoopStory"]

LOOK_S = 1.0
DAG_S = 90.0
UNANSWERED_S = 120.0
SPOILED_EXAMPLES = 5_000


class LoopStory:
    """Looks at Kafka and Airflow in a thread. The story is over when a candidate has won, and a bad one has gone."""

    def __init__(self, settings: Settings, pipeline: Pipeline, client: AirflowClient) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._client = client
        self._dag_id = f"retrain_on_drift__{pipeline.name}"
        self._began_s = time.monotonic()
        self._told: dict[str, tuple[float, str]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="loop-story", daemon=True)
        self.releases: list[Release] = []
        self.failure: BaseException | None = None
        self._bad: str | None = None

    @property
    def over(self) -> bool:
        return self._bad is not None and self._last("rejected", self._bad) is not None

    @property
    def promoted(self) -> Release | None:
        """The first candidate that won."""
        return self._last("promoted")

    def start(self) -> None:
        """Begin to look, once Airflow knows the DAG. Raises TimeoutError."""
        wait_until(self._known, DAG_S, f"Airflow to know {self._dag_id}", 0.5)
        self._began_s = time.monotonic()
        self._thread.start()

    def _known(self) -> bool:
        try:
            return self._dag_id in self._client.dags()
        except Unavailable:  # it has much to do when it starts
            return False

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def tell(self, key: str, text: str) -> None:
        """Once for each key."""
        self._told.setdefault(key, (time.monotonic() - self._began_s, text))

    def text(self) -> Text:
        """The story so far, one line for each thing that happened."""
        lines = [f"{at_s:6.1f} s  {text}" for at_s, text in sorted(self._told.values())]
        return Text("\n".join(lines))

    def _last(self, action: str, base: str | None = None) -> Release | None:
        found = [r for r in self.releases if r.action == action and base in (None, r.base)]
        return found[-1] if found else None

    def _look(self) -> None:
        seen_s = time.monotonic()
        try:
            while not self._stop.wait(LOOK_S):
                try:
                    self._look_once()
                    seen_s = time.monotonic()
                except Unavailable:  # a busy machine
                    if time.monotonic() - seen_s > UNANSWERED_S:
                        raise
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self.failure = error

    def _look_once(self) -> None:
        for drift in read_drifts(self._settings, self._pipeline.name):
            words = f"drift found: {drift.signal}, severity {drift.severity:.1f}, since example {drift.from_offset:,}"
            self.tell(f"drift {drift.drift_id}", words)
        for run in self._client.runs(self._dag_id):
            tasks = self._client.tasks(self._dag_id, run["dag_run_id"])
            if tasks.get("take_up") != "success" or tasks.get("archive_examples") in (None, "skipped"):
                continue
            name = run["dag_run_id"]
            self.tell(f"run {name}", "Airflow retrains")
            if tasks.get("plan_trials") == "skipped":
                self.tell(f"early {name}", "   too few labels of the new world yet; a follow-up comes")
            if tasks.get("fit") == "success":
                self.tell(f"fit {name}", "   searched and fitted a candidate")
            if tasks.get("release") == "skipped" and tasks.get("compare") == "success":
                self.tell(f"no {name}", "   the candidate is no better than the champion on later examples")
        self.releases = read_releases(self._settings, self._pipeline.name)
        for item in self.releases:
            share = f" of {item.share:.0%}" if item.action == "canary" else ""
            by = "a retraining" if item.decided_by.startswith("run:") else item.decided_by
            self.tell(item.release_id, f"{item.action.replace('_', ' ')}{share}: {item.base}, by {by}")
        if self._bad is None and self._last("confirmed") is not None:
            self._bad = self._release_bad()

    def _release_bad(self) -> str:
        """A candidate that has learned the contrary of the labels; a person in a hurry releases it."""
        pipeline, settings = self._pipeline, self._settings
        names = TopicNames.of(pipeline)
        end = KafkaTopics(settings.kafka(), names).offsets("examples", 0)[1]
        start = max(0, end - SPOILED_EXAMPLES)
        base = ModelBase(pipeline=pipeline.name, shard=0, offset=start, model=pipeline.build())
        follower = Follower(pipeline, base)
        log = ExampleLog(settings.kafka(), names, settings.archive_url)
        for records in log.batches(0, start, end):
            follower.step([_contrary(record) for record in records])
        spoiled = ModelBase(
            pipeline=pipeline.name,
            shard=0,
            offset=follower.offset,
            model=follower.pupil.model,
            high_water=follower.high_water,
            learned=follower.pupil.learned,
            provenance={"demo": "learned the contrary"},
        )
        sealed = seal_base(spoiled, configuration=configuration_of(pipeline), key=settings.signing()[0])
        ArtifactFiles(settings.artifact_url, pipeline.name).put_base(sealed, spoiled.name)
        release(settings, pipeline, spoiled.name, by="person:demo", reason="a model that has learned the contrary")
        return spoiled.name

    def report(self, console: Console, say: Callable[[str], None]) -> None:
        """Raises DriftloopError if no candidate won."""
        console.print(self.text())
        for item in self.releases:
            console.print(release_text(item))
        promoted = self.promoted
        if promoted is None:
            raise DriftloopError("no candidate became the champion; the logs are in the demo's directory")
        say("what the first model would have done by itself ...")
        figure = KEY_FIGURE[self._pipeline.task].replace("_", " ")
        alone, served, labels = self._alone_and_served(promoted)
        better = "better" if served > alone else "[yellow]NOT better[/]"
        console.print(
            f"{figure} over the {labels:,} labels of events after the promotion: {served:.3f} as served, "
            f"{alone:.3f} if the first model had been left alone: the loop was {better}",
            highlight=False,
        )

    def _alone_and_served(self, promoted: Release) -> tuple[float, float, int]:
        """The key figure after the promotion: of the pipeline's first model learning on alone, and of what was served."""
        pipeline, settings = self._pipeline, self._settings
        names = TopicNames.of(pipeline)
        end = KafkaTopics(settings.kafka(), names).offsets("examples", 0)[1]
        log = ExampleLog(settings.kafka(), names, settings.archive_url)
        records = [record for batch in log.batches(0, 0, end) for record in batch]
        lessons = timeline(pipeline, records).lessons
        since = int(promoted.version.rpartition("@")[2])
        alone = evaluate(pipeline, pipeline.build(), lessons, score_from=since, fit=False)
        judged = Evaluation(pipeline.task)
        parse = ExampleParser(pipeline).parse
        scored = scored_lessons(lessons, since)
        for lesson, counts in zip(lessons, scored, strict=True):
            if counts:
                example = parse(records[lesson.offset])
                judged.update(example.label, example.served[example.slot])
        overall = judged.report()["overall"]
        served = overall["model"][KEY_FIGURE[pipeline.task]]
        return float(alone.figure or 0.0), float(served or 0.0), int(overall["labels"])


def _contrary(record: Record) -> Record:
    value: Any = msgspec.json.decode(record.value or b"{}")
    value["label"] = not value["label"]
    return msgspec.structs.replace(record, value=msgspec.json.encode(value))
