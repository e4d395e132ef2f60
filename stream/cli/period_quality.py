"""How good the answers of a period were, and who gave them: two sections of its page."""

from __future__ import annotations

from collections.abc import Iterator

from stream.cli.charts import Line, Mark, line_chart, share_chart, sparkline
from stream.cli.page_parts import absent, card, duration, percent, plot, section, time_of
from stream.cli.pages import Markup, table
from stream.cli.showing import HEADLINE, drift_text, figure, words
from stream.core.period_reports import PeriodReport
from stream.core.periods import ExampleFigures

__all__ = ["models_section", "quality_section"]

COLOURS = ("blue", "orange", "green", "purple", "red")


def _marks(report: PeriodReport) -> list[Mark]:
    marks = [Mark(its.drift.detected_at_ms, "red", "drift", drift_text(its.drift).plain) for its in report.drifts or ()]
    colours = {"promoted": "green", "rolled_back": "purple"}
    marks += [
        Mark(its.decided_at_ms, colours[its.action], its.action.replace("_", " "), f"{its.base}: {its.reason}")
        for its in report.releases or ()
        if its.action in colours
    ]
    return marks


def quality_section(report: PeriodReport) -> str:
    its = report.examples
    if its is None:
        return section("quality", "Quality of the answers", "", card(absent("Not known: there are no examples.")))
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
    wanted = [(one.target, "objective") for one in report.objectives if one.name == report.key_figure]
    skill = [(one.target, "objective") for one in report.objectives if one.name.startswith("skill")]
    legend = [(one.name, one.colour) for one in above]
    note = f"{its.judged:,} answers, judged as they were served; slots of {duration(report.span.width_ms)}"
    charts = plot(key, legend, line_chart(above, label=f"{key} over the period", marks=_marks(report), levels=wanted))
    charts += plot(
        "Skill: 1 is perfect, 0 no better than the baseline; cut off below −1", [(one.name, one.colour) for one in below],
        line_chart(below, label="Skill over the period", marks=_marks(report), levels=[(0.0, ""), *skill], low_min=-1.0),
    )  # fmt: skip
    keys = [*HEADLINE[report.task], "skill_vs_persistence", "skill_vs_prior"]
    rows = [[words(k), *(figure(its.quality[s].get(k)) for s in ("model", "persistence", "prior"))] for k in keys[:-2]]
    rows += [[words(k), figure(its.quality[k]), "", ""] for k in keys[-2:]]
    whole = card(table(["", "model", "persistence", "prior"], rows, name="Figures"), title="Over the whole period")
    slots = table(
        ["from", "labels", key, "persistence", "prior", "skill vs persistence", "skill vs prior"],
        [
            [
                time_of(s.from_ms),
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
    return section("quality", "Quality of the answers", note, grid, *_segments(report, its))


def _segments(report: PeriodReport, its: ExampleFigures) -> Iterator[str]:
    for name in dict.fromkeys(one.segment for one in its.segments):
        rows = [
            [one.value, f"{one.labels:,}", figure(one.figure), Markup(sparkline(one.course, f"{one.value}: course") or "–"),
             figure(one.skill_vs_persistence), figure(one.skill_vs_prior)]
            for one in its.segments if one.segment == name
        ]  # fmt: skip
        heading = [name, "labels", words(report.key_figure), "course", "skill vs persistence", "skill vs prior"]
        yield f'<div class="grid">{card(table(heading, rows, name=f"By {name}"), title=f"By {name}")}</div>'


def models_section(report: PeriodReport) -> str:
    its = report.examples
    if its is None:
        return section("models", "Which models answered", "", card(absent("Not known: there are no examples.")))
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
            percent(one.share),
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
    return section(
        "models", "Which models answered", note, '<div class="stack">', plot("Share of the answers", legend, chart),
        card(table(heading, rows, name="Models")), "</div>",
    )  # fmt: skip
