"""When a stream of drifts wakes a DAG up."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import selectors
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[2] / "stream" / "airflow" / "triggers.py"


def spaced() -> Any:
    """The function alone: its module needs Airflow, which is installed elsewhere."""
    tree = ast.parse(SOURCE.read_text())
    (function,) = [n for n in tree.body if isinstance(n, ast.AsyncFunctionDef) and n.name == "spaced"]
    names: dict[str, Any] = {"asyncio": asyncio, "contextlib": contextlib, "AsyncIterator": AsyncIterator, "Any": Any}
    module = ast.Module([*ast.parse("from __future__ import annotations").body, function], [])
    exec(compile(module, str(SOURCE), "exec"), names)
    return names["spaced"]


class Skipped(selectors.DefaultSelector):
    """Waits for nothing: what has to be waited for is added to the clock, so a busy machine changes nothing."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now_s += timeout or 0.0
        return super().select(0)


class SkippingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.skipped = Skipped()
        super().__init__(self.skipped)

    def time(self) -> float:
        return self.skipped.now_s


def fired_at(items: list[float], gap_s: float, until_s: float) -> list[float]:
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        return runner.run(collect(items, gap_s, until_s))


async def collect(items: list[float], gap_s: float, until_s: float) -> list[float]:
    """When it fired, for items that come at the given times."""
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    ended = asyncio.Event()

    async def stream() -> AsyncIterator[int]:
        for number, at_s in enumerate(items):
            await asyncio.sleep(max(0.0, started_s + at_s - loop.time()))
            yield number
        await ended.wait()

    fired: list[float] = []

    async def consume() -> None:
        async for _ in spaced()(stream(), gap_s):
            fired.append(loop.time() - started_s)

    task = asyncio.create_task(consume())
    await asyncio.sleep(until_s)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return fired


def test_ten_thousand_at_once_fire_at_once_and_once_more():
    fired = fired_at([0.0] * 10_000, gap_s=0.5, until_s=1.6)
    assert len(fired) == 2
    assert fired[1] - fired[0] >= 0.5


def test_what_comes_in_the_gap_is_not_forgotten_and_silence_fires_nothing():
    fired = fired_at([0.0, 0.1], gap_s=0.4, until_s=1.5)
    assert len(fired) == 2
    assert fired[1] - fired[0] >= 0.4


def test_far_apart_each_fires_at_once():
    fired = fired_at([0.0, 0.6], gap_s=0.1, until_s=1.0)
    assert len(fired) == 2
