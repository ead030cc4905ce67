"""The arguments of a backbone as keys of a recipe: their types, defaults and meanings."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, Field, ValidationError, create_model

from mlpot.models import BACKBONES
from mlpot.models.layers import choose
from mlpot.recipes import Section, in_words, lacks_space

OF_OTHERS = {
    ("cutoff",): "r_max rcut rc r_cut cut_off radius cutoff_radius cutoff_upper r_cutoff",
    ("n_features",): "hidden_channels num_features num_channels n_atom_basis hidden_dim hidden_nf channels "
    "n_channels embedding_dimension embed_dim features width hidden_features hidden_size n_filters num_filters "
    "hidden_irreps",
    ("n_interactions", "n_layers"): "num_layers num_interactions layers interactions depth n_blocks num_blocks "
    "n_convs num_convs n_interaction_blocks n_layers n_interactions",
    ("n_radial",): "n_rbf num_rbf num_radial_basis num_bessels num_gaussians n_gaussians num_basis n_basis",
    ("n_neighbors",): "avg_num_neighbors avg_n_neighbors average_neighbors num_neighbors",
    ("max_degree",): "l_max lmax max_ell l_sh max_l degree_max irreps_edge_sh",
    ("n_heads",): "num_heads heads attention_heads",
    ("radial_layers",): "radial_mlp radial_mlp_depth invariant_layers",
    ("envelope_exponent",): "num_cutoff_basis num_polynomial_cutoff polynomial_cutoff_p",
}
"""Arguments of backbones, and what other packages call them, in lower case."""


def argument_model(backbone: str) -> type[BaseModel]:
    """The keyword arguments of a backbone's constructor as a typed model; its elements are those of the data."""
    network = choose(BACKBONES, backbone, "backbone")
    hints, parameters = get_type_hints(network.__init__), inspect.signature(network.__init__).parameters
    meanings = documented_arguments(network)
    fields: dict[str, Any] = {
        name: (hints[name], Field(default=p.default, description=meanings.get(name)))
        for name, p in parameters.items()
        if name not in ("self", "elements")
    }
    return create_model(backbone, __base__=Section, **fields)


def arguments_called(name: str) -> list[str]:
    """The setting of a recipe that is the argument of any backbone with that name; `-` counts as `_`."""
    plain = name.lower().replace("-", "_").rpartition(".")[2]
    known = any(plain in inspect.signature(network).parameters for network in BACKBONES.values())
    return [f"model.arguments.{plain}"] if known and plain != "elements" else []


def documented_arguments(network: type) -> dict[str, str]:
    """What the docstring of a class says of each argument of its constructor, under `Args:`."""
    _, _, listed = inspect.cleandoc(network.__doc__ or "").partition("\nArgs:\n")
    listed = listed.partition("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE)
    return {name: " ".join(text.split()).rstrip(".") for name, text in found}


def checked_arguments(backbone: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All keyword arguments of a backbone, with defaults spelled out, so that a stored recipe is complete.

    Raises:
        ValueError: no such backbone; an argument that it does not take, or of the wrong type.
    """
    model = argument_model(backbone)
    try:
        return model.model_validate(arguments).model_dump()
    except ValidationError as error:
        wrong = "; ".join(_explain(dict(e), model) for e in error.errors(include_url=False))
        raise ValueError(
            f"{wrong}. `mlpot recipe --backbone {backbone}` prints its arguments, and those left out have defaults"
        ) from None


def _explain(problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    valid = list(model.model_fields)
    if not problem["loc"]:
        return f"arguments = {problem['input']!r} are none: give lines of `name: value`, such as {valid[0]}"
    name = str(problem["loc"][0])
    if space := lacks_space(name, problem["input"]):
        return f"argument {name!r}: {space}"
    if problem["type"] != "extra_forbidden":
        return f"argument {name!r} = {problem['input']!r}: {in_words(problem, [model], name)}"
    meant = [own for owns, others in OF_OTHERS.items() if name.lower() in others.split() for own in owns]
    if here := [own for own in meant if own in valid]:
        return f"the backbone has no argument {name!r}, which is written as {here[0]}"
    near = [] if meant else difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"perhaps {near[0]!r} is meant" if near else f"valid are {', '.join(valid)}"
    return f"the backbone has no argument {name!r}; {hint}"
