"""Fixtures. The real Kafka and Redis are started once, on loopback, and stopped at the end."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import settings

from stream.local.stack import Stack
from tests.support.world import World

settings.register_profile("driftloop", deadline=None, print_blob=True)
settings.load_profile("driftloop")

KAFKA_CACHE = Path(__file__).parents[1] / ".driftloop" / "kafka"


@pytest.fixture(autouse=True)
def leaves_the_environment_alone() -> Iterator[None]:
    """What one test sets must not be another's default."""
    before = {name: value for name, value in os.environ.items() if name.startswith("DRIFTLOOP_")}
    yield
    now = {name: value for name, value in os.environ.items() if name.startswith("DRIFTLOOP_")}
    changed = {name for name in now.keys() | before.keys() if now.get(name) != before.get(name)}
    for name in changed:
        os.environ.pop(name, None)
    os.environ.update(before)
    assert not changed, f"the test left {sorted(changed)} changed in the environment"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("stack"), kafka_cache=KAFKA_CACHE) as started:
        yield started


@pytest.fixture
def make_world(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Callable[..., World]]:
    """Worlds with names after the test."""
    made: list[World] = []

    def make(**arguments: Any) -> World:
        name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
        unique = crc32(request.node.nodeid.encode())  # long names of parametrized tests begin alike
        made.append(World(stack, f"{name}-{unique:08x}-{len(made)}", **arguments))
        return made[-1]

    yield make
    for world in reversed(made):  # each puts the environment back as it found it
        world.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()
