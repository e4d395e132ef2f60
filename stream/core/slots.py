"""The slots of one model shard: who answers, who is tried beside it, who is kept warm; and the record of every change.

| slot       | answers                     | learns | scored beside the champion             |
|------------|-----------------------------|--------|----------------------------------------|
| champion   | all entities but the share  | yes    |                                        |
| challenger | a share of entities, from 0 | yes    | yes, until the trial is over           |
| previous   | where a new champion fails  | yes    | yes, while that one is on trial        |
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec

from stream.core.examples import Pupil
from stream.core.rollout import Decision, Figures, Trial
from stream.messages import CHALLENGER, CHAMPION, PREVIOUS, Example, Release
from stream.pipeline import Pipeline

__all__ = ["Beside", "Command", "Roster", "Slots", "Spent"]

UNKNOWN = "unknown"  # base and asker of what cannot be read
AT_MS_MAX = 253_402_300_799_999  # the end of the year 9999
HANDLED_MAX = 200  # commands that are remembered, so that none is carried out twice


class Beside(msgspec.Struct, frozen=True):
    """The model that is scored beside the champion. `base` also picks the entities: each trial has others."""

    slot: str
    version: str
    share: float  # of the entities that it answers
    trial: str = ""  # id of the record with which the trial began

    @property
    def base(self) -> str:
        return self.version.partition("@")[0]


class Roster(msgspec.Struct, frozen=True):
    """Which models there are. What a scorer looks at to see whether anything has changed."""

    champion: str  # version
    beside: Beside | None = None


class Spent(msgspec.Struct, frozen=True):
    """How long the models of a trial take in one scorer."""

    trial: str  # as in Beside
    times: dict[str, tuple[int, float]]  # base -> calls that were timed, microseconds of all of them


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person or a retraining asks of the learner. It is carried out once, or refused with a record that says why."""

    command_id: str
    action: Literal["release", "promote", "roll_back", "reject"]
    base: str  # the candidate; for roll_back: the champion that shall go
    parent: str | None = None  # the champion that the candidate was compared with; None: whichever
    by: str
    reason: str = ""
    evidence: Figures = {}
    at_ms: Annotated[int, msgspec.Meta(ge=0, le=AT_MS_MAX)]


class SlotsState(msgspec.Struct, kw_only=True):
    """What a snapshot keeps beside the models."""

    trial: Trial | None = None
    outbox: list[Release] = []
    handled: list[str] = []
    records: dict[str, int] = {}  # base -> records about it
    totals: dict[str, int] = {}  # action -> records of it
    previous: str | None = None


