"""What anybody would write first: one confluent-kafka loop around a River model, with no guarantee at all.

    python -m bench.bare score|answer|learn|whole <brokers> <name> <model> <count>

Prints `[seconds, records]` now and then; the harness takes the rate from it. `answer` is `score` for latency: it takes what
has arrived instead of waiting for more.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition

EVERY = 2_000
decode = msgspec.json.Decoder().decode
encode = msgspec.json.Encoder().encode


def consumer(brokers: str, topics: list[str]) -> Consumer:
    made = Consumer({"bootstrap.servers": brokers, "group.id": "bare", "enable.auto.commit": False})
    partitions = [TopicPartition(t, p, 0) for t in topics for p in made.list_topics(t, timeout=10).topics[t].partitions]
    made.assign(partitions)
    return made


def run(kind: str, brokers: str, name: str, model: Any, count: int) -> None:
    topics = {"learn": ["examples"], "whole": ["events", "labels"]}.get(kind, ["events"])
    source = consumer(brokers, [f"{name}.{topic}" for topic in topics])
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 1, "compression.type": "lz4"})
    kept: dict[str, dict[str, float]] = {}
    early: dict[str, bool] = {}
    done = 0
    while done < count:
        for message in _arrived(source) if kind == "answer" else source.consume(2_000, 0.05):
            value = decode(message.value())
            if kind == "learn":
                model.learn_one(value["features"], value["label"])
            elif message.topic().endswith(".labels"):
                x = kept.pop(value["event_id"], None)
                if x is None:
                    early[value["event_id"]] = value["label"]
                else:
                    model.learn_one(x, value["label"])
            else:
                x = value["features"]
                p = model.predict_proba_one(x)
                answer = encode({"event_id": value["event_id"], "prediction": p[True] >= 0.5, "p": p[True]})
                _produce(producer, f"{name}.predictions", answer, message.key())
                if kind == "whole":
                    label = early.pop(value["event_id"], None)
                    if label is None:
                        kept[value["event_id"]] = x
                    else:
                        model.learn_one(x, label)
            done += 1
            if done % EVERY == 0 or done == count:
                print(json.dumps([time.time(), done]), flush=True)
        producer.poll(0)
    producer.flush(30)


def _arrived(source: Consumer) -> list[Any]:
    first = source.poll(0.05)
    return [first, *source.consume(500, 0)] if first is not None else []


def _produce(producer: Producer, topic: str, value: bytes, key: bytes) -> None:
    while True:
        try:
            producer.produce(topic, value, key)
            return
        except BufferError:
            producer.poll(0.05)


if __name__ == "__main__":
    from bench.pipeline import build

    kind_, brokers_, name_, model_, count_ = sys.argv[1:]
    run(kind_, brokers_, name_, build({"model": model_, "more": []}), int(count_))
