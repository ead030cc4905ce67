"""Recipes: YAML files checked by typed models, so that a misspelled key is an error and not a default.

A recipe is data: the loader builds numbers, strings, lists and mappings, and can run nothing.
"""

from __future__ import annotations

import difflib
import inspect
import re
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

Model = TypeVar("Model", bound=BaseModel)
MAX_RECIPE = 2**16  # characters
MAX_DEPTH = 16  # of sections in one another
NUMBERS = ("float_parsing", "int_parsing", "float_type", "int_type")
WITH_UNIT = re.compile(r"\s*([+-]?\d+\.?\d*(?:[eE][+-]?\d+)?)\s*[A-Za-zµ°Å]\S*\s*")
"""A number with a unit, as in 0.5 fs."""
MEMBER = re.compile(r"(int|float|bool|str|\[key\]|(literal|list|tuple|dict)\[.*\])")
"""How pydantic names one of several kinds of values, behind the place of a value."""
WORDS = {
    **dict.fromkeys(NUMBERS, "write a number"),
    "int_from_float": "write a whole number",
    "finite_number": "write a finite number",
    "greater_than": "it must be above {gt:g}",
    "greater_than_equal": "it must be at least {ge:g}",
    "less_than": "it must be below {lt:g}",
    "less_than_equal": "it must be at most {le:g}",
    **dict.fromkeys(("bool_parsing", "bool_type"), "write true or false"),
    **dict.fromkeys(("tuple_type", "list_type", "is_instance_of"), "write a list, [ ... ]"),
    **dict.fromkeys(("model_type", "dict_type", "model_attributes_type"), "write keys and values, {{key: value}}"),
    **dict.fromkeys(("string_type", "path_type"), "write a word or the path of a file"),
}
"""Errors of pydantic, by their kind, in our words."""

PRINTED_BY = "`mlpot recipe` prints one of a training, `mlpot recipe --md` one of molecular dynamics."


class RecipeError(ValueError):
    """A recipe is not what its model asks for; the message names the key and the nearest valid one."""


