"""The search: trials per minute with one and two workers; and boosted trees beside online logistic regression on fraud."""

from __future__ import annotations

import csv
import gzip
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import lightgbm
import msgspec
import numpy as np
from river import forest, linear_model, naive_bayes, optim, preprocessing, tree

from bench.drift import DATA
from bench.harness import figure
from stream import Pipeline, Retrain, search_space
from stream.adapters.file_pipelines import LoadedPipeline
from stream.batch.searching import finish_search, plan_trials, run_trials
from stream.batch.windows import choose_window
from stream.boosting import BoostedClassifier
from stream.core.evaluating import Evaluation
from stream.core.explaining import compile_scorer
from stream.core.prequential import Lesson, evaluate
from stream.core.records import Record
from stream.local.stack import Stack
from stream.messages import Example, Served, Source
from stream.settings import Settings, load_settings

__all__ = ["run"]

FEATURES = 10
DELAY = 1_000
FRAUD = DATA / "fraud_handbook_2018-05-10_2018-07-09.csv.gz"
FRAUD_ROWS = 200_000
REFIT_EVERY, FIT_ROWS = 10_000, 100_000


# Online models on the fraud stream.
ONLINE: dict[str, Any] = {
    "logistic": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "logistic_0.001": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.001)),
    "logistic_0.1": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.1)),
    "naive_bayes": naive_bayes.GaussianNB,
    "hoeffding_adaptive_tree": lambda: tree.HoeffdingAdaptiveTreeClassifier(seed=1),
    "adaptive_random_forest": lambda: forest.ARFClassifier(n_models=5, seed=1),
}


def build(params: dict[str, Any]) -> Any:
    if params["family"] in ONLINE:
        return ONLINE[params["family"]]()
    if params["family"] == "boosted":
        return BoostedClassifier(trees=params["trees"], leaves=params["leaves"], seed=params["seed"])
    raise ValueError(params["family"])


def _pipeline(name: str, family: str) -> Pipeline:
    return Pipeline(
        name=name, task="binary", features={f"f{i}": float for i in range(FEATURES)}, model=build,
        params={"family": family, "trees": 40, "leaves": 15},
        search_space={"trees": search_space.whole(20, 80), "leaves": search_space.whole(7, 31)},
        retrain=Retrain(start_from=("scratch",)),
    )  # fmt: skip


class _Source:
    """Made-up examples, the same in every process."""

    def __init__(self, n: int) -> None:
        rng = random.Random(3)
        self._records = []
        for i in range(n):
            x = {f"f{j}": rng.gauss(0, 1) for j in range(FEATURES)}
            example = Example(
                event_id=f"e{i}", entity_id="k", occurred_at_ms=i * 1_000, features=x, served={},
                label=x["f0"] * x["f1"] + x["f2"] + rng.gauss(0, 0.5) > 1, label_source="b",
                labelled_at_ms=i * 1_000, timing="on_time", partition=0, sequence=i + 1, event_source=Source("e", 0, i),
            )  # fmt: skip
            self._records.append(Record("examples", 0, i, (i + DELAY) * 1_000, b"0", msgspec.json.encode(example)))

    def end(self, shard: int) -> int:
        return len(self._records)

    def records(self, shard: int, from_offset: int, to_offset: int) -> Iterator[Record]:
        return iter(self._records[from_offset:to_offset])


def run(stack: Stack, quick: bool) -> None:
    n, trials = (5_000, 4) if quick else (20_000, 24)
    with tempfile.TemporaryDirectory() as directory:
        settings = load_settings(redis_url=stack.redis_url, signing_key="b" * 32, artifact_url=directory)
        for family in ("logistic", "boosted"):
            rates = [_trials_per_minute(settings, family, n, trials, workers) for workers in (1, 2)]
            for workers, rate in zip((1, 2), rates, strict=True):
                figure(
                    f"search.{family}.{workers}_workers", rate, "trials/min", ratio_to="one worker",
                    ratio=round(rate / rates[0], 2), labels=n,
                )  # fmt: skip
    _cost()
    if FRAUD.exists():
        _fraud(30_000 if quick else FRAUD_ROWS)
    else:
        print("search.fraud left out: no data", file=sys.stderr)


def _trials_per_minute(settings: Settings, family: str, n: int, trials: int, workers: int) -> float:
    """From the first trial that begins to the last that ends: starting Python is not counted."""
    pipeline, name = _pipeline("bench-search", family), f"{family}-{workers}"
    loaded, source = LoadedPipeline(pipeline, frozenset()), _Source(n)
    window = choose_window(pipeline, source)["window"]
    parts = plan_trials(settings, loaded, name, window, trials=trials, workers=workers, source=source)
    environment = {
        **os.environ, "DRIFTLOOP_REDIS_URL": settings.redis_url.get_secret_value(), "DRIFTLOOP_SIGNING_KEY": "b" * 32,
        "DRIFTLOOP_ARTIFACT_URL": settings.artifact_url,
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.search", family, str(n), name, str(part["part"])], env=environment,
            stdout=subprocess.PIPE,
        )
        for part in parts
    ]  # fmt: skip
    times = [list(map(float, process.communicate()[0].split())) for process in processes]
    found = finish_search(settings, loaded, name, source=source)
    return found["trials"] / (max(end for _, end in times) - min(begin for begin, _ in times)) * 60


