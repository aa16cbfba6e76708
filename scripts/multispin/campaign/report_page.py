"""The page of a report: one file of HTML, nothing fetched, light and dark, for phones and screen readers too."""

import base64
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, Final

from multispin.campaign.conclusions import Section
from multispin.campaign.drawings.drawing import Drawing, Table
from multispin.campaign.measured import Measured
from multispin.campaign.rules.checking import Verdict

__all__ = ["report_page"]

_FAULTS_SHOWN: Final = 20
_ROWS_SHOWN: Final = 400
_STYLE: Final = """
:root{color-scheme:light dark;--ground:#fff;--ink:#16181a;--faint:#565c62;--line:#d5d9dd;--card:#f5f6f7;--bad:#a3280a}
@media (prefers-color-scheme:dark){:root{--ground:#14171a;--ink:#e6e8ea;--faint:#a4abb2;--line:#3a4046;--card:#1c2024;
--bad:#ff9b7d}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--ground);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2}h2{font-size:1.25rem;margin-top:2.2rem}h3{font-size:1.05rem}
figure{margin:1.5rem 0;padding:.8rem;background:var(--card);border:1px solid var(--line);border-radius:.4rem}
figure img{display:block;width:100%;min-width:34rem;height:auto}
figcaption{font-size:.9rem;color:var(--faint);margin-top:.5rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.2rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}
td.number{text-align:right}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{color:var(--faint)}dd{margin:0}
.banner{border:2px solid var(--bad);border-radius:.4rem;padding:.5rem 1rem}
summary{cursor:pointer;padding:.3rem 0}
code{font-size:.85em;overflow-wrap:anywhere}
a{color:inherit}
@media (max-width:36rem){dl{grid-template-columns:1fr}dt{margin-top:.4rem}}
"""


def report_page(
    run: Measured,
    sections: Sequence[Section],
    drawings: Sequence[Drawing],
    tables: Sequence[tuple[str, Table]],
    verdict: Verdict,
) -> str:
    """Return the page.

    Args:
        run: what was measured.
        sections: of the conclusions.
        drawings: figures.
        tables: title and numbers of what is not a figure: comparisons by setting, what was left out.
        verdict: of the rules.
    """
    name = escape(run.campaign.campaign_id)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">",
        f"<title>Campaign {name}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>Campaign {name}</h1>",
        *_verdict(verdict),
        "<h2>Conclusions</h2>",
        *_conclusions(sections),
        "<h2>Figures</h2>",
        *(line for drawing in drawings for line in _figure(drawing)),
        "<h2>Tables</h2>",
        *(line for title, table in tables for line in _details(title, table)),
        "<h2>What was run</h2>",
        *_facts(run),
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _verdict(verdict: Verdict) -> Iterator[str]:
    if not verdict.faults:
        yield f"<p>All {len(verdict.rules)} rules of <code>campaign verify</code> hold: the run counts.</p>"
        return
    yield '<section class="banner" aria-label="Verification">'
    yield f"<p><strong>This run does not count: {len(verdict.faults)} faults</strong>, by the rules of "
    yield "<code>campaign verify</code>. Its figures are shown all the same, and are not to be quoted.</p><ul>"
    for fault in verdict.faults[:_FAULTS_SHOWN]:
        where = f"{fault.where}: " if fault.where else ""
        yield f"<li>Rule {fault.rule}: {escape(where + fault.what)}</li>"
    if len(verdict.faults) > _FAULTS_SHOWN:
        yield f"<li>and {len(verdict.faults) - _FAULTS_SHOWN} more</li>"
    yield "</ul></section>"


def _conclusions(sections: Sequence[Section]) -> Iterator[str]:
    for section in sections:
        yield f"<h3>{escape(section.title)}</h3><ul>"
        for sentence in section.sentences:
            yield f"<li>{escape(sentence)}</li>"
        yield "</ul>"


def _figure(drawing: Drawing) -> Iterator[str]:
    yield f"<h3>{escape(drawing.title)}</h3>"
    if not drawing.svg:
        yield f"<p>{escape(drawing.caption)}</p>"
        return
    picture = base64.b64encode(drawing.svg).decode()
    yield f'<figure><div class="scroll" tabindex="0" role="region" aria-label="Picture: {escape(drawing.title)}">'
    yield f'<img alt="{escape(drawing.alternative)}" src="data:image/svg+xml;base64,{picture}"></div>'
    yield f"<figcaption>{escape(drawing.caption)}</figcaption>"
    yield from _details(f"Numbers of: {drawing.title}", drawing.table)
    yield "</figure>"


def _details(title: str, table: Table) -> Iterator[str]:
    if not table.rows:
        yield f"<p>{escape(title)}: none.</p>"
        return
    yield f"<details><summary>{escape(title)} ({len(table.rows)} rows)</summary>"
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}"><table><thead><tr>'
    yield "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    yield "</tr></thead><tbody>"
    for row in table.rows[:_ROWS_SHOWN]:
        yield "<tr>" + "".join(map(_cell, row)) + "</tr>"
    yield "</tbody></table></div>"
    if len(table.rows) > _ROWS_SHOWN:
        yield f"<p>The first {_ROWS_SHOWN}; all are in the CSV file.</p>"
    yield "</details>"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, float):
        return f'<td class="number">{value:.4g}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value}</td>'
    return f"<td>{'–' if value is None else escape(str(value))}</td>"  # noqa: RUF001 - a dash for nothing


def _facts(run: Measured) -> Iterator[str]:
    campaign = run.campaign
    machine = campaign.machine
    facts = {
        "Started": campaign.started_at,
        "Driver's machine": f"{machine.node}: {machine.cpu_model}, {machine.num_cores} cores, {machine.kernel}",
        "Devices": ", ".join(campaign.devices),
        "Cells": f"{len(run.cells)} count, {len(run.excluded)} excluded, {len(run.missing)} missing",
        "Blocks": str(len({each.cell.block for each in run.cells})),
        "Target": _model(campaign.target),
        "Draft": _model(campaign.draft),
        "Model files": ", ".join(f"{name} {sha256[:16]}…" for name, sha256 in campaign.model_files.items()) or "none",
        "Versions": ", ".join(f"{name} {version}" for name, version in campaign.versions.items()),
        "Plan, sha256": campaign.plan_sha256,
        "Statistics": "paired by device-block; bootstrap-t over device-blocks, Student's ends as a floor from 8 blocks "
        "on; Holm's adjustment within a metric. A mean over settings leaves out blocks that lack one.",
    }
    yield "<dl>"
    for name, value in facts.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
    yield "</dl>"


def _model(info: Any) -> str:
    return f"{info.name}, {info.recipe}, {info.engine}, {info.fingerprint[:16]}…" if info is not None else "none"
