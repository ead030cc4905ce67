"""Features exchanged between ranks of LAMMPS: networks of several passes, and those that cannot exchange."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lammps_runs import PER_BAR, WRITE, Run, lammps_run, needs_lammps, write_data
from ranks import potential_of
from structures import quartz, shaken, worst
from test_fix_mlpot import OXIDE, PRESSURES, oxide

from mlpot.calculator import MLPotCalculator
from mlpot.model_file import save_potential

HOT = "velocity all create 2500 8\nfix move all nve\nrun 40\n"
RANKS = [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]


def saved(folder: Path, variant: str) -> Path:
    needs_lammps()
    save_potential(potential_of(variant, nuclei=True), folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("n_ranks", RANKS)
@pytest.mark.parametrize(
    "variant",
    ["nequip", *(pytest.param(name, marks=pytest.mark.slow) for name in ("painn", "ace", "mace", "egnn_moving"))],
)
def test_both_ways_give_what_the_calculator_gives(tmp_path: Path, variant: str, n_ranks: int) -> None:
    """L3, L4: a triclinic cell, hot atoms that go to other ranks, and an atom that is its own image's neighbor."""
    model = saved(tmp_path, variant)
    write_data(tmp_path, shaken(quartz() * (2, 2, 2), seed=5), OXIDE, "silica")
    write_data(tmp_path, quartz(), OXIDE, "small")
    starts = {"silica": "run 0\n", "moved": HOT, "small": "run 0\n"}
    parts = [
        f'print "SECTION {name}_{way}"\n'
        + oxide("small" if name == "small" else "silica", line=f"fix potential all mlpot O Si passes {way}")
        + f"{text}{WRITE.format(f'{name}_{way}')}\n"
        for name, text in starts.items()
        for way in ("exchange", "ghosts")
    ]
    run = lammps_run(tmp_path, "".join(parts), model, n_ranks, "--min-distance", "0", "--max-force", "0")
    told = {text.split()[0]: text for text in run.output.split("SECTION ")[1:]}
    calculator = MLPotCalculator(model)
    for name in starts:
        forces, energies, virials = [], [], []
        for way in ("exchange", "ghosts"):
            atoms, found = run.frame(f"{name}_{way}", OXIDE)
            atoms.calc = calculator
            thermo = Run(0, told[f"{name}_{way}"], "", tmp_path).thermo()
            assert worst(found, atoms.get_forces()) < 1e-10
            assert worst(thermo["PotEng"][-1], atoms.get_potential_energy()) < 1e-9
            stress = atoms.get_stress(voigt=True)[[0, 1, 2, 5, 4, 3]]
            assert worst([thermo[p][-1] / PER_BAR for p in PRESSURES], -stress) < 1e-9 or "move" in name
            forces.append(found)
            energies.append(thermo["PotEng"])
            virials.append(np.array([thermo[p] for p in PRESSURES]) / PER_BAR)
        assert worst(forces[0], forces[1]) < (1e-6 if name == "moved" else 1e-10)
        assert worst(energies[0], energies[1]) < 1e-7
        assert worst(virials[0], virials[1]) < 1e-8


def test_a_network_that_cannot_exchange_says_so(tmp_path: Path) -> None:
    """By name; and an exchange that the script wants is refused."""
    model = saved(tmp_path, "se3_transformer")
    write_data(tmp_path, quartz(), OXIDE, "small")
    wanted = oxide("small", line="fix potential all mlpot O Si passes exchange")
    free = ("--min-distance", "0", "--max-force", "0")
    run = lammps_run(tmp_path, oxide("small") + "run 0\n" + wanted, model, 2, *free, code=None)
    assert "ghosts out to 2 cutoffs, as SE3Transformer is not made of stages" in run.output
    assert "Loop time" in run.output
    assert run.code != 0
    assert "`passes exchange`: SE3Transformer is not made of stages" in run.error
