"""The recipe of a propagator."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mlpot.propagators.network import Pairs, Velocities
from mlpot.recipes import Section
from mlpot.training.recipe import OptimizerSection

EXPERIMENT: Literal["charged particles"] = "charged particles"


class PropagatorData(Section):
    """What is learned: trajectories with velocities, or the experiment; paths are relative to where it runs."""

    trajectory: str | list[str] | None = Field(
        default=None,
        description="H5MD with velocities, of one molecule in the open, as mlpot md writes at ensemble nve",
    )
    test: str | list[str] | None = Field(
        default=None, description="other trajectories of the molecule, whose errors are reported at the end"
    )
    interval_fs: float | None = Field(default=None, gt=0, description="over which the propagator moves atoms")
    every: int = Field(
        default=1, ge=1, description="of the pairs of frames, each so many-th is learned: neighbors are much alike"
    )
    validation: float = Field(
        default=0.1, gt=0, lt=1, description="the end of each trajectory, which chooses the weights"
    )
    experiment: Literal["charged particles"] | None = Field(
        default=None,
        description="an example, null by default: instead of trajectories the N-body experiment of Satorras "
        "2021, frame 30 to 40",
    )
    n_train: int = Field(default=3000, ge=1, description="experiment: training trajectories")
    seed: int = Field(default=43, ge=0, lt=2**32, description="experiment: of the trajectories; 43 as published")

    @model_validator(mode="after")
    def _one_source(self) -> PropagatorData:
        if (self.trajectory is None) is (self.experiment is None):
            raise ValueError(f"give either data.trajectory or data.experiment: {EXPERIMENT}")
        if self.trajectory is not None and self.interval_fs is None:
            raise ValueError("data.interval_fs is missing: over how many fs shall the propagator move the atoms?")
        if self.experiment is not None and (self.interval_fs is not None or self.test is not None):
            raise ValueError("the experiment has its own interval and test set; leave interval_fs and test out")
        return self


class PropagatorModel(Section):
    """The network, see `mlpot.propagators.network.VelocityNetwork`."""

    n_features: int = Field(default=64, ge=1, le=1024, description="of a particle and of a message")
    n_layers: int = Field(default=4, ge=1, le=64, description="each moves particles for its part of the interval")
    velocities: Velocities = Field(
        default="updated",
        description="handed on from layer to layer (the paper's equation 7), or the given ones in each layer (its "
        "published program, which tells no velocities at the end)",
    )
    pairs: Pairs = Field(
        default="antisymmetric",
        description="antisymmetric conserves momentum and angular momentum by construction; free is the paper's",
    )
    velocity_features: bool = Field(
        default=True, description="edges know how fast their particles approach (l = 1)"
    )
    n_radial: int = Field(
        default=16, ge=0, le=256, description="Gaussians of the distance that edges have beside it"
    )
    shared: bool = Field(default=False, description="all layers have the same weights")


class PropagatorTraining(Section):
    """The run."""

    directory: str = Field(default="runs/propagator", description="where everything is written")
    epochs: int = Field(default=300, ge=1)
    batch_size: int = Field(default=100, ge=1, description="pairs of frames a step")
    seed: int = Field(default=0, ge=0, description="of weights and of the order of pairs")
    velocity_weight: float = Field(
        default=1.0, ge=0, description="of the error of velocities in the loss; that of positions has 1"
    )
    reversal: bool = Field(
        default=False, description="learn each pair backwards in time too: from the end, with velocities reversed"
    )
    validate_every: int = Field(default=5, ge=1, description="epochs")
    checkpoint_minutes: float = Field(default=2, ge=0, description="between checkpoints, at the end of an epoch")


class PropagatorRecipe(Section):
    """A training of a propagator."""

    data: PropagatorData = Field(
        description="required: trajectory with interval_fs, or experiment, which stands here as an example and no "
        "default;\npaths are relative to where it runs",
        examples=[PropagatorData(experiment=EXPERIMENT)],
    )
    model: PropagatorModel = PropagatorModel()
    optimizer: OptimizerSection = OptimizerSection(name="muon", learning_rate=3e-3)
    training: PropagatorTraining = PropagatorTraining()

    @model_validator(mode="after")
    def _consistent(self) -> PropagatorRecipe:
        if self.optimizer.schedule == "plateau":
            raise ValueError("optimizer.schedule: plateau is for potentials; take cosine or none")
        if self.model.velocities == "given" and self.training.velocity_weight:
            raise ValueError(
                "where model.velocities are given, none are foretold that could be learned; set "
                "training.velocity_weight: 0, or let them be updated"
            )
        if self.model.velocities == "given" and self.model.pairs == "antisymmetric":
            raise ValueError("model.pairs: antisymmetric changes velocities, so model.velocities must be updated")
        return self
