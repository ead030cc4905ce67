"""Backbones: pure functions of atomic numbers, edges and edge vectors that give atomic energies."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from mlpot.models.averaged import Averaged
from mlpot.models.backbone import Backbone
from mlpot.models.committee import Committee
from mlpot.models.deepsets import DeepSets
from mlpot.models.layers import check_arguments, choose
from mlpot.models.networks import NETWORKS
from mlpot.models.se3_transformer import SE3Transformer
from mlpot.models.transformer import Transformer

BACKBONES: dict[str, Callable[..., Backbone]] = {
    **NETWORKS,
    "se3_transformer": SE3Transformer,
    "deepsets": DeepSets,
    "transformer": Transformer,
}
"""What a recipe may name. A committee is made by training several of one kind."""
COMMITTEE = "committee"
AVERAGED = "averaged"  # made of a trained one of any other kind
DEFAULT = "ace"  # of a recipe that names none: lowest errors after equal minutes (train/README.md)


def build_backbone(name: str, *, elements: Sequence[int] = (), **arguments: object) -> Backbone:
    """The backbone called `name`, with the keyword arguments of its class.

    Args:
        name: in `BACKBONES`, `COMMITTEE` or `AVERAGED`.
        elements: atomic numbers of the potential, for a class that has weights by element.
        arguments: of the class.

    Raises:
        ValueError: there is no such backbone, or an argument is absurd.
        TypeError: it has no such argument, or one is of another kind.
    """
    check_arguments(arguments)
    _check_kinds(name, arguments)
    if name == AVERAGED:
        return _averaged(elements, **arguments)  # type: ignore[arg-type]  # checked there
    backbone: Callable[..., Backbone] = choose(BACKBONES | {COMMITTEE: Committee}, name, "backbone")
    if "elements" in inspect.signature(backbone).parameters:
        return backbone(elements=tuple(elements), **arguments)
    return backbone(**arguments)


def _check_kinds(name: object, arguments: Mapping[str, object]) -> None:
    """Raise TypeError for arguments that a network has not, and numbers that are none or not whole."""
    if not isinstance(name, str) or name not in BACKBONES:  # others are made of networks, or unknown
        return
    kinds = dict(inspect.signature(BACKBONES[name]).parameters)
    kinds.pop("elements", None)
    for key, value in arguments.items():
        if key not in kinds:
            raise TypeError(f"The backbone {name} has no argument {key}. It has {', '.join(kinds)}.")
        kind, _, or_none = str(kinds[key].annotation).partition(" | ")
        if or_none not in ("", "None") or (or_none and value is None):
            continue
        wanted = {"int": Integral, "float": Real}.get(kind)
        if wanted and (not isinstance(value, wanted) or isinstance(value, bool)):
            what = "a whole number" if kind == "int" else "a number"
            raise TypeError(f"{key} = {repr(value)[:40]} of the backbone {name}: give {what}.")


def _averaged(elements: Sequence[int], network: str, arguments: dict[str, object], **own: Any) -> Averaged:
    if network == AVERAGED or not isinstance(arguments, dict):
        raise ValueError(f"an averaged network has no network {str(network)[:20]!r} of such arguments")
    return Averaged(build_backbone(network, elements=elements, **arguments), **own)


def former_arguments(name: str, arguments: dict[str, object], format_version: int) -> dict[str, object]:
    """What the arguments in a model file of an older format are called and mean today."""
    if format_version == 1 and name == "schnet":  # filters were on edges unless the arguments said otherwise
        return {"n_knots": None, **arguments}
    return arguments
