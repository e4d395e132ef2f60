"""Which events have their answer already: what lies on the topics says so, for a state may be lost, or ahead of them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from stream.errors import DriftloopError
from stream.messages import Source

__all__ = ["Answers", "source_of"]


DEAD, PREDICTED = 1, 2


class _Answer(msgspec.Struct):
    source: Source


_decode = msgspec.json.Decoder(_Answer).decode


def source_of(prediction: bytes | None) -> Source | None:
    """The event that a record of `predictions` answers; None if it is no record of ours."""
    try:
        return _decode(prediction or b"").source
    except msgspec.DecodeError:
        return None


class Answers:
    """Of the events of one partition with offsets in [low, high)."""

    def __init__(self, place: str, low: int, high: int) -> None:
        """`place`: the partition, in words."""
        self._place = place
        self._low = low
        self._marks = bytearray(max(0, high - low))
        self._predicted = low - 1  # the last event that has a prediction

    def add(self, offset: int, *, prediction: bool) -> None:
        """This event has a prediction, or a dead letter."""
        if 0 <= offset - self._low < len(self._marks):
            at = offset - self._low
            self._marks[at] = PREDICTED if prediction else max(self._marks[at], DEAD)
            if prediction:
                self._predicted = max(self._predicted, offset)

    def until(self, events: Iterable[int]) -> int:
        """The offset before which no event is to be answered any more; 0 if none has an answer.

        Events before the first one that has an answer are left unanswered: the state from before began behind them.

        Args:
            events: which offsets in `span` hold an event; only read if there is a gap.

        Raises DriftloopError: an event has no answer though a later one has a prediction.
        """
        end = self._end()
        if not end:
            return 0
        gap = self._gap()
        if gap is None:
            return end
        missing = [offset for offset in events if gap <= offset < end and not self._marks[offset - self._low]]
        if not missing:
            return end  # what is there are markers of transactions
        late = [offset for offset in missing if offset < self._predicted]
        if late:
            raise DriftloopError(
                f"{len(late)} events of {self._place} from offset {late[0]} to {late[-1]} have neither prediction nor dead letter, "
                f"though later ones have: to answer them is to answer those a second time. Begin behind them (--from-offset, at "
                f"{late[-1] + 1} of this partition), or `driftloop reset` and start the workers: then all that are still there are "
                "answered again"
            )
        return missing[0]  # a worker was cut off: dead letters of this micro-batch came out, the predictions did not

    def _gap(self) -> int | None:
        """The first offset without an answer between two with one."""
        # Dead letters are kept longer than predictions: one from before says nothing of the events behind it.
        first, end = self._marks.find(PREDICTED), self._end() - self._low
        if first < 0:
            first = self._marks.find(DEAD)
        found = self._marks.find(0, first) if first >= 0 else -1
        return self._low + found if 0 <= found < end else None

    def span(self) -> tuple[int, int]:
        """Offsets [from, to) that `until` wants to know of."""
        gap = self._gap()
        return (0, 0) if gap is None else (gap, self._end())

    def _end(self) -> int:
        last = max(self._marks.rfind(DEAD), self._marks.rfind(PREDICTED))
        return self._low + last + 1 if last >= 0 else 0
