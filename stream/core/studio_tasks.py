"""A label request as a task of Label Studio, and what people said there. Pure: JSON-able values in and out.

Formats: label config tags View, Header, Text, Table, Choices, Number, TextArea; tasks in Label Studio's JSON format with
`data` and `predictions`; results as control tags write them (labelstud.io/tags, labelstud.io/guide/export).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple
from xml.sax.saxutils import quoteattr

from stream.messages import LabelRequest, LabelValue

__all__ = ["Response", "StudioTask", "label_config", "read_task", "task_of"]

LABEL, CANNOT_TELL, ABOUT = "label", "cannot_tell", "about"  # names of tags: what results refer to
Kind = Literal["label", "cannot_tell", "skipped", "unfit"]


class Response(NamedTuple):
    """One person's annotation. `text`: the label as it stands there, of kind "label"."""

    annotation: int
    user: int
    at: str  # of its last change, by Label Studio's clock (ISO 8601)
    kind: Kind
    text: str = ""


class StudioTask(NamedTuple):
    """A task of ours. `key`: of the event; `responses`: the earliest first; `overlap`: how many people it is shown to."""

    number: int
    event: str  # "<partition>/<event id>"
    key: bytes
    responses: list[Response]
    overlap: int = 1

    @property
    def partition(self) -> int:
        return int(self.event.partition("/")[0])

    @property
    def event_id(self) -> str:
        return self.event.partition("/")[2]


def label_config(task: str, options: Sequence[str]) -> str:
    """The labelling interface: the event, the choice, "cannot tell" apart from it, so that no class can be called the same.

    Args:
        task: of the pipeline.
        options: labels to choose from; none: a number or a text is written.
    """
    if options:
        choices = "".join(f"<Choice value={quoteattr(option)}/>" for option in options)
        control = f'<Choices name="{LABEL}" toName="{ABOUT}" choice="single">{choices}</Choices>'
    elif task == "regression":
        control = f'<Number name="{LABEL}" toName="{ABOUT}"/>'
    else:
        control = f'<TextArea name="{LABEL}" toName="{ABOUT}" maxSubmissions="1" rows="1"/>'
    return (
        f'<View><Header value="$question"/><Text name="{ABOUT}" value="$about"/>'
        f'<Table name="features" value="$features"/>{control}'
        f'<Choices name="{CANNOT_TELL}" toName="{ABOUT}" choice="multiple"><Choice value="cannot tell"/></Choices></View>'
    )


def task_of(
    pipeline: str,
    task: str,
    options: Sequence[str],
    event: str,
    key: bytes,
    request: LabelRequest,
    question: str,
    about: str,
) -> dict[str, Any]:
    """As it is imported. `data.uncertainty` is a field of its own, to sort by; the prediction's score is the probability of
    what it says, which Label Studio sorts by, too.
    """
    data = {
        "question": question,
        ABOUT: about,
        "features": request.features,
        "uncertainty": request.uncertainty,
        "reason": request.reason,
        "model": request.model.version if request.model else None,
        "request": event,
        "key": b64encode(key).decode(),
    }
    predicted = _text(request.prediction)
    if request.prediction is None or (options and predicted not in options):
        return {"data": data}
    value: dict[str, Any]
    if options:
        kind, value = "choices", {"choices": [predicted]}
    elif task == "regression":
        kind, value = "number", {"number": request.prediction}
    else:
        kind, value = "textarea", {"text": [predicted]}
    result = {"id": "prediction", "from_name": LABEL, "to_name": ABOUT, "type": kind, "value": value}
    # One name for all versions: Label Studio shows the predictions of one, and ours change with every label.
    prediction: dict[str, Any] = {"model_version": pipeline, "result": [result]}
    score = (request.probabilities or {}).get(predicted)
    if score is not None:
        prediction["score"] = score
    return {"data": data, "predictions": [prediction]}


def read_task(found: Mapping[str, Any]) -> StudioTask | None:
    """None: it is none of ours, or somebody has changed what we know it by."""
    data = found.get("data")
    if not isinstance(data, Mapping):
        return None
    event, key = data.get("request"), data.get("key")
    if not isinstance(event, str) or not isinstance(key, str) or not event.partition("/")[0].isdecimal():
        return None
    try:
        raw = b64decode(key, validate=True)
    except (BadBase64, ValueError):
        return None
    annotations = sorted(found.get("annotations") or [], key=lambda one: (str(one.get("created_at")), one["id"]))
    return StudioTask(
        int(found["id"]), event, raw, [_response(one) for one in annotations], int(found.get("overlap") or 1)
    )


def _response(annotation: Mapping[str, Any]) -> Response:
    user = annotation.get("completed_by")
    user = user.get("id") if isinstance(user, Mapping) else user  # as it is expanded
    at = str(annotation.get("updated_at") or annotation.get("created_at"))
    kind, text = _said(annotation)
    return Response(int(annotation["id"]), int(user or 0), at, kind, text)


def _said(annotation: Mapping[str, Any]) -> tuple[Kind, str]:
    if annotation.get("was_cancelled"):
        return "skipped", ""
    label: list[Any] = []
    for result in annotation.get("result") or []:
        value = result.get("value") or {}
        if result.get("from_name") == CANNOT_TELL and value.get("choices"):
            return "cannot_tell", ""
        if result.get("from_name") == LABEL:
            found = value.get("choices", value.get("text", value.get("number")))
            label += found if isinstance(found, list) else [found]
    if len(label) != 1 or label[0] is None:
        return "unfit", ""
    return "label", _text(label[0])


def _text(value: LabelValue | None) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
