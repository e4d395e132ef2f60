"""Asking the live system for a change: release a candidate, promote it, roll back, reject it.

The learner carries it out, once, and leaves a record on `releases` whether it did or not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal, TypeVar

import msgspec

from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.redis_connections import redis_client
from stream.adapters.redis_models import RedisModelStore
from stream.core.model_bases import configuration_of, open_base
from stream.core.rollout import Figures
from stream.core.slots import Command, Roster
from stream.errors import StartupRefused
from stream.pipeline import Pipeline
from stream.settings import Settings

__all__ = ["ask", "live_roster", "pending", "release"]

T = TypeVar("T")


def release(
    settings: Settings,
    pipeline: Pipeline,
    base: str,
    *,
    by: str,
    command_id: str | None = None,
    parent: str | None = None,
    reason: str = "",
    evidence: Figures | None = None,
    shard: int = 0,
    extra_allowed: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Ask for the rollout of a base that lies under the artifact URL.

    Args:
        by: `run:<id>` or `person:<name>`.
        command_id: the same again changes nothing, so a task may be tried again.
        parent: the champion that it was compared with; if another one is live by then, the release is refused.

    Raises:
        SnapshotRefused: the file is not ours, damaged, or of another configuration.
        Unavailable: no such base, or Redis does not answer.
        StartupRefused: `no_model`, there is no live system of this name.
    """
    data = ArtifactFiles(settings.artifact_url, pipeline.name).get_base(base)
    open_base(
        data,
        settings.signing(),
        pipeline=pipeline.name,
        configuration=configuration_of(pipeline),
        extra_allowed=extra_allowed,
    )
    return ask(
        settings, pipeline.name, "release", base, by=by, command_id=command_id, parent=parent, reason=reason,
        evidence=evidence, shard=shard,
    )  # fmt: skip


def ask(
    settings: Settings,
    name: str,
    action: Literal["release", "promote", "roll_back", "reject"],
    base: str,
    *,
    by: str,
    command_id: str | None = None,
    parent: str | None = None,
    reason: str = "",
    evidence: Figures | None = None,
    shard: int = 0,
) -> dict[str, Any]:
    """Leave a command for the learner; returns it. Raises Unavailable, StartupRefused."""
    at_ms = int(time.time() * 1e3)
    command = Command(
        command_id=command_id or f"{at_ms}-{action}-{base}",
        action=action,
        base=base,
        parent=parent,
        by=by,
        reason=reason,
        evidence=evidence or {},
        at_ms=at_ms,
    )

    async def request(store: RedisModelStore) -> None:
        if await store.roster(shard) is None:
            raise StartupRefused("no_model", f"nothing is live under {name!r}: start a learn worker")
        await store.request(shard, command.command_id, msgspec.json.encode(command))

    _with_store(settings, name, request)
    return {"command_id": command.command_id, "action": action, "base": base}


def live_roster(settings: Settings, name: str, shard: int = 0) -> Roster | None:
    """Which models are live; None if nothing is. Raises Unavailable."""
    data = _with_store(settings, name, lambda store: store.roster(shard))
    return msgspec.json.decode(data, type=Roster) if data is not None else None


def pending(settings: Settings, name: str, shard: int = 0) -> list[Command]:
    """What is asked and not yet done, the oldest first. Raises Unavailable."""
    found = _with_store(settings, name, lambda store: store.commands(shard))
    commands = []
    for data in found.values():
        with suppress(msgspec.DecodeError):  # the learner refuses it, with a record
            commands.append(msgspec.json.decode(data, type=Command))
    return sorted(commands, key=lambda c: (c.at_ms, c.command_id))


def _with_store(settings: Settings, name: str, call: Callable[[RedisModelStore], Awaitable[T]]) -> T:
    async def work() -> T:
        store = RedisModelStore(redis_client(**settings.redis()), name)
        try:
            return await call(store)
        finally:
            await store.close()

    return asyncio.run(work())
