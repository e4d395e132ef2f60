"""Where a pipeline's state begins: not always with the oldest record of its topics.

It is kept in the control hash before the first worker starts, and stays there for as long as the state does.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["Beginning"]

START = "start:"  # field of the control hash, followed by <topic>:<partition>: the first offset that is read
ANSWERED = "answered:"  # likewise: the offset up to which an earlier state has given its answers


class Beginning(msgspec.Struct, frozen=True):
    """Offsets by (topic, partition), the topic's bare name; what is not there begins where the log begins."""

    starts: dict[tuple[str, int], int] = {}
    answered: dict[tuple[str, int], int] = {}

    def fields(self) -> dict[str, str]:
        """As the control hash keeps it.

        >>> Beginning({("events", 3): 17}).fields()
        {'start:events:3': '17'}
        """
        return {
            f"{kind}{topic}:{partition}": str(offset)
            for kind, offsets in ((START, self.starts), (ANSWERED, self.answered))
            for (topic, partition), offset in offsets.items()
        }

    @classmethod
    def of(cls, stored: Mapping[str, str]) -> Beginning:
        """What a control hash says of it."""
        return cls(_offsets(START, stored), _offsets(ANSWERED, stored))

    def answered_until(self, partition: int) -> dict[str, int]:
        """By topic, for one partition."""
        return {topic: offset for (topic, number), offset in self.answered.items() if number == partition}


def _offsets(kind: str, stored: Mapping[str, str]) -> dict[tuple[str, int], int]:
    found = {}
    for field, offset in stored.items():
        if field.startswith(kind):
            topic, _, partition = field.removeprefix(kind).partition(":")
            found[topic, int(partition)] = int(offset)
    return found
