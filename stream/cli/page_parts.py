"""Texts and boxes that the sections of a period's page are made of."""

from __future__ import annotations

from collections.abc import Sequence

from stream.cli.pages import escape
from stream.core.moments import moment_text

__all__ = ["absent", "card", "duration", "percent", "plot", "section", "time_of"]

UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def time_of(at_ms: int) -> str:
    return moment_text(at_ms).removesuffix(":00")


def duration(ms: float | None) -> str:
    """A duration in the largest unit that suits it.

    >>> duration(90_000), duration(250), duration(None)
    ('1.5 min', '250 ms', '–')
    """
    if ms is None:
        return "–"
    return next((f"{ms / size:.3g} {unit}" for size, unit in UNITS if ms >= size), f"{ms:.0f} ms")


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def section(name: str, title: str, note: str, *parts: str) -> str:
    return (
        f'<section id="{name}" aria-labelledby="{name}-h"><div class="head"><h2 id="{name}-h">{escape(title)}</h2>'
        f'<p class="muted">{escape(note)}</p></div>{"".join(parts)}</section>'
    )


def card(*parts: str, title: str = "") -> str:
    head = f"<h3>{escape(title)}</h3>" if title else ""
    return f'<div class="card">{head}{"".join(parts)}</div>'


def plot(title: str, legend: Sequence[tuple[str, str]], chart: str) -> str:
    keys = "".join(f'<span class="c-{colour}">{escape(name)}</span>' for name, colour in legend)
    return (
        f'<figure class="card plot"><figcaption><span>{escape(title)}</span><span class="legend">{keys}</span></figcaption>'
        f"{chart}</figure>"
    )


def absent(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'
