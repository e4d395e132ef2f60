"""How soon drift is noticed and how often it is cried for nothing, beside River's detectors at their defaults.

No broker is needed: the watch is fed as a learner feeds it. Real streams are read from `DRIFTLOOP_BENCH_DATA`
(default `../shared/data`); where they are missing, their rows are left out.
"""

from __future__ import annotations

import csv
import io
import os
import random
import statistics
import sys
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from river import datasets, linear_model, preprocessing, tree
from river import drift as river_drift
from river.datasets import synth

from bench.harness import figure
from stream import Pipeline, entity
from stream.adapters.file_pipelines import load_pipeline
from stream.batch.replaying import replay
from stream.cli.history import from_produced
from stream.cli.sources import Produced, load_generator
from stream.core.drifting import DriftWatch
from stream.messages import Drift, Example, Served, Source
from stream.ports import Outgoing

__all__ = ["DATA", "elec2", "run"]

DATA = Path(os.environ.get("DRIFTLOOP_BENCH_DATA", Path(__file__).parents[2] / "shared" / "data"))
RIVER: dict[str, Callable[[], Any]] = {
    "adwin": river_drift.ADWIN,
    "ddm": river_drift.binary.DDM,
    "eddm": river_drift.binary.EDDM,
    "page_hinkley": river_drift.PageHinkley,
}
Judged = tuple[dict[str, Any], bool, float]  # features, label, probability of true
OURS = "ours"
CHANGE_AT, AFTER = 6_000, 3_000


def run(quick: bool) -> None:
    _false_alarms(quick)
    _delays(quick)
    _in_time_order()
    _payments(quick)
    _cost()


def _alarms(judged: Iterable[Judged], names: Iterable[str] = (OURS, *RIVER)) -> dict[str, list[int]]:
    """Detector -> positions of its alarms; ours watches everything, River's the wrong answers."""
    detectors = {name: RIVER[name]() for name in names if name != OURS}
    found: dict[str, list[int]] = {name: [] for name in names}
    watch, example = None, _example({})
    for i, (x, label, p) in enumerate(judged):
        if watch is None:
            watch = _watch(x)
        served = Served("b@0", p >= 0.5, {"false": 1.0 - p, "true": p})
        if watch.update(msgspec.structs.replace(example, features=x, label=label, occurred_at_ms=i), served, i, i):
            found[OURS].append(i)
        for name, detector in detectors.items():
            detector.update(int((p >= 0.5) != label))
            if detector.drift_detected:
                found[name].append(i)
    return found


def _watch(x: dict[str, Any]) -> DriftWatch:
    declared = {name: type(value) if isinstance(value, str) else float for name, value in x.items()}
    windows = [entity.mean("amount", f"{name[5:]}s", name=name) for name in x if name.startswith("mean_")]
    declared = {name: kind for name, kind in declared.items() if not name.startswith("mean_")}
    return DriftWatch(Pipeline(name="b", task="binary", features=declared, entity_features=windows, model=dict), 0)


def _example(x: dict[str, Any]) -> Example:
    return Example(
        event_id="e", entity_id="k", occurred_at_ms=0, features=x, served={}, label=True, label_source="b",
        labelled_at_ms=0, timing="on_time", partition=0, sequence=1, event_source=Source("e", 0, 0),
    )  # fmt: skip


# -- nothing changes -----------------------------------------------------------------------------------------------------


