"""Snapshots: signed, verified before they are read, and refused when anything at all was changed."""

from __future__ import annotations

import random

import msgspec
import pytest

from stream.core.snapshot import SnapshotHeader, seal, unseal
from stream.errors import ConfigurationError, SnapshotRefused

KEY, OLD = b"n" * 32, b"o" * 32
HEADER = SnapshotHeader(pipeline="p", base="84c5abf7", offset=12, shard=0, configuration="c", digest="d" * 32)
SEALED = seal(HEADER, b"m" * 900, b"s" * 300, KEY)


def test_what_was_sealed_comes_back():
    sealed = unseal(SEALED, [KEY])
    assert (sealed.model, sealed.state) == (b"m" * 900, b"s" * 300)
    assert sealed.header.version == "84c5abf7@12"


def test_ten_thousand_changed_bits_are_all_refused():
    rng = random.Random(1)
    refused = 0
    for _ in range(10_000):
        at = rng.randrange(8 * len(SEALED))
        changed = bytearray(SEALED)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(SnapshotRefused):
            unseal(bytes(changed), [KEY])
        refused += 1
    assert refused == 10_000


def test_every_shorter_or_longer_one_is_refused():
    for length in range(len(SEALED)):
        with pytest.raises(SnapshotRefused):
            unseal(SEALED[:length], [KEY])
    with pytest.raises(SnapshotRefused, match="signature"):
        unseal(SEALED + b"x", [KEY])


def test_keys_rotate():
    with pytest.raises(SnapshotRefused) as caught:
        unseal(SEALED, [OLD])
    assert caught.value.code == "snapshot_not_signed_by_us"
    assert unseal(SEALED, [OLD, KEY]).header.offset == 12


def test_a_short_key_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="at least 32 bytes"):
        seal(HEADER, b"", b"", b"short")
    with pytest.raises(ConfigurationError, match="at least 32 bytes"):
        unseal(SEALED, [b""])


def test_another_river_is_refused_by_name():
    other = seal(msgspec.structs.replace(HEADER, river="0.1.0"), b"", b"", KEY)
    with pytest.raises(SnapshotRefused, match=r"made with River 0\.1\.0"):
        unseal(other, [KEY])
