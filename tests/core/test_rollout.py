"""Candidates: who is promoted, who is not, and that a crash changes nothing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import dummy, linear_model, optim, preprocessing, stats, tree

from stream import Rollout
from stream.core.digest import state_digest
from stream.core.evidence import BLOCK, Evidence
from stream.core.examples import Follower
from stream.core.learning import LearnStep
from stream.core.model_bases import ModelBase, open_base, seal_base
from stream.core.records import Record
from stream.core.rollout import Trial
from stream.core.slots import Command
from stream.errors import ConfigurationError, SnapshotRefused
from stream.messages import Example, Release, Served, Source
from stream.pipeline import Limits, Pipeline
from tests.support.records import pipeline_of

KEY = b"k" * 32
QUICK = Rollout(shadow_labels=200, shares=(0.1, 0.5), share_labels=100, labels_max=20_000, probation_labels=2_000)
Guess = Callable[[bool, random.Random], float]  # (label, rng) -> probability of true


def cards(**changes: Any) -> Pipeline:
    return pipeline_of(
        **{"entity_features": (), "features": {"amount": float, "country": str}, "rollout": QUICK, **changes}
    )


def build(params: dict[str, Any]) -> Any:
    from river import compose

    return compose.Select("amount") | preprocessing.StandardScaler() | linear_model.LogisticRegression()


def candidate_of(pipeline: Pipeline, rate: float = 0.5, offset: int = 0) -> ModelBase:
    from river import compose

    model = compose.Select("amount") | preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(rate))
    return ModelBase(pipeline=pipeline.name, shard=0, offset=offset, model=model)


def right(share: float) -> Guess:
    """Says the truth so often, with 80 % certainty."""

    def guess(label: bool, rng: random.Random) -> float:
        return 0.8 if label == (rng.random() < share) else 0.2

    return guess


class Live:
    """A learner whose examples hold what made-up models are said to have served."""

    def __init__(self, pipeline: Pipeline | None = None, seed: int = 1) -> None:
        self.pipeline = pipeline or cards(model=build)
        self.step = self.fresh()
        self.rng = random.Random(seed)
        self.guesses: dict[str, Guess] = {self.step.base: right(0.7)}
        self.log: list[Record] = []
        self.releases: list[Release] = []

    def fresh(self) -> LearnStep:
        return LearnStep(self.pipeline, shard=0, keys=[KEY], configuration="c", window=50)

    def run(self, count: int) -> None:
        for _ in range(count):
            self.log.append(self._example())
            self.step.step(self.log[-1:])
            self._take()

    def _take(self) -> None:
        state = self.step.slots.state
        self.releases += state.outbox
        state.outbox = []

    def _example(self) -> Record:
        offset, rng = self.step.offset, self.rng
        label = rng.random() < 0.4
        roster = self.step.slots.roster(offset)
        slots = [("champion", roster.champion)]
        if roster.beside is not None:
            slots.append((roster.beside.slot, roster.beside.version))
        served = {slot: self._served(version, label) for slot, version in slots}
        stood_in = served["champion"].failed and "previous" in served
        message = Example(
            event_id=f"e{offset}", entity_id="k", occurred_at_ms=0,
            features={"amount": rng.gauss(float(label), 1.0), "country": rng.choice(("CH", "FR"))}, served=served,
            label=label, label_source="bank", labelled_at_ms=0, timing="on_time", partition=0, sequence=offset + 1,
            event_source=Source("cards.events", 0, 4 * offset),  # one event in four has a label
            slot="previous" if stood_in else "champion",
        )  # fmt: skip
        return Record("examples", 0, offset, 1_000 + offset, b"k", msgspec.json.encode(message))

    def _served(self, version: str, label: bool) -> Served:
        p = self.guesses[version.partition("@")[0]](label, self.rng)
        if p < 0:
            return Served(version, None, failed=True)
        return Served(version, p > 0.5, {"false": 1 - p, "true": p})

    def release(self, guess: Guess, **changes: Any) -> ModelBase:
        base = candidate_of(self.pipeline, **changes)
        follower = self.step.follower(base)
        follower.step(self.log)
        self.guesses[base.name] = guess
        self.step.command(self.command("release", base.name), follower)
        self._take()
        return base

    def command(self, action: Any, base: str, **changes: Any) -> Command:
        values = {
            "command_id": f"{action}-{base}",
            "action": action,
            "base": base,
            "by": "person:ada",
            "at_ms": 5,
            **changes,
        }
        return Command(**values)

    def actions(self) -> list[str]:
        return [release.action for release in self.releases]


def test_a_better_candidate_goes_step_by_step_and_is_confirmed():
    live = Live()
    live.run(300)
    first = live.step.base
    base = live.release(right(0.85))
    assert live.step.slots.roster(live.step.offset).beside.share == 0.0  # type: ignore[union-attr]
    live.run(8_000)
    assert live.actions() == ["released", "canary", "canary", "promoted", "confirmed"]
    assert [release.share for release in live.releases] == [0.0, 0.1, 0.5, 1.0, 1.0]
    assert all(release.base == base.name for release in live.releases)
    assert [release.parent for release in live.releases[:4]] == [first] * 4
    promoted = live.releases[3]
    assert promoted.evidence["evidence_better"] >= 20  # type: ignore[operator]
    assert promoted.evidence["accuracy_candidate"] > promoted.evidence["accuracy_rival"]  # type: ignore[operator]
    assert promoted.evidence["label_coverage"] == pytest.approx(0.25, abs=0.001)
    assert live.step.version == f"{base.name}@8300"
    assert live.step.slots.roster(8_300).beside is None  # nothing is scored beside it any more
    assert {slot: pupil.base for slot, pupil in live.step.slots.pupils.items()} == {
        "champion": base.name,
        "previous": first,
    }


def test_a_share_waits_for_labels_of_its_own_answers():
    """With labels that come 600 events late, the second share cannot follow 100 labels after the first."""
    live = Live()
    live.run(300)
    live.release(right(0.85))
    while "canary" not in live.actions():
        live.run(10)
    begun = live.step.offset
    late = live.step.slots.roster(begun)
    late_beside = late.beside
    assert late_beside is not None
    base = late_beside.base
    live.step.slots.roster = lambda offset: (  # type: ignore[method-assign]
        type(late)(
            f"{late.champion.partition('@')[0]}@{max(0, offset - 600)}",
            type(late_beside)("challenger", f"{base}@{max(0, offset - 600)}", 0.1),
        )
    )
    live.run(500)
    assert live.actions().count("canary") == 1
    live.run(400)
    assert live.actions().count("canary") == 2


def at_the_last_share(live: Live, guess: Guess) -> str:
    base = live.release(guess).name
    while live.releases[-1].share != QUICK.shares[-1]:
        live.run(10)
    return base


def shares_of(live: Live) -> list[float]:
    return [one.share for one in live.releases if one.action == "canary"]


def test_a_candidate_that_is_good_no_longer_gives_its_share_back():
    """What it was good for at first would carry it for thousands of labels, if all were counted alike."""
    live = Live()
    live.run(300)
    base = at_the_last_share(live, right(0.8))
    live.run(600)
    trial = live.step.slots.trial
    assert trial is not None and trial.step == 1
    live.guesses[base] = right(0.6)  # the champion: 0.7
    live.run(QUICK.share_labels + 2 * BLOCK)
    last = live.releases[-1]
    assert (last.action, last.share, last.decided_by) == ("canary", 0.1, "rule:share")
    assert "behind by the last" in last.reason and "10% of the entities" in last.reason
    assert trial.evidence.total > 0 and trial.evidence.better > trial.evidence.worse, "by all labels it was not"
    live.guesses[base] = right(0.9)
    live.run(1_200)
    assert shares_of(live)[-1] == 0.5, "and it may get it again"


def test_labels_that_come_late_take_a_share_back_at_once():
    """They are of events before the share: both models were scored for those, too."""
    live = Live(cards(model=build, rollout=msgspec_replace(QUICK, shares=(0.1, 0.5, 0.9))))
    live.run(300)
    base = at_the_last_share(live, right(0.8))
    trial = live.step.slots.trial
    assert trial is not None
    trial.since = live.step.offset + 1_000  # as if all labels of the next 1,000 were of earlier events
    live.guesses[base] = right(0.5)
    live.run(400)
    assert shares_of(live)[:3] == [0.1, 0.5, 0.1] and trial.stage_labels < 400


def test_an_equal_candidate_does_not_go_to_and_fro():
    changes = []
    for seed in range(8):
        live = Live(cards(model=build, rollout=Rollout(labels_max=10_000)), seed=seed)
        live.release(right(0.7))
        live.run(10_100)
        assert live.actions()[-1] == "rejected"
        changes.append(live.actions().count("canary"))
    assert sum(changes) / len(changes) < 8, changes  # one for every 300 labels were 33


def test_a_worse_candidate_never_answers_anybody():
    live = Live()
    live.release(right(0.5))
    live.run(4_000)
    assert live.actions() == ["released", "rejected"]
    assert live.releases[1].decided_by == "rule:sequential_test"
    assert "worse than the champion" in live.releases[1].reason
    assert list(live.step.slots.pupils) == ["champion"]


def test_a_candidate_that_is_no_better_is_let_go():
    live = Live(
        cards(model=build, rollout=Rollout(shadow_labels=200, shares=(0.1,), share_labels=100, labels_max=3_000))
    )
    live.release(right(0.7))
    live.run(3_500)
    assert live.actions()[-1] == "rejected"
    assert live.releases[-1].decided_by == "rule:labels_max"
    assert "promoted" not in live.actions()


def test_the_former_champion_comes_back_and_has_learned_all_along():
    live = Live()
    first = live.step.first
    base = live.release(right(0.9))
    while "promoted" not in live.actions():
        live.run(50)
    live.guesses[base.name] = right(0.3)  # the world has changed for the new one only
    live.run(1_900)
    assert live.actions()[-1] == "rolled_back"
    again = live.fresh()
    again.restore(live.step.snapshot().models)  # what is counted is counted with the state
    assert msgspec.json.decode(again.snapshot().status)["releases"] == Counter(live.actions())
    last = live.releases[-1]
    assert (last.base, last.parent, last.decided_by) == (base.name, first.name, "rule:sequential_test")
    assert live.step.base == first.name
    alone = Follower(live.pipeline, first)
    alone.step(live.log)
    assert state_digest(live.step.model) == state_digest(alone.pupil.model)


def test_every_version_of_every_slot_can_be_built_anew():
    live = Live()
    live.run(150)
    base = live.release(right(0.85))
    while "promoted" not in live.actions():
        live.run(100)
    for slot, name in (("champion", base), ("previous", live.step.first)):
        again = open_base(seal_base(name, configuration="c", key=KEY), [KEY], pipeline="cards", configuration="c")
        follower = Follower(live.pipeline, again)
        follower.step(live.log)
        pupil = live.step.slots.pupils[slot]
        assert follower.version == f"{pupil.base}@{live.step.offset}"
        assert state_digest(follower.pupil.model) == state_digest(pupil.model)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 3_999), min_size=1, max_size=4))
def test_a_crash_anywhere_changes_nothing(crashes: list[int]):
    live = Live()
    live.run(100)
    base = live.release(right(0.85))
    saved = live.step.snapshot()
    for guess, labels in ((right(0.85), 900), (right(0.5), 200), (right(0.95), 2_900)):
        live.guesses[base.name] = guess
        live.run(labels)
    assert "promoted" in live.actions() and 0.1 in shares_of(live)[2:], "up, down and up"
    step, found = live.fresh(), []
    step.restore(saved.models)
    snapshot, position = saved, 100
    for crash in [*sorted(100 + c for c in crashes), 4_100]:
        step.step(live.log[position : (position + crash) // 2])
        snapshot = step.snapshot()  # ... and everything after it is lost
        middle = step.offset
        found += step.slots.state.outbox
        step.slots.state.outbox = []
        step.step(live.log[middle:crash])
        step = live.fresh()
        step.restore(snapshot.models)
        found += step.slots.state.outbox
        step.slots.state.outbox = []
        step.step(live.log[middle:crash])
        position = crash
    found += step.slots.state.outbox
    assert list(dict.fromkeys(map(msgspec.json.encode, found))) == list(map(msgspec.json.encode, live.releases[1:]))
    for slot, pupil in live.step.slots.pupils.items():
        assert state_digest(step.slots.pupils[slot].model) == state_digest(pupil.model)
    again, undisturbed = (msgspec.json.decode(one.snapshot().status) for one in (step, live.step))
    again.pop("features"), undisturbed.pop("features")  # a picture for people: "now" begins anew after a crash
    assert again == undisturbed


def test_a_candidate_that_fails_is_rejected_at_once():
    live = Live()
    good = right(0.9)
    live.release(lambda label, rng: -1.0 if rng.random() < 0.05 else good(label, rng))
    live.run(300)
    assert live.actions() == ["released", "rejected"]
    assert live.releases[1].decided_by == "rule:failures"


def test_a_new_champion_that_fails_is_rolled_back():
    live = Live()
    live.run(100)
    first = live.step.base
    base = live.release(right(0.9))
    while "promoted" not in live.actions():
        live.run(50)
    good = live.guesses[base.name]
    live.guesses[base.name] = lambda label, rng: -1.0 if rng.random() < 0.05 else good(label, rng)
    live.run(300)
    assert live.actions()[-1] == "rolled_back"
    assert live.releases[-1].decided_by == "rule:failures"
    assert live.step.base == first


def test_a_candidate_whose_answers_are_others_is_rejected():
    live = Live()
    live.release(lambda label, rng: 0.51)  # always true; 40 % are
    live.guesses[live.step.base] = lambda label, rng: 0.4
    live.run(3 * BLOCK)
    assert live.actions() == ["released", "rejected"]
    assert live.releases[1].decided_by == "rule:distribution"


def test_other_answers_than_those_of_a_champion_that_is_wrong_are_no_reason():
    """After a drift the candidate's answers must differ: labels say that it is the better one."""
    live = Live()
    live.run(300)
    live.release(right(0.95))
    live.guesses[live.step.base] = lambda label, rng: 0.6  # always true; 40 % are
    live.run(2 * BLOCK)
    trial = live.step.slots.trial
    assert trial is not None and trial.shift("binary") > QUICK.distribution_shift_max
    live.run(12 * BLOCK)
    assert "promoted" in live.actions() and "rejected" not in live.actions()


