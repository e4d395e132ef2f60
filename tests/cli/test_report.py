"""`driftloop report`, as a user calls it: what the page and the figures say, and what they do not pretend to know."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import time
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from stream import Objectives
from stream.adapters import kafka_topics
from stream.adapters.file_pipelines import load_pipeline
from stream.batch.archiving import archive_examples
from stream.cli.main import app
from stream.cli.period_page import period_page
from stream.cli.sources import Columns, read_source
from stream.core.period_reports import Found, Missing, TrainingRun, put_together
from stream.core.periods import PeriodFold, slots_of
from stream.errors import ConfigurationError
from stream.local.servers import free_port
from stream.messages import DeadLetter, Drift, Moved, Release
from tests.support.archived import archive_history
from tests.support.browser import browser, chromium_path
from tests.support.examples import START_MS, example
from tests.support.records import pipeline_of
from tests.support.world import PIPELINE_FILE, World, card_stream

PAYMENTS = Path(__file__).parents[2] / "examples" / "payments"
EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"


def run(*arguments: str, **environment: str) -> str:
    answer = CliRunner().invoke(app, ["report", *arguments], env={**os.environ, "COLUMNS": "160", **environment})
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.stdout


class Seen(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.style = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "style" and not self.style:
            self.style = data
        self.text.append(data)


def is_safe(page: str) -> Seen:
    """One file: no script, nothing from outside, and a policy that would not let it."""
    seen = Seen(page)
    assert not {tag for tag, _ in seen.tags} & {"script", "img", "iframe", "link", "object", "form", "base"}
    names = {name for _, attributes in seen.tags for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("style", "src", "srcset")}
    assert all((its.get("href") or "#").startswith("#") for _, its in seen.tags)
    assert "http" not in re.sub(r"http-equiv", "", page)
    (policy,) = [its["content"] for tag, its in seen.tags if tag == "meta" and "http-equiv" in its]
    digest = base64.b64encode(hashlib.sha256(seen.style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return seen


@pytest.fixture(scope="module")
def payments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of 3,000 payments in January 2026."""
    url = tmp_path_factory.mktemp("archive")
    pipeline = load_pipeline(PAYMENTS / "pipeline.py").pipeline
    columns = Columns(None, None, None, None, None)
    source = str(PAYMENTS / "generator.py")
    history = read_source(pipeline, source, columns=columns, limit=3_000, delay_ms=0, interval_ms=1_000, seed=7)
    archive_history(pipeline, history, str(url))
    return url


