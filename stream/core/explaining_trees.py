"""Walks through Hoeffding trees that give the vote and, on demand, the contributions along the path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from river import forest, tree
from river.tree.nodes.branch import DTBranch, NumericBinaryBranch

from stream.core.accelerating_trees import leaf_reader

__all__ = ["LEAF", "ClassifierWalk", "RegressorWalk", "forest_vote", "tree_vote"]

LEAF = "(leaf)"

Explain = Callable[[Any, float], tuple[float, dict[str, float]]]  # (class, its probability) -> bias, contributions
ClassifierWalk = Callable[[dict[str, Any]], tuple[dict[Any, float], Explain | None]]
Path = list[tuple[str | None, Any]]  # (feature split on to get here, node), from the root to the leaf


def _path(root: Any, x: dict[str, Any]) -> Path:
    """From the root to the leaf; where a value has no branch, the most travelled one, as River does."""
    node = root
    path: Path = [(None, root)]
    while isinstance(node, DTBranch):
        feature = node.feature
        try:
            node = node.children[node.branch_no(x)]
        except KeyError:
            _, node = node.most_common_path()
        path.append((feature, node))
    return path


def _share(stats: dict[Any, float], label: Any) -> float:
    total = sum(stats.values())
    return stats.get(label, 0.0) / total if total > 0 else 0.0


def _along(path: Path, label: Any) -> tuple[float, float, dict[str, float]]:
    """The root's share (the bias), the last one, and what each split on the way added."""
    bias = share = _share(path[0][1].stats, label)
    contributions: dict[str, float] = {}
    for feature, node in path[1:]:
        before, share = share, _share(node.stats, label)
        name = str(feature)
        contributions[name] = contributions.get(name, 0.0) + share - before
    return bias, share, contributions


class _LeafOf:
    """A leaf of a tree that no longer changes: how to read it, and what the way to it explains, once per class."""

    def __init__(self, model: Any, path: Path) -> None:
        self._path = path
        self._explained: dict[Any, tuple[float, float, dict[str, float]]] = {}
        self.read = leaf_reader(path[-1][1], model)

    def explain(self, label: Any, probability: float) -> tuple[float, dict[str, float]]:
        found = self._explained.get(label)
        if found is None:
            found = self._explained[label] = _along(self._path, label)
        bias, share, contributions = found
        return bias, {**contributions, LEAF: probability - share}


def tree_vote(model: Any) -> ClassifierWalk:
    """One tree. A plain Hoeffding tree's vote comes from the same walk; the others' votes are River's own."""
    plain = type(model) in (tree.HoeffdingTreeClassifier, forest.adaptive_random_forest.BaseTreeClassifier)
    nothing = dict.fromkeys(sorted(model.classes), 0.0)
    root = model._root
    leaves: dict[int, _LeafOf] = {}

    def leaf_for(x: dict[str, Any]) -> _LeafOf:
        node = root
        try:
            while type(node) is NumericBinaryBranch:
                node = node.children[0 if x[node.feature] <= node.threshold else 1]
            return leaves[id(node)]
        except (KeyError, TypeError):  # not met yet, another kind of branch, or a missing feature
            path = _path(root, x)
            known = leaves.get(id(path[-1][1]))
            if known is None:
                known = leaves[id(path[-1][1])] = _LeafOf(model, path)
            return known

    def walk(x: dict[str, Any]) -> tuple[dict[Any, float], Explain | None]:
        if root is None:
            return model.predict_proba_one(x), None
        leaf = leaf_for(x)
        probabilities = nothing | leaf.read(x) if plain else model.predict_proba_one(x)
        return probabilities, leaf.explain

    return walk


def forest_vote(model: Any) -> ClassifierWalk:
    """A forest or bag of classification trees: the members' votes, weighted as River weighs them."""
    walks = [tree_vote(member) for member in model]
    weighted = type(model) is forest.ARFClassifier and not model.disable_weighted_vote
    accuracies = [metric.get() for metric in model._metrics] if weighted else []
    weights = [accuracy if accuracy > 0.0 else 1.0 for accuracy in accuracies] or [1.0] * len(walks)

    def vote(x: dict[str, Any]) -> tuple[dict[Any, float], Explain | None]:
        votes: dict[Any, float] = {}
        members = []
        for walk, weight in zip(walks, weights, strict=True):
            probabilities, explain = walk(x)
            for label, p in probabilities.items():
                votes[label] = votes.get(label, 0.0) + p * weight
            members.append((weight, probabilities, explain))
        total = sum(votes.values())
        if total > 0:
            votes = {label: p / total for label, p in votes.items()}
        return votes, lambda label, probability: _mean(members, label, probability, total)

    return vote


def _mean(members: list[Any], label: Any, probability: float, total: float) -> tuple[float, dict[str, float]]:
    bias = 0.0
    contributions: dict[str, float] = {}
    for weight, probabilities, explain in members:
        share = weight / total if total > 0 else 0.0
        p = probabilities.get(label, 0.0)
        member_bias, member = explain(label, p) if explain is not None else (p, {})
        bias += share * member_bias
        for name, value in member.items():
            contributions[name] = contributions.get(name, 0.0) + share * value
    # What rounding or a binary renormalisation leaves over belongs to the leaves.
    contributions[LEAF] = contributions.get(LEAF, 0.0) + probability - bias - sum(contributions.values())
    return bias, contributions


class RegressorWalk:
    """One regression tree: the mean along the path, and what the leaf's model adds."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, x: dict[str, Any]) -> tuple[float, float, dict[str, float]]:
        """Prediction, bias, contributions."""
        value = float(self._model.predict_one(x))
        if self._model._root is None:
            return value, 0.0, {}
        path = _path(self._model._root, x)
        bias = before = _node_mean(path[0][1])
        contributions: dict[str, float] = {}
        for feature, node in path[1:]:
            mean = _node_mean(node)
            name = str(feature)
            contributions[name] = contributions.get(name, 0.0) + mean - before
            before = mean
        contributions[LEAF] = value - before
        return value, bias, contributions


def _node_mean(node: Any) -> float:
    return float(node.stats.mean.get())