def test_a_lead_that_shrinks_is_still_a_lead():
    """Far better at first, a little when the champion has caught up: that slope must not count as scatter."""
    rng = random.Random(4)
    evidence = Evidence()
    for labels in range(6_000):  # with the standard deviation of all blocks it takes 8,320
        lead = 0.5 * 0.5 ** (labels / 300) + 0.03
        evidence.add((rng.random() < lead) * 0.1 + rng.choice((-0.1, 0.1)) * (rng.random() < 0.1))
    assert evidence.better >= 20


def test_evidence_of_an_earlier_version_goes_on_and_learns_the_scatter_anew():
    evidence = Evidence()
    for number in range(20 * BLOCK):
        evidence.add(0.05 + 0.01 * (-1) ** (number // BLOCK))
    fields = msgspec.to_builtins(evidence)
    fields[1] = [1.0, 0.052]  # sums of block means and of their squares
    old = msgspec.convert(fields, Evidence)
    wealth = old.better
    for number in range(3 * BLOCK):
        old.add(0.05 + 0.01 * (-1) ** (number // BLOCK))
    assert old.better == wealth
    assert old.scatter[1] == pytest.approx(2 * 0.02**2)
    for _ in range(BLOCK):
        old.add(0.05)
    assert old.better > wealth


def test_a_candidate_that_harms_one_segment_is_rejected():
    live = Live(cards(model=build, segments=("country",)))
    served = live._served

    def by_country() -> Record:
        offset = live.step.offset
        record = Live._example(live)
        example = msgspec.json.decode(record.value, type=Example)
        if example.features["country"] == "FR" and "challenger" in example.served:
            wrong = 0.05 if example.label else 0.95
            its = msgspec.structs.replace(
                example.served["challenger"], prediction=wrong > 0.5, probabilities={"false": 1 - wrong, "true": wrong}
            )
            example = msgspec.structs.replace(example, served={**example.served, "challenger": its})
        return Record("examples", 0, offset, record.timestamp_ms, b"k", msgspec.json.encode(example))

    live._example = by_country  # type: ignore[method-assign]
    assert served is not None
    live.release(lambda label, rng: 0.99 if label else 0.01)  # perfect elsewhere
    live.run(6_000)
    assert live.actions()[-1] == "rejected"
    assert live.releases[-1].decided_by in ("rule:segment", "rule:sequential_test")
    assert "promoted" not in live.actions()


def test_by_hand_a_winner_waits():
    live = Live(cards(model=build, rollout=msgspec_replace(QUICK, promote="by_hand", labels_max=2_000)))
    base = live.release(right(0.9))
    live.run(5_000)
    assert live.actions() == ["released", "canary", "canary"]
    status = msgspec.json.decode(live.step.snapshot().status)
    assert status["trial"]["won"] is True
    assert status["releases"] == {"canary": 2, "released": 1}
    live.step.command(live.command("promote", base.name, reason="looks good"))
    live._take()
    assert (live.releases[-1].action, live.releases[-1].decided_by) == ("promoted", "person:ada")
    assert live.step.base == base.name


def test_by_hand_a_winner_that_is_good_no_longer_has_not_won():
    live = Live(cards(model=build, rollout=msgspec_replace(QUICK, promote="by_hand")))
    live.run(300)
    base = at_the_last_share(live, right(0.9))
    live.run(3_000)
    trial = live.step.slots.trial
    assert trial is not None and trial.won
    live.guesses[base] = right(0.3)
    live.run(2 * QUICK.share_labels + BLOCK)
    assert shares_of(live)[-1] == 0.1 and not trial.won


def test_fewer_shares_in_the_file_than_the_trial_has_gone_through():
    live = Live()
    live.run(300)
    base = at_the_last_share(live, right(0.8))
    snapshot = live.step.snapshot()
    for shares, now in (((0.2,), 0.2), ((), 0.0)):
        live.pipeline = cards(model=build, rollout=msgspec_replace(QUICK, shares=shares))
        live.step = live.fresh()
        live.step.restore(snapshot.models)
        beside = live.step.slots.roster(live.step.offset).beside
        assert beside is not None and beside.share == now
        live.guesses[base] = right(0.5)
        live.releases.clear()
        live.run(400)
        assert shares_of(live) == [], "there is no share below"
    live.pipeline = cards(model=build, rollout=msgspec_replace(QUICK, shares=(0.2, 0.3)))
    live.step = live.fresh()
    live.step.restore(snapshot.models)
    trial = live.step.slots.trial
    assert trial is not None
    trial.step = 2
    live.run(400)
    assert shares_of(live)[:1] == [0.2]


def test_who_is_clearly_behind_now_is_not_promoted():
    """Evidence for all that came before is there already when the last share has been served."""
    live = Live(cards(model=build, rollout=msgspec_replace(QUICK, shadow_labels=2_000)))
    live.run(300)
    base = at_the_last_share(live, right(0.95))
    trial = live.step.slots.trial
    assert trial is not None and trial.evidence.better > 20
    live.guesses[base] = right(0.3)
    live.run(3 * QUICK.share_labels)
    assert live.actions()[-1] == "canary" and shares_of(live)[-1] == 0.1


def msgspec_replace(rollout: Rollout, **changes: Any) -> Rollout:
    from dataclasses import replace

    return replace(rollout, **changes)


def test_commands_that_do_not_fit_leave_a_record_and_nothing_else():
    live = Live()
    live.run(10)
    first = live.step.base
    cases = [
        (live.command("roll_back", first), "no former champion"),
        (live.command("roll_back", "deadbeef"), f"the champion is {first}"),
        (live.command("promote", "deadbeef"), "the candidate is nobody"),
        (live.command("reject", "deadbeef"), "the candidate is nobody"),
        (live.command("release", first), "it is here already"),
        (live.command("release", "deadbeef", parent="cafecafe"), "compared with cafecafe"),
    ]
    for command, words in cases:
        before = state_digest(live.step.model)
        live.step.command(command)
        live._take()
        assert live.releases[-1].action == "rejected"
        assert words in live.releases[-1].reason
        assert state_digest(live.step.model) == before
        count = len(live.releases)
        live.step.command(command)  # the same again
        live._take()
        assert len(live.releases) == count
    assert live.step.base == first


def test_a_second_release_is_refused_while_one_is_on_trial():
    live = Live()
    base = live.release(right(0.8))
    live.release(right(0.8), rate=0.9)
    assert live.actions() == ["released", "rejected"]
    assert f"{base.name} is on trial" in live.releases[1].reason


def test_a_release_is_refused_while_the_champion_is_on_probation():
    live = Live()
    live.run(200)
    live.release(right(0.9))
    while "promoted" not in live.actions():
        live.run(50)
    base = live.step.base
    live.release(right(0.95), rate=0.9)
    assert live.actions()[-1] == "rejected"
    assert f"the champion {base} is on probation" in live.releases[-1].reason
    live.run(2_500)
    assert live.actions()[-1] == "confirmed"


def test_a_base_file_is_refused_when_anything_of_it_is_changed():
    base = candidate_of(cards())
    sealed = seal_base(base, configuration="c", key=KEY)
    assert open_base(sealed, [KEY], pipeline="cards").name == base.name
    for position in range(0, len(sealed), 7):
        broken = bytearray(sealed)
        broken[position] ^= 1
        with pytest.raises(SnapshotRefused):
            open_base(bytes(broken), [KEY], pipeline="cards")
    with pytest.raises(SnapshotRefused, match="another_pipeline"):
        open_base(sealed, [KEY], pipeline="other")
    with pytest.raises(SnapshotRefused, match="another_configuration"):
        open_base(sealed, [KEY], pipeline="cards", configuration="d")


def test_equal_models_at_other_offsets_are_other_bases():
    assert candidate_of(cards(), offset=1).name != candidate_of(cards(), offset=2).name


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"shares": (0.5, 0.1)}, "rollout.shares"),
        ({"shares": (0,)}, "rollout.shares"),
        ({"alpha": 0.9}, "rollout.alpha"),
        ({"shadow_labels": 0}, "rollout.shadow_labels"),
        ({"promote": "maybe"}, "rollout.promote"),
    ],
)
def test_what_is_wrong_in_a_rollout_is_named(changes: dict[str, Any], key: str):
    with pytest.raises(ConfigurationError, match=key):
        cards(rollout=Rollout(**changes))


