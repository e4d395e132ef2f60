"""Small charts as SVG text, for pages that work without script; they look like those of the live page (`page.css`).

Every chart is made twice, wide and narrow, and the page's style shows the one that fits: text stays as large as it is.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

__all__ = ["Line", "Mark", "compact", "line_chart", "share_chart", "sparkline", "time_text"]

Size = tuple[float, float, int]  # width, height, times at the axis
COURSE: dict[str, Size] = {"wide": (880, 260, 10), "narrow": (340, 200, 3)}
SHARES: dict[str, Size] = {"wide": (1_000, 140, 12), "narrow": (340, 150, 3)}
STEPS_S = (
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800
)  # fmt: skip
LETTER = 6.4  # width of one at 11 px


class Line(NamedTuple):
    """`colour`: a class of page.css, such as "blue". None interrupts the line."""

    name: str
    colour: str
    points: Sequence[tuple[float, float | None]]


class Mark(NamedTuple):
    """A dashed vertical at a moment, with a word above and a sentence for whoever points at it."""

    x: float
    colour: str
    word: str
    title: str


def compact(value: float | None) -> str:
    """A number for an axis.

    >>> compact(0.12345), compact(12_300), compact(None)
    ('0.123', '12.3k', '–')
    """
    if value is None:
        return "–"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def time_text(at_ms: float, step_s: float) -> str:
    """A moment at an axis, as exact as the steps need; UTC."""
    moment = datetime.fromtimestamp(at_ms / 1_000, UTC)
    if step_s < 60:
        return moment.strftime("%H:%M:%S")
    return moment.strftime("%d %b" if step_s >= 86_400 else "%H:%M" if moment.hour or moment.minute else "%d %b")


def line_chart(
    lines: Sequence[Line],
    *,
    label: str,
    marks: Sequence[Mark] = (),
    levels: Sequence[tuple[float, str]] = (),
    low_min: float | None = None,
    y_text: Callable[[float], str] = compact,
) -> str:
    """Lines over time.

    Args:
        label: what a screen reader says of it.
        levels: horizontals with their words, such as an objective.
        low_min: what lies below is cut off.
    """
    if all(sum(y is not None for _, y in line.points) < 2 for line in lines):
        return '<p class="note">Too few labels for a course.</p>'
    return _twice(COURSE, lambda size: _lines(size, lines, label, marks, levels, low_min, y_text))


def share_chart(
    slots: Sequence[tuple[float, Mapping[str, int]]],
    colours: Mapping[str, str],
    width_ms: float,
    *,
    label: str,
    marks: Sequence[Mark] = (),
) -> str:
    """Stacked shares of each slot of time, one colour each (f-... of page.css); a slot without anything is left blank."""
    return _twice(SHARES, lambda size: _shares(size, slots, colours, width_ms, label, marks))


def sparkline(course: Sequence[float | None], label: str) -> str:
    """A line without axes."""
    known = [value for value in course if value is not None]
    if len(known) < 2:
        return ""
    low, high = min(known), max(known)
    points = [
        (4 + 112 * i / max(len(course) - 1, 1), None if v is None else 22 - 18 * (v - low) / ((high - low) or 1))
        for i, v in enumerate(course)
    ]
    return (
        f'<svg class="spark" viewBox="0 0 120 26" role="img" aria-label="{html.escape(label)}">'
        f'<path d="{_path(points)}" class="line c-blue"/></svg>'
    )


# -- drawing ---------------------------------------------------------------------------------------------------------------


def _twice(sizes: Mapping[str, Size], draw: Callable[[Size], str]) -> str:
    return "".join(f'<div class="chart-{name}">{draw(size)}</div>' for name, size in sizes.items())


def _ticks(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, first + 2 * count + 2) if i * step <= high + step * 1e-9]


def _time_axis(low: float, high: float, most: int) -> tuple[list[float], float]:
    step_s = next((s for s in STEPS_S if (high - low) / 1e3 / s <= most), None)
    if step_s is None:
        step_s = 86_400 * math.ceil((high - low) / 86_400_000 / most)
    step = step_s * 1e3
    first = math.ceil(low / step) * step
    return [first + i * step for i in range(most + 2) if first + i * step <= high], step_s


class _Frame:
    """Axes, and what lies where."""

    def __init__(self, size: Size, x: tuple[float, float], y: tuple[float, float], texts: Sequence[str]) -> None:
        self.width, self.height, self.times = size
        self.left = 12 + LETTER * max(map(len, texts), default=1)
        self.right, self.top, self.bottom = self.width - 8.0, 18.0, self.height - 22.0
        self._x, self._y = x, y

    def x(self, at: float) -> float:
        return self.left + (at - self._x[0]) / ((self._x[1] - self._x[0]) or 1) * (self.right - self.left)

    def y(self, value: float) -> float:
        value = min(max(value, self._y[0]), self._y[1])
        return self.bottom - (value - self._y[0]) / ((self._y[1] - self._y[0]) or 1) * (self.bottom - self.top)

    def grid(self, ticks: Sequence[float], texts: Sequence[str]) -> Iterable[str]:
        for tick, text in zip(ticks, texts, strict=True):
            y = self.y(tick)
            yield _rule(self.left, self.right, y, y, "grid-line") + _text(self.left - 6, y + 4, text, "end")
        yield _rule(self.left, self.right, self.bottom, self.bottom, "axis")
        moments, step_s = _time_axis(*self._x, self.times)
        for moment in moments:
            x, text = self.x(moment), time_text(moment, step_s)
            anchor = "end" if x + LETTER * len(text) / 2 > self.width else "middle"
            yield _text(x, self.height - 6, text, anchor)

    def marks(self, marks: Sequence[Mark]) -> Iterable[str]:
        free = -1e9
        for mark in sorted(marks):
            if not self._x[0] <= mark.x <= self._x[1]:
                continue
            x, wide = self.x(mark.x), LETTER * len(mark.word)
            drawn = f"<title>{html.escape(mark.title)}</title>" + _rule(
                x, x, self.top - 4, self.bottom, f"mark c-{mark.colour}"
            )
            if x - wide / 2 > free:
                at = min(max(x, self.left + wide / 2), self.right - wide / 2)
                drawn += _text(at, 11, mark.word, "middle", f"t-{mark.colour}")
                free = at + wide / 2 + 4
            yield f"<g>{drawn}</g>"

    def svg(self, label: str, parts: Iterable[str]) -> str:
        size = f'viewBox="0 0 {self.width} {self.height}"'
        return f'<svg {size} role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>'


def _lines(
    size: Size,
    lines: Sequence[Line],
    label: str,
    marks: Sequence[Mark],
    levels: Sequence[tuple[float, str]],
    low_min: float | None,
    y_text: Callable[[float], str],
) -> str:
    values = [y for line in lines for _, y in line.points if y is not None] + [y for y, _ in levels]
    times = [x for line in lines for x, _ in line.points]
    low, high = min(values), max(values)
    if low_min is not None:
        low = min(max(low, low_min), high)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    bottom = max(low - room, 0.0) if low >= 0 else low - room
    ticks = _ticks(bottom, high + room, 5)
    texts = [y_text(tick) for tick in ticks]
    frame = _Frame(size, (min(times), max(times)), (bottom, high + room), texts)
    parts = list(frame.grid(ticks, texts))
    for value, word in levels:
        y = frame.y(value)
        parts.append(_rule(frame.left, frame.right, y, y, "mark c-green"))
        parts.append(_text(frame.right, y - 4, word, "end", "t-green"))
    parts += frame.marks(marks)
    for line in reversed(lines):  # the first is drawn last, so nothing hides it
        path = _path([(frame.x(x), None if y is None else frame.y(y)) for x, y in line.points])
        parts.append(f'<path d="{path}" class="line c-{line.colour}"><title>{html.escape(line.name)}</title></path>')
    return frame.svg(label, parts)


def _shares(
    size: Size,
    slots: Sequence[tuple[float, Mapping[str, int]]],
    colours: Mapping[str, str],
    width_ms: float,
    label: str,
    marks: Sequence[Mark],
) -> str:
    ticks = [0.0, 0.5, 1.0]
    texts = ["0 %", "50 %", "100 %"]
    frame = _Frame(size, (slots[0][0], slots[-1][0] + width_ms), (0.0, 1.0), texts)
    parts = list(frame.grid(ticks, texts))
    for at, counts in slots:
        total, below = sum(counts.values()), 0
        x, wide = frame.x(at), max(frame.x(at + width_ms) - frame.x(at) - 1, 0.8)
        for name, colour in colours.items():
            if not (count := counts.get(name, 0)):
                continue
            top, bottom = frame.y((below + count) / total), frame.y(below / total)
            below += count
            title = html.escape(f"{name}: {count:,} of {total:,}")
            parts.append(
                f'<rect x="{x:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{bottom - top:.1f}" class="f-{colour}">'
                f"<title>{title}</title></rect>"
            )
    return frame.svg(label, [*parts, *frame.marks(marks)])


def _path(points: Iterable[tuple[float, float | None]]) -> str:
    path, drawing = [], False
    for x, y in points:
        if y is not None:
            # A value between two gaps is a dot: a line of no length with round ends.
            path.append(f"{'L' if drawing else 'M'}{x:.1f} {y:.1f}{'' if drawing else 'h0'}")
        drawing = y is not None
    return "".join(path)


def _rule(x1: float, x2: float, y1: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" class="{css}"/>'


def _text(x: float, y: float, text: str, anchor: str, css: str = "") -> str:
    its = f' class="{css}"' if css else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{its}>{html.escape(text)}</text>'
