"""What to do about a pipeline's tasks in Label Studio, given what is there and what is open. Pure.

The project itself says which tasks there are: a task carries its request, so one whose import was never confirmed is found
again, and one that was deleted is made again. Answers are put where those of forms are (`core.annotating`); an answer to a
request that is closed already goes out as one more label, which the rules for labels take for a duplicate, a contradiction
or a late one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from stream.core.annotating import (
    CLAIMS_MAX,
    STUDIO,
    Annotations,
    Asked,
    Claim,
    Given,
    Verdict,
    put,
    revise,
    verdict,
)
from stream.core.studio_tasks import Response, StudioTask

__all__ = ["Later", "Plan", "plan_exchange", "remember"]

HOLD_MS = 3_600_000  # so long after the last exchange requests are not asked about elsewhere
IMPORT_MS = 600_000  # an import may be under way for so long
SEEN_MAX = 2_000

Understand = Callable[[StudioTask, Response], Given | str]


class Later(NamedTuple):
    """An answer to a request that is closed."""

    task: StudioTask
    given: Given


class Plan(NamedTuple):
    """`unfit`: (task, why) of answers that were not taken. `widen`: tasks that one more person must see, and how many in all."""

    ask: list[str]
    verdicts: list[tuple[str, Verdict]]
    later: list[Later]
    close: list[int]
    widen: list[tuple[int, int]]
    unfit: list[tuple[int, str]]
    seen: dict[str, str]


def plan_exchange(
    state: Annotations,
    open_events: Sequence[str],
    tasks: Iterable[StudioTask],
    gone: Collection[str],
    understand: Understand,
    *,
    annotators: int,
    now_ms: int,
) -> Plan:
    """Changes `state`: answers are put in, what is neither open nor claimed is forgotten.

    Args:
        open_events: read after `state` and `tasks` were.
        tasks: all without an answer, and those that changed since the cursor.
        gone: events whose tasks were deleted there.
        understand: a label or "cannot tell" as it counts, or why it does not.
    """
    wanted = frozenset(open_events)
    _forget(state, wanted, gone, now_ms)
    by_event: dict[str, list[StudioTask]] = {}
    for task in sorted(tasks, key=lambda one: one.number):
        by_event.setdefault(task.event, []).append(task)
    plan = Plan([], [], [], [], [], [], {})
    for event, its in by_event.items():
        for task in its:
            _take(state, plan, task, understand, annotators, is_open=event in wanted)
        keep = its[0].number if event in wanted else None
        if keep is not None:
            asked = state.events.setdefault(event, Asked())
            asked.task = keep
            asked.claims = [claim for claim in asked.claims if claim.run != STUDIO]
            asked.claims = [*asked.claims, Claim(STUDIO, keep, now_ms + HOLD_MS)]
            if verdict(asked, annotators) is None:
                # Whoever wrote what does not count, or differs, has used up one of the places.
                counted, given = len({one.by for one in asked.answers}), sum(map(_counts, its[0].responses))
                places = given + max(annotators - counted, 1)
                if places > max(its[0].overlap, annotators):
                    plan.widen.append((keep, places))
        plan.close.extend(task.number for task in its if task.number != keep and not _answered(task))
    for event, asked in state.events.items():
        decided = verdict(asked, annotators)
        if decided is not None and event in wanted:
            plan.verdicts.append((event, decided))
    _ask(state, plan, open_events, by_event, annotators, now_ms)
    return plan


def _forget(state: Annotations, wanted: frozenset[str], gone: Collection[str], now_ms: int) -> None:
    for event, asked in list(state.events.items()):
        asked.claims = [claim for claim in asked.claims if claim.until_ms > now_ms]
        if event not in wanted or event in gone:
            asked.task = None
            asked.claims = [claim for claim in asked.claims if claim.run != STUDIO]
        if event not in wanted and not asked.claims:
            del state.events[event]


def _take(
    state: Annotations, plan: Plan, task: StudioTask, understand: Understand, annotators: int, *, is_open: bool
) -> None:
    for response in task.responses:
        name = str(response.annotation)
        if state.studio.seen.get(name) == response.at:
            continue
        plan.seen[name] = response.at
        if response.kind == "skipped":
            continue
        given = understand(task, response)
        if isinstance(given, str):
            plan.unfit.append((task.number, given))
        elif is_open:
            if not revise(state, task.event, given):
                put(state, task.event, given, annotators=annotators)
        elif annotators == 1 and given.label is not None:
            plan.later.append(Later(task, given))


def _ask(
    state: Annotations,
    plan: Plan,
    open_events: Sequence[str],
    by_event: dict[str, list[StudioTask]],
    annotators: int,
    now_ms: int,
) -> None:
    free = CLAIMS_MAX - sum(len(asked.claims) for asked in state.events.values())
    for event in open_events:
        asked = state.events.get(event) or Asked()
        if event in by_event or asked.task is not None or asked.claims or verdict(asked, annotators) is not None:
            continue
        if len(plan.ask) >= free:
            return
        asked.claims = [Claim(STUDIO, 0, now_ms + IMPORT_MS)]
        state.events[event] = asked
        plan.ask.append(event)


def remember(state: Annotations, seen: dict[str, str], cursor: str) -> None:
    """After everything of a plan was done."""
    kept = {**{name: at for name, at in state.studio.seen.items() if name not in seen}, **seen}
    state.studio.seen = dict(list(kept.items())[-SEEN_MAX:])
    state.studio.cursor = max(state.studio.cursor, cursor)


def _answered(task: StudioTask) -> bool:
    return any(map(_counts, task.responses))


def _counts(response: Response) -> bool:
    """A skip is no answer."""
    return response.kind != "skipped"
