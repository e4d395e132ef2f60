"""Rules and dashboard: what they name exists."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream.worker.web.metrics import METRICS

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "info": ("_info",), "histogram": ("_bucket", "_sum", "_count")}
SERIES = {name + suffix: labels for name, (kind, labels, _) in METRICS.items() for suffix in SUFFIXES[kind]}
UNITS = ("_seconds", "_bytes", "_ratio", "_records", "_offset")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(queries) > 20
    return [rule["expr"] for rule in rules()] + queries


def test_every_metric_that_is_used_exists():
    for expression in expressions():
        for name in re.findall(r"(?<![:\w])driftloop_\w+", expression):
            assert name in SERIES, f"{name} in {expression}"


def test_every_label_that_is_used_exists():
    for expression in expressions():
        for name, matchers in re.findall(r"(?<![:\w])(driftloop_\w+)\{([^}]*)\}", expression):
            for label in re.findall(r"(\w+)\s*[=!]", matchers):
                assert label in ("pipeline", *SERIES[name]), f"{label} of {name}"


def test_recorded_names_are_made_before_they_are_used():
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = {name for expression in expressions() for name in re.findall(r"\w+:driftloop_\w+:\w+", expression)}
    assert used <= recorded
    assert all(re.fullmatch(r"[a-z_]+:driftloop_\w+:\w+", name) for name in recorded)


def test_alerts_say_what_is_wrong_and_what_to_do():
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) >= 8
    for alert in alerts:
        assert alert["labels"]["severity"] in ("info", "warning", "critical")
        assert {"summary", "description"} <= alert["annotations"].keys()


def test_metrics_are_well_named():
    for name, (kind, labels, meaning) in METRICS.items():
        assert re.fullmatch(r"driftloop_[a-z_]+", name)
        assert not name.endswith("_total"), name
        assert meaning.endswith(".")
        assert "pipeline" not in labels
        if kind == "histogram":
            assert name.endswith("_seconds")
    assert sum(name.endswith(UNITS) for name in METRICS) >= 10


def test_the_dashboard_is_what_its_code_makes():
    spec = importlib.util.spec_from_file_location("make_dashboard", DASHBOARD.with_name("make_dashboard.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert DASHBOARD.read_text() == module.text(), "run `make dashboard`"


@pytest.mark.parametrize(
    ("what", "file", "says"),
    [
        ("check rules", RULES, "rules found"),
        ("test rules", Path(__file__).with_name("rules_test.yml"), "SUCCESS"),
        ("check config", RULES.with_name("prometheus.yml"), "valid"),
    ],
    ids=["syntax", "alerts-fire", "configuration"],
)
def test_promtool_accepts_the_rules(what: str, file: Path, says: str):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH: Prometheus has not looked at the rules (apt-get install prometheus)")
    command = [promtool, *what.split(), str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=file.parent, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert says in ran.stdout


def test_the_alerts_that_are_tested_exist():
    names = {rule["alert"] for rule in rules() if "alert" in rule}
    tested = re.findall(r"alertname: (\w+)", Path(__file__).with_name("rules_test.yml").read_text())
    assert set(tested) <= names
    assert len(set(tested)) >= 6
