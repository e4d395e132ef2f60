"""A real Redis, and retrainings with names of their own on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from stream.local.process import Reaper
from stream.local.servers import RedisServer
from tests.support.retraining import Retraining


@pytest.fixture(scope="session")
def search_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    reaper = Reaper()
    server = RedisServer(tmp_path_factory.mktemp("redis"), reaper)
    server.start()
    server.wait_ready()
    yield server
    server.stop()
    reaper.close()


@pytest.fixture
def retraining(search_redis: RedisServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Retraining]:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    yield Retraining(tmp_path, search_redis.url, f"{name}-{crc32(request.node.nodeid.encode()):08x}")
