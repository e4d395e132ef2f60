"""Examples from Kafka to the archive: from where the archive ends to where the log ends now. Kill it anywhere, run it again."""

from __future__ import annotations

from collections.abc import Callable

from stream.adapters.crash_points import CrashPoints
from stream.adapters.delta_archive import ExampleArchive
from stream.adapters.kafka_ranges import read_range
from stream.adapters.kafka_topics import KafkaTopics
from stream.errors import ConfigurationError, StartupRefused
from stream.pipeline import Pipeline
from stream.settings import Settings
from stream.topics import TopicNames

__all__ = ["archive_examples"]

BATCH_RECORDS = 20_000


def archive_examples(
    settings: Settings,
    pipeline: Pipeline,
    *,
    shard: int = 0,
    examples_max: int | None = None,
    accept_gap: bool = False,
    batch_records: int = BATCH_RECORDS,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Archive what is new on `examples`; every record is kept as it is, repeats and wrong ones too.

    A reader who wants each example once takes the first of each (partition, sequence), as the learner does
    (`core/learning.py`, high-water); after a `reset` the numbers begin again, at `examples_from`.

    Args:
        shard: the partition of `examples`.
        examples_max: archive at most so many.
        accept_gap: go on although Kafka deleted examples before they were archived.
        batch_records: per commit, at most; 64 MB end a batch earlier.
        on_rows: called with offsets done and to do, after each commit.

    Returns:
        `from_offset`, `to_offset` (the next one to archive), `rows`, and `lost`: offsets that Kafka deleted before.

    Raises:
        StartupRefused: archive_gap, archive_of_another_topic, topic_missing.
        Conflict: another archiver was faster. Unavailable: Kafka or the storage does not answer.
    """
    crash_point = CrashPoints(settings.crash_at)
    names = TopicNames(pipeline.name)
    kafka = KafkaTopics(settings.kafka(), names)
    topic = kafka.describe().topics.get("examples")
    if topic is None:
        raise StartupRefused(
            "topic_missing", f"{names.examples} does not exist; `driftloop topics <its file>` makes it"
        )
    if not 0 <= shard < topic.partitions:
        raise ConfigurationError("shard", shard, f"{names.examples} has {topic.partitions} partitions")
    archive = ExampleArchive(settings.archive_url, pipeline.name)
    claimed = archive.claim(topic.topic_id)
    first = archive.end(shard)
    log_start, log_end = kafka.offsets("examples", shard)
    place = f"{names.examples}-{shard}"
    if (claimed and claimed != topic.topic_id) or first > log_end:
        raise StartupRefused(
            "archive_of_another_topic",
            f"{archive.location} ends at offset {first} of topic {claimed or 'without id'}, and {place} is topic "
            f"{topic.topic_id} and ends at {log_end}: it was made again, or is another cluster's; move the archive away or "
            "set DRIFTLOOP_ARCHIVE_URL to another place",
        )
    lost = max(0, log_start - first)
    if lost and first > 0 and not accept_gap:
        raise StartupRefused(
            "archive_gap",
            f"offsets {first} to {log_start - 1} of {place} were deleted before they were archived; raise the topic's "
            "retention.ms or archive more often; `driftloop archive --accept-gap` goes on without them",
        )
    start = first + lost
    stop = log_end if examples_max is None else min(log_end, start + examples_max)
    rows, end = 0, start
    on_rows(0, stop - start)
    for batch in read_range(
        settings.kafka(), names, "examples", shard, start, stop, records_max=min(batch_records, max(stop - start, 1))
    ):
        crash_point("archive.before_append")
        rows += archive.append(shard, batch)
        crash_point("archive.after_append")
        end = batch[-1].offset + 1
        on_rows(end - start, stop - start)
    crash_point("archive.before_compact")
    archive.compact(shard)
    return {"from_offset": start, "to_offset": end, "rows": rows, "lost": lost}