class Slots:
    """The models of one shard. Everything that changes who answers goes through here and leaves a record in `outbox`."""

    def __init__(self, pipeline: Pipeline, shard: int, champion: Pupil) -> None:
        self._pipeline = pipeline
        self._shard = shard
        self.pupils: dict[str, Pupil] = {CHAMPION: champion}
        self.state = SlotsState()
        self.changed = False  # since the last snapshot

    @property
    def champion(self) -> Pupil:
        return self.pupils[CHAMPION]

    @property
    def trial(self) -> Trial | None:
        return self.state.trial

    @property
    def latency_ratio_max(self) -> float:
        return self._pipeline.rollout.latency_ratio_max

    def others(self) -> Iterator[tuple[str, Pupil]]:
        """All but the champion."""
        return ((slot, pupil) for slot, pupil in self.pupils.items() if slot != CHAMPION)

    def roster(self, offset: int) -> Roster:
        beside, trial = None, self.trial
        if trial is not None:
            slot = PREVIOUS if trial.stage == "probation" else CHALLENGER
            beside = Beside(slot, f"{self.pupils[slot].base}@{offset}", trial.share(self._pipeline), trial.trial_id)
        return Roster(f"{self.champion.base}@{offset}", beside)

    # -- changes -----------------------------------------------------------------------------------------------------

    def start(self, offset: int, at_ms: int) -> None:
        """The first model of the pipeline."""
        self._record("started", self.champion.base, offset, "rule:start", "the model of the pipeline file", {}, at_ms)

    def refusal(self, command: Command) -> str | None:
        """Why a command cannot be carried out as things are; None if it can."""
        champion, challenger = self.champion.base, self.pupils.get(CHALLENGER)
        if command.action == "release":
            if command.base in {pupil.base for pupil in self.pupils.values()}:
                return "it is here already"
            if challenger is not None:
                return f"{challenger.base} is on trial"
            if self.trial is not None:
                return f"the champion {champion} is on probation"
            if command.parent is not None and command.parent != champion:
                return f"it was compared with {command.parent}, and the champion is {champion}"
        elif command.action == "roll_back":
            if command.base != champion:
                return f"the champion is {champion}"
            if PREVIOUS not in self.pupils:
                return "there is no former champion to go back to"
        elif challenger is None or command.base != challenger.base:
            return f"the candidate is {challenger.base if challenger is not None else 'nobody'}"
        return None

    def command(self, command: Command, offset: int, candidate: Pupil | None = None) -> None:
        """Carry out a command, once. `candidate`: of a release, having learned up to `offset`."""
        if command.command_id in self.state.handled:
            return
        refused = self.refusal(command)
        self.handle(command.command_id)
        if refused is not None:
            self.refuse(command, offset, refused)
        elif command.action == "release":
            assert candidate is not None
            self.pupils[CHALLENGER] = candidate
            self.state.trial = Trial.begin(self._pipeline, candidate.base, self.champion.base, offset)
            self.state.trial.trial_id = self._record(
                "released", candidate.base, offset, command.by, command.reason, command.evidence, command.at_ms
            )
        elif command.action == "promote":
            self._promote(offset, command.by, command.reason, self._with_trial(command), command.at_ms)
        elif command.action == "roll_back":
            self._roll_back(offset, command.by, command.reason, self._with_trial(command), command.at_ms)
        else:
            self._reject(offset, command.by, command.reason, self._with_trial(command), command.at_ms)

    def handle(self, command_id: str) -> None:
        """It will not be carried out again."""
        self.state.handled = [*self.state.handled, command_id][-HANDLED_MAX:]
        self.changed = True

    def refuse(self, command: Command, offset: int, why: str, by: str | None = None) -> None:
        """Leave a record of a command that was not carried out. `by`: who decided that, if not who asked."""
        reason = f"{command.action} refused: {why}"
        self._record("rejected", command.base, offset, by or command.by, reason, command.evidence, command.at_ms)

    def refuse_unread(self, command_id: str, offset: int, why: str, at_ms: int) -> None:
        """Leave a record of what was asked for and cannot be read."""
        self.handle(command_id)
        reason = f"command refused: {command_id!r:.100}: {why:.500}"
        self._record("rejected", UNKNOWN, offset, UNKNOWN, reason, {}, at_ms)

    def _with_trial(self, command: Command) -> Figures:
        figures = self.trial.figures(self._pipeline.task) if self.trial is not None else {}
        return {**figures, **command.evidence}

    def judge(self, example: Example, offset: int, at_ms: int) -> None:
        """One label for the trial, if there is one; `offset` is that after the example."""
        trial = self.trial
        if trial is None:
            return
        decision = trial.update(example, self._pipeline)
        if decision is not None:
            self.decide(decision, offset, at_ms)

    def decide(self, decision: Decision, offset: int, at_ms: int) -> None:
        """What a rule says."""
        trial = self.trial
        assert trial is not None
        by, reason, evidence = f"rule:{decision.rule}", decision.reason, decision.evidence
        if decision.action == "canary":
            trial.enter(decision.step, offset)
            self._record("canary", trial.base, offset, by, reason, evidence, at_ms, trial.share(self._pipeline))
        elif decision.action == "promoted":
            self._promote(offset, by, reason, evidence, at_ms)
        elif decision.action == "rejected":
            self._reject(offset, by, reason, evidence, at_ms)
        elif decision.action == "rolled_back":
            self._roll_back(offset, by, reason, evidence, at_ms)
        else:
            self.state.trial = None
            self._record("confirmed", trial.base, offset, by, reason, evidence, at_ms, 1.0)

    def _promote(self, offset: int, by: str, reason: str, evidence: Figures, at_ms: int) -> None:
        former, candidate = self.champion, self.pupils.pop(CHALLENGER)
        self.pupils[CHAMPION], self.pupils[PREVIOUS] = candidate, former
        trial = self.trial
        assert trial is not None
        self.state.trial = trial.probation(offset) if self._pipeline.rollout.probation_labels else None
        record = self._record("promoted", candidate.base, offset, by, reason, evidence, at_ms, 1.0, parent=former.base)
        if self.state.trial is not None:
            self.state.trial.trial_id = record

    def _roll_back(self, offset: int, by: str, reason: str, evidence: Figures, at_ms: int) -> None:
        if CHALLENGER in self.pupils:
            self._reject(offset, by, "it was compared with the champion, which is rolled back", {}, at_ms)
        bad, self.pupils[CHAMPION] = self.champion, self.pupils.pop(PREVIOUS)
        self.state.trial = None
        self._record("rolled_back", bad.base, offset, by, reason, evidence, at_ms, parent=self.champion.base)

    def drop(self, slot: str, rule: str, reason: str, offset: int, at_ms: int) -> None:
        """A model that cannot stay; for the champion, the former one comes back."""
        trial = self.trial
        if slot == CHAMPION:
            figures = trial.figures(self._pipeline.task) if trial is not None else {}
            self._roll_back(offset, f"rule:{rule}", reason, figures, at_ms)
            return
        if slot == CHALLENGER:
            self._reject(offset, f"rule:{rule}", reason, {}, at_ms)
            return
        self.pupils.pop(slot)
        if trial is not None and trial.stage == "probation":
            self.state.trial = None
            words = f"there is nothing to go back to: {reason}"
            self._record("confirmed", trial.base, offset, f"rule:{rule}", words, {}, at_ms, 1.0)

    def _reject(self, offset: int, by: str, reason: str, evidence: Figures, at_ms: int) -> None:
        gone = self.pupils.pop(CHALLENGER)
        self.state.trial = None
        self._record("rejected", gone.base, offset, by, reason, evidence, at_ms)

    def _record(
        self,
        action: Any,
        base: str,
        offset: int,
        by: str,
        reason: str,
        evidence: Figures,
        at_ms: int,
        share: float = 0.0,
        parent: str | None = None,
    ) -> str:
        """Returns its id, of which the content is a part: should Redis lose the last moment, this number may come again."""
        number = self.state.records[base] = self.state.records.get(base, 0) + 1
        self.state.totals[action] = self.state.totals.get(action, 0) + 1
        if action != "started":
            parent = parent or self.champion.base
        release = Release(
            release_id=f"{base}.{number}",
            pipeline=self._pipeline.name,
            shard=self._shard,
            action=action,
            base=base,
            version=f"{base}@{offset}",
            parent=parent,
            share=share,
            decided_by=by,
            reason=reason,
            evidence=evidence,
            decided_at_ms=at_ms,
        )
        content = blake2b(msgspec.json.encode(release), digest_size=4).hexdigest()
        release = msgspec.structs.replace(release, release_id=f"{base}.{number}.{content}")
        self.state.outbox.append(release)
        self.changed = True
        return release.release_id

    # -- for people --------------------------------------------------------------------------------------------------

    def report(self, offset: int) -> dict[str, Any]:
        """Who is where, and how the trial stands."""
        trial = self.trial
        report: dict[str, Any] = {
            "slots": {slot: f"{pupil.base}@{offset}" for slot, pupil in self.pupils.items()},
            "releases": dict(sorted(self.state.totals.items())),
        }
        if trial is not None:
            report["trial"] = {
                "base": trial.base,
                "rival": trial.rival,
                "stage": trial.stage,
                "share": trial.share(self._pipeline),
                "won": trial.won,
                "needed": 1.0 / self._pipeline.rollout.alpha,
                **trial.figures(self._pipeline.task),
                **trial.gain(self._pipeline.rollout.alpha),
            }
        return report
