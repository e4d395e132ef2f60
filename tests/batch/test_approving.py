"""What becomes of a candidate that a person was asked about."""

from __future__ import annotations

from typing import Any

import pytest

from stream.batch import retraining as steps
from tests.support.retraining import Retraining

CANDIDATE = {"base": "b", "parent": "a"}
VERDICT = {"why": "better", "figures": {"gain": 0.1}}
SOMEBODY = {"chosen_options": ["Release"], "responded_by_user": {"id": "7", "name": "ada"}, "timedout": False}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("approval", "by", "why"),
    [
        (None, "run:run-1", "better"),
        (SOMEBODY, "person:ada for run:run-1", "better"),
        ({**SOMEBODY, "responded_by_user": {"id": "7", "name": None}}, "person:7 for run:run-1", "better"),
        ({**SOMEBODY, "responded_by_user": None}, "person:somebody unnamed for run:run-1", "better"),
        ({**SOMEBODY, "chosen_options": ["Reject"]}, None, "rejected by ada"),
        ({**SOMEBODY, "chosen_options": ["Reject"], "responded_by_user": {"id": "7"}}, None, "rejected by 7"),
        ({**SOMEBODY, "chosen_options": ["Reject"], "responded_by_user": {}}, None, "rejected by somebody unnamed"),
        (
            {"chosen_options": ["Reject"], "responded_by_user": None, "timedout": True},
            None,
            "rejected by time-out",
        ),
        ({}, None, "rejected by somebody unnamed"),
    ],
)
def test_who_decided_is_told_and_only_yes_is_yes(
    retraining: Retraining, monkeypatch: pytest.MonkeyPatch, approval: Any, by: str | None, why: str
):
    retraining.load()
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(steps.releasing, "release", lambda *_, **arguments: asked.append(arguments))
    answer = steps.release(
        retraining.settings, retraining.loaded, run_id="run-1", candidate=CANDIDATE, verdict=VERDICT, approval=approval
    )
    assert answer == {"released": by is not None, "base": "b", "why": why}
    assert [one["by"] for one in asked] == ([by] if by else [])
    assert all(one["parent"] == "a" for one in asked)