def test_a_regression_is_judged_by_its_errors():
    pipeline = pipeline_of(
        task="regression",
        entity_features=(),
        rollout=QUICK,
        model=lambda params: dummy.StatisticRegressor(stats.Mean()),
    )
    step = LearnStep(pipeline, shard=0, keys=[KEY], configuration="c", window=50)
    base = ModelBase(
        pipeline="cards", shard=0, offset=0, model=preprocessing.StandardScaler() | linear_model.LinearRegression()
    )
    step.command(Command(command_id="r", action="release", base=base.name, by="run:1", at_ms=0), step.follower(base))
    rng, first, actions = random.Random(3), step.base, []
    for offset in range(6_000):
        roster = step.slots.roster(offset)
        label = rng.gauss(50, 10)
        versions = [("champion", roster.champion)] + (
            [(roster.beside.slot, roster.beside.version)] if roster.beside else []
        )
        served = {s: Served(v, label + rng.gauss(0, 3 if v.startswith(first) else 2)) for s, v in versions}
        message = Example(
            event_id=f"e{offset}", entity_id="k", occurred_at_ms=0, features={"amount": 1.0}, served=served, label=label,
            label_source="b", labelled_at_ms=0, timing="on_time", partition=0, sequence=offset + 1,
            event_source=Source("cards.events", 0, offset),
        )  # fmt: skip
        step.step([Record("examples", 0, offset, offset, b"k", msgspec.json.encode(message))])
        actions += [r.action for r in step.slots.state.outbox]
        step.slots.state.outbox = []
    assert actions == ["released", "canary", "canary", "promoted", "confirmed"]


