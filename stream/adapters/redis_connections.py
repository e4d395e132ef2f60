"""Connections to Redis."""

from __future__ import annotations

from typing import Any

import hiredis
import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from stream.errors import ConfigurationError

__all__ = ["redis_client"]


class _PackedInC:
    """redis-py packs an asyncio command in Python, argument by argument; a commit has thousands."""

    def pack_command(self, *args: Any) -> list[bytes]:
        words = args[0].split() if isinstance(args[0], str) and " " in args[0] else args[:1]  # "SCRIPT LOAD"
        return [hiredis.pack_command((*words, *args[1:]))]


class _Connection(_PackedInC, aioredis.Connection):
    pass


class _TlsConnection(_PackedInC, aioredis.SSLConnection):
    pass


class _SocketConnection(_PackedInC, aioredis.UnixDomainSocketConnection):
    pass


CONNECTIONS = {"redis": _Connection, "rediss": _TlsConnection, "unix": _SocketConnection}


def redis_client(url: str, timeout_s: float) -> aioredis.Redis:
    """A client that neither hides nor repeats a failed call: the commit protocol must see every unknown result.

    Raises ConfigurationError for another scheme than redis, rediss and unix.
    """
    scheme = url.partition("://")[0]
    if scheme not in CONNECTIONS:
        raise ConfigurationError("DRIFTLOOP_REDIS_URL", f"{scheme}://...", "use redis://, rediss:// or unix://")
    pool = aioredis.ConnectionPool.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
    pool.connection_class = CONNECTIONS[scheme]
    return aioredis.Redis.from_pool(pool)
