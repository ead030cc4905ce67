"""mlpot in LAMMPS: the same energies, forces and virials as the calculator's, on one rank and on more."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import atomic_masses
from lammps_runs import DIGITS, PER_BAR, WRITE, Run, lammps_run, masses, of_two_passes, write_data
from structures import CUTOFF, copper_atom, quartz, shaken, worst

from mlpot.calculator import MLPotCalculator
from mlpot.forces import hessian
from mlpot.neighbors import build_graph

OXIDE, ORGANIC = ["O", "Si"], ["C", "H", "O"]
PRESSURES = ("Pxx", "Pyy", "Pzz", "Pxy", "Pxz", "Pyz")
ZERO = "pair_style zero 4.0\npair_coeff * *"
WAYS = ("ghosts", "exchange")
MOVE = "velocity all create 900 8\nfix move all nve\nrun 30\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of_two_passes(tmp_path_factory.mktemp("model"))


def silica() -> Atoms:
    """72 atoms in a cell with three tilts."""
    return shaken(quartz() * (2, 2, 2), seed=5)


def tilted() -> Atoms:
    """Of silica's composition, with negative tilts that all differ."""
    atoms = quartz() * (2, 2, 2)
    atoms.set_cell([[10, 0, 0], [-2.5, 9, 0], [1.5, -2, 11]], scale_atoms=True)
    return shaken(atoms, seed=3)


def far_away() -> Atoms:
    """Silica with whole cells added to its atoms."""
    atoms = silica()
    atoms.positions += np.random.default_rng(0).integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    return atoms


def ethanol() -> Atoms:
    """At one end of a long box, so that ranks have no atoms."""
    atoms = molecule("CH3CH2OH")
    atoms.set_cell([40, 12, 12])
    atoms.positions += [3, 5, 5]
    return shaken(atoms)


def start(data: str, elements: list[str], **given: str) -> str:
    """A script up to the potential, which may be anywhere in it."""
    before, line = given.get("before", ""), given.get("line") or f"fix potential all mlpot {' '.join(elements)}"
    return f"""
clear
units {given.get("units", "metal")}
atom_style atomic
atom_modify map yes
boundary {given.get("boundary", "p p p")}
{before}
read_data {data}
{masses(elements)}
{given.get("pair", ZERO)}
{line}
thermo_style custom step pe {" ".join(PRESSURES).lower()}
{DIGITS}
"""


def oxide(data: str = "silica", **given: str) -> str:
    return start(data, OXIDE, **given)


