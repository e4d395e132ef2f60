"""LightGBM's text format without LightGBM: parsed to arrays and evaluated in Python, to the same last bits.

Decisions are those of LightGBM's `Tree::NumericalDecision` and `Tree::CategoricalDecision` (include/LightGBM/tree.h):
a missing value goes the split's default way where training saw missing values, else it counts as 0; a category that is
not among a split's goes right. Scores are summed tree by tree in the order of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from stream.errors import SnapshotRefused

__all__ = ["FlatTree", "FlatTrees", "parse_trees"]

CATEGORICAL, DEFAULT_LEFT, MISSING_SHIFT = 1, 2, 2
NONE, ZERO, NAN = 0, 1, 2
DEPTH_MAX = 40  # Python's own compiler gives up on deeper nests of conditions
LEAVES_MAX = 20_000  # of written-out code; beyond that the loop walks
CACHED = 16

Leaves = Callable[[list[float]], tuple[int, ...]]


class FlatTree(NamedTuple):
    """One tree. Children: a node's number, or ~number of a leaf."""

    feature: list[int]
    threshold: list[float]
    categories: list[frozenset[float] | None]
    default_left: list[bool]
    missing: list[int]
    left: list[int]
    right: list[int]
    value: list[float]
    rows: list[float]  # of the training data, in each leaf


class FlatTrees:
    """All trees of a model.

    Args:
        trees: in the order of training; tree i belongs to output i % outputs.
        outputs: 1, or the number of classes.
        features: how many features an input has.
        sigmoid: binary: what the raw score is multiplied with to give log odds.
    """

    def __init__(self, trees: list[FlatTree], outputs: int, features: int, sigmoid: float) -> None:
        self.trees, self.outputs, self.features, self.sigmoid = trees, outputs, features, sigmoid
        self.values = [value for one in trees for value in one.value]
        self.roots = [0 if one.feature else -1 for one in trees]
        self.starts = list(np.cumsum([0, *(len(one.value) for one in trees)])[:-1].tolist())
        deep = max((_depth(one) for one in trees), default=0)
        self.leaves: Leaves = self._walk if deep > DEPTH_MAX or len(self.values) > LEAVES_MAX else _written_out(self)
        self._parts: Any = None

    def raw(self, x: list[float]) -> list[float]:
        """The raw score of each output; `x` has a number or NaN for every feature."""
        return self.sums(self.leaves(x))

    def sums(self, leaves: tuple[int, ...]) -> list[float]:
        values, outputs = self.values, self.outputs
        if outputs == 1:
            total = 0.0
            for leaf in leaves:
                total += values[leaf]
            return [total]
        totals = [0.0] * outputs
        for number, leaf in enumerate(leaves):
            totals[number % outputs] += values[leaf]
        return totals

    def parts(self, leaves: tuple[int, ...], output: int) -> tuple[float, list[float]]:
        """Bias and each feature's contribution to the raw score of one output (Saabas 2014): a split moves the mean of the
        training examples below it, and the move belongs to its feature. They add up to the raw score."""
        if self._parts is None:
            self._parts = _contributions(self)
        matrix, biases = self._parts
        mine = leaves[output :: self.outputs]
        return biases[output], matrix[list(mine)].sum(axis=0).tolist()

    def _walk(self, x: list[float]) -> tuple[int, ...]:
        return tuple(start + _leaf(one, x) for start, one in zip(self.starts, self.trees, strict=True))


def _leaf(one: FlatTree, x: list[float]) -> int:
    node = 0 if one.feature else -1
    while node >= 0:
        node = one.left[node] if _goes_left(one, node, x[one.feature[node]]) else one.right[node]
    return ~node


def _goes_left(one: FlatTree, node: int, value: float) -> bool:
    categories = one.categories[node]
    if categories is not None:
        return value in categories
    if value != value:
        if one.missing[node] == NAN:
            return one.default_left[node]
        value = 0.0
    return value <= one.threshold[node]


# -- straight-line code --------------------------------------------------------------------------------------------------


