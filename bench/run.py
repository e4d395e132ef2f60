"""All figures, one JSON line each: name, value, unit, ratio_to (and the ratio)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import archive, drift, labelling, latency, memory, quality, reaction, replay, rollout, search, throughput
from bench.harness import peer_python, stack_for_bench
from stream.local.stack import Stack

Part = Callable[[Stack, bool], None]


def parts() -> dict[str, Part]:
    def score(model: str, features: str) -> Part:
        return lambda stack, quick: throughput.score(
            stack, model, features, 20_000 if quick else 300_000, 1 if quick else 3
        )

    def beside(name: str) -> Part:
        return lambda s, q: throughput.peer(s, name, "logistic", 15_000 if q else 50_000, 1 if q else 3)

    return {
        "score.logistic": score("logistic", "plain"),
        "score.logistic.entities": score("logistic", "entities"),
        "score.tree": score("tree", "plain"),
        "learn.logistic": lambda s, q: throughput.learn(s, "logistic", 30_000 if q else 300_000, 1 if q else 3),
        "learn.tree": lambda s, q: throughput.learn(s, "tree", 15_000 if q else 100_000, 1 if q else 3),
        "learn.logistic.watched": lambda s, q: throughput.watched(
            s, "logistic", 30_000 if q else 300_000, 1 if q else 3
        ),
        "drift": lambda _, q: drift.run(q),
        "labelling": lambda _, q: labelling.run(q),
        "archive": archive.run,
        "rollout": lambda _, q: rollout.run(q),
        "quality": lambda _, q: quality.run(q),
        "search": search.run,
        "replay": lambda _, q: replay.run(q),
        "whole.logistic.watched": lambda s, q: throughput.whole_watched(s, 15_000 if q else 150_000, 1 if q else 3),
        "whole.logistic": lambda s, q: throughput.whole(s, "logistic", 15_000 if q else 150_000, 1 if q else 3),
        "whole.tree": lambda s, q: throughput.whole(s, "tree", 10_000 if q else 60_000, 1 if q else 3),
        "whole.faust": lambda s, q: throughput.plain_faust(s, "logistic", 3_000 if q else 15_000, 1 if q else 2),
        **{f"peers.{name}": beside(name) for name in throughput.PEERS},
        "two_workers": lambda s, q: throughput.two_workers(s, "logistic", 20_000 if q else 200_000, 1 if q else 3),
        "latency": latency.run,
        "memory": memory.run,
        "reaction": reaction.run,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small and short, for CI")
    parser.add_argument("--only", nargs="*", help="parts, by the beginning of their names")
    arguments = parser.parse_args()
    chosen = {
        name: part
        for name, part in parts().items()
        if not arguments.only or any(name.startswith(wanted) for wanted in arguments.only)
    }
    missing = [f"peers.{name}" for name in throughput.PEERS if f"peers.{name}" in chosen and not peer_python(name)]
    if missing:
        print(f"{', '.join(missing)} left out: not installed, make bench-peers does it", file=sys.stderr)
        chosen = {name: part for name, part in chosen.items() if name not in missing}
    if not chosen:
        return
    with tempfile.TemporaryDirectory() as directory, stack_for_bench(Path(directory)) as stack:
        for part in chosen.values():
            part(stack, arguments.quick)


if __name__ == "__main__":
    main()
