"""Hoeffding trees with adaptive naive Bayes leaves over numbers, learned and read without River's inner calls.

In River such a leaf makes some sixty calls of one line each per example: class by class and feature by feature a splitter
asks a Gaussian, which asks a variance, which asks a mean. Here the same arithmetic, in the same order, runs in one loop
over River's own objects, so the state is River's, bit for bit, after every example. What is out of the ordinary (a first
value, a missing or nominal feature, another kind of leaf) is left to River.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, inf, log, tau
from typing import Any, NamedTuple

from river.tree.nodes.branch import NumericBinaryBranch
from river.tree.nodes.htc_nodes import LeafNaiveBayesAdaptive
from river.tree.splitter import GaussianSplitter

__all__ = ["TreeLearner", "leaf_reader"]

HALF_LOG_TAU = 0.5 * log(tau)
PLANS_MAX = 10_000


class _Plan(NamedTuple):
    """The parts of one leaf, found once."""

    leaf: Any
    splitters: dict[str, Any]
    names: tuple[str, ...]
    # By class, in the splitters' order: (minima, maxima, variance, mean).
    known: dict[Any, list[tuple[dict[Any, float], dict[Any, float], Any, Any]]]


def _plan(leaf: Any) -> _Plan | None:
    """None for a leaf that only River knows how to treat."""
    if type(leaf) is not LeafNaiveBayesAdaptive or not leaf.splitters or leaf._disabled_attrs:
        return None
    splitters = leaf.splitters
    if any(type(splitter) is not GaussianSplitter for splitter in splitters.values()):
        return None
    known: dict[Any, Any] = {}
    for splitter in splitters.values():
        for label, gaussian in splitter._att_dist_per_class.items():
            part = (splitter._min_per_class, splitter._max_per_class, gaussian._var, gaussian._var.mean)
            known.setdefault(label, []).append(part)
    if any(len(parts) != len(splitters) for parts in known.values()):
        return None
    return _Plan(leaf, splitters, tuple(splitters), known)


class TreeLearner:
    """`learn` of a `HoeffdingTreeClassifier`; the tree is River's after every call."""

    refuses = False

    def __init__(self, model: Any) -> None:
        self._model = model
        self._plans: dict[int, _Plan] = {}

    def sync(self) -> None:
        return None

    def learn_block(self, lessons: Sequence[tuple[dict[str, Any], Any]]) -> bool:
        return False

    def learn(self, x: dict[str, Any], y: Any) -> None:
        model = self._model
        branch, number, node = None, 0, model._root
        try:
            while type(node) is NumericBinaryBranch:
                branch, number = node, 0 if x[node.feature] <= node.threshold else 1
                node = branch.children[number]
            plan = self._plan_of(node)
            values = [x[name] for name in plan.names] if plan is not None else []
        except (KeyError, TypeError):  # a missing feature or value
            plan = None
        if plan is None or len(values) != len(x) or y not in plan.known or None in values:
            self._plans.pop(id(node), None)
            model.learn_one(x, y)
            return
        model.classes.add(y)
        model._train_weight_seen_by_model += 1.0
        _judge(node, plan, values, y)
        _update(node, plan, values, y)
        if model._growth_allowed:
            self._grow(node, branch, number)
        if model._train_weight_seen_by_model % model.memory_estimate_period == 0:
            model._estimate_model_size()

    def _plan_of(self, leaf: Any) -> _Plan | None:
        plan = self._plans.get(id(leaf))
        if plan is None or plan.leaf is not leaf or plan.splitters is not leaf.splitters:
            plan = _plan(leaf)
            if plan is not None:
                if len(self._plans) >= PLANS_MAX:  # leaves that have split leave their plans behind
                    self._plans.clear()
                self._plans[id(leaf)] = plan
        return plan

    def _grow(self, leaf: Any, branch: Any, number: int) -> None:
        model = self._model
        if leaf.depth >= model.max_depth:
            leaf.deactivate()
            model._n_active_leaves -= 1
            model._n_inactive_leaves += 1
            return
        weight_seen = leaf.total_weight
        if weight_seen - leaf.last_split_attempt_at >= model.grace_period:
            model._attempt_to_split(leaf, branch, number if branch is not None else None)
            leaf.last_split_attempt_at = weight_seen


