"""Energies, forces and stresses of many structures, computed in batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from mlpot.data.cluster import ClusterError
from mlpot.data.errors import DataError
from mlpot.data.frame import results_of
from mlpot.data.h5md.read import BLOCK
from mlpot.data.h5md.write import Part, write_parts
from mlpot.data.sources.output import output_format, without_results, write_structures
from mlpot.data.sources.read import Source, as_source
from mlpot.data.sources.report import MODEL, Report
from mlpot.extrapolation import Outside
from mlpot.graph import Prediction
from mlpot.model_file import hash_of_file, load_potential
from mlpot.potential import Potential
from mlpot.predictions import columns
from mlpot.predictions.batches import OnBad, Placed, checked_batch_atoms, predict_placed, usual_batch_atoms
from mlpot.predictions.elsewhere import predict_elsewhere
from mlpot.version import __version__

Floats = NDArray[np.float64]
Progress = Callable[[int, int | None], None]
"""Told how many structures are done, and how many there are where that is known."""


def predict_structures(
    potential: Potential,
    structures: Iterable[Atoms],
    *,
    batch_atoms: int | None = None,
    on_bad: OnBad | None = None,
    on: str | None = None,
    spread: bool = True,
) -> Iterator[tuple[Atoms, Prediction]]:
    """Each structure with its prediction on the CPU, computed in batches on the device of the potential.

    Args:
        batch_atoms: atoms computed at once; `NATIVE_BATCH_ATOMS` or `BATCH_ATOMS` by default.
        on_bad: told of structures that are left out; without it, the first ends all.
        on: address of a Dask scheduler, whose workers compute; see `elsewhere`.
        spread: of a committee, compute its members too, for `energy_std` and `forces_std` of each prediction;
            without, it takes half the time.

    Raises:
        UnknownElementError: an element the potential was not made for.
        ValueError: a wrong shape, a value that is not finite, two atoms in one place; by index of the structure.
        NotFiniteError: a prediction is not finite.
        ClusterError: the cluster cannot be used, or its workers die of a structure.
        TypeError: something is no ASE's Atoms, or no potential.
    """
    check_arguments(potential, structures, batch_atoms, on)
    for _, atoms, out in _predicted(potential, enumerate(structures), batch_atoms, on_bad, on, spread):
        yield atoms, out


def _check_how(batch_atoms: int | None, on: Any, progress: Any) -> None:
    checked_batch_atoms(batch_atoms)
    if on is not None and not isinstance(on, str):
        raise TypeError(f'on = {str(on)[:40]}: give the address of a Dask scheduler, "tcp://host:8786", or None.')
    if progress is not None and not callable(progress):
        raise TypeError(
            f"progress = {str(progress)[:40]}: give a function of how many are done and of how many, or None."
        )


def check_arguments(
    potential: Any, structures: Any, batch_atoms: int | None, on: Any = None, progress: Any = None
) -> None:
    """Raise TypeError or ValueError for what is no potential, no structures, or no way to compute them."""
    if not isinstance(potential, Potential):
        raise TypeError(
            f"A potential is needed, and this is of type {type(potential).__name__}. mlpot.load(file) has that of "
            "a file; the one of a calculator is calculator.potential."
        )
    if isinstance(structures, Atoms | str | bytes | os.PathLike) or not isinstance(structures, Iterable):
        raise TypeError(
            f"Structures are ASE's Atoms in a list, and this is of type {type(structures).__name__}. Give [atoms] "
            "for a single one, mlpot.read(file) for those of a file."
        )
    _check_how(batch_atoms, on, progress)


def _predicted(
    potential: Potential,
    structures: Iterable[Placed],
    batch_atoms: int | None,
    on_bad: OnBad | None,
    on: str | None,
    spread: bool,
) -> Iterator[tuple[int, Atoms, Prediction]]:
    """By this process, or by the workers of a cluster."""
    if on is None:
        return predict_placed(potential, structures, batch_atoms, on_bad, spread)
    return predict_elsewhere(potential, structures, batch_atoms, on_bad, on, spread)


def labeled(atoms: Atoms, out: Prediction) -> Atoms:
    """A copy of a structure with predictions in its calculator, no stress where there is none.

    Those of a committee have `energy_std` and `forces_std` among their results too. What its `info` and `arrays`
    have under the same names is called `input_energy`, `input_forces`, ... there.
    """
    copy = without_results(atoms)
    results = ase_results(out.energy.item(), out.forces.numpy(), out.stress[0].numpy())
    if out.energy_std is not None and out.forces_std is not None:
        results |= {"energy_std": out.energy_std.item(), "forces_std": out.forces_std.numpy()}
    copy.calc = results_of(copy, results)
    return copy


def ase_results(energy: float, forces: Floats, stress: Floats) -> dict[str, Any]:
    """What a calculator of ASE has of a structure, no stress where there is none.

    Args:
        energy: eV.
        forces: (n_atoms, 3) eV/Å.
        stress: (3, 3) eV/Å³, NaN where there is none.
    """
    results = {"energy": energy, "free_energy": energy, "forces": forces}
    return results | ({"stress": full_3x3_to_voigt_6_stress(stress)} if np.isfinite(stress).all() else {})


def predict_file(
    model: str | Path,
    structures: str | Path | Source,
    output: str | Path,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    batch_atoms: int | None = None,
    overwrite: bool = False,
    on_bad: OnBad | None = None,
    on: str | None = None,
    progress: Progress | None = None,
    outside: Outside | None = None,
    spread: bool = True,
) -> int:
    """Write the structures of a file with the predictions of a model to another file; their number.

    Args:
        model: a file that mlpot wrote.
        structures: a file of any kind.
        output: a name whose ending is of H5MD (.h5) or of a format of ASE that holds results (.xyz, .traj, .db);
            checked before anything is computed, and absent or as before until all is written.
        device: where it computes.
        dtype: "float32" or "float64"; that of the model by default.
        batch_atoms: atoms computed at once; `NATIVE_BATCH_ATOMS` or `BATCH_ATOMS` by default.
        overwrite, on: replace an existing output; address of a Dask scheduler, whose workers compute.
        on_bad: told of structures that are left out; without it, the first ends all and nothing is written.
        progress: told how far it is.
        outside: counts structures that are outside of the training set.
        spread: of a committee, write `energy_std` and `forces_std` of its members too, for twice the time.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: as the functions that read, compute and write.
    """
    _check_how(batch_atoms, on, progress)
    output_kind = output_format(output, overwrite=overwrite)
    potential = load_potential(model, device=device, dtype=dtype)
    source = as_source(structures, labels=False)
    predicted = _Predicting(potential, source, batch_atoms, on_bad, on, progress, outside or Outside(), spread)
    made = {MODEL: hash_of_file(model)}
    if output_kind == "h5md" and source.in_columns:
        card = {"made with": f"mlpot {__version__}"} | made
        parts = predicted.parts() if on is None else [predicted.structures()]
        write_parts(output, parts, card=card, overwrite=overwrite)
    else:
        told = source.telling_lost_constraints(predicted.structures(), output_kind)
        write_structures(output, told, overwrite=overwrite, card=made)
    if source is not structures:  # whoever gives a source tells of it
        source.report.warn()
    return predicted.n_structures


class _Predicting:
    """The structures of a source with predictions; an error tells what it costs."""

    def __init__(
        self,
        potential: Potential,
        source: Source,
        batch_atoms: int | None,
        on_bad: OnBad | None,
        on: str | None,
        progress: Progress | None,
        outside: Outside,
        spread: bool,
    ):
        self._outside, self._spread = outside, spread
        self._potential, self._source, self._batch_atoms = potential, source, batch_atoms
        self._on_bad, self._on, self._progress = on_bad, on, progress
        self.n_structures, self._total = 0, source.n_frames

    def structures(self) -> Iterator[Atoms]:
        """One by one."""
        return self._one_by_one(0, None)

    def parts(self) -> Iterator[Part]:
        """Of an H5MD file: column by column, and one by one where something is wrong."""
        batch_atoms = self._batch_atoms or usual_batch_atoms(self._potential)
        read, path = Report(str(self._source.path), self._source.reading.labels), str(self._source.path)
        with self._source.reader() as reader:
            chosen = np.arange(len(reader))[self._source.reading.wanted]
            for first, last in columns.spans(reader.n_atoms[chosen], batch_atoms):
                series = columns.read(reader, chosen[first:last])
                answer = None
                if series is not None:
                    answer = columns.answered(self._potential, path, series, first, self._outside, self._spread)
                if series is None or answer is None:
                    yield self._one_by_one(first, last)
                    read.add(self._source.report)
                    continue
                read.count_series(series)
                yield answer
                self._count(len(answer))
        self._source.report = read

    def _one_by_one(self, first: int, last: int | None) -> Iterator[Atoms]:
        found = _readable(self._source, self._on_bad, first, last)
        with self._telling_the_cost():
            for k, atoms, out in _predicted(
                self._potential, found, self._batch_atoms, self._on_bad, self._on, self._spread
            ):
                self._count(1)
                self._outside.add([k], out.extrapolation_grade)
                self._outside.compare(self._potential.header, [atoms.numbers])
                yield labeled(atoms, out)

    def _count(self, n: int) -> None:
        self.n_structures += n
        if self._progress is not None:
            self._progress(self.n_structures, self._total)

    @contextmanager
    def _telling_the_cost(self) -> Iterator[None]:
        try:
            yield
        except ClusterError:
            raise
        except ValueError as error:
            if self.n_structures == 0 or self._on_bad is not None:
                raise
            raise type(error)(
                f"{error} Of the {self.n_structures} structures before it nothing is written: leave such "
                "structures out with --skip-bad, or correct them."
            ) from error


def _readable(source: Source, on_bad: OnBad | None, k: int, stop: int | None) -> Iterator[Placed]:
    """The structures k to stop of a source with their places; with `on_bad`, damaged ones are passed over."""
    read = Report(str(source.path), source.reading.labels)
    while True:
        try:
            for atoms in source.frames(k, stop):
                yield k, atoms
                k += 1
            break
        except DataError as error:
            read.add(source.report)
            n_frames = source.n_frames
            if on_bad is None or (k == 0 and n_frames is None):
                raise
            if n_frames is None:
                on_bad(k, f"{error} Nothing after it can be read.")
                break
        end = min(k + BLOCK, n_frames if stop is None else stop)  # read by blocks, of which one frame spoils all
        for place in range(k, end):
            try:
                for atoms in source.frames(place, place + 1):
                    yield place, atoms
                read.add(source.report)
            except DataError as error:
                on_bad(place, str(error))
        k = end
    source.report.add(read)
