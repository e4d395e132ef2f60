"""Who is asked for which label, what was answered, and when that is enough. Pure: time and texts come from outside.

A claim is one form for one person. An event has as many live claims as it needs answers, so nothing is asked twice; what
was answered stays until the label lies on Kafka, so nothing is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

import msgspec

from stream.core.label_sources import together
from stream.messages import LabelValue

__all__ = [
    "Agreement",
    "Annotations",
    "Asked",
    "Claim",
    "Given",
    "Studio",
    "Verdict",
    "agreement",
    "give_back",
    "put",
    "take",
    "verdict",
]

CLAIMS_MAX = 1_000  # live ones of a pipeline
STUDIO = "label-studio"  # the run of a claim that stands for a task there
PAIRS_MAX = 500  # of the last items with two answers, for the agreement
CANNOT_TELL = "(cannot tell)"
DISAGREE = "annotators disagree"


class Claim(msgspec.Struct):
    run: str
    number: int
    until_ms: int

    @property
    def name(self) -> str:
        return f"{self.run}#{self.number}"


class Given(msgspec.Struct):
    """`label` None: cannot tell. `by`: a source, `person:<name>`."""

    claim: str
    by: str
    label: LabelValue | None


class Asked(msgspec.Struct):
    """All about one event. `remark`: for whoever is asked next. `task`: its number in Label Studio, if it is there."""

    claims: list[Claim] = []
    answers: list[Given] = []
    remark: str = ""
    task: int | None = None


class Studio(msgspec.Struct):
    """What is known of the pipeline's project in Label Studio.

    `mark`: what it is found by: another installation may have a pipeline of the same name. `config`: the label config it was
    last given, hashed. `cursor`: answers before this time of its clock were taken.
    `seen`: annotation -> its time, of those taken last. `holder`: who talks to it until then; two at once would ask twice.
    """

    mark: str = ""
    project: int | None = None
    config: str = ""
    cursor: str = ""
    seen: dict[str, str] = {}
    holder: str = ""
    held_until_ms: int = 0


class Annotations(msgspec.Struct):
    """`pairs`: the first two answers to each item that had two, the newest last."""

    events: dict[str, Asked] = {}
    pairs: list[tuple[str, str]] = []
    studio: Studio = msgspec.field(default_factory=Studio)


class Verdict(NamedTuple):
    """`label` None: `by` cannot tell."""

    label: LabelValue | None
    by: str


class Agreement(NamedTuple):
    items: int
    share: float
    kappa: float | None  # None: all answers are the same, so chance alone would agree, too


def verdict(asked: Asked, annotators: int) -> Verdict | None:
    """None: more answers are needed. Of two that differ a third decides; three that differ are nobody's label."""
    counted = _counted(asked)
    if len(counted) < annotators:
        return None
    if annotators == 1:
        return Verdict(counted[0].label, counted[0].by)
    for one in counted[:2]:
        same = [other.by for other in counted if _text(other.label) == _text(one.label)]
        if len(same) > 1:
            return Verdict(one.label, together(same))
    return Verdict(None, DISAGREE) if len(counted) > 2 else None


def take(
    state: Annotations,
    open_events: Sequence[str],
    run: str,
    *,
    limit: int,
    annotators: int,
    now_ms: int,
    until_ms: int,
    unsent: Set[str] = frozenset(),
) -> list[tuple[str, Claim]]:
    """Claim what is open and not claimed, in this order; a run that asks again gets its claims of before.

    Changes `state`: what is neither open nor claimed is forgotten.

    Args:
        open_events: read after `state` was: an event that is forgotten here has its label, or can have none any more.
        unsent: decided, and not on Kafka yet; kept though they may have expired.
    """
    wanted: Set[str] = {*open_events, *unsent}
    for event in list(state.events):
        asked = state.events[event]
        asked.claims = [claim for claim in asked.claims if claim.until_ms > now_ms]
        if event not in wanted and not asked.claims:
            del state.events[event]
    mine = [(event, claim) for event, asked in state.events.items() for claim in asked.claims if claim.run == run]
    if mine:
        return sorted(mine, key=lambda one: one[1].number)
    free = CLAIMS_MAX - sum(len(asked.claims) for asked in state.events.values())
    taken: list[tuple[str, Claim]] = []
    for event in open_events:
        asked = state.events.get(event) or Asked()
        for _ in range(_needed(asked, annotators)):
            if len(taken) >= min(limit, free):
                return taken
            claim = Claim(run, len(taken), until_ms)
            asked.claims = [*asked.claims, claim]
            state.events[event] = asked
            taken.append((event, claim))
    return taken


def put(state: Annotations, event: str, given: Given, *, annotators: int) -> Verdict | None:
    """Store an answer and end its claim; returns the verdict if there is one now. The same again changes nothing."""
    asked = state.events.setdefault(event, Asked())
    asked.claims = [claim for claim in asked.claims if claim.name != given.claim]
    before = verdict(asked, annotators)
    if before is not None or any(other.claim == given.claim for other in asked.answers):
        return before
    if any(other.by == given.by for other in asked.answers):
        asked.remark = f"{given.by} has answered this one already: another person is needed"
        return None
    asked.answers = [*asked.answers, given]
    asked.remark = ""
    if len(asked.answers) == 2:
        first, second = (_text(one.label) for one in asked.answers)
        state.pairs = [*state.pairs, (first, second)][-PAIRS_MAX:]
    return verdict(asked, annotators)


def revise(state: Annotations, event: str, given: Given) -> bool:
    """An answer was changed where it was given: it counts as it is now, unless the label has been decided. Whether it does."""
    asked = state.events.get(event)
    if asked is None or all(other.claim != given.claim for other in asked.answers):
        return False
    asked.answers = [given if other.claim == given.claim else other for other in asked.answers]
    return True


def give_back(state: Annotations, event: str, claim: str, remark: str = "") -> None:
    """Nobody answered: the event may be asked again as long as it is open."""
    asked = state.events.get(event)
    if asked is None:
        return
    asked.claims = [one for one in asked.claims if one.name != claim]
    asked.remark = remark or asked.remark
    if not asked.claims and not asked.answers and not asked.remark:
        del state.events[event]


def agreement(pairs: Sequence[tuple[str, str]]) -> Agreement | None:
    """Share of equal answers, and Cohen's kappa: (share - by chance) / (1 - by chance).

    J. Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20(1), 1960. The
    two raters are "who answered first" and "who answered second", whoever that was.
    """
    if not pairs:
        return None
    share = sum(first == second for first, second in pairs) / len(pairs)
    sides: list[Mapping[str, int]] = [Counter(first for first, _ in pairs), Counter(second for _, second in pairs)]
    chance = sum(count * sides[1].get(label, 0) for label, count in sides[0].items()) / len(pairs) ** 2
    return Agreement(len(pairs), share, None if chance >= 1.0 else (share - chance) / (1.0 - chance))


def _counted(asked: Asked) -> list[Given]:
    return list({given.by: given for given in reversed(asked.answers)}.values())[::-1]


def _needed(asked: Asked, annotators: int) -> int:
    if verdict(asked, annotators) is not None or any(claim.run == STUDIO for claim in asked.claims):
        return 0  # a task in Label Studio is shown to as many people as are needed
    counted = len(_counted(asked))
    return max(annotators, counted + (counted >= annotators)) - counted - len(asked.claims)


def _text(label: LabelValue | None) -> str:
    return CANNOT_TELL if label is None else str(label)
