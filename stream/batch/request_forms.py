"""What a person reads in a form: Markdown, in which everything that comes from records is escaped."""

from __future__ import annotations

import re
from collections.abc import Callable

from stream.core.moments import moment_text
from stream.messages import LabelRequest, LabelValue

__all__ = ["escaped", "form_body", "form_subject", "plain_body"]

TEXT_MAX = 200
FEATURES_MAX = 100


def escaped(value: object) -> str:
    """One line that is text in Markdown, whatever is in it.

    >>> escaped("<b>|*x*")
    '&lt;b&gt;\\\\|\\\\*x\\\\*'
    """
    text = " ".join(str(value).split())
    text = text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]} ..."
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]()!|~$^])", r"\\\1", text)
    # Such a text would make a link of itself.
    return re.sub(r"(?i)(https?|ftp|mailto|www)([:.])", r"\1&#8203;\2", text)


def form_subject(pipeline: str, request: LabelRequest) -> str:
    return f"{pipeline}: label of {' '.join(request.event_id.split())[:TEXT_MAX]}?"


def form_body(request: LabelRequest, remark: str) -> str:
    """Features, what the model says and why, why it is asked, and until when."""
    parts = [f"**Asked again: {escaped(remark)}**"] if remark else []
    parts.append(f"**Event** {escaped(request.event_id)}, {_time(request.occurred_at_ms)}")
    parts.append(_predicted(request))
    parts.append(f"**Asked because** {escaped(request.reason)}")
    parts.append(_table("feature", "value", list(request.features.items())))
    if request.explanation is not None and request.explanation.contributions:
        found = request.explanation
        rows: list[tuple[str, object]] = [(name, f"{by:+.4g}") for name, by in found.contributions]
        parts.append(_table("contributes", found.scale.replace("_", " "), rows))
    parts.append(f"Answers count until event time {_time(request.expires_at_ms)}.")
    return "\n\n".join(parts)


def plain_body(request: LabelRequest, remark: str) -> str:
    """The same without the features, as text that no Markdown is made of."""
    lines = [f"Asked again: {remark}"] if remark else []
    lines.append(f"Event {request.event_id}, {_time(request.occurred_at_ms)}")
    lines.append(f"The model says {_says(request, _line)}")
    if request.explanation is not None and request.explanation.contributions:
        parts = ", ".join(f"{_line(name)} {by:+.4g}" for name, by in request.explanation.contributions)
        lines.append(f"because of ({request.explanation.scale.replace('_', ' ')}): {parts}")
    lines.append(f"Asked because {request.reason}")
    lines.append(f"Answers count until event time {_time(request.expires_at_ms)}.")
    return "\n".join(map(_line, lines))


def _line(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= TEXT_MAX * 5 else f"{text[: TEXT_MAX * 5]} ..."


def _predicted(request: LabelRequest) -> str:
    return f"**The model says** {_says(request, escaped)}"


def _says(request: LabelRequest, text: Callable[[object], str]) -> str:
    line = text(_shown(request.prediction))
    if request.probabilities:
        likely = sorted(request.probabilities.items(), key=lambda one: -one[1])[:5]
        line += f" ({', '.join(f'{text(name)}: {share:.1%}' for name, share in likely)})"
    elif request.score is not None:
        line += f" (score {request.score:.4g})"
    return line + (f", uncertainty {request.uncertainty:.2f}" if request.uncertainty is not None else "")


def _shown(value: LabelValue | None) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "nothing yet" if value is None else value


def _table(left: str, right: str, rows: list[tuple[str, object]]) -> str:
    lines = [f"| {left} | {right} |", "|---|---|"]
    lines += [f"| {escaped(name)} | {escaped(value)} |" for name, value in rows[:FEATURES_MAX]]
    if len(rows) > FEATURES_MAX:
        lines.append(f"| ... | {len(rows) - FEATURES_MAX} more |")
    return "\n".join(lines)


def _time(at_ms: int) -> str:
    return f"{moment_text(at_ms)} UTC"
