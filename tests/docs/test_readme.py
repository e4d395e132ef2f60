"""The commands of README.md, done as it says, in order, on a real Kafka and Redis; their tables are made here."""

from __future__ import annotations

import csv
import itertools
import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from stream.cli.sources import a_year_ago_ms
from stream.local.process import Child, wait_until
from tests.support.reader import UP, Reader

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
(PIPELINE,) = (text for language, text in BLOCKS if language == "python")
(LINES,) = (text.splitlines() for language, text in BLOCKS if language == "sh" and "driftloop check" in text)
COMMANDS = [re.split(r"\s+#", line)[0] for line in LINES]

ELSEWHERE = {"s3://bucket/backups": "backups", "2@1042": "2@42"}  # what is not here, and what stands for it
ELSEWHERE_RUN = {  # what takes longer than it is worth here, and the test that runs it
    "driftloop unlearn cards.py --source mallory --release": "tests/e2e/test_verify.py",
    "driftloop backfill cards2.py --since 2026-01-31 --run": "tests/cli/test_backfill.py",
}
WATCHED = {  # what goes on until Ctrl-C, and what it shows until then
    "driftloop predictions cards.py": r"mallory-\d+ .*cards\.events-\d@\d+",
    "driftloop status cards.py --watch": r"cards: flow",
}
SAYS = {
    "driftloop check cards.py": r"ok cards: binary, 2 features",
    "driftloop replay cards.py history.csv --label fraud --key card --report page.html": r"2,000 predictions, 0 dead letters",
    "driftloop up cards.py": "",
    "source .driftloop/up/environment": "",
    "driftloop produce cards.py cards.csv --label fraud --key card --rate 1000": r"produced 5,000 events and 5,000 labels",
    "driftloop drifts cards.py": "",  # how soon one is told depends on the machine's speed; the guide's test waits for one
    "driftloop dead-letters cards.py": r"field_missing",
    "driftloop models cards.py": r"champion",
    "driftloop retrain cards.py": r"run manual-\w+: ",
    "driftloop doctor cards.py": r"ok cards: \d+ checks found nothing wrong",
    "driftloop backup cards.py s3://bucket/backups": r"backup \S+: \d+ files, ",
    "driftloop archive cards.py": r"archived [\d,]+ rows: offsets \d+ to \d+ \(exclusive\) of cards\.examples-0",
    "driftloop report cards.py": r"wrote cards-report\.html",
    "driftloop replay cards.py topics --exact": r"(5,\d+) of \1 predictions equal live's, byte for byte",
    "driftloop verify cards.py cards.predictions-2@1042": r"equal  cards\.predictions-2@42",
}


def test_something_is_expected_of_every_command():
    assert COMMANDS == [
        command for command in COMMANDS if command in SAYS or command in WATCHED or command in ELSEWHERE_RUN
    ]
    assert set(COMMANDS) == SAYS.keys() | WATCHED.keys() | ELSEWHERE_RUN.keys()
    assert all((ROOT / test).exists() for test in ELSEWHERE_RUN.values())


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    its = Reader(tmp_path)
    (tmp_path / "cards.py").write_text(PIPELINE)
    write_cards(tmp_path / "history.csv", 2_000, seed=1, changed_at=2_000)
    write_cards(tmp_path / "cards.csv", 5_000, seed=2, changed_at=3_000)
    yield its
    its.close()


def write_cards(path: Path, rows: int, *, seed: int, changed_at: int) -> None:
    """Payments of 200 cards; from row `changed_at` on it is the small amounts that are fraud."""
    rng = random.Random(seed)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["card", "amount", "hour", "fraud"])
        for row in range(rows):
            amount = round(min(5_000.0, rng.lognormvariate(4, 1.2)), 2)
            odds = (2.4 if row < changed_at else -2.4) * (math.log(amount + 1) - 4)
            table.writerow(
                [f"card-{rng.randrange(200)}", amount, rng.randrange(24), rng.random() < 1 / (1 + math.exp(-odds))]
            )


class Mallory:
    """An application of somebody else, which sends wrong labels and records that are no events."""

    def __init__(self, reader: Reader) -> None:
        exported = (reader.directory / ".driftloop" / "up" / "environment").read_text()
        found = re.search(r"DRIFTLOOP_BROKERS=(\S+)", exported)
        assert found is not None
        self.producer = Producer({"bootstrap.servers": found[1], "partitioner": "murmur2_random", "log_level": 0})
        self.numbers = itertools.count()
        self.start_ms = a_year_ago_ms() + 6_000_000  # behind those of the table, which has no times

    def send(self) -> None:
        number = next(self.numbers)
        event_id, at_ms = f"mallory-{number}", self.start_ms + 1_000 * number
        event = {"event_id": event_id, "occurred_at_ms": at_ms, "features": {"amount": 31.5, "hour": 14}}
        label = {"event_id": event_id, "label": True, "labelled_at_ms": at_ms + 500, "source": "mallory"}
        broken = {"event_id": f"broken-{number}", "occurred_at_ms": at_ms}
        for topic, value in (("events", event), ("events", broken), ("labels", label)):
            self.producer.produce(f"cards.{topic}", json.dumps(value), key=f"card-{number % 200}")
        assert self.producer.flush(20) == 0


def shows(child: Child, pattern: str) -> bool:
    assert child.running(), child.tail()
    return re.search(pattern, child.log_path.read_text()) is not None


def watch(reader: Reader, command: str, mallory: Mallory) -> None:
    """Until it shows what it should, while records come."""
    child = reader.watch(command)

    def shown() -> bool:
        mallory.send()
        return shows(child, WATCHED[command])

    wait_until(shown, 60.0, f"{command} to show {WATCHED[command]}", 0.2)
    child.signal(2)  # Ctrl-C
    child.wait(20.0)


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_the_commands_of_the_readme(reader: Reader):
    mallory: Mallory | None = None
    for command in (its for its in COMMANDS if its not in ELSEWHERE_RUN):
        here = command
        for there, instead in ELSEWHERE.items():
            here = here.replace(there, instead)
        if command.startswith(UP):
            reader.go_up(here)
            mallory = Mallory(reader)
        elif command in WATCHED:
            assert mallory is not None
            watch(reader, here, mallory)
        else:
            said = reader.run(here)
            assert re.search(SAYS[command], said), f"{here}\ndoes not say {SAYS[command]!r}:\n{said}"
    for page in ("page.html", "cards-report.html"):
        assert "cards" in (reader.directory / page).read_text()
    assert list((reader.directory / "backups").rglob("*.json"))
    assert reader.first is not None
    reader.first.signal(2)
    assert reader.first.wait(60.0) == 0, reader.said()
