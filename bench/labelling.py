"""What asking people for a tenth of the labels brings, by strategy, beside all labels and none; and what asking costs.

No broker is needed: the decisions are those of `core.querying`, over models that learn what was asked, at once. Real streams
are read from `DRIFTLOOP_BENCH_DATA` (default `../shared/data`); where they are missing, their rows are left out.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import msgspec
from river import datasets, forest, linear_model, preprocessing, tree

from bench.drift import DATA, _harvard, elec2
from bench.harness import figure
from stream import Labelling, Pipeline
from stream.core.explaining import compile_scorer
from stream.core.querying import Querying
from stream.core.records import Record
from stream.core.scores import uncertainty_of
from stream.core.scoring import LiveModel, ScoreStep
from stream.messages import ModelRef
from stream.ports import Acquired, Fetched, Lease

__all__ = ["run"]

PER_1000 = 100
STRATEGIES = ("balanced", "variable", "split", "random")
ONCE = "random_once"  # each label learned once, as all labels are
SHORT = 5_000
Row = tuple[dict[str, Any], Any]
Build = Callable[[], Any]


def run(quick: bool) -> None:
    limit = 4_000 if quick else None
    shares: dict[str, list[float]] = {strategy: [] for strategy in (*STRATEGIES, ONCE)}
    for name, stream, models in _streams():
        rows = list(islice(stream, limit))
        seeds = range(
            1, 2 if quick else 11 if len(rows) < SHORT else 3
        )  # on short streams chance is most of a difference
        for model, build in models.items():
            none, full = _accuracy(rows, build, lambda *_: 0), _accuracy(rows, build, lambda *_: 1)
            reached, spent = {}, {}
            for strategy in (*STRATEGIES, ONCE):
                changes = {"learn_times": 1} if strategy == ONCE else {}
                runs = [_asked(rows, build, strategy.removesuffix("_once"), seed, **changes) for seed in seeds]
                reached[strategy] = statistics.fmean(accuracy for accuracy, _ in runs)
                spent[strategy] = statistics.fmean(asked for _, asked in runs)
                assert all(asked <= PER_1000 / 1_000 for _, asked in runs)
                shares[strategy].append((reached[strategy] - none) / (full - none))
            figure(
                f"labelling.gain.{name}.{model}", shares["balanced"][-1], "of the gain of all labels, at 10 % of them",
                no_labels=none, all_labels=full, asked=spent["balanced"], **reached,
            )  # fmt: skip
    for strategy, its in shares.items():
        figure(f"labelling.gain.mean.{strategy}", statistics.fmean(its), "of the gain of all labels", of=len(its))
    _cost()


def _accuracy(rows: list[Row], build: Build, asks: Callable[[int, Any, Any, bool], int]) -> float:
    """`asks`: how often to learn this one, by its number, probabilities, features, and whether the answer was right."""
    model, right = build(), 0
    for number, (x, label) in enumerate(rows):
        p = model.predict_proba_one(x)
        prediction = max(p, key=p.__getitem__) if p else None
        right += prediction == label
        for _ in range(asks(number, p, x, prediction == label)):
            model.learn_one(x, label)
    return right / len(rows)


def _asked(rows: list[Row], build: Build, strategy: Any, seed: int, **changes: Any) -> tuple[float, float]:
    """Accuracy, and the share of events that were asked."""
    labelling = Labelling(strategy=strategy, per_1000=PER_1000, **changes)
    querying = Querying(labelling, seed=seed, partition=0, partitions=1)

    def asks(number: int, p: Any, x: Any, right: bool) -> int:
        uncertainty = uncertainty_of(p, None) if len(p) > 1 else None
        utility = 1.0 if uncertainty is None else querying.utility(uncertainty, len(p))
        asked = querying.decide(number, number, number, utility, 0.0, False, x) is not None
        if asked and uncertainty is not None:
            querying.answered(uncertainty, right=right)
        return labelling.learn_times if asked else 0

    return _accuracy(rows, build, asks), querying.state.asked / len(rows)


def _streams() -> Iterator[tuple[str, Iterator[Row], dict[str, Build]]]:
    two = {"logistic": _logistic, "hoeffding_tree": tree.HoeffdingTreeClassifier, "forest": _forest}
    yield "phishing", ((x, bool(y)) for x, y in datasets.Phishing()), {"logistic": _logistic, "forest": _forest}
    if (DATA / "elec2_electricity.zip").exists():
        yield "elec2", elec2(), two
    else:
        print("labelling.gain.elec2 left out: no data", file=sys.stderr)
    for file in (
        "harvard_sine_0123_abrupto.csv",
        "harvard_stagger_0120_abrupto.csv",
        "harvard_sea_0123_abrupto_noise_0.2.csv",
    ):
        if (DATA / file).exists():
            yield file.split("_")[1], _harvard(DATA / file), two
        else:
            print(f"labelling.gain.{file} left out: no data", file=sys.stderr)
    if (DATA / "interchangingRBF.data").exists():
        yield "rbf_15_classes", islice(_rbf(), 20_000), {"softmax": _softmax, "forest": _forest}
    else:
        print("labelling.gain.rbf left out: no data", file=sys.stderr)


def _rbf() -> Iterator[Row]:
    with (DATA / "interchangingRBF.data").open() as values, (DATA / "interchangingRBF.labels").open() as labels:
        for line, label in zip(values, labels, strict=True):
            x0, x1 = map(float, line.split()[:2])
            yield {"x0": x0, "x1": x1}, label.strip()


def _logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def _softmax() -> Any:
    return preprocessing.StandardScaler() | linear_model.SoftmaxRegression()


def _forest() -> Any:
    return forest.ARFClassifier(n_models=5, seed=1)


def _cost() -> None:
    rng = random.Random(1)
    utilities = [rng.random() ** 3 for _ in range(100_000)]
    x = {"amount": 1.0}
    for strategy in STRATEGIES:
        best = 1e9
        for _ in range(3):
            querying = Querying(Labelling(strategy=strategy, per_1000=PER_1000), seed=1, partition=0, partitions=1)
            started_s = time.process_time()
            for number, utility in enumerate(utilities):
                querying.decide(number, number, number, utility, 0.0, False, x)
            best = min(best, time.process_time() - started_s)
        figure(f"labelling.cost.{strategy}", best / len(utilities) * 1e6, "us per event, the decision alone")
    for per_1000 in (10, PER_1000):
        costs = []
        for _ in range(5):  # alternately, so that a busy machine slows both
            without, with_it = _step_us(None), _step_us(Labelling(per_1000=per_1000))
            costs.append(with_it - without)
        figure(
            f"labelling.cost.step.{per_1000}_per_1000", statistics.median(costs),
            "us of CPU per event in the score step: decision, request, estimate, state", without=without,
        )  # fmt: skip


def _step_us(labelling: Labelling | None, events: int = 20_000, size: int = 1_000) -> float:
    """CPU time of the score step per event, ten features, a linear model that has learned a little."""
    rng = random.Random(3)
    names = [f"f{i}" for i in range(10)]
    pipeline = Pipeline(
        name="b", task="binary", features=dict.fromkeys(names, float), model=lambda _: _logistic(), labelling=labelling
    )
    model = _logistic()
    for _ in range(500):
        x = {name: rng.gauss(0, 1) for name in names}
        model.learn_one(x, x["f0"] + x["f1"] > 0.5)
    scorer = compile_scorer(model, "binary", explained_top=5)
    live = LiveModel(ModelRef("b", "b@0"), scorer)
    step = ScoreStep(pipeline, 0, Acquired(Lease(0, 1, 0, "b"), None, {}, []))
    batches = []
    for start in range(0, events, size):
        batch = []
        for offset in range(start, start + size):
            value = {
                "event_id": f"e{offset}", "occurred_at_ms": offset, "features": {n: rng.gauss(0, 1) for n in names}
            }  # fmt: skip
            batch.append(Record("events", 0, offset, offset, b"k", msgspec.json.encode(value)))
        batches.append(batch)
    started_s = time.process_time()
    for records in batches:
        batch_parsed = step.parse(records)
        needs = step.needs(batch_parsed)
        step.load(needs, Fetched({}, {}, []), batch_parsed)
        step.step(batch_parsed, {}, live)
    return (time.process_time() - started_s) / events * 1e6
