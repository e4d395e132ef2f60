"""Named places where a test can kill a worker for good, as `kill -9` would.

`DRIFTLOOP_CRASH_AT=score.after_commit:3` kills the process the third time it passes that point. Unset, a point costs
one comparison per micro-batch.
"""

from __future__ import annotations

import os
import signal

from stream.errors import ConfigurationError

__all__ = ["POINTS", "CrashPoints"]

POINTS = (
    "score.on_assignment",
    "score.before_commit",
    "score.after_commit",
    "score.before_publish",
    "score.after_publish",
    "learn.on_assignment",
    "learn.before_commit",
    "learn.after_commit",
)


class CrashPoints:
    """Armed with at most one point."""

    def __init__(self, crash_at: str | None) -> None:
        self._point, _, nth = (crash_at or "").partition(":")
        if self._point and self._point not in POINTS:
            raise ConfigurationError("DRIFTLOOP_CRASH_AT", crash_at, f"use one of {', '.join(POINTS)}")
        self._left = int(nth or 1)

    def __call__(self, point: str) -> None:
        if point != self._point:
            return
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
