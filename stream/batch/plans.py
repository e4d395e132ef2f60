"""What a retraining run is of. The plan is written once, before the first trial; every step reads it and gets the same.

runs/<run>/plan.json       the plan
runs/<run>/cause.json      why the run was started, for which drift
runs/<run>/no_window.json  why there was nothing to search on, where it ended so
runs/<run>/trials.json     all trials, .csv the same as a table; history.svg, importance.svg
runs/<run>/fit.json        which base was made, and from what
runs/<run>/verdict.json    what the comparison said
runs/<run>/mlflow.json     whether MLflow has the run, where it is asked for
"""

from __future__ import annotations

from typing import Any

import msgspec

from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.file_pipelines import LoadedPipeline
from stream.batch.windows import ExampleSource, Window
from stream.core.model_bases import configuration_of
from stream.core.prequential import Timeline, timeline
from stream.core.unlearning import LeftOut
from stream.errors import ConfigurationError
from stream.pipeline import Pipeline
from stream.settings import Settings

__all__ = ["Plan", "Run", "RunFiles", "open_archive"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run depends on beside the pipeline file.

    Args:
        champion: the base of the live champion when the run began; None: the pipeline's fresh model.
        former: the base of the champion before that one, which "former" starts from; None: see `candidates.find_former`.
        transfer: the base of the other pipeline that "transfer" starts from; None: there is none that may be used.
        high_water: what had been seen before the window; repeats are told by it.
        left_out: examples that the champion was built without: bad labels stay taken back.
        data: digest of the window's records.
        trials, workers: of the search.
    """

    run: str
    pipeline: str
    window: Window
    seed: int
    trials: int
    workers: int
    champion: str | None = None
    former: str | None = None
    transfer: str | None = None
    high_water: dict[int, int] = {}
    left_out: list[LeftOut] = []
    data: str = ""


class RunFiles:
    """What one run has left. It needs no pipeline file."""

    def __init__(self, settings: Settings, pipeline: str, run: str) -> None:
        self.settings, self.pipeline_name, self.name = settings, pipeline, run
        self.files = ArtifactFiles(settings.artifact_url, pipeline)

    def plan(self) -> Plan:
        """Raises ConfigurationError if the run was not planned."""
        found = self.find("plan.json")
        if found is None:
            raise ConfigurationError("run", self.name, "call plan_trials first")
        return msgspec.convert(found, Plan, strict=False)

    def find(self, name: str) -> Any:
        data = self.files.find_file(f"runs/{self.name}/{name}")
        return None if data is None else msgspec.json.decode(data)

    def keep(self, name: str, value: Any) -> None:
        """A file of the run: bytes as they are, everything else as JSON."""
        data = value if isinstance(value, bytes) else msgspec.json.format(msgspec.json.encode(value))
        self.files.put_file(f"runs/{self.name}/{name}", data)


class Run(RunFiles):
    """One run and what its steps need: files, examples, keys."""

    def __init__(
        self, settings: Settings, loaded: LoadedPipeline, run: str, source: ExampleSource | None = None
    ) -> None:
        super().__init__(settings, loaded.pipeline.name, run)
        self.pipeline: Pipeline = loaded.pipeline
        self.allowed = loaded.allowed
        self._source = source
        self.keys = settings.signing()
        self.configuration = configuration_of(self.pipeline)

    @property
    def source(self) -> ExampleSource:
        """The archive, opened when it is first needed."""
        if self._source is None:
            self._source = open_archive(self.settings, self.pipeline.name)
        return self._source

    def lessons(self, plan: Plan) -> Timeline:
        """The window's lessons. Raises ConfigurationError if the archive does not hold what it held."""
        window = plan.window
        records = self.source.records(window.shard, window.from_offset, window.to_offset)
        found = timeline(self.pipeline, records, plan.high_water, plan.left_out)
        if plan.data and found.digest != plan.data:
            remedy = f"offsets {window.from_offset} to {window.to_offset} are not what they were: start a new run"
            raise ConfigurationError("archive", found.digest, remedy)
        return found


def open_archive(settings: Settings, pipeline: str) -> ExampleSource:
    """The archive that `archive_examples` fills."""
    from stream.adapters.delta_archive import ExampleArchive  # of the `archive` extra

    return ExampleArchive(settings.archive_url, pipeline)
