"""Rules and dashboard: what they name exists."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
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
NAME = re.compile(r"(?<![:\w$])((?:[a-z_]+:)?driftloop_\w+(?::\w+)?)")
SCRAPED = {"instance", "job"}  # which Prometheus adds
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


def labels_of(name: str) -> set[str]:
    """Of a series; a recorded one has those that its name begins with."""
    if ":" in name:
        return set(name.partition(":")[0].split("_"))
    return {"pipeline", *SERIES[name], *SCRAPED, *(["le"] if name.endswith("_bucket") else [])}


def closed(text: str, at: int) -> str:
    """What the parenthesis that opens at `at` holds."""
    depth = 0
    for end in range(at, len(text)):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if depth == 0:
            return text[at + 1 : end]
    raise ValueError(f"( at {at} is not closed: {text}")


def grouped(expression: str) -> Iterator[tuple[list[str], str]]:
    """The label list of every aggregation and vector matching, and what it is of."""
    for found in re.finditer(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)\s*", expression):
        kind, listed = found[1], [label.strip() for label in found[2].split(",") if label.strip()]
        if kind in ("by", "without"):
            assert expression[found.end()] == "(", (
                f"write `sum by (...) (...)`, so that this test sees of what: {expression}"
            )
            yield listed, closed(expression, found.end())
        else:
            yield listed, expression  # either side


def unknown_labels(expression: str) -> set[tuple[str, str]]:
    """Series and label, where the series has no such label: in matchers, by(), without(), on(), ignoring() and group_*()."""
    found = set()
    for name, matchers in re.findall(NAME.pattern + r"\{([^}]*)\}", expression):
        found |= {(name, label) for label in re.findall(r"(\w+)\s*[=!]", matchers) if label not in labels_of(name)}
    for listed, of in grouped(re.sub(r"\{[^}]*\}", "", expression)):
        found |= {(name, label) for name in NAME.findall(of) for label in listed if label not in labels_of(name)}
    return found


def test_every_label_that_is_used_exists():
    assert [unknown_labels(expression) for expression in expressions()] == [set()] * len(expressions())
    assert sum(len(list(grouped(expression))) for expression in expressions()) > 30
    for rule in rules():
        if "record" in rule:
            (first, *_) = grouped(rule["expr"])
            assert set(first[0]) - {"le"} == labels_of(rule["record"])


@pytest.mark.parametrize(
    ("expression", "unknown"),
    [
        ('driftloop_events_total{partitoin="0"}', {("driftloop_events_total", "partitoin")}),
        ("sum by (pipelin) (rate(driftloop_events_total[1m]))", {("driftloop_events_total", "pipelin")}),
        ("sum without (role) (driftloop_events_total)", {("driftloop_events_total", "role")}),
        ("max by (le) (rate(driftloop_scoring_seconds_count[1m]))", {("driftloop_scoring_seconds_count", "le")}),
        (
            "driftloop_drift_active and on (pipeline, span) driftloop_judged_labels",
            {("driftloop_drift_active", "span")},
        ),
        (
            "driftloop_drift_active unless ignoring (topic) pipeline_topic:driftloop_lag_records:sum",
            {("driftloop_drift_active", "topic")},
        ),
        ("pipeline:driftloop_events:rate1m{topic='a'}", {("pipeline:driftloop_events:rate1m", "topic")}),
        ("sum by (pipeline, le) (rate(driftloop_scoring_seconds_bucket{pipeline='$p'}[5m])) > 0", set()),
    ],
)
def test_a_label_that_does_not_exist_is_seen(expression: str, unknown: set[tuple[str, str]]):
    assert unknown_labels(expression) == unknown


def test_labels_in_texts_are_those_of_what_is_told():
    """`$labels.x` of a name that the alert's series do not have is an empty place in a message at night."""
    for rule in rules():
        for label in re.findall(r"\$labels\.(\w+)", "".join(rule.get("annotations", {}).values())):
            sources = [set(listed) for listed, _ in grouped(rule["expr"])]
            sources += [labels_of(name) for name in NAME.findall(re.sub(r"\{[^}]*\}", "", rule["expr"]))]
            assert label in set.union(*sources), f"{label} of {rule['alert']}"


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
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= module.WIDTH for panel in module.dashboard()["panels"])


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
