"""Which frames train, validate and test; and the checks that all of this makes sense before the first epoch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from mlpot.data.check.check import check
from mlpot.data.check.survey import Ints, Survey, read_frames, survey
from mlpot.data.h5md import Frame, content_hash
from mlpot.training import reference_energies as baseline
from mlpot.training.recipe import DataSection, LossSection

SAMPLE = 50_000  # atoms that tell how large forces are


class NothingToLearnError(ValueError):
    """No label in the data can teach what the recipe asks for."""


class LeakageError(ValueError):
    """Structures of the test set are in the training set."""


class DoubtfulDataError(ValueError):
    """The training set is wrong in a way that would waste the run."""


class DoubtfulDataWarning(UserWarning):
    """The training set looks wrong, and is trained on all the same."""


class LeakageWarning(UserWarning):
    """Structures are in more than one part of the data, so that errors look smaller than they are."""


@dataclass(frozen=True)
class Part:
    """Frames of a file that serve one purpose."""

    data: Survey
    indices: Ints  # ascending

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def elements(self) -> list[int]:
        """Atomic numbers, ascending."""
        return self.data.elements(self.indices)

    def frames(self) -> Iterator[Frame]:
        """The frames, read by blocks."""
        return read_frames(self.data.path, self.indices)

    def sample(self) -> list[Frame]:
        """Some of the frames, evenly spread."""
        every = -(-int(self.data.n_atoms[self.indices].sum()) // SAMPLE)
        return list(read_frames(self.data.path, self.indices[::every]))

    def n_labels(self) -> dict[str, int]:
        """How many structures there are, and labels of each kind."""
        return {
            "structures": len(self),
            "energy": int(np.isfinite(self.data.energy[self.indices]).sum()),
            "forces": int(self.data.n_forces[self.indices].sum()),
            "stress": int(self.data.has_stress[self.indices].sum()),
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
    train_hash: str  # of the content of the training file

    def repeated(self) -> dict[str, int]:
        """Validation and test structures that are also in the training set."""
        test = {} if self.test is None else {"test": self.test.n_repeated(self.train)}
        return {"validation": self.validation.n_repeated(self.train), **test}


def make_parts(recipe: DataSection, loss: LossSection) -> Parts:
    """Survey the files, draw the validation frames, and check everything.

    Raises:
        DoubtfulDataError: units, signs or labels of the training set are wrong.
        NothingToLearnError: no training or validation label has a weight, or all forces are zero.
        LeakageError: test structures are in the training set.
        ValueError: too few structures; elements that are not in the training set.
    """
    data = survey(recipe.train)
    if isinstance(recipe.validation, str):
        train, validation = structures(data), structures(survey(recipe.validation))
    else:
        train, validation = split(structures(data), recipe.validation, recipe.seed)
    test = None if recipe.test is None else structures(survey(recipe.test))
    check_labels(train, loss)
    check_labels(validation, loss)
    for part in (validation, test):
        if part is not None:
            check_elements(train, part)
    check_units(recipe)
    parts = Parts(train, validation, test, content_hash(data.path))
    check_leakage(parts, allow=recipe.allow_duplicates)
    return parts


def structures(data: Survey) -> Part:
    """All frames that are not free atoms.

    Raises:
        NothingToLearnError: there are none.
    """
    indices = np.flatnonzero(~data.is_free_atom)
    if not len(indices):
        raise NothingToLearnError(
            f"{data.path}: nothing to learn, every frame is a free atom. Add structures of several atoms."
        )
    return Part(data, indices)


def split(whole: Part, validation: int | float, seed: int) -> tuple[Part, Part]:
    """Training and validation parts, drawn by the seed.

    Raises:
        ValueError: too few structures.
    """
    n = validation if isinstance(validation, int) else max(1, round(validation * len(whole)))
    if not 0 < n < len(whole):
        raise ValueError(
            f"{whole.data.path} has {len(whole)} structures besides free atoms, too few to draw {n} for "
            "validation. Give more data, or a smaller data.validation."
        )
    chosen = np.isin(np.arange(len(whole)), np.random.default_rng(seed).permutation(len(whole))[:n])
    return Part(whole.data, whole.indices[~chosen]), Part(whole.data, whole.indices[chosen])


def check_labels(part: Part, loss: LossSection) -> None:
    """Raise NothingToLearnError unless some label has a weight, and forces are more than zeros."""
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


def check_units(recipe: DataSection) -> None:
    """Raise DoubtfulDataError, or warn, if a sample of the training set shows wrong units, signs or labels."""
    if recipe.check == "off":
        return
    for found in check(recipe.train, quick=True).findings:
        if found.severity != "error":
            continue
        mend = f" To mend: {found.fix}." if found.fix else ""
        message = f"{recipe.train}: {found.message}{mend}"
        if recipe.check == "refuse":
            raise DoubtfulDataError(f"{message} To train on it as it is: data.check=warn.")
        warnings.warn(message, DoubtfulDataWarning, stacklevel=2)


def check_elements(train: Part, other: Part) -> None:
    """Raise ValueError if a part holds elements that are not in the training part."""
    unknown = [chemical_symbols[z] for z in other.elements if z not in train.elements]
    if unknown:
        raise ValueError(
            f"{other.data.path} holds {', '.join(unknown)}, not in the training structures. Train on these "
            "elements too, or remove the frames."
        )


def check_leakage(parts: Parts, *, allow: bool) -> None:
    """Raise LeakageError for test structures that are trained on, warn of validation structures that are."""
    repeated = parts.repeated()
    if repeated.get("test") and not allow:
        raise LeakageError(
            f"{repeated['test']} of the test structures are in the training set, so their errors mean nothing. "
            "Remove them, or set data.allow_duplicates=true."
        )
    for name, n in repeated.items():
        if n:
            warnings.warn(
                f"{n} of the {name} structures are also in the training set: {name} errors come out too small.",
                LeakageWarning,
                stacklevel=2,
            )


@dataclass(frozen=True)
class Baseline:
    """What a potential starts from, by atomic number."""

    reference_energies: dict[int, float]  # eV
    scale: dict[int, float]  # eV
    shift: dict[int, float]  # eV


def make_baseline(train: Part, given: dict[str, float] | None) -> Baseline:
    """Reference energies, scales and shifts of the training structures.

    Args:
        train: the training part.
        given: eV by chemical symbol; goes before the free atoms in the file.
    """
    data, elements = train.data, train.elements
    isolated = {**data.free_atoms(), **{atomic_numbers[s]: e for s, e in (given or {}).items()}}
    labelled = train.indices[np.isfinite(data.energy[train.indices])]
    if len(labelled):
        counts, energies = data.counts(labelled, elements), data.energy[labelled]
        references = baseline.reference_energies(counts, energies, elements, isolated)
        shift = baseline.shifts(counts, energies, elements, references)
    else:  # forces alone: energies are known up to a constant
        references = {z: isolated.get(z, 0.0) for z in elements}
        shift = dict.fromkeys(elements, 0.0)
    sample = train.sample()
    numbers, forces = (np.concatenate([getattr(f, name) for f in sample]) for name in ("numbers", "forces"))
    return Baseline(references, baseline.force_scales(numbers, forces, elements), shift)