def _written_out(flat: FlatTrees) -> Leaves:
    """All trees as nested conditions: about three times as fast as a loop over arrays. It holds numbers only."""
    known: dict[str, Any] = {"inf": math.inf}
    bodies = [_nested(one, start, known) for one, start in zip(flat.trees, flat.starts, strict=True)]
    text = "".join(bodies)
    used = [f for f in range(flat.features) if f"x{f}_" in text or f"z{f}_" in text]
    lines = [f"    x{f}_ = z{f}_ = x[{f}]\n    if x{f}_ != x{f}_: z{f}_ = 0.0" for f in used]
    source = "def made(x):\n" + "\n".join(lines) + "\n    return (" + "".join(f"{b},\n" for b in bodies) + ")\n"
    exec(compile(source, "<trees>", "exec"), known)
    made: Leaves = known["made"]
    return made


def _nested(one: FlatTree, start: int, known: dict[str, Any]) -> str:
    def text(node: int) -> str:
        if node < 0:
            return str(start + ~node)
        feature, threshold = one.feature[node], one.threshold[node]
        categories = one.categories[node]
        if categories is not None:
            name = f"c{len(known)}"
            known[name] = categories
            condition = f"x{feature}_ in {name}"
        elif one.missing[node] == NAN:
            # A comparison with NaN is false: which one is written decides where it goes.
            condition = f"not x{feature}_>{threshold!r}" if one.default_left[node] else f"x{feature}_<={threshold!r}"
        else:
            condition = f"z{feature}_<={threshold!r}"
        return f"({text(one.left[node])} if {condition} else {text(one.right[node])})"

    return text(0 if one.feature else -1)


def _depth(one: FlatTree) -> int:
    deepest, todo = 0, [(0 if one.feature else -1, 0)]
    while todo:
        node, depth = todo.pop()
        deepest = max(deepest, depth)
        if node >= 0:
            todo += [(one.left[node], depth + 1), (one.right[node], depth + 1)]
    return deepest


def _contributions(flat: FlatTrees) -> tuple[Any, list[float]]:
    """Leaf by feature, and the bias of each output."""
    matrix = np.zeros((len(flat.values), flat.features))
    biases = [0.0] * flat.outputs
    for number, one in enumerate(flat.trees):
        start = flat.starts[number]
        means = _means(one)
        root = 0 if one.feature else -1
        biases[number % flat.outputs] += means[root]
        todo: list[tuple[int, list[tuple[int, float]]]] = [(root, [])]
        while todo:
            node, moves = todo.pop()
            if node < 0:
                for feature, move in moves:
                    matrix[start + ~node, feature] += move
                continue
            for child in (one.left[node], one.right[node]):
                todo.append((child, [*moves, (one.feature[node], means[child] - means[node])]))
    return matrix, biases


def _means(one: FlatTree) -> dict[int, float]:
    """The mean score of the training examples below each node; leaves by ~number."""
    means = {~leaf: value for leaf, value in enumerate(one.value)}
    counts = {~leaf: count for leaf, count in enumerate(one.rows)}
    order, todo = [], [0] if one.feature else []
    while todo:
        node = todo.pop()
        order.append(node)
        todo += [child for child in (one.left[node], one.right[node]) if child >= 0]
    for node in reversed(order):
        left, right = one.left[node], one.right[node]
        counts[node] = counts[left] + counts[right]
        share = counts[left] / counts[node] if counts[node] else 0.5
        means[node] = share * means[left] + (1.0 - share) * means[right]
    return means


