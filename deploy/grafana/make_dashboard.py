"""The Grafana dashboard as code: `make dashboard` writes dashboard.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("dashboard.json")
SOURCE = {"type": "prometheus", "uid": "${source}"}
ROW_HEIGHT, WIDTH = 8, 24

# Rows of (title, unit, [(query, legend)], kind).
ROWS: list[tuple[str, list[tuple[str, str, list[tuple[str, str]], str]]]] = [
    (
        "Flow",
        [
            ("Events per second", "reqps", [('sum(rate(driftloop_events_total{pipeline="$pipeline"}[1m]))', "events"),
                ('sum(rate(driftloop_examples_learned_total{pipeline="$pipeline"}[1m]))', "learned")], "timeseries"),
            ("Lag", "short", [('sum by (topic) (driftloop_lag_records{pipeline="$pipeline"})', "{{topic}}")], "timeseries"),
            ("From fetch to published prediction", "s", [
                (f'histogram_quantile({share}, sum by (le) (rate(driftloop_scoring_seconds_bucket{{pipeline="$pipeline"}}[5m])))', name)
                for share, name in ((0.5, "median"), (0.95, "95 %"), (0.99, "99 %"))], "timeseries"),
            ("From timestamp to published prediction", "s", [
                (f'histogram_quantile({share}, sum by (le) (rate(driftloop_event_age_seconds_bucket{{pipeline="$pipeline"}}[5m])))', name)
                for share, name in ((0.5, "median"), (0.99, "99 %"))], "timeseries"),
        ],
    ),
    (
        "Quality",
        [
            ("Figures in the window", "short", [
                ('driftloop_quality{pipeline="$pipeline", span="window", system="model"}', "{{figure}}"),
                ('driftloop_unbiased_quality{pipeline="$pipeline", span="window", system="model"}',
                 "{{figure}}, of all events")], "timeseries"),
            ("Skill against baselines", "percentunit", [
                ('driftloop_skill_ratio{pipeline="$pipeline", span="window"}', "{{baseline}}")], "timeseries"),
            ("Key figure by segment", "short", [
                ('driftloop_segment_quality{pipeline="$pipeline"}', "{{segment}}={{value}}")], "timeseries"),
            ("Drift", "short", [('driftloop_drift_active{pipeline="$pipeline"}', "now"),
                ('increase(driftloop_drifts_total{pipeline="$pipeline"}[1h])', "in the last hour")], "timeseries"),
        ],
    ),
    (
        "Models",
        [
            ("Who answers", "short", [('driftloop_slot{pipeline="$pipeline"}', "{{slot}} {{base}}")], "timeseries"),
            ("What became of models, in a day", "short", [
                # Not increase(): the learner may be another instance by then.
                ('max by (action) (driftloop_releases_total{pipeline="$pipeline"}) - min by (action)'
                 ' (min_over_time(driftloop_releases_total{pipeline="$pipeline"}[1d]))', "{{action}}")], "timeseries"),
            ("Features that moved", "percentunit", [
                ('topk(8, driftloop_feature_distance_ratio{pipeline="$pipeline"})', "{{feature}}")], "timeseries"),
        ],
    ),
    (
        "Trial",
        [
            ("Canary share", "percentunit", [('driftloop_canary_share_ratio{pipeline="$pipeline"}', "share")], "timeseries"),
            ("Evidence", "short", [('driftloop_trial_evidence{pipeline="$pipeline"}', "{{direction}}"),
                ('driftloop_trial_evidence_needed{pipeline="$pipeline"}', "needed")], "timeseries"),
            ("Has won and waits for a person", "short", [
                ('driftloop_trial_won{pipeline="$pipeline"}', "waits")], "timeseries"),
        ],
    ),
    (
        "Records",
        [
            ("Labels by timing", "reqps", [
                ('sum by (timing) (rate(driftloop_labels_total{pipeline="$pipeline"}[5m]))', "{{timing}}")], "timeseries"),
            ("Dead letters by code", "reqps", [
                ('sum by (code) (rate(driftloop_dead_letters_total{pipeline="$pipeline"}[5m]))', "{{code}}")], "timeseries"),
            ("Label budget, requests in a day", "short", [
                ('sum(increase(driftloop_label_budget_allowed_total{pipeline="$pipeline"}[1d]))', "allowed"),
                ('sum(increase(driftloop_label_budget_spent_total{pipeline="$pipeline"}[1d]))', "spent"),
                ('sum(increase(driftloop_label_requests_answered_total{pipeline="$pipeline"}[1d]))', "answered")], "timeseries"),
            ("Objectives: 1 kept, 0 broken", "short", [
                ('driftloop_objective_kept{pipeline="$pipeline"}', "{{objective}}")], "timeseries"),
        ],
    ),
    (
        "Objectives",
        [
            ("Scores and shares", "short", [
                ('driftloop_objective_current_ratio{pipeline="$pipeline"}', "{{objective}}"),
                ('driftloop_objective_target_ratio{pipeline="$pipeline"}', "{{objective}}, promised")], "timeseries"),
            ("Latency and delay", "s", [
                ('driftloop_objective_current_seconds{pipeline="$pipeline"}', "{{objective}}"),
                ('driftloop_objective_target_seconds{pipeline="$pipeline"}', "{{objective}}, promised")], "timeseries"),
            ("Error of a regression", "short", [
                ('driftloop_objective_current_label_units{pipeline="$pipeline"}', "{{objective}}"),
                ('driftloop_objective_target_label_units{pipeline="$pipeline"}', "{{objective}}, promised")], "timeseries"),
        ],
    ),
    (
        "Workers",
        [
            ("Partitions owned", "short", [
                ('sum by (role) (driftloop_worker_partitions{pipeline="$pipeline"})', "{{role}}")], "timeseries"),
            ("Memory of workers", "bytes", [("process_resident_memory_bytes", "{{instance}}")], "timeseries"),
        ],
    ),
]  # fmt: skip


def panel(
    number: int, at: tuple[int, int], title: str, unit: str, queries: list[tuple[str, str]], kind: str
) -> dict[str, Any]:
    return {
        "id": number,
        "title": title,
        "type": kind,
        "datasource": SOURCE,
        "gridPos": {"x": at[0], "y": at[1], "w": WIDTH // 4, "h": ROW_HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": unit, "custom": {"fillOpacity": 8, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(65 + i), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for i, (query, legend) in enumerate(queries)
        ],
    }


def dashboard() -> dict[str, Any]:
    """As Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(
            {"id": len(panels) + 1, "title": title, "type": "row", "collapsed": False, "panels": [],
             "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}}
        )  # fmt: skip
        for i, (name, unit, queries, kind) in enumerate(row):
            panels.append(panel(len(panels) + 1, (i * WIDTH // 4, y + 1), name, unit, queries, kind))
        y += 1 + ROW_HEIGHT
    return {
        "uid": "driftloop",
        "title": "driftloop",
        "tags": ["driftloop"],
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                {"name": "pipeline", "type": "query", "label": "Pipeline", "datasource": SOURCE, "refresh": 2,
                 "query": "label_values(driftloop_worker_info, pipeline)"},
            ]
        },
        "panels": panels,
    }  # fmt: skip


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
