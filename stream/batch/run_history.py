"""What retraining runs have left under the artifact URL, for people who look back."""

from __future__ import annotations

from typing import Any

import msgspec

from stream.adapters.artifact_files import ArtifactFiles
from stream.core.period_reports import TrainingRun

__all__ = ["past_runs"]


def past_runs(url: str, pipeline: str) -> list[TrainingRun]:
    """Every run that was planned, by the end of its window. Raises ConfigurationError, Unavailable."""
    files = ArtifactFiles(url, pipeline)
    found = [run for name in files.list_files("runs") if (run := _run(files, name)) is not None]
    return sorted(found, key=lambda run: run.to_offset)


def _run(files: ArtifactFiles, name: str) -> TrainingRun | None:
    plan, cause, fit, verdict, release, trials = (
        _json(files, f"runs/{name}/{part}.json") for part in ("plan", "cause", "fit", "verdict", "release", "trials")
    )
    if plan is None:
        return None
    figures = (verdict or {}).get("figures", {})
    return TrainingRun(
        run=name,
        cause=(cause or {}).get("why"),
        drift_id=(cause or {}).get("drift_id"),
        from_offset=plan["window"]["from_offset"],
        to_offset=plan["window"]["to_offset"],
        labels=plan["window"]["labels"],
        trials=None if trials is None else len(trials),
        champion=plan.get("champion"),
        base=(fit or {}).get("base"),
        accepted=(verdict or {}).get("accepted"),
        why=(verdict or {}).get("why", ""),
        figure=figures.get("figure"),
        of_candidate=figures.get("candidate"),
        of_champion=figures.get("champion"),
        released=(release or {}).get("released", None if verdict is None or verdict["accepted"] else False),
    )


def _json(files: ArtifactFiles, path: str) -> Any:
    data = files.find_file(path)
    return None if data is None else msgspec.json.decode(data)
