"""Which optimizer changes which weights, at which rate: groups of an optimizer share out the trained weights."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mlpot.models import build_backbone
from mlpot.models.backbone import Backbone
from mlpot.models.layers import MAX_Z
from mlpot.potential import Potential
from mlpot.recipes import RecipeError
from mlpot.stages.network import StagedNetwork
from mlpot.stages.products import Products
from mlpot.training.optimizers import SOAP, Muon
from mlpot.training.recipe import OptimizerSection

Rows = Mapping[str, Mapping[int, int]]
"""By name of an array with a row for each element: the row of each atomic number."""


def element_rows(potential: Potential) -> Rows:
    """Which weights of a backbone have a row for each element, in tables of all elements or of the potential's."""
    backbone, arguments, n = potential.backbone_name, potential.arguments, len(potential.elements)
    one_more = (*potential.elements, next(z for z in range(1, MAX_Z + 1) if z not in potential.elements))
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        larger = build_backbone(backbone, elements=one_more, **arguments).state_dict()
    rows: dict[str, dict[int, int]] = {}
    for name, weight in potential.backbone.state_dict().items():
        if weight.dim() and (len(weight), len(larger[name])) == (n, n + 1):
            rows[name] = {z: k for k, z in enumerate(potential.elements)}
        elif weight.dim() and len(weight) == MAX_Z + 1:
            rows[name] = {z: z for z in potential.elements}
    return rows


def make_optimizer(
    backbone: Backbone | nn.Module,
    section: OptimizerSection,
    *,
    fused: bool,
    rows: Rows,
    fixed: Sequence[int] = (),
) -> Optimizer:
    """The optimizer of a recipe for the weights of a backbone, or of another network, that want a gradient.

    Args:
        backbone: weights that want no gradient never change.
        section: of the recipe.
        fused: AdamW of all weights in one kernel; the other optimizers have no such kernel.
        rows: that of `element_rows`.
        fixed: atomic numbers whose own rows of weights stay as they are.
    """
    groups = parameter_groups(backbone, section, rows)
    rate, decay = section.learning_rate, section.weight_decay
    optimizer: Optimizer
    if section.name == "muon":
        optimizer = Muon(groups, rate, decay)
    elif section.name == "soap":
        optimizer = SOAP(groups, rate, decay)
    else:
        plain = [{"params": g["params"], "lr": g["lr"]} for g in groups]
        optimizer = torch.optim.AdamW(
            plain, lr=rate, weight_decay=decay, amsgrad=section.amsgrad, fused=fused, foreach=not fused
        )
    if fixed:
        _hold_rows(optimizer, backbone, rows, fixed)
    return optimizer


def parameter_groups(
    backbone: Backbone | nn.Module, section: OptimizerSection, rows: Rows
) -> list[dict[str, Any]]:
    """Weights that want a gradient, grouped by learning rate and by whether they are treated as matrices."""
    weights = dict(backbone.named_parameters())
    names = list(weights)
    rates = dict.fromkeys(names, section.learning_rate)
    for pattern, rate in reversed(section.rates.items()):  # the first that matches counts
        found = matching([pattern], names, "optimizer.rates")
        if not any(weights[name].requires_grad for name in found):
            raise RecipeError(
                f"optimizer.rates: all that {pattern!r} matches is frozen. Leave it out, or model.freeze."
            )
        rates |= dict.fromkeys(found, rate)
    groups: dict[tuple[bool, float], list[Tensor]] = defaultdict(list)
    of_products = _weights_of_products(backbone)
    for name, weight in weights.items():
        if weight.requires_grad:
            is_coupling = weight.data_ptr() in of_products
            matrix = section.name != "adamw" and not is_coupling and is_matrix(weight, name in rows)
            groups[matrix, rates[name]].append(weight)
    return [{"params": params, "lr": rate, "matrices": matrices} for (matrices, rate), params in groups.items()]


def told(backbone: Backbone, section: OptimizerSection, rows: Rows) -> list[str]:
    """A line for each group: its optimizer, its learning rate and its arrays."""
    lines = []
    for group in parameter_groups(backbone, section, rows):
        shapes = Counter("x".join(map(str, p.shape)) or "1" for p in group["params"])
        arrays = ", ".join(f"{n} of {shape}" for shape, n in shapes.items())
        n = sum(p.numel() for p in group["params"])
        lines.append(f"  {section.name if group['matrices'] else 'adamw'}, rate {group['lr']:g}: {n} in {arrays}")
    return lines


def is_matrix(weight: Tensor, by_element: bool) -> bool:
    """Whether the last two axes are those of a matrix; rows of elements are vectors of their own."""
    return weight.dim() - by_element >= 2 and min(weight.shape[-2:]) > 1


def _weights_of_products(backbone: Backbone | nn.Module) -> set[int]:
    """Addresses of the weights of products: numbers, one for each product and channel, and not matrices.

    Moved by Muon they cost 7 % in forces of acetylacetone (train/README).
    """
    if not isinstance(backbone, StagedNetwork) or backbone.native_obstacle() is not None:  # no list of stages
        return set()
    stages = (step.stage for step in backbone.program().steps)
    return {s.weight.data_ptr() for s in stages if isinstance(s, Products) and s.weight is not None}


def matching(patterns: Sequence[str], names: Sequence[str], key: str) -> list[str]:
    """The names of weights that a pattern matches, wholly or in their first parts.

    Raises:
        RecipeError: a pattern matches none; `key` says of which key of the recipe it is.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        bare = pattern.removeprefix("backbone.")
        found = {name for name in names if fnmatchcase(name, bare) or fnmatchcase(name, f"{bare}.*")}
        if not found:
            raise RecipeError(f"{key}: {pattern!r} matches no weights. The backbone has: {', '.join(names)}.")
        chosen |= found
    return [name for name in names if name in chosen]


def _hold_rows(optimizer: Optimizer, backbone: Backbone | nn.Module, rows: Rows, elements: Sequence[int]) -> None:
    """Restore the rows of some elements after each step: weight decay changes even weights without a gradient."""
    kept = []
    for name, weight in backbone.named_parameters():
        if weight.requires_grad and name in rows:
            places = [rows[name][z] for z in elements]
            kept.append((weight, places, weight.detach()[places].clone()))

    def put_back(*_: Any) -> None:
        with torch.no_grad():
            for weight, places, values in kept:
                weight[places] = values.to(weight.device)

    optimizer.register_step_post_hook(put_back)
