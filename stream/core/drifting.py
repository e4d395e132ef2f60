"""Notices that the world has changed, in constant memory and some tenths of a microsecond per value.

Watched are errors, labels and scores, overall and in every declared segment, and every feature. The values are taken
together in blocks of 32. The first 40 blocks say what is usual; from then on ADWIN (Bifet and Gavalda 2007, "Learning
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

import math
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from river import base as river_base
from river import drift as river_drift

from stream.core.digest import state_digest
from stream.core.lean_pickle import dump_model, load_model
from stream.errors import SnapshotRefused
from stream.messages import Drift as DriftMessage
from stream.messages import Example, LabelValue, Moved, Served
from stream.pipeline import OTHER_VALUE, Pipeline

__all__ = ["DriftWatch"]

BLOCK = 32
REFERENCE_BLOCKS = 40
REFERENCE_WINDOWS = 10  # of a window's feature, where a block is as long as the window
REFERENCE_VALUES = 32 * BLOCK
GROUP_BLOCKS = 4  # features are looked at in groups of so many blocks
RECENT_BLOCKS = 96  # some 3,000 examples, among which a change is located
QUANTILES = 32
BEFORE_MIN = 5  # blocks before a change
DELTA = 0.002  # ADWIN's own default: measured, no false alarm in 2 million independent and 300,000 bursty values
EVENTS_PER_DELTA = 100_000
MOVED_Z_MIN = 4.0  # standard errors from which a feature counts as moved
MOVED_MAX = 10
LAYOUT = 2  # of the state; one more whenever a class below keeps other things
HUGE = 1e300

Measured = Callable[[LabelValue, Served], tuple[float, Any, float]]
# Offset, Kafka timestamp, error, label, score, event time, features.
_Row = tuple[int, int, float, Any, float, int, dict[str, Any]]


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
        monitors = len(watched) * scopes + 2 * len(names)
        per = settings.false_alarms_per if settings else EVENTS_PER_DELTA
        delta = DELTA * EVENTS_PER_DELTA / per / max(1, monitors)
        self._watched = watched
        self._detector = settings.detector if settings else None
        self._measured = MEASURED[pipeline.task]
        if self._detector is not None and isinstance(self._detector(), river_base.BinaryDriftDetector):
            self._measured = _right_or_wrong(self._measured)
        self._delta = delta
        self._overall = self._scope()
        self._by_segment: dict[str, dict[str, _Scope]] = {name: {} for name in self._segments}
        windows = {feature.name: feature.window_ms for feature in pipeline.entity_features if feature.window}
        texts = {name for name, feature in pipeline.declared.items() if feature.type is str}
        texts |= {
            feature.name for feature in pipeline.entity_features if feature.kind == "last" and feature.field in texts
        }
        windows = {name: windows.get(name, 0) for name in names}
        self._features = _Features(windows, texts, delta)
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
                state_digest(self._detector()) if self._detector is not None else None,
            )
        )

    def _scope(self) -> _Scope:
        return _Scope(self._watched, self._task, self._delta, self._detector)

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
            rows.append((offset, at_ms, error, label, score, example.occurred_at_ms, example.features))
        return rows

    def _block(self, rows: list[_Row]) -> DriftMessage | None:
        alarms: list[_Alarm] = []
        offsets, times, *signals, event_times, features = zip(*rows, strict=True)
        self._offset = offsets[-1]
        if self._watched:
            self._overall.block(offsets[0], signals, None, alarms)
            if self._segments:
                self._block_of_segments(rows, alarms)
        if self._features.names:
            self._features.block(offsets[0], event_times[-1], features, alarms)
        if not alarms:
            return None
        told = [alarm for alarm in alarms if self._is_told(alarm)]
        for alarm in alarms:
            if alarm not in told:
                alarm.restart()
        return self._drift(told, offsets[-1], times[-1]) if told else None

    def _block_of_segments(self, rows: list[_Row], alarms: list[_Alarm]) -> None:
        for offset, _, *signals, _, features in rows:
            for segment, value in segment_values(self._segments, features):
                scopes = self._by_segment[segment]
                value = told_apart(value, scopes, self._values_max)
                if value not in scopes:
                    scopes[value] = self._scope()
                scopes[value].add(offset, signals, f"{segment}={value}", alarms)

    def _is_told(self, alarm: _Alarm) -> bool:
        if alarm.signal == "error":
            return alarm.after > alarm.before  # a detector of the user's alarms either way
        if alarm.signal == "label":
            return True
        if alarm.severity < self._shift_min:
            return False
        # A score that moves while no feature does is a model that learns.
        return alarm.signal != "score" or not self._features.names or bool(self._features.moved(alarm.from_offset))

    def _drift(self, alarms: list[_Alarm], offset: int, at_ms: int) -> DriftMessage | None:
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

    def _message(self, alarm: _Alarm, offset: int, at_ms: int) -> DriftMessage:
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
            moved=self._features.moved(alarm.from_offset),
        )

    @property
    def lasts(self) -> bool:
        """Whether an episode is open."""
        return self._episode is not None and self._offset - self._last_alarm <= self._quiet

    def report(self) -> dict[str, Any]:
        """For people: is an episode open, how many were there, how many monitors watch already, how often did a user's
        detector raise.
        """
        ready = [flag for scope in self._scopes() for flag in scope.ready()] + self._features.ready()
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
        parts = (self._overall, self._by_segment, self._features, self._rows())
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
        self._overall, self._by_segment, self._features, self._taken = restored
        self._room = BLOCK - len(self._taken)
        for scope in self._scopes():
            scope.bind(self._detector)
        return True

    def _scopes(self) -> list[_Scope]:
        return [self._overall, *(scope for scopes in self._by_segment.values() for scope in scopes.values())]


def segment_values(segments: Sequence[str], features: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """The segments that an example belongs to, one value of each."""
    for segment in segments:
        value = features[segment]
        yield segment, ("true" if value else "false") if isinstance(value, bool) else str(value)


def told_apart(value: str, known: Mapping[str, Any], values_max: int) -> str:
    """The value, or `OTHER_VALUE` once there is no place for one more."""
    return value if value in known or len(known) < values_max - 1 else OTHER_VALUE


# Error, label and score of one example. The error is 1 - the probability of what came true, or the absolute error; the score
# is the probability of true, that of the likeliest class, the predicted number, or the anomaly score.


def _binary(label: LabelValue, served: Served) -> tuple[float, Any, float]:
    p = served.probabilities
    score = p.get("true", 0.5) if p else 0.5
    return (1.0 - score, 1.0, score) if label else (score, 0.0, score)


def _multiclass(label: LabelValue, served: Served) -> tuple[float, Any, float]:
    p = served.probabilities or {}
    return 1.0 - p.get(str(label), 0.0), label, max(p.values(), default=0.0)


def _regression(label: LabelValue, served: Served) -> tuple[float, Any, float]:
    prediction, truth = float(served.prediction or 0.0), float(label)
    return abs(prediction - truth), truth, prediction


def _anomaly(label: LabelValue, served: Served) -> tuple[float, Any, float]:
    return float(served.prediction != label), float(bool(label)), served.score or 0.0


def _right_or_wrong(measured: Measured) -> Measured:
    """For detectors that count errors, and can do nothing with the probability of one."""

    def of(label: LabelValue, served: Served) -> tuple[float, Any, float]:
        return (float(served.prediction != label), *measured(label, served)[1:])

    return of


MEASURED: dict[str, Measured] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "regression": _regression,
    "anomaly": _anomaly,
}


# -- one sequence of blocks ----------------------------------------------------------------------------------------------


class _Series:
    """Totals of blocks under watch."""

    def __init__(
        self, delta: float, *, rising: bool = False, binary: bool = False, reference: int = REFERENCE_BLOCKS
    ) -> None:
        self._delta = delta
        self._rising = rising
        self._binary = binary
        self._reference = reference
        self.recent: deque[float] = deque(maxlen=RECENT_BLOCKS)
        self._left = reference
        self._mean = self._m2 = self.sd = 0.0
        self._adwin: Any = None

    @property
    def ready(self) -> bool:
        return self._adwin is not None

    def add(self, total: float) -> bool:
        """One more block; true for an alarm."""
        self.recent.append(total)
        if self._adwin is None:
            self._learn(total)
            return False
        self._adwin.update((total - self._mean) / self.sd)
        return self._adwin.drift_detected and (not self._rising or self._rose())

    def _rose(self) -> bool:
        # ADWIN's estimate does not say: it forgets the oldest first, and in a learning curve those are the highest.
        shift = self.shift()
        if shift.after > shift.before:
            return True
        self._forget(shift.at)  # else a rise that follows would be taken for this fall
        return False

    def _forget(self, before: int) -> None:
        for _ in range(before):
            self.recent.popleft()

    def _learn(self, total: float) -> None:
        self._left -= 1
        n = self._reference - self._left
        delta = total - self._mean
        self._mean += delta / n
        self._m2 += delta * (total - self._mean)
        if self._left:
            return
        sd = math.sqrt(self._m2 / (n - 1))
        if self._binary:  # rare ones: a reference with one of them, or none, says little about the spread
            values = n * BLOCK
            share = (self._mean * n + 1.0) / (values + 2.0)
            sd = max(sd, math.sqrt(BLOCK * share * (1.0 - share)))
        self.sd = sd or 1.0
        self._adwin = river_drift.ADWIN(delta=self._delta, clock=1)

    def restart(self, after: int) -> None:
        """After an alarm: what is usual is learned anew; of the past, only the blocks after the change are kept."""
        self._forget(after)
        kept = self.recent
        self.__init__(  # type: ignore[misc]
            self._delta, rising=self._rising, binary=self._binary, reference=self._reference
        )
        self.recent = kept

    def shift(self, at: int | None = None) -> _Shift:
        """What changed at a block; without one, at the likeliest."""
        recent = list(self.recent)
        if at is None:
            at = change_point(recent)
        sides = recent[:at], recent[at:]
        before, after = (math.fsum(side) / len(side) for side in sides)
        squares = math.fsum((v - mean) ** 2 for side, mean in zip(sides, (before, after), strict=True) for v in side)
        sd = math.sqrt(squares / max(1, len(recent) - 2)) or self.sd or 1.0
        z = (after - before) / (sd * math.sqrt(1 / len(sides[0]) + 1 / len(sides[1])))
        return _Shift(at, before, after, (after - before) / (sd * math.sqrt(BLOCK)), z)


class _Shift(NamedTuple):
    at: int  # the first block after the change
    before: float  # mean totals of blocks
    after: float
    effect: float  # in standard deviations of single values (Cohen's d, if they are independent)
    z: float  # in standard errors


def change_point(values: Sequence[float]) -> int:
    """Where the mean shifted: the maximum-likelihood split for one change and equal variances (Hinkley 1970,
    "Inference about the change-point in a sequence of random variables", Biometrika 57:1).

    >>> change_point([0.1, 0.0, 0.2, 0.1, 0.1, 0.0, 0.9, 1.0, 0.8])
    6
    """
    n, total = len(values), math.fsum(values)
    first = min(BEFORE_MIN, n - 1)
    left, best, at = math.fsum(values[:first]), -1.0, first
    for k in range(first, n):
        gain = (left - total * k / n) ** 2 * n / (k * (n - k))
        if gain > best:
            best, at = gain, k
        left += values[k]
    return at


class _Alarm(NamedTuple):
    signal: str
    segment: str | None
    detector: str
    severity: float
    before: float
    after: float
    from_offset: int
    restart: Callable[[], None]


# -- places among reference quantiles --------------------------------------------------------------------------------------


class _Ranks:
    """Replaces values by their places: 0 (below all quantiles) to 2k (above), odd ones on a quantile itself."""

    def __init__(self, *, of_texts: bool) -> None:
        self.of_texts = of_texts
        self._reference: list[Any] = []
        self._cuts: list[float] = []
        self._cuts_array: Any = None
        self._place_of: dict[Any, int] = {}
        self.middle = 0

    @property
    def ready(self) -> bool:
        return self.middle > 0

    def gather(self, column: Sequence[Any]) -> None:
        """Values of the reference; there are enough of them after a whole number of blocks."""
        self._reference += column if self.of_texts else [v for v in map(_number, column) if v == v]
        if len(self._reference) < REFERENCE_VALUES:
            return
        if self.of_texts:
            # Ordered by how often they come: a shift between two texts moves the mean place.
            common = sorted(Counter(self._reference).items(), key=lambda item: (-item[1], str(item[0])))[
                : QUANTILES - 1
            ]
            self._place_of = {text: 2 * i + 1 for i, (text, _) in enumerate(common)}
            self.middle = len(common) + 1
        else:
            ordered = sorted(self._reference)
            last = len(ordered) - 1
            edges = sorted({ordered[round(i * last / (QUANTILES - 1))] for i in range(QUANTILES)})
            self._cuts = [cut for edge in edges for cut in (edge, math.nextafter(edge, math.inf))]
            self._cuts_array = np.array(self._cuts)
            self.middle = len(edges)
        self._reference = []

    def places(self, column: Sequence[Any]) -> list[int]:
        if self.of_texts:
            other = 2 * self.middle
            place_of = self._place_of
            return [place_of.get(value, other) for value in column]
        cuts = self._cuts
        return [bisect_right(cuts, value) for value in column]

    def places_array(self, column: Sequence[Any]) -> np.ndarray[Any, Any]:
        if self.of_texts:
            return np.array(self.places(column))
        try:
            values = np.array(column, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):  # an example that no scorer of ours wrote
            values = np.array([_number(value) for value in column])
        places: np.ndarray[Any, Any] = self._cuts_array.searchsorted(values, side="right")
        return places


def _number(value: Any) -> float:
    return float(min(max(value, -HUGE), HUGE)) if isinstance(value, int | float) else math.nan


# -- errors, labels and scores ---------------------------------------------------------------------------------------------


class _Signal:
    """Errors, labels or scores of one scope."""

    def __init__(self, name: str, task: str, delta: float, detector: Callable[[], Any] | None) -> None:
        self.name = name
        self._of_texts = (task, name) == ("multiclass", "label")
        # What is in no known bounds is ranked.
        ranked = task == "regression" or self._of_texts or (task, name) == ("anomaly", "score")
        if self._of_texts:
            detector = None  # River's detectors watch numbers
        made: Any = detector() if detector is not None else None
        if name != "error" and isinstance(made, river_base.BinaryDriftDetector):
            made = detector = None  # those count errors
        self.make = detector
        self.failures = 0
        self._detector = made
        self.ranks = _Ranks(of_texts=self._of_texts) if ranked and detector is None else None
        binary = name == "label" or (task, name) == ("anomaly", "error")
        self.series = _Series(delta, rising=name == "error", binary=binary and not ranked)

    @property
    def ready(self) -> bool:
        return self._detector is not None or self.series.ready

    def block(self, values: Sequence[Any]) -> bool:
        """One block of values; true for an alarm."""
        if self._detector is not None:
            return self._feed(values)
        if self.ranks is None:
            return self.series.add(math.fsum(values))
        if not self.ranks.ready:
            self.ranks.gather(values)
            return False
        return self.series.add(sum(self.ranks.places(values)))

    def _feed(self, values: Sequence[Any]) -> bool:
        self.series.recent.append(math.fsum(values))
        found = False
        of_right = isinstance(self._detector, river_drift.binary.FHDDM)  # it counts right answers
        for value in values:
            try:
                self._detector.update(1.0 - value if of_right else value)
            except Exception:  # noqa: BLE001 - a user's code; `check` has tried it on values like these
                self.failures += 1
                continue
            found = found or self._detector.drift_detected
        return found and len(self.series.recent) > 1

    def alarm(self, segment: str | None, starts: Sequence[int]) -> _Alarm:
        shift = self.series.shift()
        scale = BLOCK * (2 * self.ranks.middle if self.ranks is not None else 1)
        return _Alarm(
            self.name,
            segment,
            "blocked_adwin" if self._detector is None else type(self._detector).__name__,
            abs(shift.effect),
            shift.before / scale,
            shift.after / scale,
            starts[shift.at - len(self.series.recent)],
            lambda: self._restart(shift.at),
        )

    def _restart(self, after: int) -> None:
        self.series.restart(after)
        if self.ranks is not None:
            self.ranks = _Ranks(of_texts=self._of_texts)
            self.series.recent.clear()  # places among other quantiles
        if self.make is not None:
            self._detector = self.make()

    def bind(self, detector: Callable[[], Any] | None) -> None:
        """What a state leaves out."""
        self.make = detector if self._detector is not None else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "make": None}  # the pipeline has it


class _Scope:
    """The signals of all examples or of those in one segment."""

    def __init__(self, watched: list[str], task: str, delta: float, detector: Callable[[], Any] | None) -> None:
        self._signals = [_Signal(name, task, delta, detector) for name in watched]
        self._at = [("error", "label", "score").index(name) for name in watched]
        self._started = 0
        self._rows: list[Sequence[Any]] = []
        self._starts: deque[int] = deque(maxlen=RECENT_BLOCKS)  # offset of each block's first example

    @property
    def failures(self) -> int:
        """How often a user's detectors have raised."""
        return sum(signal.failures for signal in self._signals)

    def add(self, offset: int, signals: Sequence[Any], segment: str, alarms: list[_Alarm]) -> None:
        """Error, label and score of one example."""
        if not self._rows:
            self._started = offset
        self._rows.append(signals)
        if len(self._rows) == BLOCK:
            rows, self._rows = self._rows, []
            self.block(self._started, list(zip(*rows, strict=True)), segment, alarms)

    def block(self, start: int, signals: Sequence[Sequence[Any]], segment: str | None, alarms: list[_Alarm]) -> None:
        """Errors, labels and scores of one block."""
        self._starts.append(start)
        for signal, at in zip(self._signals, self._at, strict=True):
            if signal.block(signals[at]):
                alarms.append(signal.alarm(segment, self._starts))

    def bind(self, detector: Callable[[], Any] | None) -> None:
        """What a state leaves out."""
        for signal in self._signals:
            signal.bind(detector)

    def ready(self) -> list[bool]:
        return [signal.ready for signal in self._signals]


