"""Which dead letters were sent again. One hash per pipeline: identity of a letter -> "sending" or "sent"."""

from __future__ import annotations

from collections.abc import Iterable

import redis
from redis.exceptions import RedisError

from stream.errors import Unavailable

__all__ = ["IN_DOUBT", "SENT", "RedisResubmissions"]

IN_DOUBT, SENT = "sending", "sent"


class RedisResubmissions:
    """Blocking: for the command line."""

    def __init__(self, url: str, timeout_s: float, pipeline: str) -> None:
        self._client = redis.Redis.from_url(url, socket_timeout=timeout_s, decode_responses=True)
        self._key = f"{{{pipeline}}}:resubmitted"  # a reset must not forget it: the dead letters stay, too

    def states(self) -> dict[str, str]:
        """Raises Unavailable."""
        try:
            return dict(self._client.hgetall(self._key))  # type: ignore[arg-type]
        except RedisError as error:
            raise _unavailable(error) from error

    def claim(self, letter: str, *, again: bool = False) -> bool:
        """True for one caller, before it sends. `again` also takes what somebody began and did not finish: that is for one
        operator at a time, when nobody sends.
        """
        try:
            if self._client.hsetnx(self._key, letter, IN_DOUBT):
                return True
            return again and self._client.hget(self._key, letter) == IN_DOUBT
        except RedisError as error:
            raise _unavailable(error) from error

    def sent(self, letters: Iterable[str]) -> None:
        """They lie in the topic."""
        done = dict.fromkeys(letters, SENT)
        try:
            if done:
                self._client.hset(self._key, mapping=done)  # type: ignore[arg-type]
        except RedisError as error:
            raise _unavailable(error) from error

    def give_back(self, letters: Iterable[str]) -> None:
        """They were claimed and certainly not sent."""
        refused = list(letters)
        try:
            if refused:
                self._client.hdel(self._key, *refused)
        except RedisError as error:
            raise _unavailable(error) from error

    def close(self) -> None:
        self._client.close()


def _unavailable(error: RedisError) -> Unavailable:
    return Unavailable(f"Redis, re-submissions: {type(error).__name__}: {error}")
