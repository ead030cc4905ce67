"""Merge several sources into one set, after their energies were checked, or shifted, to be of one method."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from mlpot.atomic_files import check_place
from mlpot.data.errors import DataError, KeysError
from mlpot.data.frame import Frame, results_of
from mlpot.data.h5md.write import write
from mlpot.data.label_differences import Difference, Place, label_differences
from mlpot.data.sources.read import Source
from mlpot.data.sources.report import of_potential

Floats = NDArray[np.float64]
References = Mapping[int, float]
"""Energy of an isolated atom, eV, by atomic number."""
How = Literal["ask", "atoms", "fit", "keep"]
Conflicts = Literal["ask", "first", "keep"]

ATOM_DIFFERS = 2e-3  # eV, of the same isolated atom in two sources
SIGMAS, FLOOR = 5.0, 0.05  # of spreads, and eV/atom, by which energies of two sources may differ as chemistry does
ROUND = 4  # decimals of Å in which equal structures are equal
SHOWN = 5  # examples in a message


class MergeError(DataError):
    """The sources cannot be merged as they are; the message says why, and the options that decide it."""


@dataclass
class _Scan:
    """The energies of one source."""

    name: str
    counts: list[dict[int, int]] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    isolated: dict[int, float] = field(default_factory=dict)
    digests: dict[bytes, int] = field(default_factory=dict)  # the first frame of each structure

    def take(self, k: int, frame: Frame) -> None:
        numbers, times = np.unique(frame.numbers, return_counts=True)
        if np.isfinite(atom := frame.reference_energy):
            self.isolated[int(numbers[0])] = min(atom, self.isolated.get(int(numbers[0]), atom))
        elif np.isfinite(frame.energy) and not frame.is_isolated:
            self.counts.append(dict(zip(numbers.tolist(), times.tolist(), strict=True)))
            self.energies.append(frame.energy)
        if not frame.is_isolated:
            self.digests.setdefault(_digest(frame), k)


@dataclass(frozen=True)
class Merged:
    """What was written."""

    n_frames: int
    sources: dict[str, int]  # frames of each
    n_left_out: int  # structures that an earlier source has already
    n_repeated: int  # structures with the labels that they have in an earlier source, left out or not
    shifted: dict[str, dict[str, float]]  # by source, what an atom's energy was changed by, eV


def merge(
    sources: Sequence[Source],
    destination: str | Path,
    *,
    references: How = "ask",
    given: Mapping[str, References] | None = None,
    conflicts: Conflicts = "ask",
    drop_duplicates: bool = False,
    card: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Merged:
    """Write the frames of several sources to one H5MD file, each with its source as family.

    Args:
        sources: in the order of the frames; the first one's energies are the scale.
        destination: absent until it is complete.
        references: what to do where isolated atoms or compositions show that energies are of several methods:
            "ask" is an error that says so; "atoms" takes each source's isolated atoms for its zero, "fit" what
            fits its energies best; "keep" changes nothing.
        given: energies of isolated atoms by name of a source, which go before all that.
        conflicts: of the same structure with other labels: an error, the first source's, or both.
        drop_duplicates: leave out structures that an earlier source has with the same labels.
        card: what the data are.
        overwrite: replace an existing destination.

    Raises:
        MergeError: energies of two methods, or equal structures with other labels, and nobody said what to do.
        KeysError: references of a source that is not there, or of too few elements.
        DataError: as `Source.numbered`; FileExistsError, FileNotFoundError, StorageError: as `check_place`.
    """
    check_place(destination, overwrite=overwrite)
    if len(sources) < 2:
        raise KeysError("One source is no set of several. Give at least two, or use `mlpot data convert`.")
    names = _names([source.path for source in sources])
    scans = [_scan(name, source) for name, source in zip(names, sources, strict=True)]
    own = _references(scans, names, references, given or {})
    scale: dict[int, float] = {}  # of each element that of the first source that has it
    for known in own:
        scale = {**known, **scale}
    shifts = [{z: scale[z] - e for z, e in r.items() if scale[z] != e} for r in own]
    out, n_repeated = _repeated(scans, sources, shifts, conflicts, drop_duplicates)
    frames = _frames(names, sources, shifts, out)
    about = {**_card(names, sources, shifts), **(card or {})}
    write(destination, frames, card=about, overwrite=overwrite)
    n = {name: source.report.n_frames for name, source in zip(names, sources, strict=True)}
    n_out = sum(len(frames) for frames in out)
    shifted = {
        name: {chemical_symbols[z]: e for z, e in s.items()} for name, s in zip(names, shifts, strict=True) if s
    }
    return Merged(sum(n.values()) - n_out, n, n_out, n_repeated, shifted)


def _card(names: Sequence[str], sources: Sequence[Source], shifts: Sequence[References]) -> dict[str, str]:
    """The entries of the card about the origin of the set."""
    changed = {
        f"energies of {n} changed by (eV an atom)": _told(s) for n, s in zip(names, shifts, strict=True) if s
    }
    return {"sources": ", ".join(names), **of_potential(*(source.card for source in sources)), **changed}


def _names(paths: Sequence[Path]) -> list[str]:
    """Names of the sources: the shortest ends of their paths that differ."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise KeysError("A source is given twice. Give each once.")
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            break
    return [name[-100:] for name in names]


