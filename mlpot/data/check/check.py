"""Examine a training set: every check, one report."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from mlpot.data.check import checks, labels
from mlpot.data.check.cells import cells
from mlpot.data.check.duplicates import duplicates, leakage
from mlpot.data.check.finding import ORDER, Finding, Report, Severity, finding
from mlpot.data.check.resolution import levels, resolution
from mlpot.data.check.stream import chunks, chunks_of
from mlpot.data.check.tally import Columns, Tally
from mlpot.data.errors import DataError
from mlpot.data.frame import Frame
from mlpot.data.sources.read import Source, as_source
from mlpot.data.stress_labels import NO_VOLUME, NO_VOLUME_ZERO, ZERO_IN_PLANE

QUICK_FRAMES = 400  # that the quick examination reads
BY_LENGTH = {
    "unit of length", "overlap", "neighbors", "units of labels", "mixed units", "forces", "energies", "stress",
}  # fmt: skip
"""Findings that positions and cells in two units bring about."""


def check(file: str | Path | Source, *, against: str | Path | Source | None = None, quick: bool = False) -> Report:
    """Examine a file of any kind, streamed.

    Args:
        file: the set.
        against: a validation or test set, which must share no structure with it.
        quick: look at units, signs and labels of a sample alone.

    Raises:
        FileNotFoundError: there is no such file.
    """
    source = as_source(file)
    path = source.path
    other_source = None if against is None else as_source(against)
    stride = max(1, (source.n_frames or 1) // QUICK_FRAMES) if quick else 1
    tallied, broken = _tally(source, stride)
    if not tallied.parts:
        return Report(str(path), 0, [broken or finding("file", "error", "No frames.")], {}, {})
    columns = tallied.columns()
    examined = labels.examine(tallied, columns, tallied.all_steps())
    found = [broken] if broken else []
    found += _of_labels(tallied, columns, examined, str(path))
    found += [*_states(tallied), *_of_stresses(source)]
    if not quick:
        found += _everything(tallied, columns, source)
    skipped = dict(examined.skipped)
    if other_source is not None:
        other, damage = _tally(other_source, 1)
        found += [damage] if damage else []
        if other.parts:
            found += leakage(columns, other.columns(), tallied.displacement, str(path), str(other_source.path))
    elif not quick:
        skipped["leakage"] = "give the validation set: --against FILE"
    found = [replace(f, fix=f.fix and command(path, f.fix)) for f in merged(found)]
    curves = examined.curves | _curves(columns)
    return Report(
        str(path), len(columns.index), sorted(found, key=lambda f: ORDER[f.severity]),
        _facts(tallied, columns) | examined.facts, skipped, curves,
    )  # fmt: skip


def check_frames(path: str, frames: Iterable[tuple[int, Frame]]) -> Report:
    """Look at units, signs and labels of frames at hand, numbered as in their file."""
    tallied = Tally()
    for chunk in chunks_of(frames):
        tallied.add(chunk)
    columns = tallied.columns()
    examined = labels.examine(tallied, columns, tallied.all_steps())
    found = list(_of_labels(tallied, columns, examined, path))
    found = [replace(f, fix=f.fix and command(path, f.fix)) for f in merged(found)]
    found.sort(key=lambda f: ORDER[f.severity])
    return Report(path, len(columns.index), found, _facts(tallied, columns) | examined.facts, examined.skipped)


def tally(file: str | Path | Source, stride: int = 1) -> Tally:
    """The numbers of every `stride`-th frame.

    Raises:
        DataError: as `Source.numbered`.
    """
    tallied = Tally()
    for chunk in chunks(file, stride):
        tallied.add(chunk)
    return tallied


def _tally(source: Source, stride: int) -> tuple[Tally, Finding | None]:
    """The numbers of all frames up to the first that cannot be read, and what was wrong with that."""
    tallied = Tally()
    try:
        for chunk in chunks(source, stride):
            tallied.add(chunk)
    except DataError as error:
        return tallied, finding("file", "error", f"Reading stopped: {error}")
    return tallied, None


def _states(tallied: Tally) -> Iterator[Finding]:
    """Total charges and spins, which no potential of mlpot is told."""
    states = {state: n for state, n in tallied.states.items() if n}
    if len(states) > 1:
        listed = ", ".join(
            f"{' and '.join(f'{x:g}' for x in state) or 'not given'} in {n} frames"
            for state, n in sorted(states.items())
        )
        message = (
            f"The total charge (or spin) differs: {listed}. A potential of mlpot sees neither, so that it takes "
            "the energies of all for one surface. Train on one of them, or make a set of each."
        )
        yield finding("charge and spin", "warning", message)


def _of_stresses(source: Source) -> Iterator[Finding]:
    """Stresses that no reader hands on."""
    kinds: tuple[tuple[str, Severity, str], ...] = (
        (NO_VOLUME, "warning", "structures without a volume have a stress that is not zero. Were they periodic?"),
        (NO_VOLUME_ZERO, "note", "structures without a volume have a stress, which is zero."),
        (ZERO_IN_PLANE, "note", "slabs or wires have a stress that is zero: it was not computed."),
    )
    for what, severity, message in kinds:
        n, *first = source.report.notes.get(what, [0])
        if n:
            message = f"{n} {message} It is not trained on and not compared."
            yield finding("stress left out", severity, message, np.array(first))


def _of_labels(tallied: Tally, c: Columns, examined: labels.Examined, path: str) -> Iterator[Finding]:
    """What a training looks at too."""
    yield from checks.labels(c, path)
    yield from resolution(c)
    yield from levels(c)
    yield from examined.findings
    yield from cells(tallied)


def _everything(tallied: Tally, c: Columns, source: Source) -> Iterator[Finding]:
    yield from checks.closeness(c)
    yield from checks.outliers(c)
    yield from checks.balance(c)
    yield from checks.stillness(tallied)
    yield from checks.breaks(tallied.all_steps(), c.index)
    yield from duplicates(c, tallied.displacement, source)
    tau = checks.correlation_time(c)
    if tau > 5:
        message = (
            f"Energies of frames that follow each other remember about {tau:.0f} frames: they are a trajectory, "
            "or sorted. Random splits of a trajectory leak."
        )
        yield finding("order in time", "note", message, fix="split")


def merged(found: list[Finding]) -> list[Finding]:
    """Findings without those that others explain: wrong units, and two units, of which no one is right for all."""
    if any(f.check == "cell and positions" for f in found):
        found = [f for f in found if f.check not in BY_LENGTH]
    units = any(f.check.startswith("unit of length") for f in found)
    if any(f.check == "two levels of energy" for f in found):
        found = [f for f in found if f.check != "units of labels"]
    if any(f.check == "energies" for f in found):
        found = [f for f in found if f.check != "units of labels" or f.severity != "warning"]
    return [f for f in found if not (units and f.check in ("overlap", "neighbors"))]


def command(path: str | Path, fix: str) -> str:
    """The command line that a fix stands for."""
    name, target = shlex.quote(str(path)), shlex.quote(str(Path(path).with_name(f"{Path(path).stem}-fixed.h5")))
    if fix == "split":
        return f"mlpot data split {name} --by block --fractions 0.8,0.1,0.1"
    kind, _, value = fix.partition("=")
    if kind in ("drop", "hold", "without"):
        return f"mlpot data convert {name} {target} --{kind} {shlex.quote(value)}"
    options = " ".join(f"--correct {shlex.quote(part)}" for part in fix.split(";"))
    return f"mlpot data convert {name} {target} {options}"


def _facts(tallied: Tally, c: Columns) -> dict[str, str]:
    structures = ~c.isolated
    bonds = c.bond[np.isfinite(c.bond)]
    tau = checks.correlation_time(c)
    facts = {
        "frames": f"{len(c.index)}, {int(c.periodic.sum())} of them periodic in three directions",
        "elements": ", ".join(chemical_symbols[z] for z in sorted(tallied.elements)),
        "compositions": str(len(np.unique(c.composition[structures]))),
        "isolated atoms": ", ".join(
            f"{chemical_symbols[z]} {energies[0][1]:.3f} eV" for z, energies in sorted(tallied.isolated.items())
        ) or "none: reference energies will be fitted",
        "nearest atoms": f"median of {np.median(bonds):.2f} sums of covalent radii" if len(bonds) else "",
        "neighbors within 5 Å": f"{c.fewest[structures].min()} to {c.most[structures].max()}"
        if structures.any() else "",
        "correlation time": f"{tau:.1f} frames" if np.isfinite(tau) else "",
    }  # fmt: skip
    return {name: fact for name, fact in facts.items() if fact}


def _curves(c: Columns) -> dict[str, Any]:
    structures = ~c.isolated
    every = max(1, len(c.index) // 5000)
    return {
        "index": c.index[structures][::every],
        "energy": (c.energy / c.n_atoms)[structures][::every],
        "force": c.force[structures][::every],
        "overlap": c.overlap[structures][::every],
        "n_atoms": c.n_atoms[structures],
    }
