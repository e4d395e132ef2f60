"""Answering label requests: one by one in the terminal, or as CSV for those who label elsewhere; and labelling any event."""

from __future__ import annotations

import csv
import getpass
import io
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stream.adapters.file_pipelines import load_pipeline
from stream.adapters.label_studio_client import LabelStudioClient
from stream.batch.annotation import annotators_agree
from stream.batch.label_requests import Answer, OpenRequest, answer, label_from_text, open_requests
from stream.batch.label_studio import Exchanged, exchange
from stream.cli.arguments import PipelineFile
from stream.cli.producing import produce as send
from stream.cli.showing import figure, safe
from stream.cli.sources import Produced
from stream.core.annotating import Agreement
from stream.core.label_sources import person
from stream.core.moments import moment_text
from stream.errors import ConfigurationError
from stream.messages import LabelRequest, LabelValue
from stream.pipeline import Pipeline
from stream.settings import Settings, load_settings
from stream.topics import TopicNames

__all__ = ["label", "read_answers", "session", "write_requests"]

CANNOT_TELL, SKIP, QUIT = "?", "s", "q"
COLUMNS = ("event_id", "key", "requested_at", "expires_at", "prediction", "uncertainty", "reason")
LABEL = "label"
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a text that begins so
console = Console()


def label(
    pipeline_file: PipelineFile,
    event_id: Annotated[str | None, typer.Argument(help="one event; without it: what is asked, one by one")] = None,
    value: Annotated[str | None, typer.Argument(help="its label: true, false, a class or a number")] = None,
    key: Annotated[str | None, typer.Option(help="with an event_id: the event's key, its entity id")] = None,
    source: Annotated[str | None, typer.Option(help="who says so; person:<your user name> if not given")] = None,
    export: Annotated[Path | None, typer.Option("--export", help="write what is asked there (.csv), and end")] = None,
    import_from: Annotated[
        Path | None, typer.Option("--import", help="take the answers in this file: column `label`; ? is cannot tell")
    ] = None,
    agreement: Annotated[bool, typer.Option("--agreement", help="how often two annotators said the same")] = False,
    label_studio: Annotated[
        bool, typer.Option("--label-studio", help="make tasks of what is asked there, and take what was answered")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many requests")] = None,
) -> None:
    """Answer label requests, or give one event its label."""
    pipeline = load_pipeline(pipeline_file).pipeline
    settings = load_settings()
    if event_id is not None:
        if value is None or key is None:
            raise ConfigurationError("label", event_id, "give the event's id, its label, and its key with --key")
        _label_one(settings, pipeline, event_id, value, key, source or "person")
        return
    if agreement:
        console.print(_agreement(annotators_agree(settings, pipeline.name)), highlight=False)
        return
    if label_studio:
        where = settings.label_studio()
        exchanged = exchange(settings, load_pipeline(pipeline_file), LabelStudioClient(where["url"], where["token"]))
        console.print(_exchanged(exchanged), highlight=False)
        return
    by = source or person(getpass.getuser())
    requests = open_requests(settings, pipeline)
    if import_from is not None:
        answers, passed_over = read_answers(pipeline, import_from, requests)
        done = answer(settings, pipeline, answers, by=by)
        console.print(
            f"{done['labels']:,} labels, {done['declined']:,} cannot tell; {passed_over:,} rows are without an answer, "
            "or answered or expired already",
            highlight=False,
        )
        return
    if limit is not None:
        requests = requests[:limit]
    if export is not None:
        write_requests(pipeline, export, requests)
        console.print(f"wrote {len(requests):,} requests to {export}", highlight=False)
        return
    given = {"labels": 0, "declined": 0}
    for one in session(pipeline, requests, console.input, console):
        for name, count in answer(settings, pipeline, [one], by=by).items():
            given[name] += count
    console.print(f"{given['labels']:,} labels, {given['declined']:,} cannot tell", highlight=False)


def _label_one(settings: Settings, pipeline: Pipeline, event_id: str, value: str, key: str, source: str) -> None:
    now_ms = int(time.time() * 1000)
    parsed = label_from_text(pipeline, value)
    message = {"event_id": event_id, "label": parsed, "labelled_at_ms": now_ms, "source": source}
    send(settings, TopicNames.of(pipeline), [Produced("labels", key, now_ms, message)])
    console.print(f"labelled {event_id} as {value}", highlight=False)


def _exchanged(done: Exchanged) -> str:
    if done.busy:
        return "another exchange with Label Studio is running; if it was killed, it stands in the way for ten minutes"
    lines = [
        f"{done.asked:,} new tasks, {done.labels:,} labels, {done.declined:,} cannot tell, "
        f"{done.closed:,} tasks removed that nobody need answer any more",
        *(f"not taken: {why}" for why in done.unfit),
    ]
    return "\n".join(lines)


def _agreement(found: Agreement | None) -> str:
    if found is None:
        return "no item has two answers yet"
    kappa = "none: all answers are the same" if found.kappa is None else f"{found.kappa:.3f}"
    return f"{found.items:,} items with two answers: {found.share:.1%} agree, Cohen's kappa {kappa}"


# -- in the terminal -----------------------------------------------------------------------------------------------------


def session(
    pipeline: Pipeline, requests: Sequence[OpenRequest], read: Callable[[str], str], out: Console
) -> Iterator[Answer]:
    """Show one request after the other; yields each answer as it is given, so that none is lost when the session ends."""
    if not requests:
        out.print("nothing is asked at the moment")
    for number, asked in enumerate(requests, 1):
        choices = _choices(pipeline, asked.request)
        out.print(_panel(asked, f"{number:,} of {len(requests):,}"))
        while True:
            try:
                text = read(_prompt(pipeline, choices)).strip()
            except EOFError:
                return
            if text == QUIT:
                return
            if text in (SKIP, ""):
                break
            if text == CANNOT_TELL:
                yield Answer(asked, None)
                break
            try:
                value = _typed(pipeline, text, choices)
            except ConfigurationError as error:
                out.print(safe(error), style="yellow")
                continue
            yield Answer(asked, value)
            break


def _choices(pipeline: Pipeline, request: LabelRequest) -> list[str]:
    """Classes that can be chosen by number; of true and false by letter."""
    if pipeline.task == "multiclass":
        return list(pipeline.labels.classes or sorted(request.probabilities or {}))
    return []


def _typed(pipeline: Pipeline, text: str, choices: list[str]) -> LabelValue:
    if pipeline.task in ("binary", "anomaly"):
        text = {"y": "true", "n": "false", "t": "true", "f": "false"}.get(text.lower(), text)
    elif choices and text.isdecimal() and text not in choices and 1 <= int(text) <= len(choices):
        text = choices[int(text) - 1]
    return label_from_text(pipeline, text)


def _prompt(pipeline: Pipeline, choices: list[str]) -> str:
    what = {"binary": "y(es) or n(o)", "anomaly": "y(es) or n(o)", "regression": "a number"}.get(
        pipeline.task, "a class"
    )
    if choices:
        what = ", ".join(f"{number} {safe(name).plain}" for number, name in enumerate(choices, 1))
    return f"{what}; {CANNOT_TELL} cannot tell, {SKIP} leave it open, {QUIT} quit: ".replace("[", r"\[")


def _panel(asked: OpenRequest, title: str) -> Panel:
    request = asked.request
    table = Table.grid(padding=(0, 2))
    for name, value in request.features.items():
        table.add_row(safe(name), safe(figure(value) if not isinstance(value, str) else value))
    shown = "–" if request.prediction is None else safe(figure(request.prediction)).plain
    table.add_row("", "")
    table.add_row("predicted", Text(shown, style="bold"))
    if request.probabilities and shown in request.probabilities:
        table.add_row("probability", figure(request.probabilities[shown]))
    if request.explanation is not None:
        parts = ", ".join(f"{safe(name).plain} {part:+.2f}" for name, part in request.explanation.contributions[:5])
        table.add_row("because of", Text(parts))
    table.add_row("asked because", safe(request.reason))
    name = f"{safe(request.event_id).plain} of {safe(asked.key.decode(errors='replace')).plain}, {moment_text(request.occurred_at_ms)}"
    return Panel(table, title=Text(title), subtitle=Text(name), title_align="left", subtitle_align="left", expand=False)


# -- elsewhere -----------------------------------------------------------------------------------------------------------


def write_requests(pipeline: Pipeline, path: Path, requests: Sequence[OpenRequest]) -> None:
    """One row per request, with its features, and an empty column `label`."""
    features = [name for name in pipeline.feature_names if name not in (*COLUMNS, LABEL)]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([*COLUMNS, *features, LABEL])
        for asked in requests:
            request = asked.request
            about = [
                request.event_id, asked.key.decode(errors="replace"), moment_text(request.requested_at_ms),
                moment_text(request.expires_at_ms), request.prediction, request.uncertainty, request.reason,
            ]  # fmt: skip
            rows.writerow([*map(_cell, [*about, *(request.features.get(name) for name in features)]), ""])


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def read_answers(pipeline: Pipeline, path: Path, requests: Sequence[OpenRequest]) -> tuple[list[Answer], int]:
    """The answers in a file, and how many of its rows are none: empty, or of requests that are not open (any more).

    Raises ConfigurationError that names the row; then no answer of the file is to be taken.
    """
    by_id: dict[str, OpenRequest | None] = {}
    for asked in requests:
        by_id[asked.request.event_id] = None if asked.request.event_id in by_id else asked
    answers, passed_over = [], 0
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError("--import", str(path), f"cannot be read: {error}") from error
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if not {"event_id", LABEL} <= set(rows.fieldnames or ()):
        raise ConfigurationError("--import", str(path), "needs the columns event_id and label, as --export writes them")
    taken = set()
    for number, row in enumerate(rows, 2):
        event_id, given = (row["event_id"] or "").strip(), (row[LABEL] or "").strip()
        if event_id.startswith("'") and event_id[1:].startswith(FORMULA):
            event_id = event_id[1:]
        asked_or_none = by_id.get(event_id)
        if not given or asked_or_none is None:
            passed_over += 1
            continue
        if event_id in taken:
            raise ConfigurationError(f"row {number}", event_id, "it is answered twice in this file: leave one answer")
        taken.add(event_id)
        try:
            value = None if given == CANNOT_TELL else label_from_text(pipeline, given)
        except ConfigurationError as error:
            raise ConfigurationError(f"row {number}, {error.key}", given, error.remedy) from error
        answers.append(Answer(asked_or_none, value))
    return answers, passed_over
