"""Which examples a retraining learns from, and on which later ones champion and candidate are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec

from stream.core.prequential import Lesson, scored_lessons, timeline
from stream.core.records import Record
from stream.core.unlearning import LeftOut
from stream.pipeline import Pipeline

__all__ = ["ExampleSource", "Window", "choose_window"]

FIT_SHARE = 1 / 3  # of the search's lessons are learned only, the others scored
SCORED_MIN = 20
SPLITS = 100


class ExampleSource(Protocol):
    """Archived examples of one pipeline."""

    def end(self, shard: int) -> int:
        """The offset after the last one."""

    def records(self, shard: int, from_offset: int, to_offset: int) -> Iterator[Record]:
        """As they lay on Kafka, offsets ascending, to_offset excluded."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A range of examples offsets, in four marks: from <= score_from <= split <= to.

    Args:
        from_offset: the first example.
        score_offset: trials are scored from here to the split.
        split_offset: the compare range begins; no trial sees it.
        to_offset: the end, excluded.
        labels: lessons in all of it.
    """

    shard: int
    from_offset: int
    score_offset: int
    split_offset: int
    to_offset: int
    labels: int


def choose_window(
    pipeline: Pipeline,
    source: ExampleSource,
    *,
    shard: int = 0,
    change_point: int | None = None,
    to_offset: int | None = None,
    left_out: Sequence[LeftOut] = (),
) -> dict[str, Any]:
    """The newest `retrain.window_max` examples, none from before the change.

    Args:
        change_point: examples offset from which the world was another (`Drift.from_offset`).
        to_offset: the end; None: of the archive. Give the end that was archived, so that a retry chooses the same.
        left_out: what has been taken back from the champion (`driftloop unlearn`): it is no lesson.

    Returns:
        {"window": Window as JSON, "why": ""}, or {"window": None, "why": a sentence}: too little to search or to compare.
    """
    rules = pipeline.retrain
    to = source.end(shard) if to_offset is None else to_offset
    first = max(0, change_point or 0, to - rules.window_max)
    lessons = timeline(pipeline, source.records(shard, first, to), left_out=left_out).lessons
    since = "since the change" if change_point is not None and first == change_point else "in the window"
    if len(lessons) < rules.labels_min:
        return _refused(
            f"{len(lessons)} labels have come {since}, retrain.labels_min is {rules.labels_min}: wait for more"
        )
    split = _split(lessons, rules.compare_share)
    window = Window(
        shard=shard,
        from_offset=lessons[0].offset,
        score_offset=lessons[int(split * FIT_SHARE)].offset,
        split_offset=lessons[split].offset,
        to_offset=to,
        labels=len(lessons),
    )
    searched, compared = _scorable(lessons, split)
    for what, labels, found in (("search", split, searched), ("compare", len(lessons), compared)):
        if found < SCORED_MIN:
            full = to - first == rules.window_max  # then it moves on, and never holds more
            remedy = "raise retrain.window_max" if full else "wait for more"
            return _refused(
                f"{found} of the {labels} labels {since} are of events that came after the labels before them were "
                f"known, the {what} needs {SCORED_MIN}: labels take long, {remedy}"
            )
    return {"window": msgspec.to_builtins(window), "why": ""}


def _split(lessons: list[Lesson], share: float) -> int:
    """Where the compared part begins: with the last `share` of the labels; where labels take long, earlier, so that of the
    lessons that can be scored at all `share` are compared, and the others choose between trials.

    Labels may come in bulk, so what can be scored goes up and down with the split: some hundred are tried, the latest first.
    """
    latest = round(len(lessons) * (1.0 - share))
    for split in range(latest, 0, -max(1, latest // SPLITS)):
        searched, compared = _scorable(lessons, split)
        if min(searched, compared) >= SCORED_MIN and compared * (1.0 - share) >= searched * share:
            return split
    return latest


def _scorable(lessons: list[Lesson], split: int) -> tuple[int, int]:
    """How many lessons can be scored in the search, and how many compared: those whose event came after all that their part
    is learned from was known.
    """
    searched = scored_lessons(lessons[:split], lessons[int(split * FIT_SHARE)].offset)
    return sum(searched), sum(scored_lessons(lessons, lessons[split].offset))


def _refused(why: str) -> dict[str, Any]:
    return {"window": None, "why": why}
