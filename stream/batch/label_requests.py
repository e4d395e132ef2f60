"""Label requests from the side of those who answer: which are open, and taking answers.

For `driftloop label` and for the Airflow DAG `label_requests`. An answer is an ordinary record on `labels`; that somebody
cannot tell is the request once more on `label_requests`, with `declined_by`. So whoever reads both topics knows what is open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from stream.adapters.kafka_publisher import KafkaPublisher
from stream.adapters.kafka_ranges import read_range
from stream.adapters.kafka_topics import KafkaTopics
from stream.adapters.redis_connections import redis_client
from stream.core.label_sources import SOURCE_MAX
from stream.core.records import LabelParser, Record
from stream.core.remembering import Meta
from stream.errors import ConfigurationError, RecordRejected
from stream.messages import Label, LabelRequest, LabelValue
from stream.pipeline import Pipeline, label_fits
from stream.ports import Outgoing
from stream.settings import Settings
from stream.topics import TopicNames

__all__ = ["Answer", "OpenRequest", "answer", "check_label", "label_from_text", "open_requests"]

_decode_request = msgspec.json.Decoder(LabelRequest).decode


class OpenRequest(NamedTuple):
    """A request that nobody has answered or declined."""

    key: bytes  # of the event: the answer's key, too
    partition: int  # of the event: the answer goes to the same one
    request: LabelRequest
    expired: bool = False

    @property
    def event(self) -> str:
        """<partition>/<event id>"""
        return f"{self.partition}/{self.request.event_id}"


class Answer(NamedTuple):
    """`label` None: cannot tell."""

    asked: OpenRequest
    label: LabelValue | None


def open_requests(settings: Settings, pipeline: Pipeline, *, expired: bool = False) -> list[OpenRequest]:
    """Oldest first, each event once. Expired is what lies so far behind its partition's event time.

    Args:
        expired: those that have no label, too.

    Raises Unavailable.
    """
    names = TopicNames.of(pipeline)
    kafka = KafkaTopics(settings.kafka(), names)
    found: dict[tuple[int, str], OpenRequest] = {}
    oldest_ms: dict[int, int] = {}
    declined: set[tuple[int, str]] = set()  # a worker that starts again may publish a request once more, behind that
    passed_ms = asyncio.run(_event_times(settings, names.prefix, kafka))
    for partition, watermark_ms in passed_ms.items():
        for record in _all(settings, names, kafka, "label_requests", partition):
            request = _request(record)
            if request is None or not record.key:
                continue
            event = partition, request.event_id
            if request.declined_by is not None:
                declined.add(event)
                found.pop(event, None)
            elif event not in declined and (expired or request.expires_at_ms >= watermark_ms):
                over = request.expires_at_ms < watermark_ms
                found.setdefault(event, OpenRequest(record.key, partition, request, over))
                oldest_ms[partition] = min(record.timestamp_ms, oldest_ms.get(partition, record.timestamp_ms))
    from_offsets = kafka.offsets_at("labels", oldest_ms) if oldest_ms else {}
    parse = LabelParser(pipeline).parse
    for partition, offset in from_offsets.items():
        for record in _all(settings, names, kafka, "labels", partition, offset):
            try:
                event = partition, parse(record)[1].event_id
            except RecordRejected:
                continue  # it is a dead letter, and nobody has answered
            if event in found and found[event].key == record.key:
                del found[event]
    return sorted(found.values(), key=lambda asked: (asked.request.requested_at_ms, asked.request.event_id))


def _request(record: Record) -> LabelRequest | None:
    try:
        return _decode_request(record.value or b"")
    except msgspec.DecodeError:
        return None  # not a record of ours


def _all(
    settings: Settings,
    names: TopicNames,
    kafka: KafkaTopics,
    topic: str,
    partition: int,
    from_offset: int | None = None,
) -> Iterable[Record]:
    low, high = kafka.offsets(topic, partition)
    start = low if from_offset is None else max(low, from_offset)
    for batch in read_range(settings.kafka(), names, topic, partition, start, high):
        yield from batch


async def _event_times(settings: Settings, name: str, kafka: KafkaTopics) -> dict[int, int]:
    """Where event time stands in each partition."""
    client = redis_client(**settings.redis())
    try:
        times = {}
        for partition in range(kafka.describe().topics["label_requests"].partitions):
            meta = await client.hget(f"{{{name}:{partition}}}:state", "meta")
            times[partition] = msgspec.json.decode(meta, type=Meta).watermark_ms if meta else -1
        return times
    finally:
        await client.aclose()


def answer(
    settings: Settings,
    pipeline: Pipeline,
    answers: Sequence[Answer],
    *,
    by: str,
    now_ms: Callable[[], int] = lambda: int(time.time() * 1e3),
) -> dict[str, int]:
    """Send answers; returns how many were labels and how many could not tell. All are checked before any is sent.

    Args:
        by: the label's source, `person:<name>`.

    Raises:
        ConfigurationError: an answer that does not fit the task, or a class that is not one of `labels.classes`.
        Unavailable: Kafka did not take them; sending them again does no harm.
    """
    for given in answers:
        if given.label is not None:
            check_label(pipeline, given.label)
    at_ms = now_ms()
    records = [_outgoing(given, by, at_ms) for given in answers]

    async def send() -> None:
        publisher = KafkaPublisher(settings.kafka(), TopicNames.of(pipeline))
        try:
            await publisher.publish(records)
        finally:
            await publisher.close()

    if records:
        asyncio.run(send())
    labels = sum(given.label is not None for given in answers)
    return {"labels": labels, "declined": len(answers) - labels}


def _outgoing(given: Answer, by: str, at_ms: int) -> Outgoing:
    asked = given.asked
    value: Any
    if given.label is None:
        topic, value = "label_requests", msgspec.structs.replace(asked.request, declined_by=by)
    else:
        topic = "labels"
        value = Label(event_id=asked.request.event_id, label=given.label, labelled_at_ms=at_ms, source=by[:SOURCE_MAX])
    return Outgoing(topic, asked.partition, asked.key, msgspec.json.encode(value), at_ms)


def label_from_text(pipeline: Pipeline, text: str) -> LabelValue:
    """What a person wrote: true or false, a class, a number; spaces around it are nobody's. Raises ConfigurationError."""
    parsed: Any = text if text in (pipeline.labels.classes or ()) else text.strip() or None
    if pipeline.task in ("binary", "anomaly"):
        parsed = {"true": True, "false": False}.get(text.strip().lower())
    elif pipeline.task == "regression":
        try:
            parsed = float(text)
        except ValueError:
            parsed = None
    if parsed is None:
        raise ConfigurationError("label", text, f"does not fit the task {pipeline.task!r}")
    return check_label(pipeline, parsed)


def check_label(pipeline: Pipeline, label: LabelValue) -> LabelValue:
    """Raises ConfigurationError unless the score stage would take it."""
    if not label_fits(pipeline.task, label):
        raise ConfigurationError("label", label, f"does not fit the task {pipeline.task!r}")
    classes = pipeline.labels.classes
    if classes and label not in classes:
        raise ConfigurationError("label", label, f"use one of labels.classes: {', '.join(classes)}")
    return label