def test_a_trial_whose_candidate_is_not_scored_ends():
    live = Live(cards(model=build, rollout=msgspec_replace(QUICK, labels_max=1_000, probation_labels=500)))
    live.release(right(0.9))
    example = live._example

    def without() -> Record:
        record = example()
        value = msgspec.json.decode(record.value)
        value["served"].pop("challenger", None)
        return msgspec.structs.replace(record, value=msgspec.json.encode(value))

    live._example = without  # type: ignore[method-assign]
    live.run(1_100)
    assert live.actions() == ["released", "rejected"]
    assert live.releases[-1].decided_by == "rule:no_answers"


@pytest.mark.parametrize("promoted_by_hand", [False, True])
def test_labels_of_what_came_before_a_trial_decide_nothing(promoted_by_hand: bool):
    """More of them are under way than a trial takes labels."""
    live = Live(cards(model=build, rollout=msgspec_replace(QUICK, labels_max=3_000, probation_labels=2_000)))
    live.run(200)
    before = live.step.slots.roster(live.step.offset).champion
    base = live.release(right(0.9)).name
    if promoted_by_hand:
        live.step.command(live.command("promote", base))
        live._take()
    example = live._example

    def late() -> Record:
        record = example()
        value = msgspec.json.decode(record.value)
        served = value["served"]["champion"]
        value["served"] = {"champion": {**served, "version": before}}
        return msgspec.structs.replace(record, value=msgspec.json.encode(value))

    live._example = late  # type: ignore[method-assign]
    live.run(5_000)
    assert live.actions() == (["released", "promoted"] if promoted_by_hand else ["released"])
    live._example = example  # type: ignore[method-assign]
    live.run(4_000)
    assert live.actions()[-1] == "confirmed"
    assert live.releases[-1].decided_by == "rule:probation"


