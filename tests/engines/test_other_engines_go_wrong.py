"""What users of i-PI, OpenMM and TorchSim get wrong, and what these do behind a potential's back."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from processes import PATIENCE
from structures import ethanol, quartz, slab
from test_other_engines import INPUT, SAME, expected, model, optional

from mlpot.engines.socket_client import answer
from mlpot.potential import UnknownElementError

__all__ = ["model"]
CUSTOM = """
from mlpot.engines import path_integrals
__DRIVER_NAME__, __DRIVER_CLASS__ = "mlpot", "Dying"
class Dying(path_integrals.MLPotDriver):
    n = 0
    def _answers(self, cells, positions):
        self.n += 1
        return super()._answers(cells, [0 * one if self.n == 4 else one for one in positions])
"""


def start_of(folder: Path, atoms: Atoms) -> Atoms:
    """A structure without labels in the template of a run."""
    atoms.info = {}
    ase.io.write(folder / "start.xyz", atoms)
    return atoms


@pytest.mark.parametrize("threaded", ["false", "true"])
def test_a_potential_that_fails_ends_ipi_in_words(model: Path, tmp_path: Path, threaded: str) -> None:
    """L23: in a thread of its own an error would be lost, and i-PI wait for ever."""
    optional("ipi", "ipi")
    atoms = ethanol(seed=1)
    atoms.set_cell(30 * np.eye(3))
    start_of(tmp_path, Atoms(atoms.numbers, atoms.positions, cell=atoms.cell))
    (tmp_path / "driver.py").write_text(CUSTOM)
    text = INPUT.replace("PATH", str(tmp_path / "driver.py")).replace("MODEL", str(model))
    (tmp_path / "input.xml").write_text(
        text.replace("<ffdirect name='mlpot'>", f"<ffdirect name='mlpot' threaded='{threaded}'>")
    )
    command = [str(Path(sys.executable).with_name("i-pi")), "input.xml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode != 0 or "reports a problem" in done.stdout
    assert "the same atom twice" in done.stdout + done.stderr
    assert len(np.loadtxt(tmp_path / "run.out", ndmin=2)) < 21


def test_ipi_s_virial_is_the_slope_of_the_energy(model: Path, tmp_path: Path) -> None:
    """L23: its units, its sign, that it is of the whole cell, and which index is which, in a sheared cell."""
    optional("ipi", "ipi")
    from ipi.utils.units import unit_to_internal

    from mlpot.engines.path_integrals import MLPotDriver

    atoms = start_of(tmp_path, quartz(seed=3))
    driver = MLPotDriver(str(model), str(tmp_path / "start.xyz"))

    def answer(strain: np.ndarray) -> Any:
        deformed = np.eye(3) + strain
        cell, positions = atoms.cell.array @ deformed.T, atoms.positions @ deformed.T
        return driver(
            unit_to_internal("length", "angstrom", cell.T), unit_to_internal("length", "angstrom", positions)
        )

    virial, h = answer(np.zeros((3, 3)))[2], 1e-5
    for i in range(3):
        for j in range(3):
            strain = np.zeros((3, 3))
            strain[i, j] = h
            slope = (answer(strain)[0] - answer(-strain)[0]) / (2 * h)
            assert virial[i, j] == pytest.approx(-slope, abs=1e-6)  # Hartree, without any conversion
    assert np.abs(virial).max() > 1e-3


def test_a_charge_of_ipi_s_template_is_told(model: Path, tmp_path: Path) -> None:
    """i-PI tells no charge; calculators warn, and so did sockets."""
    optional("ipi", "ipi")
    from mlpot.engines.path_integrals import MLPotDriver

    atoms = start_of(tmp_path, ethanol(seed=2))
    atoms.info = {"charge": 1}
    ase.io.write(tmp_path / "start.xyz", atoms)
    with pytest.warns(UserWarning, match="carries a total charge of 1, which potentials of mlpot cannot see"):
        MLPotDriver(str(model), str(tmp_path / "start.xyz"))


def test_ipi_s_atoms_in_another_order_are_refused(model: Path, tmp_path: Path) -> None:
    """L23: i-PI tells no elements; and more or fewer atoms than in the template."""
    optional("ipi", "ipi")
    from ipi.utils.units import unit_to_internal

    from mlpot.engines.path_integrals import MLPotDriver

    atoms = start_of(tmp_path, ethanol(seed=2))
    cell = unit_to_internal("length", "angstrom", 30 * np.eye(3))
    positions = unit_to_internal("length", "angstrom", atoms.positions)
    symbols, alike = atoms.get_chemical_symbols(), np.arange(len(atoms))
    first, last = symbols.index("H"), len(symbols) - 1 - symbols[::-1].index("H")
    alike[[first, last]] = alike[[last, first]]
    assert MLPotDriver(str(model), str(tmp_path / "start.xyz"))(cell, positions[alike])[0] != 0
    with pytest.raises(ValueError, match="the order of atoms is another one"):
        MLPotDriver(str(model), str(tmp_path / "start.xyz"))(cell, positions[::-1])
    with pytest.raises(ValueError, match="The template has 9 atoms and i-PI 8"):
        MLPotDriver(str(model), str(tmp_path / "start.xyz"))([cell], [positions[:-1]])


# --- OpenMM ---


def copper_box() -> Atoms:
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.rattle(0.05, seed=1)
    return atoms


def context_of(system: Any, integrator: Any, atoms: Atoms) -> Any:
    import openmm

    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(atoms.positions / 10)
    return context


def numbers_of(context: Any) -> tuple[float, np.ndarray, Atoms]:
    """Energy in eV, forces in eV/Å, and the cell and positions of a context."""
    from openmm import unit

    state = context.getState(getEnergy=True, getForces=True, getPositions=True)
    kj_mol = units.kJ / units.mol
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * kj_mol
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer) * kj_mol / 10
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    cell = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom)
    return energy, np.array(forces), Atoms(positions=positions, cell=cell, pbc=True)


def system_of(masses: np.ndarray, atoms: Atoms | None = None) -> Any:
    import openmm

    system = openmm.System()
    for mass in masses:
        system.addParticle(mass)
    if atoms is not None:
        system.setDefaultPeriodicBoxVectors(*(atoms.cell.array / 10))
    return system


def test_openmm_s_subset_is_taken_in_its_order(model: Path) -> None:
    """L24: particles between others, in an order of their own; and numbers that do not fit are refused."""
    optional("openmm", "openmm")
    import openmm

    from mlpot.engines.openmm_force import openmm_force

    atoms = ethanol(seed=2)
    order = np.random.default_rng(0).permutation(len(atoms))
    particles = (2 * order + 1).tolist()  # atom k is particle 2 k + 1; the others are none of the potential's
    everything = Atoms("He18", positions=np.repeat(atoms.positions, 2, axis=0))
    everything.positions[::2] += 50
    system = system_of(np.full(18, 4.0))
    system.addForce(openmm_force(model, atoms.numbers[order], particles=particles))
    energy, forces, _ = numbers_of(context_of(system, openmm.VerletIntegrator(1e-4), everything))
    own = expected(model, atoms)
    assert energy == pytest.approx(own.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(forces[1::2], own.get_forces(), atol=SAME)
    assert not forces[::2].any()
    for wrong in (particles[:-1], particles[:-1] + particles[:1]):
        with pytest.raises(ValueError, match="8 different particles and 9 atomic numbers"):
            openmm_force(model, atoms.numbers[order], particles=wrong)
    with pytest.raises(UnknownElementError, match="Au is unknown"):
        openmm_force(model, [79])
    system = system_of(np.full(18, 4.0))
    system.addForce(openmm_force(model, atoms.numbers))
    with pytest.raises(openmm.OpenMMException, match="made of 9 atomic numbers, and OpenMM applies it to 18"):
        numbers_of(context_of(system, openmm.VerletIntegrator(1e-4), everything))


@pytest.mark.parametrize(
    ("numbers", "particles", "told"),
    [
        ([6.0, 1.5], None, "numbers: give whole numbers, .*atom.element.atomic_number"),
        ([-6, 1], None, "numbers: give whole numbers"),
        ([object(), object()], None, "numbers: give whole numbers"),
        ([6, 1], [-1, 0], "particles: give whole numbers, .* OpenMM counts particles from 0"),
        ([6, 1], [0.5, 1], "particles: give whole numbers"),
    ],
)
def test_openmm_s_numbers_and_particles_are_whole(
    model: Path, numbers: list[Any], particles: list[Any] | None, told: str
) -> None:
    """Fractions were cut off, and a particle below zero was a fault of memory."""
    optional("openmm", "openmm")
    from mlpot.engines.openmm_force import openmm_force

    with pytest.raises(ValueError, match=told):
        openmm_force(model, numbers, particles=particles)
    openmm_force(model, ["C", "H"], particles=np.array([3, 1]))


def test_openmm_s_box_may_change_and_moves_be_rejected(model: Path) -> None:
    """L24: by hand after the context is made; and by a barostat, whose rejected moves leave nothing behind."""
    optional("openmm", "openmm")
    import openmm
    from openmm import unit

    from mlpot.engines.openmm_force import openmm_force

    atoms = copper_box()
    system = system_of(atoms.get_masses(), atoms)
    system.addForce(openmm_force(model, atoms.numbers, periodic=True))
    system.addForce(openmm.MonteCarloBarostat(1 * unit.bar, 300 * unit.kelvin, 1))
    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 1 * unit.femtosecond)
    integrator.setRandomNumberSeed(1)
    context = context_of(system, integrator, atoms)
    larger = atoms.copy()
    larger.set_cell(1.02 * atoms.cell, scale_atoms=True)
    context.setPeriodicBoxVectors(*(larger.cell.array / 10))
    context.setPositions(larger.positions / 10)
    volumes = []
    for n_steps in (0, *[1] * 20):
        integrator.step(n_steps)
        energy, forces, there = numbers_of(context)
        there.numbers = atoms.numbers
        own = expected(model, there)
        assert energy == pytest.approx(own.get_potential_energy(), abs=1e-8)
        np.testing.assert_allclose(forces, own.get_forces(), atol=SAME)
        volumes.append(there.get_volume())
    assert volumes[0] == pytest.approx(larger.get_volume())
    assert 1 < len(set(volumes)) < len(volumes)  # some moves were taken and some were not


def test_openmm_s_written_systems_have_the_potential(model: Path) -> None:
    """L24: the same numbers after a system was written and read."""
    optional("openmm", "openmm")
    import openmm

    from mlpot.engines.openmm_force import openmm_force

    atoms = ethanol(seed=2)
    system = system_of(atoms.get_masses())
    system.addForce(openmm_force(model, atoms.numbers))
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    one, two = (numbers_of(context_of(s, openmm.VerletIntegrator(1e-4), atoms)) for s in (system, again))
    assert one[0] == two[0]
    assert np.array_equal(one[1], two[1])
    assert one[0] == pytest.approx(expected(model, atoms).get_potential_energy(), abs=1e-9)


# --- TorchSim ---


def test_torchsim_s_systems_are_what_they_are_alone(model: Path) -> None:
    """L25: in the order given, whatever the others are; one without edges at either end."""
    optional("torch_sim", "torchsim")
    import torch_sim

    from mlpot.engines.torchsim import MLPotModel

    lone = Atoms("O", positions=[(1.0, 2.0, 3.0)])
    structures = [lone, ethanol(seed=1), ethanol(seed=2)[:5], ethanol(seed=3)[::-1], lone]
    for atoms in structures:
        atoms.info = {}
    inside = MLPotModel(model)

    def found(*chosen: Atoms) -> dict[str, torch.Tensor]:
        return inside(torch_sim.io.atoms_to_state(list(chosen), torch.device("cpu"), torch.float64))

    for order in ([0, 1, 2, 3, 4], [3, 1, 0, 2, 4], [4, 2, 3]):
        together = found(*(structures[k] for k in order))
        alone = [found(structures[k]) for k in order]
        assert torch.equal(together["energy"], torch.cat([one["energy"] for one in alone]))
        assert torch.equal(together["forces"], torch.cat([one["forces"] for one in alone]))
    assert not found(lone)["forces"].any()
    with pytest.raises(UnknownElementError, match="Au is unknown"):
        found(structures[1], Atoms("Au2", [(0, 0, 0), (0, 0, 2.5)]))


def without_periods(atoms: Atoms, cell: np.ndarray | None = None) -> Atoms:
    """As TorchSim before 0.4 takes any structure that is not periodic along all vectors."""
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell if cell is None else cell)


@pytest.mark.parametrize("name", ["slab", "slab_in_vacuum", "wire"])
def test_torchsim_s_lost_boundaries_are_refused_and_may_be_given(model: Path, name: str) -> None:
    """L22: TorchSim 0.3 makes a molecule of a slab, without a word."""
    optional("torch_sim", "torchsim")
    import torch_sim

    from mlpot.engines.torchsim import MLPotModel

    wire = Atoms("Cu3O", [(0, 0, 0), (0, 0, 2.2), (1.9, 0, 1), (-2, 0, 0.6)], cell=[20, 20, 4.5], pbc=(0, 0, 1))
    in_vacuum = slab(seed=1)
    in_vacuum.center(vacuum=9, axis=2)
    atoms = {"slab": slab(seed=1), "slab_in_vacuum": in_vacuum, "wire": wire}[name]
    atoms.info = {}
    state = torch_sim.io.atoms_to_state([atoms], torch.device("cpu"), torch.float64)
    inside, own = MLPotModel(model), expected(model, atoms)
    if state.pbc is False:
        with pytest.raises(ValueError, match=r"System 0 has a cell .* state.pbc = \[True, True, False\]"):
            inside(state)
    state.pbc = atoms.pbc.tolist()
    out = inside(state)
    assert float(out["energy"][0]) == pytest.approx(own.get_potential_energy(), abs=SAME)
    np.testing.assert_allclose(out["forces"], own.get_forces(), atol=SAME)


@pytest.mark.parametrize("length", [0.01, 1.0, 30.0])
def test_torchsim_s_molecules_may_have_any_cell(model: Path, length: float) -> None:
    """L22: a cell that is too small for its atoms, or larger than they see, belongs to a molecule."""
    optional("torch_sim", "torchsim")
    import torch_sim

    from mlpot.engines.torchsim import MLPotModel

    atoms = without_periods(ethanol(seed=1), length * np.eye(3))
    out = MLPotModel(model)(torch_sim.io.atoms_to_state([atoms], torch.device("cpu"), torch.float64))
    assert float(out["energy"][0]) == pytest.approx(expected(model, atoms).get_potential_energy(), abs=SAME)


def test_ipi_warns_of_a_template_without_periods(model: Path, tmp_path: Path) -> None:
    """L22: an xyz file tells no boundary, and i-PI has a cell always."""
    optional("ipi", "ipi")
    from ipi.utils.units import unit_to_internal

    from mlpot.engines.path_integrals import MLPotDriver

    atoms = quartz(seed=3)
    ase.io.write(tmp_path / "start.xyz", without_periods(atoms, np.zeros((3, 3))), format="xyz")
    driver = MLPotDriver(str(model), str(tmp_path / "start.xyz"))
    positions = unit_to_internal("length", "angstrom", atoms.positions)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        driver(unit_to_internal("length", "angstrom", 30 * np.eye(3)), positions)
    with pytest.warns(UserWarning, match="The template has no periodic directions"):
        driver(unit_to_internal("length", "angstrom", atoms.cell.array.T), positions)


def _message(words: str) -> bytes:
    return words.encode().ljust(12)


STEP = _message("POSDATA") + np.zeros(18).tobytes() + np.int32(9).tobytes()
SERVERS = {
    "NaN": (STEP + np.full(27, np.nan).tobytes(), "not finite: its run blew up"),
    "ended": (STEP + np.zeros(3).tobytes(), "ended before it had all of an answer"),
    "another": (b"SSH-2.0-OpenSSH_9.2p1\r\n", "does not speak i-PI's protocol"),
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_goes_wrong_is_told_in_words(model: Path, tmp_path: Path, name: str) -> None:
    """L23: ASE's client ended in an assertion, or without a word."""
    sent, reason = SERVERS[name]
    ase.io.write(tmp_path / "start.xyz", ethanol())
    with socket.create_server(("localhost", 0)) as server:

        def serve() -> None:
            connection = server.accept()[0]
            with connection, suppress(ConnectionError):
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)  # until the client has ended

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ValueError, match=reason):
            answer(model, tmp_path / "start.xyz", port=server.getsockname()[1])
        thread.join()
