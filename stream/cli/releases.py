"""Commands about models: which are live, what was decided and why, and deciding by hand."""

from __future__ import annotations

import getpass
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.file_pipelines import load_pipeline
from stream.cli.arguments import PipelineFile
from stream.cli.history import moment_ms
from stream.cli.producing import follow
from stream.cli.showing import figure, read_status, safe, words
from stream.core.moments import moment_text
from stream.errors import ConfigurationError
from stream.messages import Release
from stream.settings import Settings, load_settings
from stream.topics import TopicNames

__all__ = ["COMMANDS", "models_view", "read_releases", "reigns_at"]

DATE = re.compile(r"\d{4}-?(\d{2}-?\d{2}|W\d{2}-?\d)")  # as `fromisoformat` reads one
DAY_MS = 86_400_000
STYLES = {"promoted": "bold green", "rolled_back": "bold red", "rejected": "red", "canary": "cyan", "released": "cyan"}
NOT_LISTED = ("base", "rival", "stage", "share", "won", "gain_low", "gain_high", "gain_confidence")  # in words before
console = Console()
Reason = Annotated[str, typer.Option(help="why; it stays in the record")]
BaseName = Annotated[str, typer.Argument(help="the model's base, such as 84c5abf7")]


def models(
    pipeline_file: PipelineFile,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as one JSON document")] = False,
) -> None:
    """Which models are live, how the trial stands, what waits, and which bases could be released."""
    from stream.batch.releasing import pending

    settings, name = load_settings(), load_pipeline(pipeline_file).pipeline.name
    learner = read_status(settings, name).learner or {}
    waiting = [f"{c.action} {c.base}, asked by {c.by}" for c in pending(settings, name)]
    bases = ArtifactFiles(settings.artifact_url, name).bases()
    if as_json:
        shown = {
            "slots": learner.get("slots", {}),
            "trial": learner.get("trial"),
            "waiting": waiting,
            "bases": bases,
        }
        sys.stdout.write(msgspec.json.encode(shown).decode() + "\n")
        return
    console.print(models_view(learner, waiting, bases))


