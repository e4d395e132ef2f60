"""Base models: what every version is counted from. `<base>@<offset>` is the base after the examples up to the offset.

A base is a model that has learned all examples before its own offset, in whatever way: the fresh model of a pipeline file
at the first example, or what a retraining made. It is kept as a signed file under its name, which is its content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from stream.core.digest import state_digest
from stream.core.lean_pickle import dump_model, load_model
from stream.core.snapshot import SnapshotHeader, seal, unseal
from stream.errors import SnapshotRefused

__all__ = ["ModelBase", "base_name", "open_base", "seal_base"]


class ModelBase(msgspec.Struct, frozen=True, kw_only=True):
    """One base.

    Args:
        offset: of the first example that it has not learned.
        high_water: score partition -> sequence of its last example before `offset`; what repeats is told by it.
        learned: how many examples it has learned.
        provenance: how it was made: run, parameters, window, parent, figures; whatever can be JSON.
    """

    pipeline: str
    shard: int
    offset: int
    model: Any
    high_water: Mapping[int, int] = {}
    learned: int = 0
    provenance: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        return base_name(state_digest(self.model), self.offset)


class _State(msgspec.Struct):
    high_water: dict[int, int]
    learned: int
    provenance: dict[str, Any]


def base_name(digest: str, offset: int) -> str:
    """The name of a base: 8 hex digits of the model's state digest and the offset at which it begins."""
    return hashlib.blake2b(f"{digest}@{offset}".encode(), digest_size=4).hexdigest()


def seal_base(base: ModelBase, *, configuration: str, key: bytes) -> bytes:
    """The signed file of a base. Raises ConfigurationError for a short key, SnapshotRefused for a model that cannot be written."""
    digest = state_digest(base.model)
    header = SnapshotHeader(
        pipeline=base.pipeline,
        base=base_name(digest, base.offset),
        offset=base.offset,
        shard=base.shard,
        configuration=configuration,
        digest=digest,
    )
    state = _State(dict(base.high_water), base.learned, dict(base.provenance))
    return seal(header, dump_model(base.model), msgspec.msgpack.encode(state), key)


def open_base(
    data: bytes,
    keys: Sequence[bytes],
    *,
    pipeline: str,
    configuration: str | None = None,
    extra_allowed: frozenset[str] = frozenset(),
) -> ModelBase:
    """Verify and read a base; `configuration` is compared if given.

    Raises:
        SnapshotRefused: not signed by us, damaged, of another pipeline or configuration, not the model its name says.
    """
    sealed = unseal(data, list(keys))
    header = sealed.header
    if header.pipeline != pipeline:
        raise SnapshotRefused("snapshot_of_another_pipeline", f"it belongs to {header.pipeline!r}")
    if configuration is not None and header.configuration != configuration:
        raise SnapshotRefused(
            "snapshot_of_another_configuration",
            f"made with configuration {header.configuration}, this is {configuration}: retrain",
        )
    state = msgspec.msgpack.decode(sealed.state, type=_State)
    model = load_model(sealed.model, extra_allowed=extra_allowed)
    base = ModelBase(
        pipeline=header.pipeline,
        shard=header.shard,
        offset=header.offset,
        model=model,
        high_water=state.high_water,
        learned=state.learned,
        provenance=state.provenance,
    )
    if base.name != header.base:
        raise SnapshotRefused("snapshot_damaged", f"it says {header.base} and holds {base.name}")
    return base
