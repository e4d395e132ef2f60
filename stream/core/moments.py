"""A moment as people read it."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["moment_text"]


def moment_text(at_ms: int) -> str:
    """Epoch milliseconds as a moment, UTC.

    >>> moment_text(0), moment_text(10**18)
    ('1970-01-01 00:00:00', '1000000000000000000 ms')
    """
    try:
        return datetime.fromtimestamp(at_ms / 1e3, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # no date that a calendar has
        return f"{at_ms} ms"