# -- features --------------------------------------------------------------------------------------------------------------


class _Feature:
    """Its place among its quantiles, and how far from the middle."""

    def __init__(self, name: str, delta: float, window_ms: int, *, of_texts: bool) -> None:
        self.name = name
        self._of_texts = of_texts
        self.window_ms = window_ms  # of an entity's history; 0: none
        self._delta = delta
        self.begin()

    def begin(self) -> None:
        reference = REFERENCE_WINDOWS if self.window_ms else REFERENCE_BLOCKS
        self.ranks = _Ranks(of_texts=self._of_texts)
        self.place = _Series(self._delta, reference=reference)
        self.spread = _Series(self._delta, reference=reference)
        # Of a window's feature: a block as long as the window, and where those before began.
        self.starts: deque[int] = deque(maxlen=RECENT_BLOCKS)
        self._open: list[float] | None = None  # first offset, event time it began at, blocks, totals

    def blocks(self, start: int, at_ms: int, places: list[int], spreads: list[int]) -> _Series | None:
        """Totals of a group of blocks that begins at an offset; the series that alarms."""
        if self.window_ms:
            if self._open is None:
                self._open = [0, at_ms, 0, 0, 0]
                return None  # it began within the group
            its = self._open
            if not its[2]:
                its[0] = start
            its[2] += len(places)
            its[3] += sum(places)
            its[4] += sum(spreads)
            if at_ms - its[1] < self.window_ms:
                return None
            self._open = [0, at_ms, 0, 0, 0]
            self.starts.append(int(its[0]))
            places, spreads = [its[3] / its[2]], [its[4] / its[2]]  # type: ignore[list-item]
        found = [False, False]
        for place, spread in zip(places, spreads, strict=True):
            found[0] = self.place.add(place) or found[0]
            found[1] = self.spread.add(spread) or found[1]
        return self.place if found[0] else self.spread if found[1] else None

    def shift(self, series: _Series, at: int | None = None) -> _Shift:
        """What changed at a block."""
        shift = series.shift(at)
        if not self.window_ms:
            return shift
        # Long blocks say nothing of single values, but places are spread evenly: by that they are made.
        sd = (2 if series is self.place else 1) * self.ranks.middle / math.sqrt(12)
        return shift._replace(effect=(shift.after - shift.before) / (BLOCK * sd))


