"""How wrong a potential is on labeled structures: by quantity, element, size of force and group."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from mlpot.atomic_files import beside_results, check_folder, make_folder, path_of, write_whole
from mlpot.data.errors import LabelError
from mlpot.data.frame import Frame, columns_of, family, frame_of_columns
from mlpot.data.sources.read import Source, as_source
from mlpot.error_table import MILLI, Error, ErrorSums, in_periodic_axes
from mlpot.extrapolation import Outside
from mlpot.figures.parity import compare, plot_parity, write_compared
from mlpot.graph import Prediction, Properties, collate_properties
from mlpot.model_file import hash_of, own_potential
from mlpot.potential import Potential
from mlpot.predictions import Progress, check_arguments, predict_structures
from mlpot.version import __version__

MAGNITUDES = {"0-0.5": 0.0, "0.5-1": 0.5, "1-2": 1.0, "2-4": 2.0, "4-8": 4.0, "above 8": 8.0}
"""Bins of |F| and their lower ends, eV/Å."""
NAMES = {
    "energy": "energy, meV",
    "energy_per_atom": "energy, meV/atom",
    "forces": "forces, meV/Å",
    "stress": "stress, meV/Å³",
    "isolated_atoms": "isolated atoms, meV",
    "isolated_ions": "isolated ions, meV",
}
"""Rows of `Evaluation.overall`, in words."""
MAX_DRAWN = 2000  # frames in a picture

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FrameError:
    """One structure of the set: a row of the table."""

    index: int
    formula: str
    n_atoms: int
    group: str
    energy: float  # eV, reference; NaN where there is none
    predicted_energy: float  # eV
    energy_error: float  # meV/atom
    forces_mae: float  # meV/Å
    forces_worst: float  # meV/Å, a component
    extrapolation_grade: float  # the highest of its atoms; NaN if the potential cannot tell


@dataclass(frozen=True)
class Evaluation:
    """Errors of a potential on a set of labeled structures.

    Energies in meV and meV/atom, force components in meV/Å, stress components in meV/Å³. Isolated atoms
    are compared among themselves: their energies are references, and would hide in a mean over the set. So are
    those with a charge, whose energies a potential without charges cannot have.
    """

    n_frames: int
    n_atoms: int
    missing: dict[str, int]  # frames without energy, atoms without forces, periodic frames without stress
    overall: dict[str, Error]  # the rows of NAMES, as far as labeled
    forces_by_element: dict[str, Error]
    forces_by_magnitude: dict[str, Error]  # of the reference |F|, eV/Å
    by_group: dict[str, dict[str, Error]]
    outside: str  # of structures outside of the training set, or of energies that it does not tell; or empty
    frames: tuple[FrameError, ...]


class _Account:
    """What is gathered frame by frame; tables are keyed by (table, row)."""

    def __init__(self, header: Mapping[str, Any]):
        self._header = header  # of the potential
        self.tallies: dict[tuple[str, str], ErrorSums] = defaultdict(ErrorSums)
        self.missing = Counter({"energy": 0, "forces": 0, "stress": 0})
        self.frames: list[FrameError] = []
        self.outside = Outside()

    def add(self, index: int, formula: str, frame: Frame, out: Prediction) -> None:
        energy_error = MILLI * (out.energy.item() - frame.energy)
        force_error = MILLI * (out.forces.numpy() - frame.forces)
        known = np.isfinite(force_error).all(axis=1)
        n = len(frame.numbers)
        is_isolated = frame.is_isolated
        tables = ["overall"] + ([] if frame.group is None else [f"group {frame.group}"])
        for table in tables:
            if is_isolated:
                self._add(table, "isolated_ions" if frame.is_ion else "isolated_atoms", energy_error)
            else:
                self._add(table, "energy", energy_error)
                self._add(table, "energy_per_atom", energy_error / n)
                self._add(table, "forces", force_error[known])
                if frame.has_stress:
                    error = _in_own_axes(out.stress - torch.from_numpy(frame.stress), frame)
                    self._add(table, "stress", MILLI * error.numpy())
        if not is_isolated:
            self._add_forces(frame.numbers[known], frame.forces[known], force_error[known])
            self.missing["forces"] += int((~known).sum())
        self.missing["energy"] += int(np.isnan(frame.energy))
        self.missing["stress"] += int(frame.pbc.all() and not is_isolated and not frame.has_stress)
        size, grade = np.abs(force_error[known]), out.extrapolation_grade
        self.outside.add([index], grade)
        self.outside.compare(self._header, [frame.numbers.tolist()])
        self.frames.append(
            FrameError(
                index, formula, n, frame.group or "", frame.energy, out.energy.item(), energy_error / n,
                float(size.mean()) if size.size else np.nan, float(size.max()) if size.size else np.nan,
                np.nan if grade is None else grade.item(),
            )
        )  # fmt: skip

    def _add(self, table: str, row: str, errors: Floats | float) -> None:
        finite = np.asarray(errors, dtype=np.float64)[np.isfinite(errors)]
        if finite.size:
            self.tallies[table, row].add(torch.from_numpy(finite))

    def _add_forces(self, numbers: NDArray[np.int64], forces: Floats, errors: Floats) -> None:
        for z in np.unique(numbers):
            self._add("element", chemical_symbols[z], errors[numbers == z])
        bins = np.digitize(np.linalg.norm(forces, axis=1), list(MAGNITUDES.values())) - 1
        for k, name in enumerate(MAGNITUDES):
            self._add("magnitude", name, errors[bins == k])

    def table(self, name: str) -> dict[str, Error]:
        return {row: tally.result() for (table, row), tally in self.tallies.items() if table == name}

    def result(self) -> Evaluation:
        groups = sorted({name.removeprefix("group ") for name, _ in self.tallies if name.startswith("group ")})
        by_size = self.table("magnitude")
        return Evaluation(
            n_frames=len(self.frames),
            n_atoms=sum(frame.n_atoms for frame in self.frames),
            missing=dict(self.missing),
            overall=self.table("overall"),
            forces_by_element=self.table("element"),
            forces_by_magnitude={name: by_size[name] for name in MAGNITUDES if name in by_size},
            by_group={group: self.table(f"group {group}") for group in groups},
            outside=str(self.outside),
            frames=tuple(self.frames),
        )


class _Sample:
    """Evenly chosen frames for a picture, at most MAX_DRAWN however many come by."""

    def __init__(self) -> None:
        self.stride, self.seen = 1, 0
        self.drawn: list[tuple[Properties, Properties, torch.Tensor]] = []

    def offer(self, frame: Frame, out: Properties) -> None:
        if self.seen % self.stride == 0:
            drawn = replace(out, stress=_in_own_axes(out.stress, frame))
            self.drawn.append((drawn, _properties(frame), torch.from_numpy(frame.numbers)))
        self.seen += 1
        if len(self.drawn) > MAX_DRAWN:
            self.drawn, self.stride = self.drawn[::2], 2 * self.stride

    def draw(self, folder: Path) -> None:
        predicted, reference, numbers = zip(*self.drawn, strict=True)
        n_atoms = torch.tensor([len(z) for z in numbers])
        of = f"{len(self.drawn)} of {self.seen} structures"
        compared = compare(
            collate_properties(predicted), collate_properties(reference), torch.cat(numbers), n_atoms, of=of
        )
        with beside_results(folder / "parity.json"):
            write_compared(compared, folder / "parity.json")
        with beside_results(folder / "parity.png"):
            plot_parity(compared, folder / "parity.png")


def evaluate(
    potential: Potential | str | Path,
    data: Iterable[Atoms] | str | Path | Source,
    *,
    device: str | None = None,
    dtype: str | None = None,
    batch_atoms: int | None = None,
    output: str | Path | None = None,
    on: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare a potential with labeled structures.

    Args:
        potential: a potential, or the path of its file.
        data: structures whose calculators hold labels, or a file of them.
        device, dtype: where and in which type ("float32", "float64") a copy computes; its own by default.
        batch_atoms: atoms computed at once, as in `predict_structures`.
        output: a folder for evaluation.json, frames.csv, parity.json and parity.png.
        on: address of a Dask scheduler, whose workers predict.
        progress: told how far it is.

    Raises:
        LabelError: a label is not finite or misshapen, or there is no label at all.
        TypeError, ValueError: as `predict_structures`.
    """
    if output is not None:
        check_folder(path_of(output, "a folder of results"))
    origin = {"mlpot": __version__, "made": datetime.now(UTC).isoformat(timespec="seconds")}
    if isinstance(data, str | Path | Source):
        origin["data"] = str((data := as_source(data)).path)
    if isinstance(potential, str | Path):
        origin["model"] = str(potential)
    if not isinstance(potential, Potential) or (device, dtype) != (None, None):
        here = potential.energy_scale.device if isinstance(potential, Potential) else "cpu"
        potential = own_potential(potential, device or here, dtype)
    check_arguments(potential, () if isinstance(data, Source) else data, batch_atoms, on, progress)
    account, sample = _Account(potential.header), _Sample()
    total = data.n_frames if isinstance(data, Source) else None
    for index, atoms, frame, out in _compared(potential, data, batch_atoms, on):
        account.add(index, atoms.get_chemical_formula(), frame, out)
        if progress is not None:
            progress(len(account.frames), total)
        if not frame.is_isolated:
            sample.offer(frame, out)
    evaluation = account.result()
    _check_labels(evaluation)
    if output is not None:
        _write(evaluation, sample, origin | {"weights": hash_of(potential.state_dict())}, Path(output))
    return evaluation