def _scan(name: str, source: Source) -> _Scan:
    scan = _Scan(name)
    for k, frame in source.records():
        scan.take(k, frame)
    return scan


def _digest(frame: Frame) -> bytes:
    """Of equal structures, wherever they stand; a charge or spin that is not said is that of a closed shell."""
    state = [frame.charge or 0.0 if np.isfinite(frame.charge) else 0.0, frame.spin if frame.spin > 1 else 0.0]
    arrays = (
        frame.numbers,
        np.round(frame.positions - frame.positions[:1], ROUND) + 0.0,
        np.round(frame.cell, ROUND) + 0.0,
        frame.pbc,
        np.array(state),
    )
    return hashlib.blake2b(b"".join(array.tobytes() for array in arrays), digest_size=16).digest()


def _references(
    scans: Sequence[_Scan], names: Sequence[str], how: How, given: Mapping[str, References]
) -> list[References]:
    """Reference energies of each source on whose difference its energies are shifted; empty where they stay."""
    if unknown := set(given) - set(names):
        raise KeysError(f"References are given of {sorted(unknown)}, but the sources are {', '.join(names)}.")
    if given or how == "atoms":
        own: list[References] = [dict(given.get(scan.name, scan.isolated)) for scan in scans]
        for scan, known in zip(scans, own, strict=True):
            needed = {z for counts in scan.counts for z in counts} | set(scan.isolated)
            if absent := sorted(needed - set(known)):
                symbols = [chemical_symbols[z] for z in absent]
                example = ",".join(f"{s}=..." for s in symbols)
                raise KeysError(
                    f"No energy of an isolated {', '.join(symbols)} of {scan.name} is known, neither in it nor "
                    f"given. Say it in eV: --reference {scan.name}:{example}, or fit them: --references fit."
                )
        return own
    if how == "keep":
        return [{} for _ in scans]
    if how == "fit":
        return _fitted(scans)
    found = [line for k, b in enumerate(scans) for a in scans[:k] for line in _differences(a, b)]
    if not found:
        return [{} for _ in scans]
    raise MergeError(
        "The sources have other reference energies, so no potential can learn both without a shift:\n  "
        + "\n  ".join(found[: 2 * SHOWN])
        + "\nSay what is right: --reference NAME:H=-13.6,O=-432.1 (of each source, eV) or --references atoms (its "
        "own isolated atoms) puts all on the scale of the first; --references fit does so by what fits best; "
        "--references keep leaves all as it is, where both are of one method after all."
    )


def _differences(a: _Scan, b: _Scan) -> Iterator[str]:
    """Reasons why the energies of two sources cannot be of one method."""
    for z in sorted(a.isolated.keys() & b.isolated.keys()):
        if abs(a.isolated[z] - b.isolated[z]) > ATOM_DIFFERS:
            yield (
                f"an isolated {chemical_symbols[z]} has {a.isolated[z]:.4f} eV in {a.name}, "
                f"{b.isolated[z]:.4f} eV in {b.name}"
            )
    elements = sorted({z for scan in (a, b) for counts in scan.counts for z in counts})
    if not a.counts or not b.counts:
        return
    (x, y), (u, v) = (_design(scan, elements) for scan in (a, b))
    fit = np.linalg.lstsq(x, y, rcond=1e-6)[0]
    # Only what the first source determines can be compared: compositions that are sums of its own.
    within = np.linalg.lstsq(x.T, u.T, rcond=1e-6)
    known = np.abs(x.T @ within[0] - u.T).max(axis=0) < 1e-6 * u.max()
    if not known.any():
        return
    own, other = (y - x @ fit) / x.sum(axis=1), ((v - u @ fit) / u.sum(axis=1))[known]
    worst, spread = 0.0, 0.0
    kinds, which = np.unique(u[known], axis=0, return_inverse=True)
    for k in range(len(kinds)):  # of one composition each, as errors of two methods cancel between some
        mine = other[which.ravel() == k]
        apart, usual = float(mine.mean()), float(np.hypot(own.std(), mine.std()))
        if abs(apart) > max(abs(worst), FLOOR + SIGMAS * usual):
            worst, spread = apart, usual
    if worst:
        yield (
            f"energies of {b.name} lie {worst:+.3f} eV/atom from those of {a.name} with as many atoms of "
            f"each element, while structures differ by {spread:.3f} eV/atom among themselves"
        )


def _design(scan: _Scan, elements: Sequence[int]) -> tuple[Floats, Floats]:
    counts = np.array([[c.get(z, 0) for z in elements] for c in scan.counts], dtype=float)
    return counts, np.array(scan.energies)


