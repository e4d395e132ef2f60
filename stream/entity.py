"""Features of an entity's history, declared in a pipeline file: `from stream import entity`.

    entity_features=[
        entity.count("1h"),
        entity.mean("amount", "7d"),
        entity.distinct("merchant", "1d"),
        entity.seconds_since_last(),
        entity.custom("streak", streak, initial=0),
    ]

Every value describes the entity's history strictly before the event that is being scored. How they are computed, and
how exact the windows are, is in `stream/core/features.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from stream.errors import ConfigurationError

__all__ = [
    "EntityFeature", "count", "custom", "distinct", "duration_ms", "last", "max", "mean", "min",
    "seconds_since_last", "std", "sum", "validate",
]  # fmt: skip

Kind = Literal["count", "sum", "mean", "std", "min", "max", "distinct", "last", "seconds_since_last", "custom"]
NUMERIC = frozenset(("sum", "mean", "std", "min", "max"))
UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")
WINDOW_MIN_MS, WINDOW_MAX_MS = 1_000, 400 * 86_400_000
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


def duration_ms(text: str) -> int:
    """Milliseconds of "90s", "15m", "1h" or "7d".

    >>> duration_ms("15m")
    900000
    """
    match = DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ConfigurationError("duration", text, "write a whole number and a unit, such as 90s, 15m, 1h or 7d")
    return int(match[1]) * UNITS_MS[match[2]]


@dataclass(frozen=True)
class EntityFeature:
    """One declared feature of an entity's history.

    Args:
        default: the value while there is no history to compute it from.
        function, initial, state_bytes_max: of a custom feature, see `custom`.
    """

    kind: Kind
    name: str
    field: str | None = None
    window: str | None = None
    default: float | int | str | bool = 0.0
    function: Callable[[Any, Mapping[str, Any], int], tuple[Any, Any]] | None = None
    initial: Any = None
    state_bytes_max: int = 4_096

    @property
    def window_ms(self) -> int:
        return duration_ms(self.window) if self.window is not None else 0

    def describe(self) -> list[Any]:
        """What the stored state of this feature depends on."""
        function = self.function
        named = f"{function.__qualname__}" if function is not None else None
        return [self.kind, self.name, self.field, self.window, self.default, named]


def _windowed(kind: Kind, field: str | None, window: str, name: str | None, default: float) -> EntityFeature:
    parts = [part for part in (field, kind, window) if part]
    return EntityFeature(kind, name or "_".join(map(str, parts)), field, window, default)


def count(window: str, *, name: str | None = None) -> EntityFeature:
    """How many events in the window.

    >>> count("1h").name
    'count_1h'
    """
    return _windowed("count", None, window, name, 0.0)


def sum(field: str, window: str, *, name: str | None = None, default: float = 0.0) -> EntityFeature:  # noqa: A001 - the field's term
    """The sum of a number over the window."""
    return _windowed("sum", field, window, name, default)


def mean(field: str, window: str, *, name: str | None = None, default: float = 0.0) -> EntityFeature:
    """The mean of a number over the window.

    >>> mean("amount", "7d").name
    'amount_mean_7d'
    """
    return _windowed("mean", field, window, name, default)


def std(field: str, window: str, *, name: str | None = None, default: float = 0.0) -> EntityFeature:
    """The population standard deviation of a number over the window."""
    return _windowed("std", field, window, name, default)


def min(field: str, window: str, *, name: str | None = None, default: float = 0.0) -> EntityFeature:  # noqa: A001 - the field's term
    """The smallest value over the window."""
    return _windowed("min", field, window, name, default)


def max(field: str, window: str, *, name: str | None = None, default: float = 0.0) -> EntityFeature:  # noqa: A001 - the field's term
    """The largest value over the window."""
    return _windowed("max", field, window, name, default)


def distinct(field: str, window: str, *, name: str | None = None) -> EntityFeature:
    """About how many different values over the window (within some percent up to about a thousand)."""
    return _windowed("distinct", field, window, name, 0.0)


def last(field: str, *, name: str | None = None, default: float | int | str | bool = 0.0) -> EntityFeature:
    """The value of the entity's last event. Give a `default` of the field's own type if that is str or bool."""
    return EntityFeature("last", name or f"{field}_last", field, None, default)


def seconds_since_last(*, name: str = "seconds_since_last", default: float = 0.0) -> EntityFeature:
    """Seconds of event time since the entity's newest event."""
    return EntityFeature("seconds_since_last", name, None, None, default)


