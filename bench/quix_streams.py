"""Quix Streams as its documentation shows it: a StreamingDataFrame per topic, predict and learn.

    .venv-bench-quix/bin/python -m bench.quix_streams <brokers> <name> <model> <count>

Prints `[seconds, records]` now and then. Quix commits offsets every 5 s, so after a crash it answers the records since then
again, and the model and what waits for a label, both only in memory, are lost; Quix's own state (RocksDB and a changelog) is
not used. No validation, dead letters or explanations.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

from quixstreams import Application

from bench.peer import PredictAndLearn


def main(brokers: str, name: str, model_name: str, count: int, state: str) -> None:
    # JSON (orjson), commits, polling and the producer as Quix has them by default; msgspec or lz4 make no difference. It makes
    # its directory for state although there is none.
    app = Application(
        broker_address=brokers, consumer_group=f"{name}-quix", auto_offset_reset="earliest",
        auto_create_topics=False, state_dir=state, loglevel="ERROR",
    )  # fmt: skip
    work = PredictAndLearn(model_name, count)

    def stop_when_done() -> None:
        if work.done == count:
            app.stop()

    def predict(value: dict[str, Any]) -> dict[str, Any]:
        answer = work.event(value)
        stop_when_done()
        return answer

    def learn(value: dict[str, Any]) -> None:
        work.label(value)
        stop_when_done()

    app.dataframe(app.topic(f"{name}.events")).apply(predict).to_topic(app.topic(f"{name}.predictions"))
    app.dataframe(app.topic(f"{name}.labels")).update(learn)
    app.run()


if __name__ == "__main__":
    brokers_, name_, model_, count_ = sys.argv[1:]
    with tempfile.TemporaryDirectory() as state_:
        main(brokers_, name_, model_, int(count_), state_)
