"""How far forces of rotated copies are from rotated forces: the one function behind all such figures.

    ε² = mean over structures, rotations R, atoms and components of |F(R x) − R F(x)|²,   relative: ε / RMS of F(x)

Structures and rotations are fixed, so that figures of one network can be compared. Networks that rotate with their
vectors by construction need no such figure: check P2 of the certificate holds them to rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlpot.error_table import MILLI
from mlpot.forces import predict
from mlpot.graph import AtomGraph
from mlpot.model_file import ModelFileError
from mlpot.neighbors import build_graph
from mlpot.potential import Potential
from mlpot.rotations import random_rotations, rotated

N_ROTATIONS = 8
CARD = "rotations"
"""Entry of a model's card: the error, and the structures on which it was measured."""
LARGEST = 0.05
"""Relative error above which a calculator warns, P32 fails and molecular dynamics is refused."""


class RotationError(NamedTuple):
    """How far a network is from rotating with its structures."""

    rms: float  # eV/Å, of a force component
    relative: float  # of the root mean square of a force component

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> RotationError:
        """The error of which `as_dict` is in metrics or a card."""
        return cls(float(told["rms_meV_per_A"]) / MILLI, float(told["relative"]))

    def as_dict(self) -> dict[str, float]:
        """As it stands in metrics and cards."""
        return {"rms_meV_per_A": MILLI * self.rms, "relative": self.relative}

    def __str__(self) -> str:
        return (
            f"forces of rotated copies differ from rotated forces by {MILLI * self.rms:.3g} meV/Å (root mean "
            f"square), {self.relative:.2%} of the forces"
        )


class RotationWarning(UserWarning):
    """Results depend on how a structure lies in space, by more than `LARGEST`."""


@cache
def _rotations() -> Tensor:
    """(N_ROTATIONS, 3, 3), the same ones whenever and wherever they are needed."""
    return torch.from_numpy(random_rotations(N_ROTATIONS, np.random.default_rng(2017)))


def rotation_error(potential: Potential, *graphs: AtomGraph) -> RotationError:
    """The error of a potential on structures; the relative one is NaN where there are no forces.

    Args:
        potential: in training or in use.
        graphs: one after the other, each as one batch.
    """
    device = potential.energy_scale.device
    squares = torch.zeros(2, dtype=torch.float64, device=device)  # of differences, and of forces for each rotation
    for graph in graphs:
        here = graph.to(device)
        forces = predict(potential, here).forces
        for rotation in _rotations().to(device):
            there = predict(potential, rotated(here, rotation.expand(here.n_graphs, 3, 3))).forces
            squares += torch.stack([(there - forces @ rotation.T).square().sum(), forces.square().sum()])
    n = N_ROTATIONS * 3 * sum(graph.n_atoms for graph in graphs)
    rms, size = (squares / n).sqrt().tolist()
    return RotationError(rms, rms / size if size > 0 else float("nan"))


def graphs_of(structures: Sequence[Mapping[str, Any]], cutoff: float) -> list[AtomGraph]:
    """Structures of a card (numbers, positions in Å, cell, pbc), with neighbors within a cutoff."""
    graphs = []
    for structure in structures:
        numbers, positions, cell, pbc = (np.array(structure[k]) for k in ("numbers", "positions", "cell", "pbc"))
        graphs.append(build_graph(numbers, positions, cell, pbc, cutoff))
    return graphs


def rotation_facts(potential: Potential, structures: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What a card says of rotated copies of structures; None if there are no structures."""
    if not structures:
        return None
    error = rotation_error(potential, *graphs_of(structures, potential.cutoff))
    return {**error.as_dict(), "structures": [dict(s) for s in structures]}


def structures_of(header: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The structures on which the error in a model's header was measured; none if there is none.

    Raises:
        ModelFileError: the header makes no sense.
    """
    told = header.get("card", {}).get(CARD)
    if told is None:
        return []
    try:
        return [dict(s) for s in told["structures"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(error) from error


def stated_error(potential: Potential) -> RotationError | None:
    """The error that the file of a potential states; None if it states none.

    Raises:
        ModelFileError: the header makes no sense.
    """
    return error_in(potential.header.get("card", {}))


def error_in(facts: Mapping[str, Any]) -> RotationError | None:
    """The error that a card or metrics state; None if they state none.

    Raises:
        ModelFileError: they make no sense.
    """
    told = facts.get(CARD)
    if told is None:
        return None
    try:
        return RotationError.of(told)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> ModelFileError:
    return ModelFileError(f"What its card says of rotated copies is unreadable ({error!r}). Train it anew.")


def rotated_copies(potential: Potential) -> str:
    """Whether rotated copies of a structure have one energy, in words."""
    if potential.backbone.equivariant:
        return "have one energy"
    error = stated_error(potential)
    return "rotated copies were not compared" if error is None else str(error)


def warn_of_rotations(potential: Potential) -> None:
    """Warn, by RotationWarning, of a potential whose results depend too much on how a structure lies."""
    if potential.backbone.equivariant:
        return
    error = stated_error(potential)
    if error is None or not error.relative <= LARGEST:
        warnings.warn(
            f"This network has no built-in symmetry: {rotated_copies(potential)}; at most "
            f"{LARGEST:.0%} is trusted. Train it longer with training.augment: rotations, or average it over a "
            "group.",
            RotationWarning,
            stacklevel=3,
        )
