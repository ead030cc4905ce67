"""The quantum-chemistry codes that `label` calls: their settings, and one structure in, one label out.

A code is imported when its first structure is computed, and only here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, ground_state_magnetic_moments
from pydantic import Field, ValidationError

from mlpot.data.errors import DataError
from mlpot.recipes import Section
from mlpot.units import BOHR, HARTREE


class SettingsError(DataError):
    """A calculator or one of its settings is unknown, or has a value of the wrong kind."""


class MissingCodeError(DataError, ImportError):
    """The quantum-chemistry code is not installed."""


class QuantumError(RuntimeError):
    """The code cannot compute this structure."""


@dataclass(frozen=True)
class Label:
    """What a calculation gives: energy in eV, forces (n_atoms, 3) in eV/Å, stress (6,) in eV/Å³ or None."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None


class _Settings(Section):
    """Of one code."""


class PySCF(_Settings):
    """Density functionals and Hartree-Fock for molecules, in Gaussian orbitals; open shells are unrestricted.

    Sun et al., J. Chem. Phys. 153, 024109 (2020). The gradient includes the motion of the integration grid,
    so that forces are the derivative of the energy and sum to zero on any grid.
    """

    package: ClassVar[str] = "pyscf"
    install: ClassVar[str] = 'pip install "mlpot[label]"'

    functional: str = "PBE"  # any name PySCF knows; "HF" too
    basis: str = "def2-SVP"
    density_fitting: bool = True
    grid_level: int = Field(3, ge=0, le=9)
    tolerance: float = Field(1e-9, gt=0)  # hartree, on the self-consistent energy
    cycles: int = Field(100, gt=0)
    charge: int | None = None  # of molecules that carry none, as is the multiplicity; by default 0
    multiplicity: int | None = Field(None, gt=0)

    def theory(self) -> str:
        """The level of theory in words."""
        fitting = "density fitting" if self.density_fitting else "exact integrals"
        return f"{self.functional}/{self.basis}, {fitting}, grid level {self.grid_level} with grid response"

    def compute(self, atoms: Atoms) -> Label:
        """Energy and forces of a molecule or atom."""
        from pyscf import dft, gto, lib

        if atoms.pbc.any():
            raise QuantumError("PySCF computes molecules here and this structure is periodic; use gpaw")
        lib.num_threads(1)
        charge, unpaired = _state(atoms, self.charge, self.multiplicity)
        molecule = gto.M(
            atom=list(zip(atoms.get_chemical_symbols(), (atoms.positions / BOHR).tolist(), strict=True)),
            unit="Bohr",
            basis=self.basis,
            ecp=self._core_potentials(atoms),
            charge=charge,
            spin=unpaired,
            verbose=0,
        )
        method = (dft.UKS if unpaired else dft.RKS)(molecule, xc=self.functional)
        method = method.density_fit() if self.density_fitting else method
        method.grids.level, method.conv_tol, method.max_cycle = self.grid_level, self.tolerance, self.cycles
        energy = method.kernel()
        if not method.converged:
            raise QuantumError(f"self-consistency not reached in {self.cycles} cycles")
        gradient = method.nuc_grad_method()
        gradient.grid_response = dft.libxc.xc_type(self.functional) != "HF"  # which has no grid
        return Label(energy * HARTREE, -gradient.kernel() * (HARTREE / BOHR))

    def _core_potentials(self, atoms: Atoms) -> dict[str, str]:
        """The def2 sets hold only the valence from Rb on: without their core potentials they are wrong."""
        heavy = {chemical_symbols[z] for z in atoms.numbers if z > 36}
        return dict.fromkeys(heavy, self.basis) if self.basis.lower().startswith("def2") else {}


