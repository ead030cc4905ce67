"""The page of an evaluation."""

from __future__ import annotations

import csv
import heapq
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ase import Atoms

from mlpot.data.errors import DataError
from mlpot.data.sources.read import read_structure
from mlpot.evaluate import NAMES
from mlpot.figures.parity import draw_force_errors, parity_panels, read_compared
from mlpot.html.files import number, read_json
from mlpot.html.page import Html, aside, chapters, facts, image, page, pictures, table, tag, tiles
from mlpot.html.view import MOST_ATOMS, SCRIPT, view

N_WORST = 8
HEAD = ("", "MAE", "RMSE", "bias", "worst", "numbers")
Row = dict[str, str]


def evaluation_page(folder: Path) -> str:
    """The page of a folder that `mlpot evaluate --output` wrote."""
    found = read_json(folder / "evaluation.json")
    origin: dict[str, str] = found.get("provenance", {})
    title = f"Evaluation of {Path(origin['model']).name}" if "model" in origin else f"Evaluation {folder.name}"
    parts = {"Errors": errors(found), "Pictures": compared(folder), "Worst structures": worst(folder, origin)}
    parts["Provenance"] = [facts(origin)]
    return page(title, headline(found), *chapters(parts), script=SCRIPT)


def headline(found: Mapping[str, Any]) -> Html:
    """The most important errors."""
    overall = found["overall"]
    shown = {
        f"{name.split('_')[0].capitalize()} MAE": (number(overall[name]["mae"]), NAMES[name].split(", ")[1])
        for name in ("energy_per_atom", "forces", "stress")
        if name in overall
    }
    return tiles(shown | {"Structures": (str(found["n_frames"]), f"{found['n_atoms']} atoms in all")})


def errors(found: Mapping[str, Any]) -> list[Html]:
    """Tables: overall, by element, by force, by group."""
    missing = ", ".join(f"{n} {what}" for what, n in found["missing"].items() if n)
    by_group = [
        (group, *(number(rows[row]["mae"]) if row in rows else "" for row in NAMES))
        for group, rows in found["by_group"].items()
    ]
    return [
        table(HEAD, _rows({NAMES[name]: error for name, error in found["overall"].items()})),
        *([aside(f"Labels that are missing: {missing}.")] if missing else []),
        *_titled("Forces by element, meV/Å", HEAD, _rows(found["forces_by_element"])),
        *_titled(
            "Forces by size of the reference force in eV/Å, meV/Å", HEAD, _rows(found["forces_by_magnitude"])
        ),
        *_titled("Mean absolute error by group", ("", *NAMES.values()), by_group),
    ]


def _rows(errors: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    keys = ("mae", "rmse", "bias", "worst")
    return [(name, *(number(error[key]) for key in keys), str(error["n"])) for name, error in errors.items()]


def _titled(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Html]:
    return [tag("h3", title), table(head, rows)] if rows else []


def compared(folder: Path) -> list[Html]:
    """Parity of energies, of forces on each element, and errors against forces; older runs have one picture."""
    if not (folder / "parity.json").is_file():
        old = folder / "parity.png"
        return [image("png", old.read_bytes(), "Predicted against reference values")] if old.is_file() else []
    pairs = read_compared(folder / "parity.json")
    panels = parity_panels(pairs)
    if pairs.forces:
        panels["Errors of forces against forces"] = partial(draw_force_errors, pairs)
    return [pictures(panels), aside(f"{pairs.of.capitalize()}; of many atoms, evenly chosen ones are drawn.")]


def worst(folder: Path, origin: Mapping[str, str]) -> list[Html]:
    """The structures with the greatest errors, as a table and, if the data are there, to look at."""
    if not (folder / "frames.csv").is_file():
        return []
    by = "forces_worst"
    rows = heapq.nlargest(N_WORST, _frames(folder / "frames.csv", by), key=lambda row: float(row[by]))
    head = ("frame", "formula", "group", "energy, meV/atom", "forces MAE, meV/Å", "worst component, meV/Å")
    keys = ("energy_error", "forces_mae", "forces_worst")
    cells = [(r["index"], r["formula"], r["group"], *(number(float(r[key])) for key in keys)) for r in rows]
    shown = list(_structures(rows, origin))
    return [table(head, cells), *([view(shown)] if shown else [])] if rows else []


def _frames(path: Path, by: str) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if float(row[by]) == float(row[by]):
                yield row


def _structures(rows: Sequence[Row], origin: Mapping[str, str]) -> Iterator[tuple[str, Atoms]]:
    if sum(int(row["n_atoms"]) for row in rows) > MOST_ATOMS:
        return
    for row in rows:
        with suppress(FileNotFoundError, DataError):  # the data may be elsewhere by now, or others
            atoms = read_structure(origin.get("data", ""), int(row["index"]))
            if atoms.get_chemical_formula() == row["formula"]:
                yield f"frame {row['index']}, {number(float(row['forces_worst']))} meV/Å", atoms
