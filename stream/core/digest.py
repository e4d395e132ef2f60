"""A digest of what an object is: equal for equal models, across processes, reloads and hash seeds.

Pickle bytes will not do: they change with string sharing and set order. The walk follows `__reduce_ex__` as
pickle does, but writes type names and values: floats as 8 bytes, dictionaries in their order (learners depend
on it), sets by their sorted parts, a mutable object met again by the number of its first visit. The random
state in River's Gaussians is left out: no learner uses it, and `lean_pickle` does not keep it.

Every part says its kind and its length first, so two different objects never write the same bytes. The walk
keeps its own stack: a deep tree does not meet Python's recursion limit.
"""

from __future__ import annotations

import copyreg
import hashlib
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import chain
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
from river.proba import Gaussian

__all__ = ["state_digest"]

RANDOM = type(Gaussian(seed=0)._rng)  # random.Random, without importing what core may not use
DIGEST_BYTES = 16
_pack_float = struct.Struct(">cd").pack
_pack_long = struct.Struct(">cq").pack
_pack_mersenne = struct.Struct(">c625I").pack
LONG_MAX = (1 << 63) - 1

_Expand = Callable[["_Walk", Any], None]


def state_digest(value: Any) -> str:
    """32 hex digits (BLAKE2b).

    Raises whatever `__reduce_ex__` raises for an object that cannot be pickled.

    >>> from river import linear_model
    >>> one, other = linear_model.LogisticRegression(), linear_model.LogisticRegression()
    >>> state_digest(one) == state_digest(other)
    True
    >>> one.learn_one({"a": 1.0}, True)
    >>> state_digest(one) == state_digest(other)
    False
    """
    walk = _Walk({}, [])
    return hashlib.blake2b(walk.bytes_of(value), digest_size=DIGEST_BYTES).hexdigest()