def history(
    pipeline_file: PipelineFile,
    at: Annotated[
        str | None, typer.Option(help="which model was the champion at this moment, UTC; of a date: all that day")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document per line, as on the topic")] = False,
) -> None:
    """Every change of the models: what, when, by whom or which rule, and on what evidence."""
    settings, name = load_settings(), load_pipeline(pipeline_file).pipeline.name
    releases = read_releases(settings, name)
    if at is not None:
        reigns = reigns_at(releases, at)
        if not reigns:
            console.print(f"no model was live at {safe(at).plain}", highlight=False)
            return
        for champion, since_ms, _ in reigns:
            console.print(
                f"{champion} was the champion at {safe(at).plain}, since {moment_text(since_ms)}", highlight=False
            )
        releases = [since for *_, since in reigns]
    for release in releases:
        if as_json:
            sys.stdout.write(msgspec.json.encode(release).decode() + "\n")
        else:
            console.print(release_text(release))


def release(pipeline_file: PipelineFile, base: BaseName, reason: Reason = "") -> None:
    """Roll a candidate out: beside the champion first, then to shares of the entities, while labels speak for it."""
    from stream.batch import releasing

    loaded = load_pipeline(pipeline_file)
    asked = releasing.release(
        load_settings(), loaded.pipeline, base, by=_person(), reason=reason, extra_allowed=loaded.allowed
    )
    console.print(f"asked the learner to release {asked['base']}", highlight=False)


def promote(pipeline_file: PipelineFile, reason: Reason = "") -> None:
    """Make the candidate on trial the champion now, whatever its labels say so far."""
    _decide(pipeline_file, "promote", reason)


def reject(pipeline_file: PipelineFile, reason: Reason = "") -> None:
    """End the trial of the candidate, or its catching up: it is gone."""
    _decide(pipeline_file, "reject", reason)


def rollback(pipeline_file: PipelineFile, reason: Reason = "") -> None:
    """Bring the former champion back. It has learned all along, so nothing is trained."""
    _decide(pipeline_file, "roll_back", reason)


def _person() -> str:
    return f"person:{getpass.getuser()}"


def _decide(pipeline_file: Any, action: Any, reason: str) -> None:
    from stream.batch.releasing import ask, live_roster, pending

    settings, name = load_settings(), load_pipeline(pipeline_file).pipeline.name
    roster = live_roster(settings, name)
    slots = (read_status(settings, name).learner or {}).get("slots", {})
    slot = "champion" if action == "roll_back" else "challenger"
    if action == "reject" and slot not in slots:  # one that catches up can be called off, too
        for command in pending(settings, name):
            if command.action == "release":
                slots.setdefault(slot, command.base)
    if roster is None or slot not in slots:
        raise ConfigurationError(slot, None, "there is none; `driftloop models` shows what is live")
    if action == "roll_back" and "previous" not in slots:
        raise ConfigurationError("previous", None, "there is no former champion to go back to")
    base = slots[slot].partition("@")[0]
    ask(settings, name, action, base, by=_person(), reason=reason)
    console.print(f"asked the learner to {words(action)} {base}", highlight=False)


def read_releases(settings: Settings, name: str) -> list[Release]:
    """Every record on `releases` up to now, copies left out. Raises Unavailable."""
    topic = TopicNames(name)["releases"]
    values = {m.value(): None for m in follow(settings, topic, from_start=True, to_end=True)}
    return [msgspec.json.decode(value, type=Release) for value in values]


Reign = tuple[str, int, Release]
"""(base of the champion, since when, the record that made it so)"""


def reigns(releases: Iterable[Release]) -> Iterator[Reign]:
    """Champions one after the other, by their records in the log's order, which is the order of what happened.

    A rule gives the time of the example that it decided on, which may be long past, and a person that of the asking: what
    was decided after something else was not live before it.
    """
    latest_ms = 0
    for release in releases:
        latest_ms = max(latest_ms, release.decided_at_ms)
        if release.action in ("started", "promoted"):
            yield release.base, latest_ms, release
        elif release.action == "rolled_back" and release.parent is not None:
            yield release.parent, latest_ms, release


def reigns_at(releases: Iterable[Release], at: str) -> list[Reign]:
    """The champion at a moment, in a list; at a date all champions of that day, UTC. Raises ConfigurationError."""
    first_ms = moment_ms("--at", at)
    assert first_ms is not None
    last_ms = first_ms + DAY_MS - 1 if DATE.fullmatch(at) else first_ms
    found: list[Reign] = []
    for reign in reigns(releases):
        if reign[1] > last_ms:
            break
        if reign[1] <= first_ms:
            found = []  # those before it were over by then
        found.append(reign)
    return found


def release_text(release: Release) -> Text:
    """One change on two lines."""
    text = Text()
    text.append(f"{moment_text(release.decided_at_ms)}  ", style="dim")
    text.append(f"{words(release.action):<12}", style=STYLES.get(release.action, "bold"))
    text.append(f" {release.version}", style="cyan")
    if release.share and release.action == "canary":
        text.append(f" answers {release.share:.0%} of the entities")
    text.append(f"  by {safe(release.decided_by).plain}")
    if release.reason:
        text.append(f"\n    {safe(release.reason).plain}")
    if release.evidence:
        listed = ", ".join(f"{words(key)} {figure(value)}" for key, value in release.evidence.items())
        text.append(f"\n    {safe(listed).plain}", style="dim")
    return text


def models_view(learner: Any, waiting: Sequence[str], bases: Sequence[str]) -> Group:
    """Slots, trial, commands, bases."""
    table = Table(box=SIMPLE_HEAD, show_header=False)
    for slot, version in learner.get("slots", {}).items():
        table.add_row(slot, version)
    parts: list[Any] = [table]
    trial = learner.get("trial")
    if trial is not None:
        parts.append(trial_text(trial))
    parts += [Text(f"waiting: {safe(line).plain}", style="yellow") for line in waiting]
    live = {version.partition("@")[0] for version in learner.get("slots", {}).values()}
    others = [base for base in bases if base not in live]
    if others:
        parts.append(Text(f"not live: {', '.join(others)}", style="dim"))
    return Group(*parts)


def gain_text(trial: Mapping[str, Any]) -> str:
    """The confidence sequence of the difference, in words."""
    low, high = (None if trial[key] is None else f"{trial[key]:+.3g}" for key in ("gain_low", "gain_high"))
    unit = "of the rival's mean absolute error" if "mae_rival" in trial else "in loss (half the Brier score, by class)"
    found = (
        f"{low} to {high}"
        if low and high
        else f"at least {low}"
        if low
        else f"at most {high}"
        if high
        else "not known yet"
    )
    return f"better by {found}, {unit}; {trial['gain_confidence']:.0%} confidence, whenever one looks"


def trial_text(trial: Any) -> Text:
    """How the trial stands, in a sentence and figures."""
    who = "the new champion" if trial["stage"] == "probation" else "the candidate"
    text = Text(f"{who} {trial['base']} is in {trial['stage']}", style="bold")
    if trial["stage"] == "canary":
        text.append(f", answering {trial['share']:.0%} of the entities")
    if trial["won"]:
        text.append("; it has won and waits for `driftloop promote`", style="green")
    if "gain_confidence" in trial:  # a learner of before has none
        text.append(f"\n{gain_text(trial)}")
    figures = {k: v for k, v in trial.items() if k not in NOT_LISTED}
    text.append("\n" + ", ".join(f"{words(key)} {figure(value)}" for key, value in figures.items()), style="dim")
    return text


COMMANDS = (models, history, release, promote, reject, rollback)
