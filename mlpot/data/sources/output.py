"""Write structures with results: checked before anything is computed, streamed, and complete or absent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import ase.db
import ase.io
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, ioformats
from ase.io.trajectory import Trajectory

from mlpot.atomic_files import StorageError, check_place, path_of, replacing, storing
from mlpot.data.errors import FormatError, LabelError
from mlpot.data.frame import SPREADS
from mlpot.data.h5md.write import write
from mlpot.data.sources.report import KEPT_IN_INFO, MODEL
from mlpot.version import __version__

H5MD_ENDINGS = (".h5", ".hdf5", ".h5md")
RESULTS = ("energy", "free_energy", "forces", "stress", *SPREADS)
"""What a prediction puts into a calculator."""
KEPT_AS = "input_"
"""Before the name of what a structure brought under the name of a result."""


def output_format(path: str | Path, *, overwrite: bool = False) -> str:
    """The format that the ending of an output says, after everything about its place was checked.

    Raises:
        FormatError: the ending is unknown, or of a format that cannot hold many structures with their results.
        FileExistsError, FileNotFoundError, IsADirectoryError, StorageError: as `check_place`.
    """
    path = path_of(path, "an output")
    check_place(path, overwrite=overwrite)
    if path.suffix.lower() in H5MD_ENDINGS:
        return "h5md"
    try:
        kind = str(ase.io.formats.filetype(path.name, read=False))
    except UnknownFileTypeError:
        kind = "unknown"
    if kind in WRITERS:
        return kind
    known = kind in ioformats and path.suffix
    why = f"structures with results are not written as {kind}" if known else "its ending is of no format"
    raise FormatError(
        f"Nothing is written to {path}: {why}. Choose a name that ends in .h5 (H5MD), .xyz or .extxyz, .traj or "
        ".db."
    )


def write_structures(
    path: str | Path,
    structures: Iterable[Atoms],
    *,
    overwrite: bool = False,
    card: Mapping[str, str] | None = None,
) -> None:
    """Write structures with their results, one after another; the file is absent, or as before, until all are in.

    Args:
        path: the ending says the format; H5MD keeps what `mlpot.data.h5md.write` says, the others `info` and
            `arrays` too.
        structures: taken one by one.
        overwrite: replace an existing file.
        card: what H5MD says besides of where the structures are from; the hash of a model goes into the `info` of
            structures in other formats, as `model_sha256`.

    Raises:
        FormatError: the format of the ending cannot hold them, or one of them cannot be written.
        LabelError: there are no structures.
        FileExistsError, FileNotFoundError, IsADirectoryError, StorageError: as `check_place`.
    """
    kind, path = output_format(path, overwrite=overwrite), Path(path)
    if kind != "h5md":
        structures = _with_spreads(structures, kind)
    if kind != "h5md" and card and MODEL in card:
        structures = _with_hash(structures, card[MODEL])
    if kind == "h5md":
        write(path, structures, card={"made with": f"mlpot {__version__}", **(card or {})}, overwrite=overwrite)
        return
    with replacing(path, overwrite=overwrite) as temporary:
        add, close = WRITERS[kind](temporary)
        n_structures = 0
        try:
            for atoms in structures:
                _add(add, atoms, n_structures, path, kind)
                n_structures += 1
        finally:
            with storing(path, 0):
                close()
        if n_structures == 0:
            raise LabelError(f"No structures to write to {path}. Check the source and the selection of frames.")


def _with_hash(structures: Iterable[Atoms], model: str) -> Iterator[Atoms]:
    """Structures, each of which says which potential its results are of."""
    for atoms in structures:
        atoms.info[KEPT_IN_INFO] = model
        yield atoms


def _with_spreads(structures: Iterable[Atoms], kind: str) -> Iterator[Atoms]:
    """Structures with spreads of a committee, which ASE's writers keep as no results, where they do keep them."""
    for atoms in structures:
        found = {} if atoms.calc is None else atoms.calc.results
        if "energy_std" in found:
            atoms.info["energy_std"] = found["energy_std"]
        if "forces_std" in found:
            kept = atoms.arrays if kind == "extxyz" else atoms.info  # others have no place for arrays of atoms
            kept["forces_std"] = found["forces_std"]
        yield atoms


def without_results(atoms: Atoms) -> Atoms:
    """A copy without calculator, its `info` and `arrays` under names of results being called `input_...`.

    ASE's formats put results, `info` and `arrays` into one place, where equal names collide.
    """
    copy = atoms.copy()
    for place in (copy.info, copy.arrays):
        for name in RESULTS:
            if name in place:
                place[KEPT_AS + name] = place.pop(name)
    return copy


def _add(add: Callable[[Atoms], object], atoms: Atoms, k: int, path: Path, kind: str) -> None:
    try:
        with storing(path, 0):
            add(atoms)
    except StorageError:
        raise
    except Exception as error:  # each of ASE's writers fails in its own way
        formula = atoms.get_chemical_formula()
        raise FormatError(
            f"Structure {k} ({formula}) cannot be written to {path} as {kind}: {error!r}. Remove what its info or "
            "arrays have beyond numbers and text, or write .h5."
        ) from error


Writer = tuple[Callable[[Atoms], object], Callable[[], object]]
"""How a structure is added, and how the file is closed."""


def _extxyz(path: Path) -> Writer:
    file = path.open("w", encoding="utf-8")
    return lambda atoms: ase.io.write(file, atoms, format="extxyz"), file.close


def _traj(path: Path) -> Writer:
    file = Trajectory(str(path), "w")
    return file.write, file.close


def _db(path: Path) -> Writer:
    path.unlink(missing_ok=True)  # SQLite makes it
    table = ase.db.connect(str(path), type="db", append=False)

    def add(atoms: Atoms) -> None:
        data = {key: value for key, value in atoms.info.items() if key not in RESULTS or key in SPREADS}
        table.write(atoms, data=data)

    return add, lambda: path.touch()


WRITERS: dict[str, Callable[[Path], Writer]] = {"extxyz": _extxyz, "traj": _traj, "db": _db}
"""Those of ASE's formats that hold many structures, each with energy, forces and stress, and grow one by one."""
