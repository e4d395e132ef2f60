"""The whole loop in one process, without a broker: the learner, the rollout and the retraining that run live, on one stream.

Events come one a minute of the stream's time, the label of each `delay` events later. What a retraining does between the
drift and the candidate takes no time here; live it takes minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from bench.streams import Event, Stream
from stream.batch.comparing import judge, latency_us
from stream.batch.windows import Window, choose_window
from stream.boosting import is_batch_trained
from stream.core.episodes import Inbox, settle, sort_in
from stream.core.evaluating import Evaluation
from stream.core.examples import Follower
from stream.core.explaining import Answer, Scorer, compile_scorer
from stream.core.guarding import first_not_finite
from stream.core.lean_pickle import dump_model, load_model
from stream.core.learning import LearnStep
from stream.core.model_bases import ModelBase
from stream.core.prequential import evaluate, known_at, timeline, train
from stream.core.records import Record
from stream.core.scoring import BesideModel
from stream.core.slots import Command
from stream.messages import CHAMPION, Drift, Example, ModelRef, Served, Source
from stream.ports import Outgoing

__all__ = ["Live", "Log", "Retraining", "example_of", "release"]

KEYS = (b"a simulation's snapshots go nowhere",)
MINUTE_MS = 60_000
START_MS = 1_767_225_600_000
REFRESH = 50  # events between two refreshments of the scorers' models
IGNORED = 1_000  # events at the beginning that are not judged: no system knows anything
Given = Callable[[Answer], Answer]
Starts = dict[str, ModelBase]  # what candidates may start from, beside from scratch


class Log:
    """The examples so far; what a retraining reads in place of the archive."""

    def __init__(self) -> None:
        self.kept: list[Record] = []

    def end(self, shard: int) -> int:
        return len(self.kept)

    def records(self, shard: int, from_offset: int, to_offset: int) -> Iterator[Record]:
        return iter(self.kept[from_offset:to_offset])


class Live:
    """Scorer and learner on one stream.

    Args:
        on_batch: called every REFRESH events with what the learner put out since.
        learn_until: the event from which nothing is learned any more.
        breaks: turns an answer of a candidate that answers users into another; None: left as it is.
    """

    def __init__(
        self, stream: Stream, delay: int, *, on_batch: Callable[[Live, list[Outgoing]], None] = lambda *_: None,
        learn_until: int | None = None, breaks: Given | None = None,
    ) -> None:  # fmt: skip
        self.stream, self.pipeline, self.delay = stream, stream.pipeline, delay
        self.learner = LearnStep(self.pipeline, shard=0, keys=KEYS, configuration="quality")
        self.log = Log()
        self.evaluation = Evaluation(self.pipeline.task, alert_share=self.pipeline.alert_share)
        self.given = self.right_less_champion = self.on_trial = 0
        self._on_batch, self._until, self._breaks = on_batch, learn_until, breaks
        self._waiting: dict[int, Example] = {}

    @property
    def now_ms(self) -> int:
        return START_MS + (len(self.log.kept) + self.delay) * MINUTE_MS

    def run(self) -> Live:
        events = self.stream.events
        out: list[Outgoing] = []
        self._refresh()
        for number, event in enumerate(events):
            if self._until is None or number < self._until:
                if number >= self.delay:
                    out += self._label(number - self.delay)
                if number and number % REFRESH == 0:
                    self._on_batch(self, out)
                    out = []
                    self._refresh()
            self._score(number, event)
        return self

    def figure(self) -> dict[str, Any]:
        sheet = self.evaluation.report()["overall"]["model"]
        return {name: sheet[name] for name in ("accuracy", "average_precision", "log_loss", "mae") if name in sheet}

    def fresh(self) -> None:
        """The champion begins anew, as the pipeline's first model."""
        base = ModelBase(pipeline=self.pipeline.name, shard=0, offset=self.learner.offset, model=self.pipeline.build())
        self.learner.slots.pupils[CHAMPION] = Follower(self.pipeline, base).pupil

    def _refresh(self) -> None:
        learner = self.learner
        self._serving, self._roster = learner.serving(), learner.slots.roster(learner.offset)
        self._champion = self._scorer(CHAMPION)
        self._beside: BesideModel | None = None
        beside = self._roster.beside
        if beside is not None:
            ref = ModelRef(self.pipeline.name, beside.version, beside.slot)
            self._beside = BesideModel(ref, self._scorer(beside.slot), beside.share)

    def _scorer(self, slot: str) -> Scorer:
        model = load_model(dump_model(self.learner.slots.pupils[slot].model))
        return compile_scorer(model, self.pipeline.task, explained_top=0, threshold=self.pipeline.threshold)

    def _score(self, number: int, event: Event) -> None:
        known = self._serving
        baselines = (known.persistence, known.prior, known.prior_probabilities)

        def served(version: str, answer: Answer) -> Served:
            return Served(version, answer.prediction, answer.probabilities, None, *baselines)

        champion = served(self._roster.champion, self._champion(event.features))
        answers, slot, beside = {CHAMPION: champion}, CHAMPION, self._beside
        if beside is not None:
            answer = beside.scorer(event.features)
            if self._breaks is not None and beside.share:
                answer = self._breaks(answer)
            answers[beside.ref.slot] = served(beside.ref.version, answer)
            self.on_trial += 1
            if beside.answers(event.entity):
                slot = beside.ref.slot
                self.given += 1
        given = answers[slot]
        self.right_less_champion += (given.prediction == event.label) - (champion.prediction == event.label)
        if number >= IGNORED:
            self.evaluation.update(event.label, given)
        if self._until is None or number < self._until:
            self._waiting[number] = example_of(number, event, answers, slot, self.delay)

    def _label(self, number: int) -> list[Outgoing]:
        value = msgspec.json.encode(self._waiting.pop(number))
        at_ms = START_MS + (number + self.delay) * MINUTE_MS
        record = Record("examples", 0, number, at_ms, b"0", value)
        self.log.kept.append(record)
        return self.learner.step([record])


