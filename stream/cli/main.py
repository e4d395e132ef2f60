"""The commands. Each reads its settings from the environment (`driftloop settings` lists them).

What is slow to import (River, Faust) is imported by the commands that use it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stream import entity
from stream.adapters.file_pipelines import LoadedPipeline, load_pipeline
from stream.adapters.kafka_topics import KafkaTopics
from stream.cli import backing_up, provenance, releases
from stream.cli.archiving import archive
from stream.cli.arguments import Directory, PipelineFile
from stream.cli.doctor import doctor
from stream.cli.labelling import label
from stream.cli.period import report
from stream.cli.producing import follow, read_drifts
from stream.cli.producing import produce as send
from stream.cli.retraining import retrain
from stream.cli.showing import (
    PipelineStatus,
    drift_text,
    exact_view,
    prediction_line,
    read_status,
    replay_view,
    status_view,
)
from stream.cli.sources import Columns, Produced, a_year_ago_ms, read_source
from stream.errors import ConfigurationError, DriftloopError, StartupRefused
from stream.settings import Settings, load_settings
from stream.topics import TopicNames
from stream.worker.logs import JsonFormatter, text_formatter

__all__ = ["app", "run"]

log = logging.getLogger(__name__)
WORDS = {2: "wrong", 3: "refused"}  # by exit code

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
console = Console()
errors = Console(stderr=True)

# Of a source of records, for `produce` and `replay`.
LabelDelay = Annotated[str, typer.Option(help="labels come so much event time after their events")]
Interval = Annotated[str, typer.Option(help="event time between two rows of a source without times")]
LabelColumn = Annotated[str | None, typer.Option(help="column of the label")]
KeyColumn = Annotated[str | None, typer.Option(help="column of the entity id")]
TimeColumn = Annotated[str | None, typer.Option("--time", help="column of the event time, epoch ms")]
EventIdColumn = Annotated[str | None, typer.Option(help="column of the event id")]
PositiveText = Annotated[str | None, typer.Option(help="the label's text that means true")]
Seed = Annotated[int, typer.Option(help="of a generator")]
EventsMax = Annotated[int | None, typer.Option(min=1, help="at most so many events")]


def run() -> None:
    """Errors of ours are one message and an exit code, not a traceback."""
    try:
        app()
    except DriftloopError as error:
        code = _exit_code(error)
        errors.print(f"[bold red]{WORDS.get(code, 'failed')}:[/] {error}", highlight=False)
        sys.exit(code)
    except KeyboardInterrupt:
        sys.exit(130)


def _exit_code(error: DriftloopError) -> int:
    """2: something written by people is wrong; 3: an operator decides; 1: start it again."""
    return 2 if isinstance(error, ConfigurationError) else 3 if isinstance(error, StartupRefused) else 1


@app.command()
def check(pipeline_file: PipelineFile) -> None:
    """Check a pipeline file, and try it on made-up events, without starting anything."""
    loaded = load_pipeline(pipeline_file)
    pipeline = loaded.pipeline
    _rehearse(loaded)
    names = ", ".join(feature.name for feature in pipeline.entity_features) or "none"
    console.print(f"[green]ok[/] {pipeline.name}: {pipeline.task}, {len(pipeline.features)} features")
    console.print(f"   entity features: {names}", highlight=False)


def _rehearse(loaded: LoadedPipeline) -> None:
    """Refuse what cannot work, and warn of what may not."""
    from stream.core.rehearsing import rehearse

    for code, text in rehearse(loaded.pipeline, loaded.allowed):
        errors.print(f"[yellow]warning[/] {code}: {text}", highlight=False)


@app.command()
def worker(
    pipeline_file: PipelineFile,
    role: Annotated[str, typer.Option("--role", help="score or learn")],
    log_level: Annotated[
        str, typer.Option("--log-level", help="of everything but driftloop's own lines, which begin at info")
    ] = "warning",
) -> None:
    """Run one worker: score (events to predictions) or learn (examples to a better model)."""
    if role not in ("score", "learn"):
        raise ConfigurationError("--role", role, "use score or learn")
    settings = load_settings()
    as_json = JsonFormatter(role) if settings.log_format == "json" else None
    handler = logging.StreamHandler()
    handler.setFormatter(as_json or text_formatter())
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
    logging.getLogger("stream").setLevel(min(logging.INFO, logging.getLogger().level))
    for noisy in ("faust", "mode", "aiokafka", "stream.worker.transport", "stream.worker.app"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    from stream.core.rehearsing import rehearse
    from stream.worker.app import run as run_worker
    from stream.worker.starting import create_worker

    try:
        loaded = load_pipeline(pipeline_file)
        if as_json is not None:
            as_json.pipeline = loaded.pipeline.name
        for code, text in rehearse(loaded.pipeline, loaded.allowed):
            if as_json is not None:
                log.warning("%s", text, extra={"code": code})
            else:
                errors.print(f"[yellow]warning[/] {code}: {text}", highlight=False)

        async def live() -> int:
            return await run_worker(await create_worker(loaded.pipeline, role, settings, loaded.allowed))

        sys.exit(asyncio.run(live()))
    except DriftloopError as error:
        if as_json is None:
            raise
        log.error("%s", error, extra={"code": getattr(error, "code", "worker_failed")})
        sys.exit(_exit_code(error))


@app.command()
def up(
    pipeline_file: PipelineFile,
    score: Annotated[int, typer.Option("--score", min=1, max=32, help="score workers")] = 1,
    directory: Directory = Path(".driftloop") / "up",
    airflow: Annotated[bool, typer.Option("--airflow", help="start Airflow, too, with the retraining loop")] = False,
) -> None:
    """Run a pipeline here: one score and one learn worker, restarted if they fail; Ctrl-C stops everything.

    With DRIFTLOOP_BROKERS set the workers use that Kafka and Redis; otherwise a local stack is started.
    """
    from stream.cli.running import run_up

    _rehearse(load_pipeline(pipeline_file))
    run_up(pipeline_file, score, directory, console, airflow=airflow)


@app.command()
def topics(pipeline_file: PipelineFile) -> None:
    """Create the pipeline's topics that are missing, and say how the others differ from their declaration."""
    settings = load_settings()
    kafka = KafkaTopics(settings.kafka(), TopicNames.of(load_pipeline(pipeline_file).pipeline))
    made = kafka.create(settings.partitions, settings.replication_factor)
    console.print(f"created: {', '.join(made) or 'nothing, all exist'}", highlight=False)
    for warning in kafka.check().warnings:
        console.print(f"[yellow]differs[/] {warning}", highlight=False)