class GPAW(_Settings):
    """Density functionals for crystals by projector-augmented plane waves, with stress.

    Mortensen et al., J. Chem. Phys. 160, 092503 (2024). Molecules and atoms get a periodic box of vacuum; an
    atom is in its spin ground state. The energy is the free energy, whose derivative the forces are.
    """

    package: ClassVar[str] = "gpaw"
    install: ClassVar[str] = "see data/README.md: GPAW needs libxc and a BLAS library first"
    charge: ClassVar[None] = None  # it computes neutral structures alone

    functional: str = "PBE"
    cutoff: float = Field(350.0, gt=0)  # eV, of the plane waves
    kpoint_density: float = Field(3.5, gt=0)  # points per Å⁻¹, rounded up to an even Monkhorst-Pack mesh
    smearing: float = Field(0.05, ge=0)  # eV, Fermi-Dirac
    tolerance: float = Field(1e-5, gt=0)  # eV per valence electron
    vacuum: float = Field(10.0, gt=0)  # Å, between images of what is not periodic

    def theory(self) -> str:
        """The level of theory in words."""
        return (
            f"{self.functional}, PAW, plane waves to {self.cutoff:g} eV, even Monkhorst-Pack meshes of at least "
            f"{self.kpoint_density:g} points per Å⁻¹, Fermi-Dirac smearing {self.smearing:g} eV (free energy)"
        )

    def compute(self, atoms: Atoms) -> Label:
        """Energy, forces, and the stress of a crystal."""
        import gpaw

        if charge_of(atoms, self.charge):
            raise QuantumError("it is charged by its file, and GPAW computes neutral structures here; use pyscf")
        periodic, is_atom = bool(atoms.pbc.any()), len(atoms) == 1
        structure = atoms.copy() if periodic else _boxed(atoms, self.vacuum)
        structure.calc = gpaw.GPAW(
            mode=gpaw.PW(self.cutoff),
            xc=self.functional,
            kpts={"density": self.kpoint_density, "even": True} if periodic else (1, 1, 1),
            occupations=gpaw.FermiDirac(self.smearing, fixmagmom=is_atom and not periodic),
            hund=is_atom and not periodic,
            eigensolver=gpaw.Davidson(1),
            convergence={"energy": self.tolerance},
            txt=None,
        )
        energy = structure.get_potential_energy(force_consistent=True)
        stress = structure.get_stress() if atoms.pbc.all() else None
        return Label(energy, structure.get_forces(), stress)


class TBLite(_Settings):
    """Extended tight binding (xTB) for molecules and, at the Γ point, large cells.

    Bannwarth et al., J. Chem. Theory Comput. 15, 1652 (2019).
    """

    package: ClassVar[str] = "tblite"
    install: ClassVar[str] = 'pip install "mlpot[label]"'

    method: Literal["GFN1-xTB", "GFN2-xTB", "IPEA1-xTB"] = "GFN2-xTB"
    accuracy: float = Field(1.0, gt=0)  # xTB's own scale: smaller is tighter
    charge: int | None = None  # of molecules that carry none, as is the multiplicity; by default 0
    multiplicity: int | None = Field(None, gt=0)

    def theory(self) -> str:
        """The level of theory in words."""
        return f"{self.method}, accuracy {self.accuracy:g}"

    def compute(self, atoms: Atoms) -> Label:
        """Energy, forces, and the stress of a crystal."""
        from tblite.ase import TBLite as Calculator

        charge, unpaired = _state(atoms, self.charge, self.multiplicity)
        structure = atoms.copy()
        structure.calc = Calculator(
            method=self.method, accuracy=self.accuracy, charge=charge, multiplicity=unpaired + 1, verbosity=0
        )
        energy = structure.get_potential_energy()
        stress = structure.get_stress() if atoms.pbc.all() else None
        return Label(energy, structure.get_forces(), stress)


Code = PySCF | GPAW | TBLite
CODES: dict[str, type[PySCF] | type[GPAW] | type[TBLite]] = {"pyscf": PySCF, "gpaw": GPAW, "tblite": TBLite}


