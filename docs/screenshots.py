"""Makes docs/images/page-*.png: `make screenshots`. Streams payments through a real stack, with a candidate on the way.

It takes some minutes, and needs Chromium.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from playwright.sync_api import Browser, Page

from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.file_pipelines import load_pipeline
from stream.adapters.kafka_topics import KafkaTopics
from stream.batch.releasing import release
from stream.cli.producing import produce
from stream.cli.running import worker_command
from stream.cli.sources import Columns, read_source
from stream.core.model_bases import ModelBase, configuration_of, seal_base
from stream.local.process import wait_until
from stream.local.servers import free_port
from stream.local.stack import Stack
from stream.settings import Settings, load_settings
from stream.topics import TopicNames
from tests.support.browser import browser

ROOT = Path(__file__).parents[1]
FILE = ROOT / "examples" / "payments" / "pipeline.py"
IMAGES = ROOT / "docs" / "images"
EVENTS, RATE = 80_000, 400.0
VIEWS = {"light": ("light", 1280, 900), "dark": ("dark", 1280, 900), "phone": ("light", 390, 844)}


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        Stack(Path(directory), kafka_cache=ROOT / ".driftloop/kafka") as stack,
    ):
        os.environ.update({k: v for k, v in stack.environment().items() if k.startswith("DRIFTLOOP_")})
        settings, names = load_settings(), TopicNames.of(load_pipeline(FILE).pipeline)
        KafkaTopics(settings.kafka(), names).create(4, 1)
        url = f"http://127.0.0.1:{(port := free_port())}"
        stack.add("learn", worker_command(FILE, "learn"), DRIFTLOOP_WEB_PORT=str(port))
        stack.add("score", worker_command(FILE, "score"))
        wait_until(lambda: _state(url)["flow"]["partitions"] and len(_state(url)["workers"]) == 2, 60.0, "the workers")
        stop = threading.Event()
        producing = threading.Thread(target=_produce, args=(settings, names, stop))
        producing.start()
        try:
            _wait(url, lambda state: _offset(state) > 20_000, "labels", 300.0)
            _produce_wrong(settings, names)
            _release(settings)
            _wait(
                url, lambda s: s["learner"]["trial"] and s["learner"]["trial"]["stage"] == "canary", "a canary", 240.0
            )
            time.sleep(8.0)  # the course of the evidence
            with browser() as chromium:
                _shoot_section(chromium, url, "models")
                _wait(url, lambda state: _offset(state) > 52_000, "the change", 300.0)
                _shoot_section(chromium, url, "features")
                _shoot_pages(chromium, url)
        finally:
            stop.set()
            producing.join()


def _produce(settings: Settings, names: TopicNames, stop: threading.Event) -> None:
    pipeline = load_pipeline(FILE).pipeline
    source = str(FILE.with_name("generator.py"))
    columns = Columns(None, None, None, None, None)
    records = read_source(pipeline, source, columns=columns, limit=EVENTS, delay_ms=0, interval_ms=0, seed=7)
    produce(settings, names, (record for record in records if not stop.is_set()), rate=RATE)


def _release(settings: Settings) -> None:
    """A candidate with another learning rate, which catches up by itself."""
    pipeline = load_pipeline(FILE).pipeline
    model = pipeline.model({**pipeline.params, "learning_rate": 0.1})
    base = ModelBase(pipeline=pipeline.name, shard=0, offset=0, model=model, provenance={"by": "docs/screenshots.py"})
    sealed = seal_base(base, configuration=configuration_of(pipeline), key=settings.signing()[0])
    ArtifactFiles(settings.artifact_url, pipeline.name).put_base(sealed, base.name)
    release(settings, pipeline, base.name, by="person:ada", reason="learning rate 0.1 in place of 0.05")


def _produce_wrong(settings: Settings, names: TopicNames) -> None:
    """Some records that break a rule."""
    producer = Producer(settings.kafka())
    for number in range(9):
        value = [b"{", b'{"event_id": "x"}', b'{"event_id": "y", "occurred_at_ms": 1, "features": {"amount": "much"}}'][
            number % 3
        ]
        producer.produce(names.events, value, b"card-1", timestamp=1_767_225_600_000)
    producer.flush(10)


def _state(url: str) -> Any:
    try:
        with urllib.request.urlopen(f"{url}/state", timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return {"flow": {"partitions": []}, "workers": [], "learner": None}


def _offset(state: Any) -> int:
    return int(state["learner"]["offset"]) if state["learner"] else 0


def _wait(url: str, condition: Callable[[Any], bool], what: str, timeout_s: float) -> None:
    wait_until(lambda: bool((state := _state(url))["learner"] and condition(state)), timeout_s, what)


def _open(chromium: Browser, url: str, **options: Any) -> Page:
    page = chromium.new_page(**options)
    page.goto(url)
    page.wait_for_selector("#quality-chart svg")
    page.wait_for_selector("#predictions li dl")
    page.wait_for_selector("#releases code")
    return page


def _shoot_section(chromium: Browser, url: str, section: str) -> None:
    page = _open(chromium, url, viewport={"width": 1280, "height": 900})
    page.locator(f"#{section}").screenshot(path=IMAGES / f"page-{section}.png")
    page.close()


def _shoot_pages(chromium: Browser, url: str) -> None:
    for name, (scheme, width, height) in VIEWS.items():
        page = _open(chromium, url, viewport={"width": width, "height": height}, color_scheme=scheme)
        page.screenshot(path=IMAGES / f"page-{name}.png")
        if whole := os.environ.get("WHOLE"):  # a directory for pictures of the whole page, to look at
            page.screenshot(path=Path(whole) / f"whole-{name}.png", full_page=True)
        page.close()


if __name__ == "__main__":
    main()
