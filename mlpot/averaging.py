"""A trained potential averaged over rotated copies of each structure, as a model file of its own."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlpot.equivariance import CARD, RotationError, graphs_of, rotation_error, rotation_facts, structures_of
from mlpot.model_file import check_model_place, hash_of, load_potential, read_weights, save_potential
from mlpot.models import AVERAGED
from mlpot.potential import Potential


@dataclass(frozen=True)
class Averaging:
    """What averaging a model did."""

    n_copies: int  # of each structure, and how many times the network's cost
    before: (
        RotationError | None
    )  # of the weights in float64, as `after`; None where the model's file holds no structures
    after: RotationError | None
    mirror_images: str  # as `Potential.mirror_images` of the averaged one
    was_equivariant: bool


def average(
    model: str | Path,
    destination: str | Path,
    *,
    over: str,
    reflections: bool = False,
    n_rotations: int = 60,
    seed: int = 1,
    overwrite: bool = False,
) -> Averaging:
    """Write the average of a trained potential over rotations.

    Args:
        model: file of a potential, which stays as it is.
        destination: file to write.
        over, reflections, n_rotations, seed: as `models.averaged.Averaged`.
        overwrite: an existing file may be replaced.

    Raises:
        FileExistsError, FileNotFoundError, StorageError: the destination exists, or cannot be written.
        ValueError: no such group, the model is averaged already, or would be replaced.
        FileNotFoundError, ModelFileError: as `load_potential`.
    """
    check_model_place(destination, overwrite=overwrite)
    if Path(destination).exists() and Path(destination).samefile(model):
        raise ValueError(
            f"{destination} would replace the model that it is made from, which alone can be trained on or "
            "averaged otherwise. Give another file."
        )
    potential = load_potential(model)
    mean = averaged(potential, over=over, reflections=reflections, n_rotations=n_rotations, seed=seed)
    card = dict(potential.header.get("card", {}))
    structures = structures_of(potential.header) or list(card.get("examples", []))
    # In float64: the average is computed in PyTorch, whose rounding in float32 would hide so small an error.
    exact = copy.deepcopy(potential).double()
    before = rotation_error(exact, *graphs_of(structures, potential.cutoff)) if structures else None
    facts = rotation_facts(copy.deepcopy(mean).double(), structures)
    n_copies = len(mean.backbone.rotations)  # type: ignore[attr-defined]  # which no other network has
    card["averaged"] = {
        "of": Path(model).name,
        "weights_sha256": hash_of(read_weights(model)),
        "copies": n_copies,
        "before": None if before is None else before.as_dict(),
        "metrics_before": card.pop("metrics", None),  # of the network alone
    }
    card |= {} if facts is None else {CARD: facts}
    save_potential(mean, destination, card)
    after = None if facts is None else RotationError.of(facts)
    return Averaging(n_copies, before, after, mean.mirror_images, potential.backbone.equivariant)


def averaged(potential: Potential, **arguments: Any) -> Potential:
    """A potential whose network is the average of another's, frozen.

    Args:
        potential: which stays as it is.
        arguments: of `models.averaged.Averaged`, beside the network.

    Raises:
        ValueError: no such group, or the potential is averaged already.
    """
    if potential.backbone_name == AVERAGED:
        raise ValueError("This model is averaged already. Average the model that it was made from.")
    own = {"network": potential.backbone_name, "arguments": potential.arguments, **arguments}
    mean = Potential(
        AVERAGED,
        own,
        reference_energies=dict(zip(potential.elements, potential.reference.tolist(), strict=True)),
        repulsion=False if potential.repulsion is None else potential.repulsion.form,
        cutoff=potential.cutoff,
    )
    mean.domain = copy.deepcopy(potential.domain)
    mean.core_repulsion = copy.deepcopy(potential.core_repulsion)
    mean = mean.to(potential.dtype).to(potential.energy_scale.device)
    weights = potential.state_dict()
    first = "backbone."
    mean.load_state_dict(
        {(f"{first}network.{n.removeprefix(first)}" if n.startswith(first) else n): w for n, w in weights.items()}
    )
    return mean.freeze()