def _false_alarms(quick: bool) -> None:
    n = 30_000 if quick else 200_000
    nulls: dict[str, Callable[[], Iterator[Judged]]] = {
        f"independent_{wrong}": lambda wrong=wrong: _independent(n, lambda _: wrong) for wrong in (0.02, 0.1, 0.3)
    }
    nulls["entity_windows"] = lambda: _remembered(n)
    nulls["bursty"] = lambda: _independent(n, lambda i: 0.36 if i // 200 % 5 == 0 else 0.06)
    half = n // 2
    nulls["sea_hoeffding_tree"] = lambda: _learned(_floats(synth.SEA(seed=1, noise=0.1)), _tree(), half)
    nulls["agrawal_logistic"] = lambda: _learned(_floats(synth.Agrawal(seed=1)), _logistic(), half)
    nulls["phishing_shuffled_logistic"] = lambda: _learned(_shuffled(datasets.Phishing(), half), _logistic(), half)
    if (DATA / "elec2_electricity.zip").exists():
        nulls["elec2_shuffled_logistic"] = lambda: _learned(_shuffled(elec2(), half), _logistic(), half)
    else:
        print("drift.false_alarms.elec2 left out: no data", file=sys.stderr)
    for name, stream in nulls.items():
        length = n if name.startswith(("independent", "bursty", "entity")) else half
        per = 100_000 / length
        counts = {detector: len(found) * per for detector, found in _alarms(stream()).items()}
        best = min(RIVER, key=counts.__getitem__)
        figure(
            f"drift.false_alarms.{name}", counts.pop(OURS), "per 100,000 events", ratio_to="River's detectors",
            best_of_river=best, **{k: round(v, 1) for k, v in counts.items()},
        )  # fmt: skip


def _independent(n: int, wrong: Callable[[int], float], change: Callable[[int, float], float] | None = None) -> Any:
    """Calibrated answers, wrong with the given probability; five features of different shapes that do not move."""
    rng = random.Random(7)
    before = 0.0
    for i in range(n):
        p_wrong = wrong(i)
        p = p_wrong if rng.random() < 0.5 else 1.0 - p_wrong
        if change is not None:
            p_wrong = change(i, p_wrong)
        label = (p >= 0.5) != (rng.random() < p_wrong)
        before = 0.9 * before + rng.gauss(0, 1)
        x = {
            "normal": rng.gauss(0, 1), "lognormal": rng.lognormvariate(0, 1.5), "rare": float(rng.random() < 0.05),
            "autocorrelated": before, "text": rng.choice("aaaabbc"),
        }  # fmt: skip
        yield x, label, p


def _remembered(n: int) -> Iterator[Judged]:
    """What 40 entities did in the last one and ten seconds; an event each millisecond."""
    rng = random.Random(5)
    spans = (1_000, 10_000)
    past: list[list[tuple[deque[tuple[int, float]], list[float]]]] = [
        [(deque(), [0.0]) for _ in spans] for _ in range(40)
    ]
    for i in range(n):
        p = 0.1 if rng.random() < 0.5 else 0.9
        x = {"amount": rng.gauss(0, 1)}
        for span, (values, total) in zip(spans, rng.choice(past), strict=True):
            values.append((i, x["amount"]))
            total[0] += x["amount"]
            while values[0][0] <= i - span:
                total[0] -= values.popleft()[1]
            x[f"mean_{span // 1_000}"] = total[0] / len(values)
        yield x, (p >= 0.5) != (rng.random() < 0.1), p


def _logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def _tree() -> Any:
    return tree.HoeffdingTreeClassifier(max_share_to_split=1.0)


def _learned(stream: Iterable[tuple[dict[str, Any], Any]], model: Any, n: int) -> Iterator[Judged]:
    """A live model, each example judged before it is learned."""
    for x, label in islice(stream, n):
        yield x, bool(label), model.predict_proba_one(x).get(True, 0.5)
        model.learn_one(x, bool(label))


def _floats(stream: Iterable[tuple[dict[Any, Any], Any]]) -> Iterator[tuple[dict[str, Any], Any]]:
    return (({f"x_{name}": float(value) for name, value in x.items()}, y) for x, y in stream)


def _shuffled(stream: Iterable[tuple[dict[Any, Any], Any]], n: int) -> Iterator[tuple[dict[str, Any], Any]]:
    rows = list(_floats(stream))
    rng = random.Random(3)
    return (rng.choice(rows) for _ in range(n))


def elec2() -> Iterator[tuple[dict[str, Any], Any]]:
    with zipfile.ZipFile(DATA / "elec2_electricity.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith(".csv"))
        for row in csv.DictReader(io.TextIOWrapper(archive.open(name))):
            label = row.pop("class")
            yield {k: float(v) for k, v in row.items() if k != "date"}, label == "UP"


# -- something changes ---------------------------------------------------------------------------------------------------


def _delays(quick: bool) -> None:
    runs = 3 if quick else 20
    for before, after in ((0.1, 0.3), (0.1, 0.2), (0.02, 0.06)):
        delays: dict[str, list[int]] = {OURS: [], **{name: [] for name in RIVER}}
        for seed in range(runs):
            stream = _shift(before, after, seed)
            for name, found in _alarms(stream).items():
                delays[name] += [next((at - CHANGE_AT for at in found if at >= CHANGE_AT), AFTER)]
        _report_delay(f"error_{before}_to_{after}", delays)
    harvard = ("sine_0123_abrupto", "stagger_0120_abrupto", "sea_0123_abrupto_noise_0.2")
    for name in (f"harvard_{one}.csv" for one in harvard):
        if not (DATA / name).exists():
            print(f"drift.delay.{name} left out: no data", file=sys.stderr)
            continue
        for kind, model in (("hoeffding_tree", _tree), ("logistic", _logistic)):
            found = _alarms(_learned(_harvard(DATA / name), model(), 40_000))
            delays = {
                detector: [
                    next((a - at for a in its if at <= a < at + 5_000), 5_000) for at in (10_000, 20_000, 30_000)
                ]
                for detector, its in found.items()
            }
            surplus = {detector: sum(a < 10_000 or a % 10_000 >= 5_000 for a in its) for detector, its in found.items()}
            _report_delay(f"{name.split('_')[1]}_{kind}", delays, surplus)


def _in_time_order() -> None:
    """Electricity prices as they came: the world moves all the time, and nobody knows when."""
    if not (DATA / "elec2_electricity.zip").exists():
        print("drift.alarms.elec2_in_time_order left out: no data", file=sys.stderr)
        return
    for kind, model in (("hoeffding_tree", _tree), ("logistic", _logistic)):
        counts = {
            detector: len(found) for detector, found in _alarms(_learned(_floats(elec2()), model(), 50_000)).items()
        }
        figure(
            f"drift.alarms.elec2_in_time_order_{kind}", counts.pop(OURS), "in 45,312 events", ratio_to="River's detectors",
            **counts,
        )  # fmt: skip


def _payments(quick: bool) -> None:
    """The example as it is shipped, from records to messages: labels between the change and the message, and false ones."""
    folder = Path(__file__).parents[1] / "examples" / "payments"
    pipeline = load_pipeline(folder / "pipeline.py").pipeline
    payments = load_generator(folder / "generator.py").payments

    def watched(n: int, seed: int, change_at: float) -> tuple[list[int], list[Drift]]:
        """Offsets of events in the order of their examples, and what was told."""
        learned: list[int] = []

        def keep(out: Outgoing) -> None:
            if out.topic == "examples":
                learned.append(msgspec.json.decode(out.value or b"", type=Example).event_source.offset)

        made = (Produced(*record) for record in payments(n, seed=seed, change_at=change_at, days=n / 1_000))
        return learned, replay(pipeline, from_produced(made), on_output=keep).drifts

    n, seeds = 40_000, (7,) if quick else (7, 1, 2, 3, 4)
    delays, before = [], 0
    for seed in seeds:
        learned, drifts = watched(n, seed, 0.5)
        change = next(at for at, offset in enumerate(learned) if offset >= n // 2)
        before += sum(drift.to_offset <= change for drift in drifts)
        delays.append(next((drift.to_offset - change for drift in drifts if drift.to_offset > change), n))
    figure(
        "drift.delay.payments", statistics.median(delays), "labels", longest=max(delays), runs=len(delays),
        before_the_change=before,
    )  # fmt: skip
    n, seeds = (30_000, (7,)) if quick else (150_000, (7, 8))
    # In one world, and in the other.
    false = [len(watched(n, seed, change_at)[1]) for seed in seeds for change_at in (0.0, 1.0)]
    figure("drift.false_alarms.payments", sum(false) * 100_000 / n / len(false), "per 100,000 events", runs=len(false))


def _shift(before: float, after: float, seed: int) -> Iterator[Judged]:
    rng = random.Random(seed)
    for i in range(CHANGE_AT + AFTER):
        p = before if rng.random() < 0.5 else 1.0 - before
        wrong = before if i < CHANGE_AT else after
        yield {"x": rng.gauss(0, 1)}, (p >= 0.5) != (rng.random() < wrong), p


def _report_delay(name: str, delays: dict[str, list[int]], surplus: dict[str, int] | None = None) -> None:
    medians = {detector: statistics.median(its) for detector, its in delays.items()}
    longest = AFTER if surplus is None else 5_000
    missed = {detector: sum(delay >= longest for delay in its) for detector, its in delays.items()}
    more: dict[str, Any] = {"missed": missed[OURS], "of": len(delays[OURS])}
    if surplus is not None:
        more["surplus"] = surplus[OURS]
    for detector in RIVER:
        more[detector] = medians[detector] if surplus is None else [medians[detector], surplus[detector]]
    figure(f"drift.delay.{name}", medians[OURS], "events, median", ratio_to="River's detectors", **more)


def _harvard(path: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    with path.open() as lines:
        for row in csv.reader(lines):
            try:
                *values, label = map(float, row)
            except ValueError:
                continue  # the heading
            yield {f"x{i}": value for i, value in enumerate(values)}, label > 0


# -- what it costs -------------------------------------------------------------------------------------------------------


def _cost() -> None:
    for features in (1, 10, 50):
        rng = random.Random(1)
        pipeline = Pipeline(
            name="b", task="binary", features={f"f{i}": float for i in range(features)}, model=dict,
        )  # fmt: skip
        base = [_example({f"f{i}": rng.gauss(0, 1) for i in range(features)}) for _ in range(4_096)]
        served = Served("b@0", True, {"false": 0.3, "true": 0.7})
        watch = DriftWatch(pipeline, 0)
        best = 1e9
        for number in range(8):
            started_s = time.perf_counter()
            for i, example in enumerate(base):
                watch.update(example, served, number * 4_096 + i, 0)
            best = min(best, time.perf_counter() - started_s)
        figure(f"drift.cost.{features}_features", best / len(base) * 1e6, "us per example")