def _worker(family: str, n: str, name: str, part: str) -> None:
    loaded, source = LoadedPipeline(_pipeline("bench-search", family), frozenset()), _Source(int(n))
    begin_s = time.time()
    run_trials(load_settings(), loaded, name, int(part), source=source)
    print(begin_s, time.time())


def _cost() -> None:
    """One prediction of 80 trees with 31 leaves, beside LightGBM's own of a row that is an array already."""
    source = _Source(8_000)
    rows = [msgspec.json.decode(record.value or b"", type=Example) for record in source.records(0, 0, 8_000)]
    model = BoostedClassifier(trees=80, leaves=31)
    model.fit([one.features for one in rows], [bool(one.label) for one in rows])
    xs = [one.features for one in rows[:1_000]]
    booster = lightgbm.Booster(model_str=model.text)
    arrays = [np.array([model.inputs(x)]) for x in xs]
    theirs = _fastest_us(lambda row: booster.predict(row, num_threads=1), arrays)
    for name, top in (("", 0), (".explained", 5)):
        ours = _fastest_us(compile_scorer(model, "binary", explained_top=top), xs)
        figure(
            f"search.boosted.prediction{name}", ours, "us", ratio_to="LightGBM's predict of one row",
            ratio=round(ours / theirs, 2), other=round(theirs, 1),
        )  # fmt: skip


def _fastest_us(call: Any, inputs: list[Any]) -> float:
    fastest = float("inf")
    for _ in range(7):
        began_s = time.perf_counter()
        for one in inputs:
            call(one)
        fastest = min(fastest, time.perf_counter() - began_s)
    return fastest / len(inputs) * 1e6


# -- fraud ---------------------------------------------------------------------------------------------------------------


def _fraud(rows: int) -> None:
    """Average precision under a delay, both judged on the same events: all after the first 10,000."""
    for delay in (1_000, 10_000):
        lessons = list(_fraud_lessons(rows, delay))
        first = REFIT_EVERY + delay
        online: dict[str, float] = {}
        for family in ONLINE:
            pipeline = Pipeline(
                name="fraud", task="binary", features=dict.fromkeys(lessons[0].features, float), model=build,
                params={"family": family},
            )  # fmt: skip
            judged = evaluate(
                pipeline, pipeline.build(), lessons, score_from=first, known_at_ms=lessons[first].came_at_ms - 1
            )
            online[family] = round(judged.figure or 0.0, 4)
        best = max(online, key=online.__getitem__)
        began_s = time.perf_counter()
        boosted = _refitted(lessons, first, delay)
        figure(
            f"search.fraud.delay_{delay}.boosted", boosted, "average precision", ratio_to=f"the best online model, {best}",
            ratio=round(boosted / (online[best] or 1.0), 3), **online, labels=judged.labels,
            seconds=round(time.perf_counter() - began_s, 1),
        )  # fmt: skip


def _refitted(lessons: list[Lesson], first: int, delay: int) -> float:
    """Fitted anew every 10,000 events on the last 100,000 whose labels have come, frozen between."""
    evaluation = Evaluation("binary")
    for begin in range(first, len(lessons), REFIT_EVERY):
        known = lessons[max(0, begin - delay - FIT_ROWS) : begin - delay]
        model = BoostedClassifier()
        model.fit([one.features for one in known], [bool(one.label) for one in known])
        scorer = compile_scorer(model, "binary", explained_top=0)
        for one in lessons[begin : begin + REFIT_EVERY]:
            answer = scorer(one.features)
            evaluation.update(one.label, Served("", answer.prediction, answer.probabilities))
    return float(evaluation.report()["overall"]["model"]["average_precision"])


def _fraud_lessons(rows: int, delay: int) -> Iterator[Lesson]:
    left_out = ("CUSTOMER_ID", "TERMINAL_ID", "TX_TIME_SECONDS", "TX_FRAUD", "TX_FRAUD_SCENARIO")
    with gzip.open(FRAUD, "rt") as lines:
        for i, row in enumerate(islice(csv.DictReader(lines), rows)):
            label = bool(int(float(row["TX_FRAUD"])))
            x = {name: float(value) for name, value in row.items() if name not in left_out}
            yield Lesson(i, i * 1_000, (i + delay) * 1_000, x, label)


if __name__ == "__main__":
    _worker(*sys.argv[1:])
