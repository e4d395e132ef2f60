"""kill -9 of a real archiver, again and again: the archive has the topic's records, each once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from deltalake import DeltaTable

from stream.adapters.delta_archive import ExampleArchive
from stream.local.process import wait_until
from tests.batch.test_archiving import archived, on_kafka
from tests.support.examples import example
from tests.support.world import PIPELINE_FILE, World

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(180)]

EXAMPLES = 3_000
KILLED = -9
ARCHIVER = """
import sys
from pathlib import Path
from stream.adapters.file_pipelines import load_pipeline
from stream.batch.archiving import archive_examples
from stream.settings import load_settings
archive_examples(load_settings(), load_pipeline(Path(sys.argv[1])).pipeline, batch_records=int(sys.argv[2]))
"""


def start(world: World, directory: Path, *, crash_at: str | None = None, batch: int = 100) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "DRIFTLOOP_BROKERS": world.stack.brokers,
        "DRIFTLOOP_ARCHIVE_URL": str(directory),
        "DRIFTLOOP_TEST_NAME": world.name,
        **({"DRIFTLOOP_CRASH_AT": crash_at} if crash_at else {}),
    }
    return subprocess.Popen([sys.executable, "-c", ARCHIVER, str(PIPELINE_FILE), str(batch)], env=environment)


def run(world: World, directory: Path, *, crash_at: str | None = None) -> int:
    return start(world, directory, crash_at=crash_at).wait(120)


def end(world: World, directory: Path) -> int:
    return ExampleArchive(str(directory), world.name).end(0)


@pytest.mark.parametrize(
    ("point", "at_death"),
    [
        ("archive.before_append:1", 0),
        ("archive.before_append:7", 600),
        ("archive.after_append:7", 700),
        ("archive.before_compact:1", EXAMPLES),
    ],
)
def test_an_archiver_killed_at_a_named_point(world: World, tmp_path: Path, point: str, at_death: int):
    world.produce(map(example, range(EXAMPLES)))
    assert run(world, tmp_path, crash_at=point) == KILLED
    assert end(world, tmp_path) == at_death
    assert archived(world, tmp_path) == on_kafka(world)[:at_death]  # at every moment it is a whole prefix
    assert run(world, tmp_path) == 0
    assert archived(world, tmp_path) == on_kafka(world)


def data_files(world: World, directory: Path) -> set[str]:
    """Whole data files, committed or not; one that is being written has another ending."""
    return {path.name for path in (directory / world.name / "examples" / "shard=0").glob("*.parquet")}


def committed_files(world: World, directory: Path) -> set[str]:
    location = f"{directory}/{world.name}/examples"
    if not DeltaTable.is_deltatable(location):
        return set()
    return {Path(uri).name for uri in DeltaTable(location).file_uris()}


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    state = Path(f"/proc/{process.pid}/stat")
    wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] in "TZ", 10, "the archiver to stop")


def killed_between_data_and_commit(world: World, directory: Path) -> bool:
    """Watched from outside: whenever a data file has come, stop the archiver; kill it if no commit names that file."""
    archiver = start(world, directory, batch=50)
    seen = data_files(world, directory)
    before = seen - committed_files(world, directory)  # of earlier deaths
    while archiver.poll() is None:
        if data_files(world, directory) <= seen:
            continue
        stop(archiver)
        seen = data_files(world, directory)
        if seen - committed_files(world, directory) - before:
            archiver.kill()
            archiver.wait(30)
            return True
        archiver.send_signal(signal.SIGCONT)
    assert archiver.returncode == 0
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc whether a process is stopped")
def test_an_archiver_killed_between_data_and_commit(world: World, tmp_path: Path):
    """Its rows lie in the storage, and are in no commit: its heir writes them anew, and nobody sees them twice."""
    deaths = 0
    for _ in range(20):
        world.produce(map(example, range(1_000)))
        deaths += killed_between_data_and_commit(world, tmp_path)
        if deaths == 3:
            break
    assert deaths == 3
    orphans = data_files(world, tmp_path) - committed_files(world, tmp_path)
    assert len(orphans) == 3
    assert end(world, tmp_path) < len(on_kafka(world))
    assert run(world, tmp_path) == 0
    assert orphans <= data_files(world, tmp_path)  # still there, still nobody's
    assert archived(world, tmp_path) == on_kafka(world)


def test_two_archivers_at_once(world: World, tmp_path: Path):
    """A task that Airflow thought dead goes on beside its successor."""
    world.produce(map(example, range(EXAMPLES)))
    stopped = start(world, tmp_path, crash_at="archive.before_append:5:stop")
    state = Path(f"/proc/{stopped.pid}/stat")
    wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", 60, "the archiver to stop")
    assert end(world, tmp_path) == 400
    assert run(world, tmp_path) == 0
    assert archived(world, tmp_path) == on_kafka(world)
    stopped.send_signal(signal.SIGCONT)
    assert stopped.wait(60) == 0  # everything it held was there already
    assert archived(world, tmp_path) == on_kafka(world)
