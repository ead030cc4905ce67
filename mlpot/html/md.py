"""The page of a run of molecular dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase import Atoms

from mlpot.data.errors import DataError
from mlpot.data.h5md import Reader
from mlpot.data.sources.read import read_structure
from mlpot.dynamics.analyze import AnalysisError, analysis_of
from mlpot.dynamics.log import read_log, with_error
from mlpot.figures.md import analysis_panels, md_panels
from mlpot.html.files import as_yaml, duration, number, read_json
from mlpot.html.page import Html, Kind, aside, chapters, facts, finding, more, page, pictures, tag, tiles
from mlpot.html.view import SCRIPT, few, view


def md_page(folder: Path) -> str:
    """The page of the folder of a run that has ended, or was stopped."""
    report = read_json(folder / "md.json")
    summary, provenance = report["summary"], dict(report["provenance"])
    provenance.pop("recipe", None)
    parts: dict[str, list[Html]] = {
        "Along the run": [pictures(md_panels(read_log(folder / "log.csv"), summary["n_atoms"]))],
        "Structure": [view(_frames(folder, summary), shown=-1 if summary["stopped"] else 0)],
        "Distributions": _distributions(folder),
        "Provenance": [
            facts(provenance),
            more("Recipe", as_yaml(report["recipe"])),
        ],
    }
    content = [*_findings(summary), _headline(summary, report["recipe"]), *chapters(parts)]
    verdict = (_severity(summary), "stopped early") if summary["stopped"] else None
    return page(f"Molecular dynamics of {summary['formula']}", *content, verdict=verdict, script=SCRIPT)


def _severity(summary: Mapping[str, Any]) -> Kind:
    """The note on an early stop: by a guard, or by a signal or the clock."""
    return "error" if summary.get("blown_up") else "warning"


def _findings(summary: Mapping[str, Any]) -> list[Html]:
    reason = tag("p", summary["stopped"] or "")
    stopped = [finding(_severity(summary), "The run stopped early", reason)] if summary["stopped"] else []
    return stopped + [finding("warning", "Warning", tag("p", words)) for words in summary["warnings"]]


def _headline(summary: Mapping[str, Any], recipe: Mapping[str, Any]) -> Html:
    drift = summary["drift"]
    shown = {
        "Length": (number(summary["time_ps"], unit="ps"), f"{summary['steps']} steps"),
        "Atoms": (str(summary["n_atoms"]), summary["formula"]),
        "Ensemble": (summary["ensemble"], ""),
        "Temperature": (with_error(summary["temperature_K"], summary["temperature_error"]), "K"),
    }
    if summary["pressure_GPa"] is not None:
        shown["Pressure"] = (with_error(summary["pressure_GPa"], summary["pressure_error"]), "GPa")
    if summary.get("volume_A3") is not None:  # runs of earlier versions do not tell it
        shown["Volume"] = (with_error(summary["volume_A3"], summary["volume_error"]), "Å³")
    if drift is not None:
        shown["Drift"] = (with_error(drift["slope"], drift["slope_error"]), "meV/atom/ns")
    shown["Speed"] = (number(summary["steps_per_s"], unit="steps/s"), f"{number(summary['ns_per_day'])} ns/day")
    shown["Time"] = (duration(summary["wall_s"]), f"on {recipe['device']}")
    return tiles(shown)


def _frames(folder: Path, summary: Mapping[str, Any]) -> list[tuple[str, Atoms]]:
    with Reader(folder / "trajectory.h5") as reader:
        frames = [reader[k] for k in few(len(reader), summary["n_atoms"])]
    shown = [(f"{atoms.info['time'] / 1e3:.3f} ps", atoms) for atoms in frames]
    if summary.get("blown_up") and (folder / "bad_frame.xyz").is_file():
        shown.append(("the bad frame", read_structure(folder / "bad_frame.xyz")))
    return shown


def _distributions(folder: Path) -> list[Html]:
    try:
        found = analysis_of(folder)
    except (AnalysisError, DataError) as error:
        return [aside(str(error))]
    rows = {
        "frames": f"{found.n_frames}, {found.frame_ps:g} ps apart, from {found.from_ps:g} ps on",
        "temperature": f"standard deviation {number(found.temperature_std_K)} K"
        + (f", canonical {number(found.expected_std_K)} K" if found.expected_std_K else ""),
    }
    for element, d in found.diffusion.items():
        rows[f"diffusion of {element}"] = d.told
    told = [aside(note) for note in found.notes.values()]
    return [facts(rows), pictures(analysis_panels(found.curves, found.labels)), *told]
