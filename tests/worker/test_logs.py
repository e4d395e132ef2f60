"""Log lines."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from stream.worker.logs import JsonFormatter, text_formatter


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("stream.worker.roles", logging.WARNING, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_json_lines_carry_the_code_and_stay_one_line():
    formatter = JsonFormatter("score", "payments")
    line = formatter.format(record('a "hard"\nmessage', code="fenced"))
    assert "\n" not in line
    found = json.loads(line)
    assert (found["code"], found["message"], found["level"]) == ("fenced", 'a "hard"\nmessage', "warning")
    assert (found["role"], found["pipeline"]) == ("score", "payments")
    assert found["at"].endswith("+00:00")
    assert json.loads(formatter.format(record("no code")))["code"] is None


def test_an_exception_is_in_the_line():
    try:
        raise ValueError("why")
    except ValueError as error:
        made = record("it failed")
        made.exc_info = (type(error), error, error.__traceback__)
    found = json.loads(JsonFormatter("learn", "payments").format(made))
    assert "ValueError: why" in found["error"]


def test_text_has_a_dash_for_no_code():
    assert "[-] plain" in text_formatter().format(record("plain"))
    assert "[fenced] plain" in text_formatter().format(record("plain", code="fenced"))


def test_a_worker_that_is_refused_says_so_in_json(tmp_path: Path):
    file = tmp_path / "wrong.py"
    file.write_text("pipeline = 3\n")
    ran = subprocess.run(
        [sys.executable, "-m", "stream.cli", "worker", str(file), "--role", "score"],
        capture_output=True, text=True, check=False, env={**os.environ, "DRIFTLOOP_LOG_FORMAT": "json"},
    )  # fmt: skip
    assert ran.returncode == 2
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert lines[-1]["code"] == "worker_failed" and lines[-1]["level"] == "error"