def _fitted(scans: Sequence[_Scan]) -> list[References]:
    """References of each source that fit its energies, with the least change of those that an earlier one has.

    An element that no earlier source has takes all that it can, so that the others' change is no part of it.
    """
    elements = sorted({z for scan in scans for counts in scan.counts for z in counts})
    first, is_known = np.zeros(len(elements)), np.zeros(len(elements), dtype=bool)
    own: list[References] = []
    for scan in scans:
        x, y = _design(scan, elements) if scan.counts else (np.zeros((0, len(elements))), np.zeros(0))
        present = x.any(axis=0)
        shared, new = np.flatnonzero(present & is_known), np.flatnonzero(present & ~is_known)
        left = y - x @ first
        rest = np.eye(len(y)) - x[:, new] @ np.linalg.pinv(x[:, new], rcond=1e-6)  # what new elements cannot take
        values = first.copy()
        values[shared] += np.linalg.lstsq(rest @ x[:, shared], rest @ left, rcond=1e-6)[0]
        values[new] = np.linalg.lstsq(x[:, new], y - x[:, shared] @ values[shared], rcond=1e-6)[0]
        first[new], is_known[new] = values[new], True
        own.append({elements[k]: float(values[k]) for k in np.flatnonzero(present)})
    return own


def _repeated(
    scans: Sequence[_Scan],
    sources: Sequence[Source],
    shifts: Sequence[References],
    conflicts: Conflicts,
    drop_duplicates: bool,
) -> tuple[list[set[int]], int]:
    """Frames of each source that are left out, as an earlier one has the structure, and how many repeat one."""
    out: list[set[int]] = [set() for _ in scans]
    pairs = _pairs(scans)
    # Labels of two methods, whose energies were shifted, are equal up to a method's error.
    comparable = [pair for pair in pairs if not any(shifts[source] for source, _ in pair)]
    differs = dict(zip(comparable, label_differences(sources, comparable), strict=True))
    other, n_same = [], 0
    for (s, where), (t, k) in pairs:
        difference = differs.get(((s, where), (t, k)), Difference())
        what = difference.of_both
        if not what and drop_duplicates and difference.of_second:
            what = f"{difference.of_second} in the second alone"
        if not what:
            n_same += 1
            out[t].update({k} if drop_duplicates else ())
        elif conflicts == "first":
            out[t].add(k)
        else:
            other.append(f"frame {where} of {scans[s].name} and frame {k} of {scans[t].name}: {what}")
    if other and conflicts == "ask":
        raise MergeError(
            f"{len(other)} structures stand in two sources with other labels:\n  " + "\n  ".join(other[:SHOWN])
            + "\nOne of the two is wrong, or they are of two methods. --conflicts first takes that of the source "
            "named first, --conflicts keep both; of two methods, see --references."
        )  # fmt: skip
    return out, n_same


def _pairs(scans: Sequence[_Scan]) -> list[tuple[Place, Place]]:
    """Each structure that an earlier source has, with its first place there."""
    seen: dict[bytes, Place] = {}
    found = []
    for s, scan in enumerate(scans):
        for digest, k in scan.digests.items():
            if digest in seen:
                found.append((seen[digest], (s, k)))
            else:
                seen[digest] = (s, k)
    return found


def _frames(
    names: Sequence[str], sources: Sequence[Source], shifts: Sequence[References], out: Sequence[set[int]]
) -> Iterator[Atoms]:
    for name, source, shift, left_out in zip(names, sources, shifts, out, strict=True):
        for k, atoms in source.numbered():
            if k in left_out:
                continue
            family = atoms.info.get("group")
            atoms.info["group"] = name if family is None else f"{name}: {family}"
            results = {} if atoms.calc is None else dict(atoms.calc.results)
            if shift and "energy" in results:
                results["energy"] += sum(shift.get(z, 0.0) for z in atoms.numbers.tolist())
                atoms.calc = results_of(atoms, results)
            yield atoms


def _told(shift: References) -> str:
    return ", ".join(f"{chemical_symbols[z]} {energy:+.6f}" for z, energy in sorted(shift.items()))


def references_of(texts: Sequence[str]) -> dict[str, dict[int, float]]:
    """References as a command line spells them, "NAME:H=-13.6,O=-432.1", in eV by name of a source.

    Raises:
        KeysError: it is not spelled so, or names what is no element.
    """
    given: dict[str, dict[int, float]] = {}
    for text in texts:
        name, _, energies = text.rpartition(":")
        for part in energies.split(","):
            symbol, _, value = part.partition("=")
            try:
                energies_of = given.setdefault(name, {})
                energies_of[atomic_numbers[symbol.strip()]] = energy = float(value)
            except (KeyError, ValueError):
                energy = np.nan
            if not np.isfinite(energy):
                raise KeysError(f"{text!r} is no reference. Write a.xyz:H=-13.6,O=-432.1, energies in eV.")
    return given
