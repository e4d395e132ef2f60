"""Named places where a test can kill a process for good, as `kill -9` would, or stop it, as `kill -STOP` would.

`DRIFTLOOP_CRASH_AT=score.after_commit:3` kills the process the third time it passes that point;
`score.before_commit:3:stop` leaves it there, stopped, until it gets SIGCONT. Unset, a point costs one comparison per
batch.
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
    "learn.after_publish",
    "learn.before_commit",
    "learn.after_commit",
    "learn.in_catch_up",
    "learn.before_release",
    "learn.after_release",
    "archive.before_append",
    "archive.after_append",
    "archive.before_compact",
)


class CrashPoints:
    """Armed with at most one point."""

    def __init__(self, crash_at: str | None) -> None:
        self._point, nth, how = [*(crash_at or "").split(":"), "", ""][:3]
        if self._point and (self._point not in POINTS or how not in ("", "stop")):
            raise ConfigurationError(
                "DRIFTLOOP_CRASH_AT", crash_at, f"use <point>[:nth[:stop]], one of {', '.join(POINTS)}"
            )
        self._left = int(nth or 1)
        self._signal = signal.SIGSTOP if how else signal.SIGKILL

    def __call__(self, point: str) -> None:
        if point != self._point:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._signal)
