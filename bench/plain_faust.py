"""Faust as its documentation shows it: two agents on its own transport, predict and learn, with no guarantee.

    python -m bench.plain_faust <brokers> <name> <model> <count>

Prints `[seconds, records]` now and then.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import faust
import msgspec

EVERY = 1_000


class App(faust.App):  # type: ignore[misc]
    def _create_directories(self) -> None:
        """Faust makes a directory for tables; there are none."""


def main(brokers: str, name: str, model_name: str, count: int) -> None:
    from bench.pipeline import build

    app = App(
        f"{name}-plain", broker=f"kafka://{brokers}", web_enabled=False, value_serializer="raw", key_serializer="raw",
        topic_disable_leader=True, consumer_auto_offset_reset="earliest", stream_wait_empty=False,
    )  # fmt: skip
    events = app.topic(f"{name}.events", value_serializer="raw")
    labels = app.topic(f"{name}.labels", value_serializer="raw")
    predictions = app.topic(f"{name}.predictions", value_serializer="raw")
    model = build({"model": model_name, "more": []})
    kept: dict[str, dict[str, float]] = {}
    early: dict[str, bool] = {}
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done % EVERY == 0 or done == count:
            print(json.dumps([time.time(), done]), flush=True)
        if done == count:
            os._exit(0)

    @app.agent(events)  # type: ignore[untyped-decorator]
    async def predict(stream: Any) -> None:
        async for raw in stream:
            value = msgspec.json.decode(raw)
            x = value["features"]
            p = model.predict_proba_one(x)[True]
            answer = msgspec.json.encode({"event_id": value["event_id"], "prediction": p >= 0.5, "p": p})
            await predictions.send(value=answer)
            label = early.pop(value["event_id"], None)
            if label is None:
                kept[value["event_id"]] = x
            else:
                model.learn_one(x, label)
            advance()

    @app.agent(labels)  # type: ignore[untyped-decorator]
    async def learn(stream: Any) -> None:
        async for raw in stream:
            value = msgspec.json.decode(raw)
            x = kept.pop(value["event_id"], None)
            if x is None:
                early[value["event_id"]] = value["label"]
            else:
                model.learn_one(x, value["label"])
            advance()

    faust.Worker(
        app, loglevel="error", logging_config=None, quiet=True, override_logging=False
    ).execute_from_commandline()


if __name__ == "__main__":
    brokers_, name_, model_, count_ = sys.argv[1:]
    main(brokers_, name_, model_, int(count_))