# -- the text ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=CACHED)
def parse_trees(text: str) -> FlatTrees:
    """Read a model as `Booster.model_to_string()` writes it (version v4). The result is shared: do not change it.

    Raises SnapshotRefused for what is no such text, and for linear trees and zeros that count as missing.
    """
    try:
        heading, *blocks = text.partition("end of trees")[0].split("\nTree=")
        facts = _facts(heading)
        objective = facts["objective"].split()
        sigmoid = next((float(o.partition(":")[2]) for o in objective if o.startswith("sigmoid:")), 1.0)
        trees = [_tree(_facts(block.partition("\n")[2])) for block in blocks]
        outputs, features = int(facts["num_tree_per_iteration"]), int(facts["max_feature_idx"]) + 1
    except (KeyError, ValueError, IndexError) as error:
        raise SnapshotRefused("trees_damaged", f"not LightGBM's text format v4: {error!r}") from None
    whole = "end of trees" in text and len(trees) == len(facts.get("tree_sizes", "").split())
    if facts.get("version") != "v4" or not whole or outputs < 1 or len(trees) % outputs:
        raise SnapshotRefused("trees_damaged", "not a whole model in LightGBM's text format v4")
    if any(not 0 <= feature < features for one in trees for feature in one.feature):
        raise SnapshotRefused("trees_damaged", "a split is on a feature that the model does not have")
    return FlatTrees(trees, outputs, features, sigmoid)


def _facts(block: str) -> dict[str, str]:
    return {name: value for name, equals, value in (line.partition("=") for line in block.splitlines()) if equals}


def _tree(facts: dict[str, str]) -> FlatTree:
    leaves = int(facts["num_leaves"])
    if facts.get("is_linear", "0") != "0":
        raise SnapshotRefused("trees_not_supported", "linear trees are not read: train with linear_tree=False")
    value = _numbers(facts["leaf_value"])
    count = _numbers(facts["leaf_count"]) if facts.get("leaf_count") else [1.0] * leaves
    if leaves == 1:
        return FlatTree([], [], [], [], [], [], [], value[:1], [1.0])
    kinds = _wholes(facts["decision_type"])
    thresholds = [float(part) for part in facts["threshold"].split()]  # infinity: all but missing values go left
    if any(math.isnan(threshold) for threshold in thresholds):
        raise ValueError("a threshold is not a number")
    if any(kind >> MISSING_SHIFT & 3 == ZERO for kind in kinds):
        raise SnapshotRefused("trees_not_supported", "zeros that count as missing are not read: zero_as_missing=False")
    sets = _sets(facts) if int(facts.get("num_cat", "0")) else []
    one = FlatTree(
        _wholes(facts["split_feature"]),
        thresholds,
        [sets[int(t)] if k & CATEGORICAL else None for k, t in zip(kinds, thresholds, strict=True)],
        [bool(kind & DEFAULT_LEFT) for kind in kinds],
        [kind >> MISSING_SHIFT & 3 for kind in kinds],
        _wholes(facts["left_child"]),
        _wholes(facts["right_child"]),
        value,
        count,
    )
    _check(one, leaves)
    return one


def _check(one: FlatTree, leaves: int) -> None:
    """Every node and leaf has exactly one parent: a walk ends."""
    children = sorted([*one.left, *one.right])
    if {len(one.value), len(one.rows)} != {leaves} or children != [*range(-leaves, 0), *range(1, leaves - 1)]:
        raise ValueError("its nodes do not make a tree")
    if any(child >= 0 and child <= node for side in (one.left, one.right) for node, child in enumerate(side)):
        raise ValueError("its nodes do not make a tree")
    if not {len(one.feature), len(one.left), len(one.right), len(one.threshold)} == {leaves - 1}:
        raise ValueError("its nodes do not fit its leaves")


def _sets(facts: dict[str, str]) -> list[frozenset[float]]:
    """The categories that go left, from bit sets of 32."""
    bounds, words = _wholes(facts["cat_boundaries"]), _wholes(facts["cat_threshold"])
    return [
        frozenset(float(32 * i + bit) for i, word in enumerate(words[low:high]) for bit in range(32) if word >> bit & 1)
        for low, high in pairwise(bounds)
    ]


def _numbers(text: str) -> list[float]:
    found = [float(part) for part in text.split()]
    if not np.isfinite(found).all():
        raise ValueError("a number is not finite")
    return found


def _wholes(text: str) -> list[int]:
    return [int(part) for part in text.split()]
