"""What the page costs the worker that serves it: `python -m bench.page`. Processor time of a learner under a steady stream,
with nobody looking, and with some viewers.
"""

from __future__ import annotations

import http.client
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.harness import figure
from stream.adapters.file_pipelines import load_pipeline
from stream.adapters.kafka_topics import KafkaTopics
from stream.cli.producing import produce
from stream.cli.running import worker_command
from stream.cli.sources import Columns, read_source
from stream.local.process import Child
from stream.local.servers import free_port
from stream.local.stack import Stack
from stream.settings import load_settings
from stream.topics import TopicNames

FILE = Path(__file__).parents[1] / "examples" / "payments" / "pipeline.py"
RATE, FOR_S = 300.0, 15.0
VIEWERS = (0, 1, 5, 0, 1, 5)


def cpu_s(child: Child) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def viewer(port: int, read: list[int]) -> Iterator[None]:
    """Somebody who looks; `read` counts bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/stream")
    answer = connection.getresponse()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            count = len(answer.read1(65_536))
            read[0] += count

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        connection.close()


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        Stack(Path(directory), kafka_cache=Path(".driftloop/kafka")) as stack,
    ):
        os.environ.update({k: v for k, v in stack.environment().items() if k.startswith("DRIFTLOOP_")})
        settings, pipeline = load_settings(), load_pipeline(FILE).pipeline
        names = TopicNames.of(pipeline)
        KafkaTopics(settings.kafka(), names).create(4, 1)
        port, stop = free_port(), threading.Event()
        learner = stack.add("learn", worker_command(FILE, "learn"), DRIFTLOOP_WEB_PORT=str(port))
        stack.add("score", worker_command(FILE, "score"))
        columns = Columns(None, None, None, None, None)
        source = str(FILE.with_name("generator.py"))
        records = read_source(pipeline, source, columns=columns, limit=100_000, delay_ms=0, interval_ms=0, seed=7)
        wanted = (record for record in records if not stop.is_set())
        producing = threading.Thread(target=produce, args=(settings, names, wanted), kwargs={"rate": RATE})
        producing.start()
        try:
            time.sleep(40.0)  # starting, and a course to show
            for count in VIEWERS:
                read = [0]
                with ExitStack() as viewers:
                    for _ in range(count):
                        viewers.enter_context(viewer(port, read))
                    time.sleep(2.0)
                    before_s, began_s, read[0] = cpu_s(learner), time.monotonic(), 0
                    time.sleep(FOR_S)
                    passed_s = time.monotonic() - began_s
                    share = (cpu_s(learner) - before_s) / passed_s
                figure(
                    "page", 100 * share, "% of a core, learner and page", viewers=count,
                    bytes_per_s=round(read[0] / passed_s),
                )  # fmt: skip
        finally:
            stop.set()
            producing.join()


if __name__ == "__main__":
    main()