@app.command()
def produce(
    pipeline_file: PipelineFile,
    source: Annotated[str, typer.Argument(help="a .csv, a .jsonl, river:<DataSet>, or a generator's .py")],
    rate: Annotated[float | None, typer.Option(help="events per second; as fast as possible if not given")] = None,
    limit: EventsMax = None,
    label_delay: LabelDelay = "1m",
    interval: Interval = "1s",
    label: LabelColumn = None,
    key: KeyColumn = None,
    time_column: TimeColumn = None,
    event_id: EventIdColumn = None,
    positive: PositiveText = None,
    seed: Seed = 7,
) -> None:
    """Put events, and labels after a delay, onto the topics."""
    settings = load_settings()
    pipeline = load_pipeline(pipeline_file).pipeline
    records = read_source(
        pipeline,
        source,
        columns=Columns(label, key, time_column, event_id, positive),
        limit=limit,
        delay_ms=entity.duration_ms(label_delay),
        interval_ms=entity.duration_ms(interval),
        seed=seed,
    )
    total = limit
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        task = progress.add_task("events", total=total)

        def step(record: Produced) -> None:
            if record.topic == "events":
                progress.advance(task)

        counts = send(settings, TopicNames.of(pipeline), records, rate=rate, on_record=step)
    console.print(f"produced {counts['events']:,} events and {counts['labels']:,} labels", highlight=False)


