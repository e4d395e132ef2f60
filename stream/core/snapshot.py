"""The signed container of a model and the learner's state.

    MAGIC (8) | header length (4) | header (JSON) | model bytes | state bytes | HMAC-SHA256 (32) over all before it

The signature is checked before anything but this framing is looked at.
"""

from __future__ import annotations

import hashlib
import hmac
import platform
from collections.abc import Sequence

import msgspec
import river

from stream.errors import ConfigurationError, SnapshotRefused

__all__ = ["Sealed", "SnapshotHeader", "seal", "unseal"]

MAGIC = b"DRFTLP\x00\x01"
MAC_BYTES = 32
HEADER_BYTES_MAX = 65_536
KEY_BYTES_MIN = 32


class SnapshotHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is of. `offset`: the examples offset it has learned up to, exclusive."""

    pipeline: str
    base: str
    offset: int
    shard: int
    configuration: str
    digest: str
    river: str = river.__version__
    python: str = platform.python_version()
    model_size_bytes: int = 0
    state_size_bytes: int = 0

    @property
    def version(self) -> str:
        """The name that predictions carry: `<base>@<offset>`."""
        return f"{self.base}@{self.offset}"


class Sealed(msgspec.Struct, frozen=True):
    """A verified snapshot, its two parts still unread."""

    header: SnapshotHeader
    model: bytes
    state: bytes


def seal(header: SnapshotHeader, model: bytes, state: bytes, key: bytes) -> bytes:
    """The container's bytes. Raises ConfigurationError for a short key."""
    _check_key(key)
    complete = msgspec.structs.replace(header, model_size_bytes=len(model), state_size_bytes=len(state))
    encoded = msgspec.json.encode(complete)
    body = b"".join((MAGIC, len(encoded).to_bytes(4, "big"), encoded, model, state))
    return body + hmac.digest(key, body, hashlib.sha256)


def unseal(data: bytes, keys: Sequence[bytes]) -> Sealed:
    """Verify with any of the keys, then read the header.

    Raises:
        SnapshotRefused: `snapshot_damaged` (framing), `snapshot_not_signed_by_us`, `snapshot_other_river_version`.
    """
    if len(data) < len(MAGIC) + 4 + MAC_BYTES or data[: len(MAGIC)] != MAGIC:
        raise SnapshotRefused("snapshot_damaged", "these bytes are not a driftloop snapshot of format 1")
    body, mac = data[:-MAC_BYTES], data[-MAC_BYTES:]
    for key in keys:
        _check_key(key)
    if not any(hmac.compare_digest(hmac.digest(key, body, hashlib.sha256), mac) for key in keys):
        raise SnapshotRefused(
            "snapshot_not_signed_by_us",
            "its signature fits none of our keys: it was changed, or signed with another DRIFTLOOP_SIGNING_KEY",
        )
    return _read(body)


def _read(body: bytes) -> Sealed:
    start = len(MAGIC) + 4
    length = int.from_bytes(body[len(MAGIC) : start], "big")
    if length > HEADER_BYTES_MAX or start + length > len(body):
        raise SnapshotRefused("snapshot_damaged", "its header does not fit its length")
    try:
        header = msgspec.json.decode(body[start : start + length], type=SnapshotHeader)
    except msgspec.DecodeError as error:
        raise SnapshotRefused("snapshot_damaged", f"its header cannot be read: {error}") from None
    middle = start + length + header.model_size_bytes
    if middle + header.state_size_bytes != len(body):
        raise SnapshotRefused("snapshot_damaged", "its parts do not fit its length")
    if header.river != river.__version__:
        raise SnapshotRefused(
            "snapshot_other_river_version",
            f"made with River {header.river}, this is {river.__version__}: install that version, or retrain",
        )
    return Sealed(header, body[start + length : middle], body[middle:])


def _check_key(key: bytes) -> None:
    if len(key) < KEY_BYTES_MIN:
        raise ConfigurationError(
            "DRIFTLOOP_SIGNING_KEY",
            f"({len(key)} bytes)",
            "use at least 32 bytes, such as `openssl rand -hex 32` prints",
        )
