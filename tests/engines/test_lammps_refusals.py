"""What LAMMPS would compute wrongly, or without the potential, is refused by name on all ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
from lammps_runs import lammps_run, masses, of_two_passes, write_data
from test_fix_mlpot import OXIDE, ZERO, oxide, silica


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of_two_passes(tmp_path_factory.mktemp("model"))


FIRST = oxide(before="atom_modify first g", line="fix potential all mlpot O Si\ngroup g id 1:20")
CHARGES = "fix q all property/atom q ghost yes\nset type 1 charge -0.5\nset type 2 charge 1\n"
CHARGES += "pair_style coul/long 4\npair_coeff * *\nkspace_style ewald 1e-4\n"
WRONG: dict[str, tuple[str, str]] = {
    "L11_no_line": (oxide(line="print none") + "run 0\n", "comes to `run` without a potential"),
    "L11_run_before_the_line": (
        oxide(line="run 0\nfix potential all mlpot O Si"),
        "comes to `run` without a potential",
    ),
    "L18_restart_without_the_line": (
        oxide() + "run 0\nwrite_restart state\nclear\nread_restart state\n" + ZERO + "\nminimize 0 0 5 5\n",
        "comes to `minimize` without a potential",
    ),
    "L12_respa": (oxide() + "run_style respa 2 2\nrun 1\n", "run_style respa would not apply"),
    "L12_split": (
        oxide(line=CHARGES + "fix potential all mlpot O Si\nrun_style verlet/split") + "run 1\n",
        "run_style verlet/split would not apply",
    ),
    "L12_group": (oxide(line="group g id 1:4\nfix potential g mlpot O Si"), "a potential is of all atoms"),
    "L12_every": (oxide(line="fix potential all mlpot O Si every 2"), "names 4 elements"),
    "units": (oxide(units="real"), "`units metal`"),
    "L10_unknown": (oxide(line="fix potential all mlpot O Xe"), "does not know Xe"),
    "L10_none": (oxide(line="fix potential all mlpot"), "names no elements"),
    "L6_smaller_cutoff": (
        oxide(line="fix potential all mlpot O Si passes ghosts") + "comm_modify cutoff 6\nrun 0\n",
        "comm_modify mode single cutoff",
    ),
    "L6_smaller_cutoff_with_an_exchange": (
        oxide(pair="", line="fix potential all mlpot O Si passes exchange") + "comm_modify cutoff 3\nrun 0\n",
        "comm_modify mode single cutoff",
    ),
    "L6_cutoff_without_room_for_steps": (
        oxide(pair="", line="fix potential all mlpot O Si passes exchange\ncomm_modify cutoff 4.01")
        + "velocity all create 3000 8\nfix move all nve\nrun 50\n",
        "ghosts may be missing",
    ),
    "L14_monte_carlo": (oxide() + "fix s all atom/swap 1 1 7 300 types 1 2\nrun 0\n", "fix atom/swap"),
    "L14_one_id_twice": (
        oxide(before="shell sed -i s/^11/1/ silica") + "run 0\n",
        "Several atoms have the id 1",
    ),
    "dimension": (
        "units metal\ndimension 2\natom_style atomic\nregion b block 0 9 0 9 -1 1\ncreate_box 2 b\n"
        + masses(OXIDE)
        + "\n"
        "fix potential all mlpot O Si\nrun 0\n",
        "has two dimensions",
    ),
    "L10_masses_of_each_other": (
        oxide(line="fix potential all mlpot Si O") + "run 0\n",
        "Type 1 has mass 15.999, that of O, and stands for Si",
    ),
    "L7_of_pairs_alone": (
        oxide() + "group o type 1\ncompute oo o group/group o\nrun 0\n",
        "compute group/group computes energies",
    ),
    "L7_a_perturbed_box": (
        oxide() + "compute t all fep/ta 300 xy 1.001\nrun 0\n",
        "compute fep/ta computes energies",
    ),
    "L11_matrix_without_the_line": (
        oxide(line="print none") + "dynamical_matrix all regular 1e-4\n",
        "comes to `dynamical_matrix` without a potential",
    ),
    "L6_cutoffs_of_collections": (
        oxide(line="fix potential all mlpot O Si passes ghosts")
        + "neighbor 1.0 multi\ncomm_modify mode multi cutoff/multi 1 3.0\nrun 0\n",
        "has `comm_modify mode multi`",
    ),
    "L6_cutoff_of_the_run_before": (
        oxide(pair="pair_style zero 12\npair_coeff * *", line="fix potential all mlpot O Si passes ghosts")
        + "run 0\npair_style none\ncomm_modify cutoff 5\nrun 0\n",
        "LAMMPS keeps ghosts 5 Å out",
    ),
    "passes": (
        oxide(line="fix potential all mlpot O Si passes exchanged"),
        "`passes exchange` or `passes ghosts`",
    ),
    "L1_same_place_with_an_exchange": (
        oxide(line="fix potential all mlpot O Si passes exchange")
        + "create_atoms 2 single 5.1 2.2 5.3\ncreate_atoms 2 single 5.1 2.2 5.3\nrun 0\n",
        "the same atom twice",
    ),
    "L6_ghosts_of_a_group": (FIRST + "comm_modify group g\nrun 0\n", "has `comm_modify group`"),
    "L12_forces_cleared_of_a_group": (FIRST + "neigh_modify include g\nrun 0\n", "has `neigh_modify include`"),
    "L7_no_energy": (oxide() + "fix_modify potential energy no\nrun 0\n", "has `fix_modify potential energy no`"),
    "L7_no_pressure": (
        oxide() + "fix_modify potential virial no\nminimize 0 0 1 1\n",
        "has `fix_modify potential virial no`",
    ),
    "L7_forces_of_the_fix": (
        oxide() + "compute all_f all reduce sum f_potential[1]\n",
        "fix potential does not calculate per-atom values",
    ),
    "L7_flux_of_heat": (
        oxide() + "compute k all ke/atom\ncompute e all pe/atom\ncompute s all stress/atom NULL virial\n"
        "compute j all heat/flux k e s\nthermo_style custom step c_j[1]\nrun 0\n",
        "wrong for this one, whose energies are of many atoms",
    ),
    "L11_another_fix_of_its_name": (
        oxide() + "run 0\nunfix potential\nfix potential all nve\nrun 5\n",
        "comes to `run` without a potential",
    ),
    "two_potentials": (oxide() + "fix other all mlpot O Si\n", "has a fix mlpot already"),
    "L1_same_place": (
        oxide() + "create_atoms 2 single 5.1 2.2 5.3\ncreate_atoms 2 single 5.1 2.2 5.3\nrun 0\n",
        "the same atom twice",
    ),
    "guard_distance": (oxide() + "run 0\ndisplace_atoms all random 1 1 1 5\nrun 0\n", "--min-distance"),
    "guard_force": (oxide() + "fix n all nve\nrun 5\n", "--max-force"),
    "LAMMPS_itself": (oxide() + "nonsense\n", "Unknown command"),
    "one_rank_of_LAMMPS": (
        oxide() + "region c sphere 1 1 1 3 units box\nfix w all wall/region c lj93 0.05 1.5 2.0\nrun 0\n",
        "LAMMPS stopped: ERROR on proc",
    ),
}
OPTIONS = {"guard_force": ("--max-force", "1"), "L12_split": ("--", "-partition", "2", "1")}
QUICK = ("L11_no_line", "L6_cutoff_without_room_for_steps", "L1_same_place", "L6_ghosts_of_a_group")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in WRONG]
)
def test_what_is_wrong_stops_all_ranks_with_its_reason(tmp_path: Path, model: Path, name: str) -> None:
    write_data(tmp_path, silica(), OXIDE, "silica")
    text, reason = WRONG[name]
    run = lammps_run(tmp_path, text, model, 3, *OPTIONS.get(name, ()), code=None)
    assert run.code != 0
    assert reason in run.error + run.output


def test_settings_of_lammps_are_read_where_it_has_them(tmp_path: Path, model: Path) -> None:
    """L6, L7, L12: set to a group or to no, and back; the line says which energies have the potential."""
    write_data(tmp_path, silica(), OXIDE, "silica")
    there_and_back = "comm_modify group g\ncomm_modify group all\nneigh_modify every 3 one 3000\n"
    there_and_back += "fix_modify potential energy no virial no\nfix_modify potential energy yes virial yes\n"
    run = lammps_run(tmp_path, FIRST + there_and_back + "run 0\n", model)
    assert "epair (E_pair) and compute pair tell of pair styles alone" in run.output
