"""The contracts: one frozen struct per topic. `schemas/` is generated from this file.

Times are UTC epoch milliseconds (`*_at_ms`). A label is a boolean (binary, anomaly), a string (multiclass) or a
number (regression). Fields are only ever added, with a default, so old and new workers read each other.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "PREVIOUS",
    "TOPICS",
    "DeadLetter",
    "Drift",
    "Event",
    "Example",
    "Explanation",
    "Label",
    "LabelRequest",
    "LabelValue",
    "ModelRef",
    "Moved",
    "Prediction",
    "Release",
    "ReleaseAction",
    "Served",
    "Source",
    "Value",
]

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"  # the slots
Value = bool | int | float | str | None
LabelValue = bool | float | str
Identifier = Annotated[str, Meta(min_length=1, max_length=256)]
EpochMs = Annotated[int, Meta(ge=0, le=4_102_444_800_000)]  # 1970 to 2100
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something that happened to an entity, to be scored. The record's key is the entity id."""

    event_id: Annotated[Identifier, Meta(description="unique; its label names it")]
    occurred_at_ms: Annotated[EpochMs, Meta(description="when it happened: event time")]
    features: Annotated[dict[str, Value], Meta(description="exactly those that the pipeline declares")]


class Label(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What turned out to be true of an event. The record's key is the event's own key (the entity id)."""

    event_id: Annotated[Identifier, Meta(description="of the event")]
    label: Annotated[LabelValue, Meta(description="of the pipeline's task")]
    labelled_at_ms: Annotated[EpochMs, Meta(description="when it became known")]
    source: Annotated[str, Meta(min_length=1, max_length=64, description="who gave it; person:<name> for people")] = (
        "producer"
    )


class Source(msgspec.Struct, frozen=True, gc=False):
    """The exact position of an input record."""

    topic: Annotated[str, Meta(description="Kafka's name of it")]
    partition: Annotated[Count, Meta(description="its number")]
    offset: Annotated[Count, Meta(description="in the partition")]


class ModelRef(msgspec.Struct, frozen=True, gc=False):
    """The exact model: `version` is `<base>@<offset>`, the base model and the examples offset it had learned up to."""

    name: Annotated[str, Meta(description="of the pipeline")]
    version: Annotated[str, Meta(description="<base>@<offset>")]
    slot: Annotated[
        str,
        Meta(description="champion; the challenger of a canary; or previous, where a champion in probation failed"),
    ] = CHAMPION


class Explanation(msgspec.Struct, frozen=True, gc=False):
    """Additive contributions: `bias` + all contributions = the prediction on `scale`; only the largest are listed."""

    scale: Annotated[
        Literal["log_odds", "probability", "value"], Meta(description="what the contributions are measured in")
    ]
    bias: Annotated[float, Meta(description="the answer without any feature")]
    contributions: Annotated[list[tuple[str, float]], Meta(description="feature and contribution, the largest first")]
    rest: Annotated[float, Meta(description="sum of the contributions that are not listed")] = 0.0


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The answer to one event. All copies of one source position are byte-identical."""

    event_id: Annotated[str, Meta(description="of the event")]
    prediction: Annotated[LabelValue | None, Meta(description="null only while a model knows no class yet")]
    probabilities: Annotated[dict[str, float] | None, Meta(description="by class; null: the model gives none")] = None
    score: Annotated[float | None, Meta(description="anomaly score; higher is stranger")] = None
    uncertainty: Annotated[
        float | None, Meta(description="0 certain to 1 (classes); half-width of a 90 % interval (regression)")
    ] = None
    model: Annotated[ModelRef, Meta(description="the exact model that answered")]
    source: Annotated[Source, Meta(description="of the event")]
    occurred_at_ms: Annotated[int, Meta(description="of the event")]
    scored_at_ms: Annotated[int, Meta(description="record timestamp of the event as the broker keeps it")]
    explanation: Annotated[Explanation | None, Meta(description="null: turned off, or of a repeat")] = None
    clipped: Annotated[list[str], Meta(description="features brought back to their declared range")] = []
    duplicate_of: Annotated[Source | None, Meta(description="first event with the same event_id")] = None


class Served(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What one slot answered, kept until the label comes, with what the baselines knew at that moment."""

    version: Annotated[str, Meta(description="of the model")]
    prediction: Annotated[LabelValue | None, Meta(description="its answer")]
    probabilities: Annotated[dict[str, float] | None, Meta(description="by class")] = None
    score: Annotated[float | None, Meta(description="anomaly score")] = None
    persistence: Annotated[LabelValue | None, Meta(description="the last label learned when this was served")] = None
    prior: Annotated[LabelValue | None, Meta(description="the majority class or the mean at that moment")] = None
    prior_probabilities: Annotated[
        dict[str, float] | None, Meta(description="shares of the classes at that moment")
    ] = None
    failed: Annotated[bool, Meta(description="it raised for this event, or its answer could not be written")] = False


class Example(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A joined event and label: the features frozen at prediction time, what was served, and the truth."""

    event_id: Annotated[str, Meta(description="of the event")]
    entity_id: Annotated[str, Meta(description="the event's key")]
    occurred_at_ms: Annotated[int, Meta(description="of the event")]
    features: Annotated[dict[str, Value], Meta(description="frozen when it was scored, those of its history too")]
    served: Annotated[
        dict[str, Served], Meta(description="slot -> what it answered; one of them was given to the user")
    ]
    label: Annotated[LabelValue, Meta(description="the truth")]
    label_source: Annotated[str, Meta(description="who gave it")]
    labelled_at_ms: Annotated[int, Meta(description="when it became known")]
    timing: Annotated[
        Literal["on_time", "early", "default", "late", "correction"],
        Meta(description="how the label came; late ones and corrections are not learned online"),
    ]
    partition: Annotated[Count, Meta(description="the score partition that emitted this example")]
    sequence: Annotated[Count, Meta(description="its number there: 1, 2, 3, without gaps; repeats are skipped")]
    event_source: Annotated[Source, Meta(description="where the event lies")]
    label_source_position: Annotated[
        Source | None, Meta(description="where the label lies; null: it is the declared default")
    ] = None
    previous_label: Annotated[LabelValue | None, Meta(description="what a correction contradicts")] = None
    slot: Annotated[str, Meta(description="whose answer the user was given")] = CHAMPION
    requested: Annotated[bool, Meta(description="somebody was asked for this label")] = False
    propensity: Annotated[float | None, Meta(description="how likely this event was to be asked about")] = None
    previous_source: Annotated[str | None, Meta(description="who gave the label that a correction contradicts")] = None
    event_timestamp_ms: Annotated[
        int, Meta(description="of the event's record, as this record has the label's; 0: not known")
    ] = 0

    @property
    def came_at_ms(self) -> int:
        """When the event came, by Kafka's clock where that is known."""
        return self.event_timestamp_ms or self.occurred_at_ms


class Moved(msgspec.Struct, frozen=True, gc=False):
    """A feature that is not what it was. Ranks run from 0 to 1 among the values of its reference."""

    feature: Annotated[str, Meta(description="its name")]
    how: Annotated[
        Literal["higher", "lower", "wider", "narrower", "other_values"],
        Meta(
            description="wider and narrower: farther from the middle of the reference, or nearer; other_values: of texts"
        ),
    ]
    shift: Annotated[float, Meta(description="of the mean rank, in standard deviations of single values")]
    rank_before: Annotated[float, Meta(description="mean rank before")]
    rank_after: Annotated[float, Meta(description="mean rank after")]


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """The world changed. One message per episode; all copies of one `drift_id` are byte-identical, also after a crash."""

    drift_id: Annotated[str, Meta(description="<pipeline>-<shard>-<offset of the first alarm>")]
    pipeline: Annotated[str, Meta(description="its name")]
    shard: Annotated[Count, Meta(description="of the model")] = 0
    signal: Annotated[str, Meta(description="error, label, score or feature:<name>: what was noticed first")]
    detector: Annotated[str, Meta(description="what noticed it")]
    severity: Annotated[float, Meta(description="shift of the mean, in standard deviations of single values")]
    before: Annotated[float, Meta(description="mean before; of a signal without bounds its mean rank, 0 to 1")] = 0.0
    after: Annotated[float, Meta(description="as `before`, since then")] = 0.0
    examples_topic: Annotated[str, Meta(description="whose offsets these are")]
    from_offset: Annotated[int, Meta(ge=0, description="example from which the world was another, most likely")]
    to_offset: Annotated[int, Meta(ge=0, description="the example after the one that gave the alarm")]
    detected_at_ms: Annotated[int, Meta(description="timestamp of the example that gave the alarm")]
    segment: Annotated[str | None, Meta(description="<feature>=<value>, if not overall")] = None
    moved: Annotated[list[Moved], Meta(description="features that moved at that time, the most first")] = []


class LabelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Please tell us the truth about this event. The record's key is the entity id."""

    event_id: Annotated[str, Meta(description="of the event")]
    features: Annotated[dict[str, Value], Meta(description="as they were scored")]
    prediction: Annotated[LabelValue | None, Meta(description="what was answered")]
    uncertainty: Annotated[float | None, Meta(description="as in the prediction")]
    reason: Annotated[str, Meta(description="why it is asked, in words")]
    expires_at_ms: Annotated[int, Meta(description="event time after which an answer teaches nothing any more")]
    strategy: Annotated[
        str,
        Meta(
            description="what picked it: balanced, variable, split; uniform and warm_up: chance; segment: a floor; "
            "disagreement: of two models"
        ),
    ] = ""
    propensity: Annotated[
        float, Meta(gt=0, le=1, description="how likely this event was to be asked about, given those before it")
    ] = 1.0
    uniform: Annotated[bool, Meta(description="the random share picked it, maybe the strategy, too")] = False
    probabilities: Annotated[dict[str, float] | None, Meta(description="by class")] = None
    score: Annotated[float | None, Meta(description="anomaly score")] = None
    model: Annotated[ModelRef | None, Meta(description="that answered")] = None
    explanation: Annotated[Explanation | None, Meta(description="of the answer")] = None
    source: Annotated[Source | None, Meta(description="of the event; one request for each")] = None
    occurred_at_ms: Annotated[int, Meta(description="of the event")] = 0
    requested_at_ms: Annotated[int, Meta(description="record timestamp of the event as the broker keeps it")] = 0
    declined_by: Annotated[
        str | None, Meta(description="the request once more: this person cannot tell, so it is closed")
    ] = None


ReleaseAction = Literal["started", "released", "canary", "promoted", "confirmed", "rolled_back", "rejected"]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """The audit log: one record for each change of a model that answers or may soon. Copies are byte-identical."""

    release_id: Annotated[str, Meta(description="<base>.<number of the record>.<digest of its content>")]
    pipeline: Annotated[str, Meta(description="its name")]
    shard: Annotated[Count, Meta(description="of the model")] = 0
    action: Annotated[
        ReleaseAction,
        Meta(
            description="started: the first model; released: scored beside the champion, answers nobody; canary: answers a "
            "share of entities; promoted: is the champion; confirmed: its probation is over; rolled_back: the former "
            "champion is back; rejected: gone"
        ),
    ]
    base: Annotated[str, Meta(description="the model that this is about")]
    version: Annotated[str, Meta(description="<base>@<offset of the example before which it happened>")]
    parent: Annotated[str | None, Meta(description="base of the champion at that moment")] = None
    share: Annotated[float, Meta(ge=0, le=1, description="of the entities that it answers from now on")] = 0.0
    decided_by: Annotated[str, Meta(description="rule:<name>, person:<name> or run:<id of a retraining>")]
    reason: Annotated[str, Meta(description="in words")] = ""
    evidence: Annotated[
        dict[str, float | int | str | bool | None], Meta(description="figures that it was decided on")
    ] = {}
    decided_at_ms: Annotated[int, Meta(description="when")]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """The headers of a dead letter. Its key, value and timestamp are the original bytes, its own headers kept."""

    topic: Annotated[str, Meta(description="of the record")]
    partition: Annotated[Count, Meta(description="of the record")]
    offset: Annotated[Count, Meta(description="of the record")]
    stage: Annotated[Literal["score", "learn"], Meta(description="who refused it")]
    code: Annotated[str, Meta(description="what is wrong; see docs/reference/codes.md")]
    message: Annotated[str, Meta(max_length=500, description="what was wrong; never quotes the payload")]


TOPICS: dict[str, type[msgspec.Struct]] = {
    "events": Event,
    "labels": Label,
    "predictions": Prediction,
    "examples": Example,
    "drifts": Drift,
    "label_requests": LabelRequest,
    "releases": Release,
    "dead_letters": DeadLetter,
}
