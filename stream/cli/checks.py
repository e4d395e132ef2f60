"""What `driftloop doctor` makes of what it saw: each check looks at one thing and says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from stream.cli.facts import Facts
from stream.core.partitioning import java_partition
from stream.core.snapshot import unseal
from stream.errors import ConfigurationError, SnapshotRefused
from stream.topics import DAY_MS, TopicNames

__all__ = ["CHECKS", "Finding", "examine"]

CLOCK_MS = 2_000
FUTURE_MS = 60_000
STRAYED_MIN = 0.02  # share of sampled labels that lie elsewhere than their key's events
MEMORY_SHARE = 0.85
UNMATCHED_SHARE = 0.05
LAG_S = 10.0  # of what comes in; a shorter lag grows and shrinks with batches and snapshots
WORKED = (("events", "score"), ("labels", "score"), ("examples", "learn"))  # what waits, and for whom
JUDGED_EVENTS = 100  # fewer say nothing about labels


class Finding(NamedTuple):
    """`code` is stable and explained in stream/codes.py."""

    code: str
    finding: str
    remedy: str


Check = Callable[[Facts], Iterator[Finding]]


def kafka_answers(facts: Facts) -> Iterator[Finding]:
    if error := facts.failures.get("kafka"):
        yield Finding(
            "kafka_unreachable", error, "check DRIFTLOOP_BROKERS, DRIFTLOOP_KAFKA_..., the network and the rights"
        )


def topics_fit(facts: Facts) -> Iterator[Finding]:
    if "kafka" not in facts.failures and not facts.topics:
        yield Finding("topic_missing", "no topic of this pipeline exists", "driftloop topics <file>")
    if error := facts.failures.get("topics"):
        code, _, text = error.partition(": ")
        yield Finding(code, text, "docs/reference/codes.md, A worker refuses to start")
    for warning in facts.warnings:
        if "retention.ms" not in warning:  # that has a check of its own, by what is needed
            yield Finding("topic_differs", warning, "kafka-configs.sh --alter, or know why it is so")


def retention_is_long_enough(facts: Facts) -> Iterator[Finding]:
    labels = facts.pipeline.labels
    needed_ms = labels.wait_ms + labels.keep_late_ms
    names = TopicNames.of(facts.pipeline)
    for topic in ("events", "labels", "examples"):
        kept_ms = int(facts.topic_settings.get(topic, {}).get("retention.ms", -1))
        # Events are remembered in Redis: of them only what a stopped worker must still find is needed.
        wanted_ms = DAY_MS if topic == "events" else needed_ms
        if 0 <= kept_ms < wanted_ms:
            yield Finding(
                "retention_too_short",
                f"{names[topic]} keeps records for {_time(kept_ms)}; {_time(wanted_ms)} are needed"
                + ("" if topic == "events" else " (labels.wait + labels.keep_late)"),
                f"set retention.ms to {max(wanted_ms, needed_ms)} or more",
            )


def keys_meet(facts: Facts) -> Iterator[Finding]:
    """The direct evidence of a partitioner mismatch: a key whose label lies on another partition than its events."""
    count = facts.topics.get("events", 0)
    if not count:
        return
    home: dict[bytes, int] = {}
    as_java: dict[str, list[bool]] = {"events": [], "labels": []}
    for (topic, partition), newest in facts.newest.items():
        as_java[topic] += [java_partition(key, count) == partition for key in newest.keys]
        if topic == "events":
            home |= dict.fromkeys(newest.keys, partition)
    met = [home[k] == p for (t, p), n in facts.newest.items() if t == "labels" for k in n.keys if k in home]
    strayed = met.count(False)
    if met and strayed / len(met) > STRAYED_MIN:
        wrong = [t for t, fits in as_java.items() if fits and fits.count(False) / len(fits) > STRAYED_MIN]
        yield Finding(
            "partitioners_differ",
            f"of {len(met):,} sampled labels {strayed:,} lie on another partition than the events of their key; "
            f"not where Java's partitioner puts them: {' and '.join(wrong) or 'neither (has the partition count changed?)'}",
            "give the producers of events and labels the same partitioner (librdkafka: partitioner=murmur2_random)",
        )


def labels_find_events(facts: Facts) -> Iterator[Finding]:
    if not facts.looks:
        return
    counts = facts.looks[-1].counts()
    labels, lost = counts.get("labels", 0), counts.get("dead_letters.label_without_event", 0)
    if labels >= JUDGED_EVENTS and lost / labels > UNMATCHED_SHARE:
        yield Finding(
            "labels_without_events",
            f"{lost:,} of {labels:,} labels found no event",
            "compare key, event_id and partitioner of both producers: driftloop dead-letters <file> "
            "--code label_without_event --values",
        )


def labels_come(facts: Facts) -> Iterator[Finding]:
    events = [n.newest_ms for (t, _), n in facts.newest.items() if t == "events"]
    labels = [n.newest_ms for (t, _), n in facts.newest.items() if t == "labels"]
    counts = facts.looks[-1].counts() if facts.looks else {}
    if not events or counts.get("events", 0) < JUDGED_EVENTS:
        return
    wait = facts.pipeline.labels.wait
    if not labels:
        yield Finding("no_labels", "events come and there is no label at all", "produce labels, or set labels.missing")
    elif max(events) - max(labels) > facts.pipeline.labels.wait_ms:
        yield Finding(
            "no_labels",
            f"the newest label is {_time(max(events) - max(labels))} older than the newest event; labels.wait is {wait}",
            "look at what produces labels",
        )


def workers_run(facts: Facts) -> Iterator[Finding]:
    for role, count in facts.members.items():
        if facts.topics and not count:
            yield Finding(f"no_{role}_worker", f"no {role} worker runs", f"driftloop worker <file> --role {role}")


def _worked(facts: Facts) -> Iterator[tuple[str, str]]:
    """What waits, and for whom, where two looks can be compared. With no worker it is no riddle that it waits."""
    if len(facts.looks) >= 2:
        yield from ((topic, role) for topic, role in WORKED if facts.members.get(role))


def work_goes_on(facts: Facts) -> Iterator[Finding]:
    for topic, role in _worked(facts):
        before, now = facts.looks[0], facts.looks[-1]
        # A marker or two of transactions are never processed.
        stuck = [
            p for p, end in now.ends.get(topic, {}).items()
            if end - now.position(topic, p) > 2 and now.position(topic, p) == before.position(topic, p)
        ]  # fmt: skip
        if stuck:
            yield Finding(
                "no_progress",
                f"{topic}: a lag of {now.lag(topic):,} and no progress on partitions {', '.join(map(str, stuck))}",
                f"the {role} worker's log says why; kill -USR1 <pid> prints where it stands; more workers, up to one per partition",
            )


def workers_keep_up(facts: Facts) -> Iterator[Finding]:
    """By partition: one that is hot hides behind the others' progress. What does not move at all is `work_goes_on`'s."""
    for topic, role in _worked(facts):
        before, now = facts.looks[0], facts.looks[-1]
        behind, lag, came, done = [], 0, 0, 0
        for partition, end in now.ends.get(topic, {}).items():
            its_lag = end - now.position(topic, partition)
            its_came = end - before.ends.get(topic, {}).get(partition, end)
            its_done = now.position(topic, partition) - before.position(topic, partition)
            if 0 < its_done < its_came and its_lag > LAG_S * its_came / facts.apart_s:
                behind.append(partition)
                lag, came, done = lag + its_lag, came + its_came, done + its_done
        if behind:
            yield Finding(
                "lag_grows",
                f"{topic}: a lag of {lag:,}, growing, on partitions {', '.join(map(str, behind))}: {came / facts.apart_s:,.1f} "
                f"come each second, {done / facts.apart_s:,.1f} are processed",
                "look again in a minute; if it still grows: "
                + (
                    "more score workers, up to one per partition (more of them do not help a partition that alone is hot)"
                    if role == "score"
                    else "a model or monitors that cost less, or a faster machine: one worker learns (driftloop replay prints its speed)"
                ),
            )


def clocks_agree(facts: Facts) -> Iterator[Finding]:
    skew_ms = facts.redis_clock_ms or 0
    if abs(skew_ms) > CLOCK_MS:
        yield Finding(
            "clock_differs", f"Redis' clock differs from this one by {skew_ms:+,} ms", "run NTP on both machines"
        )
    for (topic, partition), newest in facts.newest.items():
        for what, at_ms in (("Kafka timestamp", newest.newest_ms), ("event time", newest.newest_event_ms)):
            if at_ms - facts.now_ms > FUTURE_MS:
                yield Finding(
                    "time_in_future",
                    f"{topic}-{partition}: the newest {what} is {_time(at_ms - facts.now_ms)} ahead of this clock",
                    "mend the clock of the broker (LogAppendTime) or of the producer; event time passes with it",
                )


def redis_is_fit(facts: Facts) -> Iterator[Finding]:
    if error := facts.failures.get("redis"):
        yield Finding("redis_unreachable", error, "check DRIFTLOOP_REDIS_URL, the network and the user's rights")
    if not (info := facts.redis_info):
        return
    version = str(info["redis_version"])
    if tuple(map(int, version.split(".")[:2])) < (6, 2):
        yield Finding("redis_too_old", f"Redis is {version}", "6.2 or newer is needed")
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
        yield Finding("redis_evicts", f"maxmemory-policy is {policy}", "CONFIG SET maxmemory-policy noeviction")
    if not info.get("aof_enabled"):
        yield Finding("redis_not_durable", "no append-only file is written", "CONFIG SET appendonly yes")
    elif info.get("aof_last_write_status", "ok") != "ok":
        yield Finding("redis_not_durable", "the append-only file cannot be written", "look at Redis' disk")
    limit = int(info.get("maxmemory", 0)) or int(info.get("total_system_memory", 0))
    used = int(info.get("used_memory", 0))
    if limit and used / limit > MEMORY_SHARE:
        yield Finding(
            "redis_nearly_full", f"{used:,} of {limit:,} bytes are used", "raise maxmemory, or lower limits in the file"
        )


def keys_are_good(facts: Facts) -> Iterator[Finding]:
    if error := facts.failures.get("signing_key"):
        yield Finding("signing_key_missing", error, "set the same DRIFTLOOP_SIGNING_KEY for all workers")
    if facts.snapshot is None or "signing_key" in facts.failures:
        return
    keys = facts.settings.signing()
    for number, key in enumerate(keys):
        try:
            unseal(facts.snapshot, [key])
        except ConfigurationError:
            continue
        except SnapshotRefused as error:
            if error.code != "snapshot_not_signed_by_us":
                yield Finding(error.code, str(error), "docs/reference/codes.md, Snapshots and bases")
                return
            continue
        if number:
            yield Finding(
                "signing_key_not_rotated",
                "the live model is still signed with an old key",
                "restart the learn worker; keep DRIFTLOOP_SIGNING_KEYS_OLD until then",
            )
        return
    yield Finding(
        "snapshot_not_signed_by_us",
        "the live model is signed with none of our keys",
        "put the key of the workers into DRIFTLOOP_SIGNING_KEYS_OLD",
    )


def model_is_fresh(facts: Facts) -> Iterator[Finding]:
    if not facts.looks:
        return
    now = facts.looks[-1]
    if now.learner is None:
        yield Finding("no_model", "no model was published yet", "start a learn worker; its log says why if one runs")
    elif not facts.members.get("learn") and now.lag("examples"):
        yield Finding(
            "model_is_stale",
            f"{now.learner['version']} has not learned {now.lag('examples'):,} examples that wait",
            "start a learn worker",
        )


def stores_work(facts: Facts) -> Iterator[Finding]:
    if error := facts.failures.get("artifacts"):
        yield Finding(
            "artifacts_not_writable", error, "check DRIFTLOOP_ARTIFACT_URL and its rights: bases are kept there"
        )
    if error := facts.failures.get("archive"):
        yield Finding("archive_unreachable", error, "check DRIFTLOOP_ARCHIVE_URL and its credentials")
    for what in ("topic_settings", "status", "records"):
        if error := facts.failures.get(what):
            yield Finding("not_looked_at", f"{what}: {error}", "run doctor again when the other findings are mended")


def archive_keeps_up(facts: Facts) -> Iterator[Finding]:
    kept_ms = int(facts.topic_settings.get("examples", {}).get("retention.ms", -1))
    if facts.first_unarchived_ms < 0 or kept_ms <= 0:
        return
    age_ms = facts.now_ms - facts.first_unarchived_ms
    if age_ms > kept_ms / 2:
        yield Finding(
            "archive_behind",
            f"examples wait for the archive since {_time(age_ms)}; Kafka deletes them after {_time(kept_ms)}",
            "driftloop archive <file>, or look at the DAG archive_examples",
        )


def airflow_is_healthy(facts: Facts) -> Iterator[Finding]:
    if error := facts.failures.get("airflow"):
        yield Finding("airflow_unreachable", error, "check DRIFTLOOP_AIRFLOW_URL and Airflow's api-server")
    for name in ("metadatabase", "scheduler", "triggerer", "dag_processor") if facts.airflow else ():
        if facts.airflow.get(name) != "healthy":
            yield Finding(
                "airflow_unhealthy", f"{name} is {facts.airflow.get(name)}", f"look at the log of Airflow's {name}"
            )


CHECKS: tuple[Check, ...] = (
    kafka_answers, topics_fit, retention_is_long_enough, redis_is_fit, keys_are_good, stores_work, workers_run,
    work_goes_on, workers_keep_up, model_is_fresh, keys_meet, labels_find_events, labels_come, clocks_agree, archive_keeps_up,
    airflow_is_healthy,
)  # fmt: skip


def examine(facts: Facts) -> list[Finding]:
    """All that is wrong."""
    return [finding for check in CHECKS for finding in check(facts)]


def _time(ms: float) -> str:
    for size, unit in ((DAY_MS, "d"), (3_600_000, "h"), (60_000, "min")):
        if ms >= size:
            return f"{ms / size:.1f} {unit}"
    return f"{ms / 1000:.1f} s"
