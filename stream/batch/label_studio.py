"""Label requests as tasks of Label Studio, and its annotations as answers: one exchange, again and again.

An exchange may die between any two calls: what was imported is found again by what stands in the task, an answer is in Redis
before it is on Kafka, and only when all was done the cursor moves on. One at a time: a second one ends at once.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from stream.adapters.file_pipelines import LoadedPipeline
from stream.adapters.label_studio_client import LabelStudioClient
from stream.adapters.redis_annotations import RedisAnnotations
from stream.batch.label_requests import Answer, OpenRequest, answer, label_from_text, open_requests
from stream.batch.request_forms import form_subject, plain_body
from stream.core.annotating import Annotations, Given
from stream.core.exchanging import Plan, plan_exchange, remember
from stream.core.label_sources import person
from stream.core.studio_tasks import Response, StudioTask, label_config, read_task, task_of
from stream.errors import ConfigurationError, Unavailable
from stream.lifecycle import label_options
from stream.messages import LabelRequest
from stream.pipeline import Pipeline
from stream.settings import Settings

__all__ = ["Exchanged", "exchange", "exchange_label_studio"]

LEASE_MS = 600_000
OVERLAP_S = 600  # answers are looked for so much before the last one that was seen: transactions end out of order
BATCH = 200  # tasks in one import
UNFIT_SHOWN = 5


class Exchanged(NamedTuple):
    """What one exchange did. `busy`: nothing, because another one is at it. `unfit`: why answers were not taken."""

    busy: bool = False
    asked: int = 0
    labels: int = 0
    declined: int = 0
    closed: int = 0
    unfit: tuple[str, ...] = ()


def exchange_label_studio(settings: Settings, loaded: LoadedPipeline, *, url: str, token: str) -> dict[str, Any]:
    """`exchange` for Airflow: JSON-able."""
    found = exchange(settings, loaded, LabelStudioClient(url, token))._asdict()
    return {**found, "unfit": list(found["unfit"])}


def exchange(
    settings: Settings,
    loaded: LoadedPipeline,
    studio: LabelStudioClient,
    *,
    now_ms: Callable[[], int] = lambda: int(time.time() * 1_000),
) -> Exchanged:
    """Make tasks of open requests, send what was answered, remove what nobody needs to answer any more.

    Raises:
        Unavailable: Label Studio, Kafka or Redis do not answer. Nothing is lost; the next exchange goes on.
        ConfigurationError: Label Studio refuses the token or what it was sent; or the pipeline asks nobody.
    """
    pipeline = loaded.pipeline
    if not pipeline.labelling:
        raise ConfigurationError("labelling", pipeline.labelling, "give the pipeline labelling=Labelling(...)")
    store = RedisAnnotations(**settings.redis(), pipeline=pipeline.name)
    holder = secrets.token_hex(8)
    try:
        if not store.change(lambda state: _hold(state, holder, now_ms())):
            return Exchanged(busy=True)
        try:
            return _Exchange(settings, pipeline, studio, store, holder, now_ms).run()
        finally:
            store.change(lambda state: _let_go(state, holder))
    finally:
        store.close()


def _hold(state: Annotations, holder: str, now: int) -> bool:
    held = state.studio
    if held.holder not in ("", holder) and held.held_until_ms > now:
        return False
    held.holder, held.held_until_ms = holder, now + LEASE_MS
    held.mark = held.mark or f"driftloop:{secrets.token_hex(16)}"
    return True


def _let_go(state: Annotations, holder: str) -> None:
    if state.studio.holder == holder:
        state.studio.holder, state.studio.held_until_ms = "", 0


class _Exchange:
    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        studio: LabelStudioClient,
        store: RedisAnnotations,
        holder: str,
        now_ms: Callable[[], int],
    ) -> None:
        self.settings, self.pipeline, self.studio, self.store = settings, pipeline, studio, store
        self.holder, self.now_ms = holder, now_ms
        assert pipeline.labelling
        self.annotators = pipeline.labelling.annotators
        self.options = label_options(pipeline.task, pipeline.labels.classes)
        self.users: dict[int, str] = {}

    def run(self) -> Exchanged:
        project = self._project()
        tasks, cursor, gone = self._there(project)
        for task in tasks:  # names are looked up before the state is read: that may take long
            for response in task.responses:
                self._person(response.user)

        def decide(state: Annotations) -> tuple[Plan, dict[str, OpenRequest]]:
            if not _hold(state, self.holder, self.now_ms()):
                raise Unavailable("Label Studio: this exchange took too long, and another one has begun")
            asked = {one.event: one for one in open_requests(self.settings, self.pipeline)}
            return plan_exchange(
                state, list(asked), tasks, gone, self._understand, annotators=self.annotators, now_ms=self.now_ms()
            ), asked

        plan, found = self.store.change(decide)
        sent = self._send(plan, found)
        self._import(project, [found[event] for event in plan.ask])
        for number, people in plan.widen:
            self.studio.show_to(number, people)
        closed = sum(map(self._close, plan.close))
        self.store.change(lambda state: remember(state, plan.seen, cursor))
        return Exchanged(False, len(plan.ask), *sent, closed, tuple(why for _, why in plan.unfit[:UNFIT_SHOWN]))

    # -- the project -------------------------------------------------------------------------------------------------

    def _project(self) -> int:
        state = self.store.load().studio
        config = label_config(self.pipeline.task, self.options)
        print_of = hashlib.sha256(f"{config}\n{self.annotators}".encode()).hexdigest()[:16]
        project = state.project
        known = project if project is not None and self.studio.is_project(project, state.mark) else None
        found = known or self.studio.find_project(state.mark)
        if found is None:
            found = self.studio.create_project(self._fields(config, state.mark))
        elif found != known or print_of != state.config:
            # Only when the pipeline has changed: what people changed in the project themselves stays till then.
            self.studio.change_project(found, {"label_config": config, "maximum_annotations": self.annotators})
        if (found, print_of) != (state.project, state.config):
            self.store.change(lambda state: _settle(state, found, print_of))
        return found

    def _fields(self, config: str, mark: str) -> dict[str, Any]:
        return {
            "title": f"driftloop: {self.pipeline.name}"[:50],
            "description": f"Label requests of the pipeline {self.pipeline.name}. Tasks come and go by themselves. {mark}",
            "label_config": config,
            "maximum_annotations": self.annotators,
            "sampling": "Sequential sampling",  # by uncertainty, what is never reached would not be missing at random
            "skip_queue": "REQUEUE_FOR_OTHERS",
            "enable_empty_annotation": False,
            "show_collab_predictions": True,
        }

    # -- what is there -----------------------------------------------------------------------------------------------

    def _there(self, project: int) -> tuple[list[StudioTask], str, set[str]]:
        """Tasks without an answer, and with a new one; the next cursor; the events whose tasks were deleted."""
        state = self.store.load()
        found: dict[int, dict[str, Any]] = {}
        for one in self._listed(project, state.studio.cursor):
            found[int(one["id"])] = one
        gone = set()
        for event, asked in state.events.items():
            number = asked.task
            if number is None:
                continue
            task = found.get(number) or self.studio.task(number)
            if task is None or task["project"] != project or (task.get("data") or {}).get("request") != event:
                gone.add(event)  # over SQLite, numbers of what was deleted are given again
            else:
                found[number] = task
        latest = max((str(one.get("updated_at") or "") for one in found.values() if one.get("annotations")), default="")
        tasks = [task for task in map(read_task, found.values()) if task is not None]
        return tasks, _before(latest), gone

    def _listed(self, project: int, cursor: str) -> Iterator[dict[str, Any]]:
        yield from self.studio.tasks(project, [("total_annotations", "equal", "Number", 0)])
        answered: list[tuple[str, str, str, Any]] = [("total_annotations", "greater", "Number", 0)]
        if cursor:
            answered.append(("updated_at", "greater", "Datetime", cursor))
        yield from self.studio.tasks(project, answered)

    def _person(self, number: int) -> str:
        if number not in self.users:
            self.users[number] = person(self.studio.user_email(number) or f"label-studio-{number}")
        return self.users[number]

    def _understand(self, task: StudioTask, response: Response) -> Given | str:
        claim, by = f"label-studio:{response.annotation}", self._person(response.user)
        if response.kind == "cannot_tell":
            return Given(claim, by, None)
        if response.kind == "unfit":
            return f"task {task.number}, {by}: one label is needed, or cannot tell"
        try:
            return Given(claim, by, label_from_text(self.pipeline, response.text))
        except ConfigurationError as error:
            return f"task {task.number}, {by}: {error}"

    # -- what is done ------------------------------------------------------------------------------------------------

    def _send(self, plan: Plan, found: dict[str, OpenRequest]) -> tuple[int, int]:
        answers = [(Answer(found[event], decided.label), decided.by) for event, decided in plan.verdicts]
        for task, given in plan.later:
            request = LabelRequest(
                event_id=task.event_id, features={}, prediction=None, uncertainty=None, reason="", expires_at_ms=0
            )
            answers.append((Answer(OpenRequest(task.key, task.partition, request), given.label), given.by))
        labels = declined = 0
        for one, by in answers:
            sent = answer(self.settings, self.pipeline, [one], by=by, now_ms=self.now_ms)
            labels, declined = labels + sent["labels"], declined + sent["declined"]
        return labels, declined

    def _import(self, project: int, asked: list[OpenRequest]) -> None:
        state = self.store.load()
        tasks = []
        for one in asked:
            remark = state.events[one.event].remark if one.event in state.events else ""
            question = form_subject(self.pipeline.name, one.request)
            about = plain_body(one.request, remark)
            tasks.append(
                task_of(
                    self.pipeline.name,
                    self.pipeline.task,
                    self.options,
                    one.event,
                    one.key,
                    one.request,
                    question,
                    about,
                )
            )
        for start in range(0, len(tasks), BATCH):
            self.studio.import_tasks(project, tasks[start : start + BATCH])

    def _close(self, number: int) -> bool:
        """Nobody needs it. Looked at once more: an answer may have come just now."""
        found = self.studio.task(number)
        if found is None or any(not one.get("was_cancelled") for one in found.get("annotations") or []):
            return False
        self.studio.delete_task(number)
        return True


def _settle(state: Annotations, project: int, config: str) -> None:
    if state.studio.project not in (None, project):
        state.studio.cursor, state.studio.seen = "", {}
    state.studio.project, state.studio.config = project, config


def _before(at: str) -> str:
    """A time of Label Studio's, some minutes earlier, as its filters take it."""
    if not at:
        return ""
    moment = datetime.fromisoformat(at.replace("Z", "+00:00")).astimezone(UTC) - timedelta(seconds=OVERLAP_S)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
