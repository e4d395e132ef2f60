"""The archive on a real Delta table: nothing lost, nothing doubled, whatever it holds and whoever writes."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.adapters.delta_archive import ExampleArchive
from stream.core.records import Record
from stream.errors import Conflict, Unavailable
from stream.messages import Served
from tests.support.examples import example

PATCH = "stream.adapters.delta_archive"


@pytest.fixture
def archive(tmp_path: Path) -> ExampleArchive:
    return ExampleArchive(str(tmp_path), "cards")


def everything(archive: ExampleArchive, shard: int = 0) -> list[Record]:
    return list(archive.records(shard, 0, 2**62))


def frame(archive: ExampleArchive) -> pl.DataFrame:
    return pl.read_delta(archive.location).sort("shard", "offset")


def test_an_archive_that_is_not_there_is_empty(archive: ExampleArchive):
    assert archive.end(0) == 0
    assert everything(archive) == []
    assert not archive.compact(0)
    assert archive.append(0, []) == 0


def test_records_come_back_byte_for_byte(archive: ExampleArchive):
    rng = random.Random(4)
    records = [
        example(0),
        example(1, value=None),
        Record("examples", 0, 2, 0, None, b"\x00\xff" + rng.randbytes(3_000_000)),
        example(7, value=b"{}"),
        Record("examples", 0, 8, 2**40, b"", rng.randbytes(9)),
        *(example(offset) for offset in range(100, 3_000)),
    ]
    assert archive.append(0, records[:4]) == 4
    assert archive.append(0, records[4:]) == len(records) - 4
    assert archive.end(0) == 3_000
    assert archive.end(1) == 0
    assert everything(archive) == records
    assert list(archive.records(0, 2, 8)) == records[2:4]
    assert list(archive.records(0, 3, 7)) == []
    assert list(archive.records(0, 2_999, 5_000)) == records[-1:]
    assert list(archive.records(1, 0, 5_000)) == []


def test_windows_keep_memory_small_and_leave_nothing_out(archive: ExampleArchive, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(f"{PATCH}.WINDOW_START", 3)
    monkeypatch.setattr(f"{PATCH}.WINDOW_BYTES", 10_000)
    offsets = [*range(50), 10**6, *range(10**12, 10**12 + 200)]
    records = [example(offset) for offset in offsets]
    archive.append(0, records)
    sizes = []
    query = archive._query

    def counted(table: Any, sql: str) -> dict[str, list[Any]]:
        rows = query(table, sql)
        sizes.append(sum(map(len, rows.get("value", []))))
        return rows

    monkeypatch.setattr(archive, "_query", counted)
    assert everything(archive) == records
    assert max(sizes) < 12_000
    assert len(sizes) < 80  # the empty millions are leapt over


def test_the_same_range_again_adds_nothing(archive: ExampleArchive):
    records = [example(offset) for offset in range(60)]
    assert archive.append(0, records[:40]) == 40
    assert archive.append(0, records[:40]) == 0
    assert archive.append(0, records[10:50]) == 10
    assert ExampleArchive(archive.location.removesuffix("/cards/examples"), "cards").append(0, records) == 10
    assert everything(archive) == records
    with pytest.raises(ValueError, match="ascending"):
        archive.append(0, [example(61), example(60)])


def test_shards_have_ends_of_their_own(archive: ExampleArchive):
    archive.append(0, [example(0), example(1)])
    archive.append(3, [example(0, partition=3)])
    assert [archive.end(shard) for shard in range(4)] == [2, 0, 0, 1]
    assert [r.partition for r in everything(archive, 3)] == [3]


def test_a_pipeline_that_changes_goes_on(archive: ExampleArchive):
    archive.append(0, [example(0, features={"amount": 1, "hour": 3})])
    archive.append(0, [example(1, features={"amount": 2.5, "hour": "late", "country": "is"})])
    challenger = {"champion": Served("a@1", False), "challenger": Served("b@0", True, {"false": 0.5, "true": 0.5})}
    archive.append(0, [example(2, features={"Amount": 3.0}, served=challenger)])
    archive.append(0, [example(3, features={"amount": None, "hour": 5})])
    table = frame(archive)
    assert table["feature.amount"].to_list() == [1.0, 2.5, None, None]
    assert table["feature.hour"].to_list() == [3.0, None, None, 5.0]
    assert table["feature.hour:string"].to_list() == [None, "late", None, None]
    assert table["feature.country"].to_list() == [None, "is", None, None]
    assert table["served.challenger.prediction"].to_list() == [None, None, "true", None]
    assert [r.offset for r in everything(archive)] == [0, 1, 2, 3]


def test_bad_bytes_do_not_stop_it(archive: ExampleArchive):
    bad = [None, b"", b"\xff\xfe", b"{", b'{"event_id": 3}', b"[" * 50_000]
    records = [Record("examples", 0, i, 5, b"\xff", value) for i, value in enumerate(bad)]
    records.append(example(len(bad)))
    archive.append(0, records)
    assert everything(archive) == records
    assert frame(archive)["event_id"].null_count() == len(bad)


def test_a_writer_that_read_before_another_wrote_loses(archive: ExampleArchive, monkeypatch: pytest.MonkeyPatch):
    records = [example(offset) for offset in range(30)]
    archive.append(0, records[:10])
    other = ExampleArchive(archive.location.removesuffix("/cards/examples"), "cards")
    end = other.end

    def overtaken(shard: int) -> int:
        found = end(shard)
        archive.append(0, records[10:20])  # between its look and its commit
        return found

    monkeypatch.setattr(other, "end", overtaken)
    with pytest.raises(Conflict, match="somebody else"):
        other.append(0, records[10:30])
    monkeypatch.undo()
    assert everything(archive) == records[:20]
    assert other.append(0, records[10:30]) == 10
    assert everything(archive) == records


WRITER = """
import sys, time
from stream.adapters.delta_archive import ExampleArchive
from stream.errors import Conflict
from tests.support.examples import example
url, seed, start_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
archive = ExampleArchive(url, "cards")
lost = rows = 0
time.sleep(max(0.0, start_s - time.time()))
while (end := archive.end(0)) < 600:
    try:
        rows += archive.append(0, [example(offset) for offset in range(end, min(end + 3 + seed, 600))])
    except Conflict:
        lost += 1
    if seed:
        archive.compact(0, small_files_max=10)
