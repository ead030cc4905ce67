"""Export H5MD, or any source, to a file that other programs read; streamed where the format allows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ase.db
import ase.io
import ase.io.extxyz
import numpy as np
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, filetype, get_compression, ioformats, open_with_compression
from ase.io.trajectory import TrajectoryWriter

from mlpot.atomic_files import check_place, replacing, storing
from mlpot.data.errors import FormatError
from mlpot.data.sources.read import H5MD_ENDINGS, Source, as_source

WITH_LABELS = ("extxyz", "traj", "db", "json")
"""Formats that keep energies, forces and stresses."""
STREAMED = ("extxyz", "traj", "db")
"""Formats that are written frame upon frame; frames of others are held in memory."""
PICTURES = {"png", "animation", "gif", "mp4", "eps", "pov", "x3d", "html"}
NO_FILES = {"bundletrajectory", "mysql", "postgresql", "py"}
"""What ASE writes to folders and servers, and programs."""


def export(
    source: str | Path | Source, destination: str | Path, *, format: str | None = None, overwrite: bool = False
) -> int:
    """Write the frames of a source in a format that ASE writes, and return how many there were.

    Args:
        source: a file of any kind.
        destination: absent until it is complete.
        format: of the destination, one of `ase.io`, where its ending does not show it.
        overwrite: replace an existing destination.

    Raises:
        FormatError: the format is unknown, cannot be written, or holds one structure where there are more.
        FileExistsError, FileNotFoundError, StorageError: as `check_place`.
        DataError: as `Source.numbered`.
    """
    source, destination = as_source(source), Path(destination)
    kind = writable(destination, format)
    check_place(destination, overwrite=overwrite)
    n_frames = 0

    def frames() -> Iterator[Atoms]:
        nonlocal n_frames
        for k, atoms in source.numbered():
            n_frames += 1
            if kind not in WITH_LABELS and atoms.calc is not None:
                source.report.note(f"labels left out, which {kind} cannot hold", k)
            source.report.note_constraints(atoms, kind, k)
            _keep_mask(atoms, kind)
            if ioformats[kind].single and n_frames > 1:
                raise FormatError(
                    f"{destination} can hold one structure, as {kind}, and {source.path} has more. Choose one "
                    "with --index, or another format, such as extxyz or traj."
                )
            yield atoms

    with replacing(destination, overwrite=overwrite) as temporary:
        with storing(destination, 0):
            _write(temporary, kind, frames())
        if n_frames == 0:
            raise FormatError(f"{source.path} has no frames to write. Check --index.")
    return n_frames


def _keep_mask(atoms: Atoms, kind: str) -> None:
    """Say which forces are labels, where nobody could tell by the constraints alone; ASE keeps no such array."""
    mask = atoms.arrays.pop("force_mask", np.ones(len(atoms), dtype=bool))
    if kind not in WITH_LABELS or atoms.calc is None or "forces" not in atoms.calc.results:
        return
    if atoms.constraints or not mask.all():
        place = atoms.arrays if kind == "extxyz" else atoms.info
        place["force_mask"] = mask


def writable(destination: Path, format: str | None = None) -> str:
    """The format of a file to write, by its ending or as given.

    Raises:
        FormatError: none, or one that is not written.
    """
    if destination.suffix in H5MD_ENDINGS or format == "h5md":
        raise FormatError(f"{destination} is H5MD by its ending. That is written by: mlpot data convert.")
    try:
        kind = format or str(filetype(str(destination), read=False))
    except UnknownFileTypeError:
        kind = ""
    if kind not in ioformats or not ioformats[kind].can_write or kind in PICTURES | NO_FILES:
        known = sorted(
            name for name, ioformat in ioformats.items() if ioformat.can_write and name not in PICTURES | NO_FILES
        )
        raise FormatError(
            f"{destination} is in no format that is written ({kind or 'unknown ending'}). Choose another ending, "
            f"such as .xyz, .traj or .cif, or name the format, one of: {', '.join(known)}."
        )
    packing = get_compression(str(destination))[1]
    if packing and (kind in ("traj", "db", "json") or not ioformats[kind].acceptsfd):
        raise FormatError(
            f"{destination} is not written: there is no {kind} packed as {packing}. Leave out the ending "
            f".{packing}, or choose another format, such as extxyz."
        )
    return kind


def _write(path: Path, kind: str, frames: Iterator[Atoms]) -> None:
    """Write all frames to a new file."""
    if kind == "extxyz":
        packed = get_compression(str(path))[1] is not None
        with open_with_compression(str(path), "w") if packed else path.open("w", encoding="utf-8") as file:
            for atoms in frames:
                ase.io.extxyz.write_xyz(file, [atoms])
    elif kind == "traj":
        with TrajectoryWriter(str(path), "w") as trajectory:
            for atoms in frames:
                trajectory.write(atoms)
    elif kind == "db":
        with ase.db.connect(str(path), type=kind) as database:
            for atoms in frames:
                database.write(atoms, data=atoms.info)
    elif kind == "json":
        database = ase.db.connect(str(path), type=kind, append=False)
        for atoms in frames:
            database.write(atoms, data=atoms.info)
    else:
        held = list(frames)
        try:
            ase.io.write(path, held if len(held) > 1 else held[:1], format=kind)
        except OSError:
            raise
        except Exception as error:  # ASE has a hundred writers, and each fails in its own way
            raise FormatError(f"ASE could not write {kind}: {error!r}. Choose another format.") from error