AGAIN = f"""clear
read_restart state
{ZERO}
fix potential all mlpot O Si
thermo_style custom step pe {" ".join(PRESSURES).lower()}
{DIGITS}
run 0
"""
SECTIONS: dict[str, str] = {
    "triclinic": oxide() + "run 0\n",
    "L5_smaller_than_the_cutoff": oxide("small") + "run 0\n",
    "L5_one_atom": start("copper", ["Cu"]) + "run 0\n",
    "L9_negative_tilts": oxide("tilted") + "run 0\n",
    "L22_open": start("ethanol", ORGANIC, boundary="f f f") + "run 0\n",
    "L22_shrinking": start("ethanol", ORGANIC, boundary="s s s") + "run 0\n",
    "L9_mixed": start("ethanol", ORGANIC, boundary="p f m") + "run 0\n",
    "L21_lattice_vectors_added": oxide("far_away") + "run 0\n",
    "L3_newton_off": oxide(before="newton off") + "run 0\n",
    "L3_newton_off_and_tiled_later": oxide("large", before="newton off")
    + "run 0\ncomm_style tiled\nbalance 1.0 rcb\n"
    + MOVE
    + "run 0\n",
    "L3_balanced": oxide() + "fix b all balance 10 1.0 shift xyz 5 1.1\n" + MOVE + "run 0\n",
    "L3_tiled": oxide("large", before="comm_style tiled") + "balance 1.0 rcb\n" + MOVE + "run 0\n",
    "L6_npt": oxide("tilted")
    + "velocity all create 300 8\nfix n all npt temp 300 300 0.1 tri 0 0 1\nrun 30\nunfix n\nrun 0\n",
    "L6_deformed": oxide() + "fix d all deform 1 x scale 0.95 xy delta 0.4\n" + MOVE + "unfix d\nrun 0\n",
    "L5_box_changed": oxide()
    + "run 0\nchange_box all x scale 1.02 xy delta 0.2 remap units box\nrun 0\n"
    + "change_box all z delta 0 0.5 units box\nrun 0\n",
    "minimized": oxide() + "minimize 1e-10 1e-4 20 100\nrun 0\n",
    "L6_box_relaxed": oxide() + "fix r all box/relax aniso 0\nminimize 1e-10 1e-4 10 50\nunfix r\nrun 0\n",
    "L18_restarted": oxide() + MOVE + "write_restart state\n" + AGAIN,
    "L14_atoms_gone_changed_and_new": oxide()
    + "run 0\ngroup g id 3 10 40\ndelete_atoms group g compress no\nrun 0\nset atom 7 type 1\nrun 0\n"
    "create_atoms 2 single 5.1 2.2 5.3\nrun 0\n",
    "L14_deposited": oxide() + "change_box all boundary p p f\nchange_box all z delta 0 40 units box\n"
    "region top block 1 7 1 6 30 38 units box\n"
    "fix in all deposit 4 2 3 511 region top near 2.5 vz -0.1 -0.1 units box\n"
    "fix w all wall/reflect zlo EDGE zhi EDGE\n" + MOVE + "run 0\n",
    "L14_evaporated": oxide("large")
    + "region half block INF INF INF INF 4 INF units box\nfix out all evaporate 5 3 half 777\n"
    + MOVE
    + "run 0\n",
    "L18_written_and_read": oxide()
    + MOVE
    + "write_data written nocoeff\n"
    + oxide("written", before="processors 1 1 *")
    + MOVE
    + "run 0\n",
    "L10_charges_and_copies": oxide(
        "charged", before="atom_style charge", line="replicate 1 2 1\nfix potential all mlpot O Si"
    )
    + MOVE
    + "run 0\n",
    "L9_a_cell_that_flips": oxide()
    + "velocity all create 300 8\nfix m all nve\nfix d all deform 1 xy erate 40 remap x flip yes\nrun 50\n"
    + "unfix d\nrun 0\n",
    "L11_loop": oxide()
    + "variable k loop 3\nlabel again\nrun 1\nnext k\njump SELF again\nif '1 > 0' then 'run 0' else 'print no'\n",
    "L11_clear_in_a_loop": "variable m index 1 2\nlabel more\n"
    + oxide(line="fix p${m} all &\n  mlpot O Si")
    + "run 0\nnext m\njump SELF more\n",
    "L11_included": oxide(line="include line") + "run 0\n",
    "L10_labels": oxide(line="labelmap atom 1 O 2 Si\nfix potential all mlpot") + "run 0\n",
    "L10_masses_of_isotopes": oxide(line="mass 1 17.999\nfix potential all mlpot O Si") + "run 0\n",
    "L13_no_pair_style": oxide(pair="") + "run 0\n",
    "L13_excluded_pairs": oxide(line="neigh_modify exclude type 1 2\nfix potential all mlpot O Si") + "run 0\n",
}
"""Each ends with forces on the atoms where they are."""


def write_structures(folder: Path) -> None:
    write_data(folder, silica(), OXIDE, "silica")
    write_data(folder, quartz(), OXIDE, "small")
    write_data(folder, copper_atom(), ["Cu"], "copper")
    write_data(folder, tilted(), OXIDE, "tilted", origin=-3.7)
    write_data(folder, far_away(), OXIDE, "far_away")
    write_data(folder, shaken(quartz() * (3, 3, 2), seed=5), OXIDE, "large")
    write_data(folder, ethanol(), ORGANIC, "ethanol")
    (folder / "line").write_text("fix potential all mlpot O Si\n")
    head, rows = (folder / "small").read_text().split("Atoms # atomic\n\n")
    charged = (" ".join([*row.split()[:2], "-0.5", *row.split()[2:]]) for row in rows.splitlines())
    (folder / "charged").write_text(f"{head}Atoms # charge\n\n" + "\n".join(charged) + "\n")


def elements_of(section: str) -> list[str]:
    text = SECTIONS[section]
    return next(e for data, e in (("ethanol", ORGANIC), ("copper", ["Cu"]), ("", OXIDE)) if data in text)


def by(way: str, text: str) -> str:
    """A script whose lines of a potential say how messages pass, with labels and included files of that way."""
    text = re.sub(r"\b(include|label|jump SELF) (\w+)", rf"\1 \2_{way}", text)
    return re.sub(r"( mlpot(?: [A-Z][a-z]?)*)$", rf"\1 passes {way}", text, flags=re.MULTILINE)