@app.command()
def replay(
    pipeline_file: PipelineFile,
    source: Annotated[
        str,
        typer.Argument(
            help="a .csv, a .jsonl, river:<DataSet>, a generator's .py, or the pipeline's own `topics` or `archive`"
        ),
    ],
    against: Annotated[Path | None, typer.Option(help="another pipeline file, over the same history")] = None,
    report: Annotated[Path | None, typer.Option(help="write a page with plots there (.html)")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as one JSON document")] = False,
    refresh: Annotated[int, typer.Option(min=1, help="records between two refreshments of the scorer's model")] = 200,
    since: Annotated[
        str | None, typer.Option(help="topics, archive: from this moment on (2026-01-31T12:00, UTC)")
    ] = None,
    until: Annotated[str | None, typer.Option(help="topics, archive: up to this moment")] = None,
    offsets: Annotated[
        list[str] | None,
        typer.Option(help="topics, archive: partition=from:to of events, of examples; to is exclusive, or left out"),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="topics: each event by the version that its live prediction names; compare the bytes"
        ),
    ] = False,
    limit: EventsMax = None,
    label_delay: LabelDelay = "1m",
    interval: Interval = "1s",
    label: LabelColumn = None,
    key: KeyColumn = None,
    time_column: TimeColumn = None,
    event_id: EventIdColumn = None,
    positive: PositiveText = None,
    seed: Seed = 7,
) -> None:
    """Take a history through the same steps as live, offline: how good would this pipeline have been?"""
    from stream.batch.replaying import Replayed
    from stream.batch.replaying import replay as run_replay
    from stream.cli.history import from_archive, from_produced, from_topics, moment_ms, offset_ranges

    files = [pipeline_file, *([against] if against is not None else [])]
    if report is not None and report.suffix != ".html":
        raise ConfigurationError("--report", str(report), "name a file that ends in .html")
    if exact:
        if source != "topics" or since or until or offsets or against or report:
            raise ConfigurationError(
                "--exact", source, "use it with `topics`, and without --since, --until, --offsets, --against, --report"
            )
        _replay_exactly(pipeline_file, as_json=as_json)
        return
    if offsets and (since or until or source not in ("topics", "archive")):
        raise ConfigurationError("--offsets", offsets, "use it with `topics` or `archive`, without --since and --until")
    history: list[Any] | None = None  # read once for both files, as is the archive
    archived: Any = None
    times, ranges = (moment_ms("--since", since), moment_ms("--until", until)), offset_ranges(offsets or ())
    start_ms = a_year_ago_ms()  # both files see the very same times
    if source == "topics":
        pipeline = load_pipeline(pipeline_file).pipeline
        history = from_topics(load_settings(), pipeline.name, *times, pipeline.reads, ranges)
    elif source == "archive":
        archived = from_archive(load_settings(), load_pipeline(pipeline_file).pipeline.name, *times, ranges)
        errors.print(
            f"{archived.events:,} events with labels; events that never got one are not in an archive", highlight=False
        )
    done: list[tuple[str, Replayed]] = []
    for file in files:
        loaded = load_pipeline(file)
        pipeline = loaded.pipeline
        records: Any = history
        scored_as = None
        if archived is not None:
            scored_as, records = archived.of(pipeline)
        elif history is None:
            columns = Columns(label, key, time_column, event_id, positive)
            delay_ms, interval_ms = entity.duration_ms(label_delay), entity.duration_ms(interval)
            records = from_produced(
                read_source(
                    pipeline,
                    source,
                    columns=columns,
                    limit=limit,
                    delay_ms=delay_ms,
                    interval_ms=interval_ms,
                    seed=seed,
                    start_ms=start_ms,
                )
            )
        with Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=errors
        ) as progress:
            total = len(records) if isinstance(records, list) else None
            task = progress.add_task(f"{file.name}, records", total=total)
            its = run_replay(
                pipeline,
                records,
                refresh=refresh,
                window=load_settings().metrics_window,
                extra_allowed=loaded.allowed,
                on_records=lambda n, task=task: progress.advance(task, n),  # type: ignore[misc]
                scored_as=scored_as,
            )
        if not its.learner["counts"].get("learned"):
            errors.print(f"[yellow]warning[/] {file.name}: no label was learned; is --label given?", highlight=False)
        done.append((pipeline.name if against is None else str(file), its))
    if report is not None:
        from stream.cli.reporting import write_report

        write_report(report, done, source)
    if as_json:
        sys.stdout.write(msgspec.json.encode(dict(done)).decode() + "\n")
        return
    for name, its in done:
        console.rule(name)
        console.print(replay_view(its.counts, its.learner, its.drifts, its.seconds))
    if report is not None:
        console.print(f"report: {report}", highlight=False)


