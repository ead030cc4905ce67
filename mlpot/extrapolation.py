"""The extrapolation grade of an atom: how far its features lie from those of the training atoms.

The features h from which a backbone reads an atomic energy are compared with their mean μ and covariance Σ over
the training atoms of the same element (P. C. Mahalanobis, Proc. Natl. Inst. Sci. India 2, 49 (1936)):

    d² = (h − μ)ᵀ Σ⁻¹ (h − μ)

The extrapolation grade of an atom is d / q, where q is the 99.9 % quantile of d over the training atoms of its
element, each measured with the mean and covariance of all the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from ase import Atoms
from ase.data import atomic_numbers
from torch import Tensor, nn

from mlpot.graph import AtomGraph
from mlpot.torch_settings import without_autocast

QUANTILE = 0.999
ENOUGH = 20_000  # atoms of an element suffice to estimate its distribution
FEW = 10  # fewer atoms do not suffice, and neither do atoms that are all equal
OUTSIDE = 5.0
"""Extrapolation grade of an atom from which a structure is said to be outside of the training set."""
BETWEEN = 20
"""Calculations of the same atoms, at least, from one look at extrapolation grades to the next."""
RIDGE = 1e-8  # of the mean variance, for features that never vary in training


UNTOLD = "energies_not_told"
"""Entry of metrics: sums of energies, by element, that the compositions of the training set do not tell."""


def tells_energy(header: Mapping[str, Any], numbers: Iterable[int]) -> bool:
    """Whether the training set tells the energy of a composition beside those of its own.

    Sums of compositions are told: of a complex, by its parts. Water alone tells those of its clusters, and not H₂.

    Args:
        header: of a potential; in files of before every composition counts as told.
        numbers: (n_atoms,) atomic numbers; an atom alone has its reference energy.
    """
    return not untold_sums(header) or tells_energy_of(header, Counter(map(int, numbers)))


def untold_sums(header: Mapping[str, Any]) -> list[dict[str, float]]:
    """Sums of energies, by element, that the training set of a potential does not tell; often none."""
    sums: list[dict[str, float]] = header.get("card", {}).get("metrics", {}).get(UNTOLD) or []
    return sums


def tells_energy_of(header: Mapping[str, Any], counts: Mapping[int, int]) -> bool:
    """As `tells_energy`, of how many atoms there are of each atomic number."""
    if sum(counts.values()) == 1:
        return True
    for direction in untold_sums(header):
        terms = [x * counts.get(atomic_numbers[symbol], 0) for symbol, x in direction.items()]
        if abs(sum(terms)) > 1e-6 * sum(map(abs, terms)):
            return False
    return True


def untold_words(what: str) -> str:
    """What to warn of a composition whose energy is not told; `what` it is, in the middle of a sentence."""
    return (
        f"The compositions of the training set do not tell the energy of {what}: it must not be compared with "
        "that of other compositions, as for an energy of adsorption or formation. Forces are not concerned."
    )


def untold_kinds(header: Mapping[str, Any]) -> str:
    """Of which compositions the training set does not tell the energy, in words; empty if of none that it can."""
    kinds = (" ".join(f"{x:+.3g} {symbol}" for symbol, x in own.items() if x) for own in untold_sums(header))
    told = "; ".join(kinds)
    return told and f"energies of compositions that are no sum of those in its training (not told: {told})"


def outside_words(what: str, grade: float) -> str:
    """What to warn of an atom with an extrapolation grade; `what` it is, at the beginning of a sentence."""
    return (
        f"{what} has extrapolation grade {grade:.3g}: it is so many times as far from the training set as 99.9 % "
        "of the training atoms. Do not trust what is calculated for it."
    )


class Domain(nn.Module):
    """Mean and covariance of the readout's features over the training atoms of each element."""

    mean: Tensor
    measure: Tensor

    def __init__(self, n_elements: int, n_features: int):
        super().__init__()
        self.register_buffer("mean", torch.empty(n_elements, n_features, dtype=torch.float32))
        # Mᵀ M is Σ⁻¹ over the square of the limit; zero for an element with too few atoms.
        self.register_buffer("measure", torch.empty(n_elements, n_features, n_features, dtype=torch.float32))

    def forward(self, kind: Tensor, features: Tensor) -> Tensor:
        """Extrapolation grades (n_atoms,) from element indices (n_atoms,) and features (n_atoms, n_features)."""
        centered = features - self.mean.index_select(0, kind)
        grade = torch.empty_like(centered[:, 0])
        with without_autocast(centered):  # else products of 16 bits
            for k in range(len(self.mean)):
                own = kind == k
                grade[own] = (centered[own] @ self.measure[k].T).norm(dim=1)
        return grade

    @classmethod
    def of(cls, kind: Tensor, features: Tensor, n_elements: int) -> Domain:
        """The domain of training atoms, from the index of each one's element and its features, float64."""
        groups = [features[kind == k] for k in range(n_elements)]
        mean = [h.sum(dim=0) / max(1, len(h)) for h in groups]
        centered = [h - m for h, m in zip(groups, mean, strict=True)]
        scatter = torch.stack([c.T @ c for c in centered])
        n, n_features = torch.tensor([len(h) for h in groups]), features.shape[1]
        common = scatter.sum(dim=0) / n.sum()
        ridge = RIDGE * float(common.trace() or 1.0) / n_features
        common = common + ridge * torch.eye(n_features, dtype=common.dtype)
        # For a rare element, the covariance common to all elements counts as n_features more atoms.
        covariance = (scatter + n_features * common) / (n + n_features)[:, None, None]
        whiten = torch.linalg.inv(torch.linalg.cholesky(covariance))
        limits = [_limit((c @ w.T).square().sum(dim=1), n_features) for c, w in zip(centered, whiten, strict=True)]
        domain = cls(n_elements, n_features)
        domain.mean = torch.stack(mean).float()
        domain.measure = (whiten / torch.tensor(limits, dtype=torch.float64)[:, None, None]).float()
        return domain


