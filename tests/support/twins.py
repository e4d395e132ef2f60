"""A process that does a retraining step by step; before each step it waits until its twin stands there, too."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from stream.adapters.file_pipelines import load_pipeline
from stream.batch import retraining
from stream.settings import load_settings

__all__ = ["STEPS"]

STEPS = ("archive_examples", "choose_window", "plan_trials", "run_trials", "fit", "compare", "release")
DEADLINE_S = 120.0


def main() -> None:
    """Arguments: pipeline file, run, own name, directory for signs and answers, number of processes."""
    file, run, me, signs, count = sys.argv[1:]
    settings, loaded = load_settings(), load_pipeline(Path(file))
    answers: dict[str, Any] = {}
    for step in STEPS:
        Path(signs, f"{step}.{me}").touch()
        deadline_s = time.monotonic() + DEADLINE_S
        while len(list(Path(signs).glob(f"{step}.*"))) < int(count):
            assert time.monotonic() < deadline_s, f"the twin does not come to {step}"
            time.sleep(0.001)
        function = getattr(retraining, step)
        began_s = time.time()
        answers[step] = function(settings, loaded, **_arguments(step, run, answers))
        answers[f"{step}.time"] = (began_s, time.time())
    Path(signs, f"answers-{me}.json").write_text(json.dumps(answers))


def _arguments(step: str, run: str, answers: dict[str, Any]) -> dict[str, Any]:
    if step == "archive_examples":
        return {}
    more: dict[str, dict[str, Any]] = {
        "choose_window": {"taken": {"from_offset": None}},
        "plan_trials": {"window": answers.get("choose_window")},
        "run_trials": {"part": 0},
        "release": {"candidate": answers.get("fit"), "verdict": answers.get("compare")},
    }
    return {"run_id": run, **more.get(step, {})}


if __name__ == "__main__":
    main()
