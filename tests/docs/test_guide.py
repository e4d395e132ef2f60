"""docs/guide.md, done as it says: every file written, every command run, in order, on a real Kafka and Redis."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.reader import Block, Reader

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guide.md").read_text()
BLOCK = re.compile(
    r"(?:^`([\w.]+)`:\n\n)?^```(\w+)\n(.*?)^```\n(?:<!-- (says|until it says): (.*?) -->)?", re.DOTALL | re.MULTILINE
)


BLOCKS = [Block(*found) for found in BLOCK.findall(GUIDE)]


def test_every_block_is_one_that_is_run():
    assert len(BLOCKS) == GUIDE.count("```") / 2 > 10
    assert all(block.file if block.language == "python" else block.language == "sh" for block in BLOCKS)
    assert BLOCKS[0].text.startswith("make install")  # which this environment is made by
    assert sum(bool(block.how) for block in BLOCKS) == GUIDE.count("<!--") >= 6


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    its = Reader(tmp_path)
    yield its
    its.close()


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_the_guide(reader: Reader):
    for block in BLOCKS[1:]:
        reader.do(block)
    replayed = (reader.directory / "replay.html").read_text()
    assert "parcels" in replayed and "http://" not in replayed.replace("http://www.w3.org", "")
    requests = (reader.directory / "requests.csv").read_text().splitlines()
    assert requests[0].startswith("event_id,key,") and requests[0].endswith(",label")
    assert reader.first is not None
    reader.first.signal(2)
    assert reader.first.wait(60.0) == 0, reader.said()
