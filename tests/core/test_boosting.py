"""Boosted trees without LightGBM give LightGBM's own numbers, and fit into everything that a live model goes through."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import preprocessing

from stream import flat_trees
from stream.boosting import BoostedClassifier, BoostedRegressor, is_batch_trained
from stream.core.accelerating import compile_learner
from stream.core.digest import state_digest
from stream.core.explaining import compile_scorer
from stream.core.guarding import first_not_finite
from stream.core.lean_pickle import dump_model, load_model
from stream.core.learning import LearnStep
from stream.core.rehearsing import rehearse
from stream.errors import ConfigurationError, SnapshotRefused, UpdateRefused
from stream.flat_trees import FlatTrees, parse_trees
from tests.support.records import pipeline_of

TASKS = ("binary", "multiclass", "regression")


def table(n: int, seed: int = 0, missing: float = 0.1) -> tuple[list[dict[str, Any]], list[float]]:
    """Numbers (some missing), texts (some rare, some missing), booleans; and a hidden number that depends on them."""
    rng = random.Random(seed)
    rows, hidden = [], []
    for _ in range(n):
        x: dict[str, Any] = {
            "a": rng.gauss(0, 1),
            "b": rng.expovariate(1),
            "n": rng.randrange(5),
            "on": rng.random() < 0.3,
        }
        x["text"] = rng.choice(["u", "v", "w"] + [f"rare-{i}" for i in range(40)]) if rng.random() < 0.9 else None
        hidden.append(x["a"] * (1 if x["text"] in ("u", "v") else -1) + 0.3 * x["n"] * x["on"] + rng.gauss(0, 0.3))
        for name in ("a", "b"):
            if rng.random() < missing:
                x[name] = None
        rows.append(x)
    return rows, hidden


def labels_of(task: str, hidden: list[float]) -> list[Any]:
    if task == "binary":
        return [value > 0.5 for value in hidden]
    if task == "multiclass":
        return ["low" if value < -0.5 else "middle" if value < 0.5 else "high" for value in hidden]
    return hidden


def fitted(
    task: str, n: int = 1_500, seed: int = 0, missing: float = 0.1, **params: Any
) -> tuple[Any, list[dict[str, Any]]]:
    rows, hidden = table(n, seed, missing)
    model = BoostedRegressor(**params) if task == "regression" else BoostedClassifier(**params)
    model.fit(rows, labels_of(task, hidden))
    assert model.fitted
    return model, rows


def theirs(model: Any, rows: list[dict[str, Any]], *, raw: bool = True) -> Any:
    booster = lightgbm.Booster(model_str=model.text)
    found = booster.predict(np.array([model.inputs(x) for x in rows]), raw_score=raw, num_threads=1)
    return found.reshape(len(rows), -1)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_scores_are_lightgbms_own_to_the_last_bit(task: str, missing: float):
    model, _ = fitted(task, missing=missing)
    rows, _ = table(500, seed=9, missing=0.3)  # missing also where training saw none
    rows += [{}, {"text": "never seen", "a": 1e300, "b": -1e300}, {"a": 0.0, "n": -0.0}]
    assert [model.flat().raw(model.inputs(x)) for x in rows] == theirs(model, rows).tolist()


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 40), st.sampled_from(TASKS), st.integers(25, 300), st.data())
def test_any_model_on_any_values(seed: int, leaves: int, task: str, n: int, data: st.DataObject):
    rows, hidden = table(n, seed, missing=random.Random(seed).choice([0.0, 0.3]))
    labels = labels_of(task, hidden)
    model = (BoostedRegressor if task == "regression" else BoostedClassifier)(
        trees=5, leaves=leaves, min_rows=2, seed=seed
    )
    model.fit(rows, labels)
    if not model.fitted:
        assert len(set(labels)) < 2
        return
    numbers = st.one_of(st.none(), st.floats(allow_nan=False, width=64), st.sampled_from([one.threshold[0] for one in model.flat().trees if one.threshold] or [0.0]))  # fmt: skip
    some = st.fixed_dictionaries(
        {"a": numbers, "b": numbers, "n": numbers, "text": st.sampled_from(["u", "rare-3", "?", None])}
    )
    xs = data.draw(st.lists(some, min_size=1, max_size=10))
    flat = model.flat()
    expected = theirs(model, xs)
    for x, raw in zip(xs, expected.tolist(), strict=True):
        row = model.inputs(x)
        assert flat.raw(row) == raw
        assert flat.sums(flat._walk(row)) == raw  # the loop that very deep trees need


def test_trees_too_deep_to_write_out_are_walked(monkeypatch: pytest.MonkeyPatch):
    model, rows = fitted("regression", leaves=60, seed=11)
    assert model.flat().leaves != model.flat()._walk
    parse_trees.cache_clear()
    monkeypatch.setattr(flat_trees, "DEPTH_MAX", 5)
    flat = model.flat()
    assert flat.leaves == flat._walk
    assert [flat.raw(model.inputs(x)) for x in rows] == theirs(model, rows).tolist()
    parse_trees.cache_clear()


@pytest.mark.parametrize("task", TASKS)
def test_probabilities_are_lightgbms_and_contributions_add_up(task: str):
    model, rows = fitted(task)
    scorer = compile_scorer(model, task, explained_top=3)
    plain = compile_scorer(model, task, explained_top=0)
    expected = theirs(model, rows[:200], raw=False).tolist()
    for x, theirs_ in zip(rows[:200], expected, strict=True):
        answer = scorer(x)
        assert (plain(x).prediction, plain(x).probabilities) == (answer.prediction, answer.probabilities)
        explanation = answer.explanation
        total = explanation.bias + sum(part for _, part in explanation.contributions) + explanation.rest
        assert len(explanation.contributions) == 3
        if task == "regression":
            assert answer.prediction == theirs_[0] == model.predict_one(x)
            assert total == pytest.approx(answer.prediction, abs=1e-12)
            continue
        assert list(answer.probabilities.values()) == pytest.approx(
            [1 - theirs_[0], theirs_[0]] if task == "binary" else theirs_, abs=1e-12
        )
        assert model.predict_proba_one(x)[answer.prediction] == pytest.approx(
            max(answer.probabilities.values()), abs=1e-12
        )
        if task == "binary":
            assert total == pytest.approx(math.log(theirs_[0] / (1 - theirs_[0])), abs=1e-9)
        else:
            at = model.classes.index(answer.prediction)
            assert total == pytest.approx(model.flat().raw(model.inputs(x))[at], abs=1e-12)


def test_what_matters_is_what_the_explanation_names():
    rng = random.Random(1)
    rows = [{"noise": rng.gauss(0, 1), "signal": rng.gauss(0, 1)} for _ in range(1_000)]
    model = BoostedClassifier(trees=30)
    model.fit(rows, [x["signal"] > 0 for x in rows])
    scorer = compile_scorer(model, "binary", explained_top=1)
    assert all(scorer(x).explanation.contributions[0][0] == "signal" for x in rows[:100])
    assert scorer({"noise": 0.0, "signal": 2.0}).explanation.contributions[0][1] > 0


@pytest.mark.parametrize("task", TASKS)
def test_a_snapshot_is_the_same_model(task: str):
    model, rows = fitted(task, online_layer=True)
    twin, _ = fitted(task, online_layer=True)
    assert dump_model(model) == dump_model(twin)
    again = load_model(dump_model(model))
    assert state_digest(model) == state_digest(twin) == state_digest(again)
    label = labels_of(task, [0.9])[0]
    learner, other = compile_learner(model, task), compile_learner(again, task)
    for x in rows[:50]:
        learner.learn(x, label)
        other.learn(x, label)
    assert state_digest(model) == state_digest(again) != state_digest(twin)
    assert compile_scorer(model, task, explained_top=5)(rows[0]) == compile_scorer(again, task, explained_top=5)(
        rows[0]
    )
    assert first_not_finite(model) is None


def test_frozen_trees_learn_nothing():
    model, rows = fitted("binary")
    before = state_digest(model)
    for x in rows[:20]:
        model.learn_one(x, True)
    assert state_digest(model) == before


def test_the_layer_follows_a_shift_and_keeps_the_order():
    """Positives become three times as rare: probabilities follow, the ranking stays that of the trees."""
    rng = random.Random(3)
    model, _ = fitted("binary", online_layer=True, online_rate=0.02, missing=0.0)
    rows, hidden = table(6_000, seed=5, missing=0.0)
    kept = [(x, y) for x, y in zip(rows, labels_of("binary", hidden), strict=True) if not y or rng.random() < 0.33]
    frozen = load_model(dump_model(model))
    losses = {"frozen": 0.0, "layer": 0.0}
    for number, (x, y) in enumerate(kept):
        if number >= 2_000:
            for name, one in (("frozen", frozen), ("layer", model)):
                losses[name] -= math.log(max(one.predict_proba_one(x)[y], 1e-9))
        model.learn_one(x, y)
    assert losses["layer"] < 0.97 * losses["frozen"]
    some = rows[:200]
    assert sorted(range(200), key=lambda i: model.predict_proba_one(some[i])[True]) == sorted(
        range(200), key=lambda i: frozen.predict_proba_one(some[i])[True]
    )


def test_a_regressors_layer_follows_its_mean_error():
    model, rows = fitted("regression", online_layer=True, online_rate=0.05)
    for x in rows[:300]:
        model.learn_one(x, load_model(dump_model(model)).flat().raw(model.inputs(x))[0] + 7.0)
    assert model.intercept["value"] == pytest.approx(7.0, abs=0.01)
    with pytest.raises(UpdateRefused):
        model.learn_one(rows[0], math.inf)
    assert first_not_finite(model) is None


@pytest.mark.parametrize("task", TASKS)
def test_before_it_is_fitted_it_answers_with_the_prior(task: str):
    def build(params: dict[str, Any]) -> Any:
        return (BoostedRegressor if task == "regression" else BoostedClassifier)(seed=params["seed"])

    pipeline = pipeline_of(task=task, model=build, features={"amount": float, "country": str})
    assert rehearse(pipeline) == []  # what `driftloop check` does
    model = build({"seed": 1})
    for y in labels_of(task, [0.9, 0.9, 0.0]):
        model.learn_one({"amount": 1.0}, y)
    answer = compile_scorer(model, task, explained_top=5)({"amount": 2.0})
    if task == "regression":
        assert answer.prediction == pytest.approx(0.6)
    else:
        assert max(answer.probabilities.values()) == pytest.approx(2 / 3)


def test_one_class_alone_leaves_it_unfitted():
    rows, _ = table(50)
    model = BoostedClassifier()
    model.fit(rows, [False] * 50)
    assert not model.fitted
    assert model.predict_proba_one(rows[0]) == {False: 1.0}


def test_a_live_learner_takes_it_up_from_a_snapshot():
    model, _ = fitted("binary", online_layer=True)
    pipeline = pipeline_of(features={"a": float, "text": str}, entity_features=[], model=lambda params: model)
    step = LearnStep(pipeline, shard=0, keys=[b"k" * 32], configuration="c")
    other = LearnStep(pipeline, shard=0, keys=[b"k" * 32], configuration="c")
    other.restore(step.snapshot().models)
    assert state_digest(other.model) == state_digest(model)


def test_too_few_rows_and_pipelines_are_refused():
    rows, _ = table(19)
    with pytest.raises(ConfigurationError, match="at least 20"):
        BoostedClassifier().fit(rows, [True] * 9 + [False] * 10)
    with pytest.raises(ConfigurationError, match="by themselves"):
        is_batch_trained(preprocessing.StandardScaler() | BoostedClassifier())
    assert is_batch_trained(BoostedRegressor())
    assert not is_batch_trained(preprocessing.StandardScaler())


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("version=v4", "version=v3"),
        lambda text: text.replace("left_child=", "left_child=0 ", 1),
        lambda text: text.replace("split_feature=", "split_feature=99 ", 1),
        lambda text: text.replace("leaf_value=", "leaf_value=nan ", 1),
        lambda text: text.replace("is_linear=0", "is_linear=1", 1),
        lambda text: "__import__('os')",
        lambda text: "",
    ],
)  # fmt: skip
def test_a_damaged_text_is_refused(damage: Any):
    model, _ = fitted("binary", trees=4, leaves=8)
    text = damage(model.text)
    assert text != model.text
    with pytest.raises(SnapshotRefused):
        parse_trees(text)


def test_texts_are_parsed_once_per_process():
    model, _ = fitted("binary", trees=3)
    assert isinstance(model.flat(), FlatTrees)
    assert load_model(dump_model(model)).flat() is model.flat()


def test_a_worker_needs_no_lightgbm(tmp_path: Path):
    model, rows = fitted("binary")
    (tmp_path / "model").write_bytes(dump_model(model))
    expected = compile_scorer(model, "binary", explained_top=5)(rows[0])
    code = (
        "import sys; sys.modules['lightgbm'] = sys.modules['optuna'] = None\n"
        "import stream.worker.app\n"
        "from stream.core.lean_pickle import load_model\n"
        "from stream.core.explaining import compile_scorer\n"
        "model = load_model(open(sys.argv[1], 'rb').read())\n"
        f"print(compile_scorer(model, 'binary', explained_top=5)({rows[0]!r}) )"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(expected)
