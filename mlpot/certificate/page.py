"""The certificate as a page: one file without anything from outside."""

from __future__ import annotations

import html
import math
from pathlib import Path

from mlpot.certificate.check import Check
from mlpot.certificate.verify import Certificate

STYLE = """
:root { color-scheme: light dark; --good: #2e7d32; --bad: #c62828; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: bold; }
.meter { width: 9rem; height: .6rem; background: #8883; border-radius: .3rem; margin-top: .5rem; }
.meter div { height: 100%; border-radius: .3rem; }
.meter .good { background: var(--good); } .meter .bad { background: var(--bad); }
small { opacity: .75; }
"""
DECADES = 6  # of figure over bar, that the meter spans below the bar


def write_page(certificate: Certificate, path: str | Path) -> None:
    """Write a certificate as an HTML page."""
    c, name = certificate, html.escape(certificate.subject)
    verdict = '<span class="good">passed</span>' if c.passed else '<span class="bad">not passed</span>'
    structures = ", ".join(f"{html.escape(k)} ({html.escape(v)})" for k, v in c.structures.items())
    rows = "".join(map(_row, c.checks))
    left_out = "".join(
        f"<tr><td>{id}</td><td>{html.escape(why)}</td></tr>" for id, why in c.not_applicable.items()
    )
    left_out = f"<h2>Does not apply</h2><table>{left_out}</table>" if left_out else ""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Certificate of {name}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{name}: {verdict}</h1><p>{sum(k.passed for k in c.checks)} of {len(c.checks)} checks passed, level "
        f"<b>{c.level}</b>, computed in {c.precision}, on {structures}.</p>"
        "<table><tr><th></th><th>check</th><th>figure</th><th>bar</th><th></th><th>what and where</th></tr>"
        f"{rows}</table><p><small>The meter is logarithmic and full at the bar; each row tells the figure "
        f"that came closest to its bar.</small></p>{left_out}"
        f"<p><small>mlpot {c.mlpot}, {c.created}, {c.seconds:g} s</small></p></body></html>\n"
    )
    Path(path).write_text(page, encoding="utf-8")


def _row(check: Check) -> str:
    kind, mark = ("good", "✓") if check.passed else ("bad", "✗")
    where = f" <small>{html.escape(check.where)}</small>" if check.where else ""
    note = f"<br><small>{html.escape(check.note)}</small>" if check.note else ""
    return (
        f'<tr><td class="{kind}">{mark} {check.id}</td><td>{html.escape(check.name)}</td>'
        f'<td class="number">{check.figure:.2g}</td><td class="number">{check.bar:.2g}</td>'
        f'<td><div class="meter"><div class="{kind}" style="width:{100 * _fullness(check):.0f}%"></div></div></td>'
        f"<td>{html.escape(check.what)}{where}{note}</td></tr>"
    )


def _fullness(check: Check) -> float:
    """Of the meter: 1 at the bar and beyond, 0 at a millionth of it."""
    if not check.passed:
        return 1.0
    if check.figure <= 0 or check.bar <= 0:
        return 0.0
    return max(0.0, 1 + math.log10(check.figure / check.bar) / DECADES)
