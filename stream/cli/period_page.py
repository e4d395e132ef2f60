"""The report of a period as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from stream.cli.charts import Line, Mark, compact, line_chart, share_chart, sparkline
from stream.cli.pages import Markup, document, escape, listed, table
from stream.cli.showing import HEADLINE, drift_text, figure, words
from stream.core.period_reports import PeriodReport
from stream.core.periods import ExampleFigures
from stream.messages import Release

__all__ = ["period_page"]

COLOURS = ("blue", "orange", "green", "purple", "red")
PILLS = {"promoted": "good", "confirmed": "good", "rolled_back": "bad", "rejected": "bad", "canary": "warm"}
UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))
NOT_KNOWN = Markup('<span class="unknown">not known</span>')


def period_page(report: PeriodReport) -> str:
    """The page: figures, charts, lists; what was not known is said at the top and in its place."""
    sections = [
        _lacking(report),
        _tiles(report),
        _objectives(report),
        _quality(report),
        _models(report),
        _drifts(report),
        _releases(report),
        _runs(report),
        _labels(report),
        _dead_letters(report),
    ]
    span = report.span
    header = (
        '<a class="skip" href="#main">Skip to content</a><header class="top"><div class="name"><span class="brand">driftloop</span>'
        f'<h1>{escape(report.pipeline)}</h1><span class="muted">{escape(report.task)}</span></div>'
        f'<div class="state"><span class="muted">{_time(span.since_ms)} to {_time(span.until_ms)} UTC</span></div></header>'
    )
    footer = (
        f'<footer class="muted">Made {_time(report.made_at_ms)} UTC. All times are UTC. A label belongs to the period in which '
        "it came, and so do the answers that it judges, and the drifts and releases that it led to.</footer>"
    )
    body = f'{header}<main id="main" tabindex="-1">{"".join(sections)}</main>{footer}'
    return document(f"{report.pipeline}: {_time(span.since_ms)} to {_time(span.until_ms)}", body)


# -- texts ---------------------------------------------------------------------------------------------------------------


def _time(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S").removesuffix(":00")
    except (ValueError, OverflowError, OSError):  # of no calendar
        return f"{at_ms} ms"


def duration(ms: float | None) -> str:
    """A duration in the largest unit that suits it.

    >>> duration(90_000), duration(250), duration(None)
    ('1.5 min', '250 ms', '–')
    """
    if ms is None:
        return "–"
    return next((f"{ms / size:.3g} {unit}" for size, unit in UNITS if ms >= size), f"{ms:.0f} ms")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _section(name: str, title: str, note: str, *parts: str) -> str:
    return (
        f'<section id="{name}" aria-labelledby="{name}-h"><div class="head"><h2 id="{name}-h">{escape(title)}</h2>'
        f'<p class="muted">{escape(note)}</p></div>{"".join(parts)}</section>'
    )


def _card(*parts: str, title: str = "") -> str:
    head = f"<h3>{escape(title)}</h3>" if title else ""
    return f'<div class="card">{head}{"".join(parts)}</div>'


def _plot(title: str, legend: Sequence[tuple[str, str]], chart: str) -> str:
    keys = "".join(f'<span class="c-{colour}">{escape(name)}</span>' for name, colour in legend)
    return (
        f'<figure class="card plot"><figcaption><span>{escape(title)}</span><span class="legend">{keys}</span></figcaption>'
        f"{chart}</figure>"
    )


def _absent(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


# -- sections ------------------------------------------------------------------------------------------------------------


def _lacking(report: PeriodReport) -> str:
    if not report.missing:
        return ""
    lines = "".join(f"<li><b>{escape(one.what)}</b>: {escape(one.why)}</li>" for one in report.missing)
    return f'<section class="card lacking" aria-label="Not known"><h2>Not known for this period</h2><ul>{lines}</ul></section>'


def _tile(name: str, value: str | None, note: str, tone: str = "") -> str:
    shown = f'<dd class="big unknown">{"not known"}</dd>' if value is None else f'<dd class="big">{escape(value)}</dd>'
    return f'<div class="tile {tone}"><dt>{escape(name)}</dt>{shown}<dd class="sub">{escape(note)}</dd></div>'


def _tiles(report: PeriodReport) -> str:
    its = report.examples
    model = its.quality["model"] if its else {}
    given = sum(its.labels.get(t, 0) for t in ("on_time", "early", "late")) if its else None
    skill = its.quality["skill_vs_prior"] if its else None
    dead = report.dead_letter_count
    tiles = [
        _tile("events", _count(report.events), f"{_count(report.predictions) or 'not known'} predictions"),
        _tile("labels", _count(given), f"{its.judged:,} answers judged" if its else ""),
        _tile("coverage", None if report.coverage is None else _percent(report.coverage), "of its events, labelled by now"),
        _tile("label delay", duration(its.delay_ms["p50"]) if its else None, "half come within"),
        _tile(words(report.key_figure), compact(model.get(report.key_figure)) if its else None,
              f"skill against prior {figure(skill)}" if its else ""),
        _tile("drifts", _count(None if report.drifts is None else len(report.drifts)), "",
              "warm" if report.drifts else ""),
        _tile("releases", _count(None if report.releases is None else len(report.releases)), "changes of models"),
        _tile("dead letters", _count(dead), "", "bad" if dead else ""),
    ]  # fmt: skip
    return f'<section aria-label="In short"><dl class="tiles">{"".join(tiles)}</dl></section>'


def _count(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _objectives(report: PeriodReport) -> str:
    if not report.objectives:
        return _section("objectives", "Objectives", "The pipeline declares none.")
    rows = []
    for one in report.objectives:
        kept = {True: Markup('<span class="kept">kept</span>'), False: Markup('<span class="broken">broken</span>')}
        slots = "" if one.slots_kept is None else f"{one.slots_kept} of {one.slots_known}"
        value = NOT_KNOWN if one.figure is None else _of_objective(one.name, one.figure)
        wanted = one.wanted
        if one.name.endswith("_ms"):
            bound, _, limit = one.wanted.rpartition(" ")
            wanted = f"{bound} {duration(float(limit))}"
        rows.append(
            [
                words(one.name.removesuffix("_ms")),
                wanted,
                value,
                NOT_KNOWN if one.kept is None else kept[one.kept],
                slots,
            ]
        )
    heading = ["", "promised", "over the period", "", "slots that kept it"]
    note = (
        "Latency is not in the archive: ask Prometheus."
        if any(o.name == "latency_p99_ms" for o in report.objectives)
        else ""
    )
    return _section("objectives", "Objectives", note, _card(table(heading, rows, name="Objectives")))


def _of_objective(name: str, value: float) -> str:
    return duration(value) if name.endswith("_ms") else _percent(value) if name == "label_coverage" else figure(value)


def _marks(report: PeriodReport) -> list[Mark]:
    marks = [Mark(its.drift.detected_at_ms, "red", "drift", drift_text(its.drift).plain) for its in report.drifts or ()]
    colours = {"promoted": "green", "rolled_back": "purple"}
    marks += [
        Mark(its.decided_at_ms, colours[its.action], its.action.replace("_", " "), f"{its.base}: {its.reason}")
        for its in report.releases or ()
        if its.action in colours
    ]
    return marks


def _quality(report: PeriodReport) -> str:
    its = report.examples
    if its is None:
        return _section("quality", "Quality of the answers", "", _card(_absent("Not known: there are no examples.")))
    half = report.span.width_ms / 2
    middles = [slot.from_ms + half for slot in its.course]
    key = words(report.key_figure)

    def line(name: str, colour: str, field: str) -> Line:
        return Line(name, colour, [(x, getattr(slot, field)) for x, slot in zip(middles, its.course, strict=True)])

    above = [
        line("model", "blue", "figure"),
        line("persistence", "orange", "persistence"),
        line("prior", "grey", "prior"),
        line("ranking at random", "grey", "chance"),
    ]
    above = [one for one in above if any(y is not None for _, y in one.points)]
    below = [
        line("against prior", "blue", "skill_vs_prior"),
        line("against persistence", "orange", "skill_vs_persistence"),
    ]
    wanted = [
        (float(o.wanted.rpartition(" ")[2]), "objective") for o in report.objectives if o.name == report.key_figure
    ]
    skill = [(float(o.wanted.rpartition(" ")[2]), "objective") for o in report.objectives if o.name.startswith("skill")]
    legend = [(one.name, one.colour) for one in above]
    note = f"{its.judged:,} answers, judged as they were served; slots of {duration(report.span.width_ms)}"
    charts = _plot(key, legend, line_chart(above, label=f"{key} over the period", marks=_marks(report), levels=wanted))
    charts += _plot(
        "Skill: 1 is perfect, 0 no better than the baseline", [(one.name, one.colour) for one in below],
        line_chart(below, label="Skill over the period", marks=_marks(report), levels=[(0.0, ""), *skill], low_min=-1.0),
    )  # fmt: skip
    keys = [*HEADLINE[report.task], "skill_vs_persistence", "skill_vs_prior"]
    rows = [[words(k), *(figure(its.quality[s].get(k)) for s in ("model", "persistence", "prior"))] for k in keys[:-2]]
    rows += [[words(k), figure(its.quality[k]), "", ""] for k in keys[-2:]]
    whole = _card(table(["", "model", "persistence", "prior"], rows, name="Figures"), title="Over the whole period")
    slots = table(
        ["from", "labels", key, "persistence", "prior", "skill vs persistence", "skill vs prior"],
        [
            [
                _time(s.from_ms),
                f"{s.labels:,}",
                *map(figure, (s.figure, s.persistence, s.prior, s.skill_vs_persistence, s.skill_vs_prior)),
            ]
            for s in its.course
        ],
        name="Slots",
    )
    details = f"<details><summary>The figures of each slot</summary>{slots}</details>"
    grid = (
        f'<div class="grid wide-left"><div class="stack">{charts}</div><div class="stack">{whole}</div></div>{details}'
    )
    return _section("quality", "Quality of the answers", note, grid, *_segments(report, its))


def _segments(report: PeriodReport, its: ExampleFigures) -> Iterator[str]:
    for name in dict.fromkeys(one.segment for one in its.segments):
        rows = [
            [one.value, f"{one.labels:,}", figure(one.figure), Markup(sparkline(one.course, f"{one.value}: course") or "–"),
             figure(one.skill_vs_persistence), figure(one.skill_vs_prior)]
            for one in its.segments if one.segment == name
        ]  # fmt: skip
        heading = [name, "labels", words(report.key_figure), "course", "skill vs persistence", "skill vs prior"]
        yield f'<div class="grid">{_card(table(heading, rows, name=f"By {name}"), title=f"By {name}")}</div>'


def _models(report: PeriodReport) -> str:
    its = report.examples
    if its is None:
        return _section("models", "Which models answered", "", _card(_absent("Not known: there are no examples.")))
    ranked = sorted(its.models, key=lambda one: -one.answers)
    colours = {one.base: COLOURS[i] if i < len(COLOURS) else "then" for i, one in enumerate(ranked)}
    slots = [(float(slot.from_ms), slot.models) for slot in its.course]
    chart = share_chart(
        slots, colours, report.span.width_ms, label="Share of the answers of each base model", marks=_marks(report)
    )
    rows = [
        [
            one.base,
            ", ".join(one.slots),
            f"{one.answers:,}",
            _percent(one.share),
            figure(one.figure),
            one.first_version,
            one.last_version,
        ]
        for one in its.models
    ]
    heading = ["base", "as", "answers", "share", words(report.key_figure), "first version", "last version"]
    now = report.now
    live = f"now {now['version']} is live, with {now['learned']:,} labels learned" if now else ""
    legend = [(base, colour) for base, colour in list(colours.items())[:8]]
    note = f"of answers that have a label{'; ' + live if live else ''}"
    return _section(
        "models", "Which models answered", note, '<div class="stack">', _plot("Share of the answers", legend, chart),
        _card(table(heading, rows, name="Models")), "</div>",
    )  # fmt: skip


def _drifts(report: PeriodReport) -> str:
    found = report.drifts
    if not found:
        return _section("drifts", "Drifts", "", _card(_absent("Not known." if found is None else "None.")))
    lines = []
    for its in found:
        began = f", the change most likely at {_time(its.began_at_ms)}" if its.began_at_ms is not None else ""
        lines.append(
            f"<li>{escape(drift_text(its.drift).plain)}<div class=why>noticed {_time(its.drift.detected_at_ms)}{began}</div></li>"
        )
    return _section("drifts", "Drifts", f"{len(found):,}", _card(f'<ol class="log">{"".join(lines)}</ol>'))


def _releases(report: PeriodReport) -> str:
    found = report.releases
    if not found:
        return _section(
            "releases", "Releases", "", _card(_absent("Not known." if found is None else "No model changed."))
        )
    return _section(
        "releases", "Releases", f"{len(found):,}", _card(f'<ol class="log">{"".join(map(_release, found))}</ol>')
    )


def _release(its: Release) -> str:
    share = f", answers {_percent(its.share)} of the entities" if its.share else ""
    evidence = ""
    if its.evidence:
        pairs = listed((words(name), figure(value)) for name, value in its.evidence.items())
        evidence = f"<details><summary>evidence</summary>{pairs}</details>"
    pill = f'<span class="pill {PILLS.get(its.action, "blue")}">{escape(its.action.replace("_", " "))}</span>'
    return (
        f"<li>{pill}<code>{escape(its.version)}</code>{escape(share)}<div>{escape(its.reason)}</div>"
        f'<div class="why">{_time(its.decided_at_ms)}, by {escape(its.decided_by)}</div>{evidence}</li>'
    )


def _runs(report: PeriodReport) -> str:
    found = report.runs
    if not found:
        return _section("runs", "Retraining runs", "", _card(_absent("Not known." if found is None else "None.")))
    outcome: Callable[[bool | None], str] = lambda known: {True: "yes", False: "no", None: "–"}[known]  # noqa: E731
    rows = [
        [one.run, "–" if one.at_ms is None else _time(one.at_ms), one.cause or "–", f"{one.labels:,}", figure(one.trials),
         figure(one.of_candidate), figure(one.of_champion), one.base or "–", outcome(one.accepted), outcome(one.released), one.why]
        for one in found
    ]  # fmt: skip
    heading = [
        "run",
        "last example",
        "cause",
        "labels",
        "trials",
        "candidate",
        "champion",
        "base",
        "accepted",
        "released",
        "why",
    ]
    return _section("runs", "Retraining runs", f"{len(found):,}", _card(table(heading, rows, words=[10], name="Runs")))


def _labels(report: PeriodReport) -> str:
    its = report.examples
    cards = []
    if its is not None:
        pairs = [(timing.replace("_", " "), f"{count:,}") for timing, count in its.labels.items()]
        pairs += [
            (f"{share} within", duration(its.delay_ms[q]))
            for q, share in (("p50", "50 %"), ("p90", "90 %"), ("p99", "99 %"))
        ]
        pairs += [
            (name, f"{n:,}") for name, n in (("copies left out", its.repeats), ("unreadable", its.unreadable)) if n
        ]
        cards.append(_card(listed(pairs), title="When they came"))
        rows = [
            [
                source,
                f"{one['labels']:,}",
                f"{one['contradicted']:,}",
                f"{one['contradicts']:,}",
                "look at it" if one["flagged"] else "",
            ]
            for source, one in its.sources.items()
        ]
        cards.append(
            _card(
                table(["source", "labels", "contradicted", "contradicts", ""], rows, name="Sources"),
                title="Who labelled",
            )
        )
    if asked := report.requests:
        budget = "not known" if asked.budget is None else f"{asked.budget:,.0f}"
        pairs = [("asked", f"{asked.asked:,}"), ("allowed by the budget", budget), ("answered", f"{asked.answered:,}")]
        pairs += [
            ("declined", f"{asked.declined:,}"),
            *((f"by {n.replace('_', ' ')}", f"{c:,}") for n, c in asked.by_strategy.items()),
        ]
        cards.append(_card(listed(pairs), title="Asked for"))
    cards = cards or [_card(_absent("Not known."))]
    kind = {1: "", 2: "halves", 3: "thirds"}[len(cards)]
    return _section("labels", "Labels", "", f'<div class="grid {kind}">{"".join(cards)}</div>')


def _dead_letters(report: PeriodReport) -> str:
    found = report.dead_letters
    if not found:
        return _section("dead-letters", "Dead letters", "", _card(_absent("Not known." if found is None else "None.")))
    rows = [[one.code, f"{one.count:,}", _time(one.newest_at_ms), one.message] for one in found]
    heading = ["code", "letters", "newest", "message of the newest"]
    return _section("dead-letters", "Dead letters", "", _card(table(heading, rows, words=[3], name="Dead letters")))