RANKS = [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=RANKS)
def ran(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All sections in one run, as ranks take longer to start than to compute."""
    folder = tmp_path_factory.mktemp(f"ranks_{request.param}")
    write_structures(folder)
    for way in WAYS:
        (folder / f"line_{way}").write_text(by(way, (folder / "line").read_text()))
    sections = {f"{name}.{way}": by(way, text) for name, text in SECTIONS.items() for way in WAYS}
    sections |= {name: f"{text}run 0\n" for name, text in with_other_terms(folder).items()}
    parts = [f'print "SECTION {name}"\n{text}{WRITE.format(name)}\n' for name, text in sections.items()]
    return lammps_run(folder, "".join(parts), model, request.param, "--min-distance", "0.3")


def test_energy_forces_and_virial_are_those_of_the_calculator(ran: Run, model: Path) -> None:
    """L2, L3, L5, L6, L8 to L11, L13, L14, L18, L21, L22: by section, with atoms that go to other ranks."""
    told = {text.split()[0]: text for text in ran.output.split("SECTION ")[1:]}
    calculator, wrong = MLPotCalculator(model), {}
    for name, way in product(SECTIONS, WAYS):
        atoms, forces = ran.frame(f"{name}.{way}", elements_of(name))
        atoms.calc = calculator
        thermo = Run(0, told[f"{name}.{way}"], "", ran.folder).thermo()
        found = [worst(forces, atoms.get_forces()), worst(thermo["PotEng"][-1], atoms.get_potential_energy())]
        if atoms.pbc.all() and "velocity" not in SECTIONS[name]:
            stress = atoms.get_stress(voigt=True)[[0, 1, 2, 5, 4, 3]]
            found.append(worst([thermo[p][-1] / PER_BAR for p in PRESSURES], -stress))
        if not all(f < bar for f, bar in zip(found, (1e-10, 1e-9, 1e-9), strict=False)):
            wrong[name, way] = found
    assert not wrong


ATOMIC = """
compute e all pe/atom
compute s all stress/atom NULL
compute sum all reduce sum c_e c_s[*]
thermo_style custom step pe pxx pyy pzz pxy pxz pyz vol c_sum[*]
thermo_modify norm no format float %.17g
dump d all custom 1 dump id c_e c_s[*]
dump_modify d format float %.17g
run 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ghosts", "exchange"])
@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_sums_over_atoms_are_the_whole(tmp_path: Path, model: Path, n_ranks: int, way: str) -> None:
    """L7: energies and stresses of atoms are the calculator's."""
    atoms = write_data(tmp_path, silica(), OXIDE, "silica")
    run = lammps_run(tmp_path, by(way, oxide() + ATOMIC), model, n_ranks)
    atoms.calc = MLPotCalculator(model)
    dump, thermo = run.dump(), run.thermo()
    assert worst(dump[:, 1], atoms.get_potential_energies()) < 1e-9
    stresses = atoms.get_stresses(voigt=True)[:, [0, 1, 2, 5, 4, 3]] * atoms.get_volume()
    assert worst(dump[:, 2:8] / PER_BAR, stresses) < 1e-9
    total = np.array([thermo[f"c_sum[{k}]"][0] for k in range(1, 8)])
    assert total[0] == pytest.approx(thermo["PotEng"][0], abs=1e-9)
    pressures = np.array([thermo[name][0] for name in PRESSURES])
    assert worst(-total[1:] / thermo["Volume"][0], pressures) < 1e-9 * PER_BAR


def with_bonds(folder: Path, line: str) -> str:
    """Silica with bonds, whose atoms are special neighbors without a pair, and with charges."""
    rows, out = iter((folder / "silica").read_text().splitlines()), []
    for row in rows:
        match row.split():
            case [number, kind, _, _, _]:
                row = f"{number} 1 {kind} {0.5 if kind == '2' else -0.25} {' '.join(row.split()[2:])}"
            case [_, "atom", "types"]:
                row += "\n1 bond types\n2 bonds"
        out.append(row.replace("# atomic", "# full"))
    (folder / "full").write_text("\n".join([*out, "", "Bonds", "", "1 1 1 2", "2 1 3 4", ""]))
    terms = "bond_style harmonic\nbond_coeff 1 0.5 1.6\nspecial_bonds lj/coul 0 0 0\n"
    terms += "pair_style coul/long 4.0\npair_coeff * *\nkspace_style ewald 1e-6"
    return start("full", OXIDE, pair=terms, line=line).replace("atom_style atomic", "atom_style full")


@pytest.mark.slow
def test_lammps_matrix_is_the_hessian(tmp_path: Path, model: Path) -> None:
    """`dynamical_matrix` asks for forces as a run does."""
    atoms = write_data(tmp_path, quartz(), OXIDE, "small")
    lammps_run(tmp_path, oxide("small") + "dynamical_matrix all regular 1e-4 file matrix\n", model, 2)
    found = np.loadtxt(tmp_path / "matrix").reshape(27, 27)
    masses_of = np.repeat(atomic_masses[atoms.numbers], 3)
    graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
    expected = hessian(MLPotCalculator(model).potential, graph).numpy() / np.sqrt(np.outer(masses_of, masses_of))
    assert worst(found / np.abs(found).max(), expected / np.abs(expected).max()) < 1e-6


def with_other_terms(folder: Path) -> dict[str, str]:
    """Scripts of silica in which other terms, fixes and types that are not seen stand beside the potential."""
    both = "pair_style hybrid/overlay zero 4.0 lj/cut 3.5\npair_coeff * * zero\npair_coeff * * lj/cut 0.001 1.6"
    classical = "pair_style lj/cut 3.5\npair_coeff * * 0.001 1.6"
    hold, line = "group g id 1:10\nfix hold g setforce 0 NULL 0\n", "fix potential all mlpot O Si\n"
    return {
        "both": oxide(pair=both),
        "classical": oxide(pair=classical, line="fix potential all mlpot NULL NULL"),
        "after": oxide(line=line + hold),
        "before": oxide(line=hold + line),
        "silicon": oxide(line="fix potential all mlpot NULL Si"),
        "bonds": with_bonds(folder, "fix potential all mlpot O Si"),
        "bonds_alone": with_bonds(folder, "fix potential all mlpot NULL NULL"),
    }


def test_a_classical_term_is_added_and_fixes_find_all_forces(ran: Run, model: Path) -> None:
    """L12, L13: hybrid/overlay; setforce before and after the line; a type that is not seen; bonds and charges."""
    forces = {name: ran.dump(name)[:, 5:8] for name in with_other_terms(ran.folder)}
    atoms = ran.frame("classical", OXIDE)[0]
    atoms.calc = MLPotCalculator(model)
    assert worst(forces["both"] - forces["classical"], atoms.get_forces()) < 1e-10
    assert worst(forces["classical"], 0) > 1e-3
    assert worst(forces["bonds"] - forces["bonds_alone"], atoms.get_forces()) < 1e-10
    assert worst(forces["bonds_alone"], forces["classical"]) > 1e-3
    held = atoms.get_forces().copy()
    held[:10, [0, 2]] = 0
    assert worst(forces["after"], held) < 1e-10
    assert worst(forces["before"], held) < 1e-10
    silicon = atoms[[atom.symbol == "Si" for atom in atoms]]
    silicon.calc = atoms.calc
    assert worst(forces["silicon"][atoms.numbers == 14], silicon.get_forces()) < 1e-10


@pytest.mark.slow
def test_two_ranks_move_as_one(tmp_path: Path, model: Path) -> None:
    """NVE of silicon, 1000 steps: within rounding, which grows as trajectories part."""
    silicon = shaken(bulk("Si", cubic=True) * (2, 2, 2), by=0.05)
    runs = []
    for n_ranks in (1, 2):
        folder = tmp_path / str(n_ranks)
        folder.mkdir()
        write_data(folder, silicon, ["Si"])
        steps = "velocity all create 300 4711 loop all\nfix nve all nve\nthermo 100\nrun 1000\n"
        runs.append(lammps_run(folder, start("data", ["Si"]) + steps + WRITE.format("dump"), model, n_ranks))
    energies = [run.thermo()["PotEng"] for run in runs]
    assert worst(energies[0][:3], energies[1][:3]) < 1e-8
    assert worst(runs[0].dump()[:, 2:], runs[1].dump()[:, 2:]) < 1e-5


AGAIN_AND_AGAIN = """
import sys
from mlpot.engines.mpi import world
comm = world()
from lammps import lammps
from mlpot.engines.lammps import attach
from mlpot.model_file import load_potential
potential = load_potential(sys.argv[1])
for _ in range(3):
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"], comm=comm)
    attach(lmp, potential)
    lmp.close()
"""


def test_an_instance_may_come_where_another_was_closed(model: Path) -> None:
    """L16: it was taken for one that has a potential, as it had the same address."""
    command = [sys.executable, "-c", AGAIN_AND_AGAIN, str(model)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_partitions_compute_apart(tmp_path: Path, model: Path) -> None:
    """L16: two instances side by side, each on its own communicator, of 1 and 2 ranks."""
    write_structures(tmp_path)
    text = "variable d world silica large\n" + oxide("${d}") + f"run 0\n{WRITE.format('${d}.dump')}\n"
    lammps_run(tmp_path, text, model, 3, "--", "-partition", "1", "2")
    for name in ("silica", "large"):
        atoms, forces = Run(0, "", "", tmp_path).frame(f"{name}.dump", OXIDE)
        atoms.calc = MLPotCalculator(model)
        assert worst(forces, atoms.get_forces()) < 1e-10
