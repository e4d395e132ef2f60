"""Notices that the world has changed, in constant memory and some tenths of a microsecond per value.

Watched are errors, labels and scores, overall and in every declared segment, and every feature, in segments if wanted. The
values are taken together in blocks of 32. The first 40 blocks say what is usual; from then on ADWIN (Bifet and Gavalda 2007, "Learning
from time-changing data with adaptive windowing", SIAM SDM) watches the standardised block means. Blocks make it as good
as blind to short bursts and autocorrelation, which have ADWIN on single values cry wolf every few thousand events.

Values without natural bounds are first replaced by their place among 32 quantiles of the first 1,024 (a probability
integral transform, so that scale and outliers do not matter); features are watched for their place and for its distance
from the middle. A model that learns is no drift: errors count only when they rise, scores only when features move, too.

What entities did within a window is the same events for as long as the window, whoever looks: values are independent at that
distance, not nearer. So of such a feature the blocks are as long as its window, in event time (the method of batch means:
Law and Carson 1979, "A sequential procedure for determining the length of a steady-state simulation", Operations Research
27:5).

The state after an example depends on the examples before it alone, so a crash replays to the same alarms.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stream.core.digest import state_digest
from stream.core.drift_features import Features
from stream.core.drift_series import BLOCK, Alarm
from stream.core.drift_signals import Row, Scope, measured_of
from stream.core.lean_pickle import dump_model, load_model
from stream.core.segments import segment_values, told_apart
from stream.errors import SnapshotRefused
from stream.messages import Drift as DriftMessage
from stream.messages import Example, Served
from stream.pipeline import Pipeline

__all__ = ["DriftWatch"]

DELTA = 0.002  # ADWIN's own default: measured, no false alarm in 2 million independent and 300,000 bursty values
EVENTS_PER_DELTA = 100_000
LAYOUT = 2  # of the state; one more whenever what is watched with keeps other things

_Row = tuple[int, int, Row]  # offset, Kafka timestamp


class DriftWatch:
    """All monitors of one model shard."""

    def __init__(self, pipeline: Pipeline, shard: int) -> None:
        settings = pipeline.drift_settings
        self._pipeline = pipeline.name
        self._shard = shard
        self._task = pipeline.task
        self._segments = pipeline.segments
        self._values_max = pipeline.segment_values_max
        self._quiet = settings.episode if settings else 0
        self._shift_min = settings.shift_min if settings else 0.0
        watched = [name for name in ("error", "label", "score") if settings and getattr(settings, name + "s")]
        names = pipeline.feature_names if settings and settings.features else ()
        scopes = 1 + self._values_max * len(self._segments)
        self._features_too = bool(settings and settings.segment_features)
        monitors = len(watched) * scopes + 2 * len(names) * (scopes if self._features_too else 1)
        per = settings.false_alarms_per if settings else EVENTS_PER_DELTA
        delta = DELTA * EVENTS_PER_DELTA / per / max(1, monitors)
        self._watched = watched
        self._detector = settings.detector if settings else None
        self._measured = measured_of(pipeline.task, self._detector)
        self._delta = delta
        windows = {feature.name: feature.window_ms for feature in pipeline.entity_features if feature.window}
        texts = {name for name, feature in pipeline.declared.items() if feature.type is str}
        texts |= {
            feature.name for feature in pipeline.entity_features if feature.kind == "last" and feature.field in texts
        }
        self._windows = windows = {name: windows.get(name, 0) for name in names}
        self._texts = texts
        self._overall = self._scope(features=True)
        self._by_segment: dict[str, dict[str, Scope]] = {name: {} for name in self._segments}
        self._watches = bool(watched or names)
        self._pending: list[tuple[int, int, Example, Served]] = []
        self._taken: list[_Row] = []  # of a block that a restored state had begun
        self._room = BLOCK
        self._offset = 0  # of the last example that was looked at
        self._episodes = 0
        self._episode: str | None = None
        self._last_alarm = 0  # offset
        self._plan = repr(
            (
                LAYOUT,
                self._task,
                windows,
                self._segments,
                self._values_max,
                watched,
                delta,
                self._features_too,
                state_digest(self._detector()) if self._detector is not None else None,
            )
        )

    def _scope(self, *, features: bool) -> Scope:
        watched = Features(self._windows if features else {}, self._texts, self._delta)
        return Scope(self._watched, self._task, self._delta, self._detector, watched)

    def update(self, example: Example, served: Served, offset: int, at_ms: int) -> DriftMessage | None:
        """Take one example; a message where a drift begins. Looked at are whole blocks."""
        if not self._watches:
            return None
        pending = self._pending
        pending.append((offset, at_ms, example, served))
        if len(pending) < self._room:
            return None
        rows = self._rows()
        self._taken, self._pending, self._room = [], [], BLOCK
        return self._block(rows)

    def _rows(self) -> list[_Row]:
        measured, rows = self._measured, list(self._taken)
        for offset, at_ms, example, served in self._pending:
            error, label, score = measured(example.label, served)
            rows.append((offset, at_ms, (error, label, score, example.occurred_at_ms, example.features)))
        return rows

    def _block(self, rows: list[_Row]) -> DriftMessage | None:
        alarms: list[Alarm] = []
        self._offset, at_ms, _ = rows[-1]
        self._overall.block(rows[0][0], [row for _, _, row in rows], None, alarms)
        if self._segments and (self._watched or self._features_too):
            self._block_of_segments(rows, alarms)
        if not alarms:
            return None
        told = [alarm for alarm in alarms if self._is_told(alarm)]
        for alarm in alarms:
            if alarm not in told:
                alarm.restart()
        return self._drift(told, self._offset, at_ms) if told else None

    def _block_of_segments(self, rows: list[_Row], alarms: list[Alarm]) -> None:
        for offset, _, row in rows:
            for segment, value in segment_values(self._segments, row[-1]):
                scopes = self._by_segment[segment]
                value = told_apart(value, scopes, self._values_max)
                if value not in scopes:
                    scopes[value] = self._scope(features=self._features_too)
                scopes[value].add(offset, row, f"{segment}={value}", alarms)

    def _is_told(self, alarm: Alarm) -> bool:
        if alarm.signal == "error":
            return alarm.after > alarm.before  # a detector of the user's alarms either way
        if alarm.signal == "label":
            return True
        if alarm.severity < self._shift_min:
            return False
        # A score that moves while no feature does is a model that learns.
        features = self._overall.features
        return alarm.signal != "score" or not features.names or bool(features.moved(alarm.from_offset))

    def _drift(self, alarms: list[Alarm], offset: int, at_ms: int) -> DriftMessage | None:
        """The first alarm begins an episode. To it belong those that come while it lasts, and later ones, of a rare segment
        say, that place the change there.
        """
        lasts = offset - self._last_alarm <= self._quiet
        begins = self._episode is None or not (
            lasts or max(alarm.from_offset for alarm in alarms) - self._last_alarm <= self._quiet
        )
        if begins or lasts:
            self._last_alarm = offset
        message = None
        if begins:
            self._episodes += 1
            self._episode = f"{self._pipeline}-{self._shard}-{offset}"
            message = self._message(max(alarms, key=lambda alarm: alarm.severity), offset, at_ms)
        for alarm in alarms:
            alarm.restart()
        return message

    def _message(self, alarm: Alarm, offset: int, at_ms: int) -> DriftMessage:
        return DriftMessage(
            drift_id=str(self._episode),
            pipeline=self._pipeline,
            shard=self._shard,
            signal=alarm.signal,
            segment=alarm.segment,
            detector=alarm.detector,
            severity=alarm.severity,
            before=alarm.before,
            after=alarm.after,
            examples_topic=f"{self._pipeline}.examples",
            from_offset=alarm.from_offset,
            to_offset=offset + 1,
            detected_at_ms=at_ms,
            moved=self._features_of(alarm.segment).moved(alarm.from_offset),
        )

    def _features_of(self, segment: str | None) -> Features:
        """Where it was noticed, if they are watched there."""
        if segment is None or not self._features_too:
            return self._overall.features
        name, _, value = segment.partition("=")
        return self._by_segment[name][value].features

    @property
    def lasts(self) -> bool:
        """Whether an episode is open."""
        return self._episode is not None and self._offset - self._last_alarm <= self._quiet

    def report(self) -> dict[str, Any]:
        """For people: is an episode open, how many were there, how many monitors watch already, how often did a user's
        detector raise.
        """
        ready = [flag for scope in self._scopes() for flag in scope.ready()]
        return {
            "episode": self._episode if self.lasts else None,
            "episodes": self._episodes,
            "monitors": len(ready),
            "ready": sum(ready),
            "failures": sum(scope.failures for scope in self._scopes()),
        }

    # -- state -------------------------------------------------------------------------------------------------------

    def to_state(self) -> bytes:
        """Raises SnapshotRefused for a user's detector that cannot be written."""
        parts = (self._overall, self._by_segment, self._rows())
        counters = (self._offset, self._episodes, self._episode, self._last_alarm)
        return msgspec.msgpack.encode([self._plan, counters, dump_model(parts)])

    def restore(self, data: bytes, extra_allowed: frozenset[str] = frozenset()) -> bool:
        """Go on from a state. False if other things are watched now: then all monitors begin anew."""
        plan, counters, parts = msgspec.msgpack.decode(data)
        self._offset, self._episodes, self._episode, self._last_alarm = counters
        if plan != self._plan:
            return False
        try:
            restored = load_model(parts, extra_allowed=extra_allowed)
        except SnapshotRefused:
            return False
        self._overall, self._by_segment, self._taken = restored
        self._room = BLOCK - len(self._taken)
        for scope in self._scopes():
            scope.bind(self._detector)
        return True

    def _scopes(self) -> list[Scope]:
        return [self._overall, *(scope for scopes in self._by_segment.values() for scope in scopes.values())]
