"""From producing an event to reading its prediction back; and from a label to a live model that has learned it."""

from __future__ import annotations

import random
import statistics
import threading
import time
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition

from bench.harness import Bench, figure, open_bench
from bench.pipeline import row
from stream.local.stack import Stack

__all__ = ["run"]

WARM_UP_S = 4  # not measured
BROKER_WARM_UP = (3_000, 30)  # events/s and seconds until the broker's compiler is done
QUANTILES = (("p50", 0.5), ("p99", 0.99))


def run(stack: Stack, quick: bool) -> None:
    seconds, runs = (4, 1) if quick else (12, 3)
    if not quick:
        _ours(stack, *BROKER_WARM_UP)
    for rate in (1_000, 5_000):
        ours, bare = [], []
        for _ in range(runs):
            ours.append(_ours(stack, rate, seconds))
            bare.append(_bare(stack, rate, seconds))
        for name, share in QUANTILES:
            mine, other = (statistics.median(_quantile(delays, share) for delays in side) for side in (ours, bare))
            figure(
                f"latency.{rate}_per_s.{name}",
                mine,
                "ms",
                ratio_to="bare loop",
                ratio=round(mine / other, 2),
                other=round(other, 1),
            )
    with open_bench(stack) as bench:
        bench.start("learn")
        bench.start("score")
        _wait_for_worker(bench)
        delays_ms = _label_to_model(bench, 20 if quick else 100)
    for name, share in QUANTILES:
        figure(f"label_to_live_model.{name}", _quantile(delays_ms, share), "ms", labels=len(delays_ms))


def _ours(stack: Stack, rate: int, seconds: int) -> list[float]:
    with open_bench(stack) as bench:
        bench.first_model()
        bench.start("score")
        _wait_for_worker(bench)
        return _round_trip(bench, rate, seconds)


def _bare(stack: Stack, rate: int, seconds: int) -> list[float]:
    with open_bench(stack) as bench, bench.bare_loop("answer", 1 << 40):
        return _round_trip(bench, rate, seconds)


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _producer(bench: Bench) -> Producer:
    return Producer({"bootstrap.servers": bench.stack.brokers, "linger.ms": 1, "log_level": 0})


def _reader(bench: Bench) -> Consumer:
    reader = Consumer(
        {"bootstrap.servers": bench.stack.brokers, "group.id": "latency", "fetch.wait.max.ms": 5, "log_level": 0,
         "enable.auto.commit": False}
    )  # fmt: skip
    reader.assign([TopicPartition(bench.names.predictions, p, 0) for p in range(bench.partitions)])
    return reader


def _wait_for_worker(bench: Bench) -> None:
    bench._wait(
        lambda: all(bench.redis.hexists(f"{{{bench.name}:{p}}}:state", "epoch") for p in range(bench.partitions)),
        "the worker to own its partitions",
    )


def _send(bench: Bench, producer: Producer, topic: str, number: int, value: dict[str, Any]) -> None:
    producer.produce(
        bench.names[topic], msgspec.json.encode(value), f"k{number % 500}".encode(), number % bench.partitions
    )
    producer.poll(0)


def _event(number: int, rng: random.Random) -> dict[str, Any]:
    return {"event_id": f"e{number}", "occurred_at_ms": int(time.time() * 1000), "features": row(rng)[0]}


class _Answer(msgspec.Struct):
    event_id: str


_answer = msgspec.json.Decoder(_Answer).decode


def _round_trip(bench: Bench, rate: int, seconds: int) -> list[float]:
    """Milliseconds of every event after the warm-up; the producer is a thread, so that both ends read one clock."""
    rng = random.Random(1)
    warm_up = rate * WARM_UP_S
    events = [_event(number, rng) for number in range(warm_up + rate * seconds)]
    sent_s = [0.0] * len(events)

    def produce() -> None:
        producer = _producer(bench)
        started_s = time.perf_counter()
        for number, event in enumerate(events):
            ahead_s = started_s + number / rate - time.perf_counter()
            if ahead_s > 0:
                time.sleep(ahead_s)
            sent_s[number] = time.perf_counter()
            _send(bench, producer, "events", number, event)
        producer.flush(30)

    reader = _reader(bench)
    thread = threading.Thread(target=produce)
    thread.start()
    delays_ms: list[float] = []
    read, last_s = 0, time.perf_counter()
    while read < len(events):
        messages = reader.consume(500, 0.001)
        now_s = time.perf_counter()
        if messages:
            last_s = now_s
        elif now_s - last_s > 10.0:
            raise TimeoutError(f"{read} of {len(events)} predictions")
        read += len(messages)
        numbers = [int(_answer(message.value()).event_id[1:]) for message in messages]
        delays_ms += [(now_s - sent_s[number]) * 1e3 for number in numbers if number >= warm_up]
    thread.join()
    reader.close()
    return delays_ms


def _label_to_model(bench: Bench, labels: int) -> list[float]:
    """Until a prediction names a model that has learned the label: events go on all the time."""
    producer, reader, rng = _producer(bench), _reader(bench), random.Random(2)
    delays_ms: list[float] = []
    number, learned, labelled_s = 0, 0, None
    next_label_s = time.perf_counter() + 1.0
    while len(delays_ms) < labels:
        _send(bench, producer, "events", number, _event(number, rng))
        now_s = time.perf_counter()
        if labelled_s is None and now_s >= next_label_s:
            target = number - 50 if number > 50 else 0
            label = {
                "event_id": f"e{target}",
                "label": True,
                "labelled_at_ms": int(time.time() * 1000),
                "source": "bench",
            }
            _send(bench, producer, "labels", target, label)
            labelled_s = now_s
        number += 1
        for message in reader.consume(100, 0.004):
            version = int(msgspec.json.decode(message.value())["model"]["version"].rpartition("@")[2])
            if labelled_s is not None and version > learned:
                delays_ms.append((time.perf_counter() - labelled_s) * 1e3)
                learned, labelled_s = version, None
                next_label_s = time.perf_counter() + rng.uniform(0.05, 0.4)
    reader.close()
    return delays_ms