print(rows, lost)
"""


def test_two_processes_write_at_once(tmp_path: Path, archive: ExampleArchive):
    """They race from the very first commit, which makes the table; one of them also puts small files together."""
    start_s = time.time() + 3.0
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(seed), str(start_s)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (0, 4)
    ]
    answers = [writer.communicate(timeout=100) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], answers
    rows, lost = zip(*(map(int, out.split()) for out, _ in answers), strict=True)
    assert min(rows) > 0
    assert sum(lost) > 0  # they did meet
    assert sum(rows) == 600
    assert everything(archive) == [example(offset) for offset in range(600)]


def test_what_was_written_and_not_committed_is_no_part_of_it(archive: ExampleArchive, tmp_path: Path):
    """Data files of a writer that was killed before its commit: nobody sees them. tests/faults kills a real one."""
    archive.append(0, [example(0)])
    (file,) = Path(archive.location).glob("shard=0/*.parquet")
    (file.parent / "part-orphan.parquet").write_bytes(file.read_bytes())
    (Path(archive.location) / "_delta_log" / "_commit_half.json.tmp").write_text('{"add"')
    assert archive.end(0) == 1
    assert everything(archive) == [example(0)]
    assert archive.append(0, [example(0), example(1)]) == 1
    assert everything(archive) == [example(0), example(1)]


def test_small_files_are_put_together_and_nothing_else_changes(archive: ExampleArchive):
    records = [example(offset, features={"amount": float(offset)}) for offset in range(200)]
    for start in range(0, 200, 5):
        archive.append(0, records[start : start + 5])
    archive.append(1, [example(0, partition=1)])
    before = frame(archive)
    stale = ExampleArchive(archive.location.removesuffix("/cards/examples"), "cards")
    reading = stale.records(0, 0, 200)
    assert next(reading) == records[0]
    assert archive.compact(0)
    assert list(reading) == records[1:]  # what readers had begun to read is still there
    assert len(DeltaTable(archive.location).file_uris()) == 2
    assert not archive.compact(0)
    assert archive.end(0) == stale.end(0) == 200
    assert stale.append(0, records) == 0
    assert frame(archive).equals(before)
    assert everything(archive) == records
    archive.append(0, [example(200)])
    assert archive.end(0) == 201


def test_a_person_can_be_deleted_and_it_goes_on(archive: ExampleArchive):
    """As docs/exploring.md says it."""
    records = [example(offset) for offset in range(50)]
    archive.append(0, records[:40])
    DeltaTable(archive.location).delete("entity_id = 'card-4'")
    assert archive.end(0) == 40
    assert archive.append(0, records) == 10
    assert everything(archive) == [r for r in records if r.key != b"card-4" or r.offset >= 40]
    assert frame(archive)["feature.amount"].null_count() == 0


def log(archive: ExampleArchive) -> list[str]:
    return sorted(path.name for path in (Path(archive.location) / "_delta_log").iterdir())


def test_the_end_outlives_the_log(archive: ExampleArchive):
    """Checkpoints, and the log before them deleted."""
    for offset in range(0, 30, 3):
        archive.append(0, [example(o) for o in range(offset, offset + 3)])
    table = DeltaTable(archive.location)
    table.alter.set_table_properties({"delta.logRetentionDuration": "interval 0 days"})
    table.create_checkpoint()
    table.cleanup_metadata()
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
    assert "00000000000000000002.json" not in log(archive)
    again = ExampleArchive(archive.location.removesuffix("/cards/examples"), "cards")
    assert again.end(0) == archive.end(0) == 30
    assert again.append(0, [example(29), example(30)]) == 1
    assert [r.offset for r in everything(again)] == list(range(31))


def test_without_an_identifier_the_data_tell_the_end(archive: ExampleArchive):
    """Identifiers can expire, and other tools that copy a table need not keep them."""
    archive.append(0, [example(offset) for offset in range(7)])
    copy = ExampleArchive(archive.location.removesuffix("/cards/examples") + "/copy", "cards")
    Path(copy.location).mkdir(parents=True)
    write_deltalake(copy.location, frame(archive), partition_by=["shard"])  # fmt: skip
    assert DeltaTable(copy.location).transaction_version(copy._app_id(0)) is None
    assert copy.end(0) == 7
    assert copy.end(1) == 0
    assert copy.append(0, [example(6), example(7)]) == 1
    assert copy.end(0) == 8


def test_the_first_claim_of_a_topic_stands(archive: ExampleArchive):
    assert archive.claim("first") == "first"
    archive.append(0, [example(0)])
    assert ExampleArchive(archive.location.removesuffix("/cards/examples"), "cards").claim("second") == "first"
    assert archive.end(0) == 1


def test_statistics_do_not_repeat_what_may_be_confidential(archive: ExampleArchive):
    archive.append(0, [example(0)])
    text = "".join(p.read_text() for p in (Path(archive.location) / "_delta_log").glob("*.json"))
    assert '\\"offset\\":0' in text
    assert "card-0" not in text


def test_workers_do_not_need_it():
    look = "import sys, stream.cli.main, stream.worker.app; print({'deltalake', 'arro3', 'polars'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout == "set()\n"


def test_what_is_no_table_is_named(tmp_path: Path):
    (tmp_path / "cards" / "examples" / "_delta_log").mkdir(parents=True)
    (tmp_path / "cards" / "examples" / "_delta_log" / "00000000000000000000.json").write_text("no log")
    with pytest.raises(Unavailable, match=r"archive .*/cards/examples"):
        ExampleArchive(str(tmp_path), "cards").end(0)


def streams() -> st.SearchStrategy[list[Record]]:
    values = st.one_of(
        st.none(), st.integers(-5, 5), st.floats(allow_nan=False, allow_infinity=False, width=32), st.booleans(), st.text(max_size=3)
    )  # fmt: skip
    features = st.dictionaries(st.sampled_from(["a", "A", "b", "a:string", "b.c"]), values, max_size=4)
    served = st.dictionaries(st.sampled_from(["champion", "challenger", "X"]), st.builds(Served, st.text(max_size=3), st.none()))  # fmt: skip
    good = st.builds(lambda f, s: example(0, features=f, served=s), features, served)
    bad = st.builds(lambda value: example(0, value=value or None), st.binary(max_size=5))
    return st.lists(st.one_of(good, bad), min_size=1, max_size=12).map(
        lambda records: [Record("examples", 0, i, r.timestamp_ms, r.key, r.value) for i, r in enumerate(records)]
    )


@settings(max_examples=25)
@given(streams(), st.sets(st.integers(0, 12), max_size=5), st.sets(st.integers(0, 12), max_size=5))
def test_cuts_do_not_matter(records: list[Record], cuts: set[int], others: set[int]):
    tables = []
    with tempfile.TemporaryDirectory() as directory:
        for number, places in enumerate((cuts, others)):
            archive = ExampleArchive(f"{directory}/{number}", "cards")
            for start, stop in pairwise(sorted({0, *places, len(records)})):
                archive.append(0, records[start:stop])
            assert everything(archive) == records
            tables.append(frame(archive))
    first, second = tables
    assert first.equals(second.select(first.columns))
    assert set(first.columns) == set(second.columns)
