"""The keys of a run file of molecular dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from mlpot.equivariance import LARGEST
from mlpot.recipes import Section

REPLICA = "replica_"
"""Before the number of a replica in the name of its folder."""
NPT = ("npt-isotropic", "npt")
MOST_STEPS = 1e12
LONGEST = 1e15  # fs, of a relaxation, whose square must be a number
EnsembleName = Literal["nve", "langevin", "bussi", "nose-hoover", "npt-isotropic", "npt"]

NVT = (
    "constant volume and temperature is langevin (friction and noise, the safest), bussi (rescaled velocities, "
    "which hardly disturb the dynamics) or nose-hoover: write ensemble: langevin"
)
AT_PRESSURE = (
    "constant pressure is npt-isotropic (the cell keeps its shape) or npt (all of it moves), by the barostat of "
    "Martyna, Tobias and Klein: write ensemble: npt-isotropic"
)
MEANT = {
    **dict.fromkeys(("nvt", "canonical", "thermostat", "berendsen", "nvt-berendsen", "andersen"), NVT),
    **dict.fromkeys(("nvt-langevin", "baoab", "langevin-baoab"), "write ensemble: langevin"),
    **dict.fromkeys(
        ("csvr", "svr", "v-rescale", "velocity-rescaling", "vrescale", "nvt-bussi", "bdp"), "write ensemble: bussi"
    ),
    **dict.fromkeys(
        ("nose", "nosehoover", "nhc", "nvt-nose-hoover", "nose-hoover-chain", "nh"), "write ensemble: nose-hoover"
    ),
    **dict.fromkeys(
        ("verlet", "velocity-verlet", "velocityverlet", "microcanonical", "nvk"), "write ensemble: nve"
    ),
    **dict.fromkeys(
        ("nph", "npt-berendsen", "npt-mtk", "mtk", "npt-aniso", "npt-iso", "npt-nose-hoover", "parrinello-rahman"),
        AT_PRESSURE,
    ),
}
"""Ensembles as other programs call them."""
OTHER_KEYS = {
    **dict.fromkeys(("thermostat", "integrator", "dynamics", "barostat", "method"), "ensemble: langevin"),
    **dict.fromkeys(("dt", "timestep", "time_step", "step_fs"), "timestep_fs: 0.5, in fs"),
    **dict.fromkeys(("t", "temp", "temperature", "temp_k", "kelvin"), "temperature_K: 300, in K"),
    **dict.fromkeys(
        ("friction", "gamma", "tau_t", "taut", "tdamp", "ttime"), "thermostat_fs: 100, 1 / friction in fs"
    ),
    **dict.fromkeys(("tau_p", "taup", "pdamp", "ptime"), "barostat_fs: 1000, in fs"),
    **dict.fromkeys(("pressure", "p", "pressure_bar", "externalstress"), "pressure_GPa: 0.0001 (1 bar), in GPa"),
    **dict.fromkeys(("nsteps", "n_steps", "num_steps", "nstep", "max_steps"), "steps: 10000"),
    **dict.fromkeys(("time", "duration", "length", "total_time"), "time_ps: 10, in ps"),
}


class Stage(Section):
    """A part of a run; keys that it does not set are those of the run."""

    other_keys: ClassVar[Mapping[str, str]] = OTHER_KEYS
    other_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"ensemble": MEANT}

    ensemble: EnsembleName | None = None
    timestep_fs: float | None = Field(None, gt=0)
    time_ps: float | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0)
    temperature_K: float | None = Field(None, gt=0)
    temperature_end_K: float | None = Field(None, gt=0)
    pressure_GPa: float | None = None
    thermostat_fs: float | None = Field(None, gt=0, le=LONGEST)
    barostat_fs: float | None = Field(None, gt=0, le=LONGEST)


class Guards(Section):
    """A run that exceeds one of these stops and keeps the state before; null switches a guard off."""

    renamed: ClassVar[Mapping[str, str]] = {"guards.strangeness": "guards.extrapolation_grade"}

    min_distance: float | None = Field(default=0.6, gt=0, description="part of the sum of two covalent radii")
    min_trained_distance: float | None = Field(
        default=0.8, gt=0, description="part of the shortest distance of two elements in training"
    )
    max_trained_force: float | None = Field(default=10.0, gt=0, description="times the greatest force in training")
    max_force: float | None = Field(default=100.0, gt=0, description="eV/Å, where the model tells of no training")
    energy: float | None = Field(
        default=0.05,
        gt=0,
        description="change of the conserved quantity in 100 steps, part of the kinetic one",
    )
    temperature: float | None = Field(
        default=5.0,
        gt=0,
        description="times that asked for or begun with, and six standard deviations more",
    )
    volume: float | None = Field(default=0.2, gt=0, description="change in a picosecond, as part of the volume")
    escape_A: float | None = Field(default=100.0, gt=0, description="Å from the center of mass, without a cell")
    extrapolation_grade: float | None = Field(
        default=10.0,
        gt=0,
        description="largest extrapolation grade of an atom; 99.9 % of the training atoms are below 1",
    )
    disk: bool = Field(default=True, description="stop before the disk is full: an hour of output ahead")


class MDRecipe(Section):
    """A run of molecular dynamics; files are looked for from the folder in which the command runs."""

    other_keys: ClassVar[Mapping[str, str]] = {
        **OTHER_KEYS,
        **dict.fromkeys(("potential", "calculator", "checkpoint"), "model: model.safetensors"),
        **dict.fromkeys(("input", "atoms", "geometry", "configuration", "start"), "structure: start.xyz"),
        **dict.fromkeys(("trajectory", "outdir", "output_dir", "directory"), "output: md_run, a folder"),
        **dict.fromkeys(("loginterval", "log_interval"), "log_every: 10, and write_every: 20 of the trajectory"),
        **dict.fromkeys(("trajectory_interval", "write_interval", "dump_every", "save_every"), "write_every: 20"),
    }
    other_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"ensemble": MEANT}

    model: Path = Field(description="trained potential, a file that mlpot wrote", examples=["model.safetensors"])
    structure: Path = Field(description="any file that ASE reads, or H5MD", examples=["start.xyz"])
    frame: int | Literal["all"] = Field(
        0, description="which structure of the file; negative counts from the end; all: each is a replica"
    )
    replicas: int = Field(
        1, ge=1, description="runs in one batch, of each structure, each as it would be alone with the next seed"
    )
    elements: str | None = Field(
        None, description="of types, such as Si,O, where the structure is of LAMMPS and does not name elements"
    )
    repeat: tuple[int, int, int] = Field((1, 1, 1), description="copies of the cell along its vectors")
    ensemble: EnsembleName = Field(
        "langevin", description="npt-isotropic keeps the shape of the cell, npt lets all of it move"
    )
    timestep_fs: float = Field(0.5, gt=0, description="fs; at most a tenth of the fastest vibration's period")
    time_ps: float = Field(10.0, gt=0, description="length of the run, ps")
    steps: int | None = Field(None, gt=0, description="length of the run in steps, instead of time_ps")
    temperature_K: float = Field(300.0, gt=0, description="of the thermostat and of the drawn velocities, K")
    temperature_end_K: float | None = Field(
        None, gt=0, description="of the thermostat at the end, to which it goes step by step, K"
    )
    pressure_GPa: float = Field(0.0, description="of the barostat, GPa")
    thermostat_fs: float = Field(
        100.0, gt=0, le=LONGEST, description="relaxation time, fs; for langevin 1 / friction"
    )
    barostat_fs: float = Field(1000.0, gt=0, le=LONGEST, description="relaxation time, fs")
    stages: tuple[Stage, ...] = Field(
        (), description="parts run one after another, such as [{ensemble: nve, time_ps: 5}]; the rest is as here"
    )
    velocities: Literal["draw", "file"] = Field(
        "draw", description="Maxwell-Boltzmann, at rest as a whole, or as in the structure file"
    )
    seed: int = Field(0, ge=0, description="of velocities and thermostat; equal seeds give equal runs on a CPU")
    max_start_force: float = Field(100.0, gt=0, description="eV/Å; a start with a greater force is refused")
    max_rotation_error: float = Field(
        LARGEST,
        gt=0,
        description="of a network without built-in symmetry: a run is refused if forces of rotated copies differ "
        "by more from rotated forces, as part of their root mean square (`mlpot info` tells it)",
    )
    write_every: int = Field(20, ge=1, description="steps between frames of the trajectory")
    log_every: int = Field(10, ge=1, description="steps between lines of the log")
    checkpoint_s: float = Field(
        10.0, ge=0, description="seconds between checkpoints, or 20 times what one takes; 0: as often as possible"
    )
    wall_time_s: float | None = Field(
        None, gt=0, description="seconds after which the run is saved and stops; what the queue gives less 120"
    )
    guards: Guards = Guards()
    device: str = Field("cpu", description="cpu or cuda")
    cuda_graph: bool = Field(
        False, description="on a CUDA device, start all kernels of a step by one call; for small structures"
    )
    dtype: Literal["float32", "float64"] | None = Field(
        None, description="in which the potential computes; null: as it was trained"
    )
    output: Path = Field(Path("md_run"), description="folder for trajectory.h5, log.csv, md.json, md.png")
    overwrite: bool = Field(False, description="replace an earlier run in that folder")

    @property
    def is_batch(self) -> bool:
        """Whether it is a batch of replicas."""
        return self.replicas > 1 or self.frame == "all"

    @property
    def one_frame(self) -> int:
        """Of a run that is no batch of several structures."""
        assert self.frame != "all"
        return self.frame

    @property
    def n_steps(self) -> int:
        """Length of a run without stages in steps."""
        return self.steps or max(1, round(1000 * self.time_ps / self.timestep_fs))

    def plan(self) -> tuple[MDRecipe, ...]:
        """The stages of the run, each a recipe of its own; the run itself if it has none."""
        if not self.stages:
            return (self,)
        return tuple(self._stage(stage.model_dump(exclude_none=True)) for stage in self.stages)

    def _stage(self, own: dict[str, object]) -> MDRecipe:
        rest = self.model_dump(exclude={"stages"})
        if {"steps", "time_ps"} & set(own):
            rest |= {"steps": None}
        if own.get("ensemble", self.ensemble) not in NPT:
            rest |= {"pressure_GPa": 0.0}
        return MDRecipe.model_validate(rest | own)

    def temperature(self, step: int) -> float:
        """K, of the thermostat in a step of a run without stages."""
        if self.temperature_end_K is None:
            return self.temperature_K
        return self.temperature_K + (self.temperature_end_K - self.temperature_K) * step / self.n_steps

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if min(self.repeat) < 1:
            raise ValueError(f"repeat needs whole numbers of at least 1, got {list(self.repeat)}")
        if self.steps is None and not 1000 * self.time_ps / self.timestep_fs < MOST_STEPS:
            raise ValueError(
                f"time_ps = {self.time_ps:g} in steps of timestep_fs = {self.timestep_fs:g} are more than "
                f"{MOST_STEPS:g} steps, which no run takes: choose a longer step or a shorter time"
            )
        if self.stages:
            if self.temperature_end_K is not None:
                raise ValueError("temperature_end_K is of a stage where there are stages: move it there")
            self.plan()
            return self
        if self.pressure_GPa != 0 and self.ensemble not in NPT:
            raise ValueError(
                f"ensemble {self.ensemble!r} has no barostat, so pressure_GPa would do nothing: "
                f"remove it, or choose ensemble {' or '.join(NPT)}"
            )
        if self.temperature_end_K is not None and self.ensemble == "nve":
            raise ValueError("ensemble 'nve' has no thermostat, so temperature_end_K would do nothing: remove it")
        return self
