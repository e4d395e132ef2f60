"""Figures of a period: what belongs to it, what is counted once, and what stays unknown."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stream import Labelling, Objectives
from stream.cli.period_page import period_page
from stream.core.evaluating import Evaluation
from stream.core.period_reports import Found, Missing, put_together
from stream.core.periods import PeriodFold, Span, kept_slots, slots_of
from stream.core.records import Record
from stream.messages import DeadLetter, Example, LabelRequest, Served, Source
from tests.support.records import pipeline_of

PIPELINE = pipeline_of(features={"amount": float, "kind": str}, entity_features=[], segments=["kind"])


def example(offset: int, at_ms: int, **changes: Any) -> Record:
    p = 0.9 if offset % 4 == 0 else 0.2
    fields: dict[str, Any] = {
        "event_id": f"e{offset}", "entity_id": "k", "occurred_at_ms": at_ms - 5_000, "event_timestamp_ms": at_ms - 5_000,
        "features": {"amount": 1.0, "kind": "a" if offset % 2 else "b"},
        "served": {"champion": Served(f"aaaa@{offset // 10}", p > 0.5, {"false": 1 - p, "true": p}, None, False, False,
                                      {"false": 0.8, "true": 0.2})},
        "label": offset % 4 == 0, "label_source": "bank", "labelled_at_ms": at_ms, "timing": "on_time", "partition": 0,
        "sequence": offset + 1, "event_source": Source("cards.events", 0, offset),
    }  # fmt: skip
    return Record("examples", 0, offset, at_ms, b"k", msgspec.json.encode(Example(**{**fields, **changes})))


def folded(records: list[Record], span: Span, **arguments: Any) -> PeriodFold:
    fold = PeriodFold(PIPELINE, span, **arguments)
    for record in records:
        fold.add(record)
    return fold


def test_the_whole_is_what_an_evaluation_of_the_same_says_and_slots_are_its_parts():
    records = [example(i, 1_000 * i) for i in range(400)]
    span = slots_of(100_000, 300_000, 100_000, 299_000, 200)
    its = folded(records, span).figures()
    assert its is not None
    assert (its.from_offset, its.to_offset, its.judged, its.labels) == (100, 300, 200, {"on_time": 200})
    whole = Evaluation("binary", 1, PIPELINE.alert_share)
    for record in records[100:300]:
        one = msgspec.json.decode(record.value or b"", type=Example)
        whole.update(one.label, one.served["champion"])
    assert its.quality == whole.report()["overall"]
    assert sum(slot.labels for slot in its.course) == 200
    assert [slot.from_ms for slot in its.course] == sorted({slot.from_ms for slot in its.course})
    assert all(slot.from_ms % span.width_ms == 0 for slot in its.course)
    (model,) = its.models
    assert (model.base, model.answers, model.share, model.first_version, model.last_version) == (
        "aaaa", 200, 1.0, "aaaa@10", "aaaa@29"
    )  # fmt: skip
    assert [(s.segment, s.value, s.labels) for s in its.segments] == [("kind", "b", 100), ("kind", "a", 100)]
    # Of the events that came in [100 s, 300 s), those whose labels came by 305 s and later count, too.
    assert its.given == 200


def test_a_copy_is_counted_once_and_a_reset_begins_anew():
    records = [example(i, 1_000 * i) for i in range(60)]
    again = [msgspec.structs.replace(records[i], offset=60 + i - 40, timestamp_ms=61_000) for i in range(40, 60)]
    after_reset = [example(100 + i, 70_000 + i, sequence=i + 1) for i in range(10)]
    first_again = [msgspec.structs.replace(after_reset[0], offset=120, timestamp_ms=71_000)]
    its = folded([*records, *again, *after_reset, *first_again], slots_of(0, 100_000, 0, 80_000, 100)).figures()
    assert its is not None
    assert (its.judged, its.repeats) == (70, 21)


def test_what_lies_before_the_period_only_tells_copies():
    records = [example(i, 1_000 * i) for i in range(60)]
    copies = [msgspec.structs.replace(records[i], offset=60 + i - 40, timestamp_ms=100_000) for i in range(40, 60)]
    bad = Record("examples", 0, 90, 100_001, b"k", b"no example")
    its = folded([*records, *copies, bad], slots_of(90_000, 110_000, 100_000, 100_001, 21)).figures()
    assert its is not None
    assert (its.judged, its.repeats, its.unreadable, its.labels) == (0, 20, 1, {})
    assert its.quality["model"]["accuracy"] is None


def test_a_slot_with_few_labels_says_nothing():
    span = Span(0, 100_000, 0, 50_000, 2)
    its = folded([example(i, 1_000 * i) for i in range(60)], span).figures()
    assert its is not None
    few = its.course[1]
    assert (few.labels, few.figure, few.skill_vs_prior, few.chance) == (10, None, None, None)
    assert its.course[0].figure == 1.0
    assert its.course[0].chance == pytest.approx(0.26)
    assert kept_slots(its.course, "figure", 0.9, most=False) == (1, 1)


def test_times_of_offsets_that_are_asked_for():
    fold = folded([example(i, 1_000 * i) for i in range(30)], slots_of(0, 10, 0, 0, 1), times_of=[7, 900])
    assert fold.times == {7: 7_000}
    assert fold.figures() is not None


@pytest.mark.parametrize(
    ("hours", "examples", "count"), [(1, 10, 1), (24, 100_000, 48), (24 * 400, 10**6, 58), (0, 0, 1)]
)
def test_slots_are_round_and_not_too_many(hours: int, examples: int, count: int):
    start = 1_767_225_600_000
    span = slots_of(start, start + 10**11, start, start + hours * 3_600_000, examples)
    assert span.count <= 60
    assert span.from_ms <= start
    assert span.from_ms + span.count * span.width_ms > start + hours * 3_600_000
    assert span.count == pytest.approx(count, abs=1)


def test_what_was_not_read_stays_unknown():
    pipeline = pipeline_of(objectives=Objectives(quality=0.5, label_coverage=0.5, latency_p99_ms=100))
    report = put_together(pipeline, slots_of(0, 10, 0, 0, 0), Found(missing=[Missing("everything", "gone")]), 11)
    unknown = (
        report.events,
        report.coverage,
        report.drifts,
        report.releases,
        report.runs,
        report.dead_letters,
        report.requests,
    )
    assert set(unknown) == {None}
    assert [(one.figure, one.kept) for one in report.objectives] == [(None, None)] * 3
    assert msgspec.json.decode(msgspec.json.encode(report))["missing"] == [{"what": "everything", "why": "gone"}]


def test_requests_codes_and_objectives():
    pipeline = pipeline_of(
        features={"amount": float, "kind": str}, entity_features=[], segments=["kind"],
        labelling=Labelling(per_1000=100, per_day=7), objectives=Objectives(quality=0.5, label_delay="2s", label_coverage=0.9),
    )  # fmt: skip
    span = slots_of(0, 86_400_000, 0, 199_000, 200)
    asked = LabelRequest(event_id="e1", features={}, prediction=None, uncertainty=None, reason="r", expires_at_ms=0,
                         strategy="balanced", source=Source("cards.events", 0, 1))  # fmt: skip
    declined = msgspec.structs.replace(asked, declined_by="person:eve")
    about = [DeadLetter(topic="cards.events", partition=0, offset=i, stage="score", code=code, message=f"m{i}")
             for i, code in enumerate(("json_invalid", "json_invalid", "label_type"))]  # fmt: skip
    fold = PeriodFold(pipeline, span)
    for i in range(200):
        fold.add(example(i, 1_000 * i, requested=i < 3))
    found = Found(
        events=250, examples=fold.figures(), requests=[asked, asked, declined], letters=list(enumerate(about))
    )
    report = put_together(pipeline, span, found, 0)
    assert report.requests is not None
    assert msgspec.structs.astuple(report.requests) == (1, 1, 3, {"balanced": 1}, 7)
    assert report.dead_letters is not None
    assert [(one.code, one.count, one.message) for one in report.dead_letters] == [
        ("json_invalid", 2, "m1"),
        ("label_type", 1, "m2"),
    ]
    assert report.coverage == pytest.approx(195 / 250)  # five events came before the period
    kept = {one.name: one.kept for one in report.objectives}
    assert kept == {"average_precision": True, "label_delay_p50_ms": False, "label_coverage": False}


def test_a_promise_over_a_period_is_that_of_all_events_where_people_are_asked():
    """Every fourth was asked at random and right; the others were asked because the answer was likely wrong, and it was."""
    pipeline = pipeline_of(
        features={"amount": float, "kind": str}, entity_features=[], labelling=Labelling(),
        objectives=Objectives(quality=0.5, skill=0.1),
    )  # fmt: skip
    span = slots_of(0, 86_400_000, 0, 399_000, 400)

    def report_of(**changes: Any) -> Any:
        fold = PeriodFold(pipeline, span)
        for i in range(400):
            easy = i % 4 == 0
            p, label = (0.9 if i % 8 else 0.1), (i % 8 != 0) is easy
            served = Served("aaaa@1", p > 0.5, {"false": 1 - p, "true": p}, persistence=i % 3 == 0)
            asked = {"requested": True, "propensity": 0.02 if easy else 1.0} if not changes else changes
            fold.add(example(i, 1_000 * i, label=label, served={"champion": served}, **asked))
        return put_together(pipeline, span, Found(examples=fold.figures()), 0)

    report = report_of()
    weighted = report.examples.unbiased
    assert weighted["overall"]["labels"] == 400
    assert weighted["overall"]["average_precision"] > 0.8 > 0.5 > report.examples.quality["model"]["average_precision"]
    assert [(one.name, one.figure, one.kept, one.basis) for one in report.objectives] == [
        ("average_precision", weighted["overall"]["average_precision"], True, "unbiased.overall"),
        ("skill_vs_persistence", weighted["overall"]["skill_vs_persistence"], True, "unbiased.overall"),
    ]
    assert {one.slots_known for one in report.objectives} == {None}
    page = period_page(report)
    assert "avg. precision, of all events" in page and "weighted by inverse propensity" in page
    by_itself = report_of(requested=False)
    assert [(one.kept, one.basis) for one in by_itself.objectives] == [(False, "quality")] * 2
    assert "of all events" not in period_page(by_itself)
