"""What is remembered of a scored event until its label has come or the time for it has passed.

Due times: every remembered event has a moment of event time at which something happens to it. They are stored in one
chunk per micro-batch, and the agenda holds in memory only those that come soon, so a worker's memory does not grow
with the label delay. What happens, and when, depends on the records alone, never on how they were cut into batches.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from stream.core.estimating import QualityState
from stream.messages import LabelValue
from stream.ports import Due

__all__ = [
    "NEVER_MS",
    "Agenda",
    "Beside",
    "LabellingState",
    "Meta",
    "QueryState",
    "Remembered",
    "decode_remembered",
    "encode_remembered",
    "summed",
]


NEVER_MS = 1 << 62


class QueryState(msgspec.Struct):
    """What one partition knows of its label requests (core/querying.py)."""

    events: int = 0
    asked: int = 0
    credit: int = 0  # earned and not spent by the strategy, in millionths
    due: float = 0.0  # requests that the strategy is behind its share
    threshold: float = 1.0  # of confidence (variable, split)
    strategy_asked: int = 0
    day: int = -1
    today: int = 0
    today_strategy: int = 0
    errors: list[list[float]] = []  # by slot of uncertainty: [labels, of them predicted wrong], the older the less
    window: bytes = b""  # bins of the last utilities; the place of the newest follows from `events`
    segments: dict[str, dict[str, list[int]]] = {}  # segment -> value -> [events, asked or labelled]


class LabellingState(msgspec.Struct):
    """Where labels are asked for: what was asked, and what is known of the quality."""

    query: QueryState = msgspec.field(default_factory=QueryState)
    quality: QualityState = msgspec.field(default_factory=QualityState)


class Meta(msgspec.Struct):
    """The scalar state of one partition, stored as JSON so that an operator can read it."""

    offsets: dict[str, int] = {}
    watermark_ms: int = -1
    example_sequence: int = 0
    chunk_sequence: int = 0
    counts: dict[str, int] = {}
    sources: dict[str, int] = {}  # first labels of late, by capped beginning of their sources; "" is all
    labelling: LabellingState | None = None  # where labels are asked for


def summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts of several partitions together.

    >>> summed([{"events": 2}, {"events": 3, "labels": 1}])
    {'events': 5, 'labels': 1}
    """
    total: dict[str, int] = {}
    for its in counts:
        for name, count in its.items():
            total[name] = total.get(name, 0) + count
    return total


class Beside(msgspec.Struct, array_like=True, gc=False):
    """What the model beside the champion answered."""

    slot: str
    version: str
    prediction: LabelValue | None = None
    probabilities: dict[str, float] | None = None
    score: float | None = None
    failed: bool = False
    answers: bool = False  # the user was given this answer, not the champion's


class Remembered(msgspec.Struct, array_like=True, gc=False):
    """One scored event. Feature values stand in the pipeline's order; names are in the pipeline."""

    entity_id: str
    occurred_at_ms: int
    offset: int  # of the event in its partition
    features: list[Any]
    version: str
    prediction: LabelValue | None
    probabilities: dict[str, float] | None
    score: float | None
    persistence: LabelValue | None
    prior: LabelValue | None
    prior_probabilities: dict[str, float] | None
    label: LabelValue | None = None  # the first label, which wins
    labelled_by_default: bool = False
    beside: Beside | None = None
    requested: float | None = None  # the probability with which its label was asked for
    label_source: str | None = None  # of the first label
    timestamp_ms: int = 0  # of the event's record
    failed: bool = False  # the champion did; the answer was that of the model beside it


encode_remembered = msgspec.msgpack.Encoder().encode
decode_remembered = msgspec.msgpack.Decoder(Remembered).decode


class Agenda:
    """The due times of one partition that lie before `loaded_until_ms`, and the chunks they come from.

    Something is due once event time has passed it: `due_ms < watermark_ms`.
    """

    def __init__(self) -> None:
        self.loaded_until_ms = -1
        self.next_due_ms = NEVER_MS
        self._heap: list[tuple[int, str, bytes]] = []  # (due_ms, event_id, chunk)
        self._left: dict[bytes, int] = {}  # entries of a chunk that have not come up yet

    def load(self, chunks: Iterable[Due], until_ms: int, watermark_ms: int) -> list[bytes]:
        """Take what falls due in (loaded_until_ms, until_ms]; return chunks in which nothing is left to come."""
        exhausted = []
        for chunk in chunks:
            if chunk.chunk not in self._left:
                left = sum(1 for due_ms, _ in chunk.entries if due_ms >= watermark_ms)
                if not left:
                    exhausted.append(chunk.chunk)
                    continue
                self._left[chunk.chunk] = left
            for due_ms, event_id in chunk.entries:
                if max(self.loaded_until_ms, watermark_ms - 1) < due_ms <= until_ms:
                    heapq.heappush(self._heap, (due_ms, event_id, chunk.chunk))
        self.loaded_until_ms = max(self.loaded_until_ms, until_ms)
        self._look()
        return exhausted

    def coming(self, before_ms: int) -> list[str]:
        """Event ids that fall due before a time, in no order."""
        return [event_id for due_ms, event_id, _ in self._heap if due_ms < before_ms]

    def pop_due(self, watermark_ms: int) -> Iterator[tuple[int, str, bytes]]:
        while self._heap and self._heap[0][0] < watermark_ms:
            yield heapq.heappop(self._heap)
        self._look()

    def add(self, due_ms: int, event_id: str, chunk: bytes) -> None:
        """A new entry of the chunk that this micro-batch is building, due before `loaded_until_ms`."""
        heapq.heappush(self._heap, (due_ms, event_id, chunk))
        self._look()

    def _look(self) -> None:
        self.next_due_ms = self._heap[0][0] if self._heap else NEVER_MS

    def written(self, chunk: Due) -> None:
        """The micro-batch is over and this is its chunk; only chunks with something loaded are tracked."""
        if chunk.first_due_ms <= self.loaded_until_ms:
            self._left[chunk.chunk] = len(chunk.entries)

    def done(self, chunk: bytes) -> bool:
        """One entry of the chunk has come up; true when it was the last."""
        left = self._left.get(chunk, 1) - 1
        if left:
            self._left[chunk] = left
            return False
        self._left.pop(chunk, None)
        return True
