"""A candidate on trial, for real: what the page shows of it while it is judged, and of a drift meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Producer
from playwright.sync_api import Locator, Page, expect
from river import linear_model, preprocessing

from stream.adapters.artifact_files import ArtifactFiles
from stream.batch.releasing import release
from stream.core.model_bases import ModelBase, configuration_of, seal_base
from stream.local.stack import Stack
from tests.support.environment import environment
from tests.support.served import TEXT_S, Served
from tests.support.world import World, card_stream

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def served(stack: Stack) -> Iterator[Served]:
    with environment({"DRIFTLOOP_TEST_ROLLOUT": "quick"}):  # it waits for a person, so it is still there when one looks
        made = Served(stack, "page-trial")
        yield made
        made.world.close()


def candidate(world: World) -> str:
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression(l2=0.001)
    base = ModelBase(pipeline=world.name, shard=0, offset=0, model=model)
    sealed = seal_base(base, configuration=configuration_of(world.pipeline), key=world.settings.signing()[0])
    ArtifactFiles(world.settings.artifact_url, world.name).put_base(sealed, base.name)
    return base.name


def test_a_trial_its_two_models_and_a_drift_meanwhile(open_page: Callable[..., Page], served: Served):
    world = served.world
    served.charted()  # so that the charts begin before the trial
    world.wait_settled()
    base = candidate(world)
    with ThreadPoolExecutor(1) as pool:  # Playwright keeps an event loop running in this thread
        pool.submit(release, world.settings, world.pipeline, base, by="person:ada").result()
    page = open_page()
    expect(page.locator("#releases")).to_contain_text(base, timeout=TEXT_S)
    expect(page.locator("#slots .slot", has_text="challenger")).to_contain_text(base, timeout=TEXT_S)
    world.produce(card_stream(5_000, seed=2, partitions=world.partitions), rate=500)  # a point each five seconds
    world.wait_settled()

    # Whichever of them was served, both models have said something to every event that was compared.
    trial = world.status().learner["trial"]
    assert trial["labels"] > 500, trial
    shown = page.locator("#trial")
    expect(shown).to_contain_text(f"{trial['accuracy_candidate']:.3f}, {trial['accuracy_rival']:.3f}", timeout=TEXT_S)
    expect(shown.locator("dd").first).to_have_text(trial["stage"])
    expect(shown.locator("dd", has_text=f"{trial['labels']:,}").first).to_be_visible()
    evidence, quality = shown.locator(".chart").nth(0), shown.locator(".chart").nth(1)
    for chart, models in ((evidence, ("c-green", "c-red")), (quality, ("c-blue", "c-grey"))):
        for cls in models:
            expect(chart.locator(f"path.line.{cls}")).to_have_count(1)

    course = served.course()
    on_trial = [(at, t) for at, t in zip(course["offset"], course["trial"], strict=True) if t and t[0] == base]
    before = on_trial[0][0] - 10
    began = next(at for at, (_, _, _, labels, *_) in on_trial if labels >= 200)  # the first step of the lower chart
    for offset in (before, began):
        tell(world, f"drift-{offset}", offset)
    for chart in (evidence, quality):
        expect(mark(chart, began)).to_have_count(1, timeout=TEXT_S)
        expect(mark(chart, before)).to_have_count(0)  # it is not of this trial
    for offset in (before, began):
        expect(mark(page.locator("#quality-chart"), offset)).to_have_count(1)


def mark(chart: Locator, offset: int) -> Locator:
    return (
        chart.locator("g").filter(has_text=f"label rose from 0.100 to 0.200 since example {offset:,}").locator("line")
    )


def tell(world: World, drift_id: str, offset: int) -> None:
    drift = {
        "drift_id": drift_id, "pipeline": world.name, "signal": "label", "detector": "x", "severity": 1.0, "before": 0.1,
        "after": 0.2, "examples_topic": world.names.examples, "from_offset": offset, "to_offset": offset + 100,
        "detected_at_ms": 1,
    }  # fmt: skip
    producer = Producer({"bootstrap.servers": world.stack.brokers})
    producer.produce(world.names["drifts"], json.dumps(drift).encode(), partition=0, timestamp=int(time.time() * 1e3))
    assert producer.flush(10) == 0
