"""`driftloop backup` and `driftloop restore`: all state of a pipeline, as files with checksums.

<url>/<pipeline>/<backup>/manifest.json          written last: what has no manifest is no backup
<url>/<pipeline>/<backup>/redis/<number>
<url>/<pipeline>/<backup>/artifacts/<path>
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.file_pipelines import load_pipeline
from stream.adapters.kafka_topics import KafkaTopics
from stream.adapters.redis_dump import RedisDump, StoredKey
from stream.adapters.redis_models import FORGETTING
from stream.cli.answering import source_of
from stream.cli.arguments import PipelineFile
from stream.cli.producing import follow
from stream.cli.running import refuse_running
from stream.core.beginning import Beginning
from stream.core.model_bases import configuration_of
from stream.errors import ConfigurationError, DriftloopError, StartupRefused
from stream.pipeline import Pipeline
from stream.settings import Settings, load_settings
from stream.topics import TopicNames

__all__ = ["COMMANDS", "Manifest", "back_up", "backups", "put_back"]

FORMAT = 1
TAIL = 20_000  # newest predictions of a partition that are looked at: the last of them may be late copies
MANIFEST = "manifest.json"
console = Console()


class StoredFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str  # below the backup's folder
    size_bytes: int
    sha256: str
    key: str = ""  # Redis' name of it; empty: an artifact
    ttl_ms: int = 0


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds. `offsets`: the next ones of each part, by hash tag and topic; `control`: what the name stands for."""

    format: int
    pipeline: str
    configuration: str
    created_at_ms: int
    redis_version: str
    control: dict[str, str]
    offsets: dict[str, dict[str, int]]
    files: list[StoredFile]


class Restored(msgspec.Struct, frozen=True):
    """`kept`: keys that were there and are newer than the backup."""

    backup: str
    keys: int
    kept: int
    artifacts: int
    answered: dict[int, int]  # partition -> up to where events have their answer already


