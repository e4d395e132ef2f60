"""The page, the metrics and the health of real workers, looked at with a real browser."""

from __future__ import annotations

import itertools
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from playwright.sync_api import Page, expect

from stream.core.rollout import Trial
from stream.local.stack import Stack
from stream.worker.web.metrics import METRICS
from tests.support.records import pipeline_of
from tests.support.served import TEXT_S, Served
from tests.support.world import card_stream

pytestmark = pytest.mark.integration

HOSTILE = '<img src=x onerror="window.hacked=1">\'"&</script><script>window.hacked=1</script>'


@pytest.fixture(scope="module")
def served(stack: Stack) -> Iterator[Served]:
    made = Served(stack, "page")
    yield made
    made.world.close()


def tile(page: Page, name: str) -> Any:
    return page.locator(".tile", has=page.locator("dt", has_text=name)).locator(".big")


# The tests go through the life of one system, in this order.


def test_an_empty_system_says_so(open_page: Callable[..., Page], served: Served):
    page = open_page()
    expect(page.locator("h1")).to_have_text(served.world.name)
    expect(tile(page, "Events per second")).to_have_text("0")
    expect(page.locator("#predictions")).to_contain_text("No prediction yet")
    expect(page.locator("#dead")).to_contain_text("Every record could be read")
    expect(page.locator("#objectives li")).to_have_count(4)
    expect(page.locator("#objectives")).to_contain_text("not known yet")
    expect(page.locator("#budget")).to_contain_text("0 of 0 label requests")
    expect(page.locator("#labels")).to_contain_text("No predictions yet")
    expect(page.locator("#estimated")).to_have_count(0)
    expect(page.locator("#quality-chart .mark")).to_have_count(0)
    expect(page.locator("#slots")).to_contain_text("champion")
    expect(page.locator("#releases")).to_contain_text("the model of the pipeline file")
    expect(page.locator("#trouble")).to_be_hidden()


def test_it_shows_what_happens_while_it_happens(open_page: Callable[..., Page], served: Served):
    world = served.world
    page = open_page()
    served.feed()
    expect(page.locator("#predictions li").first).to_contain_text("%", timeout=TEXT_S)
    world.wait_settled()
    counts = world.status().counts()
    expect(tile(page, "Dead letters")).to_have_text(f"{counts['dead_letters']:,}", timeout=TEXT_S)
    learned = world.status().learner["counts"]["learned"]
    expect(page.locator(".tile", has_text="Labelled")).to_contain_text(f"{learned:,} learned", timeout=TEXT_S)
    worst = max((k for k in counts if k.startswith("dead_letters.")), key=lambda k: counts[k])
    expect(page.locator("#dead")).to_contain_text(f"{worst.partition('.')[2]} {counts[worst]:,}", timeout=TEXT_S)
    expect(page.locator("#dead .why").first).to_contain_text(f"{world.name}.events-")
    expect(page.locator("#figures tbody th").first).to_have_text("average precision")
    expect(page.locator("#distributions .card").first).to_be_visible(timeout=TEXT_S)
    expect(page.locator("#partitions tbody tr")).to_have_count(world.partitions)
    # The course has a point every few seconds while something changes.
    more = card_stream(3_000, seed=2, partitions=world.partitions)
    world.produce(more, rate=600)
    expect(page.locator("#quality-chart svg path.c-blue")).to_be_visible(timeout=TEXT_S)
    expect(page.locator("#rate-chart svg path.c-blue")).to_be_visible()
    expect(page.locator("#predictions .reason svg").nth(5)).to_be_visible(
        timeout=TEXT_S
    )  # the model knows something now


