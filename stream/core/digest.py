"""A digest of what an object is: equal for equal models, across processes, reloads and hash seeds.

Pickle bytes will not do: they change with string sharing and set order. The walk follows `__reduce_ex__` like pickle,
but writes type names and values: floats as 8 bytes, dictionaries in their order (learners depend on it), sets by their
sorted sub-digests, a mutable object seen before by the number of its first visit. The random state in River's Gaussians
is left out: no learner uses it.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any

from river.proba import Gaussian

__all__ = ["state_digest"]

_pack_float = struct.Struct(">d").pack
_pack_long = struct.Struct(">q").pack
SMALL = 1 << 62


def state_digest(value: Any) -> str:
    """32 hex digits (BLAKE2b).

    >>> from river import linear_model
    >>> one, other = linear_model.LogisticRegression(), linear_model.LogisticRegression()
    >>> state_digest(one) == state_digest(other)
    True
    >>> one.learn_one({"a": 1.0}, True)
    >>> state_digest(one) == state_digest(other)
    False
    """
    walk = _Walk()
    walk.visit(value)
    return hashlib.blake2b(b"".join(walk.parts), digest_size=16).hexdigest()


class _Walk:
    """Collects the canonical bytes of one object graph."""

    def __init__(self, seen: dict[int, int] | None = None, alive: list[Any] | None = None) -> None:
        self.parts: list[bytes] = []
        self._write = self.parts.append
        self._seen = seen if seen is not None else {}  # id -> number of its first visit
        self._alive = alive if alive is not None else []  # ids stay unique while the objects live

    def visit(self, value: Any) -> None:
        kind = type(value)
        atom = _ATOMS.get(kind)
        if atom is not None:
            self._write(atom(value))
        elif kind is tuple:
            self._write(b"(%d" % len(value))
            for item in value:
                self.visit(item)
        elif not self._known(value):
            self._mutable(kind, value)

    def _known(self, value: Any) -> bool:
        number = self._seen.get(id(value))
        if number is not None:
            self._write(b"@%d;" % number)
            return True
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        return False

    def _mutable(self, kind: type, value: Any) -> None:
        if kind is dict:
            self._pairs(b"{", value.items())
        elif kind is list:
            self._write(b"[%d" % len(value))
            for item in value:
                self.visit(item)
        elif kind in (set, frozenset):
            self._write(b"<%d" % len(value))
            self.parts.extend(sorted(self._apart(item) for item in value))
        elif isinstance(value, type | FunctionType | BuiltinFunctionType):
            self._write(b"c" + _text(f"{value.__module__}.{value.__qualname__}"))
        elif kind is Gaussian:
            self._write(b"G")
            self.visit({name: part for name, part in value.__dict__.items() if not isinstance(part, random.Random)})
        else:
            self._reduced(value)

    def _apart(self, item: Any) -> bytes:
        walk = _Walk(dict(self._seen), self._alive)
        walk.visit(item)
        return b"".join(walk.parts)

    def _pairs(self, mark: bytes, pairs: Any) -> None:
        pairs = list(pairs)
        self._write(mark + b"%d" % len(pairs))
        for key, value in pairs:
            self.visit(key)
            self.visit(value)

    def _reduced(self, value: Any) -> None:
        reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str):
            self._write(b"g" + _text(reduced))
            return
        function, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        self._write(b"o")
        self.visit(function)
        self.visit(tuple(arguments))
        if type(state) is dict:
            self._pairs(b"{", state.items())
        else:
            self.visit(state)
        if items is not None:
            self.visit(tuple(items))
        if pairs is not None:
            self._pairs(b"{", pairs)


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"s%d:" % len(data) + data


def _bytes(data: bytes | bytearray) -> bytes:
    return b"b%d:" % len(data) + bytes(data)


def _int(number: int) -> bytes:
    return b"i" + _pack_long(number) if -SMALL < number < SMALL else b"I%d;" % number


_ATOMS: dict[type, Callable[[Any], bytes]] = {
    float: lambda value: b"f" + _pack_float(value),
    str: _text,
    int: _int,
    bool: lambda value: b"T" if value else b"F",
    type(None): lambda _: b"N",
    bytes: _bytes,
    bytearray: _bytes,
}
