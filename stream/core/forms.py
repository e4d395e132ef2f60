"""In which form a score step hands over what it has made: bytes for Kafka and Redis, or the objects themselves.

A replay scores and learns in one process. There an example need not become JSON to be parsed again, nor an event that is
remembered become msgpack. What is decided, and in which order, is the same under both forms; a test compares the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from stream.core.remembering import Remembered, decode_remembered, encode_remembered
from stream.ports import Outgoing

__all__ = ["EXAMPLES_ONLY", "IN_PROCESS", "WIRE", "Form", "encoded"]

ANSWERS = frozenset((bool, float, str, type(None)))
_encode_json = msgspec.json.Encoder().encode


def _itself(value: Any) -> Any:
    return value


def _keep(one: Remembered) -> Remembered | bytes:
    """What waits for its label will be looked at once more, what has it seldom: bytes take a third of the memory."""
    # What a user's model may answer beside these (1, say) does not come back from bytes as it was.
    return one if one.label is None and type(one.prediction) in ANSWERS else encode_remembered(one)


def _recall(kept: Remembered | bytes) -> Remembered:
    return decode_remembered(kept) if isinstance(kept, bytes) else kept


class Form(NamedTuple):
    """How things leave a score step, and come back to it."""

    remember: Callable[[Remembered], Any]  # what `Commit.remember` holds
    recall: Callable[[Any], Remembered]  # what `Fetched.remembered` held
    message: Callable[[Any], Any]  # what is `Outgoing.value`; see `encoded`
    outbox: bool  # whether a commit carries the outbox
    predictions: bool  # whether somebody wants them: else none is made, unless label requests need it


WIRE = Form(encode_remembered, decode_remembered, _encode_json, outbox=True, predictions=True)
IN_PROCESS = Form(_keep, _recall, _itself, outbox=False, predictions=True)
EXAMPLES_ONLY = IN_PROCESS._replace(predictions=False)


def encoded(out: Outgoing) -> Outgoing:
    """The record that `WIRE` would have made."""
    if out.value is None or isinstance(out.value, bytes):  # a dead letter holds the original bytes
        return out
    return Outgoing(out.topic, out.partition, out.key, _encode_json(out.value), out.timestamp_ms, out.headers)
