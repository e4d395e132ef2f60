"""The fused learner is River's, bit for bit."""

import math
from contextlib import suppress

import pytest
from river import anomaly, datasets, linear_model, optim, preprocessing, tree

from stream.core.accelerating import _Fused, _Plain, compile_learner
from stream.core.accelerating_trees import TreeLearner, leaf_reader
from stream.core.digest import state_digest
from stream.core.lean_pickle import dump_model, load_model
from stream.errors import UpdateRefused


def logistic():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.03))


def linear():
    return preprocessing.StandardScaler() | linear_model.LinearRegression(optim.SGD(0.01), clip_gradient=50)


def numeric(pairs):
    return [({k: v for k, v in x.items() if not isinstance(v, str)}, y) for x, y in pairs]


@pytest.mark.parametrize(
    ("build", "dataset", "task"),
    [(logistic, datasets.Phishing, "binary"), (linear, datasets.ChickWeights, "regression")],
)
def test_the_fused_learner_leaves_the_state_that_river_would(build, dataset, task):
    river_model, fused_model = build(), build()
    learner = compile_learner(fused_model, task)
    assert isinstance(learner, _Fused)
    for i, (x, y) in enumerate(numeric(dataset())):
        river_model.learn_one(x, y)
        learner.learn(x, y)
        if i % 97 == 0:
            learner.sync()
            assert state_digest(fused_model) == state_digest(river_model)
    learner.sync()
    assert state_digest(fused_model) == state_digest(river_model)


def test_it_goes_on_after_a_snapshot():
    river_model, fused_model = logistic(), logistic()
    pairs = list(datasets.Phishing())
    learner = compile_learner(fused_model, "binary")
    for x, y in pairs[:300]:
        river_model.learn_one(x, y)
        learner.learn(x, y)
    learner.sync()
    again = load_model(dump_model(fused_model))
    learner = compile_learner(again, "binary")
    for x, y in pairs[300:]:
        river_model.learn_one(x, y)
        learner.learn(x, y)
    learner.sync()
    assert state_digest(again) == state_digest(river_model)


def test_another_set_of_features_falls_back_to_river():
    river_model, fused_model = logistic(), logistic()
    learner = compile_learner(fused_model, "binary")
    examples = [
        ({"a": 1.0, "b": 2.0}, True),
        ({"a": 2.0}, False),
        ({"b": 0.5, "a": 3.0}, True),
        ({"a": 1.5, "b": 1.0}, False),
    ]
    for x, y in examples * 5:
        river_model.learn_one(x, y)
        learner.learn(x, y)
    learner.sync()
    assert state_digest(fused_model) == state_digest(river_model)


def test_an_update_that_breaks_a_weight_changes_nothing():
    model = linear()
    model["LinearRegression"].clip_gradient = math.inf
    learner = compile_learner(model, "regression")
    for i in range(20):
        learner.learn({"a": float(i % 3)}, 1.0)
    learner.sync()
    before = state_digest(model)
    with pytest.raises(UpdateRefused):
        learner.learn({"a": 1.0}, math.inf)
    learner.sync()
    assert state_digest(model) == before


@pytest.mark.parametrize(
    "model",
    [
        linear_model.LogisticRegression(),
        preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.Adam()),
        preprocessing.StandardScaler() | linear_model.LogisticRegression(l2=0.1),
        tree.HoeffdingTreeRegressor(),
    ],
)
def test_any_other_model_learns_with_river(model):
    assert type(compile_learner(model, "binary")) is _Plain


def test_an_anomaly_detector_learns_without_the_label():
    model = anomaly.HalfSpaceTrees(seed=1)
    before = state_digest(model)
    compile_learner(model, "anomaly").learn({"a": 0.3}, True)
    assert state_digest(model) != before