def test_a_roll_back_says_that_the_candidate_goes_too():
    live = Live()
    live.release(right(0.9))
    while "confirmed" not in live.actions():
        live.run(100)
    champion = live.step.base
    other = live.release(right(0.9), rate=0.9)
    live.step.command(live.command("roll_back", champion))
    live._take()
    assert [(r.action, r.base) for r in live.releases[-2:]] == [("rejected", other.name), ("rolled_back", champion)]


def with_a_tree_that_grows() -> tuple[Live, str]:
    """On trial beside a small champion, where a model may be hardly larger than that one."""
    size = len(LearnStep(cards(model=build), shard=0, keys=[KEY], configuration="c").slots.champion.dump())
    live = Live(cards(model=build, limits=Limits(snapshot_bytes_max=size + 400)))
    live.run(50)
    base = ModelBase(
        pipeline="cards", shard=0, offset=50, high_water={0: 50}, model=tree.HoeffdingTreeClassifier(grace_period=20)
    )
    live.guesses[base.name] = right(0.8)
    live.step.command(live.command("release", base.name), live.step.follower(base))
    return live, base.name


def test_a_candidate_that_outgrows_the_limit_goes_and_the_champion_is_committed():
    live, _ = with_a_tree_that_grows()
    live.run(300)
    snapshot = live.step.snapshot()
    live._take()
    assert list(snapshot.models) == ["champion"]
    assert (live.releases[-1].action, live.releases[-1].decided_by) == ("rejected", "rule:size")


