"""A replay beside a bare River loop over the same records, in one process: parse, predict, and learn when the label comes."""

from __future__ import annotations

import dataclasses
import heapq
import os
import random
import statistics
import time
from collections.abc import Iterator

import msgspec

from bench.harness import PIPELINE, START_MS, figure
from bench.pipeline import row
from stream import Drift
from stream.adapters.file_pipelines import load_pipeline
from stream.batch.replaying import replay
from stream.core.records import Record

__all__ = ["run"]

LABEL_DELAY = 1_000  # events


def run(quick: bool) -> None:
    n, runs = (5_000, 1) if quick else (50_000, 5)
    for model in ("logistic", "tree"):
        os.environ["DRIFTLOOP_BENCH"] = f"bench:{model}:plain"
        pipeline = load_pipeline(PIPELINE).pipeline
        records = list(_records(n))
        ours, bare = [], []
        for _ in range(runs):
            ours.append(n / replay(pipeline, records).seconds)
            bare.append(n / _bare(pipeline.build(), records))
        ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
        figure(
            f"replay.{model}", statistics.median(ours), "labelled events/s", ratio_to="bare River loop",
            ratio=round(ratio, 3), other=round(statistics.median(bare)),
        )  # fmt: skip
    _watched(records, runs)


def _watched(records: list[Record], runs: int) -> None:
    """What all of drift takes of scoring and learning together, by CPU time: on a busy machine the clock's hides it."""
    os.environ["DRIFTLOOP_BENCH"] = "bench:logistic:plain"
    pipeline = load_pipeline(PIPELINE).pipeline
    speeds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(runs):
        for watched in (True, False):
            its = dataclasses.replace(pipeline, drift=Drift() if watched else False)
            started_s = time.process_time()
            replay(its, records)
            speeds[watched].append(len(records) / 2 / (time.process_time() - started_s))
    ratio = statistics.median(a / b for a, b in zip(speeds[True], speeds[False], strict=True))
    figure(
        "replay.logistic.watched", statistics.median(speeds[True]), "labelled events per CPU second", ratio_to="without drift",
        ratio=round(ratio, 3), other=round(statistics.median(speeds[False])),
    )  # fmt: skip


def _records(n: int) -> Iterator[Record]:
    rng = random.Random(3)
    due: list[tuple[int, Record]] = []
    for i in range(n):
        x, y = row(rng)
        at_ms, key = START_MS + i, b"entity-%d" % rng.randrange(1_000)
        value = msgspec.json.encode({"event_id": f"e{i}", "occurred_at_ms": at_ms, "features": x})
        label = msgspec.json.encode({"event_id": f"e{i}", "label": y, "labelled_at_ms": at_ms + LABEL_DELAY})
        heapq.heappush(due, (at_ms + LABEL_DELAY, Record("labels", 0, i, at_ms + LABEL_DELAY, key, label)))
        while due[0][0] <= at_ms:
            yield heapq.heappop(due)[1]
        yield Record("events", 0, i, at_ms, key, value)
    while due:
        yield heapq.heappop(due)[1]


def _bare(model: object, records: list[Record]) -> float:
    decode = msgspec.json.Decoder().decode
    kept = {}
    started_s = time.perf_counter()
    for record in records:
        value = decode(record.value or b"")
        if record.topic == "events":
            kept[value["event_id"]] = x = value["features"]
            model.predict_proba_one(x)  # type: ignore[attr-defined]
        else:
            model.learn_one(kept.pop(value["event_id"]), value["label"])  # type: ignore[attr-defined]
    return time.perf_counter() - started_s
