"""Which drifts are retrained for. Pure: an inbox and what arrived go in, the next inbox and one outcome per drift come out.

An episode begins with the drift that starts a run. For the length of the cool-down no other drift starts one: a change that
lies in examples the run has seen is part of the episode; a later one is suppressed and kept, and starts the next episode when
the cool-down is over. At first there are few labels of the changed world, so the search is repeated ("follow-up") when
more have come since the change point. A run that failed for good is started again ("restart"), a bounded number of times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from stream.lifecycle import Retrain
from stream.messages import Drift

__all__ = ["RESTART_AFTER_MS", "Episode", "Inbox", "Outcome", "TakeUp", "overdue", "settle", "sort_in"]

RECENT_MAX = 64  # drift ids: copies of a message follow each other closely
MINUTE_MS = 60_000
# After its beginning, a run that has ended without an answer is started again: at first soon, in the end after a night.
RESTART_AFTER_MS = (15 * MINUTE_MS, 60 * MINUTE_MS, 240 * MINUTE_MS, 960 * MINUTE_MS)


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """What is being retrained for. `drift` is the newest change in it; offsets count examples of its shard."""

    episode_id: str  # drift_id of the first
    drift: Drift
    run_id: str  # of the last run started for it
    why: Literal["drift", "cool_down_over", "follow_up", "restart"]  # that run was started
    stage: int  # follow-ups begun or already passed: 0 to len(follow_ups)
    covered_to: int  # examples that existed when that run was started
    cool_until_ms: int
    started_ms: int = 0  # when that run was started; 0: not known, it was before this was noted
    restarts: int = 0  # runs started in place of one that failed, since the last that was not
    answered: bool = False  # that run has come to its end: nobody need look again


class Inbox(msgspec.Struct, frozen=True, kw_only=True):
    """All that is stored between two looks at `drifts`. `totals` counts outcomes, and runs by why they were started."""

    next_offset: int = 0  # of `drifts`: everything before has an outcome
    episode: Episode | None = None
    held: Drift | None = None  # the newest of those suppressed
    recent: list[str] = []
    totals: dict[str, int] = {}


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of the record at one offset of `drifts`; each offset gets exactly one."""

    offset: int
    outcome: Literal["retrained", "merged", "suppressed", "unreadable"]
    drift_id: str | None = None
    run_id: str | None = None  # retrained by, or merged into
    until_ms: int | None = None  # suppressed until; then the newest of the suppressed starts a run
    decided_at_ms: int


class TakeUp(msgspec.Struct, frozen=True, kw_only=True):
    """Whether this run goes on, and for which change. `stage`: how many of the follow-ups' label counts are reached."""

    go: bool
    why: Literal["drift", "cool_down_over", "follow_up", "restart", "nothing_new", "given_up", "schedule"]
    drift: Drift | None = None
    from_offset: int | None = None
    stage: int = 0


def sort_in(
    inbox: Inbox,
    arrived: Iterable[tuple[int, Drift | None]],
    next_offset: int,
    *,
    run_id: str,
    ends: Mapping[int, int],
    now_ms: int,
    retrain: Retrain,
) -> tuple[Inbox, list[Outcome]]:
    """Give every arrived record its outcome; None stands for a record that is not a drift of this pipeline.

    Args:
        next_offset: of `drifts`, after the last of them.
        ends: end of the examples' log by shard.
    """
    episode, held, recent = inbox.episode, inbox.held, list(inbox.recent)
    totals = dict(inbox.totals)
    outcomes: list[Outcome] = []
    for offset, drift in arrived:
        outcome: Literal["retrained", "merged", "suppressed", "unreadable"]
        into, until_ms = None, None
        copy = drift is not None and drift.drift_id in recent
        if drift is None:
            outcome = "unreadable"
        elif copy and held is not None and drift.drift_id == held.drift_id and episode is not None:
            outcome, until_ms = "suppressed", episode.cool_until_ms
        elif copy or (episode is not None and episode.run_id == run_id):
            outcome = "merged"
        elif episode is None or now_ms >= episode.cool_until_ms:
            outcome = "retrained"
        elif drift.shard == episode.drift.shard and drift.from_offset < episode.covered_to:
            outcome = "merged"
        else:
            outcome, until_ms = "suppressed", episode.cool_until_ms
            held = drift if held is None or drift.from_offset > held.from_offset else held
        if drift is not None:
            if outcome == "retrained":
                episode, held = _begin(drift, "drift", run_id, ends, now_ms, retrain), None
            elif outcome == "merged" and episode is not None and not copy:
                episode = _merge(episode, drift, retrain)
            if episode is not None and (not copy or drift.drift_id in (episode.episode_id, episode.drift.drift_id)):
                into = episode.run_id if outcome != "suppressed" else None
            recent = recent if copy else [*recent, drift.drift_id][-RECENT_MAX:]
        totals[outcome] = totals.get(outcome, 0) + 1
        outcomes.append(
            Outcome(
                offset=offset,
                outcome=outcome,
                drift_id=drift.drift_id if drift else None,
                run_id=into,
                until_ms=until_ms,
                decided_at_ms=now_ms,
            )
        )
    if episode is not inbox.episode and episode is not None and any(o.outcome == "retrained" for o in outcomes):
        totals["runs.drift"] = totals.get("runs.drift", 0) + 1
    return Inbox(next_offset=next_offset, episode=episode, held=held, recent=recent, totals=totals), outcomes