def _replay_exactly(pipeline_file: Path, *, as_json: bool) -> None:
    from stream.cli.history import exact

    loaded = load_pipeline(pipeline_file)
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=errors) as progress:
        task = progress.add_task("records", total=None)
        its = exact(load_settings(), loaded.pipeline, loaded.allowed, lambda n: progress.advance(task, n))
    if as_json:
        sys.stdout.write(msgspec.json.encode(its).decode() + "\n")
    else:
        console.print(exact_view(its))
    if not its.same:
        raise typer.Exit(provenance.DIFFERS)
    if not its.complete:
        raise typer.Exit(provenance.CANNOT)


@app.command()
def predictions(
    pipeline_file: PipelineFile,
    from_start: Annotated[bool, typer.Option("--from-start", help="begin with the oldest")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document per line, as on the topic")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="stop after so many")] = None,
) -> None:
    """Follow the predictions; Ctrl-C ends it."""
    settings = load_settings()
    name = load_pipeline(pipeline_file).pipeline.name
    shown = 0
    for message in follow(settings, TopicNames(name).predictions, from_start=from_start):
        if as_json:
            sys.stdout.write(message.value().decode() + "\n")
            sys.stdout.flush()
        else:
            console.print(prediction_line(msgspec.json.decode(message.value())), soft_wrap=True)
        shown += 1
        if limit is not None and shown >= limit:
            return


@app.command()
def drifts(
    pipeline_file: PipelineFile,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document per line, as on the topic")] = False,
) -> None:
    """List every drift so far: what was noticed, since when, how much, and which features moved."""
    for drift in read_drifts(load_settings(), load_pipeline(pipeline_file).pipeline.name):
        if as_json:
            sys.stdout.write(msgspec.json.encode(drift).decode() + "\n")
        else:
            console.print(drift_text(drift))


@app.command("dead-letters")
def dead_letters(
    pipeline_file: PipelineFile,
    code: Annotated[str | None, typer.Option(help="only letters with this code, one by one")] = None,
    limit: Annotated[int, typer.Option(min=1, help="show the newest so many")] = 20,
    values: Annotated[
        bool, typer.Option("--values", help="show the records themselves (they may be confidential)")
    ] = False,
    resubmit: Annotated[
        bool, typer.Option("--resubmit", help="send them to where they came from, each once; after mending the cause")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="with --resubmit: also those in doubt")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do it without asking")] = False,
) -> None:
    """List what could not be processed, by code; show it; send it again."""
    from stream.cli import dead_letters as dead

    settings = load_settings()
    names = TopicNames.of(load_pipeline(pipeline_file).pipeline)
    name = names.prefix
    letters = [letter for letter in dead.read_letters(settings, names) if code in (None, letter.about.code)]
    if not letters:
        console.print(f"no dead letters{f' with code {code}' if code else ''}", highlight=False)
        return
    if resubmit:
        whose = f" of {names.reads}, which reads them again too" if names.reads else ""
        if not yes and not typer.confirm(f"Send {len(letters):,} records to their topics{whose} again?"):
            raise typer.Exit(1)
        done = dead.resubmit(settings, name, letters, again=again)
        console.print(f"sent {done.sent:,} records again, {done.before:,} had been sent before", highlight=False)
        if done.in_doubt:
            console.print(f"{done.in_doubt:,} are in doubt: see whether they came, then use --again", style="yellow")
        if done.of_learn:
            console.print(f"{done.of_learn:,} are examples: they stay, retraining reads them", highlight=False)
        return
    states = dead.resubmissions(settings, name)
    if code is None and not values:
        console.print(dead.summary_table(letters, states))
    else:
        console.print(dead.letters_table(letters[-limit:], states, values=values))


@app.command()
def status(
    pipeline_file: PipelineFile,
    watch: Annotated[bool, typer.Option("--watch", help="refresh every second until Ctrl-C")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as one JSON document")] = False,
) -> None:
    """One screen: flow, lag, labels, the model and how good it is beside the baselines."""
    from stream.core.objectives import Judged, judge

    settings = load_settings()
    pipeline = load_pipeline(pipeline_file).pipeline

    def now() -> tuple[PipelineStatus, list[Judged]]:
        status = read_status(settings, pipeline.name, pipeline.reads)
        figures = {"label_coverage": status.label_coverage(), "latency_p99_ms": status.latency_p99_ms}
        return status, judge(pipeline, status.learner, **figures)

    if as_json:
        status, judged = now()
        shown = {**msgspec.structs.asdict(status), "objectives": judged}
        sys.stdout.write(msgspec.json.encode(shown).decode() + "\n")
        return
    if not watch:
        console.print(status_view(*now()))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(status_view(*now()), refresh=True)
            time.sleep(1)


@app.command()
def reset(
    pipeline_file: PipelineFile,
    yes: Annotated[bool, typer.Option("--yes", help="do it without asking")] = False,
) -> None:
    """Forget the pipeline's state in Redis: its model, features and positions. Its topics stay. Stop its workers first."""
    from stream.cli.running import forget, refuse_running

    settings, names = load_settings(), TopicNames.of(load_pipeline(pipeline_file).pipeline)
    name = names.prefix
    refuse_running(KafkaTopics(settings.kafka(), names), name)
    if not yes and not typer.confirm(f"Forget the model and all state of {name!r}?"):
        raise typer.Exit(1)
    console.print(f"forgot {forget(settings, name)} keys of {name}", highlight=False)


@app.command()
def backfill(
    pipeline_file: PipelineFile,
    since: Annotated[
        str | None, typer.Option(help="from this moment on, by Kafka time (2026-01-31T12:00, UTC)")
    ] = None,
    from_offset: Annotated[
        list[str] | None, typer.Option(help="events partition:offset to begin at, once for each partition")
    ] = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="from the oldest event that is still there")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="only show how far the one under way has come")] = False,
    run_workers: Annotated[
        bool, typer.Option("--run", help="start one score and one learn worker here, and stop them when all is done")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="forget the state there is without asking")] = False,
    directory: Directory = Path(".driftloop") / "backfill",
) -> None:
    """Build a pipeline's state from its topics, from a moment on, and show how far it is.

    For a new version beside the one that serves: a file with another name that `reads` the old one's topics.
    """
    from stream.cli.backfilling import Start, begin, follow_backfill
    from stream.cli.history import moment_ms

    loaded = load_pipeline(pipeline_file)
    if [since is not None, bool(from_offset), from_start, follow].count(True) != 1:
        raise ConfigurationError(
            "backfill", pipeline_file.name, "use one of --since, --from-offset, --from-start, --follow"
        )
    start = Start(moment_ms("--since", since), from_offset or [])
    if run_workers:
        _rehearse(loaded)
    if not follow:

        def agree(question: str) -> bool:
            return yes or typer.confirm(question)

        begin(loaded.pipeline, start, agree, console)
    follow_backfill(loaded.pipeline, pipeline_file if run_workers else None, directory, console)


