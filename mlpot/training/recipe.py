"""The keys of a training recipe."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from ase.data import atomic_numbers
from pydantic import Field, field_validator, model_validator

from mlpot.models import BACKBONES, DEFAULT
from mlpot.models.presets import LOSS, preset_of
from mlpot.recipes import Section
from mlpot.training.backbone_arguments import argument_model, checked_arguments
from mlpot.training.other_keys import OTHER_KEYS, OTHER_VALUES


class _Part(Section):
    """A section of a recipe."""

    other_keys: ClassVar[Mapping[str, str]] = OTHER_KEYS
    other_values: ClassVar[Mapping[str, Mapping[str, str]]] = OTHER_VALUES


Augment = Literal["none", "rotations", "rotations-and-reflections"]


def settings_of(backbone: str | None = None) -> dict[str, Any]:
    """Sections of a recipe for a backbone, the default one if none is named: what served in trainings.

    Raises:
        ValueError: no such backbone.
    """
    name = backbone or DEFAULT
    served = preset_of(name)
    return {
        "model": {"backbone": name, "arguments": argument_model(name).model_validate(served.arguments)},
        "loss": dict(LOSS),
        "optimizer": dict(served.optimizer),
    }


class DataSection(_Part):
    """The data; paths are relative to the folder in which the command runs."""

    train: str | list[str] = Field(
        description="training set, H5MD; several files, [a.h5, b.h5], are one set", examples=["data/train.h5"]
    )
    validation: int | float | str | list[str] = Field(
        default=0.1,
        description="a file, several files, or a fraction (0-1) or a number of frames drawn from the training set",
    )
    test: str | list[str] | None = Field(
        default=None, description="a file, or several, whose errors are reported at the end"
    )
    seed: int = Field(default=0, ge=0, description="draws the validation frames")
    fold: int | None = Field(
        default=None,
        ge=0,
        description="which frames of the order that the seed draws validate: 0 the first ones, 1 the next ones, "
        "and so on, around the set; reference energies and scales are then of all frames, the same for each fold",
    )
    reference_energies: dict[str, float] | None = Field(
        default=None, description="eV of the free atom of each element; else isolated atoms in the set, else a fit"
    )
    stream: Literal["auto"] | bool = Field(
        default="auto",
        description="read from the file during training; auto: when the set would not fit in memory",
    )
    workers: int = Field(default=2, ge=0, description="processes that read, when streaming")
    check: Literal["refuse", "warn", "off"] = Field(
        default="refuse",
        description="what to do when units, signs or labels of the training set look wrong (`mlpot data check`)",
    )
    allow_duplicates: bool = Field(
        default=False, description="train although test frames are in the training or validation set"
    )

    @field_validator("validation")
    @classmethod
    def _fraction(cls, value: int | float | str | list[str]) -> int | float | str | list[str]:
        if isinstance(value, str) and value.strip().endswith("%"):
            raise ValueError("a part of the frames is written as a fraction: 0.1 is a tenth of them")
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError(
                f"a fraction lies between 0 and 1, got {value}; a number of frames is written as 50, not 50.0"
            )
        if isinstance(value, int) and value < 1:
            raise ValueError(f"at least one frame is needed to choose the best weights, got {value}")
        return value

    @field_validator("train", "validation", "test")
    @classmethod
    def _files(cls, value: Any) -> Any:
        if isinstance(value, list) and not value:
            raise ValueError("name at least one file")
        if isinstance(value, list) and len(set(value)) < len(value):
            twice = next(path for path in value if value.count(path) > 1)
            raise ValueError(f"{twice} stands there twice; to give its frames more weight, see loss.weights")
        return value

    @model_validator(mode="after")
    def _fold_of_a_set(self) -> DataSection:
        if self.fold is not None and not isinstance(self.validation, int | float):
            raise ValueError(
                f"fold={self.fold} draws validation frames from data.train, and data.validation is a file; give a "
                "number or a fraction of frames, or leave out the fold"
            )
        return self

    @field_validator("check", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        """YAML reads `off` as false."""
        return "off" if value is False else value

    @field_validator("reference_energies", mode="before")
    @classmethod
    def _symbols(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and (numbers := [z for z in value if not isinstance(z, str)]):
            raise ValueError(f"elements are named by their symbols, such as H: -13.6, and not {numbers[0]}")
        return value

    @field_validator("reference_energies")
    @classmethod
    def _elements(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        unknown = [symbol for symbol in value or {} if atomic_numbers.get(symbol, 0) < 1]
        if unknown:
            raise ValueError(f"{unknown} are not chemical symbols")
        return value


class ModelSection(_Part):
    """The potential."""

    renamed: ClassVar[Mapping[str, str]] = {"model.wall": "model.core_repulsion"}

    backbone: str = Field(default=DEFAULT, description=f"one of {', '.join(BACKBONES)}")
    repulsion: bool = Field(default=False, description="add the ZBL repulsion of nuclei at short range")
    cutoff: float | None = Field(
        default=None,
        gt=0,
        description="Å, of coordination and repulsion, where it is larger than that of the backbone",
    )
    core_repulsion: bool = Field(
        default=True,
        description="replace the network where atoms are closer than in training or have fewer neighbors",
    )
    arguments: dict[str, Any] = Field(
        default={}, description="of the backbone; those that are left out have their defaults"
    )
    start: str | None = Field(
        default=None,
        description="a trained model (*.safetensors) from which training starts, with its backbone and arguments",
    )
    start_references: Literal["keep", "given", "fitted"] = Field(
        default="keep",
        description="reference energies at a start: of the model; of data.reference_energies or of isolated atoms "
        "in the data; or fitted to what the model leaves of the energies",
    )
    freeze: list[str] = Field(
        default=[], description="weights of the model that stay as they are, such as embedding, interactions.0.*"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("start"):  # else the model has them
            return values
        if lacking := [key for key in ("freeze", "start_references") if values.get(key) not in (None, [], "keep")]:
            raise ValueError(f"{', '.join(lacking)}: of a training that starts from a model; give model.start")
        backbone, arguments = values.get("backbone", DEFAULT), values.get("arguments") or {}
        return {**values, "arguments": checked_arguments(backbone, arguments)}


class LossSection(_Part):
    """What is minimized: Σ weight · mean of function(residual); a weight of 0 leaves a label out.

    Each mean is over the labels that are there, of energies per atom, force components and stress components, so
    that a cell and its supercell count alike.
    """

    energy: float = Field(default=1.0, ge=0, description="weight of energies per atom, eV/atom")
    forces: float = Field(default=1.0, ge=0, description="weight of force components, eV/Å")
    stress: float = Field(default=1.0, ge=0, description="weight of stress components, eV/Å³")
    function: Literal["squared", "absolute", "huber"] = Field(
        default="squared", description="of a residual; huber: squared up to a threshold, linear beyond"
    )
    energy_threshold: float = Field(default=0.01, gt=0, description="huber: of energies per atom, eV/atom")
    forces_threshold: float = Field(default=0.01, gt=0, description="huber: of force components, eV/Å")
    stress_threshold: float = Field(default=0.01, gt=0, description="huber: of stress components, eV/Å³")
    weights: dict[str, float] = Field(
        default={},
        description="how much families of frames (`group`, config_type) count beside the others, {surface: 5.0}; "
        "times what the set says of each frame (config_weight); scaled to a mean of 1",
    )

    @field_validator("weights")
    @classmethod
    def _not_negative(cls, value: dict[str, float]) -> dict[str, float]:
        if wrong := [family for family, weight in value.items() if weight < 0]:
            raise ValueError(f"weights of {wrong} are negative; 0 leaves a family out")
        return value

    @model_validator(mode="before")
    @classmethod
    def _former_keys(cls, values: Any) -> Any:
        """`kind` and `delta` of older recipes under the names that they have now."""
        if not isinstance(values, Mapping) or not {"kind", "delta"} & values.keys():
            return values
        new = {key: value for key, value in values.items() if key not in ("kind", "delta")}
        if "kind" in values:
            warnings.warn("loss.kind is now called loss.function.", FutureWarning, stacklevel=2)
            new.setdefault("function", values["kind"])
        if "delta" in values:
            names = [f"{quantity}_threshold" for quantity in ("energy", "forces", "stress")]
            message = f"loss.delta is now given for each quantity: {', '.join(f'loss.{name}' for name in names)}."
            warnings.warn(message, FutureWarning, stacklevel=2)
            new = dict.fromkeys(names, values["delta"]) | new
        return new

    final_energy: float | None = Field(
        default=None, ge=0, description="weight of energies in the last part of the run, where they matter most"
    )
    final_part: float = Field(default=0.25, gt=0, lt=1, description="of the run, with final_energy")

    @model_validator(mode="after")
    def _some_weight(self) -> LossSection:
        if self.energy + self.forces + self.stress == 0:
            raise ValueError("every weight is 0, so there is nothing to learn; give one above 0")
        return self


class OptimizerSection(_Part):
    """The optimizer and its learning rate."""

    name: Literal["adamw", "muon", "soap"] = Field(
        default="adamw",
        description="muon and soap take matrices of weights as matrices, and leave what is none to AdamW",
    )
    amsgrad: bool = Field(default=False, description="adamw: divide by the largest mean squared gradient")
    learning_rate: float = Field(default=1e-3, gt=0, description="after warm-up")
    rates: dict[str, float] = Field(
        default={}, description="learning rates of some weights, by names such as readout.*; the first counts"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled, as AdamW's")
    schedule: Literal["cosine", "plateau", "none"] = Field(
        default="cosine",
        description="of the rate: falling like a cosine, falling when progress stops, or constant",
    )
    warmup_steps: int | None = Field(
        default=None,
        ge=0,
        description="over which the rate rises from zero; 100 by default, or a tenth of a shorter run",
    )
    final_fraction: float = Field(default=0.01, ge=0, le=1, description="cosine: last rate over learning_rate")
    plateau_factor: float = Field(default=0.5, gt=0, lt=1, description="plateau: the rate is multiplied by it")
    plateau_patience: int = Field(default=10, ge=0, description="plateau: epochs without progress before that")
    ema_decay: float = Field(
        default=0.999, ge=0, lt=1, description="of the average of weights that is validated and kept; 0: none"
    )

    @model_validator(mode="after")
    def _consistent(self) -> OptimizerSection:
        if self.amsgrad and self.name != "adamw":
            raise ValueError(f"amsgrad is an option of adamw, and the optimizer is {self.name}; leave one out")
        if bad := [name for name, rate in self.rates.items() if rate <= 0]:
            raise ValueError(
                f"rates of {', '.join(bad)} are not above 0; to keep weights as they are, freeze them"
            )
        return self

    def warmup(self, n_steps: int) -> int:
        """Steps over which the rate rises, in a run of so many."""
        return min(100, n_steps // 10) if self.warmup_steps is None else self.warmup_steps


class TrainingSection(_Part):
    """The run."""

    directory: str = Field(default="runs/mlpot", description="where everything is written")
    epochs: int = Field(default=100, ge=0, description="0, with model.start: the model, judged and written")
    max_minutes: float | None = Field(
        default=None, gt=0, description="stop after this time, in any epoch; the closing solve comes after it"
    )
    batch_size: int = Field(default=5, ge=1, description="structures a step, on each device")
    batch_edges: int | None = Field(
        default=None,
        ge=1,
        description="instead of batch_size: about so many neighbors of all atoms a step, so that steps take the "
        "same time and memory in sets of small and large structures",
    )
    solve: bool = Field(
        default=True,
        description="after the last step, find weights in which the energy is linear by least squares, and keep "
        "them if the validation errors fall; of backbones that have such weights",
    )
    clip: float | None = Field(default=10.0, gt=0, description="largest norm of the gradient")
    patience: int | None = Field(
        default=None, ge=1, description="stop after so many epochs without a better validation loss"
    )
    seed: int = Field(default=0, ge=0, description="of weights and of the order of frames")
    augment: Augment = Field(
        default="none",
        description="turn each training structure and its labels anew in each epoch, at random, so that a network "
        "without built-in symmetry learns it; cells turn with what is in them",
    )
    committee: int = Field(
        default=1,
        ge=1,
        le=64,
        description="so many networks are trained one by one, from seed, seed + 1, ..., and the potential is "
        "their mean: it errs less, and costs as many times more; max_minutes are those of all",
    )
    members_at_once: int = Field(
        default=1,
        ge=1,
        le=64,
        description="of a committee: so many members are trained at once, each by a process of its own with its "
        "share of the threads; small molecules gain by it what they do not by threads",
    )
    member_arguments: list[dict[str, Any]] = Field(
        default=[],
        description="of a committee: in which arguments of the backbone each member differs, in their order, such "
        "as [{cutoff: 4.0}, {cutoff: 5.0}]; members that differ more err less alike",
    )
    own_validation: bool = Field(
        default=False,
        description="of a committee: member k leaves out the validation frames of data.fold=k, so that together "
        "they learn from all frames; each frame is then validated by members that were not trained on it",
    )
    precision: Literal["float32", "float64", "tf32"] = Field(
        default="float32",
        description="of the weights; tf32 takes products of float32 weights coarsely, faster on GPUs that have it",
    )
    checkpoint_minutes: float | None = Field(
        default=10.0, ge=0, description="save within an epoch, so often, what a kill would cost"
    )
    checkpoint_steps: int | None = Field(
        default=None, ge=1, description="also save within an epoch, every so many steps"
    )
    accelerator: str = Field(default="auto", description="Lightning's: auto, cpu, gpu")
    devices: int | list[int] | str = Field(default=1, description="Lightning's: a number, a list, or auto")
    strategy: str = Field(default="auto", description="Lightning's: auto, ddp, ddp_spawn")
    nodes: int = Field(default=1, ge=1, description="machines")
    progress: bool = Field(default=True, description="show progress")

    @field_validator("precision", mode="before")
    @classmethod
    def _no_16_bits(cls, precision: Any) -> Any:
        said = str(precision).lower().removesuffix("-mixed")
        if said in ("bf16", "bfloat16", "fp16", "float16", "half", "16", "mixed"):
            raise ValueError("products of 16 bits gave forces that were off by a tenth. Use float32 or tf32")
        return precision


class Recipe(_Part):
    """Everything that determines a training."""

    data: DataSection
    model: ModelSection = ModelSection()
    loss: LossSection = LossSection()
    optimizer: OptimizerSection = OptimizerSection()
    training: TrainingSection = TrainingSection()

    @model_validator(mode="after")
    def _some_epochs(self) -> Recipe:
        if not self.training.epochs and self.model.start is None:
            raise ValueError("training.epochs is 0, and there is no model.start to write; give at least 1")
        return self
