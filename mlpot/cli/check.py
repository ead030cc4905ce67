"""`mlpot data info` and `mlpot data check`; as in `cli`, imports stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mlpot.cli.data import ElementNames, ElementsFrom, console, new_table, print_account, print_facts, source_of

if TYPE_CHECKING:
    from mlpot.data.check.finding import Report
    from mlpot.data.check.info import DataInfo


def data_info(
    file: Annotated[Path, typer.Argument(help="A file of structures of any kind.")],
    cutoff: Annotated[float, typer.Option(min=0.1, max=100.0, help="Å, for neighbors and distances.")] = 5.0,
    picture: Annotated[Path | None, typer.Option(help="Write a picture, such as info.png.")] = None,
    elements: ElementNames = None,
    elements_from: ElementsFrom = None,
) -> None:
    """Tell what is in a training set, and what looks wrong with it."""
    from mlpot.data.check.info import info as run
    from mlpot.figures.data import check_picture, plot_data_info

    if picture is not None:
        check_picture(picture)
    source = source_of(file, elements, elements_from)
    found = run(source, cutoff)
    _print_info(found)
    print_account(source)
    if picture is not None:
        plot_data_info(found, picture)
        console.print(f"Picture: {picture}", soft_wrap=True)


def check(
    file: Annotated[Path, typer.Argument(help="A file of structures of any kind.")],
    against: Annotated[Path | None, typer.Option(help="Validation or test set: does it share structures?")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Units, signs and labels of a sample alone.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the report, such as check.json.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures, such as check.html.")] = None,
    elements: ElementNames = None,
    elements_from: ElementsFrom = None,
) -> None:
    """Examine a training set; exit status 0: nothing wrong, 3: warnings, 4: errors."""
    from mlpot.atomic_files import check_reports
    from mlpot.data.check.check import check as run
    from mlpot.html.data_check import write_page

    check_reports(json, html)
    source = source_of(file, elements, elements_from)
    report = run(source, against=against, quick=quick)
    _print_report(report)
    print_account(source)
    if json is not None:
        report.write_json(json)
    if html is not None:
        write_page(report, html)
    for path in (json, html):
        if path is not None:
            console.print(f"Written to {path}", soft_wrap=True)
    raise typer.Exit(report.exit_status)


def _print_info(info: DataInfo) -> None:
    facts = {
        "frames": f"{info.n_frames}, {info.n_periodic} of them periodic",
        "elements": ", ".join(f"{symbol} {n}" for symbol, n in info.elements.items()),
        "groups": ", ".join(f"{group} {n}" for group, n in info.groups.items()),
        "missing labels": ", ".join(f"{n} {what}" for what, n in info.missing.items() if n) or "none",
        "isolated atoms, eV": ", ".join(f"{symbol} {energy:.4f}" for symbol, energy in info.isolated.items()),
        "nearest pairs, Å": ", ".join(f"{'-'.join(p)} {d:.2f}" for p, (d, _) in sorted(info.nearest.items())),
        "largest force": "{:.2f} eV/Å in frame {}".format(*info.largest_force) if info.force.n else "",
        **{f"card: {key}": value for key, value in info.card.items()},
    }
    print_facts(facts)
    table = new_table(f"{info.path}, cutoff {info.cutoff:g} Å", "", "min", "mean", "std", "max", "numbers")
    for name, s in {
        "atoms a frame": info.n_atoms,
        "energy, eV/atom": info.energy,
        "force, eV/Å": info.force,
        "stress, eV/Å³": info.stress,
        "neighbors": info.n_neighbors,
    }.items():
        if s.n:
            table.add_row(name, *(f"{x:.5g}" for x in (s.min, s.mean, s.std, s.max)), str(s.n))
    console.print(table)
    for warning in info.warnings:
        console.print(f"Warning: {warning}", markup=False, soft_wrap=True)


COLOR = {"error": "red", "warning": "yellow", "note": "cyan"}


def _print_report(report: Report) -> None:
    from rich.text import Text

    found = Table(title=f"{report.path}, {report.n_frames} frames", title_justify="left", show_lines=True)
    for column in ("", "check", "what"):
        found.add_column(column, no_wrap=column != "what")
    for f in report.findings:
        where = f"\nFrames {', '.join(map(str, f.frames))}{' ...' if f.n_frames > len(f.frames) else ''}"
        text = Text(f.message + (where if f.frames else ""))
        found.add_row(Text(f.severity, style=COLOR[f.severity]), f.check, text)
    if report.findings:
        console.print(found)
    print_facts(report.facts)
    for name, reason in report.skipped.items():
        console.print(f"not checked: {name} ({reason})", markup=False, soft_wrap=True)
    for fix in dict.fromkeys(f.fix for f in report.findings if f.fix):
        console.print(f"To mend: {fix}", markup=False, soft_wrap=True)
    verdict = {"error": "errors", "warning": "warnings", "note": "nothing wrong"}[report.severity]
    console.print(f"{report.path}: {verdict}", markup=False, soft_wrap=True)