@app.command()
def settings() -> None:
    """List every setting, its value now, and what it means. Secrets are not shown."""
    now = load_settings()
    for field, info in Settings.model_fields.items():
        console.print(f"DRIFTLOOP_{field.upper()}={getattr(now, field)}", highlight=False, end="")
        console.print(f"  # {info.description}" if info.description else "", style="dim", highlight=False)


@app.command()
def demo(
    data: Annotated[str, typer.Argument(help="payments, phishing, segment, shuttle or water-flow")] = "payments",
    events: Annotated[int | None, typer.Option(min=100, help="how many, for payments")] = None,
    rate: Annotated[float | None, typer.Option(min=1, help="events per second; each example has its own")] = None,
    directory: Directory = Path(".driftloop") / "demo",
    airflow: Annotated[
        bool,
        typer.Option("--airflow", help="payments: with a real Airflow, the whole loop to the new champion (4 min)"),
    ] = False,
) -> None:
    """Start everything here, stream an example through it, show what happens, report, and stop everything."""
    from stream.cli.demonstrating import demo as run_demo

    run_demo(data, events, rate, directory, console, airflow=airflow)


for command in (
    *releases.COMMANDS,
    *provenance.COMMANDS,
    *backing_up.COMMANDS,
    retrain,
    archive,
    report,
    label,
    doctor,
):
    app.command()(command)