def test_promises_and_the_label_budget_are_those_of_the_state(open_page: Callable[..., Page], served: Served):
    world = served.world
    page = open_page()
    world.wait_settled()
    status = world.status()
    states = [meta.labelling.query for meta in status.partitions.values() if meta.labelling is not None]
    allowed, spent = sum(s.events for s in states) * 50 / 1_000, sum(s.asked for s in states)
    assert 0 < spent <= allowed
    expect(page.locator("#budget")).to_contain_text(f"{spent:,} of {int(allowed):,} label requests", timeout=TEXT_S)
    expect(page.locator("#budget .pairs")).to_contain_text("of 5,000")
    rows = page.locator("#objectives li")
    expect(rows.filter(has_text="average precision").locator(".pill")).to_have_text("kept", timeout=TEXT_S)
    expect(rows.filter(has_text="skill against the last label").locator(".pill")).to_have_text("broken")
    expect(rows.filter(has_text="at least 1.500")).to_have_count(1)

    def told() -> bool:  # the learner looks every two seconds
        kept = served.metrics("learn")["driftloop_objective_kept"]
        name = f"pipeline={world.name}"
        return (
            kept.get(("driftloop_objective_kept", "objective=average_precision", name)),
            kept.get(("driftloop_objective_kept", "objective=skill_vs_persistence", name)),
        ) == (1.0, 0.0)

    world.wait(told, "the objectives as metrics")
    score, learn = served.metrics("score"), served.metrics("learn")
    assert sum(score["driftloop_label_budget_allowed"].values()) == pytest.approx(allowed)
    assert sum(score["driftloop_label_budget_spent"].values()) == spent
    counts = status.counts()
    answered = sum(score["driftloop_label_requests_answered"].values())
    assert answered == counts["label_requests_answered"] > 0
    assert answered <= sum(score["driftloop_label_requests"].values()) == counts["label_requests"]
    targets = learn["driftloop_objective_target_ratio"]
    assert (
        targets["driftloop_objective_target_ratio", "objective=skill_vs_persistence", f"pipeline={world.name}"] == 1.5
    )