def overdue(inbox: Inbox, *, run_id: str, now_ms: int) -> Episode | None:
    """The episode, if the run last started for it should have come to an end: then look whether it has left an answer."""
    episode = inbox.episode
    if episode is None or episode.run_id == run_id or not episode.started_ms or episode.answered:
        return None
    tries = len(RESTART_AFTER_MS)
    if episode.restarts > tries:  # given up
        return None
    return episode if now_ms - episode.started_ms >= RESTART_AFTER_MS[min(episode.restarts, tries - 1)] else None


def settle(
    inbox: Inbox, *, run_id: str, ends: Mapping[int, int], now_ms: int, retrain: Retrain, failed: bool | None = None
) -> tuple[Inbox, TakeUp]:
    """After all that arrived is sorted in: does this run go on? A run that was let go is let go again.

    Args:
        failed: the run of the `overdue` episode is over and has left no answer. This one takes its place. False: it has left
            one, which is noted, for answers are not kept for ever. None: it is not overdue.
    """
    episode = inbox.episode
    if episode is not None and failed is False:
        episode = msgspec.structs.replace(episode, answered=True)
        inbox = msgspec.structs.replace(inbox, episode=episode)
    if episode is not None and episode.run_id != run_id:
        end = ends.get(episode.drift.shard, 0)
        stage = _stage(episode.drift, end, retrain)
        if inbox.held is not None and now_ms >= episode.cool_until_ms:
            episode = _begin(inbox.held, "cool_down_over", run_id, ends, now_ms, retrain)
            inbox = _with(inbox, episode, held=None)
        elif stage > episode.stage:
            episode = msgspec.structs.replace(
                episode,
                run_id=run_id,
                why="follow_up",
                stage=stage,
                covered_to=end,
                started_ms=now_ms,
                restarts=0,
                answered=False,
            )
            inbox = _with(inbox, episode, held=inbox.held)
        elif failed:
            restarts = episode.restarts + 1
            if restarts > len(RESTART_AFTER_MS):
                totals = {**inbox.totals, "given_up": inbox.totals.get("given_up", 0) + 1}
                episode = msgspec.structs.replace(episode, restarts=restarts)
                inbox = msgspec.structs.replace(inbox, episode=episode, totals=totals)
                return inbox, TakeUp(go=False, why="given_up", drift=episode.drift)
            episode = msgspec.structs.replace(
                episode, run_id=run_id, why="restart", covered_to=end, started_ms=now_ms, restarts=restarts
            )
            inbox = _with(inbox, episode, held=inbox.held)
    if episode is None or episode.run_id != run_id:
        return inbox, TakeUp(go=False, why="nothing_new")
    return inbox, TakeUp(
        go=True, why=episode.why, drift=episode.drift, from_offset=episode.drift.from_offset, stage=episode.stage
    )


def _begin(
    drift: Drift,
    why: Literal["drift", "cool_down_over"],
    run_id: str,
    ends: Mapping[int, int],
    now_ms: int,
    retrain: Retrain,
) -> Episode:
    end = ends.get(drift.shard, drift.to_offset)
    return Episode(
        episode_id=drift.drift_id,
        drift=drift,
        run_id=run_id,
        why=why,
        stage=_stage(drift, end, retrain),
        covered_to=end,
        cool_until_ms=now_ms + retrain.cool_down_ms,
        started_ms=now_ms,
    )


def _merge(episode: Episode, drift: Drift, retrain: Retrain) -> Episode:
    """The newest change counts: models learn from it on, and labels are counted from it on."""
    if drift.shard != episode.drift.shard or drift.from_offset <= episode.drift.from_offset:
        return episode
    return msgspec.structs.replace(episode, drift=drift, stage=_stage(drift, episode.covered_to, retrain))


def _stage(drift: Drift, end: int, retrain: Retrain) -> int:
    return sum(end - drift.from_offset >= count for count in retrain.follow_ups)


def _with(inbox: Inbox, episode: Episode, held: Drift | None) -> Inbox:
    key = f"runs.{episode.why}"
    totals = {**inbox.totals, key: inbox.totals.get(key, 0) + 1}
    return msgspec.structs.replace(inbox, episode=episode, held=held, totals=totals)