def test_a_new_champion_that_outgrows_the_limit_is_rolled_back():
    live, base = with_a_tree_that_grows()
    first = live.step.base
    live.step.command(live.command("promote", base))
    live.run(300)
    snapshot = live.step.snapshot()
    live._take()
    assert list(snapshot.models) == ["champion"]
    assert (live.releases[-1].action, live.releases[-1].decided_by) == ("rolled_back", "rule:size")
    assert live.step.base == first
    again = live.fresh()
    again.restore(snapshot.models)
    assert again.base == first


def test_the_gain_of_labels_on_request_is_that_of_all_events():
    """Every label counts a tenth, as if it had been asked for ten times as likely as the least likely one."""
    low = []
    for share in (1.0, 0.1):
        trial, rng = Trial.begin(cards(), "new", "old"), random.Random(3)
        for _ in range(40 * BLOCK):
            label = rng.random() < 0.5
            old, new = (
                Served(v, p > 0.5, {"false": 1 - p, "true": p})
                for v, p in (("old@0", 0.5), ("new@0", 0.7 if label else 0.3))
            )
            trial.evidence.add(trial.losses.gain(label, old, new, share) or 0.0)
        low.append(trial.gain(0.05)["gain_low"])
    assert low[0] == pytest.approx(low[1], rel=0.01) and low[0] > 0.04


def test_rare_classes_need_labels_before_a_candidate_wins():
    live = Live()
    live.release(right(0.99))
    trial = live.step.slots.trial
    assert trial is not None
    trial.losses.by_class = {"false": 10_000.0, "true": 10.0}
    trial.labels = trial.stage_labels = 10_000
    trial.step = 1
    trial.evidence.log_better = [10.0] * 5
    assert trial._decide(live.pipeline) is None
    trial.losses.by_class["true"] = 60.0
    decision = trial._decide(live.pipeline)
    assert decision is not None and decision.action == "promoted"