TREES = {
    "default": lambda: tree.HoeffdingTreeClassifier(grace_period=50, tau=0.5),
    "shallow": lambda: tree.HoeffdingTreeClassifier(grace_period=50, max_depth=2, tau=0.5),
    "majority leaves": lambda: tree.HoeffdingTreeClassifier(grace_period=50, leaf_prediction="mc", tau=0.5),
    "bayes leaves": lambda: tree.HoeffdingTreeClassifier(grace_period=50, leaf_prediction="nb", tau=0.5),
    "small memory": lambda: tree.HoeffdingTreeClassifier(grace_period=50, memory_estimate_period=100, max_size=0.01, tau=0.5),
    "gini": lambda: tree.HoeffdingTreeClassifier(grace_period=50, split_criterion="gini", merit_preprune=False, tau=0.5),
    "histograms": lambda: tree.HoeffdingTreeClassifier(grace_period=50, splitter=tree.splitter.HistogramSplitter(), tau=0.5),
}  # fmt: skip
STREAMS = {
    "binary": lambda: list(datasets.Phishing()),
    "seven classes": lambda: list(datasets.ImageSegments().take(1_500)),
    "numbers and words": lambda: [({**x, "word": "ab"[i % 2]}, y) for i, (x, y) in enumerate(datasets.Phishing())],
    "missing values": lambda: [
        ({k: None if (i + len(k)) % 7 == 0 else v for k, v in x.items()}, y)
        for i, (x, y) in enumerate(datasets.Phishing())
    ],
    "missing features": lambda: [
        ({k: v for k, v in x.items() if (i + len(k)) % 11}, y) for i, (x, y) in enumerate(datasets.Phishing())
    ],
    "a class that comes late": lambda: [(x, "c" if i > 700 and i % 5 == 0 else str(y)) for i, (x, y) in enumerate(datasets.Phishing())],
    "constant": lambda: [({"a": 1.0, "b": 0.0}, i % 3 == 0) for i in range(400)],
}  # fmt: skip


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("stream", STREAMS)
def test_a_tree_learns_as_river_would(kind, stream):
    rivers, ours = TREES[kind](), TREES[kind]()
    learner = compile_learner(ours, "binary")
    assert isinstance(learner, TreeLearner)
    for i, (x, y) in enumerate(STREAMS[stream]()):
        failed = []
        for learn in (rivers.learn_one, learner.learn):
            try:
                learn(dict(x), y)
            except TypeError as error:  # a histogram of missing values
                failed.append(str(error))
        assert len(failed) in (0, 2)
        if i % 97 == 0:
            assert state_digest(ours) == state_digest(rivers)
    assert state_digest(ours) == state_digest(rivers)


def test_a_tree_goes_on_after_a_snapshot_in_the_middle():
    rivers, ours = TREES["default"](), TREES["default"]()
    learner = compile_learner(ours, "binary")
    for i, (x, y) in enumerate(datasets.ImageSegments().take(1_500)):
        rivers.learn_one(x, y)
        learner.learn(x, y)
        if i % 400 == 0:
            ours = load_model(dump_model(ours))
            learner = compile_learner(ours, "binary")
    assert state_digest(ours) == state_digest(rivers)
    assert rivers.n_branches > 3


@pytest.mark.parametrize("stream", STREAMS)
def test_a_leaf_is_read_as_river_would(stream):
    model = tree.HoeffdingTreeClassifier(grace_period=50, tau=0.5)
    pairs = STREAMS[stream]()
    for x, y in pairs[: len(pairs) // 2]:
        with suppress(TypeError):  # River's naive Bayes does not take a missing value
            model.learn_one(x, y)
    readers = {}
    compared = 0
    for x, _ in pairs[len(pairs) // 2 :]:
        try:
            leaf = model._root if not hasattr(model._root, "traverse") else model._root.traverse(x)
            expected = leaf.prediction(x, tree=model)
        except TypeError:
            continue
        read = readers.setdefault(id(leaf), leaf_reader(leaf, model))
        assert read(x) == expected
        compared += 1
    assert compared > 100


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_block_is_learned_as_its_examples_singly(size: int):
    single, block = logistic(), logistic()
    pairs = list(datasets.Phishing())
    one, other = compile_learner(single, "binary"), compile_learner(block, "binary")
    assert not other.learn_block(pairs[:1])  # which features there are is seen with the first
    for x, y in pairs:
        one.learn(x, y)
    other.learn(*pairs[0])
    for at in range(1, len(pairs), size):
        assert other.learn_block(pairs[at : at + size])
    one.sync()
    other.sync()
    assert state_digest(block) == state_digest(single)


@pytest.mark.parametrize("bad", [{"a": 1e300}, {"a": None}, {"b": 1.0}, {"a": 1.0, "b": 1.0}])
def test_of_a_block_with_a_bad_example_nothing_is_learned(bad: dict):
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    learner = compile_learner(model, "binary")
    learner.learn({"a": 1.0}, True)
    learner.sync()
    before = state_digest(model)
    assert not learner.learn_block([({"a": 2.0}, False), (bad, True), ({"a": 3.0}, True)])
    learner.sync()
    assert state_digest(model) == before


def test_other_models_learn_singly():
    pairs = list(datasets.Phishing())[:20]
    for model, task in ((tree.HoeffdingTreeClassifier(), "binary"), (anomaly.HalfSpaceTrees(), "anomaly")):
        before = state_digest(model)
        assert not compile_learner(model, task).learn_block(pairs)
        assert state_digest(model) == before
