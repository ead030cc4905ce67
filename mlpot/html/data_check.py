"""The page of an examined data set."""

from __future__ import annotations

from pathlib import Path

from mlpot.atomic_files import write_whole
from mlpot.data.check.finding import Finding, Report
from mlpot.figures.data_check import check_panels
from mlpot.html.page import Html, Kind, aside, facts, finding, page, pictures, section, tag

VERDICT: dict[str, tuple[Kind, str]] = {
    "error": ("error", "errors"),
    "warning": ("warning", "warnings"),
    "note": ("good", "nothing wrong"),
}


def write_page(report: Report, path: str | Path) -> None:
    """Write a report as a page with pictures.

    Args:
        report: what `mlpot.data.check.check.check` found.
        path: of the page.
    """
    panels = check_panels(report)
    findings = [_finding(f) for f in report.findings] or [tag("p", "No check found a problem in this set.")]
    text = page(
        Path(report.path).name,
        tag("p", f"{report.n_frames} frames were examined."),
        *findings,
        section("Facts", facts(report.facts)),
        section("Not checked", facts(report.skipped)) if report.skipped else Html(),
        section("Pictures", pictures(panels) if panels else tag("p", "There are no pictures.")),
        verdict=VERDICT[report.severity],
    )
    write_whole(Path(path), text.encode())


def _finding(found: Finding) -> Html:
    more = f" and {found.n_frames - len(found.frames)} more" if found.n_frames > len(found.frames) else ""
    frames = [f"Frames {', '.join(map(str, found.frames))}{more}"] if found.frames else []
    sure = [] if found.confidence is None else [f"Confidence {found.confidence:.2f}"]
    return finding(
        found.severity,
        f"{found.severity}: {found.check}",
        tag("p", found.message),
        *map(aside, frames + sure),
        tag("pre", found.fix) if found.fix else Html(),
    )
