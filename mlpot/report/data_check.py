"""The page of an examined data set: one file without anything from outside."""

from __future__ import annotations

import html
import re
from io import StringIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from mlpot.data.doctor.finding import Finding, Report

VERDICT = {"error": "errors", "warning": "warnings", "note": "nothing wrong"}
MOST_POINTS = 4000  # of a scatter plot
STYLE = """
:root { color-scheme: light dark; --error: #c62828; --warning: #b26a00; --note: #1565c0; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.finding { border-left: .35rem solid var(--color); padding: .1rem 1rem; margin: 1rem 0; background: #8881; }
.error { --color: var(--error); } .warning { --color: var(--warning); } .note { --color: var(--note); }
.finding b, .verdict { color: var(--color); }
pre { overflow-x: auto; padding: .5rem .8rem; background: #8882; border-radius: .3rem; }
table { border-collapse: collapse; } td { border-bottom: 1px solid var(--line); padding: .25rem 1rem .25rem 0; }
svg { width: 100%; height: auto; background: white; border-radius: .3rem; }
small { opacity: .75; }
"""


def write_page(report: Report, path: str | Path) -> None:
    """Write a report as a page with pictures.

    Args:
        report: what `mlpot.data.doctor.check.check` found.
        path: of the page.
    """
    name = html.escape(Path(report.path).name)
    findings = "".join(map(_finding, report.findings)) or "<p>There is nothing to say against this set.</p>"
    skipped = f"<h2>Not checked</h2>{_table(report.skipped)}" if report.skipped else ""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f'<h1>{name}: <span class="verdict {report.severity}">{VERDICT[report.severity]}</span></h1>'
        f"<p>{report.n_frames} frames were examined.</p>{findings}<h2>Facts</h2>{_table(report.facts)}{skipped}"
        f"<h2>Pictures</h2>{_pictures(report)}</body></html>\n"
    )
    Path(path).write_text(page, encoding="utf-8")


def _finding(found: Finding) -> str:
    frames = ""
    if found.frames:
        more = f" and {found.n_frames - len(found.frames)} more" if found.n_frames > len(found.frames) else ""
        frames = f"<br><small>Frames {', '.join(map(str, found.frames))}{more}</small>"
    sure = f"<br><small>Confidence {found.confidence:.2f}</small>" if found.confidence is not None else ""
    fix = f"<pre>{html.escape(found.fix)}</pre>" if found.fix else ""
    return (
        f'<div class="finding {found.severity}"><p><b>{found.severity}: {html.escape(found.check)}</b><br>'
        f"{html.escape(found.message)}{frames}{sure}</p>{fix}</div>"
    )


def _table(rows: dict[str, str]) -> str:
    cells = (f"<tr><td>{html.escape(name)}</td><td>{html.escape(fact)}</td></tr>" for name, fact in rows.items())
    return f"<table>{''.join(cells)}</table>"


def _pictures(report: Report) -> str:
    curves = report.curves
    drawn = [_energies, _forces, _closeness] if len(curves.get("index", ())) else []
    drawn += [_parity_energy, _parity_forces] if "predicted energy" in curves else []
    if not drawn:
        return "<p>There is nothing to draw.</p>"
    rows = -(-len(drawn) // 3)
    figure = Figure(figsize=(12.0, 3.6 * rows), layout="constrained")
    FigureCanvasSVG(figure)
    for draw, axes in zip(drawn, figure.subplots(rows, 3, squeeze=False).ravel(), strict=False):
        draw(axes, report)
    for axes in figure.axes[len(drawn) :]:
        axes.set_visible(False)
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.DOTALL)


def _marked(axes: Axes, report: Report, name: str) -> None:
    """Values by frame; frames that errors and warnings name stand out."""
    index, values = report.curves["index"], report.curves[name]
    named = {k for f in report.findings if f.severity != "note" for k in f.frames}
    marked = np.isin(index, list(named))
    axes.plot(index[~marked], values[~marked], ".", markersize=2.5, rasterized=len(index) > MOST_POINTS)
    axes.plot(index[marked], values[marked], "x", color="tab:red", label="named above")
    axes.set(xlabel="frame")
    if marked.any():
        axes.legend(fontsize=7)


def _energies(axes: Axes, report: Report) -> None:
    _marked(axes, report, "energy")
    axes.set(ylabel="energy in the file, eV/atom")


def _forces(axes: Axes, report: Report) -> None:
    _marked(axes, report, "force")
    axes.set(ylabel="greatest force in the file, eV/Å")
    if np.nanmax(report.curves["force"], initial=0.0) > 100:
        axes.set(yscale="log")


def _closeness(axes: Axes, report: Report) -> None:
    _marked(axes, report, "overlap")
    axes.set(ylabel="closest pair, sums of covalent radii")


def _parity_energy(axes: Axes, report: Report) -> None:
    _parity(axes, report.curves["labelled energy"], report.curves["predicted energy"])
    axes.set(xlabel="energy in the units of forces, less atoms", ylabel="a linear potential says")


def _parity_forces(axes: Axes, report: Report) -> None:
    labelled, predicted = report.curves["labelled forces"], report.curves["predicted forces"]
    every = max(1, len(labelled) // MOST_POINTS)
    _parity(axes, labelled[::every], predicted[::every])
    axes.set(xlabel="force components in the file", ylabel="a linear potential says")


def _parity(axes: Axes, labelled: np.ndarray, predicted: np.ndarray) -> None:
    low, high = min(labelled.min(), predicted.min()), max(labelled.max(), predicted.max())
    axes.plot([low, high], [low, high], color="grey", linewidth=0.8)
    axes.plot(labelled, predicted, ".", markersize=2, alpha=0.5, rasterized=True)
