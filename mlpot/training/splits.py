"""Which frames train, validate and test; and the checks that all of this makes sense before the first epoch."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from mlpot.data.check.check import QUICK_FRAMES, check_frames
from mlpot.data.check.finding import Finding
from mlpot.data.check.survey import Floats, Ints, Survey, survey
from mlpot.data.h5md import Frame
from mlpot.data.split import RareElementWarning
from mlpot.training.recipe import DataSection, LossSection
from mlpot.training.reference_energies import force_scales, reference_energies, shifts, warn_of_references

SAMPLE = 50_000  # atoms that tell how large forces are


class NothingToLearnError(ValueError):
    """No label in the data can teach what the recipe asks for."""


class LeakageError(ValueError):
    """Structures of the test set are in the training or validation set."""


class DoubtfulDataError(ValueError):
    """The training set is wrong in a way that would waste the run."""


class DoubtfulDataWarning(UserWarning):
    """The training set looks wrong, and the training uses it as the recipe says."""


class LeakageWarning(UserWarning):
    """Structures are in more than one part of the data, so that errors look smaller than they are."""


@dataclass(frozen=True)
class Part:
    """Frames of a file that serve one purpose."""

    data: Survey
    indices: Ints  # ascending
    weights: Floats | None = None  # of all frames of the data in the loss; None where all count alike

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def elements(self) -> list[int]:
        """Atomic numbers, ascending."""
        return self.data.elements(self.indices)

    def frames(self) -> Iterator[Frame]:
        """The frames, as they were kept, or read by blocks."""
        return self.data.frames(self.indices)

    def names(self) -> list[str]:
        """Names of the frames in messages."""
        return self.data.names(self.indices)

    def weights_of(self, frames: Ints) -> Floats | None:
        """(n_frames,) how much some frames of the data count; None where all count alike."""
        return None if self.weights is None else self.weights[frames]

    def sample(self) -> list[Frame]:
        """Some of the frames, evenly spread over the part."""
        every = -(-int(self.data.n_atoms[self.indices].sum()) // SAMPLE)
        return list(self.data.frames(self.indices[::every]))

    def n_labels(self) -> dict[str, int]:
        """How many structures there are, and labels of each kind."""
        return self._n_labels(self.indices)

    def labels_by_file(self) -> dict[str, dict[str, int]]:
        """The same for each file of the set."""
        file = self.data.file[self.indices]
        return {path: self._n_labels(self.indices[file == k]) for k, path in enumerate(self.data.paths)}

    def _n_labels(self, frames: Ints) -> dict[str, int]:
        return {
            "structures": len(frames),
            "energy": int(np.isfinite(self.data.energy[frames]).sum()),
            "forces": int(self.data.n_forces[frames].sum()),
            "stress": int(self.data.has_stress[frames].sum()),
            "stress_in_plane": int(self.data.is_in_plane[frames].sum()),
        }

    def n_repeated(self, other: Part) -> int:
        """How many structures have the same atoms in the same places as one of another part."""
        return int(np.isin(self.data.digest[self.indices], other.data.digest[other.indices]).sum())


@dataclass(frozen=True)
class Parts:
    """The data of a training."""

    train: Part
    validation: Part
    test: Part | None
    train_hash: str  # of the content of the training files
    examples: list[dict[str, Any]] = field(default_factory=list)  # some structures, for the model's card
    to_rotate: list[dict[str, Any]] = field(
        default_factory=list
    )  # of validation, of whose copies forces are compared

    def forget(self) -> None:
        """Give the memory of kept frames back."""
        for part in (self.train, self.validation, self.test):
            if part is not None:
                part.data.forget()

    def repeated(self) -> dict[str, int]:
        """Validation and test structures that are also in the training set."""
        test = {} if self.test is None else {"test": self.test.n_repeated(self.train)}
        return {"validation": self.validation.n_repeated(self.train), **test}

    def n_selected_by(self) -> int:
        """Test structures that are also in the validation set, by which the best epoch is chosen."""
        return 0 if self.test is None else self.test.n_repeated(self.validation)


def make_parts(recipe: DataSection, loss: LossSection, *, known: Collection[int] = (), keep: float = 0.0) -> Parts:
    """Survey the files, draw the validation frames, and check everything.

    Args:
        recipe, loss: sections of the recipe.
        known: elements of the model from which training starts, which need no training structures.
        keep: bytes of memory that the frames of each set may take until `Parts.forget`.

    Raises:
        DoubtfulDataError: units, signs or labels of the training set are wrong.
        NothingToLearnError: no training or validation label has a weight, or all forces are zero.
        LeakageError: test structures are in the training set.
        ValueError: too few structures; elements that are not in the training set; weights of unknown families.
    """
    data = survey(*paths_of(recipe.train), keep=keep)
    if isinstance(recipe.validation, int | float):
        train, validation = split(structures(data), recipe.validation, recipe.seed, recipe.fold or 0)
    else:
        train, validation = structures(data), structures(survey(*paths_of(recipe.validation), keep=keep))
    test = None if recipe.test is None else structures(survey(*paths_of(recipe.test), keep=keep))
    check_labels(train, loss)
    check_labels(validation, loss)
    for part in (validation, test):
        if part is not None:
            check_elements(train, part, known)
    check_units(data, recipe.check)
    train, validation = weighted(train, validation, loss.weights)
    parts = Parts(train, validation, test, data.hash)
    check_leakage(parts, allow=recipe.allow_duplicates)
    return parts


def paths_of(files: str | list[str]) -> list[str]:
    """One file or several, as a list."""
    return [files] if isinstance(files, str) else files


def weighted(train: Part, validation: Part, families: dict[str, float]) -> tuple[Part, Part]:
    """The parts with the weights of their frames: of the frame times of its family, of mean 1 in training.

    Raises:
        ValueError: a family that no training structure belongs to; weights that are all zero.
    """
    there = {train.data.families[k] for k in np.unique(train.data.family[train.indices]) if k >= 0}
    if unknown := families.keys() - there:
        raise ValueError(
            f"loss.weights names {', '.join(sorted(unknown))}, and no training structure is of such a family. "
            f"There are: {', '.join(sorted(there)) or 'none'}."
        )
    raw = []
    for part in (train, validation):
        by_family = np.array([*(families.get(name, 1.0) for name in part.data.families), 1.0])  # -1: no family
        raw.append(part.data.weight * by_family[part.data.family])
    mean = float(raw[0][train.indices].mean())
    if mean == 0.0:
        raise ValueError(f"{train.data.path}: the weights of all training frames are zero. Correct loss.weights.")
    if all((own[part.indices] == mean).all() for own, part in zip(raw, (train, validation), strict=True)):
        return train, validation
    return replace(train, weights=raw[0] / mean), replace(validation, weights=raw[1] / mean)


def structures(data: Survey) -> Part:
    """All frames that are not isolated atoms.

    Raises:
        NothingToLearnError: there are none.
    """
    indices = np.flatnonzero(~data.is_isolated)
    if not len(indices):
        raise NothingToLearnError(
            f"{data.path}: nothing to learn, every frame is an isolated atom. Add structures of several atoms."
        )
    return Part(data, indices)


def split(whole: Part, validation: int | float, seed: int, fold: int = 0) -> tuple[Part, Part]:
    """Training and validation parts, drawn by the seed; the next fold validates by the frames that come next.

    A frame stays in training if it is the last that holds one of its elements.

    Raises:
        ValueError: too few structures.
    """
    n = validation if isinstance(validation, int) else max(1, round(validation * len(whole)))
    if not 0 < n < len(whole):
        raise ValueError(
            f"{whole.data.path} has {len(whole)} structures besides isolated atoms, too few to draw {n} for "
            f"validation. Give more data, or {'a validation file' if n < 2 else 'a smaller data.validation'}."
        )
    order = np.roll(np.random.default_rng(seed).permutation(len(whole)), -fold * n)
    chosen, kept = draw(whole.data.holds(whole.indices), order, n)
    if not len(chosen):
        raise ValueError(
            f"{whole.data.path}: no structure can be drawn for validation, as each is the only one of an element. "
            "Give more data, or a validation file."
        )
    if len(kept):
        message = kept_note(whole.data, whole.indices[kept], len(chosen), n)
        warnings.warn(message, RareElementWarning, stacklevel=3)
    mine = np.isin(np.arange(len(whole)), chosen)
    return Part(whole.data, whole.indices[~mine]), Part(whole.data, whole.indices[mine])


def draw(holds: NDArray[np.bool_], order: Ints, n: int) -> tuple[Ints, Ints]:
    """The first n frames of an order that are not the last of an element, and those that were passed over.

    Args:
        holds: (n_frames, n_elements) which frame holds which element.
    """
    left = holds.sum(axis=0)
    chosen: list[int] = []
    kept: list[int] = []
    for frame in order:
        if len(chosen) == n:
            break
        if (left[holds[frame]] == 1).any():
            kept.append(int(frame))
        else:
            chosen.append(int(frame))
            left = left - holds[frame]
    return np.array(chosen, dtype=np.int64), np.array(kept, dtype=np.int64)


def kept_note(data: Survey, frames: Ints, n_drawn: int, n: int) -> str:
    """The message about frames that were not drawn for validation."""
    shown = ", ".join(str(k) for k in frames[:10]) + (" ..." if len(frames) > 10 else "")
    few = f" {n_drawn} frames were drawn instead of {n}." if n_drawn < n else ""
    return (
        f"{len(frames)} frames of {data.path} ({shown}) stay in training although drawn for validation: they are "
        f"the last that hold one of their elements.{few}"
    )


def check_labels(part: Part, loss: LossSection) -> None:
    """Raise NothingToLearnError unless some label has a weight and some force is not zero."""
    n, path = part.n_labels(), part.data.path
    weights = {"energy": loss.energy, "forces": loss.forces, "stress": loss.stress}
    if not any(n[name] for name, weight in weights.items() if weight > 0):
        asked = ", ".join(name for name, weight in weights.items() if weight > 0)
        raise NothingToLearnError(
            f"{path}: nothing to learn. The loss weighs {asked}, and none of the {len(part)} structures has such "
            f"a label (energies {n['energy']}, forces {n['forces']}, stresses {n['stress']}). Convert the data "
            "with the names of its labels, or weigh labels that are there."
        )
    if loss.forces > 0 and n["forces"] and not part.data.largest_force[part.indices].any():
        raise NothingToLearnError(
            f"{path}: every one of {n['forces']} force vectors is exactly zero, which looks like a label that was "
            "never computed. Remove the forces from the data, or set loss.forces=0."
        )


def check_units(data: Survey, mode: str) -> None:
    """Raise DoubtfulDataError, or warn, if a sample of the training set shows wrong units, signs or labels.

    Each file is examined on its own, and then all together.
    """
    if mode == "off":
        return
    errors = {path: _errors(data, path, np.flatnonzero(data.file == k)) for k, path in enumerate(data.paths)}
    if len(data.paths) > 1:
        known = {found.check for own in errors.values() for found in own}
        joint = _errors(data, data.path, np.arange(len(data.n_atoms)))
        errors["together"] = [replace(found, fix=None) for found in joint if found.check not in known]
    lines = [
        f"{path}: {found.message}{f' To mend: {found.fix}.' if found.fix else ''}"
        for path, own in errors.items()
        for found in own
    ]
    if not lines:
        return
    message = "\n".join(lines)
    if mode == "refuse":
        raise DoubtfulDataError(f"{message}\nTo train on it as it is: data.check=warn.")
    warnings.warn(message, DoubtfulDataWarning, stacklevel=2)


def _errors(data: Survey, path: str, frames: Ints) -> list[Finding]:
    """The errors, not warnings, in a sample of some frames."""
    sample = frames[:: max(1, len(frames) // QUICK_FRAMES)]
    numbered = zip((sample - frames[0]).tolist(), data.frames(sample), strict=True)
    return [found for found in check_frames(path, numbered).findings if found.severity == "error"]


def check_elements(train: Part, other: Part, known: Collection[int]) -> None:
    """Raise ValueError if a part holds elements that are neither in the training part nor known before."""
    unknown = [chemical_symbols[z] for z in other.elements if z not in {*train.elements, *known}]
    if unknown:
        raise ValueError(
            f"{other.data.path} holds {', '.join(unknown)}, not in the training structures. Train on these "
            "elements too, or remove the frames."
        )


def check_leakage(parts: Parts, *, allow: bool) -> None:
    """Raise LeakageError for test structures that are trained on or select the best epoch, unless allowed.

    A warning tells of those that are allowed, and of validation structures that are trained on.
    """
    told = [(name, "training", n) for name, n in parts.repeated().items()]
    told.append(("test", "validation", parts.n_selected_by()))
    for name, other, n in told:
        if n and name == "test" and not allow:
            why = "mean nothing" if other == "training" else "are those by which the best epoch is chosen"
            raise LeakageError(
                f"{n} of the test structures are in the {other} set, so their errors {why}. "
                "Remove them, or set data.allow_duplicates=true."
            )
        if n:
            warnings.warn(
                f"{n} of the {name} structures are also in the {other} set: {name} errors come out too small.",
                LeakageWarning,
                stacklevel=2,
            )


@dataclass(frozen=True)
class Baseline:
    """What a potential starts from, by atomic number."""

    reference_energies: dict[int, float]  # eV
    sources: dict[int, str]  # of the reference energies, as `reference_energies.References` has them
    scale: dict[int, float]  # eV
    shift: dict[int, float]  # eV


def learned_from(parts: Parts, fold: int | None) -> Part:
    """The frames that reference energies and scales are of: all for a fold, as its committee has one scale."""
    return parts.train if fold is None else union([parts.train, parts.validation])


def union(parts: Sequence[Part]) -> Part:
    """The frames of any of several parts of one set."""
    return replace(parts[0], indices=np.unique(np.concatenate([part.indices for part in parts])))


def make_baseline(train: Part, given: dict[str, float] | None) -> Baseline:
    """Reference energies, scales and shifts of the training structures.

    Args:
        train: the training part.
        given: eV by chemical symbol; goes before the isolated atoms in the file.
    """
    data, elements = train.data, train.elements
    chosen = {atomic_numbers[s]: e for s, e in (given or {}).items()}
    labeled = train.indices[np.isfinite(data.energy[train.indices])]
    counts, energies = data.counts(labeled, elements), data.energy[labeled]
    found = reference_energies(counts, energies, elements, data.isolated_atoms(), chosen)
    unused = [symbol for symbol in given or {} if atomic_numbers[symbol] not in elements]
    warn_of_references(found, unused, len(labeled) > 0)
    # Without energies, forces determine the energy up to a constant only.
    fitted = len(labeled) > 0
    shift = shifts(counts, energies, elements, found.energies) if fitted else dict.fromkeys(elements, 0.0)
    return Baseline(found.energies, found.sources, force_scales(*forces_by_atom(train), elements), shift)


def forces_by_atom(part: Part) -> tuple[Ints, NDArray[np.float64]]:
    """Atomic numbers (n_atoms,) and forces (n_atoms, 3) eV/Å of some of the frames."""
    sample = part.sample()
    return np.concatenate([f.numbers for f in sample]), np.concatenate([f.forces for f in sample])
