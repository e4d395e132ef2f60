"""Straight-line Python for a model's own features.

A loop over ten features spends most of its time on the loop. Written out, feature by feature, the same arithmetic in
the same order takes about half. `unrolled` makes such a function from a template; what it does can be read in
`__source__`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any

__all__ = ["FEATURES_MAX", "each", "named", "unrolled"]

FEATURES_MAX = 200  # beyond that the text grows long and a loop is as good


def each(template: str, count: int, separator: str = "\n") -> str:
    """The template once per feature, `#` being its number.

    >>> each("m#", 3, ", ")
    'm0, m1, m2'
    """
    return separator.join(template.replace("#", str(number)) for number in range(count))


def unrolled(source: str, known: Mapping[str, Any]) -> Callable[..., Any]:
    """The function `made` that the source defines, with these names in its reach. Never give it text from outside.

    >>> unrolled("def made(x):\\n    return x + one", {"one": 1})(2)
    3
    """
    scope = dict(known)
    exec(_code(source), scope)
    made: Callable[..., Any] = scope["made"]
    made.__dict__["__source__"] = source
    return made


def named(names: Sequence[str]) -> Callable[[Iterable[Any]], dict[str, Any]]:
    """A function that makes a dictionary with these keys of as many values; it raises ValueError for another number.

    >>> named(["amount", "country"])([3.0, "de"])
    {'amount': 3.0, 'country': 'de'}
    """
    if not 0 < len(names) <= FEATURES_MAX:
        return lambda values: dict(zip(names, values, strict=True))
    count = len(names)
    source = f"def made(values):\n    {each('v#', count, ', ')}, = values\n    return {{{each('n#: v#', count, ', ')}}}"
    return unrolled(source, {f"n{number}": name for number, name in enumerate(names)})


@lru_cache(maxsize=64)
def _code(source: str) -> CodeType:
    return compile(source, "<unrolled>", "exec")