class _Features:
    """Every feature, a group of blocks at a time."""

    def __init__(self, windows_ms: dict[str, int], texts: set[str], delta: float) -> None:
        self.names = tuple(windows_ms)
        self._features = [_Feature(name, delta, its, of_texts=name in texts) for name, its in windows_ms.items()]
        self._began_ms = -1  # event time
        self._rows: list[dict[str, Any]] = []
        self._offsets: list[int] = []
        self._starts: deque[int] = deque(maxlen=RECENT_BLOCKS)

    def ready(self) -> list[bool]:
        return [series.ready for feature in self._features for series in (feature.place, feature.spread)]

    def block(self, start: int, at_ms: int, features: Sequence[dict[str, Any]], alarms: list[_Alarm]) -> None:
        """The features of one block; `at_ms` is event time."""
        self._offsets.append(start)
        self._rows += features
        if len(self._offsets) == GROUP_BLOCKS:
            rows = [list(x.values()) for x in self._rows]
            self._starts.extend(self._offsets)
            self._rows, self._offsets = [], []
            if self._began_ms < 0:
                self._began_ms = at_ms
            self._group(rows, at_ms, alarms)

    def _group(self, rows: list[list[Any]], at_ms: int, alarms: list[_Alarm]) -> None:
        watched, arrays = [], []
        for feature, column in zip(self._features, zip(*rows, strict=True), strict=True):
            if feature.ranks.ready:
                watched.append(feature)
                arrays.append(feature.ranks.places_array(column))
            elif at_ms - self._began_ms >= feature.window_ms:  # before, windows fill up: nothing is usual
                feature.ranks.gather(column)
        if not watched:
            return
        # Whole numbers: sums are exact, whatever the order.
        places = np.array(arrays).reshape(len(watched), GROUP_BLOCKS, BLOCK)
        middles = np.array([feature.ranks.middle for feature in watched]).reshape(-1, 1, 1)
        totals = places.sum(axis=2).tolist()
        spreads = np.abs(places - middles).sum(axis=2).tolist()
        start = self._starts[-GROUP_BLOCKS]
        for feature, its_totals, its_spreads in zip(watched, totals, spreads, strict=True):
            series = feature.blocks(start, at_ms, its_totals, its_spreads)
            if series is not None:
                alarms.append(self._alarm(feature, series))

    def _starts_of(self, feature: _Feature, series: _Series) -> list[int]:
        """The first offset of each of the series' blocks."""
        return list(feature.starts if feature.window_ms else self._starts)[-len(series.recent) :]

    def _alarm(self, feature: _Feature, series: _Series) -> _Alarm:
        shift = feature.shift(series)
        scale = BLOCK * 2 * feature.ranks.middle
        return _Alarm(
            f"feature:{feature.name}",
            None,
            "blocked_adwin_on_ranks",
            abs(shift.effect),
            shift.before / scale,
            shift.after / scale,
            self._starts_of(feature, series)[shift.at],
            feature.begin,
        )

    def moved(self, from_offset: int) -> list[Moved]:
        """Which features are not what they were before this offset, the most moved first."""
        found = []
        for feature in self._features:
            moved = self._moved(feature, feature.place, from_offset) or self._moved(
                feature, feature.spread, from_offset
            )
            if moved is not None:
                found.append(moved)
        return sorted(found, key=lambda moved: -abs(moved.shift))[:MOVED_MAX]

    def _moved(self, feature: _Feature, series: _Series, from_offset: int) -> Moved | None:
        if not series.ready:
            return None
        starts = self._starts_of(feature, series)
        at = sum(1 for start in starts if start < from_offset)
        if not BEFORE_MIN <= at < len(starts):
            return None
        shift = feature.shift(series, at)
        if abs(shift.z) < MOVED_Z_MIN:
            return None
        scale = BLOCK * 2 * feature.ranks.middle
        if feature.ranks.of_texts:
            how = "other_values"
        elif series is feature.spread:
            how = "wider" if shift.z > 0 else "narrower"
        else:
            how = "higher" if shift.z > 0 else "lower"
        return Moved(feature.name, how, shift.effect, shift.before / scale, shift.after / scale)  # type: ignore[arg-type]
