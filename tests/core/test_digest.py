"""The digest: equal for equal models across processes and hash seeds, and for nothing else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import forest, naive_bayes

from stream.core.digest import state_digest
from stream.core.lean_pickle import dump_model, load_model
from tests.core.test_lean_pickle import stream

SCRIPT = """
from river import forest, linear_model, preprocessing, tree
from stream.core.digest import state_digest
from tests.core.test_lean_pickle import stream
for model in (
    preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    forest.ARFClassifier(n_models=2, seed=3, grace_period=20),
    tree.HoeffdingTreeClassifier(grace_period=20),
):
    for x, y in stream(200):
        model.learn_one(x, y)
    print(state_digest(model))
print(state_digest({"x", "y", "z", ("a", 1)}))
"""


def test_it_is_the_same_in_every_process():
    printed = set()
    for seed in ("0", "1", "77"):
        answer = subprocess.run(
            [sys.executable, "-c", SCRIPT], env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        printed.add(answer.stdout)
    assert len(printed) == 1
    assert len(set(printed.pop().split())) == 4


def test_the_unused_random_state_does_not_count():
    one, other = naive_bayes.GaussianNB(), naive_bayes.GaussianNB()
    for x, y in stream(50):
        one.learn_one(x, y)
        other.learn_one(x, y)
    again = load_model(dump_model(other))
    assert state_digest(one) == state_digest(other) == state_digest(again)


def test_the_used_random_state_counts():
    assert state_digest(forest.ARFClassifier(seed=1)) != state_digest(forest.ARFClassifier(seed=2))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    | st.tuples(inner, inner) | st.frozensets(st.integers() | st.text(max_size=2), max_size=3),
    max_leaves=6,
)  # fmt: skip


def canonical(value: object) -> str:
    """Tells apart what `==` does not: 1, 1.0 and True; -0.0 and 0.0; the order of a dictionary."""
    if isinstance(value, frozenset):
        return f"frozenset({sorted(map(repr, value))})"
    if isinstance(value, dict):
        return "{" + ",".join(f"{canonical(k)}:{canonical(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({','.join(map(canonical, value))})"
    return f"{type(value).__name__}:{value!r}"


@given(VALUES, VALUES)
def test_different_values_have_different_digests(one: object, other: object):
    assert (state_digest(one) == state_digest(other)) == (canonical(one) == canonical(other))


def test_sharing_and_cycles_are_told_apart():
    shared: list[object] = [1]
    cycle: list[object] = []
    cycle.append(cycle)
    digests = {state_digest(v) for v in ([shared, shared], [[1], [1]], cycle, [[]])}
    assert len(digests) == 4


def test_a_deep_object_does_not_end_the_walk():
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert len(state_digest(deep)) == 32


@pytest.mark.parametrize(
    "pair", [(1, True), (1, 1.0), (0.0, -0.0), ("1", 1), (b"a", "a"), ([], ()), ({"a": 1, "b": 2}, {"b": 2, "a": 1})]
)
def test_look_alikes_differ(pair: tuple[object, object]):
    assert state_digest(pair[0]) != state_digest(pair[1])
