"""Recipes: YAML files checked by typed models, so that a misspelt key is an error and not a default.

A recipe is data: the loader builds numbers, strings, lists and mappings, and can run nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

Model = TypeVar("Model", bound=BaseModel)


class RecipeError(ValueError):
    """A recipe is not what its model asks for; the message names the key and the nearest valid one."""


class Section(BaseModel):
    """A recipe, or a part of one: frozen, and without room for keys that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


def load_recipe(model: type[Model], path: str | Path, overrides: Sequence[str] = ()) -> Model:
    """The recipe in a YAML file, with `key.subkey=value` overrides put over it.

    Raises:
        FileNotFoundError: there is no such file.
        RecipeError: as `parse_recipe`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {path}. Give the path of a YAML file.")
    return parse_recipe(model, path.read_text(encoding="utf-8"), overrides, origin=str(path))


def parse_recipe(model: type[Model], text: str, overrides: Sequence[str] = (), *, origin: str = "recipe") -> Model:
    """The recipe in a YAML text; `origin` names the text in messages.

    Raises:
        RecipeError: not YAML, a key twice, an unknown key, a missing or a wrong value.
    """
    values = _yaml(text, origin)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise RecipeError(f"{origin} is a {type(values).__name__}, not a list of `key: value`. Correct it.")
    for override in overrides:
        _put(values, override)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, dict(detail)) for detail in error.errors(include_url=False)]
        raise RecipeError("\n".join(f"{origin}: {line}" for line in lines)) from None


def template(model: type[BaseModel]) -> str:
    """A recipe with every default and what each key means; required keys carry their example."""
    return "\n".join(_template_lines(model, "")) + "\n"


class _Loader(yaml.SafeLoader):
    """YAML's safe subset without duplicate keys and aliases, where 1e-3 is a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise RecipeError(f"YAML alias in line {line}. Write the value out: a recipe has no aliases.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in seen:
                raise RecipeError(f"Key {key!r} stands in lines {seen[key]} and {line}. Remove one of them.")
            seen[key] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _yaml(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader
    except yaml.YAMLError as error:
        raise RecipeError(f"{origin} is not valid YAML: {error}") from None
    except RecipeError as error:
        raise RecipeError(f"{origin}: {error}") from None


def _put(values: dict[str, Any], override: str) -> None:
    """Set values[a][b] for the override "a.b=value"."""
    path, equals, text = override.partition("=")
    *sections, key = path.strip().split(".")
    if not equals or not key:
        raise RecipeError(f"Override {override!r} has no value. Write it as key=value or section.key=value.")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise RecipeError(f"Override {override!r}: {section!r} is a value, it has no keys.")
    values[key] = _yaml(text, f"override {override!r}")


def _explain(model: type[BaseModel], detail: dict[str, Any]) -> str:
    """One error of pydantic in the words of a recipe."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = _keys_at(model, detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else f"Valid keys are {', '.join(sorted(known))}."
        return f"unknown key {key!r}. {hint}"
    if detail["type"] == "missing":
        return f"{key!r} is missing. Add it."
    message = detail["msg"].removeprefix("Value error, ")
    return f"{key!r} = {detail['input']!r}: {message}." if key else message


def _keys_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys that are valid at a place of a recipe; a union offers the keys of all its members."""
    models = [model]
    for part in location:
        fields = [m.model_fields[str(part)] for m in models if part in m.model_fields]
        models = [m for field in fields for m in _models_in(field.annotation)] or models
    return [key for m in models for key in m.model_fields]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _template_lines(model: type[BaseModel], indent: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield from (f"{indent}# {line}" for line in _description(field))
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield f"{indent}{name}:"
            yield from _template_lines(section, indent + "  ")
        else:
            yield f"{indent}{name}: {_value(field)}"


def _description(field: FieldInfo) -> Iterator[str]:
    text = field.description or ""
    choices = [c for a in (field.annotation, *get_args(field.annotation)) for c in _literals(a)]
    if choices:
        text = f"{text} ({' | '.join(map(str, choices))})".strip()
    if field.is_required():
        text = f"required: {text}"
    return iter(text.splitlines())


def _literals(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _value(field: FieldInfo) -> str:
    if field.is_required():
        value: Any = (field.examples or [None])[0]
    else:
        value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    elif isinstance(value, tuple):
        value = list(value)
    elif isinstance(value, Path):
        value = str(value)
    return (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
        .removesuffix("...\n")
        .strip()
    )
