"""A pipeline whose workers serve pages, for tests that look at them."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from stream.cli.showing import PipelineStatus
from stream.local.servers import free_port
from stream.local.stack import Stack
from tests.support.world import World, card_stream

__all__ = ["TEXT_S", "Served"]

TEXT_S = 15_000  # ms, for what must come by itself


class PageWorld(World):
    """Playwright keeps an event loop running in this thread, and `status` wants one of its own."""

    def status(self) -> PipelineStatus:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(super().status).result()


class Served:
    """One world whose two workers have pages."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.world = PageWorld(stack, name, labelling="50", objectives="yes")
        self.fed = False
        self.ports = {role: free_port() for role in ("learn", "score")}
        for role, port in self.ports.items():
            self.world.start(role, web_port=str(port))
        self.url = f"http://127.0.0.1:{self.ports['learn']}"
        self.world.wait(lambda: all(self.get(role, "/ready")[0] == 200 for role in self.ports), "workers to be ready")

    def feed(self) -> None:
        """Some thousand events and labels, once: tests that need no browser run where there is none, too."""
        if not self.fed:
            self.fed = True
            self.world.produce(card_stream(4_000, poison=0.02, partitions=self.world.partitions))

    def get(self, role: str, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[role], timeout=10)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        except OSError:
            return 0, {}, b""
        finally:
            connection.close()

    def state(self, role: str = "learn") -> dict[str, Any]:
        return json.loads(self.get(role, "/state")[2])

    def course(self, role: str = "learn") -> dict[str, Any]:
        return json.loads(self.get(role, "/course")[2])

    def charted(self) -> int:
        """An offset of examples in the middle of what the quality chart shows; it is fed until there is a middle."""

        def shown() -> list[int]:
            course = self.course()
            found = [at for at, value in zip(course["offset"], course["model"], strict=True) if value is not None]
            return sorted(set(found))

        self.feed()
        for seed in range(3, 10):
            if len(shown()) > 2:
                break
            self.world.produce(card_stream(1_500, seed=seed, partitions=self.world.partitions), rate=500)
        return shown()[len(shown()) // 2]

    def metrics(self, role: str) -> dict[str, dict[tuple[str, ...], float]]:
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(self.get(role, "/metrics")[2].decode()):
            its = found.setdefault(family.name.removesuffix("_info"), {})
            for sample in family.samples:
                its[sample.name, *map("=".join, sorted(sample.labels.items()))] = sample.value
        return found
