"""Learning at about twice River's speed where River's numbers can be kept bit for bit.

`StandardScaler | LogisticRegression` and `| LinearRegression` with plain SGD, over a fixed set of numeric features, are
learned in one fused loop over flat lists. The arithmetic is River's, operation by operation; the state goes back into
River's own objects at `sync()`, so snapshots and digests cannot tell the difference. Hoeffding trees: see
`accelerating_trees`. Anything else learns with `learn_one`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import exp, isfinite
from textwrap import indent
from typing import Any, Protocol

from river import compose, linear_model, optim, preprocessing, tree

from stream.core.accelerating_trees import TreeLearner
from stream.core.generating import FEATURES_MAX, each, unrolled
from stream.errors import UpdateRefused

__all__ = ["Learner", "compile_learner"]

MODELS = {linear_model.LogisticRegression: optim.losses.Log, linear_model.LinearRegression: optim.losses.Squared}


GRADIENT = "    gradient = gradient_of(y_true=y, y_pred=raw)"
# Of River's `Log` with weights of 1, without the call.
LOG_GRADIENT = f"""
    if y is True:
        sign, z = -1.0, raw
    elif y is False:
        sign, z = 1.0, -raw
    else:
        sign = 0.0
    if not sign:
    {GRADIENT}
    elif z > 18.0:
        gradient = sign * exp(-z)
    elif z < -18.0:
        gradient = sign
    else:
        gradient = sign / (exp(z) + 1.0)"""


class Learner(Protocol):
    """`learn` may keep state outside the model; call `sync` before anybody looks at it."""

    @property
    def refuses(self) -> bool:
        """`learn` sees to it that weights stay finite; else the caller must look."""

    def learn(self, x: dict[str, Any], y: Any) -> None:
        """Raises UpdateRefused when a weight would not be finite; the model is then unchanged."""

    def learn_block(self, lessons: Sequence[tuple[dict[str, Any], Any]]) -> bool:
        """Learn features and labels one after the other. False: nothing was learned, `learn` them singly."""

    def sync(self) -> None: ...


def compile_learner(model: Any, task: str) -> Learner:
    """The fastest exact way to teach this model."""
    if task == "anomaly":
        return _Unsupervised(model)
    steps = list(model.steps.values()) if type(model) is compose.Pipeline else []
    if len(steps) == 2 and _fusable(*steps):
        return _Fused(model, *steps)
    if type(model) is tree.HoeffdingTreeClassifier:
        return TreeLearner(model)
    return _Plain(model)


def _fusable(scaler: Any, final: Any) -> bool:
    loss = MODELS.get(type(final))
    return (
        loss is not None
        and type(scaler) is preprocessing.StandardScaler
        and scaler.with_std
        and scaler.window_size is None
        and type(final.loss) is loss
        and getattr(final.loss, "weight_pos", 1.0) == getattr(final.loss, "weight_neg", 1.0) == 1.0
        and type(final.optimizer) is optim.SGD
        and type(final.optimizer.lr) is optim.schedulers.Constant
        and type(final.intercept_lr) is optim.schedulers.Constant
        and type(final.initializer) is optim.initializers.Zeros
        and not final.l1
        and not final.l2
    )


class _Plain:
    refuses = False

    def __init__(self, model: Any) -> None:
        self._model = model

    def learn(self, x: dict[str, Any], y: Any) -> None:
        self._model.learn_one(x, y)

    def learn_block(self, lessons: Sequence[tuple[dict[str, Any], Any]]) -> bool:
        return False

    def sync(self) -> None:
        return None


class _Unsupervised(_Plain):
    """An anomaly detector learns the event; its label is only judged."""

    def learn(self, x: dict[str, Any], y: Any) -> None:
        self._model.learn_one(x)


class _Fused:
    """Flat state for the features of the first example; another set of features goes back to River for good."""

    def __init__(self, model: Any, scaler: Any, final: Any) -> None:
        self._model, self._scaler, self._final = model, scaler, final
        if model._plan is None:
            model._build_plan()  # River makes this cache at the first learn_one; it is part of the state
        self._names: tuple[str, ...] | None = None
        self._n = 0
        self._means: list[float] = []
        self._vars: list[float] = []
        self._weights: list[float] = []
        self._intercept = 0.0
        self.refuses = True
        self._steps = 0
        self._steps_over: Callable[..., Any] = lambda *_: None
        self._gradient: Callable[..., float] = final.loss.gradient
        self._clip = final.clip_gradient
        self._lr = final.optimizer.lr.learning_rate
        self._intercept_lr = final.intercept_lr.learning_rate

    def learn(self, x: dict[str, Any], y: Any) -> None:
        names = self._names
        if names is None and self.refuses:
            names = self._take(x)
        if tuple(x) != names:
            self._give_back()
            self._model.learn_one(x, y)
            return
        if not self._learned([(x.values(), y)]):
            raise UpdateRefused("a weight would not be finite")

    def learn_block(self, lessons: Sequence[tuple[dict[str, Any], Any]]) -> bool:
        names = self._names
        if names is None or [tuple(x) for x, _ in lessons].count(names) < len(lessons):
            return False
        try:
            return self._learned([(x.values(), y) for x, y in lessons])
        except (
            TypeError,
            ValueError,
            OverflowError,
        ):  # what is no number; it is known which when they are learned singly
            return False

    def _learned(self, lessons: list[tuple[Iterable[float], Any]]) -> bool:
        """False where a weight would not be finite; then none is learned."""
        updated = self._steps_over(
            self._n, lessons, self._means, self._vars, self._weights, self._intercept, self._gradient
        )
        if updated is None:
            return False
        self._means, self._vars, self._weights, self._intercept = updated
        self._n += len(lessons)
        self._steps += len(lessons)
        return True

    def _take(self, x: dict[str, Any]) -> tuple[str, ...] | None:
        """Move River's state into the lists; None if it is not the plain kind."""
        scaler, known = self._scaler, self._final.weights
        names = tuple(x)
        if len(names) > FEATURES_MAX:
            return None
        counts = {scaler.counts[name] for name in names} if scaler.counts else {0}
        fresh = not scaler.counts and not known
        if not fresh and (tuple(scaler.counts) != names or tuple(known) != names or len(counts) != 1):
            return None
        self._n = counts.pop()
        self._means = [float(scaler.means.get(name, 0.0)) for name in names]
        self._vars = [float(scaler.vars.get(name, 0.0)) for name in names]
        self._weights = [known.get(name, 0.0) for name in names]
        self._intercept = self._final.intercept
        self._names = names
        gradient = LOG_GRADIENT if type(self._final) is linear_model.LogisticRegression else GRADIENT
        self._steps_over = _unrolled_steps(len(names), gradient, self._clip, self._lr, self._intercept_lr)
        return names

    def _give_back(self) -> None:
        self.sync()
        self._names, self.refuses = None, False

    def sync(self) -> None:
        names = self._names
        if names is None or not self._steps:
            return
        scaler, final = self._scaler, self._final
        for name, mean, variance, weight in zip(names, self._means, self._vars, self._weights, strict=True):
            scaler.counts[name] = self._n
            scaler.means[name] = mean
            scaler.vars[name] = variance
            final._weights[name] = weight
        final.intercept = self._intercept
        final.optimizer.n_iterations += self._steps
        self._steps = 0


