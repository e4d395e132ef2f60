"""The entry point. What runs a model is started again with a fixed hash seed before anything heavy is imported."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    if (
        sys.argv[1:2] in (["worker"], ["replay"], ["check"], ["verify"], ["unlearn"])
        and os.environ.get("PYTHONHASHSEED") != "0"
    ):
        # Sets of strings iterate in another order in every process; a model must not depend on that.
        arguments = [sys.executable, "-m", "stream.cli", *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, "PYTHONHASHSEED": "0"})
    from stream.cli.main import run

    run()
