"""Which drift starts a run, and what becomes of the others."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from stream.core.episodes import RESTART_AFTER_MS, Inbox, Outcome, TakeUp, overdue, settle, sort_in
from stream.lifecycle import Retrain
from stream.messages import Drift

HOUR_MS = 3_600_000
RETRAIN = Retrain(cool_down="6h", follow_ups=(500, 1_500, 4_000))


def drift(number: int, from_offset: int, shard: int = 0) -> Drift:
    return Drift(
        drift_id=f"d{number}", pipeline="cards", shard=shard, signal="error", detector="x", severity=1.0,
        examples_topic="cards.examples", from_offset=from_offset, to_offset=from_offset + 100, detected_at_ms=0,
    )  # fmt: skip


class Taker:
    """One inbox through several runs."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.outcomes: list[Outcome] = []

    def take(
        self, run_id: str, arrived: list[Drift | None], end: int, now_ms: int = 0, *, failed: bool | None = None
    ) -> TakeUp:
        offset = self.inbox.next_offset
        records = list(enumerate(arrived, offset))
        ends = {0: end, 1: end}
        self.inbox, outcomes = sort_in(
            self.inbox, records, offset + len(records), run_id=run_id, ends=ends, now_ms=now_ms, retrain=RETRAIN
        )
        self.outcomes += outcomes
        late = overdue(self.inbox, run_id=run_id, now_ms=now_ms) is not None
        self.inbox, answer = settle(
            self.inbox, run_id=run_id, ends=ends, now_ms=now_ms, retrain=RETRAIN, failed=failed if late else None
        )
        return answer

    def said(self) -> list[str]:
        return [outcome.outcome for outcome in self.outcomes]


def test_the_first_drift_starts_a_run_and_a_retry_gets_the_same_answer():
    taker = Taker()
    answer = taker.take("r1", [drift(1, 1_000)], end=1_100)
    assert (answer.go, answer.why, answer.from_offset, answer.stage) == (True, "drift", 1_000, 0)
    assert taker.take("r1", [], end=9_000) == answer
    assert taker.take("r2", [], end=1_200).go is False
    assert taker.outcomes == [Outcome(offset=0, outcome="retrained", drift_id="d1", run_id="r1", decided_at_ms=0)]


def test_a_drift_in_what_the_run_has_seen_belongs_to_the_episode_and_moves_its_change_point():
    taker = Taker()
    taker.take("r1", [drift(1, 1_000), drift(2, 1_050)], end=1_100)
    assert taker.said() == ["retrained", "merged"]
    assert not taker.take("r2", [drift(3, 1_090)], end=1_300, now_ms=1).go
    assert taker.said()[2:] == ["merged"]
    assert taker.outcomes[2].run_id == "r1"
    answer = taker.take("r3", [], end=1_590, now_ms=2)  # 500 after the newest change
    assert (answer.why, answer.from_offset, answer.stage) == ("follow_up", 1_090, 1)


def test_a_later_drift_is_suppressed_until_the_cool_down_is_over_and_is_not_forgotten():
    taker = Taker()
    taker.take("r1", [drift(1, 1_000)], end=1_100)
    assert not taker.take("r2", [drift(2, 1_200), drift(3, 1_300)], end=1_400, now_ms=HOUR_MS).go
    assert taker.said() == ["retrained", "suppressed", "suppressed"]
    assert {outcome.until_ms for outcome in taker.outcomes[1:]} == {6 * HOUR_MS}
    assert not taker.take("r3", [], end=1_450, now_ms=6 * HOUR_MS - 1).go
    answer = taker.take("r4", [], end=1_450, now_ms=6 * HOUR_MS)
    assert (answer.why, answer.from_offset) == ("cool_down_over", 1_300)
    assert not taker.take("r5", [], end=1_450, now_ms=13 * HOUR_MS).go


def test_follow_ups_come_in_the_cool_down_and_once_each():
    taker = Taker()
    taker.take("r0", [drift(1, 1_000)], end=1_100)
    stages = [taker.take(f"r{end}", [], end=end).stage for end in (1_499, 1_500, 1_600, 2_500, 2_600, 5_000, 9_000)]
    assert stages == [0, 1, 0, 2, 0, 3, 0]
    assert taker.inbox.totals == {"retrained": 1, "runs.drift": 1, "runs.follow_up": 3}


def test_a_drift_that_came_late_begins_where_its_labels_are():
    taker = Taker()
    assert taker.take("r1", [drift(1, 1_000)], end=2_700).stage == 2
    assert taker.take("r2", [], end=4_999).go is False
    assert taker.take("r3", [], end=5_000).stage == 3


def test_what_is_no_drift_of_this_pipeline_has_an_outcome_too():
    taker = Taker()
    assert not taker.take("r1", [None], end=0).go
    assert taker.said() == ["unreadable"]


def test_copies_of_a_message_start_nothing():
    taker = Taker()
    taker.take("r1", [drift(1, 1_000)], end=1_100)
    taker.take("r2", [drift(1, 1_000)], end=2_000, now_ms=7 * HOUR_MS)
    assert taker.said() == ["retrained", "merged"]


