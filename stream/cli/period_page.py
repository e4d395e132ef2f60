"""The report of a period as one HTML page."""

from __future__ import annotations

from collections.abc import Callable

from stream.cli.charts import compact
from stream.cli.page_parts import absent, card, duration, percent, section, time_of
from stream.cli.pages import Markup, document, escape, listed, table
from stream.cli.period_quality import models_section, quality_section
from stream.cli.showing import drift_text, figure, words
from stream.core.objectives import GIVEN
from stream.core.period_reports import PeriodReport
from stream.messages import Release

__all__ = ["period_page"]

PILLS = {"promoted": "good", "confirmed": "good", "rolled_back": "bad", "rejected": "bad", "canary": "warm"}
NOT_KNOWN = Markup('<span class="unknown">not known</span>')


def period_page(report: PeriodReport) -> str:
    """The page: figures, charts, lists; what was not known is said at the top and in its place."""
    sections = [
        _lacking(report),
        _tiles(report),
        _objectives(report),
        quality_section(report),
        models_section(report),
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
        f'<div class="state"><span class="muted">{time_of(span.since_ms)} to {time_of(span.until_ms)} UTC</span></div></header>'
    )
    footer = (
        f'<footer class="muted">Made {time_of(report.made_at_ms)} UTC. All times are UTC. A label belongs to the period in which '
        "it came, and so do the answers that it judges, and the drifts and releases that it led to.</footer>"
    )
    body = f'{header}<main id="main" tabindex="-1">{"".join(sections)}</main>{footer}'
    return document(f"{report.pipeline}: {time_of(span.since_ms)} to {time_of(span.until_ms)}", body)


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
    given = sum(its.labels.get(t, 0) for t in GIVEN) if its else None
    skill = its.quality["skill_vs_prior"] if its else None
    dead = report.dead_letter_count
    tiles = [
        _tile("events", _count(report.events), f"{_count(report.predictions) or 'not known'} predictions"),
        _tile("labels", _count(given), f"{its.judged:,} answers judged" if its else ""),
        _tile("coverage", None if report.coverage is None else percent(report.coverage), "of its events, labelled by now"),
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
        return section("objectives", "Objectives", "The pipeline declares none.")
    rows = []
    for one in report.objectives:
        kept = {True: Markup('<span class="kept">kept</span>'), False: Markup('<span class="broken">broken</span>')}
        slots = "" if one.slots_kept is None else f"{one.slots_kept} of {one.slots_known}"
        value = NOT_KNOWN if one.figure is None else _of_objective(one.name, one.figure)
        weighted = one.basis.startswith("unbiased")
        wanted = one.wanted
        if one.name.endswith("_ms"):
            wanted = f"{one.wanted.rpartition(' ')[0]} {duration(one.target)}"
        rows.append(
            [
                words(one.name.removesuffix("_ms")) + (", of all events" if weighted else ""),
                wanted,
                value,
                NOT_KNOWN if one.kept is None else kept[one.kept],
                slots,
            ]
        )
    heading = ["", "promised", "over the period", "", "slots that kept it"]
    notes = []
    if any(o.name == "latency_p99_ms" for o in report.objectives):
        notes.append("Latency is not in the archive: ask Prometheus.")
    if any(o.basis.startswith("unbiased") for o in report.objectives):
        notes.append("Where it says of all events, labels on request are weighted by inverse propensity.")
    return section("objectives", "Objectives", " ".join(notes), card(table(heading, rows, name="Objectives")))


def _of_objective(name: str, value: float) -> str:
    return duration(value) if name.endswith("_ms") else percent(value) if name == "label_coverage" else f"{value:.4g}"


def _drifts(report: PeriodReport) -> str:
    found = report.drifts
    if not found:
        return section("drifts", "Drifts", "", card(absent("Not known." if found is None else "None.")))
    lines = []
    for its in found:
        began = f", the change most likely at {time_of(its.began_at_ms)}" if its.began_at_ms is not None else ""
        lines.append(
            f"<li>{escape(drift_text(its.drift).plain)}"
            f'<div class="why">noticed {time_of(its.drift.detected_at_ms)}{began}</div></li>'
        )
    return section("drifts", "Drifts", f"{len(found):,}", card(f'<ol class="log">{"".join(lines)}</ol>'))


def _releases(report: PeriodReport) -> str:
    found = report.releases
    if not found:
        return section("releases", "Releases", "", card(absent("Not known." if found is None else "No model changed.")))
    return section(
        "releases", "Releases", f"{len(found):,}", card(f'<ol class="log">{"".join(map(_release, found))}</ol>')
    )


def _release(its: Release) -> str:
    share = f", answers {percent(its.share)} of the entities" if its.share else ""
    evidence = ""
    if its.evidence:
        pairs = listed((words(name), figure(value)) for name, value in its.evidence.items())
        evidence = f"<details><summary>evidence</summary>{pairs}</details>"
    pill = f'<span class="pill {PILLS.get(its.action, "blue")}">{escape(its.action.replace("_", " "))}</span>'
    return (
        f"<li>{pill}<code>{escape(its.version)}</code>{escape(share)}<div>{escape(its.reason)}</div>"
        f'<div class="why">{time_of(its.decided_at_ms)}, by {escape(its.decided_by)}</div>{evidence}</li>'
    )


def _runs(report: PeriodReport) -> str:
    found = report.runs
    if not found:
        return section("runs", "Retraining runs", "", card(absent("Not known." if found is None else "None.")))
    outcome: Callable[[bool | None], str] = lambda known: {True: "yes", False: "no", None: "–"}[known]  # noqa: E731
    rows = [
        [one.run, "–" if one.at_ms is None else time_of(one.at_ms), one.cause or "–", f"{one.labels:,}", figure(one.trials),
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
    return section("runs", "Retraining runs", f"{len(found):,}", card(table(heading, rows, words=[10], name="Runs")))


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
        cards.append(card(listed(pairs), title="When they came"))
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
            card(
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
        cards.append(card(listed(pairs), title="Asked for"))
    cards = cards or [card(absent("Not known."))]
    kind = {1: "", 2: "halves", 3: "thirds"}[len(cards)]
    return section("labels", "Labels", "", f'<div class="grid {kind}">{"".join(cards)}</div>')


def _dead_letters(report: PeriodReport) -> str:
    found = report.dead_letters
    if not found:
        return section("dead-letters", "Dead letters", "", card(absent("Not known." if found is None else "None.")))
    rows = [[one.code, f"{one.count:,}", time_of(one.newest_at_ms), one.message] for one in found]
    heading = ["code", "letters", "newest", "message of the newest"]
    return section("dead-letters", "Dead letters", "", card(table(heading, rows, words=[3], name="Dead letters")))