def test_quality_is_estimated_while_labels_are_missing(open_page: Callable[..., Page], served: Served):
    world = served.world
    served.feed()
    world.produce(card_stream(2_000, seed=4, partitions=world.partitions))  # so that an earlier estimate has turned out
    world.wait_settled()
    page = open_page()
    its = world.status().estimated
    assert its is not None and its["low"] < its["accuracy"] < its["high"]
    shown = page.locator("#estimated")
    expect(shown).to_contain_text(
        f"accuracy {its['accuracy']:.3f} (90 %: {its['low']:.3f} to {its['high']:.3f}) of the last {its['predictions']:,} answers",
        timeout=TEXT_S,
    )
    before = its["turned_out"]
    expect(shown).to_contain_text(f"{before['expected']:.3f} was expected and {before['accuracy']:.3f} turned out")


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.00123, 0.0456, "+0.00123 to +0.0456 in loss"),
        (None, -0.02, "at most −0.02 in loss"),
        (None, None, "not known yet"),
    ],
)
def test_a_trial_has_its_share_and_its_confidence_sequence(
    open_page: Callable[..., Page], served: Served, low: float | None, high: float | None, says: str
):
    served.feed()
    served.world.wait(lambda: bool(served.state()["learner"]), "the learner")
    page = open_page()
    trial = Trial.begin(pipeline_of(), "11111111", "22222222")
    trial.labels, trial.stage = 1, "canary"
    state = served.state()
    state["learner"]["trial"] = {
        "base": trial.base, "rival": trial.rival, "stage": trial.stage, "share": 0.25, "won": False, "needed": 20.0,
        **trial.figures("binary"), **trial.gain(0.05), "gain_low": low, "gain_high": high,
    }  # fmt: skip
    body = f"event: state\ndata: {json.dumps(state)}\n\n"
    page.route("**/stream", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    page.reload()
    shown = page.locator("#trial")
    expect(shown).to_contain_text("25 % of the entities", timeout=TEXT_S)
    expect(shown).to_contain_text("better by, 90 % confidence whenever one looks")
    expect(shown).to_contain_text(says)


def test_every_workers_page_shows_the_same(served: Served):
    served.feed()
    served.world.wait_settled()

    def same() -> bool:
        states = [served.state(role) for role in served.ports]
        for state in states:
            state["flow"] = {k: v for k, v in state["flow"].items() if k.startswith("lag") or k == "predictions"}
            state["workers"] = [w["worker"] for w in state["workers"]]
        return states[0] == states[1] and len(states[0]["workers"]) == 2 and bool(states[0]["predictions"])

    served.world.wait(same, "both pages to agree")

    def same_course() -> bool:  # each page looks for new points now and then
        courses = [json.loads(served.get(role, "/course")[2]) for role in served.ports]
        return bool(courses[0]["offset"]) and courses[0]["offset"][-1] == courses[1]["offset"][-1]

    served.world.wait(same_course, "both courses to agree")


def test_metrics_are_there_and_say_what_the_state_says(served: Served):
    world = served.world
    served.feed()
    world.wait_settled()
    counts, status = world.status().counts(), world.status()
    assert status.learner is not None

    def told() -> bool:
        families = served.metrics("score")["driftloop_predictions"]
        return sum(families.values()) == counts["predictions"]

    world.wait(told, "the metrics to be those of the state")
    score, learn = served.metrics("score"), served.metrics("learn")
    # All are declared by every worker; those of a trial or of a regression have no values while there is none, and those of
    # a latency while no events come.
    assert METRICS.keys() <= score.keys() and METRICS.keys() <= learn.keys()
    without = {name for name in METRICS if not score[name] and not learn[name]}
    assert without - {"driftloop_objective_current_seconds"} == {
        "driftloop_objective_target_label_units",
        "driftloop_objective_current_label_units",
        "driftloop_trial_labels",
        "driftloop_trial_evidence",
        "driftloop_trial_evidence_needed",
        "driftloop_segment_quality",
    }
    assert sum(score["driftloop_dead_letters"].values()) == counts["dead_letters"]
    timed = [v for k, v in score["driftloop_scoring_seconds"].items() if k[0].endswith("_count")]
    assert sum(timed) == world.committed("events")  # every event that was fetched, once
    (learned,) = learn["driftloop_examples_learned"].values()
    assert learned == status.learner["counts"]["learned"]
    for families in (score, learn):
        for name, samples in families.items():
            if name.startswith("driftloop_"):
                assert all(f"pipeline={world.name}" in key for key in samples), name
    assert learn["process_cpu_seconds"]


def test_it_is_read_only_and_its_headers_are_strict(served: Served):
    for path in ("/", "/state", "/stream", "/metrics", "/live"):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert served.get("learn", path, method)[0] == 405
    status, headers, body = served.get("learn", "/")
    assert status == 200 and b"http://" not in body and b"https://" not in body
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert "aiohttp" not in headers["server"]
    for path in ("/nothing", "/../settings.py", "/%2e%2e/serving.py", "/page.html"):
        status, headers, _ = served.get("learn", path)
        assert status == 404 and "content-security-policy" in headers
    # A page of elsewhere, under a name that was made to point here.
    assert served.get("learn", "/state", Host="evil.example")[0] == 403
    assert served.get("learn", "/state", Host="localhost:80")[0] == 200


def test_it_listens_on_loopback_only(served: Served):
    outside = socket.gethostbyname(socket.gethostname())
    if outside.startswith("127."):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
            outside = probe.getsockname()[0]
    with pytest.raises(OSError), socket.create_connection((outside, served.ports["learn"]), timeout=2):
        pass


def test_what_comes_from_records_is_only_ever_text(open_page: Callable[..., Page], served: Served):
    world = served.world
    page = open_page()
    version = served.state()["learner"]["version"]
    source = {"topic": HOSTILE, "partition": 0, "offset": 1}
    prediction = {
        "event_id": HOSTILE, "prediction": HOSTILE, "model": {"name": "page", "version": HOSTILE}, "source": source,
        "occurred_at_ms": 1, "scored_at_ms": 1,
        "explanation": {"scale": "log_odds", "bias": 0.0, "contributions": [[HOSTILE, 1.0], ["b", -1.0]]},
    }  # fmt: skip
    release = {
        "release_id": "hostile.1", "pipeline": world.name, "action": "rejected", "base": HOSTILE, "version": version,
        "decided_by": HOSTILE, "reason": HOSTILE, "decided_at_ms": 1,
    }  # fmt: skip
    began = served.charted()
    drift = {
        "drift_id": "hostile", "pipeline": world.name, "signal": HOSTILE, "detector": "x", "severity": 1.0,
        "examples_topic": "x", "from_offset": began, "to_offset": began + 100, "detected_at_ms": 1, "segment": f"a={HOSTILE}",
        "moved": [{"feature": HOSTILE, "how": "higher", "shift": 1.0, "rank_before": 0.1, "rank_after": 0.9}],
    }  # fmt: skip
    producer = Producer({"bootstrap.servers": world.stack.brokers})
    now_ms = int(time.time() * 1e3)
    for topic, value in (("predictions", prediction), ("releases", release), ("drifts", drift)):
        producer.produce(world.names[topic], msgspec.json.encode(value), partition=0, timestamp=now_ms)
    about = {"topic": HOSTILE, "partition": "0", "offset": "1", "code": HOSTILE, "message": HOSTILE, "stage": "score"}
    headers = [(f"driftloop.error.{name}", value.encode()) for name, value in about.items()]
    producer.produce(world.names.dead_letters, HOSTILE.encode(), partition=0, headers=headers, timestamp=now_ms)
    producer.produce(world.names.predictions, b"\xff no prediction", partition=0, timestamp=now_ms)
    assert producer.flush(10) == 0
    for place in ("#predictions", "#releases", "#drifts", "#dead"):
        expect(page.locator(place)).to_contain_text(HOSTILE, timeout=TEXT_S)
    expect(page.locator("#news")).to_contain_text("Drift: ")
    mark = page.locator("#quality-chart g").filter(has_text=f"{HOSTILE} where a is {HOSTILE}")
    expect(mark.locator("line.mark.c-red")).to_have_count(1)
    expect(mark.locator("title")).to_contain_text(f"since example {began:,}")
    expect(page.locator("#quality-legend .c-red")).to_have_text("drift")
    expect(page.locator("#quality-chart svg")).to_have_attribute("aria-label", re.compile(r"[1-9] drifts marked"))
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("window.hacked") is None


def test_damaged_state_is_named_and_the_rest_goes_on(open_page: Callable[..., Page], served: Served):
    world = served.world
    page = open_page()
    live, workers = f"{{{world.name}:model:0}}:live", f"{{{world.name}:telemetry}}:workers"
    course, meta = f"{{{world.name}:telemetry}}:course", f"{{{world.name}:0}}:state"
    kept, kept_meta = world.redis.hget(live, "status"), world.redis.hget(meta, "meta")
    assert kept is not None and kept_meta is not None
    world.redis.hset(workers, "stranger", b"\xff{")
    world.redis.rpush(course, b"no point")
    try:
        world.redis.hset(live, "status", b"{no json")
        expect(page.locator("#trouble")).to_contain_text("learner's status cannot be read", timeout=TEXT_S)
        expect(page.locator("#predictions li").first).to_be_visible()
        world.redis.hset(live, "status", b'{"metrics": []}')
        expect(page.locator("#trouble")).to_contain_text("not one of ours", timeout=TEXT_S)
        world.redis.hset(meta, "meta", b"[]")
        expect(page.locator("#trouble")).to_contain_text("state of a partition", timeout=TEXT_S)
    finally:
        world.redis.hset(live, "status", kept)
        world.redis.hset(meta, "meta", kept_meta)
    expect(page.locator("#trouble")).to_be_hidden(timeout=TEXT_S)
    assert all(worker.running() for worker in world.workers)


def test_it_can_be_used_with_keys_on_a_phone_and_in_the_dark(open_page: Callable[..., Page]):
    page = open_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    expect(page.locator(".tile")).to_have_count(8)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    expect(page.locator("#quality-chart svg")).to_be_visible(timeout=TEXT_S)
    nameless = "[...document.querySelectorAll('svg[role=img], button, table, section, nav')].filter(e => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.querySelector('caption') || (e.tagName === 'TABLE' && !e.rows.length)))"
    assert page.evaluate(f"{nameless}.map(e => e.outerHTML.slice(0, 80))") == []
    order = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(e => +e.tagName[1])")
    assert order[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(order))
    contrast = page.evaluate(CONTRAST)
    assert contrast == []


CONTRAST = """(() => {
  const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
  const lum = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  const bad = new Set();
  for (const e of document.querySelectorAll('main *')) {
    if (e.closest('svg') || ![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    if (e.closest('.legend')) continue;
    const [a, b] = [lum(parse(getComputedStyle(e).color)), lum(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.add(`${e.tagName}.${e.className}: ${ratio.toFixed(2)}`);
  }
  return [...bad];
})()"""


@pytest.mark.server_goes
def test_a_viewer_is_connected_again_when_the_worker_comes_back(open_page: Callable[..., Page], served: Served):
    """The last test: it ends the learner."""
    page = open_page()
    before = json.loads(served.get("score", "/course")[2])["offset"]
    learner = served.world.workers[0]
    learner.signal(15)
    assert learner.wait(30.0) == 0, learner.tail(20)
    expect(page.locator("#connection")).to_have_text("reconnecting", timeout=TEXT_S)
    served.world.start("learn", web_port=str(served.ports["learn"]))
    expect(page.locator("#connection")).to_have_text("live", timeout=30_000)
    after = json.loads(served.get("learn", "/course")[2])["offset"]
    assert after[: len(before)] == before  # the course is Redis's, not the worker's
