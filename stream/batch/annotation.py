"""The steps of the DAG `label_requests`: take open requests, and put one form's answer where it belongs.

Small JSON in and out; each step may run again. What is claimed and answered is kept in Redis (`core.annotating`), what is
open is read from Kafka, so two runs never ask for the same answer, and one that dies is made up for.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import msgspec

from stream.adapters.file_pipelines import LoadedPipeline
from stream.adapters.redis_annotations import RedisAnnotations
from stream.batch.label_requests import Answer, OpenRequest, answer, label_from_text, open_requests
from stream.batch.request_forms import form_body, form_subject
from stream.core.annotating import (
    Agreement,
    Annotations,
    Claim,
    Given,
    Verdict,
    agreement,
    give_back,
    put,
    take,
    verdict,
)
from stream.core.label_sources import person
from stream.errors import ConfigurationError
from stream.lifecycle import CANNOT_TELL, SEND, SKIP, Labelling
from stream.messages import LabelRequest, LabelValue
from stream.pipeline import Pipeline
from stream.settings import Settings

__all__ = ["annotators_agree", "label_said", "put_answer", "take_requests"]

REMARK_MAX = 500  # characters: whatever was written is kept in Redis, and shown in the next form
MARGIN_MS = 3_600_000  # a form's answer may be under way for so long after its time is over


def take_requests(
    settings: Settings, loaded: LoadedPipeline, *, run_id: str, now_ms: int | None = None
) -> list[dict[str, Any]]:
    """Claim open requests for this run; a retry gets the same ones.

    Answers that were given but did not reach Kafka, because their run died, are sent here.

    Returns one item for each form: claim, event, subject, body (Markdown), and key, partition and request for `put_answer`.

    Raises:
        Unavailable: Kafka or Redis do not answer.
    """
    pipeline, labelling = loaded.pipeline, _labelling(loaded.pipeline)
    now = int(time.time() * 1_000) if now_ms is None else now_ms
    store = RedisAnnotations(**settings.redis(), pipeline=pipeline.name)

    def claim(state: Annotations) -> tuple[list[dict[str, Any]], list[tuple[OpenRequest, Verdict]]]:
        known = ((event, verdict(asked, labelling.annotators)) for event, asked in state.events.items())
        decided = [(event, known) for event, known in known if known is not None]
        found = {asked.event: asked for asked in open_requests(settings, pipeline, expired=bool(decided))}
        unsent = [(found[event], known) for event, known in decided if event in found]
        until = now + labelling.within_ms + MARGIN_MS
        taken = take(
            state,
            [event for event, asked in found.items() if not asked.expired],
            run_id,
            limit=labelling.batch,
            annotators=labelling.annotators,
            now_ms=now,
            until_ms=until,
            unsent={asked.event for asked, _ in unsent},
        )
        return [_item(pipeline, found[e], e, c, state.events[e].remark) for e, c in taken if e in found], unsent

    try:
        items, unsent = store.change(claim)
    finally:
        store.close()
    for asked, decided in unsent:
        answer(settings, pipeline, [Answer(asked, decided.label)], by=decided.by)
    return items


def put_answer(
    settings: Settings, loaded: LoadedPipeline, *, item: Mapping[str, Any], response: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Send what a person said, or give the request back.

    Args:
        item: as `take_requests` returned it.
        response: Airflow's: chosen_options, params_input, responded_by_user; None: nobody was asked.

    Returns {"outcome", "why"}: answered, declined, waiting (for another person) or given_back.
    """
    pipeline, labelling = loaded.pipeline, _labelling(loaded.pipeline)
    store = RedisAnnotations(**settings.redis(), pipeline=pipeline.name)
    event, claim = str(item["event"]), str(item["claim"])
    response = response or {}
    chosen = (response.get("chosen_options") or [SKIP])[0]
    try:
        # A person's skip closes the request, as "cannot tell" does; where two are asked, another person may know.
        nobody = not response or response.get("timedout")
        if chosen == SKIP and (nobody or labelling.annotators > 1):
            store.change(lambda state: give_back(state, event, claim))
            return {"outcome": "given_back", "why": "time_out" if response.get("timedout") else "skipped"}
        try:
            label = label_said(pipeline, response)
        except ConfigurationError as error:
            why = f"the last answer was not taken: {error}"[:REMARK_MAX]
            store.change(lambda state: give_back(state, event, claim, why))
            return {"outcome": "given_back", "why": why}
        given = Given(claim, _person(response), label)
        decided = store.change(lambda state: put(state, event, given, annotators=labelling.annotators))
    finally:
        store.close()
    if decided is None:
        return {"outcome": "waiting", "why": "another person is needed"}
    asked = OpenRequest(b64decode(item["key"]), int(item["partition"]), msgspec.convert(item["request"], LabelRequest))
    answer(settings, pipeline, [Answer(asked, decided.label)], by=decided.by)
    return {"outcome": "declined" if decided.label is None else "answered", "why": decided.by}


def label_said(pipeline: Pipeline, response: Mapping[str, Any]) -> LabelValue | None:
    """The label in a form's answer; None: somebody cannot tell, or skips.

    Raises:
        ConfigurationError: what was written is no label of the pipeline. Airflow does not check it: anything that is JSON may
            stand there, or nothing.
    """
    chosen = (response.get("chosen_options") or [SKIP])[0]
    if chosen in (CANNOT_TELL, SKIP):
        return None
    if chosen != SEND:
        return label_from_text(pipeline, chosen)
    written = (response.get("params_input") or {}).get("label")
    if written is None:
        written = ""
    if isinstance(written, bool) or not isinstance(written, str | int | float):
        raise ConfigurationError("label", written, "write it as text, or as a number")
    return label_from_text(pipeline, str(written))


def annotators_agree(settings: Settings, name: str) -> Agreement | None:
    """Of the last items that two people answered; None: there are none. Raises Unavailable."""
    store = RedisAnnotations(**settings.redis(), pipeline=name)
    try:
        return agreement(store.load().pairs)
    finally:
        store.close()


def _labelling(pipeline: Pipeline) -> Labelling:
    if not pipeline.labelling:
        raise ConfigurationError("labelling", pipeline.labelling, "give the pipeline labelling=Labelling(...)")
    return pipeline.labelling


def _item(pipeline: Pipeline, asked: OpenRequest, event: str, claim: Claim, remark: str) -> dict[str, Any]:
    return {
        "claim": claim.name,
        "event": event,
        "subject": form_subject(pipeline.name, asked.request),
        "body": form_body(asked.request, remark),
        "key": b64encode(asked.key).decode(),
        "partition": asked.partition,
        "request": msgspec.to_builtins(asked.request),
    }


def _person(response: Mapping[str, Any]) -> str:
    user = response.get("responded_by_user") or {}
    name = str(user.get("name") or user.get("id") or "")
    return person(name) if name and name.lower() != "anonymous" else "airflow:anonymous"