class Outside:
    """Counts structures that are outside of the training set."""

    def __init__(self) -> None:
        self.n_structures, self.n_outside = 0, 0
        self._highest, self._of = 0.0, 0
        self._untold: list[str] = []

    def add(self, places: Sequence[int], grades: Tensor | None) -> None:
        """Structures at places of their file, by the highest grades of their atoms (n,); None counts nothing."""
        if grades is None:
            return
        self.n_structures += len(grades)
        self.n_outside += int((grades > OUTSIDE).sum())
        if len(grades) and (highest := float(grades.max())) > self._highest:
            self._highest, self._of = highest, int(places[int(grades.argmax())])

    def compare(self, header: Mapping[str, Any], numbers: Iterable[Sequence[int]]) -> None:
        """Atomic numbers of structures of a potential with that header, of which some may have no told energy."""
        for own in numbers:
            if not tells_energy(header, own):
                self._untold.append(str(Atoms(numbers=own).symbols))

    def __str__(self) -> str:
        """A sentence for each kind; empty if all are inside."""
        return " ".join(filter(None, (self._far(), self._not_told())))

    def _not_told(self) -> str:
        kinds = list(dict.fromkeys(self._untold))
        more = f" and {len(kinds) - 3} more" if len(kinds) > 3 else ""
        return untold_words(f"{len(self._untold)} structures ({', '.join(kinds[:3])}{more})") if kinds else ""

    def _far(self) -> str:
        if not self.n_outside:
            return ""
        return (
            f"Structures with an atom outside of the training set (extrapolation grade above {OUTSIDE:g}): "
            f"{self.n_outside} of {self.n_structures}, up to grade {self._highest:.3g} in structure {self._of}. "
            "Do not trust what is predicted for them."
        )


def _limit(square: Tensor, n_prior: int) -> float:
    """The quantile of d of atoms whose d² is given, had each been left out of mean and covariance.

    Without atom i the mean moves by −c/(n − 1), where c = h − μ, and the scatter loses n/(n − 1) c cᵀ, which
    Sherman and Morrison's formula carries over to the inverse.
    """
    n = len(square)
    if n < FEW or not square.any():
        return math.inf
    part, grown = square / (n + n_prior), n / (n - 1)
    left_out = grown**2 * (n - 1 + n_prior) * part / (1 - grown * part)
    return left_out.sqrt().quantile(QUANTILE).item()


def domain_of(
    features: Callable[[AtomGraph], Tensor], element_index: Tensor, n_elements: int, graphs: Iterable[AtomGraph]
) -> Domain:
    """The domain of training structures; reading ends when every element has enough atoms.

    Args:
        features: of the atoms of a graph (n_atoms, n_features), by a trained potential.
        element_index: of each atomic number.
        n_elements: how many there are.
        graphs: in random order, on the potential's device.
    """
    counts = torch.zeros(n_elements, dtype=torch.int64)
    kinds: list[Tensor] = []
    of_atoms: list[Tensor] = []
    for graph in graphs:
        kind = element_index.index_select(0, graph.numbers).cpu()
        wanted = counts[kind] < ENOUGH
        kinds.append(kind[wanted])
        of_atoms.append(features(graph).cpu()[wanted])
        counts += kinds[-1].bincount(minlength=n_elements)
        if (counts >= ENOUGH).all():
            break
    domain = Domain.of(torch.cat(kinds), torch.cat(of_atoms).double(), n_elements)
    return domain.to(of_atoms[0].dtype).to(element_index.device)
