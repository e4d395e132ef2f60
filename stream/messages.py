"""The contracts: one frozen struct per topic. `schemas/` is generated from this file.

Times are UTC epoch milliseconds (`*_at_ms`). A label is a boolean (binary, anomaly), a string (multiclass) or a
number (regression). Fields are only ever added, with a default, so old and new workers read each other.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = [
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
    "Served",
    "Source",
    "Value",
]

Value = bool | int | float | str | None
LabelValue = bool | float | str
Identifier = Annotated[str, Meta(min_length=1, max_length=256)]
EpochMs = Annotated[int, Meta(ge=0, le=4_102_444_800_000)]  # 1970 to 2100
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something that happened to an entity, to be scored. The record's key is the entity id."""

    event_id: Identifier
    occurred_at_ms: EpochMs
    features: dict[str, Value]


class Label(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What turned out to be true of an event. The record's key is the event's own key (the entity id)."""

    event_id: Identifier
    label: LabelValue
    labelled_at_ms: EpochMs
    source: Annotated[str, Meta(min_length=1, max_length=64)] = "producer"


class Source(msgspec.Struct, frozen=True, gc=False):
    """The exact position of an input record."""

    topic: str
    partition: Count
    offset: Count


class ModelRef(msgspec.Struct, frozen=True, gc=False):
    """The exact model: `version` is `<base>@<offset>`, the base model and the examples offset it had learned up to."""

    name: str
    version: str
    slot: str = "champion"


class Explanation(msgspec.Struct, frozen=True, gc=False):
    """Additive contributions: `bias` + all contributions = the prediction on `scale`; only the largest are listed."""

    scale: Literal["log_odds", "probability", "value"]
    bias: float
    contributions: list[tuple[str, float]]
    rest: float = 0.0


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The answer to one event. All copies of one source position are byte-identical."""

    event_id: str
    prediction: Annotated[LabelValue | None, Meta(description="null only while a model knows no class yet")]
    probabilities: dict[str, float] | None = None
    score: Annotated[float | None, Meta(description="anomaly score; higher is stranger")] = None
    uncertainty: Annotated[
        float | None, Meta(description="0 certain to 1 (classes); half-width of a 90 % interval (regression)")
    ] = None
    model: ModelRef
    source: Source
    occurred_at_ms: int
    scored_at_ms: Annotated[int, Meta(description="record timestamp of the event as the broker keeps it")]
    explanation: Explanation | None = None
    clipped: Annotated[list[str], Meta(description="features brought back to their declared range")] = []
    duplicate_of: Annotated[Source | None, Meta(description="first event with the same event_id")] = None


class Served(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What one slot answered, kept until the label comes, with what the baselines knew at that moment."""

    version: str
    prediction: LabelValue | None
    probabilities: dict[str, float] | None = None
    score: float | None = None
    persistence: LabelValue | None = None  # the last label learned when this was served
    prior: LabelValue | None = None  # the majority class or the mean at that moment
    prior_probabilities: dict[str, float] | None = None
    failed: bool = False  # it raised for this event, or its answer could not be written


class Example(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A joined event and label: the features frozen at prediction time, what was served, and the truth."""

    event_id: str
    entity_id: str
    occurred_at_ms: int
    features: dict[str, Value]
    served: dict[str, Served]  # slot -> what it answered; one of them was given to the user
    label: LabelValue
    label_source: str
    labelled_at_ms: int
    timing: Literal["on_time", "early", "default", "late", "correction"]
    partition: Count  # the score partition that emitted this example ...
    sequence: Count  # ... and its number there: 1, 2, 3, without gaps; repeats are skipped
    event_source: Source
    label_source_position: Source | None = None  # none when the label is the declared default
    previous_label: LabelValue | None = None  # what a correction contradicts
    slot: str = "champion"  # whose answer the user was given
    requested: bool = False  # somebody was asked for this label ...
    propensity: float | None = None  # ... and so likely this event was to be asked about
    previous_source: str | None = None  # who gave the label that a correction contradicts
    event_timestamp_ms: int = (
        0  # of the event's record, as the record of this example has that of the label; 0: not known
    )


class Moved(msgspec.Struct, frozen=True, gc=False):
    """A feature that is not what it was. Ranks run from 0 to 1 among the values of its reference."""

    feature: str
    how: Annotated[
        Literal["higher", "lower", "wider", "narrower", "other_values"],
        Meta(
            description="wider and narrower: farther from the middle of the reference, or nearer; other_values: of texts"
        ),
    ]
    shift: Annotated[float, Meta(description="of the mean rank, in standard deviations of single values")]
    rank_before: float
    rank_after: float


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """The world changed. One message per episode; all copies of one `drift_id` are byte-identical, also after a crash."""

    drift_id: str
    pipeline: str
    shard: Count = 0
    signal: Annotated[str, Meta(description="error, label, score or feature:<name>: what was noticed first")]
    detector: str
    severity: Annotated[float, Meta(description="shift of the mean, in standard deviations of single values")]
    before: Annotated[float, Meta(description="mean before; of a signal without bounds its mean rank, 0 to 1")] = 0.0
    after: float = 0.0
    examples_topic: str
    from_offset: Annotated[int, Meta(ge=0, description="example from which the world was another, most likely")]
    to_offset: Annotated[int, Meta(ge=0, description="the example after the one that gave the alarm")]
    detected_at_ms: Annotated[int, Meta(description="timestamp of the example that gave the alarm")]
    segment: Annotated[str | None, Meta(description="<feature>=<value>, if not overall")] = None
    moved: Annotated[list[Moved], Meta(description="features that moved at that time, the most first")] = []


class LabelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Please tell us the truth about this event. The record's key is the entity id."""

    event_id: str
    features: dict[str, Value]
    prediction: LabelValue | None
    uncertainty: float | None
    reason: str
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
    probabilities: dict[str, float] | None = None
    score: float | None = None
    model: ModelRef | None = None
    explanation: Explanation | None = None
    source: Annotated[Source | None, Meta(description="of the event; one request for each")] = None
    occurred_at_ms: int = 0
    requested_at_ms: Annotated[int, Meta(description="record timestamp of the event as the broker keeps it")] = 0
    declined_by: Annotated[
        str | None, Meta(description="the request once more: this person cannot tell, so it is closed")
    ] = None


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """The audit log: one record for each change of a model that answers or may soon. Copies are byte-identical."""

    release_id: Annotated[str, Meta(description="<base>.<number of the record>.<digest of its content>")]
    pipeline: str
    shard: Count = 0
    action: Annotated[
        Literal["started", "released", "canary", "promoted", "confirmed", "rolled_back", "rejected"],
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
    reason: str = ""
    evidence: dict[str, float | int | str | bool | None] = {}
    decided_at_ms: int


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """The headers of a dead letter. Its key, value and timestamp are the original bytes, its own headers kept."""

    topic: str
    partition: Count
    offset: Count
    stage: Literal["score", "learn"]
    code: str
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