def _judge(leaf: Any, plan: _Plan, values: list[float], y: Any) -> None:
    """Which of its two ways of predicting would have been right about this example."""
    stats = leaf.stats
    total = sum(stats.values())
    if not stats:
        leaf._mc_correct_weight += 1.0
        return
    factor = 1 / total if total else 1.0
    shares = {label: weight * factor for label, weight in stats.items()}
    if max(shares, key=shares.__getitem__) == y:
        leaf._mc_correct_weight += 1.0
    if not total:
        return
    votes = {}
    for label, weight in stats.items():
        vote = 0.0
        if weight > 0:
            vote = log(weight / total)
            for value, (_, _, var, mean) in zip(values, plan.known.get(label, ())):  # noqa: B905 - a class may be new
                freedom = mean.n - var.ddof
                if freedom > 0:
                    variance = var._S / freedom
                    if variance > 0.0:
                        log_p = (value - mean._mean) ** 2 / (-2.0 * variance) - HALF_LOG_TAU - 0.5 * log(variance)
                        if log_p > -inf:
                            vote += log_p
        votes[label] = vote
    probabilities = _normalised(votes)
    if max(probabilities, key=probabilities.__getitem__) == y:
        leaf._nb_correct_weight += 1.0


def _normalised(votes: dict[Any, float]) -> dict[Any, float]:
    """Log likelihoods to probabilities, by log-sum-exp."""
    highest = max(votes.values())
    total = highest + log(sum([exp(vote - highest) for vote in votes.values()]))
    return {label: exp(vote - total) for label, vote in votes.items()}


def _update(leaf: Any, plan: _Plan, values: list[float], y: Any) -> None:
    stats = leaf.stats
    stats[y] = stats.get(y, 0.0) + 1.0
    for value, (minima, maxima, var, mean) in zip(values, plan.known[y], strict=True):
        if value < minima[y]:
            minima[y] = value
        if value > maxima[y]:
            maxima[y] = value
        before = mean._mean
        mean.n = n = mean.n + 1.0
        mean._mean = after = before + (1.0 / n) * (value - before)
        var._S += (value - before) * (value - after)


def leaf_reader(leaf: Any, model: Any) -> Callable[[dict[str, Any]], dict[Any, float]]:
    """`leaf.prediction` of a tree that no longer changes: what does not depend on the event is computed once."""

    def river(x: dict[str, Any]) -> dict[Any, float]:
        prediction: dict[Any, float] = leaf.prediction(x, tree=model)
        return prediction

    plan = _plan(leaf)
    if plan is None or leaf._nb_correct_weight < leaf._mc_correct_weight or not sum(leaf.stats.values()):
        return river
    total = sum(leaf.stats.values())
    classes = []
    for label, weight in leaf.stats.items():
        terms = []
        for name, (_, _, var, mean) in zip(plan.names, plan.known.get(label, ())):  # noqa: B905 - a class may be new
            freedom = mean.n - var.ddof
            variance = var._S / freedom if freedom > 0 else 0.0
            if variance > 0.0:
                terms.append((name, mean._mean, -2.0 * variance, 0.5 * log(variance)))
        classes.append((label, log(weight / total) if weight > 0 else 0.0, terms if weight > 0 else []))

    def read(x: dict[str, Any]) -> dict[Any, float]:
        votes = {}
        try:
            for label, vote, terms in classes:
                for name, mean, spread, half_log in terms:
                    log_p = (x[name] - mean) ** 2 / spread - HALF_LOG_TAU - half_log
                    if log_p > -inf:
                        vote += log_p
                votes[label] = vote
        except (KeyError, TypeError):  # a feature is missing
            return river(x)
        return _normalised(votes)

    return read
