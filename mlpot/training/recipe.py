"""Recipes: YAML checked by typed models. A recipe cannot run code, and a misspelt key is an error."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from ase.data import atomic_numbers
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator
from pydantic.fields import FieldInfo

from mlpot.models import BACKBONES
from mlpot.models.layers import choose


class RecipeError(ValueError):
    """A recipe cannot be followed; the message names each key that is wrong."""


class Section(BaseModel):
    """Part of a recipe: unknown keys are refused, values are finite, nothing changes after checking."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


def argument_model(backbone: str) -> type[BaseModel]:
    """The keyword arguments of a backbone's constructor as a typed model."""
    constructor = choose(BACKBONES, backbone, "backbone").__init__
    hints, parameters = get_type_hints(constructor), inspect.signature(constructor).parameters
    fields: dict[str, Any] = {name: (hints[name], p.default) for name, p in parameters.items() if name != "self"}
    return create_model(backbone, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)


class DataSection(Section):
    """What is learnt from; paths are relative to the folder in which the command runs."""

    train: str = Field(description="training set, H5MD", examples=["data/train.h5"])
    validation: int | float | str = Field(
        default=0.1, description="a file, a fraction (0-1) or a number of frames drawn from the training set"
    )
    test: str | None = Field(default=None, description="a file whose errors are reported at the end")
    seed: int = Field(default=0, description="draws the validation frames")
    reference_energies: dict[str, float] | None = Field(
        default=None, description="eV of the free atom of each element; else isolated atoms in the set, else a fit"
    )
    stream: Literal["auto"] | bool = Field(
        default="auto",
        description="read from the file during training; auto: when the set would not fit in memory",
    )
    workers: int = Field(default=2, ge=0, description="processes that read, when streaming")
    allow_duplicates: bool = Field(default=False, description="train although test frames are in the training set")

    @field_validator("validation")
    @classmethod
    def _fraction(cls, value: int | float | str) -> int | float | str:
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError(
                f"a fraction lies between 0 and 1, got {value}; write a number of frames as 50, not 50.0"
            )
        if isinstance(value, int) and value < 1:
            raise ValueError(f"at least one frame is needed to choose the best weights, got {value}")
        return value

    @field_validator("reference_energies")
    @classmethod
    def _elements(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        unknown = [symbol for symbol in value or {} if atomic_numbers.get(symbol, 0) < 1]
        if unknown:
            raise ValueError(f"{unknown} are not chemical symbols")
        return value


class ModelSection(Section):
    """The potential."""

    backbone: str = Field(default="schnet", description=f"one of {', '.join(BACKBONES)}")
    repulsion: bool = Field(default=False, description="add the ZBL repulsion of nuclei at short range")
    arguments: dict[str, Any] = Field(default={}, description="of the backbone")

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, values: Any) -> Any:
        """Spell out the arguments that are not given, so that a stored recipe is complete."""
        if not isinstance(values, Mapping):
            return values
        backbone, arguments = values.get("backbone", "schnet"), values.get("arguments") or {}
        try:
            checked = argument_model(backbone).model_validate(arguments)
        except ValidationError as error:
            valid = argument_model(backbone).model_fields
            raise ValueError("; ".join(_line(e, ("arguments",), valid) for e in error.errors())) from None
        return {**values, "arguments": checked.model_dump()}


class LossSection(Section):
    """What is minimised: Σ weight · mean of the residuals; a weight of 0 leaves a label out."""

    energy: float = Field(default=1.0, ge=0, description="weight of energies per atom, eV/atom")
    forces: float = Field(default=1.0, ge=0, description="weight of force components, eV/Å")
    stress: float = Field(default=1.0, ge=0, description="weight of stress components, eV/Å³")
    kind: Literal["squared", "absolute", "huber"] = Field(
        default="squared", description="squared, absolute or huber"
    )
    delta: float = Field(
        default=0.01, gt=0, description="huber: residuals above it count linearly, in the units above"
    )

    @model_validator(mode="after")
    def _some_weight(self) -> LossSection:
        if self.energy + self.forces + self.stress == 0:
            raise ValueError("every weight is 0, so there is nothing to learn; give one above 0")
        return self


class OptimizerSection(Section):
    """AdamW and its learning rate."""

    learning_rate: float = Field(default=1e-3, gt=0, description="after warm-up")
    weight_decay: float = Field(default=0.0, ge=0, description="of AdamW")
    schedule: Literal["cosine", "plateau", "none"] = Field(default="cosine", description="cosine, plateau or none")
    warmup_steps: int = Field(default=100, ge=0, description="over which the rate rises from zero")
    final_fraction: float = Field(default=0.01, ge=0, le=1, description="cosine: last rate over learning_rate")
    plateau_factor: float = Field(default=0.5, gt=0, lt=1, description="plateau: the rate is multiplied by it")
    plateau_patience: int = Field(default=10, ge=0, description="plateau: epochs without progress before that")
    ema_decay: float = Field(
        default=0.999, ge=0, lt=1, description="of the average of weights that is validated and kept; 0: none"
    )