def _unrolled_steps(count: int, gradient: str, clip: float, lr: float, intercept_lr: float) -> Callable[..., Any]:
    """River's StandardScaler.learn_one, transform_one and GLM.learn_one over `count` features, example by example.

    Returns (means, variances, weights, intercept), or None if a weight would not be finite.
    """
    source = f"""
def made(n, lessons, means, variances, weights, intercept, gradient_of):
    {each("m#", count, ", ")}, = means
    {each("v#", count, ", ")}, = variances
    {each("w#", count, ", ")}, = weights
    for values, y in lessons:
        n += 1
        raw = 0.0
        {each("x#", count, ", ")}, = values
{each("        d# = x# - m#", count)}
{each("        m# += d# / n", count)}
{each("        e# = x# - m#", count)}
{each("        v# += (d# * e# - v#) / n", count)}
{each("        z# = e# / v# ** 0.5 if v# else 0.0", count)}
{each("        raw += w# * z#", count)}
        raw += intercept
{indent(gradient, "    ")}
        gradient = float(clip if gradient > clip else -clip if gradient < -clip else gradient)
        intercept -= intercept_lr * gradient
{each("        w# -= lr * (z# * gradient)", count)}
        if not isfinite(intercept + {each("w#", count, " + ")} + {each("v#", count, " + ")}):  # or their sum is too large
            if not (isfinite(intercept) and {each("isfinite(w#) and isfinite(v#) and isfinite(m#)", count, " and ")}):
                return None
    return [{each("m#", count, ", ")}], [{each("v#", count, ", ")}], [{each("w#", count, ", ")}], intercept
"""
    known = {"clip": clip, "lr": lr, "intercept_lr": intercept_lr, "isfinite": isfinite, "exp": exp}
    return unrolled(source, known)