def test_a_copy_of_a_suppressed_drift_leaves_the_running_episode_as_it_is():
    taker = Taker()
    taker.take("r1", [drift(1, 1_000)], end=1_100)
    taker.take("r2", [drift(2, 1_200), drift(3, 1_300)], end=1_400, now_ms=1)
    episode = taker.inbox.episode
    assert not taker.take("r3", [drift(3, 1_300), drift(2, 1_200)], end=1_490, now_ms=2).go
    assert taker.inbox.episode == episode
    assert taker.said()[3:] == ["suppressed", "merged"]
    assert (taker.outcomes[3].until_ms, taker.outcomes[4].run_id) == (6 * HOUR_MS, None)
    answer = taker.take("r4", [drift(2, 1_200)], end=1_700, now_ms=6 * HOUR_MS)
    assert (answer.why, answer.from_offset) == ("cool_down_over", 1_300)


def test_a_run_that_left_no_answer_is_started_again_a_bounded_number_of_times_ever_later():
    taker, minute_ms = Taker(), 60_000
    taker.take("r0", [drift(1, 1_000)], end=1_100, now_ms=1)
    assert not taker.take("r1", [], end=1_100, now_ms=15 * minute_ms, failed=True).go
    assert not taker.take("r1", [], end=1_100, now_ms=16 * minute_ms).go  # it has an answer
    began: list[int] = []
    for minute in range(1, 3_000):
        answer = taker.take(f"m{minute}", [], end=1_100, now_ms=1 + minute * minute_ms, failed=True)
        if answer.go:
            began.append(minute)
            assert (answer.why, answer.from_offset, answer.stage) == ("restart", 1_000, 0)
            assert taker.take(f"m{minute}", [], end=1_200, now_ms=2 + minute * minute_ms) == answer
    assert began == [15, 15 + 60, 15 + 60 + 240, 15 + 60 + 240 + 960]
    assert taker.inbox.totals == {"retrained": 1, "runs.drift": 1, "runs.restart": 4, "given_up": 1}


def test_a_run_that_has_answered_is_not_started_again_though_its_answer_be_gone_later():
    taker = Taker()
    taker.take("r0", [drift(1, 1_000)], end=1_100)
    assert taker.take("r1", [], end=1_100, now_ms=RESTART_AFTER_MS[0], failed=False).go is False
    assert taker.take("r2", [], end=1_100, now_ms=1_000 * RESTART_AFTER_MS[-1], failed=True).why == "nothing_new"
    follow_up = taker.take("r3", [], end=1_000 + RETRAIN.follow_ups[0], now_ms=1_001 * RESTART_AFTER_MS[-1])
    assert follow_up.why == "follow_up"  # which may fail, too
    late_ms = 1_001 * RESTART_AFTER_MS[-1] + RESTART_AFTER_MS[0]
    assert taker.take("r4", [], end=1_000 + RETRAIN.follow_ups[0], now_ms=late_ms, failed=True).why == "restart"


def test_a_follow_up_or_a_kept_drift_goes_before_a_restart_and_may_be_restarted_itself():
    taker, late_ms = Taker(), RESTART_AFTER_MS[0]
    taker.take("r0", [drift(1, 1_000)], end=1_100, now_ms=1)
    assert taker.take("r1", [], end=1_100, now_ms=1 + late_ms, failed=True).why == "restart"
    assert taker.take("r2", [], end=1_500, now_ms=2 + late_ms, failed=True).why == "follow_up"
    answer = taker.take("r3", [], end=1_500, now_ms=2 + 2 * late_ms, failed=True)
    assert (answer.why, answer.stage) == ("restart", 1)
    taker.take("r4", [drift(2, 1_600)], end=1_600, now_ms=3 + 2 * late_ms)
    assert taker.take("r5", [], end=1_600, now_ms=1 + 6 * HOUR_MS, failed=True).why == "cool_down_over"


STEPS = st.lists(
    st.tuples(
        st.lists(st.one_of(st.none(), st.builds(drift, st.integers(0, 500), st.integers(0, 5_000), st.integers(0, 1))), max_size=6),
        st.integers(0, 4 * HOUR_MS),
        st.booleans(),
        st.booleans(),
    ),
    max_size=30,
)  # fmt: skip


@given(STEPS)
def test_each_offset_has_one_outcome_and_the_cool_down_holds(
    steps: list[tuple[list[Drift | None], int, bool, bool]],
):
    taker, now_ms, end = Taker(), 0, 5_000
    started: list[int] = []
    for number, (arrived, wait_ms, retried, failed) in enumerate(steps):
        now_ms, end = now_ms + wait_ms, end + 100
        answer = taker.take(f"r{number}", arrived, end, now_ms, failed=failed)
        if answer.go and answer.why not in ("follow_up", "restart"):
            started.append(now_ms)
        if retried:
            assert taker.take(f"r{number}", [], end + 7, now_ms + 1).go or not answer.go
    assert [outcome.offset for outcome in taker.outcomes] == list(range(sum(len(arrived) for arrived, *_ in steps)))
    assert all(b - a >= 6 * HOUR_MS for a, b in pairwise(started))
    assert sum(taker.inbox.totals.get(k, 0) for k in ("retrained", "merged", "suppressed", "unreadable")) == len(
        taker.outcomes
    )
