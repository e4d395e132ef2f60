"""From what is stored to what the page shows: small, bounded, and only what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from stream.core.evaluating import KEY_FIGURE
from stream.core.objectives import Judged, coverage_of
from stream.core.querying import budget_of
from stream.core.records import Record
from stream.core.remembering import Meta, summed
from stream.core.scoring import ERROR_HEADER
from stream.lifecycle import Labelling
from stream.messages import Drift, Prediction, Release
from stream.worker.latencies import percentile_s
from stream.worker.telemetry import Point, Report

__all__ = [
    "budget", "counts", "course", "dead_letters", "drifts", "flow", "labels", "learner", "objectives", "predictions",
    "releases", "workers",
]  # fmt: skip

POINTS_SHOWN = 300
TEXT_MAX = 300
FIGURES = {
    "binary": ("average_precision", "roc_auc", "recall", "precision", "accuracy", "log_loss", "calibration_error"),
    "anomaly": ("roc_auc", "average_precision", "recall", "precision", "accuracy"),
    "multiclass": ("accuracy", "macro_f1", "kappa", "log_loss", "calibration_error"),
    "regression": ("mae", "rmse", "r2", "bias"),
}


def workers(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """Who is alive, and what each owns."""
    return [
        {"worker": report.worker, "role": report.role, "partitions": sorted(report.partitions), "at_ms": report.at_ms}
        for report in sorted(reports, key=lambda report: (report.role, report.worker))
    ]


def counts(metas: Sequence[Meta]) -> dict[str, int]:
    """Of all partitions together."""
    return summed(meta.counts for meta in metas)


def _latency(counts: Sequence[int]) -> dict[str, Any] | None:
    found = {name: percentile_s(counts, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
    return None if found["p50"] is None else found


def _added(rows: Sequence[Sequence[int]]) -> list[int]:
    present = [row for row in rows if row]
    return [sum(column) for column in zip(*present, strict=False)]


def flow(
    reports: Sequence[Report],
    metas: Sequence[Meta],
    ends: Mapping[str, Mapping[int, int]],
    starts: Mapping[tuple[str, int], int],
    learner: Any,
) -> dict[str, Any]:
    """How fast it goes, what waits, and how long events take. `starts`: where the state begins, if not at 0."""
    owned = {
        number: (report, partition)
        for report in reports
        if report.role == "score"
        for number, partition in report.partitions.items()
    }
    rows = []
    for number, meta in enumerate(metas):
        report, partition = owned.get(number, (None, None))
        lags = {
            f"lag_{topic}": max(0, ends[topic][number] - meta.offsets.get(topic, starts.get((topic, number), 0)))
            if number in ends.get(topic, {})
            else None
            for topic in ("events", "labels")
        }
        rows.append(
            {
                "partition": number,
                "worker": report.worker if report else None,
                "per_s": partition.per_s if partition else 0.0,
                **lags,
                "latency": _latency(partition.scoring) if partition else None,
            }
        )
    everybody = [partition for _, partition in owned.values()]
    examples_end = sum(ends.get("examples", {}).values())
    return {
        "partitions": rows,
        "per_s": round(sum(partition.per_s for partition in everybody), 1),
        "learned_per_s": round(sum(p.per_s for r in reports if r.role == "learn" for p in r.partitions.values()), 1),
        "latency": _latency(_added([partition.scoring for partition in everybody])),
        "age": _latency(_added([partition.age for partition in everybody])),
        "lag_events": sum(row["lag_events"] or 0 for row in rows),
        "lag_labels": sum(row["lag_labels"] or 0 for row in rows),
        "lag_examples": max(0, examples_end - learner["offset"]) if learner and "examples" in ends else None,
        "events": sum(meta.counts.get("events", 0) for meta in metas),
        "predictions": sum(meta.counts.get("predictions", 0) for meta in metas),
    }


def learner(status: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The model, how good its answers were, who is tried beside it. Raises KeyError and the like for a damaged status."""
    metrics = status["metrics"]
    key = KEY_FIGURE[task]
    names = FIGURES[task]
    base, _, offset = status["version"].rpartition("@")

    def sheet(span: Mapping[str, Any]) -> dict[str, Any]:
        systems = {
            system: {name: span[system].get(name) for name in names} for system in ("model", "persistence", "prior")
        }
        return {"labels": span["labels"], "skill_vs_prior": span.get("skill_vs_prior"), **systems}

    segments = [
        {
            "segment": name,
            "value": value,
            "labels": report["overall"]["labels"],
            "window": report["window"]["labels"],
            "figure": report["window"]["model"].get(key),
            "overall": report["overall"]["model"].get(key),
        }
        for name, values in status.get("segments", {}).items()
        for value, report in sorted(values.items(), key=lambda item: -item[1]["overall"]["labels"])
    ]
    return {
        "version": status["version"],
        "base": base,
        "offset": int(offset),
        "size_bytes": status.get("model_size_bytes"),
        "counts": status["counts"],
        "window": sheet(metrics["window"]),
        "overall": sheet(metrics["overall"]),
        "figures": names,
        "segments": segments,
        "drift": status.get("drift"),
        "slots": status.get("slots", {}),
        "trial": status.get("trial"),
        "features": status.get("features", []),
    }