def example_of(number: int, event: Event, answers: dict[str, Served], slot: str, delay: int) -> Example:
    at_ms = START_MS + number * MINUTE_MS
    return Example(
        event_id=f"e{number}", entity_id=event.entity, occurred_at_ms=at_ms, features=event.features, served=answers,
        label=event.label, label_source="bench", labelled_at_ms=at_ms + delay * MINUTE_MS, timing="on_time", partition=0,
        sequence=number + 1, event_source=Source("events", 0, number), slot=slot, event_timestamp_ms=at_ms,
    )  # fmt: skip


class Retraining:
    """What the DAGs do, with the same functions: take up, window, search, compare, fit, release. Give it to `Live.on_batch`.

    `every`: a run by the clock after so many events without another; None: only for drifts.
    """

    def __init__(self, stream: Stream, every: int | None = None) -> None:
        self._pipeline, self._recipes, self._every = stream.pipeline, stream.recipes, every
        self._last = 0  # offset of the last run
        self._inbox = Inbox()
        self._bases: dict[str, ModelBase] = {}
        self.drifts: list[Drift] = []
        self.runs: list[dict[str, Any]] = []

    def __call__(self, live: Live, out: list[Outgoing]) -> None:
        drifts = [msgspec.json.decode(one.value or b"", type=Drift) for one in out if one.topic == "drifts"]
        self.drifts += drifts
        run_id = f"run-{len(self.runs)}-{live.learner.offset}"
        ends = {0: live.learner.offset}
        at, rules = self._inbox.next_offset, self._pipeline.retrain
        arrived = list(enumerate(drifts, at))
        now: dict[str, Any] = {"run_id": run_id, "ends": ends, "now_ms": live.now_ms, "retrain": rules}
        self._inbox, _ = sort_in(self._inbox, arrived, at + len(drifts), **now)
        self._inbox, taken = settle(self._inbox, **now)
        by_clock = self._every is not None and live.learner.offset - self._last >= self._every
        if taken.go or by_clock:
            self._last = live.learner.offset
            episode = self._inbox.episode
            # By the clock: the whole window, see `taking_up.by_the_clock`.
            change_point = episode.drift.from_offset if taken.go and episode is not None else None
            self.runs.append({"at": self._last, **self._run(live, run_id, change_point)})

    def _run(self, live: Live, run_id: str, change_point: int | None) -> dict[str, Any]:
        pipeline, learner, log = self._pipeline, live.learner, live.log
        champion = learner.base
        chosen = choose_window(pipeline, log, change_point=change_point, to_offset=learner.offset)
        if chosen["window"] is None:
            return {"outcome": "too_little", "why": chosen["why"]}
        window = msgspec.convert(chosen["window"], Window)
        first = self._champion_at(live, champion, window.from_offset)
        starts = {"champion": first}
        base = self._bases.get(champion)
        if base is not None and base.offset <= window.from_offset:
            starts["former"] = self._champion_at(live, base.provenance["parent"], window.from_offset)
        lessons = timeline(pipeline, log.records(0, window.from_offset, window.to_offset), first.high_water)
        start, params = self._search(
            starts, [one for one in lessons.lessons if one.offset < window.split_offset], window
        )
        verdict = self._compare(starts, champion, start, params, lessons.lessons, window)
        name = params.get("family", start) if start == "scratch" else start
        facts: dict[str, Any] = {"recipe": f"{name} {params.get('rate', params.get('learning_rate', ''))}".strip()}
        facts |= {"labels": window.labels, "gain": verdict["figures"]["gain"]}
        if not verdict["accepted"]:
            return {"outcome": "refused", **facts}
        model = self._model(starts, start, params)
        fit_to = None
        if start == "scratch" and is_batch_trained(model):
            fit_to = window.split_offset if model.online_layer else window.to_offset
        learned = train(pipeline, model, lessons.lessons, fit_to=fit_to)
        base = ModelBase(
            pipeline=pipeline.name, shard=0, offset=window.to_offset, model=load_model(dump_model(model)),
            high_water=lessons.high_water, learned=learned, provenance={"parent": champion},
        )  # fmt: skip
        self._bases[base.name] = base
        refused = learner.slots.refusal(_release(base, champion, run_id, live.now_ms))
        release(live, base, champion, run_id)
        return {"outcome": "released" if refused is None else "not_carried_out", "why": refused, **facts}

    def _search(self, starts: Starts, lessons: Any, window: Window) -> tuple[str, dict[str, Any]]:
        """Where the best trial starts from, and its parameters."""
        trials: list[tuple[str, dict[str, Any]]] = [
            *((start, {}) for start in starts),
            *(("scratch", params) for params in self._recipes),
        ]
        found = []
        for start, params in trials:
            model = self._model(starts, start, params)
            judged = evaluate(self._pipeline, model, lessons, score_from=window.score_offset, fit=start == "scratch")
            figure = -math.inf if judged.figure is None else self._pipeline.metric_sign * judged.figure
            found.append((figure, start, params))
        _, start, params = max(found, key=lambda one: one[0])
        return start, params

    def _compare(
        self, starts: Starts, champion: str, start: str, params: dict[str, Any], lessons: Any, window: Window
    ) -> dict[str, Any]:
        pipeline, split = self._pipeline, window.split_offset
        known_at_ms = known_at(lessons, split)
        candidate = self._model(starts, start, params)
        judged = evaluate(
            pipeline,
            candidate,
            lessons,
            score_from=split,
            known_at_ms=known_at_ms,
            fit=start == "scratch",
            segments=True,
        )
        base = self._bases.get(champion)
        rival, since = load_model(dump_model(starts["champion"].model)), window.from_offset
        if base is not None and window.from_offset <= base.offset <= split:
            rival, since = load_model(dump_model(base.model)), base.offset
        rivals = evaluate(
            pipeline, rival, [one for one in lessons if one.offset >= since], score_from=split, known_at_ms=known_at_ms,
            fit=False, segments=True,
        )  # fmt: skip
        sizes = {
            "size_bytes": float(len(dump_model(candidate))),
            "latency_us": latency_us(pipeline, candidate, lessons[-200:]),
        }
        return judge(pipeline, judged, rivals, sizes, first_not_finite(candidate))

    def _model(self, starts: Starts, start: str, params: dict[str, Any]) -> Any:
        if start in starts:
            return load_model(dump_model(starts[start].model))
        pipeline = self._pipeline
        return load_model(dump_model(pipeline.model({"seed": pipeline.seed, **pipeline.params, **params})))

    def _champion_at(self, live: Live, name: str, offset: int) -> ModelBase:
        """As `batch.candidates.champion_at`: the newest base in its line that begins before, rolled forward."""
        line: str | None = name
        while line in self._bases and self._bases[line].offset > offset:
            line = self._bases[line].provenance.get("parent")
        base = self._bases.get(line or "", live.learner.first)
        follower = Follower(self._pipeline, base)
        follower.step(list(live.log.records(0, base.offset, offset)))
        return msgspec.structs.replace(base, offset=offset, model=follower.pupil.model, high_water=follower.high_water)


def release(live: Live, base: ModelBase, parent: str | None, by: str) -> None:
    """Let a base catch up and hand it to the learner, as the worker's desk does. Raises DriftloopError."""
    follower = live.learner.follower(base)
    follower.step(list(live.log.records(0, base.offset, live.learner.offset)))
    live.learner.command(_release(base, parent, by, live.now_ms), follower)


def _release(base: ModelBase, parent: str | None, by: str, at_ms: int) -> Command:
    return Command(command_id=f"release-{by}", action="release", base=base.name, parent=parent, by=by, at_ms=at_ms)
