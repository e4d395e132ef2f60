"""How throughput and memory go with the number of entities, and what one remembered prediction costs."""

from __future__ import annotations

from pathlib import Path

from bench.harness import figure, open_bench, rate_of
from stream.local.stack import Stack

__all__ = ["run"]


def run(stack: Stack, quick: bool) -> None:
    for entities in (1_000, 20_000) if quick else (1_000, 100_000, 1_000_000):
        events = 20_000 if quick else max(100_000, entities + entities // 5)
        with open_bench(stack, features="entities") as bench:
            bench.events(events, entities=entities)
            bench.first_model()
            before = _used(bench.redis)
            worker = bench.start("score")
            rate = rate_of(bench.watch(bench.published, events), events)
            figure(f"entities.{entities}.score", rate, "events/s")
            figure(f"entities.{entities}.worker", _resident_bytes(worker.pid) / 1e6, "MB")
            by_role = {role: _size(bench, role) for role in ("entities:*", "remembered", "chunks")}
            kept = min(entities, events)
            figure(f"entities.{entities}.redis_per_entity", by_role["entities:*"] / kept, "bytes")
            figure(
                f"entities.{entities}.redis_per_remembered",
                (by_role["remembered"] + by_role["chunks"]) / events,
                "bytes",
            )
            figure(f"entities.{entities}.redis", (_used(bench.redis) - before) / 1e6, "MB")


def _used(client: object) -> int:
    return int(client.info("memory")["used_memory"])  # type: ignore[attr-defined]


def _size(bench: object, role: str) -> int:
    client, name = bench.redis, bench.name  # type: ignore[attr-defined]
    keys = client.scan_iter(f"{{{name}:*}}:{role}", count=1_000)
    return sum(client.memory_usage(key, samples=1_000) or 0 for key in keys)


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0
