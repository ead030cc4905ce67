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
from mlpot.recipes import Section, lacks_space


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
        wrong = "; ".join(_explain(dict(e), list(model.model_fields)) for e in error.errors())
        raise ValueError(
            f"{wrong}. `mlpot recipe --backbone {backbone}` prints its arguments, and those left out have defaults"
        ) from None


def _explain(problem: dict[str, Any], valid: list[str]) -> str:
    if not problem["loc"]:
        return f"arguments = {problem['input']!r} are none: give lines of `name: value`, such as {valid[0]}"
    name = str(problem["loc"][0])
    if space := lacks_space(name, problem["input"]):
        return f"argument {name!r}: {space}"
    if problem["type"] != "extra_forbidden":
        return f"argument {name!r} = {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}"
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(valid)}"
    return f"the backbone has no argument {name!r}; {hint}"