def objectives(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """What was promised, and whether it is kept; `kept` is None while that is not known."""
    return [msgspec.structs.asdict(one) for one in judged]


def budget(labelling: Labelling | None, metas: Sequence[Meta], counts: Mapping[str, int]) -> dict[str, Any] | None:
    """Label requests: allowed, spent, answered, by all partitions together; None where nobody is asked."""
    if labelling is None:
        return None
    states = [meta.labelling.query for meta in metas if meta.labelling is not None]
    found = [budget_of(labelling, state) for state in states]
    day = max((state.day for state in states), default=-1)
    return {
        "per_1000": labelling.per_1000,
        "allowed": sum(allowed for allowed, _ in found),
        "spent": sum(spent for _, spent in found),
        "answered": counts.get("label_requests_answered", 0),
        "per_day": labelling.per_day,
        "today": sum(state.today for state in states if state.day == day),
    }


def labels(counts: Mapping[str, int], learner: Mapping[str, Any] | None) -> dict[str, Any]:
    """How many answers have a label, and when the labels came."""
    timing = {name.removesuffix("_labels"): count for name, count in counts.items() if name.endswith("_labels")}
    learned = learner["counts"].get("learned", 0) if learner else 0
    predictions = counts.get("predictions", 0)
    return {
        "labels": counts.get("labels", 0),
        "learned": learned,
        "predictions": predictions,
        "coverage": coverage_of(counts),
        "timing": dict(sorted(timing.items(), key=lambda item: -item[1])[:12]),
    }


def dead_letters(
    counts: Mapping[str, int], learner: Mapping[str, Any] | None, records: Sequence[Record]
) -> dict[str, Any]:
    """By code, with the newest of each. What the records held is not shown."""
    total: dict[str, int] = {}
    for its in (counts, learner["counts"] if learner else {}):
        for name, count in its.items():
            if name.startswith("dead_letters."):
                code = name.removeprefix("dead_letters.")
                total[code] = total.get(code, 0) + count
    newest: dict[str, dict[str, Any]] = {}
    for record in records:
        about = {
            name.removeprefix(ERROR_HEADER): (value or b"").decode(errors="replace")[:TEXT_MAX]
            for name, value in record.headers or []
            if name.startswith(ERROR_HEADER)
        }
        if "code" in about:
            where = f"{about.get('topic', '?')}-{about.get('partition', '?')}@{about.get('offset', '?')}"
            newest[about["code"]] = {"message": about.get("message", ""), "where": where, "at_ms": record.timestamp_ms}
    codes = sorted(total.keys() | newest.keys(), key=lambda code: -total.get(code, 0))[:30]
    return {
        "count": sum(total.values()),
        "codes": [{"code": code, "count": total.get(code, 0), **newest.get(code, {})} for code in codes],
    }


def predictions(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The newest first, each with its reasons."""
    shown = []
    for record in reversed(records):
        found = _decoded(record, Prediction)
        if found is None:
            continue
        explanation = found.explanation
        answer = str(found.prediction).lower() if isinstance(found.prediction, bool) else found.prediction
        shown.append(
            {
                "event_id": found.event_id[:TEXT_MAX],
                "prediction": answer,
                "probability": (found.probabilities or {}).get(str(answer)),
                "score": found.score,
                "version": found.model.version,
                "slot": found.model.slot,
                "where": f"{found.source.topic}-{found.source.partition}@{found.source.offset}",
                "scale": explanation.scale if explanation else None,
                "bias": explanation.bias if explanation else None,
                "reasons": explanation.contributions[:8] if explanation else [],
                "rest": explanation.rest if explanation else 0.0,
            }
        )
    return shown


def drifts(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Oldest first; no drift twice."""
    found = {drift.drift_id: drift for record in records if (drift := _decoded(record, Drift)) is not None}
    return [
        {
            "drift_id": drift.drift_id,
            "signal": drift.signal,
            "segment": drift.segment,
            "severity": drift.severity,
            "before": drift.before,
            "after": drift.after,
            "from_offset": drift.from_offset,
            "to_offset": drift.to_offset,
            "moved": [{"feature": m.feature, "how": m.how, "shift": m.shift} for m in drift.moved[:3]],
        }
        for drift in found.values()
    ]


def releases(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Oldest first; no record twice."""
    found = {release.release_id: release for record in records if (release := _decoded(record, Release)) is not None}
    return [
        {
            "release_id": release.release_id,
            "action": release.action,
            "base": release.base,
            "parent": release.parent,
            "offset": _offset(release.version),
            "share": release.share,
            "by": release.decided_by,
            "reason": release.reason[:TEXT_MAX],
            "at_ms": release.decided_at_ms,
        }
        for release in found.values()
    ]


def _offset(version: str) -> int:
    offset = version.rpartition("@")[2]
    return int(offset) if offset.isdecimal() else 0


def _decoded(record: Record, kind: Any) -> Any:
    try:
        return msgspec.json.decode(record.value or b"", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # somebody else's record


def course(points: Sequence[Point]) -> dict[str, Any]:
    """In columns, at most 300 of each."""
    shown = thinned(points, POINTS_SHOWN)
    segments: dict[str, dict[str, list[float | None]]] = {}
    for name, value in dict.fromkeys((n, v) for point in shown for n, its in point.segments.items() for v in its):
        segments.setdefault(name, {})[value] = [point.segments.get(name, {}).get(value) for point in shown]
    columns = ("at_ms", "offset", "base", "model", "prior", "persistence", "trial", "per_s", "p50_s", "p99_s")
    return {**{column: [getattr(point, column) for point in shown] for column in columns}, "segments": segments}


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many, evenly spaced in number, the first and the newest among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