def back_up(settings: Settings, pipeline: Pipeline, url: str) -> tuple[str, Manifest]:
    """Copy everything while workers run; returns the backup's name. Raises ConfigurationError, DriftloopError, Unavailable."""
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
    target = ArtifactFiles(url, f"{pipeline.name}/{name}", setting="backup")
    artifacts = ArtifactFiles(settings.artifact_url, pipeline.name)
    if artifacts.holds(target):
        raise ConfigurationError(
            "backup", url, "name a place outside of the artifacts, or each backup holds all before it"
        )
    source = RedisDump(settings.redis_url.get_secret_value(), settings.redis_timeout_s, pipeline.name)
    files: list[StoredFile] = []
    offsets: dict[str, dict[str, int]] = {}
    try:
        control = source.control()
        if "configuration" not in control or FORGETTING in control:
            raise DriftloopError(
                f"Redis holds no state of {pipeline.name!r} that a worker could use: nothing to back up"
            )
        for part in source.parts():
            offsets[part.tag] = part.offsets
            for key in part.keys:
                path = f"redis/{len(files):05d}"
                files.append(_described(path, key.value, key.name, key.ttl_ms))
                target.put_file(path, key.value)
        version = source.redis_version()
    finally:
        source.close()
    # After Redis: a base is stored before any state names it.
    for path in artifacts.all_files():
        data = artifacts.find_file(path)
        if data is not None:
            files.append(_described(f"artifacts/{path}", data))
            target.put_file(f"artifacts/{path}", data)
    now_ms = int(time.time() * 1000)
    manifest = Manifest(
        FORMAT, pipeline.name, control["configuration"], now_ms, version, control, offsets, files
    )  # fmt: skip
    target.put_file(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    return name, manifest


def _described(path: str, data: bytes, key: str = "", ttl_ms: int = 0) -> StoredFile:
    return StoredFile(path, len(data), hashlib.sha256(data).hexdigest(), key, ttl_ms)


def backups(url: str, pipeline: str) -> list[str]:
    """The names of whole backups, the oldest first."""
    files = ArtifactFiles(url, pipeline, setting="backup")
    return sorted({path.split("/")[0] for path in files.all_files() if path.endswith(f"/{MANIFEST}")})


def put_back(
    settings: Settings, pipeline: Pipeline, url: str, backup: str | None, agree: Callable[[str], bool]
) -> Restored:
    """Put Redis and the artifacts back to a backup. Everything is checked before anything is changed.

    Args:
        backup: its name; None: the newest.
        agree: asked before state that is there is forgotten; False ends it.

    Raises:
        ConfigurationError: no such backup, or it is of another pipeline or configuration.
        DriftloopError: workers run, a file is damaged, or `agree` said no.
        StartupRefused: Kafka is not the one that the backup belongs to, or no longer holds what comes after it.
        Unavailable: then run it again; no worker starts before it was finished.
    """
    whole = backups(url, pipeline.name)
    name = backup or (whole[-1] if whole else None)
    if name not in whole:
        raise ConfigurationError("backup", name, f"not in {url}; there are: {', '.join(whole) or 'none'}")
    source = ArtifactFiles(url, f"{pipeline.name}/{name}", setting="backup")
    manifest = _manifest(source, pipeline, name)
    for file in manifest.files:
        _read(source, file)
    kafka = KafkaTopics(settings.kafka(), TopicNames.of(pipeline))
    refuse_running(kafka, pipeline.name)
    _check_kafka(kafka, manifest)
    target = RedisDump(settings.redis_url.get_secret_value(), settings.redis_timeout_s, pipeline.name)
    try:
        if "configuration" in target.control() and not agree(
            f"Forget the model and all state of {pipeline.name!r}, and go back to {name}?"
        ):
            raise DriftloopError("nothing was changed")
        artifacts = _artifacts(settings, pipeline, source, manifest)
        target.begin()
        # An owner from before who still sleeps must not find its own epoch again.
        epoch = int(time.time() * 1000)
        control, put = None, []
        for file in (file for file in manifest.files if file.key):
            key = StoredKey(file.key, _read(source, file), file.ttl_ms)
            if key.name == target.control_key:
                control = key
            else:
                put.append(target.put(key, epoch))
        assert control is not None
        answered = _answered(settings, pipeline)
        target.end(control, Beginning({}, {("predictions", p): offset for p, offset in answered.items()}).fields())
    finally:
        target.close()
    return Restored(name, sum(put) + 1, put.count(False), artifacts, answered)


def _manifest(source: ArtifactFiles, pipeline: Pipeline, name: str) -> Manifest:
    try:
        manifest = msgspec.json.decode(source.get_file(MANIFEST), type=Manifest)
    except msgspec.DecodeError as error:
        raise DriftloopError(f"{name}/{MANIFEST} is damaged: {error}; take another backup") from error
    if manifest.format != FORMAT:
        raise ConfigurationError("backup", name, f"has format {manifest.format}, this driftloop reads {FORMAT}")
    configuration = configuration_of(pipeline)
    if manifest.pipeline != pipeline.name or manifest.configuration != configuration:
        raise ConfigurationError(
            "backup",
            name,
            f"is of {manifest.pipeline!r}, configuration {manifest.configuration}; this file is {pipeline.name!r}, "
            f"{configuration}: use the file as it was then",
        )
    return manifest


def _read(source: ArtifactFiles, file: StoredFile) -> bytes:
    data = source.get_file(file.path)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise DriftloopError(f"{file.path} is damaged: its checksum is another one; take another backup")
    return data


def _check_kafka(kafka: KafkaTopics, manifest: Manifest) -> None:
    cluster = kafka.describe()
    found = {f"topic:{name}": topic.topic_id for name, topic in cluster.topics.items()} | {
        "cluster": cluster.cluster_id
    }
    for name, stored in manifest.control.items():
        if (name == "cluster" or name.startswith("topic:")) and found.get(name) != stored:
            raise StartupRefused(
                "topic_recreated", f"the backup belongs to another {name.removeprefix('topic:')}: `driftloop backfill`"
            )
    for tag, offsets in manifest.offsets.items():
        number = int(tag.strip("{}").rpartition(":")[2]) if offsets else 0
        for topic, offset in offsets.items():
            low, high = kafka.offsets(topic, number)
            if not low <= offset <= high:
                code = "offset_before_log" if offset < low else "offset_after_log"
                raise StartupRefused(
                    code, f"the backup goes on at {topic}-{number} offset {offset}, Kafka holds {low} to {high}: "
                    "use a newer backup, or `driftloop backfill`",
                )  # fmt: skip


def _artifacts(settings: Settings, pipeline: Pipeline, source: ArtifactFiles, manifest: Manifest) -> int:
    """Those that are missing; what is there is as old or newer."""
    target = ArtifactFiles(settings.artifact_url, pipeline.name)
    there = set(target.all_files())
    missing = [f for f in manifest.files if not f.key and f.path.removeprefix("artifacts/") not in there]
    for file in missing:
        target.put_file(file.path.removeprefix("artifacts/"), _read(source, file))
    return len(missing)


def _answered(settings: Settings, pipeline: Pipeline) -> dict[int, int]:
    """Partition -> up to which event consumers have their predictions: a second one could differ."""
    names, answered = TopicNames.of(pipeline), dict[int, int]()
    for message in follow(settings, names.predictions, from_start=True, to_end=True, newest=TAIL):
        source = source_of(message.value())
        if source is not None and source.partition == message.partition() and source.topic == names.events:
            answered[source.partition] = max(answered.get(source.partition, 0), source.offset + 1)
    return answered


# -- the commands --------------------------------------------------------------------------------------------------------


BackupUrl = Annotated[str, typer.Argument(help="a directory, or an object store's URL that fsspec knows")]


def backup(pipeline_file: PipelineFile, url: BackupUrl) -> None:
    """Copy all state of a pipeline (Redis, model files) while it runs, with checksums."""
    name, manifest = back_up(load_settings(), load_pipeline(pipeline_file).pipeline, url)
    size = sum(file.size_bytes for file in manifest.files)
    console.print(f"backup {name}: {len(manifest.files):,} files, {size:,} bytes", highlight=False)


def restore(
    pipeline_file: PipelineFile,
    url: BackupUrl,
    name: Annotated[str | None, typer.Option("--backup", help="its name; the newest if not given")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="forget the state there is without asking")] = False,
) -> None:
    """Go back to a backup; stop the workers first. Kafka's events since then are processed again, not answered again."""
    done = put_back(
        load_settings(),
        load_pipeline(pipeline_file).pipeline,
        url,
        name,
        lambda question: yes or typer.confirm(question),
    )
    console.print(
        f"restored {done.backup}: {done.keys:,} keys, {done.artifacts:,} files that were missing"
        + (f"; {done.kept:,} keys were there and stay" if done.kept else ""),
        highlight=False,
    )


COMMANDS = (backup, restore)
