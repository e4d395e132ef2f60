"""The streams of `bench/quality.py`, each with its pipeline and the recipes that a retraining tries.

Real ones are read from `DRIFTLOOP_BENCH_DATA` (default `../shared/data`); those that are missing are left out.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import sys
import zipfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from river import linear_model, naive_bayes, optim, preprocessing, tree

from bench.drift import DATA, _harvard, elec2
from stream import Pipeline
from stream.adapters.file_pipelines import load_pipeline
from stream.batch.replaying import replay
from stream.boosting import BoostedClassifier, BoostedRegressor
from stream.cli.history import from_produced
from stream.cli.sources import Columns, read_source
from stream.messages import Example, LabelValue
from stream.ports import Outgoing

__all__ = ["Event", "Stream", "streams"]

EXAMPLE = Path(__file__).parents[1] / "examples" / "payments"
FRAUD = DATA / "fraud_handbook_2018-05-10_2018-07-09.csv.gz"
BIKES = DATA / "bike_sharing_uci.zip"
BIKE_FEATURES = (
    "season", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit", "temp", "atemp", "hum", "windspeed",
)  # fmt: skip
LEFT_OUT = ("CUSTOMER_ID", "TERMINAL_ID", "TX_TIME_SECONDS", "TX_FRAUD", "TX_FRAUD_SCENARIO")
ENTITIES = 500  # of streams that have none
Params = dict[str, Any]


class Event(NamedTuple):
    """One event and what turned out to be true of it."""

    entity: str
    features: dict[str, Any]
    label: LabelValue


class Stream(NamedTuple):
    """One stream. `figure`: what its answers are judged by; `recipes`: parameters that a retraining tries."""

    name: str
    figure: str
    pipeline: Pipeline
    recipes: list[Params]
    events: list[Event]


def build(params: Params) -> Any:
    """All families of the streams without a pipeline of their own."""
    family = params["family"]
    if family == "boosted":
        return BoostedClassifier(trees=40, leaves=15, online_layer=True, seed=params["seed"])
    if family == "adaptive_tree":
        return tree.HoeffdingAdaptiveTreeClassifier(max_share_to_split=1.0, seed=params["seed"])
    if family == "naive_bayes":
        return naive_bayes.GaussianNB()
    if family == "softmax":
        return preprocessing.StandardScaler() | linear_model.SoftmaxRegression(optim.SGD(params["rate"]))
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(params["rate"]))


def streams(rows: int) -> Iterator[Stream]:
    """Every stream that is there, of so many events at most."""
    yield _payments(rows)
    real: dict[str, tuple[Path, Callable[[Path], Iterator[tuple[dict[str, Any], Any]]]]] = {
        "elec2": (DATA / "elec2_electricity.zip", lambda _: elec2()),
        "sine": (DATA / "harvard_sine_0123_abrupto.csv", _harvard),
        "stagger": (DATA / "harvard_stagger_0120_abrupto.csv", _harvard),
        "sea": (DATA / "harvard_sea_0123_abrupto_noise_0.2.csv", _harvard),
        "rbf_15_classes": (DATA / "interchangingRBF.data", _rbf),
    }
    for name, (path, read) in real.items():
        if _there(name, path):
            events = [Event(f"e{i % ENTITIES}", x, y) for i, (x, y) in enumerate(islice(read(path), rows))]
            yield _stream(name, "accuracy", events)
    if _there("bike_sharing", BIKES):
        yield _bike_sharing()
    if _there("fraud", FRAUD):
        yield _stream("fraud", "average_precision", list(islice(_fraud(), rows)))


def _bike_sharing() -> Stream:
    """Rented bikes per hour, in time order; what was counted apart (casual, registered) is left out."""
    events = []
    with zipfile.ZipFile(BIKES) as archive:
        name = next(name for name in archive.namelist() if name.endswith("hour.csv"))
        for i, row in enumerate(csv.DictReader(io.TextIOWrapper(archive.open(name)))):
            x = {key: float(row[key]) for key in BIKE_FEATURES}
            events.append(Event(f"e{i % ENTITIES}", x, float(row["cnt"])))

    def build(params: Params) -> Any:
        if params["family"] == "boosted":
            return BoostedRegressor(trees=40, leaves=15, online_layer=True, seed=params["seed"])
        if params["family"] == "adaptive_tree":
            return tree.HoeffdingAdaptiveTreeRegressor(seed=params["seed"])
        rate = params["rate"]  # with the remedies that `driftloop check` names: without them it explodes
        linear = linear_model.LinearRegression(optim.SGD(rate), intercept_lr=rate, clip_gradient=100)
        return preprocessing.TargetStandardScaler(regressor=preprocessing.StandardScaler() | linear)

    pipeline = Pipeline(
        name="quality", task="regression", features=dict.fromkeys(BIKE_FEATURES, float), model=build,
        params={"family": "linear", "rate": 0.01},
    )  # fmt: skip
    recipes: list[Params] = [{"family": "linear", "rate": rate} for rate in (0.001, 0.01, 0.1)]
    return Stream(
        "bike_sharing", "mae", pipeline, [*recipes, {"family": "adaptive_tree"}, {"family": "boosted"}], events
    )


def _there(name: str, path: Path) -> bool:
    if not path.exists():
        print(f"quality.{name} left out: no data", file=sys.stderr)
    return path.exists()


def _stream(name: str, figure: str, events: list[Event]) -> Stream:
    multiclass = isinstance(events[0].label, str)
    linear = "softmax" if multiclass else "logistic"
    families = ("adaptive_tree", "naive_bayes", "boosted")
    pipeline = Pipeline(
        name="quality", task="multiclass" if multiclass else "binary", features=dict.fromkeys(events[0].features, float),
        model=build, params={"family": linear, "rate": 0.01},  # River's own default
    )  # fmt: skip
    recipes: list[Params] = [{"family": linear, "rate": rate} for rate in (0.001, 0.01, 0.1)]
    return Stream(name, figure, pipeline, recipes + [{"family": family} for family in families], events)


def _payments(rows: int) -> Stream:
    """The example as it is shipped; a replay computes the features of each card's history once."""
    pipeline = load_pipeline(EXAMPLE / "pipeline.py").pipeline
    examples: list[Example] = []

    def keep(out: Outgoing) -> None:
        if out.topic == "examples":
            examples.append(msgspec.json.decode(out.value or b"", type=Example))

    columns = Columns(None, None, None, None, None)
    made = read_source(
        pipeline, str(EXAMPLE / "generator.py"), columns=columns, limit=rows, delay_ms=0, interval_ms=0, seed=7
    )
    replay(dataclasses.replace(pipeline, drift=False), from_produced(made), on_output=keep)
    examples = [one for one in examples if one.timing == "on_time"]
    examples.sort(key=lambda one: one.event_source.offset)
    events = [Event(one.entity_id, one.features, one.label) for one in examples]
    recipes: list[Params] = [{"family": "online", "learning_rate": rate} for rate in (0.005, 0.05, 0.5)]
    return Stream("payments", "average_precision", pipeline, [*recipes, {"family": "boosted", "trees": 60}], events)


def _rbf(path: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    with path.open() as values, path.with_suffix(".labels").open() as labels:
        for line, label in zip(values, labels, strict=True):
            x0, x1 = map(float, line.split()[:2])
            yield {"x0": x0, "x1": x1}, label.strip()


def _fraud() -> Iterator[Event]:
    with gzip.open(FRAUD, "rt") as lines:
        for row in csv.DictReader(lines):
            x = {name: float(value) for name, value in row.items() if name not in LEFT_OUT}
            yield Event(row["CUSTOMER_ID"], x, bool(int(float(row["TX_FRAUD"]))))
