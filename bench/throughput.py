"""Records per second beside bare loops on the same broker, alternately."""

from __future__ import annotations

from bench.harness import figure, open_bench, paired, rate_of
from stream.local.stack import Stack

__all__ = ["PEERS", "learn", "peer", "plain_faust", "score", "two_workers", "watched", "whole", "whole_watched"]

# How a peer is called in an environment and a figure: its module and its name.
PEERS = {"quix": ("bench.quix_streams", "Quix Streams"), "bytewax": ("bench.bytewax_flow", "Bytewax")}


def score(stack: Stack, model: str, features: str, events: int, runs: int) -> None:
    """One score worker against a loop that only parses, predicts and produces."""

    def ours() -> float:
        with open_bench(stack, model=model, features=features) as bench:
            bench.events(events)
            bench.first_model()
            bench.start("score")
            return rate_of(bench.watch(bench.published, events), events)

    def bare() -> float:
        with open_bench(stack, model=model) as bench:
            bench.events(events)
            with bench.bare_loop("score", events):  # its own count runs ahead of what the broker has
                return rate_of(bench.watch(bench.published, events), events)

    mine, other, ratio = paired(runs, ours, bare)
    _report(f"score.{model}.{features}", mine, other, ratio, "events/s")


def learn(stack: Stack, model: str, examples: int, runs: int) -> None:
    """One learn worker against a loop that only parses and learns."""

    def ours() -> float:
        with open_bench(stack, model=model) as bench:
            bench.examples(examples)
            bench.start("learn")
            return rate_of(bench.watch(bench.learned, examples), examples)

    def bare() -> float:
        with open_bench(stack, model=model) as bench:
            bench.examples(examples)
            return bench.bare("learn", examples)

    mine, other, ratio = paired(runs, ours, bare)
    _report(f"learn.{model}", mine, other, ratio, "examples/s")


def watched(stack: Stack, model: str, examples: int, runs: int) -> None:
    """One learn worker with all of drift, against one that watches nothing."""

    def learner(features: str) -> float:
        with open_bench(stack, model=model, features=features) as bench:
            bench.examples(examples)
            bench.start("learn")
            return rate_of(bench.watch(bench.learned, examples), examples)

    mine, other, ratio = paired(runs, lambda: learner("plain"), lambda: learner("unwatched"))
    _report(f"learn.{model}.watched", mine, other, ratio, "examples/s", "without drift")


def whole(stack: Stack, model: str, events: int, runs: int) -> None:
    """One score and one learn worker, every event with a label, against one bare loop that predicts and learns."""

    def bare() -> float:
        with open_bench(stack, model=model) as bench:
            bench.events(events, labels=True)
            return bench.bare("whole", 2 * events) / 2

    mine, other, ratio = paired(runs, lambda: _both_roles(stack, model, events), bare)
    _report(f"whole.{model}", mine, other, ratio, "labelled events/s")


def whole_watched(stack: Stack, events: int, runs: int) -> None:
    """Both roles with all of drift, against both without."""
    mine, other, ratio = paired(
        runs,
        lambda: _both_roles(stack, "logistic", events),
        lambda: _both_roles(stack, "logistic", events, "unwatched"),
    )
    _report("whole.logistic.watched", mine, other, ratio, "labelled events/s", "without drift")


def plain_faust(stack: Stack, model: str, events: int, runs: int) -> None:
    """One score and one learn worker against two plain Faust agents that predict and learn, with no guarantee."""

    def plain() -> float:
        with open_bench(stack, model=model) as bench:
            bench.events(events, labels=True)
            return bench.printed("bench.plain_faust", [], 2 * events) / 2

    mine, other, ratio = paired(runs, lambda: _both_roles(stack, model, events), plain)
    _report(f"whole.{model}.beside_faust", mine, other, ratio, "labelled events/s", "plain Faust agents")


def peer(stack: Stack, name: str, model: str, events: int, runs: int) -> None:
    """One score and one learn worker against another framework that predicts and learns in one process."""
    module, title = PEERS[name]

    def theirs() -> float:
        with open_bench(stack, model=model) as bench:
            bench.events(events, labels=True)
            return bench.peer(name, module, events) / 2

    mine, other, ratio = paired(runs, lambda: _both_roles(stack, model, events), theirs)
    _report(f"whole.{model}.beside_{name}", mine, other, ratio, "labelled events/s", title)


def _both_roles(stack: Stack, model: str, events: int, features: str = "plain") -> float:
    """Labelled events per second of one score and one learn worker."""
    with open_bench(stack, model=model, features=features) as bench:
        bench.events(events, labels=True)
        bench.start("learn")
        bench.start("score")
        points = bench.watch(lambda: bench.published() + bench.learned(), 2 * events)
        return rate_of(points, 2 * events) / 2


def two_workers(stack: Stack, model: str, events: int, runs: int) -> None:
    """Two score workers against one; two cores carry them, the broker and Redis, so far from double."""

    def with_workers(workers: int) -> float:
        with open_bench(stack, model=model, partitions=4) as bench:
            bench.events(events)
            bench.first_model()
            for _ in range(workers):
                bench.start("score")
            return rate_of(bench.watch(bench.published, events), events)

    two, one, ratio = paired(runs, lambda: with_workers(2), lambda: with_workers(1))
    _report(f"score.{model}.two_workers", two, one, ratio, "events/s", "one worker")


def _report(name: str, mine: float, other: float, ratio: float, unit: str, ratio_to: str = "bare loop") -> None:
    figure(name, mine, unit, ratio_to=ratio_to, ratio=round(ratio, 3), other=round(other))
