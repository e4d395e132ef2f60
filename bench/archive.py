"""Examples from Kafka into the archive and out of it again, beside a bare loop that only reads them from Kafka."""

from __future__ import annotations

import os
import statistics
import tempfile
import time

from bench.harness import PIPELINE, figure, open_bench, paired
from stream.adapters.delta_archive import ExampleArchive
from stream.adapters.file_pipelines import load_pipeline
from stream.adapters.kafka_ranges import read_range
from stream.batch.archiving import archive_examples
from stream.local.stack import Stack
from stream.settings import load_settings

__all__ = ["run"]


def run(stack: Stack, quick: bool) -> None:
    n, runs = (20_000, 1) if quick else (300_000, 3)
    with open_bench(stack) as bench:
        bench.examples(n)
        os.environ["DRIFTLOOP_BENCH"] = f"{bench.name}:logistic:plain"
        pipeline = load_pipeline(PIPELINE).pipeline
        back: list[float] = []

        def archived() -> float:
            with tempfile.TemporaryDirectory() as directory:
                settings = load_settings(brokers=stack.brokers, archive_url=directory)
                started_s = time.perf_counter()
                done = archive_examples(settings, pipeline)
                took_s = time.perf_counter() - started_s
                started_s = time.perf_counter()
                rows = sum(1 for _ in ExampleArchive(directory, pipeline.name).records(0, 0, n))
                back.append(n / (time.perf_counter() - started_s))
                if done["rows"] != n or rows != n:
                    raise RuntimeError(f"archived {done['rows']}, read {rows} of {n}")
            return n / took_s

        def bare() -> float:
            started_s = time.perf_counter()
            read = sum(map(len, read_range(bench.settings.kafka(), bench.names, "examples", 0, 0, n)))
            if read != n:
                raise RuntimeError(f"read {read} of {n}")
            return n / (time.perf_counter() - started_s)

        ours, other, ratio = paired(runs, archived, bare)
    figure(
        "archive.write",
        ours,
        "examples/s",
        ratio_to="bare reading from Kafka",
        ratio=round(ratio, 3),
        other=round(other),
    )
    figure("archive.read", statistics.median(back), "examples/s")
