"""Every code that driftloop gives, what it means, and what to do: `docs/reference/codes.md` is made of it.

A test compares it with what is raised and logged, so a new code is explained before it is merged.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SECTIONS", "Code", "Section", "explained"]


class Code(NamedTuple):
    """One code. `meaning` says what is so and why, `remedy` what to do."""

    name: str
    meaning: str
    remedy: str


class Section(NamedTuple):
    """Codes that come the same way. `about`: where they are seen, and what has happened then."""

    title: str
    about: str
    codes: tuple[Code, ...]


EXITS = Section(
    "Exit codes",
    "Of every command. `driftloop up` starts a worker that failed again; whatever runs your workers should do so for 1, and for one that was killed.",
    (
        Code("0", "It is done; a worker was asked to stop (SIGTERM) and stopped in order", "nothing"),
        Code("1", "It failed: a server does not answer, a worker lost its partition; or what was asked is not so "
             "(`doctor` found something, `verify` found a difference)", "start a worker again: it goes on where it was"),
        Code("2", "The pipeline file, a setting or an argument is wrong", "the message names the key, the value and the remedy"),
        Code("3", "Refused: starting again will not help", "an operator decides; see below"),
        Code("130", "Ctrl-C", "nothing"),
    ),
)  # fmt: skip

REFUSALS = Section(
    "A worker refuses to start",
    "Exit code 3. Starting would lose or corrupt data, so nothing was read or written. `driftloop doctor` names them, too.",
    (
        Code("redis_too_old", "Redis is older than 6.2", "upgrade it"),
        Code("redis_evicts", "Redis may delete state silently", "`CONFIG SET maxmemory-policy noeviction`, and in `redis.conf`"),
        Code("reset_unfinished", "A `reset`, `backfill` or `restore` was cut off while it changed state", "run it again"),
        Code("topic_missing", "A topic of the pipeline does not exist",
             "`driftloop topics <file>`; of inputs that `reads` names, that pipeline's file"),
        Code("topic_not_created", "The cluster refused to create a topic", "the message says why (rights, replication factor)"),
        Code("topic_compacted", "An input topic has `cleanup.policy=compact`: records vanish before they are read",
             "`cleanup.policy=delete`"),
        Code("event_time_unbounded", "`events` accepts timestamps of the far future: one would make every label late",
             "`message.timestamp.after.max.ms=300000`"),
        Code("dead_letters_too_small", "A dead letter could not hold the largest record", "raise its `max.message.bytes`"),
        Code("partition_counts_differ", "`events` and `labels` have other partition counts: a label would not meet its event",
             "recreate the topic with as many partitions as `events`"),
        Code("partitions_changed", "`events` has grown or shrunk; keys now go elsewhere",
             "a new pipeline name, or `driftloop reset`"),
        Code("configuration_changed", "This file means something else than the stored state",
             "a new pipeline name that `reads` the old one, or `driftloop reset`"),
        Code("topic_recreated", "A topic, or the whole cluster, is another one under the same name, or `reads` has changed",
             "point at the right cluster, or `driftloop reset`"),
        Code("offset_before_log", "Records were deleted before they were read",
             "raise `retention.ms`; `driftloop reset` gives them up"),
        Code("offset_after_log", "The log is shorter than what was read of it", "restore the topic, or `driftloop reset`"),
        Code("mostly_dead_letters", "(while running) more than `DRIFTLOOP_DEAD_SHARE_MAX` of the last 200 or more events, or "
             "labels, of a partition is wrong; the micro-batch with the last of them was not committed",
             "mend the pipeline file or the producers; `DRIFTLOOP_DEAD_SHARE_MAX=1` lets them pass"),
        Code("examples_gone", "Examples since a base are neither in Kafka nor in the archive: a candidate cannot catch up, "
             "`unlearn` cannot learn anew", "archive more often than `retention.ms`; retrain"),
        Code("no_model", "No learn worker has published a model", "start one; its log says why if one runs"),
        Code("no_base", "`unlearn`: the base to restore is not there any more", "put the file back under `DRIFTLOOP_ARTIFACT_URL`; retrain"),
        Code("archive_gap", "`archive`: Kafka deleted examples that were not archived yet",
             "raise the topic's `retention.ms`, archive more often; `--accept-gap` goes on without them"),
        Code("archive_of_another_topic", "`archive`: it belongs to a topic that was deleted and made again, or to another cluster's",
             "move the archive away, or set `DRIFTLOOP_ARCHIVE_URL` to another place"),
    ),
)  # fmt: skip

DEAD_LETTERS = Section(
    "Dead letters",
    "In the header `driftloop.error.code` of a record on `dead_letters`; `driftloop status` counts them, `driftloop dead-letters` "
    "shows them. The other records went on. After the cause is mended `--resubmit` sends them again.",
    (
        Code("key_missing", "The record has no key", "produce it with the entity id as its key"),
        Code("key_too_long", "The key has more than 256 bytes", "use a shorter entity id"),
        Code("key_not_utf8", "The key is not UTF-8 text", "encode the entity id as UTF-8, not as a serialised number"),
        Code("value_empty", "The record has no value (a tombstone)", "do not produce tombstones to inputs"),
        Code("value_too_large", "More than `limits.record_bytes_max`; it was not parsed", "send less, or raise the limit"),
        Code("json_invalid", "The value is not JSON in UTF-8", "look at the producer's serialiser"),
        Code("value_too_deep", "JSON that is nested beyond reason", "features are flat: name to value"),
        Code("value_invalid", "A wrong type, a number that is not finite or beyond 1e15, or a text too long",
             "the message names the field; mend the producer or the declared type"),
        Code("field_missing", "A field, or a declared feature without a default, is not there",
             "send it, or give the feature a `default`"),
        Code("feature_unknown", "A feature that the pipeline does not declare", "declare it, or do not send it"),
        Code("event_in_future", "`occurred_at_ms` lies more than `limits.future_ms_max` after the record's own timestamp",
             "mend the producer's clock or unit (milliseconds, UTC)"),
        Code("class_unknown", "The label is not one of `labels.classes`", "add the class to a new version of the pipeline"),
        Code("label_type", "The label is not one of the task: true/false, a text or a number", "send the task's kind of label"),
        Code("label_without_event", "No such event came to this partition in time; the commonest cause is another partitioner "
             "or key", "compare key, `event_id` and partitioner of both producers"),
        Code("label_source_capped", "Sources of this name have given their share of the labels", "`labels.source_share_max`"),
        Code("label_key_mismatch", "The label's key is not its event's", "produce labels with the entity id of their event"),
        Code("event_key_mismatch", "An event with this id, still remembered, came under another key", "make event ids unique"),
        Code("entity_feature_failed", "A custom entity feature raised, or gave a value that is not finite or not a number, "
             "text or none", "mend the function; `driftloop check` tries it"),
        Code("entity_feature_too_large", "The state of a custom entity feature outgrew its bound",
             "keep less, or raise `state_bytes_max`"),
        Code("model_failed", "The model raised, or its answer was not finite or cannot be written as JSON",
             "the message says how; bound features with `number(low, high)`"),
        Code("learn_failed", "(learn) the model raised while learning; it may have taken part of the example",
             "mend the model; roll back if it is damaged"),
        Code("example_invalid", "(learn) not an example: somebody else writes to the topic", "look at its rights"),
        Code("features_differ", "(learn) the example has other features than the pipeline", "a new pipeline name for a new set of features"),
    ),
)  # fmt: skip

SNAPSHOTS = Section(
    "Snapshots and bases",
    "A bad one is refused before or while it is read, and the last good model goes on serving; the log says `model_refused` and one of "
    "these.",
    (
        Code("snapshot_damaged", "Truncated, or not a snapshot", "the next one replaces it; look at who writes to Redis"),
        Code("snapshot_not_signed_by_us", "Changed, or signed with another key",
             "the same `DRIFTLOOP_SIGNING_KEY` for all workers; an old key into `DRIFTLOOP_SIGNING_KEYS_OLD`"),
        Code("snapshot_other_river_version", "Made with another River", "deploy the same version to all workers"),
        Code("snapshot_class_not_allowed", "It names a class that is neither River's nor defined in the pipeline file",
             "define the class in the file"),
        Code("snapshot_too_large", "It unpacks to more than 512 MiB", "a smaller model; `limits.tree_leaves_max`"),
        Code("snapshot_not_possible", "The model holds something that cannot be written, such as a lambda",
             "use a function that the file defines by name"),
        Code("trees_damaged", "Boosted trees that are not LightGBM's text format v4", "retrain"),
        Code("trees_not_supported", "Boosted trees of a kind that is not read", "retrain with the parameters of `stream.boosting`"),
        Code("snapshot_of_another_pipeline", "It belongs to a pipeline of another name", "look at who writes to Redis"),
        Code("snapshot_of_another_configuration", "It was made by another version of the pipeline file",
             "deploy the same file to all workers"),
    ),
)  # fmt: skip

WARNINGS = Section(
    "Warnings",
    "`driftloop check`, and every worker that starts, say so and go on.",
    (
        Code("entity_feature_fails", "A custom entity feature raised for a made-up event; live, such an event becomes a dead letter",
             "mend it, unless it is right to refuse"),
        Code("model_fails", "The model raised for a made-up event; live, such an event becomes a dead letter",
             "mend it, unless it is right to refuse"),
        Code("model_explodes", "A few made-up labels made its weights or answers huge", "bound features; clip gradients"),
        Code("tree_never_splits_on_rare_classes", "With a class rarer than 1 % the tree never splits", "`max_share_to_split=1.0`"),
        Code("scaler_before_regression_explodes", "A feature that is constant at first and then jumps makes a linear regression "
             "explode behind a StandardScaler", "`number(low=, high=)` for features; `clip_gradient`"),
        Code("model_grows_without_end", "A Mondrian forest adds a node for nearly every event",
             "retrain it from time to time, or use ARF or a Hoeffding tree"),
        Code("prediction_changes_the_model", "Nearest neighbours change while they predict: predictions cannot be rebuilt from a version",
             "another model, if `verify` matters"),
        Code("tree_does_not_forget", "A plain Hoeffding tree never forgets", "HoeffdingAdaptiveTree, a forest, or retraining on drift"),
    ),
)  # fmt: skip

LOGS = Section(
    "Log lines",
    "`code` of a log line (`DRIFTLOOP_LOG_FORMAT=json`); the codes above are logged, too.",
    (
        Code("unavailable", "A server does not answer; it is tried again", "look at that server if it goes on"),
        Code("fenced", "Another worker has taken the partition while this one slept (a long pause, a paused VM); what it held of "
             "it is dropped, nothing was lost or doubled", "nothing; if it happens often raise `DRIFTLOOP_SESSION_TIMEOUT_MS`"),
        Code("model_refused", "A new model was refused, the old one serves", "the message has one of the codes of snapshots"),
        Code("release_refused", "A command about a candidate was refused; `releases` has a record", "the message says why"),
        Code("command_refused", "A command could not be read", "look at who writes to Redis"),
        Code("worker_failed", "The worker ends", "the traceback; its exit code says whether to start it again"),
        Code("web_failed", "The page and the metrics cannot be served (the port is taken, say); the worker goes on",
             "another `DRIFTLOOP_WEB_PORT`"),
        Code("page_failed", "A part of the page could not be read; the page says so, too", "report it, with the traceback"),
        Code("telemetry_failed", "A report or a point of the course is missing; the worker goes on", "report it"),
        Code("mlflow_failed", "A retraining run is not, or not wholly, in MLflow; the run goes on", "look at that server; the next "
             "step of the run tries again"),
    ),
)  # fmt: skip

DOCTOR = Section(
    "Findings of the doctor",
    "`driftloop doctor <file>` looks at Kafka, Redis, workers, labels, clocks, keys and stores and changes nothing. It also names "
    "the codes with which a worker would refuse to start.",
    (
        Code("kafka_unreachable", "No answer, or no right", "the message says which address and why; `DRIFTLOOP_KAFKA_...`"),
        Code("redis_unreachable", "No answer, or no right", "`DRIFTLOOP_REDIS_URL`, the network, the user's rights"),
        Code("airflow_unreachable", "No answer", "`DRIFTLOOP_AIRFLOW_URL`, Airflow's api-server"),
        Code("airflow_unhealthy", "A part of Airflow is not well", "its log"),
        Code("topic_differs", "A topic's setting is not as declared", "`kafka-configs.sh --alter`, or know why"),
        Code("retention_too_short", "Kafka deletes records that are still needed: labels and examples for `labels.wait` + "
             "`labels.keep_late`", "raise `retention.ms`"),
        Code("partitioners_differ", "Labels lie on other partitions than the events of their key: seen in a sample of the newest "
             "records", "give both producers one partitioner"),
        Code("labels_without_events", "More than 5 % of all labels found no event", "compare keys, ids and partitioners"),
        Code("no_labels", "No label for longer than `labels.wait`", "look at what produces them"),
        Code("no_score_worker", "Nobody is in that consumer group", "`driftloop worker <file> --role score`"),
        Code("no_learn_worker", "Nobody is in that consumer group", "`driftloop worker <file> --role learn`"),
        Code("no_progress", "Records wait, a worker runs, and for three seconds nothing moved", "its log; `kill -USR1 <pid>`"),
        Code("lag_grows", "More than ten seconds' worth of records wait on a partition, workers run, and within three seconds more came "
             "than were processed; a slower growth is found by the alert `DriftloopLagGrows`",
             "look again; then more score workers, up to one per partition; one worker learns: a model that costs less"),
        Code("clock_differs", "Redis' clock differs from this one", "NTP"),
        Code("time_in_future", "A clock is wrong: of the broker (LogAppendTime) or of a producer", "NTP; event time passes with it"),
        Code("redis_not_durable", "No append-only file, or it cannot be written", "`appendonly yes`; the disk"),
        Code("redis_nearly_full", "More than 85 % of its memory is used", "more memory, or lower limits in the pipeline file"),
        Code("signing_key_missing", "None is set, or it is short", "`openssl rand -hex 32`"),
        Code("signing_key_not_rotated", "The live model is still signed with an old key", "restart the learn worker"),
        Code("model_is_stale", "Examples wait and nobody learns", "start a learn worker"),
        Code("artifacts_not_writable", "The store of bases does not take files", "`DRIFTLOOP_ARTIFACT_URL`, credentials, rights"),
        Code("archive_unreachable", "The archive does not answer", "`DRIFTLOOP_ARCHIVE_URL`, credentials, rights"),
        Code("archive_behind", "Examples wait for the archive for more than half of their retention", "`driftloop archive`, the DAG"),
        Code("not_looked_at", "A look failed", "mend the others first"),
    ),
)  # fmt: skip

SECTIONS = (EXITS, DOCTOR, REFUSALS, DEAD_LETTERS, SNAPSHOTS, WARNINGS, LOGS)


def explained() -> dict[str, Code]:
    """Every code by its name.

    >>> explained()["redis_evicts"].remedy
    '`CONFIG SET maxmemory-policy noeviction`, and in `redis.conf`'
    """
    return {code.name: code for section in SECTIONS for code in section.codes}
