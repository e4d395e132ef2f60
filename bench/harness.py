"""Runs workers and bare loops on one local stack and measures them from outside."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from bench.pipeline import row
from stream.adapters.kafka_topics import KafkaTopics
from stream.local.process import Child, wait_until
from stream.local.stack import Stack
from stream.messages import Example, Served, Source
from stream.settings import load_settings
from stream.topics import TopicNames

__all__ = ["Bench", "figure", "peer_python", "rate_of"]

PIPELINE = Path(__file__).with_name("pipeline.py")
DEADLINE_S = 240.0
START_MS = int(time.time() * 1000) - 3_600_000
_names = count()
Points = list[tuple[float, int]]


def figure(name: str, value: float, unit: str, *, ratio_to: str | None = None, **more: Any) -> None:
    """One line of output."""
    rounded = float(f"{value:.4g}")
    print(json.dumps({"name": name, "value": rounded, "unit": unit, "ratio_to": ratio_to, **more}), flush=True)


def rate_of(points: Points, total: int) -> float:
    """Records per second between the first point after 15 % and the last one."""
    first = next(p for p in points if p[1] >= 0.15 * total)
    last = points[-1]
    return (last[1] - first[1]) / (last[0] - first[0])


class Bench:
    """One run: its own topics and state on the shared stack."""

    def __init__(self, stack: Stack, model: str = "logistic", features: str = "plain", partitions: int = 2) -> None:
        self.stack = stack
        self.name = f"bench-{next(_names)}"
        self.model = model
        self._environment = {"DRIFTLOOP_BENCH": f"{self.name}:{model}:{features}"}
        self.settings = load_settings(brokers=stack.brokers, redis_url=stack.redis_url)
        self.names = TopicNames(self.name)
        self.kafka = KafkaTopics(self.settings.kafka(), self.names)
        self.kafka.create(partitions, 1)
        self.partitions = partitions
        self.redis = redis.Redis.from_url(stack.redis_url)
        self.workers: list[Child] = []
        self._watcher = Consumer({"bootstrap.servers": stack.brokers, "group.id": "watch", "log_level": 0})

    def close(self) -> None:
        for worker in self.workers:
            worker.stop()
        self._watcher.close()
        for key in self.redis.scan_iter(f"{{{self.name}:*", count=1_000):
            self.redis.unlink(key)
        self.redis.close()
        self.kafka.delete()

    # -- input -------------------------------------------------------------------------------------------------------

    def events(self, events: int, *, entities: int = 1_000, labels: bool = False, seed: int = 3) -> None:
        producer = self._producer()
        rng = random.Random(seed)
        for i in range(events):
            x, y = row(rng)
            entity = rng.randrange(entities)
            at_ms = START_MS + i
            self._event(producer, i, entity, at_ms, x)
            if labels:
                self._label(producer, i, entity, at_ms, y)
        assert producer.flush(60) == 0

    def _event(self, producer: Producer, i: int, entity: int, at_ms: int, x: dict[str, float]) -> None:
        value = msgspec.json.encode({"event_id": f"e{i}", "occurred_at_ms": at_ms, "features": x})
        _send(producer, self.names.events, value, entity, self.partitions, at_ms)

    def _label(self, producer: Producer, i: int, entity: int, at_ms: int, y: bool) -> None:
        value = msgspec.json.encode({"event_id": f"e{i}", "label": y, "labelled_at_ms": at_ms, "source": "bench"})
        _send(producer, self.names.labels, value, entity, self.partitions, at_ms)

    def examples(self, examples: int) -> None:
        producer = self._producer()
        rng = random.Random(5)
        for i in range(examples):
            x, y = row(rng)
            served = Served("b@0", not y, {"false": 0.4, "true": 0.6}, None, y, False, {"false": 0.7, "true": 0.3})
            value = msgspec.json.encode(
                Example(
                    event_id=f"e{i}", entity_id="k", occurred_at_ms=START_MS + i, features=x,  # type: ignore[arg-type]
                    served={"champion": served}, label=y, label_source="bench", labelled_at_ms=START_MS + i,
                    timing="on_time", partition=0, sequence=i + 1, event_source=Source("events", 0, i),
                )
            )  # fmt: skip
            _send(producer, self.names.examples, value, 0, 1, START_MS + i)
        assert producer.flush(60) == 0

    def _producer(self) -> Producer:
        return Producer(
            {"bootstrap.servers": self.stack.brokers, "linger.ms": 20, "enable.idempotence": True, "log_level": 0,
             "queue.buffering.max.messages": 1_000_000}
        )  # fmt: skip

    # -- processes ---------------------------------------------------------------------------------------------------

    def start(self, role: str, **environment: str) -> Child:
        command = [sys.executable, "-m", "stream.cli", "worker", str(PIPELINE), "--role", role]
        child = self.stack.add(f"{self.name}-{role}-{len(self.workers)}", command, **self._environment, **environment)
        self.workers.append(child)
        return child

    def first_model(self) -> None:
        """Let a learner publish the base model, and stop it: it would only take CPU."""
        learner = self.start("learn")
        self._wait(lambda: bool(self.redis.hexists(f"{{{self.name}:model:0}}:live", "offset")), "a first model")
        learner.stop()

    def bare(self, kind: str, total: int) -> float:
        """Rate of the bare loop."""
        return self.printed("bench.bare", [kind], total)

    @contextmanager
    def bare_loop(self, kind: str, total: int) -> Iterator[None]:
        """The bare loop, until it has done its work or is stopped."""
        command = self._command(sys.executable, "bench.bare", [kind], total)
        loop = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            loop.kill()
            loop.wait()

    def peer(self, name: str, module: str, events: int) -> float:
        """Rate of a peer in its own environment, which must have answered every event."""
        rate = self.printed(module, [], 2 * events, str(peer_python(name)))
        if self.published() < events:
            raise RuntimeError(f"{module} wrote {self.published()} predictions of {events}")
        return rate

    def _command(self, python: str, module: str, first: list[str], total: int) -> list[str]:
        return [python, "-m", module, *first, self.stack.brokers, self.name, self.model, str(total)]

    def printed(self, module: str, first: list[str], total: int, python: str = sys.executable) -> float:
        """Rate of a program that prints its own progress."""
        command = self._command(python, module, first, total)
        answer = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        points = [tuple(json.loads(line)) for line in answer.stdout.splitlines() if line.startswith("[")]
        if not points or points[-1][1] < total:
            raise RuntimeError(f"{module} did not finish:\n{(answer.stdout + answer.stderr)[-2000:]}")
        return rate_of(points, total)

    # -- measuring ---------------------------------------------------------------------------------------------------

    def published(self, topic: str = "predictions") -> int:
        ends = 0
        for partition in range(self.partitions if topic != "examples" else 1):
            ends += self._watcher.get_watermark_offsets(TopicPartition(self.names[topic], partition), timeout=10)[1]
        return ends

    def learned(self) -> int:
        return int(self.redis.hget(f"{{{self.name}:model:0}}:live", "offset") or 0)  # type: ignore[arg-type]

    def watch(self, progress: Callable[[], int], total: int) -> Points:
        """(time, progress) whenever it has changed, until it is complete."""
        points: Points = [(time.time(), progress())]
        deadline_s = time.time() + DEADLINE_S
        while points[-1][1] < total:
            time.sleep(0.02)
            now = (time.time(), progress())
            if now[1] != points[-1][1]:
                points.append(now)
            if now[0] > deadline_s or not all(
                worker.running() or worker.process.returncode == 0 for worker in self.workers
            ):  # type: ignore[union-attr]
                raise TimeoutError(
                    f"{self.name}: {points[-1][1]} of {total}\n" + "\n".join(w.tail() for w in self.workers)
                )
        return points

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, 60, what)


def _send(producer: Producer, topic: str, value: bytes, entity: int, partitions: int, at_ms: int) -> None:
    while True:
        try:
            producer.produce(topic, value, f"entity-{entity}".encode(), entity % partitions, timestamp=at_ms)
            producer.poll(0)
            return
        except BufferError:
            producer.poll(0.05)


@contextmanager
def open_bench(stack: Stack, **arguments: Any) -> Iterator[Bench]:
    bench = Bench(stack, **arguments)
    try:
        yield bench
    finally:
        bench.close()


def paired(runs: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, float, float]:
    """Alternately, so that the machine's moods hit both; medians of ours, theirs and of their ratio."""
    mine, other = [], []
    for number in range(runs):
        for side in (ours, theirs) if number % 2 else (theirs, ours):
            (mine if side is ours else other).append(side())
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    return statistics.median(mine), statistics.median(other), statistics.median(ratios)


def peer_python(name: str) -> Path | None:
    """The interpreter of a peer's environment, if `make bench-peers` has made it."""
    environment = Path(__file__).parent.parent / f".venv-bench-{name}"
    return environment / "bin" / "python" if (environment / ".installed").exists() else None


def stack_for_bench(directory: Path) -> Stack:
    os.environ.setdefault("PYTHONHASHSEED", "0")
    # A broker as in production: all of its compilers, although it then takes half a minute of load to be at its best.
    return Stack(directory, kafka_cache=Path(".driftloop") / "kafka", quick_start=False)
