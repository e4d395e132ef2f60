"""A browser for the tests of pages. Each module has a fixture `served` of its own: what is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import browser, chromium_path
from tests.support.served import TEXT_S, Served


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if chromium_path() is None:
        pytest.skip("Chromium is not on PATH: no browser has looked at the page (apt-get install chromium)")
    with browser() as started:
        yield started


@pytest.fixture
def open_page(chromium: Browser, served: Served, request: pytest.FixtureRequest) -> Iterator[Callable[..., Page]]:
    """Pages; at the end of the test none of them may have complained."""
    complaints: list[str] = []
    pages: list[Page] = []

    def make(**options: Any) -> Page:
        page = chromium.new_page(**options)
        pages.append(page)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda r: None if r.url.startswith(served.url) else complaints.append(f"outside: {r.url}"))
        page.goto(served.url)
        expect(page.locator("#connection")).to_have_text("live", timeout=TEXT_S)
        return page

    yield make
    for page in pages:
        page.close()
    gone = "net::ERR_" if request.node.get_closest_marker("server_goes") else "nothing"
    assert not [complaint for complaint in complaints if gone not in complaint]
