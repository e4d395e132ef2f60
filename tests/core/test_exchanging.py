"""What becomes of tasks and answers in Label Studio, without a server."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from stream.core.annotating import Annotations, Claim, Given, take
from stream.core.exchanging import HOLD_MS, IMPORT_MS, SEEN_MAX, Plan, plan_exchange, remember
from stream.core.studio_tasks import Response, StudioTask, label_config, read_task


def understand(task: StudioTask, response: Response) -> Given | str:
    return Given(f"label-studio:{response.annotation}", f"person:{response.user}", response.text or None)


def plan(
    state: Annotations,
    wanted: list[str],
    *tasks: StudioTask,
    gone: tuple[str, ...] = (),
    annotators: int = 1,
    now: int = 0,
) -> Plan:
    return plan_exchange(state, wanted, tasks, gone, understand, annotators=annotators, now_ms=now)


def task(number: int, event: str, *texts: str) -> StudioTask:
    responses = [Response(100 * number + at, at, f"t{number}{at}", "label", text) for at, text in enumerate(texts)]
    return StudioTask(number, event, b"k", responses)


def test_an_import_that_was_never_confirmed_is_found_again_or_made_again_later():
    state = Annotations()
    assert plan(state, ["0/a", "0/b"]).ask == ["0/a", "0/b"]
    assert plan(state, ["0/a", "0/b"], now=IMPORT_MS - 1).ask == []
    found = plan(state, ["0/a", "0/b"], task(1, "0/a"), now=IMPORT_MS)
    assert found.ask == ["0/b"]
    assert plan(state, ["0/a", "0/b"], task(1, "0/a"), task(2, "0/b"), now=10 * IMPORT_MS).ask == []
    assert state.events["0/a"].task == 1


def test_what_is_in_a_form_is_not_asked_there_and_what_is_there_gets_no_form():
    state = Annotations()
    take(state, ["0/a"], "run", limit=9, annotators=2, now_ms=0, until_ms=100)
    assert plan(state, ["0/a", "0/b"]).ask == ["0/b"]
    assert take(state, ["0/a", "0/b"], "next", limit=9, annotators=2, now_ms=1, until_ms=100) == []
    # Label Studio was given up: after an hour forms ask.
    plan(state, ["0/a", "0/b"], task(1, "0/b"), now=1)
    taken = take(state, ["0/b"], "later", limit=9, annotators=1, now_ms=HOLD_MS + 2, until_ms=HOLD_MS + 100)
    assert [event for event, _ in taken] == ["0/b"]


def test_of_two_tasks_about_one_event_the_first_stays_and_an_answer_to_either_counts():
    state = Annotations()
    found = plan(state, ["0/a"], task(2, "0/a"), task(1, "0/a"))
    assert found.close == [2]
    found = plan(state, ["0/a"], task(1, "0/a"), task(2, "0/a", "x"))
    assert [decided.label for _, decided in found.verdicts] == ["x"]
    assert found.close == []  # an answered task is never removed


def test_answers_to_closed_requests_go_out_once_and_only_where_one_annotator_is_enough():
    state = Annotations()
    late = task(1, "3/a/b", "x")
    first = plan(state, [], late)
    (its,) = first.later
    assert (its.task.partition, its.task.event_id, its.given.label) == (3, "a/b", "x")
    assert plan(state, [], late).later  # nothing was remembered: it may not have been sent
    remember(state, first.seen, "2026-01-01T00:00:00.000000Z")
    assert plan(state, [], late).later == []
    changed = late._replace(responses=[late.responses[0]._replace(at="later", text="y")])
    assert [its.given.label for its in plan(state, [], changed).later] == ["y"]
    assert plan(Annotations(), [], late, annotators=2).later == []


def test_what_is_remembered_is_bounded_and_the_cursor_never_goes_back():
    state = Annotations()
    remember(state, {str(number): "t" for number in range(SEEN_MAX + 5)}, "2026-01-02")
    remember(state, {"new": "t"}, "2026-01-01")
    assert len(state.studio.seen) == SEEN_MAX
    assert "new" in state.studio.seen
    assert state.studio.cursor == "2026-01-02"


def test_deleted_tasks_are_asked_about_again_and_a_claim_of_somebody_else_stays():
    state = Annotations()
    plan(state, ["0/a"], task(1, "0/a"))
    state.events["0/a"].claims.append(Claim("run", 0, 10**9))
    assert plan(state, ["0/a"], gone=("0/a",)).ask == []  # a form is open
    assert [claim.run for claim in state.events["0/a"].claims] == ["run"]
    state.events["0/a"].claims.clear()
    assert plan(state, ["0/a"]).ask == ["0/a"]


@pytest.mark.parametrize(
    ("result", "kind", "text"),
    [
        ([("label", {"choices": ["true"]})], "label", "true"),
        ([("label", {"number": 0})], "label", "0"),
        ([("label", {"text": ["some class"]})], "label", "some class"),
        ([("label", {"choices": ["true"]}), ("cannot_tell", {"choices": ["cannot tell"]})], "cannot_tell", ""),
        ([("cannot_tell", {"choices": []})], "unfit", ""),
        ([("label", {"choices": ["true", "false"]})], "unfit", ""),
        ([("label", {})], "unfit", ""),
        ([("somebody's own", {"choices": ["x"]})], "unfit", ""),
    ],
)
def test_what_people_said_is_read(result: list[tuple[str, dict[str, Any]]], kind: str, text: str):
    annotation = {
        "id": 1, "completed_by": {"id": 7}, "created_at": "t", "result": [{"from_name": n, "value": v} for n, v in result]
    }  # fmt: skip
    found = read_task({"id": 5, "data": {"request": "0/e", "key": "aw=="}, "annotations": [annotation]})
    assert found is not None
    assert found.responses == [Response(1, 7, "t", kind, text)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data", [{}, {"request": "0/e"}, {"request": "x/e", "key": ""}, {"request": "0/e", "key": "é"}, [1]]
)
def test_tasks_of_others_are_none_of_ours(data: Any):
    assert read_task({"id": 1, "data": data, "annotations": []}) is None


def test_class_names_are_text_in_the_label_config():
    names = ['<View> & "x"', "cannot tell", "b"]
    root = ElementTree.fromstring(label_config("multiclass", names))
    assert [choice.attrib["value"] for choice in root.findall("./Choices[@name='label']/Choice")] == names
    assert root.find("./Number") is None
    assert ElementTree.fromstring(label_config("regression", [])).find("./Number") is not None
