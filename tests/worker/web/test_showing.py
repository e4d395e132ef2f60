"""What the page is given."""

from __future__ import annotations

import msgspec

from stream.core.objectives import Judged
from stream.core.records import Record
from stream.core.remembering import LabellingState, Meta, QueryState
from stream.lifecycle import Labelling
from stream.worker.telemetry import STALE_MS, PartitionReport, Point, Report, age_p99_ms, merged
from stream.worker.web import showing
from stream.worker.web.gathering import _fairly


def report(worker: str = "a", role: str = "score", at_ms: int = 0, **partitions: PartitionReport) -> Report:
    owned = {int(name.removeprefix("p")): its for name, its in partitions.items()}
    return Report(worker=worker, role=role, at_ms=at_ms, started_at_ms=0, partitions=owned)


def test_a_long_course_is_thinned_out_and_keeps_its_ends():
    points = [Point(at_ms=i, offset=i, base="b", model=i / 2_000, segments={"s": {"x": 0.5}}) for i in range(2_000)]
    course = showing.course(points)
    assert len(course["offset"]) == showing.POINTS_SHOWN
    assert (course["offset"][0], course["offset"][-1]) == (0, 1_999)
    assert course["offset"] == sorted(set(course["offset"]))
    assert len(course["segments"]["s"]["x"]) == showing.POINTS_SHOWN
    assert len(msgspec.json.encode(course)) < 60_000


def test_a_segment_that_came_later_has_gaps_before():
    points = [Point(at_ms=i, offset=i, base="b", segments={"s": {"x": 0.5}} if i else {}) for i in range(2)]
    assert showing.course(points)["segments"] == {"s": {"x": [None, 0.5]}}


def test_a_partition_that_nobody_owns_still_shows_its_lag():
    metas = [Meta(offsets={"events": 70, "labels": 5}), Meta()]
    ends = {"events": {0: 100, 1: 40}, "labels": {0: 5, 1: 0}}
    flow = showing.flow([report(p0=PartitionReport(10.0, [0, 3, 1]))], metas, ends, {("events", 1): 30}, None)
    assert [row["lag_events"] for row in flow["partitions"]] == [30, 10]
    assert [row["worker"] for row in flow["partitions"]] == ["a", None]
    assert (flow["lag_events"], flow["per_s"], flow["partitions"][1]["latency"]) == (40, 10.0, None)


def test_reports_of_the_silent_are_left_out_and_of_the_long_silent_dropped():
    now_ms = 100 * STALE_MS
    stored = {
        "alive": msgspec.json.encode(report("alive", at_ms=now_ms - 1)),
        "silent": msgspec.json.encode(report("silent", at_ms=now_ms - 2 * STALE_MS)),
        "gone": msgspec.json.encode(report("gone", at_ms=now_ms - 7 * STALE_MS)),
        "damaged": b"\xff",
    }
    alive, gone = merged(stored, now_ms)
    assert [its.worker for its in alive] == ["alive"]
    assert gone == ["gone", "damaged"]


def test_the_budget_is_that_of_all_partitions_and_of_the_newest_day():
    def meta(events: int, asked: int, day: int, today: int) -> Meta:
        return Meta(labelling=LabellingState(query=QueryState(events=events, asked=asked, day=day, today=today)))

    metas = [meta(1_000, 9, 20, 4), meta(500, 3, 19, 3), Meta()]
    shown = showing.budget(Labelling(per_1000=10, per_day=50), metas, {"label_requests_answered": 7})
    assert shown is not None
    assert (shown["allowed"], shown["spent"], shown["answered"]) == (15.0, 12, 7)
    assert (shown["today"], shown["per_day"]) == (4, 50)  # the other partition's day is over
    assert showing.budget(None, metas, {}) is None
    empty = showing.budget(Labelling(), [], {})
    assert empty is not None and (empty["allowed"], empty["spent"], empty["per_day"]) == (0, 0, None)


def test_an_objective_that_is_not_known_is_neither_kept_nor_broken():
    shown = showing.objectives([Judged("label_coverage", "at least 0.5", None, None, 0.5)])
    plain = {"name": "label_coverage", "wanted": "at least 0.5", "target": 0.5, "now": None, "kept": None}
    assert shown == [{**plain, "basis": ""}]


def test_the_age_is_that_of_all_scorers():
    slow, fast = [0] * 5 + [2], [100]
    reports = [report(p0=PartitionReport(1.0, [], slow)), report("b", p1=PartitionReport(1.0, [], fast + [0] * 5))]
    found = age_p99_ms(reports)
    assert found is not None and 5 < found <= 7  # 2 of 102 took 5 to 7 ms
    assert age_p99_ms([]) is None
    assert age_p99_ms([report("c", role="learn", p0=PartitionReport(1.0, [], slow))]) is None


def test_of_every_partition_as_many_records_are_shown():
    records = [Record("predictions", p, offset, 100 * p + offset, None, b"") for p in range(3) for offset in range(12)]
    shown = _fairly(records, 6)
    assert sorted((r.partition, r.offset) for r in shown) == [(p, o) for p in range(3) for o in (10, 11)]