class TrainingSection(Section):
    """The run."""

    directory: str = Field(default="runs/mlpot", description="where everything is written")
    epochs: int = Field(default=100, ge=1)
    max_minutes: float | None = Field(default=None, gt=0, description="stop after this time, whatever the epoch")
    batch_size: int = Field(default=5, ge=1, description="structures a step, on each device")
    clip: float | None = Field(default=10.0, gt=0, description="largest norm of the gradient")
    patience: int | None = Field(
        default=None, ge=1, description="stop after so many epochs without a better validation loss"
    )
    seed: int = Field(default=0, description="of weights and of the order of frames")
    precision: Literal["float32", "float64", "tf32", "bf16"] = Field(
        default="float32",
        description="of the weights; tf32 and bf16 are faster and coarser, on devices that have them",
    )
    checkpoint_steps: int | None = Field(
        default=None, ge=1, description="also save within an epoch, every so many steps"
    )
    accelerator: str = Field(default="auto", description="Lightning's: auto, cpu, gpu")
    devices: int | list[int] | str = Field(default=1, description="Lightning's: a number, a list, or auto")
    strategy: str = Field(default="auto", description="Lightning's: auto, ddp, ddp_spawn")
    nodes: int = Field(default=1, ge=1, description="machines")
    progress: bool = Field(default=True, description="show progress")


class Recipe(Section):
    """Everything that determines a training."""

    data: DataSection
    model: ModelSection = ModelSection()
    loss: LossSection = LossSection()
    optimizer: OptimizerSection = OptimizerSection()
    training: TrainingSection = TrainingSection()


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with `key.key=value` overrides applied.

    Raises:
        FileNotFoundError: there is no such file.
        RecipeError: it is not YAML, or a key or value is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {path}. Write one with `mlpot recipe`.")
    return parse_recipe(path.read_text(encoding="utf-8"), overrides)


def parse_recipe(text: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML text; arguments and errors as for `load_recipe`."""
    tree = _yaml(text) or {}
    if not isinstance(tree, dict):
        raise RecipeError(f"A recipe is a table of sections, got {type(tree).__name__}. See `mlpot recipe`.")
    for override in overrides:
        _override(tree, override)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError("The recipe is refused:\n" + "\n".join(_lines(error))) from None


def template() -> str:
    """A commented recipe with every default."""
    lines = []
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        assert isinstance(section, type)
        assert issubclass(section, Section)
        lines += [f"# {section.__doc__}", f"{name}:", *_template_fields(section), ""]
    return "\n".join(lines)


def _template_fields(section: type[Section]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        value = field.examples[0] if field.examples else field.default
        comment = f"  # {field.description}" if field.description else ""
        if name == "arguments":
            yield f"  {name}:{comment}"
            yield from (f"    {k}: {_scalar(v)}" for k, v in argument_model("schnet")().model_dump().items())
        else:
            yield f"  {name}: {_scalar(value)}{comment}"


def _scalar(value: object) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True)).removesuffix("\n").removesuffix("\n...")


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"{override!r} is no override. Write key.key=value, such as training.epochs=50.")
    *sections, last = key.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise RecipeError(f"{override!r}: {section} is a value, not a section. See `mlpot recipe`.")
    tree[last] = _yaml(value)


def _lines(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        valid = Recipe.model_fields
        for part in problem["loc"][:-1]:
            valid = _fields(valid[str(part)].annotation) if part in valid else {}
        yield "  " + _line(problem, (), valid)


def _line(problem: Any, prefix: tuple[str, ...], valid: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in (*prefix, *problem["loc"]))
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
    wrong = str(problem["loc"][-1])
    near = difflib.get_close_matches(wrong, valid, n=1, cutoff=0.5)
    elsewhere = [f"{s}.{wrong}" for s, f in Recipe.model_fields.items() if wrong in _fields(f.annotation)]
    hint = f"did you mean {near[0] if near else elsewhere[0]}?" if near or elsewhere else ""
    return f"{key}: there is no such key; {hint or 'valid are ' + ', '.join(valid) + '.'}"


def _fields(section: Any) -> dict[str, FieldInfo]:
    is_section = inspect.isclass(section) and issubclass(section, Section)
    return section.model_fields if is_section else {}


class _Loader(yaml.SafeLoader):
    """YAML without tags, aliases and repeated keys: what is read is what is seen."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # type: ignore[no-untyped-call]
            raise RecipeError(f"Aliases (*name) are not read in recipes. Write out {self.peek_event().anchor}.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]  # type: ignore[no-untyped-call]
        for key in keys:
            if keys.count(key) > 1:
                raise RecipeError(f"The key {key!r} stands twice in the recipe,{node.start_mark}. Remove one.")
        return super().construct_mapping(node, deep)


def _yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise RecipeError(f"The recipe is not YAML: {error}") from None
