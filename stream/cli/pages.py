"""Parts of pages that are one file: nothing from outside, no script, everything escaped."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from importlib.resources import files

__all__ = ["Markup", "document", "escape", "listed", "table"]

escape = html.escape
STYLE = """
.plot svg { display: block; width: 100%; height: auto; overflow: visible; }
.chart-narrow { display: none; }
.spark { width: 120px; height: 26px; display: inline-block; vertical-align: middle; }
svg .line { stroke-linecap: round; }
.unknown { color: var(--muted); font-weight: 400; } .tile .big.unknown { font-size: 15px; line-height: 1.75; }
.kept { color: var(--green); } .broken { color: var(--red); font-weight: 600; }
.lacking { border-left: 3px solid var(--orange); margin-bottom: 1rem; } .lacking ul, .plain { margin: .2rem 0; padding-left: 1.1rem; }
.lacking li { margin: .15rem 0; overflow-wrap: anywhere; } .lacking h2 { margin-bottom: .4rem; }
.log { max-height: none; } details { margin-top: .5rem; } summary { cursor: pointer; color: var(--muted); font-size: 13px; }
th.words { text-align: left; } td.words { text-align: left; white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
.grid > .card { overflow: hidden; } .top .muted { font-size: 13px; }
@media (max-width: 700px) { .chart-wide { display: none; } .chart-narrow { display: block; } .top { position: static; flex-wrap: wrap; } .state { margin-left: 0; } }
@media print {
  @page { margin: 14mm; }
  :root, :root:not([data-theme="light"]) { color-scheme: light; --ground: #fff; --card: #fff; --line: #ccc; --grid: #e6e6e6; --text: #000; --muted: #444;
    --blue: #1f5fbf; --grey: #8a94a3; --orange: #b4540a; --red: #b3261e; --green: #1b7a43; --purple: #7a3fb5; --then: #9aa5b5;
    --blue-soft: #fff; --red-soft: #fff; --amber-soft: #fff; --green-soft: #fff; }
  .top { position: static; } nav, .skip { display: none; } main { max-width: none; padding: 0; } .card, .tile, tr, .log li { break-inside: avoid; }
  .tiles { grid-template-columns: repeat(4, 1fr); } .chart-wide { display: block; } .chart-narrow { display: none; } .scroll { overflow: visible; }
  table { font-size: 11px; } th, td, tbody th { white-space: normal; overflow-wrap: anywhere; } td.words { min-width: 0; }
}
"""


class Markup(str):
    """Text that is markup already; everything else is escaped."""


def document(title: str, body: str) -> str:
    """A whole page in the style of the live page. Its policy lets nothing in but its own style."""
    page_style = files("stream.worker.web").joinpath("assets", "page.css").read_text(encoding="utf-8")
    style = f"\n{page_style}{STYLE}"
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], *, words: Sequence[int] = (), name: str = "") -> str:
    """A table that scrolls sideways by itself where the page is narrow; `words`: columns of text that may wrap.

    Cells are text, or `Markup`.
    """
    head = "".join(
        f'<th scope="col"{" class=words" if at in words else ""}>{escape(cell)}</th>' for at, cell in enumerate(heading)
    )
    body = "".join(f"<tr>{''.join(_cell(at, cell, words) for at, cell in enumerate(row))}</tr>" for row in rows)
    label = escape(name or " ".join(heading).strip())
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(at: int, cell: str, words: Sequence[int]) -> str:
    shown = cell if isinstance(cell, Markup) else escape(cell)
    if at == 0:
        return f'<th scope="row">{shown}</th>'
    return f'<td class="words">{shown}</td>' if at in words else f"<td>{shown}</td>"


def listed(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values."""
    rows = "".join(f"<dt>{escape(n)}</dt><dd>{v if isinstance(v, Markup) else escape(v)}</dd>" for n, v in pairs)
    return f'<dl class="pairs">{rows}</dl>'
