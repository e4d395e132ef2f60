"""The drift inbox in Redis: where a pipeline's `drifts` have been read up to, and the last outcomes, changed in one call.

A reset of the pipeline keeps it, as the topic stays, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import redis
from redis.exceptions import RedisError

from stream.core.episodes import Inbox, Outcome
from stream.errors import Unavailable

__all__ = ["OUTCOMES_MAX", "RedisDriftInbox", "StoredInbox"]

OUTCOMES_MAX = 10_000  # kept; totals count all

# KEYS: inbox, outcomes. ARGV: the version it was decided on, the next one, inbox, outcomes to keep, outcomes ...
STORE = """
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'inbox', ARGV[3])
for i = 5, #ARGV do redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], '*', 'outcome', ARGV[i]) end
return 1
"""


class StoredInbox(NamedTuple):
    version: int  # 0: nothing is stored yet
    inbox: Inbox


class RedisDriftInbox:
    """Blocking: for batch steps and the command line. Raises Unavailable; then a call may or may not have been applied."""

    def __init__(self, url: str, timeout_s: float, pipeline: str) -> None:
        self._client = redis.Redis.from_url(url, socket_timeout=timeout_s)
        self._keys = [f"{{{pipeline}}}:drift_inbox", f"{{{pipeline}}}:drift_outcomes"]
        self._store = self._client.register_script(STORE)

    def load(self) -> StoredInbox:
        try:
            stored: Any = self._client.hmget(self._keys[0], ["version", "inbox"])
        except RedisError as error:
            raise _unavailable("load", error) from error
        version, inbox = stored
        if version is None:
            return StoredInbox(0, Inbox())
        return StoredInbox(int(version), msgspec.json.decode(inbox, type=Inbox))

    def store(self, version: int, inbox: Inbox, outcomes: Sequence[Outcome]) -> bool:
        """False: somebody else has changed it since `version`; nothing is stored then."""
        encoded = [msgspec.json.encode(outcome) for outcome in outcomes]
        arguments: list[Any] = [version, version + 1, msgspec.json.encode(inbox), OUTCOMES_MAX, *encoded]
        try:
            return bool(self._store(keys=self._keys, args=arguments))
        except RedisError as error:
            raise _unavailable("store", error) from error

    def outcomes(self, count: int = OUTCOMES_MAX) -> list[Outcome]:
        """The last ones, the oldest first."""
        try:
            entries: Any = self._client.xrevrange(self._keys[1], count=count)
        except RedisError as error:
            raise _unavailable("outcomes", error) from error
        return [msgspec.json.decode(fields[b"outcome"], type=Outcome) for _, fields in reversed(entries)]

    def close(self) -> None:
        self._client.close()


def _unavailable(call: str, error: RedisError) -> Unavailable:
    return Unavailable(f"Redis, drift inbox, {call}: {type(error).__name__}: {error}")
