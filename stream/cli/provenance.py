"""`driftloop verify` and `driftloop unlearn`: what made a prediction, and taking back what was learned from bad labels."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from stream.adapters.file_pipelines import load_pipeline
from stream.batch.unlearning import Unlearned
from stream.batch.verifying import Position, Verified
from stream.cli.arguments import PipelineFile
from stream.cli.history import moment_ms
from stream.cli.showing import safe, words
from stream.errors import ConfigurationError
from stream.settings import load_settings
from stream.topics import TopicNames

__all__ = ["COMMANDS", "unlearned_text", "verified_text"]

STYLES = {"equal": "bold green", "differs": "bold red", "cannot_be_verified": "bold yellow"}
DIFFERS, CANNOT = 1, 3  # exit codes
console = Console()


def verify(
    pipeline_file: PipelineFile,
    positions: Annotated[
        list[str] | None,
        typer.Argument(help="of predictions or of their events: payments.predictions-2@1042, payments.events-2@1042"),
    ] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="so many random predictions")] = None,
    seed: Annotated[int | None, typer.Option(help="of --sample: the same again chooses the same")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document per line")] = False,
) -> None:
    """Build the model that made a prediction again, score again, and say whether it is equal or where it differs."""
    from stream.batch.evidence import LiveEvidence
    from stream.batch.verifying import position_of, verify_all

    settings, loaded = load_settings(), load_pipeline(pipeline_file)
    names = TopicNames.of(loaded.pipeline)
    wanted = [position_of(text, names) for text in positions or []]
    if bool(wanted) == (sample is not None):
        raise ConfigurationError("verify", pipeline_file.name, "name positions, or use --sample")
    if sample is not None:
        chosen = LiveEvidence(settings, loaded.pipeline).sample(sample, seed)
        wanted = [Position("predictions", *place) for place in chosen]
    with _bar() as on_progress:
        found = verify_all(settings, loaded.pipeline, wanted, loaded.allowed, on_progress)
    for its in found:
        if as_json:
            sys.stdout.write(msgspec.json.encode(its).decode() + "\n")
        elif len(found) == 1 or its.outcome != "equal":
            console.print(verified_text(its))
    outcomes = [its.outcome for its in found]
    if len(found) != 1 and not as_json:
        counted = ", ".join(f"{outcomes.count(o)} {words(o)}" for o in STYLES if o in outcomes)
        console.print(f"{len(found)} predictions: {counted or 'none'}", highlight=False)
    if "differs" in outcomes:
        raise typer.Exit(DIFFERS)
    if "cannot_be_verified" in outcomes:
        raise typer.Exit(CANNOT)


def unlearn(
    pipeline_file: PipelineFile,
    from_offset: Annotated[int, typer.Option("--from", min=0, help="first offset of examples")] = 0,
    to_offset: Annotated[
        int | None, typer.Option("--to", min=0, help="behind the last offset; without it all that are learned by now")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="only labels of this source; person:ann: also person:ann+bob")
    ] = None,
    since: Annotated[str | None, typer.Option(help="only labels from this moment on, by Kafka time, UTC")] = None,
    until: Annotated[str | None, typer.Option(help="only labels before this moment")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be done")] = False,
    and_release: Annotated[bool, typer.Option("--release", help="roll the new model out as any candidate")] = False,
    reason: Annotated[str, typer.Option(help="why; it stays in the record")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print everything as one JSON document")] = False,
) -> None:
    """Build the champion again from the nearest base, without the examples of bad labels: by offsets, source or time."""
    from stream.batch.unlearning import unlearn as take_back

    if not from_offset and all(value is None for value in (to_offset, source, since, until)):
        raise ConfigurationError(
            "unlearn", pipeline_file.name, "say what: --from and --to, --source, --since or --until"
        )
    loaded = load_pipeline(pipeline_file)
    with _bar() as on_progress:
        its = take_back(
            load_settings(),
            loaded.pipeline,
            by=f"person:{getpass.getuser()}",
            from_offset=from_offset,
            to_offset=to_offset,
            source=source,
            since_ms=moment_ms("--since", since),
            until_ms=moment_ms("--until", until),
            dry_run=dry_run,
            and_release=and_release,
            reason=reason,
            extra_allowed=loaded.allowed,
            on_progress=on_progress,
        )
    if as_json:
        sys.stdout.write(msgspec.json.encode(its).decode() + "\n")
    else:
        console.print(unlearned_text(its, str(pipeline_file)))


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """Records read, one line for each purpose."""
    tasks: dict[str, Any] = {}
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
    ) as progress:  # fmt: skip

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(safe(what).plain)
            progress.update(tasks[what], completed=done, total=total)

        yield on_progress


def verified_text(its: Verified) -> Text:
    """What was found, where it differs, and with what that was found."""
    text = Text()
    text.append(words(its.outcome), style=STYLES[its.outcome])
    text.append(f"  {its.position}")
    if its.event is not None:
        text.append(f"  answers {safe(str(its.event_id)).plain} at {its.event}", style="dim")
    if its.field is not None:
        text.append(f"\n    {its.field}: it says {_shown(its.said)}\n    built again:  {_shown(its.rebuilt)}")
    if its.reason:
        text.append(f"\n    {safe(its.reason).plain}")
    if its.duplicate_of is not None:
        text.append(f"\n    a repeat of {its.duplicate_of}")
    if its.version is not None:
        text.append(f"\n    model {safe(its.version).plain}, {safe(str(its.slot)).plain}")
    if its.base_file is not None:
        made = f", made of {_shown(its.provenance)}" if its.provenance else ", the first of the pipeline"
        text.append(f"\n    base {its.base_file}{made}", style="dim")
        text.append(f"\n    examples {its.from_offset} to {its.to_offset} (exclusive)", style="dim")
    if its.digest is not None:
        text.append(f"\n    digest {its.digest} after {its.learned:,} learned examples", style="dim")
    if its.features_from is not None:
        text.append(f"\n    features from {its.features_from}", style="dim")
    if its.not_compared:
        text.append(f"\n    not compared: {', '.join(its.not_compared)}", style="yellow")
    return text


def unlearned_text(its: Unlearned, file: str) -> Text:
    """What was done, or would be."""
    text = Text()
    verb = "would leave" if its.base is None else "left"
    text.append(
        f"{verb} out {its.left_out:,} examples that {its.champion} has learned, the first at {its.first_offset}"
    )
    text.append(
        f"\n    from base {its.restored}, examples {its.from_offset} to {its.to_offset} (exclusive)", style="dim"
    )
    if its.base is None:
        return text
    text.append(f"\n    made {its.base}@{its.to_offset}", style="bold")
    if its.released:
        text.append(": asked the learner to release it")
    else:
        text.append(f"; roll it out with: driftloop release {file} {its.base}")
    return text


def _shown(value: Any) -> str:
    shown = safe(msgspec.json.encode(value).decode()).plain
    return shown if len(shown) <= 400 else shown[:400] + " ..."


COMMANDS = (verify, unlearn)
