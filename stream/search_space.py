"""What retraining tries for a pipeline's parameters: `search_space={"lr": number(0.001, 1, log=True), ...}`.

Parameters that only one family uses stand beside the others; `build(params)` reads those it needs:

    search_space={
        "family": search_space.choice("logistic", "boosted"),
        "learning_rate": search_space.number(0.001, 1, log=True),
        "trees": search_space.whole(20, 200, when={"family": "boosted"}),
    }
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stream.errors import ConfigurationError

__all__ = ["Choice", "Number", "Parameter", "Whole", "choice", "mistakes", "number", "whole"]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """`when`: other parameters' values (choices) without which this one is not tried and keeps the pipeline's value."""

    when: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Number(Parameter):
    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Whole(Parameter):
    low: int
    high: int
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Choice(Parameter):
    values: tuple[bool | int | float | str | None, ...]


def number(low: float, high: float, *, log: bool = False, when: Mapping[str, Any] | None = None) -> Number:
    """A number from `low` to `high`; `log`: as many trials between 0.001 and 0.01 as between 0.01 and 0.1."""
    return Number(low=low, high=high, log=log, when=when or {})


def whole(low: int, high: int, *, log: bool = False, when: Mapping[str, Any] | None = None) -> Whole:
    """A whole number from `low` to `high`, both included."""
    return Whole(low=low, high=high, log=log, when=when or {})


def choice(*values: bool | int | float | str | None, when: Mapping[str, Any] | None = None) -> Choice:
    """One of these values.

    >>> choice("logistic", "boosted").values
    ('logistic', 'boosted')
    """
    return Choice(values=values, when=when or {})


def mistakes(space: Mapping[str, Any]) -> Iterator[ConfigurationError]:
    """What is wrong in a search space."""
    known: dict[str, Any] = {}
    for name, parameter in space.items():
        key = f"search_space[{name!r}]"
        if isinstance(parameter, Choice):
            yield from _choice(key, parameter)
        elif isinstance(parameter, Number | Whole):
            yield from _range(key, parameter)
        else:
            yield ConfigurationError(
                key, parameter, "use search_space.number(low, high), whole(low, high) or choice(...)"
            )
            continue
        yield from _condition(key, parameter, known)
        known[name] = parameter


def _choice(key: str, parameter: Choice) -> Iterator[ConfigurationError]:
    values = parameter.values
    plain = all(value is None or isinstance(value, bool | int | float | str) for value in values)
    if not values or not plain or len({(type(value), value) for value in values}) != len(values):
        yield ConfigurationError(key, values, "give one or more different numbers, texts, booleans or None")


def _range(key: str, parameter: Number | Whole) -> Iterator[ConfigurationError]:
    low, high = parameter.low, parameter.high
    kinds = int if isinstance(parameter, Whole) else int | float
    if not all(isinstance(v, kinds) and not isinstance(v, bool) and math.isfinite(v) for v in (low, high)):
        what = "whole" if isinstance(parameter, Whole) else "finite"
        yield ConfigurationError(key, (low, high), f"low and high must be {what} numbers")
    elif low >= high:
        yield ConfigurationError(key, (low, high), "low must be less than high")
    elif parameter.log and low <= 0:
        yield ConfigurationError(key, (low, high), "log=True needs low above 0")


def _condition(key: str, parameter: Parameter, known: Mapping[str, Any]) -> Iterator[ConfigurationError]:
    if not isinstance(parameter.when, Mapping):
        yield ConfigurationError(f"{key}.when", parameter.when, "give a dictionary, such as {'family': 'boosted'}")
        return
    for other, value in parameter.when.items():
        if not isinstance(known.get(other), Choice):
            yield ConfigurationError(f"{key}.when", other, "name a choice(...) that stands before it")
        elif value not in known[other].values:
            yield ConfigurationError(f"{key}.when", value, f"use one of {known[other].values}")
