"""What a molecular-dynamics run is asked to do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from mlpot.recipes import Section

NPT = ("npt-isotropic", "npt")


class MDRecipe(Section):
    """A run of molecular dynamics; files are looked for from the folder in which the command runs."""

    model: Path = Field(description="trained potential, a file that mlpot wrote", examples=["model.safetensors"])
    structure: Path = Field(description="any file that ASE reads, or H5MD", examples=["start.xyz"])
    frame: int = Field(0, description="which structure of the file; negative counts from the end")
    repeat: tuple[int, int, int] = Field((1, 1, 1), description="copies of the cell along its vectors")
    ensemble: Literal["nve", "langevin", "bussi", "nose-hoover", "npt-isotropic", "npt"] = Field(
        "langevin", description="npt-isotropic keeps the shape of the cell, npt lets all of it move"
    )
    timestep_fs: float = Field(0.5, gt=0, description="fs; at most a tenth of the fastest vibration's period")
    time_ps: float = Field(10.0, gt=0, description="length of the run, ps")
    steps: int | None = Field(None, gt=0, description="length of the run in steps, instead of time_ps")
    temperature_K: float = Field(300.0, gt=0, description="of the thermostat and of the drawn velocities, K")
    pressure_GPa: float = Field(0.0, description="of the barostat, GPa")
    thermostat_fs: float = Field(100.0, gt=0, description="relaxation time, fs; for langevin 1 / friction")
    barostat_fs: float = Field(1000.0, gt=0, description="relaxation time, fs")
    velocities: Literal["draw", "file"] = Field(
        "draw", description="Maxwell-Boltzmann, at rest as a whole, or as in the structure file"
    )
    seed: int = Field(0, ge=0, description="of velocities and thermostat; equal seeds give equal runs on a CPU")
    max_start_force: float = Field(100.0, gt=0, description="eV/Å; a start with a greater force is refused")
    write_every: int = Field(20, ge=1, description="steps between frames of the trajectory")
    log_every: int = Field(10, ge=1, description="steps between lines of the log")
    device: str = Field("cpu", description="cpu or cuda")
    dtype: Literal["float32", "float64"] | None = Field(
        None, description="in which the potential computes; null: as it was trained"
    )
    output: Path = Field(Path("md_run"), description="folder for trajectory.h5, log.csv, md.json, md.png")
    overwrite: bool = Field(False, description="replace an earlier run in that folder")

    @property
    def n_steps(self) -> int:
        """Length of the run in steps."""
        return self.steps or max(1, round(1000 * self.time_ps / self.timestep_fs))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if min(self.repeat) < 1:
            raise ValueError(f"repeat needs whole numbers of at least 1, got {list(self.repeat)}")
        if self.pressure_GPa != 0 and self.ensemble not in NPT:
            raise ValueError(
                f"ensemble {self.ensemble!r} has no barostat, so pressure_GPa would do nothing: "
                f"remove it, or choose ensemble {' or '.join(NPT)}"
            )
        return self
