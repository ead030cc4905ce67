"""Do i-PI, OpenMM, TorchSim and ASE's sockets get the calculator's numbers, and run with them?"""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.socketio import SocketClosed, SocketIOCalculator
from potentials import small_potential
from processes import PATIENCE
from structures import copper, ethanol, quartz, slab

from mlpot.calculator import MLPotCalculator
from mlpot.engines.socket_client import answer
from mlpot.model_file import save_potential
from mlpot.neighbors import build_graph, build_graphs
from mlpot.potential import UnknownElementError

NEEDED = "install it with pip install 'mlpot[{}]'"
SAME = 1e-10  # eV, eV/Å; and eV/Å³ of stresses


def optional(module: str, extra: str) -> None:
    pytest.importorskip(module, reason=f"{module} is not installed: {NEEDED.format(extra)}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained potential in float64."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_potential(small_potential("schnet", trained=True), path)
    return path


def expected(model: Path, atoms: Atoms) -> Atoms:
    """A copy with the calculator."""
    copy = atoms.copy()
    copy.calc = MLPotCalculator(model)
    return copy


def test_graphs_together_are_those_of_each() -> None:
    structures = [ethanol(seed=1), copper(seed=2), ethanol(seed=3)[:4]]
    of = [(a.numbers, a.positions, a.cell.array, a.pbc) for a in structures]
    together = build_graphs(*zip(*of, strict=True), 5.0)  # type: ignore[arg-type]  # of four sequences
    alone = [build_graph(*one, 5.0) for one in of]
    assert len(together.edges) == sum(len(graph.edges) for graph in alone)
    torch.testing.assert_close(
        together.cell_shift, torch.cat([graph.cell_shift for graph in alone]), rtol=0, atol=0
    )


# --- i-PI ---

INPUT = """<simulation verbosity='low'>
  <output prefix='run'>
    <properties stride='1' filename='out'> [step, potential{electronvolt}, conserved{electronvolt}] </properties>
    <trajectory filename='pos' stride='1' format='xyz'> positions{angstrom} </trajectory>
  </output>
  <total_steps> 20 </total_steps>
  <prng> <seed> 7 </seed> </prng>
  <ffdirect name='mlpot'>
    <pes> custom </pes>
    <pes_path> PATH </pes_path>
    <parameters> {model: MODEL, template: start.xyz} </parameters>
    <batch_size> 4 </batch_size>
  </ffdirect>
  <system>
    <initialize nbeads='4'>
      <file mode='ase' units='angstrom'> start.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='mlpot'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nvt'>
        <thermostat mode='pile_g'> <tau units='femtosecond'> 100 </tau> </thermostat>
        <timestep units='femtosecond'> 0.25 </timestep>
      </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>
"""


def test_a_ring_polymer_of_four_beads_runs_in_ipi(model: Path, tmp_path: Path) -> None:
    optional("ipi", "ipi")
    from mlpot.engines import path_integrals

    atoms = ethanol(seed=1)
    atoms.info = {}
    atoms.set_cell(30 * np.eye(3))
    atoms.positions += 15 - atoms.positions.mean(axis=0)
    ase.io.write(tmp_path / "start.xyz", Atoms(atoms.numbers, atoms.positions, cell=atoms.cell))
    text = INPUT.replace("PATH", str(path_integrals.__file__)).replace("MODEL", str(model))
    (tmp_path / "input.xml").write_text(text)
    ipi = Path(sys.executable).with_name("i-pi")
    done = subprocess.run([str(ipi), "input.xml"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    table = np.loadtxt(tmp_path / "run.out")
    assert len(table) == 21
    energies = []
    for bead in range(4):
        moved = ase.io.read(tmp_path / f"run.pos_{bead}.xyz", ":", format="xyz")
        assert len(moved) == 21
        own = expected(model, Atoms(atoms.numbers, moved[-1].positions))
        energies.append(own.get_potential_energy())
    assert np.std(energies) > 1e-3  # beads are apart
    assert table[-1, 1] == pytest.approx(np.mean(energies), abs=1e-2)  # of positions the file has six digits


def test_ipi_gets_the_numbers_of_the_calculator(model: Path, tmp_path: Path) -> None:
    optional("ipi", "ipi")
    from ipi.utils.units import unit_to_internal, unit_to_user

    from mlpot.engines.path_integrals import MLPotDriver

    for atoms in (ethanol(seed=2), quartz(seed=3)):
        atoms.info = {}
        ase.io.write(tmp_path / "start.xyz", atoms)
        driver = MLPotDriver(str(model), str(tmp_path / "start.xyz"), verbosity="low")
        of = [expected(model, atoms), expected(model, atoms)]
        of[1].rattle(0.05, seed=1)
        cells = [unit_to_internal("length", "angstrom", one.cell.array.T) for one in of]
        answers = driver(cells, [unit_to_internal("length", "angstrom", one.positions) for one in of])
        for one, (energy, forces, virial, more) in zip(of, answers, strict=True):
            assert more == ""
            assert unit_to_user("energy", "electronvolt", energy) == pytest.approx(
                one.get_potential_energy(), abs=SAME
            )
            np.testing.assert_allclose(unit_to_user("force", "ev/ang", forces), one.get_forces(), atol=SAME)
            if atoms.pbc.all():
                stress = -unit_to_user("energy", "electronvolt", virial) / one.get_volume()
                np.testing.assert_allclose(stress, one.get_stress(voigt=False), atol=SAME)
            else:
                assert np.isnan(virial).all()
    with pytest.raises(ValueError, match=r"parameters \['skin'\]"):
        MLPotDriver(str(model), str(tmp_path / "start.xyz"), skin=1.0)
    ase.io.write(tmp_path / "gold.xyz", Atoms("Au2", [(0, 0, 0), (0, 0, 2.5)]))
    with pytest.raises(UnknownElementError, match="Au is unknown"):
        MLPotDriver(str(model), str(tmp_path / "gold.xyz"))


# --- OpenMM ---


def test_openmm_gets_the_numbers_of_the_calculator_and_conserves_energy(model: Path) -> None:
    optional("openmm", "openmm")
    import openmm
    from openmm import unit

    from mlpot.engines.openmm_force import openmm_force

    for atoms in (ethanol(seed=2), copper(seed=3)):
        periodic = bool(atoms.pbc.all())
        if periodic:
            atoms = bulk("Cu", cubic=True).repeat(2)  # OpenMM takes reduced boxes alone
            atoms.rattle(0.05, seed=1)
        system = openmm.System()
        for mass in atoms.get_masses():
            system.addParticle(mass)
        if periodic:
            system.setDefaultPeriodicBoxVectors(*(atoms.cell.array / 10))
        system.addForce(openmm_force(model, atoms.numbers, periodic=periodic))
        integrator = openmm.VerletIntegrator(0.25 * unit.femtosecond)
        context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
        context.setPositions(atoms.positions / 10)
        state = context.getState(getEnergy=True, getForces=True)
        own, kj_mol = expected(model, atoms), units.kJ / units.mol
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * kj_mol
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        assert energy == pytest.approx(own.get_potential_energy(), abs=1e-9)  # of some 1e3 eV, twice converted
        np.testing.assert_allclose(forces * kj_mol / 10, own.get_forces(), atol=SAME)
        if periodic:
            continue
        context.setVelocitiesToTemperature(100, 1)
        totals = []
        for _ in range(10):
            integrator.step(100)
            state = context.getState(getEnergy=True)
            total = state.getPotentialEnergy() + state.getKineticEnergy()
            totals.append(total.value_in_unit(unit.kilojoule_per_mole) * kj_mol)
        assert state.getStepCount() == 1000
        assert np.ptp(totals) < 0.01  # eV, of nine atoms: the leapfrog's own fluctuation


# --- TorchSim ---


def test_torchsim_gets_the_numbers_of_the_calculator(model: Path) -> None:
    optional("torch_sim", "torchsim")
    import torch_sim

    from mlpot.engines.torchsim import MLPotModel

    inside = MLPotModel(model)
    crystals = [copper(seed=1), quartz(seed=2), copper(seed=3).repeat((2, 1, 1))]
    for structures in (crystals, [ethanol(seed=1), ethanol(seed=2)[:5]]):
        for atoms in structures:
            atoms.info = {}
        out = inside(torch_sim.io.atoms_to_state(structures, torch.device("cpu"), torch.float64))
        of = [expected(model, atoms) for atoms in structures]
        np.testing.assert_allclose(out["energy"], [one.get_potential_energy() for one in of], rtol=0, atol=SAME)
        np.testing.assert_allclose(out["forces"], np.concatenate([one.get_forces() for one in of]), atol=SAME)
        if structures is crystals:
            stresses = [one.get_stress(voigt=False) for one in of]
            np.testing.assert_allclose(out["stress"], stresses, atol=SAME)
        else:
            assert out["stress"].isnan().all()


def test_torchsim_runs_at_constant_energy(model: Path) -> None:
    optional("torch_sim", "torchsim")
    import torch_sim

    from mlpot.engines.torchsim import MLPotModel

    atoms = [ethanol(seed=1), ethanol(seed=2)]
    for one in atoms:
        one.info = {}
    inside, dt = MLPotModel(model), 0.00025  # ps
    state = torch_sim.io.atoms_to_state(atoms, torch.device("cpu"), torch.float64)
    done = torch_sim.integrate(state, inside, integrator=torch_sim.nve, n_steps=200, temperature=100, timestep=dt)
    assert bool(done.positions.isfinite().all())
    assert not torch.equal(done.positions, state.positions)


# --- ASE's sockets ---


@pytest.mark.filterwarnings("ignore:Atoms 4 .Cu. and 9 .C. are 0.807")  # as they stand in this slab
@pytest.mark.parametrize("make", [ethanol, quartz, slab])
def test_a_socket_has_the_numbers_of_the_calculator(make: object, model: Path, tmp_path: Path) -> None:
    atoms = make(seed=1)  # type: ignore[operator]  # a function of `structures`
    atoms.info = {}
    ase.io.write(tmp_path / "start.xyz", atoms)
    name = f"mlpot_{tmp_path.name}"
    own = expected(model, atoms)
    with SocketIOCalculator(unixsocket=name) as server:
        client = threading.Thread(target=answer, args=(model, tmp_path / "start.xyz"), kwargs={"unix": name})
        client.start()
        atoms.calc = server
        for _ in range(3):
            # the protocol counts in Hartree and Bohr
            assert atoms.get_potential_energy() == pytest.approx(own.get_potential_energy(), abs=1e-9)
            np.testing.assert_allclose(atoms.get_forces(), own.get_forces(), atol=SAME)
            if atoms.pbc.all():  # the slab has no vector along its open direction, and so no volume
                np.testing.assert_allclose(atoms.get_stress(), own.get_stress(), atol=SAME)
            atoms.rattle(0.02, seed=2)
            own.positions = atoms.positions
    client.join(PATIENCE)
    assert not client.is_alive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # ASE leaves its socket open
def test_a_socket_without_a_server_is_told(model: Path, tmp_path: Path) -> None:
    atoms = ethanol()
    atoms.info = {}
    ase.io.write(tmp_path / "start.xyz", atoms)
    with pytest.raises(ValueError, match=r"Nobody answers at the socket no_such .* Start the server before"):
        answer(model, tmp_path / "start.xyz", unix="no_such")


def test_a_socket_warns_of_a_file_without_periods(model: Path, tmp_path: Path) -> None:
    atoms = quartz(seed=1)
    ase.io.write(tmp_path / "start.xyz", atoms, format="xyz")  # which tells no cell and no boundary
    name, told = f"mlpot_{tmp_path.name}", list[warnings.WarningMessage]()

    def client() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            answer(model, tmp_path / "start.xyz", unix=name)
        told.extend(caught)

    with SocketIOCalculator(unixsocket=name) as server:
        thread = threading.Thread(target=client)
        thread.start()
        atoms.calc = server
        atoms.get_potential_energy()
    thread.join(PATIENCE)
    assert [str(one.message) for one in told if "has no periodic directions" in str(one.message)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ([1, 0, *range(2, 9)], "Atom 0 of the server is where the structure file has atom 1"),
        ([0], "The structure file has 9 atoms and the server 1"),
    ],
)
def test_a_socket_s_atoms_in_another_order_are_refused(
    model: Path, tmp_path: Path, chosen: list[int], told: str
) -> None:
    """Elements come from the file: others had energies without a word, and one atom was written to all."""
    atoms = ethanol(seed=1)
    atoms.info = {}
    atoms.numbers[:2] = 6, 8
    ase.io.write(tmp_path / "start.xyz", atoms)
    name, errors = f"mlpot_{tmp_path.name}", list[Exception]()

    def client() -> None:
        try:
            answer(model, tmp_path / "start.xyz", unix=name)
        except ValueError as error:
            errors.append(error)

    other = atoms[chosen]
    with SocketIOCalculator(unixsocket=name) as other.calc:
        thread = threading.Thread(target=client)
        thread.start()
        with pytest.raises((SocketClosed, OSError)):
            other.get_potential_energy()
    thread.join(PATIENCE)
    assert told in str(errors[0])
