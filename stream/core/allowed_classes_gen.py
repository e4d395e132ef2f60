"""Prints `allowed_classes.py`: every class that River's estimator packages define. Run it when River's pin moves.

python -m stream.core.allowed_classes_gen > stream/core/allowed_classes.py
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections import defaultdict

import river
from river import _river_rust

__all__ = ["PACKAGES", "found", "table"]

PACKAGES = (
    "anomaly", "bandit", "base", "cluster", "compose", "covariance", "drift", "dummy", "ensemble", "facto",
    "feature_extraction", "feature_selection", "forest", "imblearn", "linear_model", "metrics", "model_selection", "multiclass",
    "naive_bayes", "neighbors", "optim", "preprocessing", "proba", "rules", "sketch", "stats", "tree", "utils",
)  # fmt: skip


def found() -> dict[str, tuple[str, ...]]:
    """Module -> the names of the classes it defines; datasets, streams and the like are not among the packages."""
    classes: defaultdict[str, set[str]] = defaultdict(set)
    modules = [value for value in vars(_river_rust).values() if inspect.ismodule(value)]
    for package in PACKAGES:
        root = importlib.import_module(f"river.{package}")
        modules.append(root)
        for info in pkgutil.walk_packages(getattr(root, "__path__", []), root.__name__ + "."):
            if "test" not in info.name and ".envs" not in info.name:  # environments need gymnasium
                modules.append(importlib.import_module(info.name))
    for module in modules:
        for _, value in inspect.getmembers(module, inspect.isclass):
            if value.__module__.startswith("river.") and "<" not in value.__qualname__:
                classes[value.__module__] |= {value.__qualname__, *_nested(value)}
    return {module: tuple(sorted(names)) for module, names in sorted(classes.items())}


def _nested(outer: type) -> list[str]:
    inner = [value for value in vars(outer).values() if inspect.isclass(value)]
    return [value.__qualname__ for value in inner if value.__qualname__.startswith(f"{outer.__qualname__}.")]


def table() -> str:
    """The text of `allowed_classes.py`."""
    lines = [
        '"""The classes of River that a model snapshot may name, by module.',
        "",
        f"Made by `python -m {__package__}.allowed_classes_gen` from River {river.__version__}; a test compares.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        '__all__ = ["RIVER_CLASSES"]',
        "",
        "# fmt: off",
        "RIVER_CLASSES: dict[str, frozenset[str]] = {",
    ]
    for module, names in found().items():
        lines.append(f"    {module!r}: frozenset((".replace("'", '"'))
        lines += [f'        "{name}",' for name in names]
        lines.append("    )),")
    return "\n".join([*lines, "}", "# fmt: on", ""])


if __name__ == "__main__":
    print(table(), end="")  # noqa: T201 - it is its output
