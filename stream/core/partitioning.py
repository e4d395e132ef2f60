"""Which partition Java's default partitioner gives a key: murmur2, as in Kafka's `Utils.murmur2` (librdkafka: `murmur2_random`)."""

from __future__ import annotations

__all__ = ["java_partition", "murmur2"]

SEED, M, R = 0x9747B28C, 0x5BD1E995, 24
MASK = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """32 bits, unsigned.

    >>> murmur2(b"foobar") == -790332482 & 0xFFFFFFFF
    True
    """
    h = (SEED ^ len(key)) & MASK
    whole = len(key) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * M & MASK
        k = (k ^ (k >> R)) * M & MASK
        h = (h * M & MASK) ^ k
    rest = key[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * M & MASK
    h = (h ^ (h >> 13)) * M & MASK
    return h ^ (h >> 15)


def java_partition(key: bytes, partitions: int) -> int:
    """The partition of a key that is not empty."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