def choose(calculator: str, settings: Mapping[str, object]) -> Code:
    """The code of that name with these settings.

    Raises:
        SettingsError: the name or a setting is unknown, or a value is of the wrong kind.
    """
    if calculator not in CODES:
        raise SettingsError(f"There is no calculator {calculator!r}. Choose one of: {', '.join(CODES)}.")
    kind = CODES[calculator]
    for name in settings.keys() - kind.model_fields.keys():
        near = difflib.get_close_matches(name, kind.model_fields, 1, 0.0)[0]
        known = ", ".join(kind.model_fields)
        raise SettingsError(f"{calculator} has no setting {name!r}; did you mean {near!r}? It has: {known}.")
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        wrong = "; ".join(f"{e['loc'][0]}: {e['msg']}, not {e['input']!r}" for e in error.errors())
        raise SettingsError(f"Wrong settings for {calculator}: {wrong}.") from error


def version(code: Code) -> str:
    """The installed version of a code.

    Raises:
        MissingCodeError: it is not installed.
    """
    try:
        return metadata.version(code.package)
    except metadata.PackageNotFoundError as error:
        raise MissingCodeError(f"{code.package} is not installed. To label with it: {code.install}.") from error


def charge_of(atoms: Atoms, asked: int | None) -> int:
    """The total charge with which a structure is computed: its own, or else what is asked, or else 0.

    Raises:
        QuantumError: the two differ, or it is not whole, or that of an isolated atom, which is computed neutral.
    """
    own = atoms.info.get("charge")
    is_atom = len(atoms) == 1 and not atoms.pbc.any()
    if own is None:
        return 0 if is_atom or asked is None else asked
    if is_atom and own:
        raise QuantumError(f"its charge is {own:g}, and isolated atoms are computed neutral. Remove the frame")
    if own != round(own):
        raise QuantumError(
            f"its charge is {own:g}, or the initial charges of its atoms sum to that, and only whole charges are "
            "computed. Correct its file, or remove them from it"
        )
    if asked is not None and not is_atom and asked != own:
        raise QuantumError(
            f"its charge is {own:g} by its file and {asked} by the settings. Leave out charge, or correct the file"
        )
    return int(own)


def _state(atoms: Atoms, charge: int | None, multiplicity: int | None) -> tuple[int, int]:
    """Charge and number of unpaired electrons, as few as there can be unless the multiplicity is given.

    An isolated atom is neutral and in its ground state.

    Raises:
        QuantumError: as `charge_of`, or its spin or initial magnetic moments are of more unpaired electrons.
    """
    charge = charge_of(atoms, charge)
    if len(atoms) == 1 and not atoms.pbc.any():
        return 0, int(ground_state_magnetic_moments[atoms.numbers[0]])
    if multiplicity is not None:
        return charge, multiplicity - 1
    unpaired = int(atoms.numbers.sum() - charge) % 2
    moments = np.sum(atoms.get_initial_magnetic_moments(), axis=0)  # which ASE's calculators take for the spin
    told = round(float(np.linalg.norm(moments)))
    if told and told != unpaired and (told - unpaired) % 2 == 0:  # of the other parity is no state of this charge
        raise QuantumError(
            f"the initial magnetic moments of its atoms sum to {told}, and {unpaired} unpaired electrons would be "
            "computed. Set multiplicity, or remove the moments from the file"
        )
    if (spin := atoms.info.get("spin")) is not None and spin not in (unpaired, unpaired + 1):
        raise QuantumError(
            f"its spin is {spin:g} by its file, and {unpaired} unpaired electrons would be computed. Set "
            "multiplicity, or remove the spin from the file"
        )
    return charge, unpaired


def _boxed(atoms: Atoms, vacuum: float) -> Atoms:
    """The structure in a periodic box, with sides that differ so that no orbital of an atom is degenerate."""
    boxed = atoms.copy()
    boxed.center(vacuum=vacuum / 2)
    boxed.set_cell(boxed.cell.lengths() * (1.0, 1.02, 1.04))
    boxed.pbc = True
    return boxed