def _check_labels(evaluation: Evaluation) -> None:
    if not evaluation.overall:
        raise LabelError(
            f"None of the {evaluation.n_frames} structures has a label to compare with. If they are under other "
            "names or in other units, convert the file first: mlpot data convert."
        )


def _compared(
    potential: Potential, data: Iterable[Atoms] | Source, batch_atoms: int | None, on: str | None
) -> Iterator[tuple[int, Atoms, Frame, Prediction]]:
    """Structures with their numbers in the file, their labels and the predictions."""
    ahead: deque[int] = deque()  # numbers of frames that were read and are not yet predicted

    def structures() -> Iterator[Atoms]:
        for index, atoms in data.numbered() if isinstance(data, Source) else enumerate(data):
            ahead.append(index)
            yield atoms

    for atoms, out in predict_structures(potential, structures(), batch_atoms=batch_atoms, on=on, spread=False):
        index = ahead.popleft()
        yield index, atoms, frame_of_columns(columns_of(atoms, index), atoms.pbc, family(atoms)), out


def _in_own_axes(stress: torch.Tensor, frame: Frame) -> torch.Tensor:
    return in_periodic_axes(stress, torch.tensor(frame.cell)[None], torch.tensor(frame.pbc)[None])


def _properties(frame: Frame) -> Properties:
    return Properties(
        energy=torch.tensor([frame.energy], dtype=torch.float64),
        forces=torch.from_numpy(frame.forces),
        stress=_in_own_axes(torch.from_numpy(frame.stress)[None], frame),
    )


def _write(evaluation: Evaluation, sample: _Sample, origin: dict[str, str], folder: Path) -> None:
    make_folder(folder)
    summary = asdict(evaluation) | {"provenance": origin}
    del summary["frames"]
    write_whole(folder / "evaluation.json", (json.dumps(summary, indent=2) + "\n").encode())
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(field.name for field in fields(FrameError))
    writer.writerows(asdict(frame).values() for frame in evaluation.frames)
    write_whole(folder / "frames.csv", table.getvalue().encode())
    if sample.drawn:
        sample.draw(folder)