class _Walk:
    """The canonical bytes of one object graph, depth first, parents before children."""

    def __init__(self, seen: dict[int, int], alive: list[Any]) -> None:
        self._seen = seen  # id -> number of its first visit
        self._alive = alive  # ids stay unique while the objects live
        self._texts: dict[str, bytes] = {}
        self.parts: list[bytes] = []
        self.todo: list[Any] = []  # the next one is at the end

    def bytes_of(self, value: Any) -> bytes:
        seen, alive, texts, parts = self._seen, self._alive, self._texts, self.parts
        write, todo = parts.append, self.todo
        todo.append(value)
        while todo:
            value = todo.pop()
            kind = type(value)
            if kind is float:
                write(_pack_float(b"f", value))
            elif kind is str:
                text = texts.get(value)
                if text is None:
                    text = texts[value] = _text(value)
                write(text)
            elif kind in _ATOMS:
                write(_ATOMS[kind](value))
            elif kind is tuple:
                write(b"(%d" % len(value))
                todo += value[::-1]
            elif (number := seen.get(id(value))) is not None:
                write(b"@%d" % number)
            else:
                seen[id(value)] = len(alive)
                alive.append(value)
                (_EXPANDERS.get(kind) or _expander(kind))(self, value)
        return b"".join(parts)

    def pairs(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        flat = list(chain.from_iterable(pairs))
        self.parts.append(b"{%d" % len(flat))
        flat.reverse()
        self.todo += flat

    def apart(self, item: Any) -> bytes:
        """One member of a set: its own bytes, so that they can be sorted."""
        atom = _ATOMS.get(type(item))
        return _Walk(dict(self._seen), self._alive).bytes_of(item) if atom is None else atom(item)


# -- leaves ------------------------------------------------------------------------------------------------------------


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"s%d:" % len(data) + data


def _bytes(data: bytes | bytearray) -> bytes:
    return b"b%d:" % len(data) + data


def _int(number: int) -> bytes:
    return _pack_long(b"i", number) if -LONG_MAX <= number <= LONG_MAX else b"I%d;" % number


_ATOMS: dict[type, Callable[[Any], bytes]] = {
    float: lambda value: _pack_float(b"f", value),
    str: _text,
    int: _int,
    bool: lambda value: b"T" if value else b"F",
    type(None): lambda _: b"N",
    bytes: _bytes,
    bytearray: _bytes,
}


# -- branches ----------------------------------------------------------------------------------------------------------


def _dict(walk: _Walk, value: dict[Any, Any]) -> None:
    walk.pairs(value.items())


def _list(walk: _Walk, value: list[Any]) -> None:
    walk.parts.append(b"[%d" % len(value))
    walk.todo += value[::-1]


def _set(walk: _Walk, value: set[Any] | frozenset[Any]) -> None:
    members = sorted(walk.apart(item) for item in value)
    walk.parts.append(b"<%d" % len(members))
    walk.parts += map(_bytes, members)


def _defaultdict(walk: _Walk, value: defaultdict[Any, Any]) -> None:
    walk.parts.append(b"D")
    walk.pairs(value.items())
    walk.todo.append(value.default_factory)  # on top: written before the pairs


def _gaussian(walk: _Walk, value: Gaussian) -> None:
    walk.parts.append(b"G")
    walk.pairs([pair for pair in value.__dict__.items() if type(pair[1]) is not RANDOM])


def _random(walk: _Walk, value: Any) -> None:
    version, words, gauss_next = value.getstate()
    walk.parts.append(b"R%d" % version + _pack_mersenne(b"r", *words))
    walk.todo.append(gauss_next)


def _array(walk: _Walk, value: np.ndarray[Any, Any] | np.generic) -> None:
    """Type, shape and content: two equal arrays need not share one dtype object."""
    if value.dtype.hasobject:
        _reduced(walk, value)
        return
    walk.parts.append(b"A" + _text(f"{value.dtype.str}{value.shape}") + _bytes(value.tobytes()))


def _plain(walk: _Walk, value: Any) -> None:
    """What `object.__reduce_ex__` would give, without asking it."""
    walk.parts.append(b"o" + _name(type(value)))
    walk.pairs(value.__dict__.items())


def _named(walk: _Walk, value: Any) -> None:
    owner = getattr(value, "__self__", None)
    if owner is None or isinstance(owner, ModuleType):
        walk.parts.append(b"c" + _name(value))
    else:  # a built-in method of an object
        _reduced(walk, value)


def _reduced(walk: _Walk, value: Any) -> None:
    special = copyreg.dispatch_table.get(type(value))
    reduced: Any = special(value) if special else value.__reduce_ex__(4)
    if isinstance(reduced, str):
        walk.parts.append(b"g" + _text(reduced))
        return
    function, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    walk.parts.append(b"O")
    flat = None if pairs is None else tuple(chain.from_iterable(pairs))
    walk.todo += (flat, None if items is None else tuple(items), state, tuple(arguments), function)


def _name(value: Any) -> bytes:
    return _text(f"{value.__module__}.{value.__qualname__}")


_EXPANDERS: dict[type, _Expand] = {
    dict: _dict,
    list: _list,
    set: _set,
    frozenset: _set,
    defaultdict: _defaultdict,
    Gaussian: _gaussian,
    RANDOM: _random,
}


def _expander(kind: type) -> _Expand:
    """How to walk into objects of this type, found once per type."""
    if issubclass(kind, type | FunctionType | BuiltinFunctionType):
        expand: _Expand = _named
    elif issubclass(kind, np.ndarray | np.generic):
        expand = _array
    elif _reduces_as_object_does(kind):
        expand = _plain
    else:
        expand = _reduced
    _EXPANDERS[kind] = expand
    return expand


def _reduces_as_object_does(kind: type) -> bool:
    return (
        kind not in copyreg.dispatch_table
        and all(
            getattr(kind, name) is getattr(object, name) for name in ("__reduce_ex__", "__reduce__", "__getstate__")
        )
        and not hasattr(kind, "__getnewargs__")
        and not hasattr(kind, "__getnewargs_ex__")
        and not issubclass(kind, dict | list)
        and kind.__dictoffset__ != 0
        and not copyreg._slotnames(kind)  # type: ignore[attr-defined]
    )
