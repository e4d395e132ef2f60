"""The first step of a retraining run: is there anything to do, and for which change of the world?

A message on `drifts` only wakes a run up; what counts is the topic itself, read from the offset that is stored with the
outcomes. So a message that is lost, repeated or out of order on its way through Airflow changes nothing.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec

from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.kafka_drifts import read_drift_pages
from stream.adapters.kafka_topics import KafkaTopics
from stream.adapters.redis_drift_inbox import RedisDriftInbox
from stream.core.episodes import Inbox, TakeUp, overdue, settle, sort_in
from stream.errors import Unavailable
from stream.pipeline import Pipeline
from stream.settings import Settings
from stream.topics import TopicNames

__all__ = ["by_the_clock", "has_answered", "take_up"]

log = logging.getLogger(__name__)
ATTEMPTS = 20  # each is lost to somebody who was faster


def take_up(settings: Settings, pipeline: Pipeline, run_id: str, *, now_ms: int | None = None) -> dict[str, Any]:
    """Give every new drift its outcome, and say whether run `run_id` goes on.

    The same run asked again (a retry) gets the same answer. Of two runs that ask at once one is let go. Runs that ask
    come one after the other (the DAG's `max_active_runs=1`): one that has left no answer (`has_answered`) has failed for
    good when another asks, and is started again as `core.episodes.RESTART_AFTER_MS` says.

    Returns:
        go, why (drift, cool_down_over, follow_up, restart, nothing_new, given_up), drift (the message), from_offset
        (example from which the world is another), stage (0: first search; 1, 2, ...: follow-up).

    Raises:
        Unavailable: Kafka, Redis or the artifact store do not answer, or others are always faster.
    """
    topics = KafkaTopics(settings.kafka(), TopicNames(pipeline.name))
    found = topics.describe().topics
    if "examples" not in found or "drifts" not in found:
        return _plain(TakeUp(go=False, why="nothing_new"))
    inbox = RedisDriftInbox(**settings.redis(), pipeline=pipeline.name)
    try:
        for _ in range(ATTEMPTS):
            now = int(time.time() * 1_000) if now_ms is None else now_ms
            ends = {shard: topics.offsets("examples", shard)[1] for shard in range(found["examples"].partitions)}
            answer = _attempt(inbox, settings, pipeline, run_id, ends, now)
            if answer is not None:
                return _plain(answer)
        raise Unavailable(f"the drift inbox of {pipeline.name} was changed by others {ATTEMPTS} times")
    finally:
        inbox.close()


def by_the_clock() -> dict[str, Any]:
    """What `take_up` is to a drift: a run by the clock always goes on, and with all that `retrain.window_max` lets it see.

    Not only with what has come since the newest change: after a change a drift's runs ask again and again what is best for
    the little that is known of it, and where changes come often (fraud: every day) nothing else would ever learn from the
    rest. Measured in `bench/quality.py`.
    """
    return _plain(TakeUp(go=True, why="schedule"))


def _attempt(
    store: RedisDriftInbox, settings: Settings, pipeline: Pipeline, run_id: str, ends: dict[int, int], now_ms: int
) -> TakeUp | None:
    """Page by page, so that no call is large however many drifts have come; None: somebody else was faster."""
    version, inbox = store.load()
    retrain = pipeline.retrain

    def kept(changed: Inbox, outcomes: list[Any]) -> bool:
        nonlocal version, inbox
        if changed != inbox or outcomes:
            if not store.store(version, changed, outcomes):
                return False
            version, inbox = version + 1, changed
        return True

    for records, next_offset in read_drift_pages(settings.kafka(), pipeline.name, inbox.next_offset):
        if not kept(*sort_in(inbox, records, next_offset, run_id=run_id, ends=ends, now_ms=now_ms, retrain=retrain)):
            return None
    late = overdue(inbox, run_id=run_id, now_ms=now_ms)
    failed = None
    if late is not None:
        failed = not has_answered(ArtifactFiles(settings.artifact_url, pipeline.name), late.run_id)
    settled, answer = settle(inbox, run_id=run_id, ends=ends, now_ms=now_ms, retrain=retrain, failed=failed)
    if not kept(settled, []):
        return None
    if late is not None and answer.why in ("restart", "given_up"):
        after = (
            f"run {run_id} takes its place" if answer.go else "it is given up: `driftloop retrain`, or the next drift"
        )
        log.warning("run %s for drift %s ended without a verdict: %s", late.run_id, late.drift.drift_id, after)
    return answer


def has_answered(files: ArtifactFiles, run: str) -> bool:
    """Whether a run has come to its end: a release or a person's no, a verdict against the candidate, or no window."""

    def left(name: str) -> bytes | None:
        return files.find_file(f"runs/{run}/{name}.json")

    verdict = left("verdict")
    if verdict is not None and not msgspec.json.decode(verdict)["accepted"]:
        return True
    return left("release") is not None or (left("window") is None and left("no_window") is not None)


def _plain(answer: TakeUp) -> dict[str, Any]:
    return dict(msgspec.to_builtins(answer))