@pytest.fixture
def nothing_else(payments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The archive alone: neither Kafka nor Redis answers."""
    monkeypatch.setattr(kafka_topics, "TIMEOUT_S", 1.0)
    return {
        "DRIFTLOOP_ARCHIVE_URL": str(payments), "DRIFTLOOP_ARTIFACT_URL": str(tmp_path / "artifacts"),
        "DRIFTLOOP_BROKERS": f"127.0.0.1:{free_port()}", "DRIFTLOOP_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
    }  # fmt: skip


def test_from_the_archive_alone(nothing_else: dict[str, str], tmp_path: Path):
    page = tmp_path / "page.html"
    period = ("--since", "2026-01-01", "--until", "2026-01-10")
    found = json.loads(run(str(PAYMENTS / "pipeline.py"), *period, "--json", "-o", str(page), **nothing_else))
    assert found["examples"]["judged"] == sum(slot["labels"] for slot in found["examples"]["course"]) > 2_500
    assert {one["value"] for one in found["examples"]["segments"]} == {"in_store", "online"}
    # Nothing that nobody could read is a zero.
    for unknown in (
        "events",
        "predictions",
        "coverage",
        "drifts",
        "releases",
        "dead_letters",
        "dead_letter_count",
        "now",
    ):
        assert found[unknown] is None
    assert found["runs"] == []
    lacking = {one["what"]: one["why"] for one in found["missing"]}
    assert len(lacking) == 2
    assert any("drifts, releases" in what for what in lacking)
    seen = is_safe(page.read_text())
    text = " ".join(seen.text)
    assert "Not known for this period" in text
    assert "the state now, in Redis" in text
    assert text.count("not known") >= 5
    assert sum(tag == "svg" for tag, _ in seen.tags) >= 6


def test_neither_archive_nor_kafka(nothing_else: dict[str, str], tmp_path: Path):
    nowhere = {**nothing_else, "DRIFTLOOP_ARCHIVE_URL": str(tmp_path / "none")}
    found = json.loads(run(str(PAYMENTS / "pipeline.py"), "--json", **nowhere))
    lacking = {one["what"]: one["why"] for one in found["missing"]}
    assert "run `driftloop archive`" in lacking["archived examples"]
    assert lacking["examples"] == "there are none that can be read"
    assert not (tmp_path / "none").exists()


def test_a_period_without_examples_says_where_they_are(nothing_else: dict[str, str]):
    found = json.loads(run(str(PAYMENTS / "pipeline.py"), "--until", "2025-01-01", "--json", **nothing_else))
    assert found["examples"] is None
    (why,) = [one["why"] for one in found["missing"] if one["what"] == "examples"]
    assert "the archive has them from 2026-01-0" in why


def test_wrong_arguments(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"ends in \.html"):
        run(str(PAYMENTS / "pipeline.py"), "-o", str(tmp_path / "page.pdf"))
    with pytest.raises(ConfigurationError, match="before the end"):
        run(str(PAYMENTS / "pipeline.py"), "--since", "2026-01-02", "--until", "2026-01-01")


def evil_page() -> str:
    """Everything that comes from a record, or from a server's mouth, tries to break out."""
    pipeline = pipeline_of(
        features={"amount": float, "hour": int, "kind": str}, entity_features=[], segments=["kind"],
        objectives=Objectives(quality=0.9, label_coverage=0.5, label_delay="1s"),
    )  # fmt: skip
    count = 600
    span = slots_of(START_MS, START_MS + 10**6, START_MS, START_MS + (count - 1) * 1_000, count)
    fold = PeriodFold(pipeline, span)
    for i in range(count):
        record = example(
            i, features={"amount": 1.0, "hour": i % 24, "kind": EVIL if i % 2 else "plain"}, label_source=EVIL,
            requested=i % 9 == 0, occurred_at_ms=START_MS + i * 1_000 - 30_000,
        )  # fmt: skip
        fold.add(msgspec.structs.replace(record, timestamp_ms=START_MS + i * 1_000))
    drift = Drift(
        drift_id=EVIL, pipeline="cards", signal=EVIL, detector=EVIL, severity=1.0, examples_topic="cards.examples", from_offset=3,
        to_offset=9, detected_at_ms=START_MS + 300_000, segment=f"kind={EVIL}", moved=[Moved(EVIL, "higher", 1.0, 0.1, 0.9)],
    )  # fmt: skip
    release = Release(
        release_id="r", pipeline="cards", action="promoted", base=EVIL, version=EVIL, share=1.0, decided_by=EVIL, reason=EVIL,
        evidence={EVIL: EVIL}, decided_at_ms=START_MS + 400_000,
    )  # fmt: skip
    about = DeadLetter(topic=EVIL, partition=0, offset=1, stage="score", code=EVIL, message=EVIL)
    training = TrainingRun(run=EVIL, cause=EVIL, from_offset=0, to_offset=9, labels=1, base=EVIL, why=EVIL)
    found = Found(
        events=count, predictions=count, examples=fold.figures(), drifts=[drift], releases=[release],
        letters=[(START_MS, about)], requests=[], runs=[training], missing=[Missing(EVIL, EVIL)],
        now={"version": EVIL, "learned": 1},
    )  # fmt: skip
    return period_page(put_together(pipeline, span, found, START_MS))


def test_nothing_breaks_out_of_the_page():
    seen = is_safe(evil_page())
    assert " ".join(seen.text).count("<script>alert(1)</script>") >= 12  # as text


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_a_browser_shows_it_without_script(tmp_path: Path, scheme: Any, width: int):
    if chromium_path() is None:
        pytest.skip("Chromium is not on PATH: no browser has looked at the report (apt-get install chromium)")
    path = tmp_path / "page.html"
    path.write_text(evil_page())
    complaints: list[str] = []
    with browser() as started:
        context = started.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda r: None if r.url == path.as_uri() else complaints.append(r.url))
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(245, 246, 248)"
        assert light == (scheme == "light")
        shown = page.evaluate("[...document.querySelectorAll('.plot svg')].filter(e => e.clientWidth).length")
        assert shown == 3  # of each chart the one that fits
        order = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(e => +e.tagName[1])")
        assert all(b - a <= 1 for a, b in pairwise(order))
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.querySelector('.top')).position") == "static"
    assert complaints == []


@pytest.mark.integration
@pytest.mark.timeout(180)
def test_what_lies_on_kafka_and_in_the_archive_is_one_period(make_world: Any, tmp_path: Path):
    world: World = make_world(partitions=2)
    stream = card_stream(1_200, poison=0.02, missing=0.0)
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stream[0].timestamp_ms / 1_000))
    world.produce(stream)
    world.start("learn")
    world.start("score")
    world.wait_settled()
    half = sum(map(len, world.read("examples").values())) // 2
    settings = {**world.environment, "DRIFTLOOP_TEST_NAME": world.name}

    def found() -> dict[str, Any]:
        return dict(json.loads(run(str(PIPELINE_FILE), "--since", since, "--json", **settings)))

    before = found()
    assert before["missing"] == []  # nothing is archived, and Kafka has all of it
    archive_examples(world.settings, world.pipeline, examples_max=half)
    report = found()
    assert report["examples"] == before["examples"]
    events = [r for r in stream if r.topic == "events"]
    poisoned = len(events) - sum(map(len, world.read("predictions").values()))
    assert (report["events"], report["predictions"]) == (len(events), len(events) - poisoned)
    assert report["dead_letter_count"] == poisoned > 0
    learner = world.status().learner
    assert learner is not None
    assert report["now"]["learned"] == report["examples"]["judged"] == learner["counts"]["learned"]
    # All labels of the live system are in the period, so its figures are the same.
    wanted = learner["metrics"]["overall"]["model"]
    assert report["examples"]["quality"]["model"] == pytest.approx(msgspec.json.decode(msgspec.json.encode(wanted)))
    assert [one["action"] for one in report["releases"]] == ["started"]
    assert report["missing"] == []

    # Kafka has deleted the first events: their number is not known any more, and nobody makes one up.
    admin = AdminClient({"bootstrap.servers": world.stack.brokers, "log_level": 0})
    for future in admin.delete_records([TopicPartition(world.names.events, 0, 200)]).values():
        future.result(30)
    report = found()
    assert (report["events"], report["coverage"]) == (None, None)
    assert report["predictions"] == len(events) - poisoned
    (why,) = [one["why"] for one in report["missing"] if one["what"] == "events"]
    assert "a part would mislead" in why
