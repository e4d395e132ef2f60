"""An archive of examples as a history of events and labels again.

What an example says of its event is exact: its features as they were when it was scored, those of the entity's history
too, and when event and label came. What an archive cannot say is said by nobody: events that never got a label are not in it.
So features of the history are taken from it and never computed, for they would be of labelled events only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec

from stream.batch.replaying import in_order
from stream.core.records import Record
from stream.errors import ConfigurationError
from stream.messages import Example, Label
from stream.pipeline import Feature, Pipeline

__all__ = ["ArchivedHistory"]

_decode = msgspec.json.Decoder(Example).decode
_encode = msgspec.json.Encoder().encode


class ArchivedHistory:
    """Events and labels, each once, however often they stand in the archive. All of them are held in memory."""

    def __init__(self, examples: Iterable[Record]) -> None:
        """`examples`: as they lay on Kafka; what is no example of ours is left out."""
        self._events: dict[tuple[int, int, str], Example] = {}
        self._labels: list[Record] = []
        self._types: dict[str, set[type]] = {}
        seen: set[tuple[int, int, str]] = set()
        for record in examples:
            try:
                example = _decode(record.value or b"")
            except msgspec.DecodeError:
                continue
            source, position = example.event_source, example.label_source_position
            place = source.partition, source.offset, example.event_id
            if place not in self._events:
                self._events[place] = example
                for name, value in example.features.items():
                    self._types.setdefault(name, set()).add(type(value))
            if position is None:  # the declared default: the replay gives it, as the pipeline says
                continue
            at = position.partition, position.offset, example.event_id
            if at not in seen:
                seen.add(at)
                self._labels.append(_label(record, example, *at[:2]))

    @property
    def events(self) -> int:
        return len(self._events)

    def of(self, pipeline: Pipeline) -> tuple[Pipeline, list[Record]]:
        """What scores it, and its records in the order in which workers would take them.

        The first is the pipeline with its entity features declared, for they come with the events.

        Raises ConfigurationError: it has features that the archive does not have.
        """
        declared = pipeline.declared
        entity = [feature.name for feature in pipeline.entity_features]
        missing = [name for name in entity if name not in self._types]
        missing += [name for name, its in declared.items() if its.default is None and name not in self._types]
        if missing and self._events:
            raise ConfigurationError(
                "features", missing, "not in the archive, which cannot compute them: replay `topics` or a file instead"
            )
        features = {**declared, **{name: Feature(type=self._type(name)) for name in entity if self._events}}
        names = [name for name in features if name in self._types]
        records = [_event(example, names) for example in self._events.values()]
        return replace(pipeline, features=features, entity_features=()), in_order([*records, *self._labels])

    def _type(self, name: str) -> type:
        types = self._types[name]
        if types <= {int, float}:
            return float if float in types else int
        if len(types) > 1 or types == {type(None)}:
            raise ConfigurationError(
                "features",
                name,
                f"the archive has values of types {', '.join(sorted(t.__name__ for t in types))}, a feature has one: "
                "replay `topics` or a file instead",
            )
        return next(iter(types))


def _event(example: Example, names: Iterable[str]) -> Record:
    value: dict[str, Any] = {
        "event_id": example.event_id,
        "occurred_at_ms": example.occurred_at_ms,
        "features": {name: example.features[name] for name in names if name in example.features},
    }
    source = example.event_source
    return Record(
        "events", source.partition, source.offset, example.came_at_ms, example.entity_id.encode(), _encode(value)
    )


def _label(record: Record, example: Example, partition: int, offset: int) -> Record:
    """The example's record has the label's timestamp."""
    label = Label(
        event_id=example.event_id,
        label=example.label,
        labelled_at_ms=example.labelled_at_ms,
        source=example.label_source,
    )
    return Record("labels", partition, offset, record.timestamp_ms, example.entity_id.encode(), _encode(label))
