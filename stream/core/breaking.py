"""When to stop because nearly all is wrong: that is more likely our mistake than theirs.

Pure and small. It is not part of the stored state: a worker that is started again begins to count anew, and stops again
after as many records.
"""

from __future__ import annotations

from collections import deque

__all__ = ["CircuitBreaker"]

RECORDS_MIN = 200  # a handful of bad records in a row is nothing


class CircuitBreaker:
    """The share of wrong records among the newest of one stream, however they are spread over batches.

    It looks at the fewest newest batches that hold `RECORDS_MIN` records together.

    >>> breaker = CircuitBreaker(share_max=0.9)
    >>> breaker.note(199, 199), breaker.tripped
    (None, False)
    >>> breaker.note(1, 1), breaker.tripped
    (None, True)
    >>> breaker.note(30, 0), breaker.tripped, breaker.dead, breaker.records
    (None, False, 200, 230)
    """

    def __init__(self, share_max: float) -> None:
        """It trips above this share, from 0 to 1; never at 1."""
        self._share_max = share_max
        self._batches: deque[tuple[int, int]] = deque()  # records, and those of them that are wrong
        self.records = self.dead = 0

    def note(self, records: int, dead: int) -> None:
        """One more batch of the stream."""
        if not records:
            return
        self._batches.append((records, dead))
        self.records += records
        self.dead += dead
        while self.records - self._batches[0][0] >= RECORDS_MIN:
            gone, of_them = self._batches.popleft()
            self.records -= gone
            self.dead -= of_them

    @property
    def tripped(self) -> bool:
        return self.records >= RECORDS_MIN and self.dead > self._share_max * self.records
