"""Who was the champion when, as the records on `releases` say."""

from __future__ import annotations

from typing import Any

import pytest

from stream.cli.releases import reigns_at, release_text
from stream.messages import Release

DAY = 86_400_000
JANUARY_2 = 1_767_312_000_000  # 2026-01-02T00:00 UTC


def record(action: Any, base: str, at_ms: int, parent: str | None = None) -> Release:
    return Release(
        release_id=base, pipeline="cards", action=action, base=base, version=f"{base}@1", parent=parent, decided_by="x",
        decided_at_ms=at_ms,
    )  # fmt: skip


def champions(releases: list[Release], at: str) -> list[str]:
    return [base for base, _, _ in reigns_at(releases, at)]


HISTORY = [
    record("started", "a", JANUARY_2 - DAY),
    record("released", "b", JANUARY_2 - 10),
    record("promoted", "b", JANUARY_2 + 1_000, "a"),
    record("rolled_back", "b", JANUARY_2 + 5_000, "a"),
    record("promoted", "c", JANUARY_2 + 2 * DAY, "a"),
]


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2025-12-31T23:59", []),
        ("2026-01-02T00:00", ["a"]),
        ("2026-01-02T00:00:01", ["b"]),
        ("2026-01-02T01:00:01+01:00", ["b"]),
        ("2026-01-02T00:00:06", ["a"]),
        ("2026-01-02", ["a", "b", "a"]),
        ("20260102", ["a", "b", "a"]),
        ("2026-01-03", ["a"]),
        ("2026-01-04", ["c"]),
        ("9999-12-31", ["c"]),
        ("0001-01-01", []),
    ],
)
def test_at_a_moment_there_is_one_champion_and_on_a_day_there_may_be_more(at: str, expected: list[str]):
    assert champions(HISTORY, at) == expected


def test_the_logs_order_counts_where_clocks_do_not_agree():
    """A learner that works off a backlog decides by examples of yesterday."""
    late = [record("started", "a", JANUARY_2), record("promoted", "b", JANUARY_2 - DAY, "a")]
    assert champions(late, "2026-01-01T12:00") == []
    assert champions(late, "2026-01-02T00:00") == ["b"]


def test_a_moment_that_no_calendar_has_is_shown_all_the_same():
    assert "1000000000000000000 ms" in release_text(record("promoted", "b", 10**18)).plain
