"""Convert any source of labeled structures to H5MD; names and units are read or given, never guessed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ase import Atoms

from mlpot.data.errors import FormatError, KeysError
from mlpot.data.h5md.read import Reader
from mlpot.data.h5md.write import write
from mlpot.data.sources.correct import corrected, unwanted
from mlpot.data.sources.read import H5MD_ENDINGS, Source
from mlpot.data.sources.reading import Reading
from mlpot.data.sources.report import SHOWN, of_potential


def convert(
    source: str | Path | Source,
    destination: str | Path,
    *,
    format: str | None = None,
    keys: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    index: str = ":",
    corrections: Mapping[str, str] | None = None,
    drop: str | None = None,
    without: str | Path | None = None,
    hold: Sequence[int] = (),
    card: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> int:
    """Write the frames of any readable file to an H5MD file and return how many there were.

    Labels of ASE's formats are taken in eV, eV/Å and eV/Å³ under ASE's names (energy, forces, stress; virial, eV,
    in extxyz); others need `keys` and `units`. Atoms that a constraint holds get a force mask of False.

    Args:
        source: a file, or a `Source`, which knows how it is read and reports what was left out.
        destination: absent until it is complete.
        format, keys, units, index: as `Reading`, of a source that is a path.
        corrections: what the numbers really are, for `correct.corrected`.
        drop, without: frames that are left out, for `correct.unwanted`.
        hold: atoms whose forces are not to be learned.
        card: what the data are: level of theory, licence, ...
        overwrite: replace an existing destination.

    Raises:
        KeysError: no labels, or several that could be meant, or a key that is not there.
        UnitsError: a unit is unknown, missing, or of the wrong dimension.
        LabelError: a value is not finite or has the wrong shape, with the number of the frame; no frames.
        FormatError: the file cannot be read, or the destination is not H5MD by its ending.
        FileExistsError: the destination exists.
    """
    _check_name(Path(destination))
    if not isinstance(source, Source):
        source = Source(source, Reading(format=format, keys=keys or {}, units=units or {}, index=index))
    out = unwanted(source, drop, without)
    frames = corrected(source, _without(source, out), corrections or {}, hold)
    card = {"source": source.path.name, **of_potential(source.card), **(card or {})}
    write(destination, _labeled(source, frames), card=card, overwrite=overwrite)
    with Reader(destination) as reader:
        return len(reader)


def _check_name(destination: Path) -> None:
    if destination.suffix not in H5MD_ENDINGS:
        raise FormatError(
            f"{destination} does not end in .h5, and what convert writes is H5MD. For extxyz and other formats: "
            "mlpot data export."
        )


def _without(source: Source, out: set[int]) -> Iterator[Atoms]:
    """The frames but for some; at their end an error if one of these was not there."""
    left = set(out)
    for k, atoms in source.numbered():
        left.discard(k)
        if k not in out:
            yield atoms
    if left:
        absent = ", ".join(map(str, sorted(left)[:SHOWN]))
        raise KeysError(f"{source.path} has no frame {absent} among those that are read. Correct --drop.")


def _labeled(source: Source, frames: Iterable[Atoms]) -> Iterator[Atoms]:
    """The frames; at their end an error if there was nothing to learn from."""
    atoms, labeled = None, False
    for atoms in frames:
        labeled = labeled or (atoms.calc is not None and bool(atoms.calc.results))
        yield atoms
    if atoms is not None and not labeled:
        names = f" It has {', '.join(sorted(source.report.unused))}." if source.report.unused else ""
        raise KeysError(
            f"{source.path} has no energies, forces or stresses that are read.{names} Name them (--key), or label "
            f"the frames: mlpot data label {source.path} set.h5 --calculator pyscf (or gpaw, tblite)."
        )