def custom(
    name: str,
    function: Callable[[Any, Mapping[str, Any], int], tuple[Any, Any]],
    *,
    initial: Any = None,
    state_bytes_max: int = 4_096,
) -> EntityFeature:
    """Your own: `function(state, features, occurred_at_ms) -> (state, value)`.

    The state is JSON-like (numbers, strings, lists, dicts) and at most `state_bytes_max` bytes; beyond that the event is
    a dead letter. The function must be deterministic, without I/O, and must not change the old state in place.
    """
    return EntityFeature("custom", name, None, None, 0.0, function, initial, state_bytes_max)


def validate(features: Sequence[EntityFeature], declared: Mapping[str, Any]) -> list[ConfigurationError]:
    """Every mistake in a list of entity features, given the event's own features and their types."""
    found: list[ConfigurationError] = []
    seen = set(declared)
    for position, feature in enumerate(features):
        key = f"entity_features[{position}]"
        if not isinstance(feature, EntityFeature):
            found.append(
                ConfigurationError(key, feature, "use the functions of stream.entity, such as entity.count('1h')")
            )
            continue
        if not NAME.fullmatch(feature.name):
            found.append(ConfigurationError(f"{key}.name", feature.name, "use letters, digits and _"))
        if feature.name in seen:
            found.append(ConfigurationError(f"{key}.name", feature.name, "this name is taken; give another with name="))
        seen.add(feature.name)
        found += _feature_mistakes(key, feature, declared)
    return found


def _feature_mistakes(key: str, feature: EntityFeature, declared: Mapping[str, Any]) -> list[ConfigurationError]:
    found = []
    if feature.field is not None:
        if feature.field not in declared:
            known = ", ".join(declared) or "none"
            found.append(
                ConfigurationError(f"{key}.field", feature.field, f"declare it in features (declared: {known})")
            )
        elif feature.kind in NUMERIC and declared[feature.field] not in (float, int):
            found.append(
                ConfigurationError(f"{key}.field", feature.field, f"{feature.kind} needs a float or int feature")
            )
    found += _default_mistakes(f"{key}.default", feature, declared)
    if feature.window is not None:
        try:
            if not WINDOW_MIN_MS <= feature.window_ms <= WINDOW_MAX_MS:
                found.append(ConfigurationError(f"{key}.window", feature.window, "use 1s to 400d"))
        except ConfigurationError as error:
            found.append(ConfigurationError(f"{key}.window", feature.window, error.remedy))
    return found + (_custom_mistakes(key, feature) if feature.kind == "custom" else [])


def _default_mistakes(key: str, feature: EntityFeature, declared: Mapping[str, Any]) -> list[ConfigurationError]:
    """The model sees the default beside real values: it must be of their type."""
    of_field = declared.get(feature.field, float) if feature.kind == "last" and feature.field is not None else float
    default = feature.default
    if of_field in (str, bool):
        if type(default) is not of_field:
            return [
                ConfigurationError(key, default, f"{feature.field!r} is a {of_field.__name__}: use one, with default=")
            ]
    elif isinstance(default, bool) or not isinstance(default, int | float) or not math.isfinite(default):
        return [ConfigurationError(key, default, "use a finite number, as float or int")]
    return []


def _custom_mistakes(key: str, feature: EntityFeature) -> list[ConfigurationError]:
    found = []
    if not callable(feature.function):
        found.append(ConfigurationError(f"{key}.function", feature.function, "give a function(state, features, ms)"))
    limit = feature.state_bytes_max
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        found.append(ConfigurationError(f"{key}.state_bytes_max", limit, "use a whole number from 1"))
    try:
        same = msgspec.msgpack.decode(msgspec.msgpack.encode(feature.initial)) == feature.initial
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        same = False
    if not same:
        remedy = (
            "use None, numbers, strings, lists and dictionaries: what comes back from Redis must be what was stored"
        )
        found.append(ConfigurationError(f"{key}.initial", feature.initial, remedy))
    return found