def check_number(value: Any, annotation: Any) -> None:
    """Raise ValueError for a truth value where a number is meant: pydantic takes true, yes and on for 1."""
    kinds = set(_kinds(annotation))
    if not kinds & {int, float} or bool in kinds:
        return
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    for given in inside:
        if isinstance(given, bool):
            raise ValueError(f"write a number, and not what YAML takes for {str(given).lower()}")


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types of a field, and of what is in its lists and mappings."""
    yield str(annotation) if get_origin(annotation) is Literal else annotation
    for argument in () if get_origin(annotation) is Literal else get_args(annotation):
        yield from _kinds(argument)


class Section(BaseModel):
    """A recipe, or a part of one: frozen, and without room for keys that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
    renamed: ClassVar[Mapping[str, str]] = {}  # old key: new key, each with its section, as "guards.energy"
    other_keys: ClassVar[
        Mapping[str, str]
    ] = {}  # what other programs call a key, in lower case: how it is written
    other_values: ClassVar[Mapping[str, Mapping[str, str]]] = {}  # by key, word of others in lower case: advice

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        check_number(value, cls.model_fields[str(info.field_name)].annotation)
        return value

    @model_validator(mode="before")
    @classmethod
    def _accept_old_keys(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        for old, new in cls.renamed.items():
            old_key, new_key = (path.rpartition(".")[2] for path in (old, new))
            if old_key in values:
                if new_key in values:
                    raise ValueError(f"{old!r} is the old name of {new!r}, and both are given: remove {old!r}")
                warnings.warn(f"The key {old} is now called {new}. Write {new}.", FutureWarning, stacklevel=2)
                values[new_key] = values.pop(old_key)
        return values


def load_recipe(model: type[Model], path: str | Path, overrides: Sequence[str] = ()) -> Model:
    """The recipe in a YAML file, with `key.subkey=value` overrides put over it.

    Raises:
        FileNotFoundError: there is no such file.
        RecipeError: as `parse_recipe`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {path}. Give the path of a YAML file.")
    with path.open("rb") as file:
        content = file.read(MAX_RECIPE + 1)
    if b"\0" in content:
        raise RecipeError(f"{path} is no text, and a recipe is. {PRINTED_BY}")
    return parse_recipe(model, content.decode(errors="replace"), overrides, origin=str(path))


def parse_recipe(model: type[Model], text: str, overrides: Sequence[str] = (), *, origin: str = "recipe") -> Model:
    """The recipe in a YAML text; `origin` names the text in messages.

    Raises:
        RecipeError: not YAML, a key twice, an unknown key, a missing or a wrong value.
    """
    values = _yaml(text, origin)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise RecipeError(f"{origin} is no recipe, which has lines of `key: value`. {PRINTED_BY}")
    assign(values, overrides)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found: dict[tuple[int | str, ...], list[dict[str, Any]]] = {}
        for detail in error.errors(include_url=False):
            found.setdefault(_place(detail["loc"], detail["type"]), []).append(dict(detail))
        lines = [_explain(model, place, details) for place, details in found.items()]
        raise RecipeError("\n".join(f"{origin}: {line}" for line in lines)) from None


def assign(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set values[a][b] for each "a.b=value", a value being read as YAML; the same dictionary.

    Raises:
        RecipeError: there is no value, or a section is not a mapping.
    """
    for override in overrides:
        path, equals, text = override.partition("=")
        *sections, key = path.strip().split(".")
        if not equals or not key:
            raise RecipeError(f"{override!r} has no value. Write it as key=value or section.key=value.")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise RecipeError(f"{override!r}: {section!r} is a value, it has no keys.")
        place[key] = _yaml(text, repr(override))
    return values


def template(model: type[BaseModel], given: Mapping[str, Any] | None = None) -> str:
    """A recipe with every default and what each key means; required keys carry their example.

    Args:
        model: of the recipe.
        given: values that stand there instead of defaults, by section.
    """
    return "\n".join(_template_lines(model, "", given or {})) + "\n"


class _Loader(yaml.SafeLoader):
    """YAML's safe subset without duplicate keys and aliases, where 1e-3 is a number."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise RecipeError(f"YAML alias in line {line}. Write the value out: a recipe has no aliases.")
        if self.depth == MAX_DEPTH:
            raise RecipeError(f"More than {MAX_DEPTH} sections in one another in line {line}. Correct it.")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"The key in line {line} is no word. Write lines of `key: value`.")
            key = self.construct_object(key_node)
            if key in seen:
                raise RecipeError(f"Key {key!r} stands in lines {seen[key]} and {line}. Remove one of them.")
            seen[key] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _yaml(text: str, origin: str) -> Any:
    if len(text) > MAX_RECIPE:
        raise RecipeError(f"{origin} is longer than {MAX_RECIPE} characters. Give a recipe, and data as files.")
    try:
        return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader
    except RecipeError as error:
        raise RecipeError(f"{origin}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # such as 2026-13-41, which looks like a date
        raise RecipeError(f"{origin} is not valid YAML: {error}") from None


def _place(location: tuple[int | str, ...], kind: str) -> tuple[int | str, ...]:
    """Where in a recipe an error is, without the kinds of values of which pydantic tried one after another."""
    kept = location[-1:] if kind == "extra_forbidden" else ()
    inner = location[: len(location) - len(kept)]
    return (*(part for part in inner if not MEMBER.fullmatch(str(part))), *kept)


def _explain(model: type[BaseModel], place: tuple[int | str, ...], details: Sequence[dict[str, Any]]) -> str:
    """Errors of pydantic at one place, of each kind of value that it may have, in the words of a recipe."""
    key = ".".join(str(part) for part in place)
    sections = _models_at(model, place[:-1])
    name = str(place[-1]) if place else ""
    if space := lacks_space(name, details[0]["input"]):
        return f"{key!r}: {space}."
    if details[0]["type"] == "extra_forbidden":
        return f"unknown key {key!r}. {_likely_key(model, sections, name)}"
    if details[0]["type"] == "missing":
        return f"{key!r} is missing. Add it."
    given = details[0]["input"]
    message = ", or ".join(dict.fromkeys(in_words(detail, sections, name) for detail in details))
    off = "; null switches it off" if given is False else ""
    end = "" if f"{message}{off}".endswith((".", "?")) else "."
    value = "" if isinstance(given, Mapping) else f" = {given!r}"  # the message says which of its keys is wrong
    return f"{key!r}{value}: {message}{off}{end}" if key else message


def in_words(detail: Mapping[str, Any], sections: Sequence[type[BaseModel]], name: str) -> str:
    """What pydantic finds wrong with the value of a key, and how it is written."""
    given = detail["input"]
    if detail["type"] == "literal_error":
        return _likely_value(sections, name, str(given), detail["ctx"]["expected"])
    if isinstance(given, str) and (number := WITH_UNIT.fullmatch(given)) and detail["type"] in NUMBERS:
        return f"write {number[1]} alone, converted into the unit that `mlpot recipe` prints beside the key"
    if detail["type"] in WORDS:
        return WORDS[detail["type"]].format(**detail.get("ctx", {}), name=name)
    return str(detail["msg"]).removeprefix("Value error, ")


def _likely_key(model: type[BaseModel], sections: Sequence[type[BaseModel]], name: str) -> str:
    """What an unknown key probably means, and how it is written."""
    known = [key for section in sections for key in section.model_fields]
    for section in (s for s in sections if issubclass(s, Section)):
        if name.lower() in section.other_keys:
            return f"It is written as {section.other_keys[name.lower()]}."
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    near += [path for path in _places(model) if not near and path.rpartition(".")[2] == name]
    return f"Did you mean {near[0]!r}?" if near else f"Valid keys are {', '.join(sorted(known))}."


def _likely_value(sections: Sequence[type[BaseModel]], name: str, given: str, expected: str) -> str:
    """What one of several words probably means, and how it is written."""
    plain, values = given.lower().replace("_", "-"), re.findall("'([^']*)'", expected)
    for section in (s for s in sections if issubclass(s, Section)):
        if plain in section.other_values.get(name, {}):
            return section.other_values[name][plain]
    near = [value for value in values if value in plain] or difflib.get_close_matches(plain, values, n=1)
    return f"did you mean {near[0]!r}? Write one of {expected}" if near else f"write one of {expected}"


def _models_at(model: type[BaseModel], location: Sequence[int | str]) -> list[type[BaseModel]]:
    """The sections at a place of a recipe; of a union all its members."""
    models = [model]
    for part in location:
        fields = [m.model_fields[str(part)] for m in models if part in m.model_fields]
        models = [m for field in fields for m in _models_in(field.annotation)] or models
    return models


def settings_called(model: type[BaseModel], name: str) -> list[str]:
    """The settings of a recipe with that name, each with its sections; `-` counts as `_`, and case does not."""
    plain = f".{name.lower().replace('-', '_')}"
    paths = list(_places(model))
    sections = {path.rpartition(".")[0] for path in paths}
    return [path for path in paths if f".{path.lower()}".endswith(plain) and path not in sections]


def _places(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The paths of all keys of a recipe but those in lists."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for section in _models_in(field.annotation) if get_origin(field.annotation) is not tuple else ():
            yield from _places(section, f"{prefix}{name}.")


def lacks_space(key: str, value: Any) -> str:
    """How a key is written that YAML took for one with its value, as in {a:2}; nothing for another key."""
    name, colon, written = key.partition(":")
    return f"write {name}: {written}, with a space behind the colon" if colon and value is None else ""


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _template_lines(model: type[BaseModel], indent: str, given: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a section; `given` are values that go before the defaults of the fields."""
    for name, field in model.model_fields.items():
        section, default = field.annotation, _default(field)
        value = given.get(name, default)
        yield from (f"{indent}# {line}".rstrip() for line in _description(field))
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield f"{indent}{name}:"
            given_inside = value.model_dump() if isinstance(value, BaseModel) else value or {}
            yield from _template_lines(section, indent + "  ", given_inside)
        elif isinstance(value, BaseModel):  # keys that depend on the value of another one
            yield f"{indent}{name}:"
            yield from _template_lines(type(value), indent + "  ", value.model_dump())
        elif isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from (f"{indent}  {key}: {_scalar(v)}" for key, v in value.items())
        else:
            yield f"{indent}{name}: {_scalar(value)}"


def _default(field: FieldInfo) -> Any:
    if field.is_required():
        return field.examples[0] if field.examples else None
    return field.get_default(call_default_factory=True)


def _description(field: FieldInfo) -> Iterator[str]:
    text = field.description or ""
    if not text and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        text = inspect.cleandoc(field.annotation.__doc__ or "")
    choices = [c for a in (field.annotation, *get_args(field.annotation)) for c in _literals(a)]
    if choices:
        text = f"{text} ({' | '.join(map(str, choices))})".strip()
    if field.is_required() and not isinstance(field.annotation, type(BaseModel)):
        text = f"required: {text}"
    return iter(text.splitlines())


def _literals(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _scalar(value: Any) -> str:
    value = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return str(text).removesuffix("...\n").strip()
