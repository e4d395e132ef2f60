"""What a replay found, as one HTML file without outside assets: figures, their course, drifts; one pipeline or two."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stream.batch.replaying import Replayed
from stream.cli.pages import table
from stream.cli.showing import HEADLINE, drift_text, figure, words

__all__ = ["write_report"]

COLOURS = ("#1f5fa8", "#c2570c")
STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: right } th:first-child, td:first-child { text-align: left }
figure { margin: 1rem 0; background: white; border-radius: .4rem; overflow-x: auto } figure svg { width: 100%; height: auto }
.scroll { overflow-x: auto } .quiet { opacity: .7 }
"""


def write_report(path: Path, replays: Sequence[tuple[str, Replayed]], source: str) -> None:
    """Write the page; each replay with the name of its pipeline file."""
    parts = [
        f"<h1>Replay of {html.escape(source)}</h1>",
        f'<p class="quiet">{" against ".join(html.escape(name) for name, _ in replays)}</p>',
        "<h2>What was there</h2>",
        _counts(replays),
        "<h2>Quality of the predictions, with the labels' real delay</h2>",
        f"<figure>{_course(replays)}</figure>",
        '<p class="quiet">Skill: 1 is perfect, 0 is no better than the baseline under the same delay. '
        "Dashed lines are drifts.</p>",
        _quality(replays),
    ]
    for file, its in replays:
        for segment, reports in its.learner["segments"].items():
            parts += [f"<h2>{html.escape(file)}: by {html.escape(segment)}</h2>", _segment(segment, its.task, reports)]
    parts.append("<h2>Drifts</h2>")
    for file, its in replays:
        lines = "".join(f"<li>{html.escape(drift_text(drift).plain)}</li>" for drift in its.drifts)
        parts.append(f"<p>{html.escape(file)}: {len(its.drifts)}</p><ul>{lines}</ul>")
    title = html.escape(" against ".join(its.pipeline for _, its in replays))
    path.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>",
        encoding="utf-8",
    )


def _counts(replays: Sequence[tuple[str, Replayed]]) -> str:
    keys = ("events", "predictions", "labels", "examples", "dead_letters")
    rows = [
        [
            file,
            *(figure(its.counts.get(key, 0)) for key in keys),
            figure(its.learner["counts"].get("learned", 0)),
            f"{its.counts.get('events', 0) / its.seconds:,.0f}" if its.seconds else "",
            its.learner["version"],
        ]
        for file, its in replays
    ]
    return table(["", *(key.replace("_", " ") for key in keys), "learned", "events/s", "model"], rows)


def _quality(replays: Sequence[tuple[str, Replayed]]) -> str:
    keys = (*HEADLINE[replays[0][1].task], "skill_vs_persistence", "skill_vs_prior")
    columns, sheets = [], []
    for span, title in (("overall", "all"), ("window", "last")):
        for file, its in replays:
            sheet = its.learner["metrics"][span]
            columns.append(f"{file}, {title} {sheet['labels']:,}")
            sheets.append({**sheet["model"], **{k: sheet[k] for k in keys if k.startswith("skill")}})
        its = replays[0][1]
        for system in ("persistence", "prior"):
            columns.append(f"{system}, {title}")
            sheets.append(its.learner["metrics"][span][system])
    return table(["", *columns], [[words(key), *(figure(sheet.get(key)) for sheet in sheets)] for key in keys])


def _segment(name: str, task: str, reports: dict[str, Any]) -> str:
    keys = (*HEADLINE[task], "skill_vs_prior")
    rows = []
    for value, report in sorted(reports.items(), key=lambda item: -item[1]["overall"]["labels"]):
        overall = report["overall"]
        cells = (overall.get(key, overall["model"].get(key)) for key in keys)
        rows.append([value, figure(overall["labels"]), *map(figure, cells)])
    return table([name, "labels", *map(words, keys)], rows)


def _course(replays: Sequence[tuple[str, Replayed]]) -> str:
    """The key figure and the skill over the labels, as SVG."""
    import matplotlib as mpl  # slow to import
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "driftloop", "font.family": "sans-serif"}):
        drawing = Figure(figsize=(10, 5.6), layout="constrained")
        above, below = drawing.subplots(2, 1, sharex=True)
        for (file, its), colour in zip(replays, COLOURS, strict=False):
            examples = [point.examples for point in its.course]
            file = " " + file.replace("$", r"\$")  # no formula, and no name that a legend leaves out
            above.plot(examples, _line(p.figure for p in its.course), color=colour, label=file)
            below.plot(examples, _line(p.skill_vs_prior for p in its.course), color=colour, label=f"{file}, vs prior")
            skill = _line(p.skill_vs_persistence for p in its.course)
            below.plot(examples, skill, color=colour, alpha=0.45, label=f"{file}, vs persistence")
            for drift in its.drifts:
                for axes in (above, below):
                    axes.axvline(drift.from_offset, color=colour, linestyle="--", linewidth=0.8)
        below.axhline(0.0, color="grey", linewidth=0.8)
        above.set_ylabel(f"{words(replays[0][1].key_figure)}, window")
        below.set_ylabel("skill, window")
        below.set_ylim(bottom=max(-1.0, below.get_ylim()[0]))
        below.set_xlabel("examples")
        for axes in (above, below):
            axes.legend(fontsize="small")
            axes.grid(alpha=0.25)
        svg = io.StringIO()
        drawing.savefig(svg, format="svg", metadata={"Date": None})
    text = svg.getvalue()
    return re.sub("<metadata>.*</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def _line(values: Any) -> list[float]:
    return [float("nan") if value is None else value for value in values]
