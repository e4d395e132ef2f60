"""The page about what a pipeline file says, from the docstrings of `stream`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from stream import boosting, entity, search_space
from stream.lifecycle import Labelling, Objectives, Retrain, Rollout
from stream.pipeline import Drift, Explain, Feature, Labels, Limits, Pipeline, number

__all__ = ["pipeline_page", "table"]

CLASSES = (Pipeline, Feature, Labels, Retrain, Rollout, Objectives, Labelling, Drift, Explain, Limits)
ENTITY = (
    entity.count, entity.sum, entity.mean, entity.std, entity.min, entity.max, entity.distinct, entity.last,
    entity.seconds_since_last, entity.custom,
)  # fmt: skip
ARGUMENT = re.compile(r"(\w+(?:, \w+)*): (.*)")


def pipeline_page() -> str:
    lines = [
        "# The pipeline file",
        "",
        "A Python file that defines `pipeline = Pipeline(...)`. Everything is named by keyword; `driftloop check <file>` names each mistake with "
        "its key, its value and the remedy. Durations are written as `90s`, `15m`, `1h` or `7d`, by event time.",
    ]
    for its in CLASSES:
        summary, arguments = described(its)
        lines += ["", f"## {its.__name__}", "", *summary, "", *fields(its, arguments)]
        if its is Feature:
            lines += ["", *function("", number)]
    lines += [
        "",
        "## Entity features",
        "",
        "`from stream import entity`. Each describes the entity's history strictly before the event that is being scored.",
    ]
    for made in ENTITY:
        lines += ["", *function("entity.", made)]
    lines += [
        "",
        "## Search space",
        "",
        "`from stream import search_space`. What retraining tries for `params`. `when` names other parameters' values (choices) "
        "without which this one is not tried and keeps the pipeline's value.",
    ]
    for choice in (search_space.number, search_space.whole, search_space.choice):
        lines += ["", *function("search_space.", choice)]
    lines += [
        "",
        "## Boosted trees",
        "",
        "`from stream.boosting import BoostedClassifier, BoostedRegressor`.",
        "",
        *paragraphs(boosting.__doc__ or "")[2:],
    ]
    for model in (boosting.BoostedClassifier, boosting.BoostedRegressor):
        lines += ["", *function("", model)]
    return "\n".join(lines)


def described(its: Any) -> tuple[list[str], dict[str, str]]:
    """The summary of a docstring, and what it says of each argument."""
    text = inspect.getdoc(its) or ""
    summary, _, rest = text.partition("\nArgs:\n")
    arguments: dict[str, str] = {}
    names: list[str] = []
    for line in rest.partition("\nRaises:")[0].splitlines():
        if (start := ARGUMENT.fullmatch(line.strip())) and line.startswith("    ") and not line.startswith("     "):
            names = start[1].split(", ")
            arguments |= dict.fromkeys(names, start[2])
        elif line.strip():
            arguments |= {name: f"{arguments[name]} {line.strip()}" for name in names}
    return paragraphs(summary.partition("\n>>>")[0]), arguments


def fields(its: Any, arguments: dict[str, str]) -> list[str]:
    """A row for each field. Raises ValueError for one that the docstring does not explain."""
    rows = []
    for field in dataclasses.fields(its):
        if field.name not in arguments:
            raise ValueError(f"{its.__name__}.{field.name} has no description: explain it under Args in the docstring")
        rows.append((f"`{field.name}`", f"`{field.type}`", default(field), arguments[field.name]))
    return table(("argument", "type", "default", "meaning"), rows)


def default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
        return f"`{type(value).__name__}()`" if dataclasses.is_dataclass(value) else f"`{shown(value)}`"
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return f"`{type(made).__name__}()`" if dataclasses.is_dataclass(made) else f"`{made!r}`"
    return "required"


def shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and abs(value) >= 1e6 else repr(value)


def function(prefix: str, its: Callable[..., Any]) -> list[str]:
    """Its call with all defaults, and its docstring."""
    call: list[str] = []
    for parameter in inspect.signature(its).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not any(part.startswith("*") for part in call):
            call.append("*")
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        call.append(
            star + parameter.name + ("" if parameter.default is parameter.empty else f"={shown(parameter.default)}")
        )
    summary, _ = described(its)
    if not summary or not summary[0]:
        raise ValueError(f"{prefix}{its.__name__} has no docstring: say what it is")
    return [f"**`{prefix}{its.__name__}({', '.join(call)})`**  ", *summary]


def paragraphs(text: str) -> list[str]:
    """Lines of a docstring joined to paragraphs; code stays as it is."""
    lines: list[str] = []
    for part in inspect.cleandoc(text).split("\n\n"):
        lines += [part if part.startswith("    ") else " ".join(part.split()), ""]
    return lines[:-1]


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """As Markdown; columns without any content are left out."""
    found = [tuple(row) for row in rows]
    kept = [i for i in range(len(heading)) if any(row[i] for row in found)]
    body = [tuple(row[i] for i in kept) for row in found]
    top = tuple(heading[i] for i in kept)
    return [f"| {' | '.join(map(cell, row))} |" for row in (top, tuple("---" for _ in top), *body)]


def cell(text: str) -> str:
    """Text that Markdown takes as it is: no HTML outside of code, no further columns."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)
