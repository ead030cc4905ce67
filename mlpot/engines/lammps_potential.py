"""What a rank of LAMMPS computes: the energy of its own atoms, with forces on them and on ghosts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from signal import SIGINT
from typing import Any, TypeVar

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from mlpot.engines import lammps_fix
from mlpot.engines.lammps_guards import LocalGuards
from mlpot.engines.lammps_library import address_of, flush, ghost_cutoff, run_style
from mlpot.engines.lammps_passes import Passes, split
from mlpot.engines.lammps_refusals import check_masses, check_settings, check_styles
from mlpot.engines.local_atoms import Box, Due, LocalGraph, farthest
from mlpot.engines.mpi import greatest, joined, repeated, stop_all, together, told
from mlpot.engines.own_energies import OwnEnergies
from mlpot.extrapolation import tells_energy_of, untold_sums, untold_words
from mlpot.potential import Potential
from mlpot.signals import BlowUpError

Floats = NDArray[np.float64]
VOIGT = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)
"""LAMMPS' order of components: xx, yy, zz, xy, xz, yz."""
ATOMIC_ENERGY, ATOMIC_VIRIAL = 2, 4 | 8
"""Bits by which LAMMPS asks for energies and virials of atoms."""
SKIN = 2.0  # Å, LAMMPS' own in units metal
STRAIN = 0.1  # of a box, before LAMMPS looks anew which atoms are near
NULL = "NULL"
OF_FIXES = "pe, etotal and press have the potential; epair (E_pair) and compute pair tell of pair styles alone"
TWICE = (
    "Several atoms have the id {}, and ranks know ghosts by it: one would stand for the other. Number them anew "
    "in the file, or write `reset_atoms id` before the run."
)
T = TypeVar("T")


class RankPotential(lammps_fix.Callbacks):
    """A potential for one instance of LAMMPS, as one rank sees it.

    Args:
        lmp: the instance, of class `lammps.lammps`.
        potential: frozen, on a CPU or another device.
        elements: of types 1, 2, …, where neither the line of the script nor type labels name them.
        guards: checked after each calculation.
    """

    def __init__(self, lmp: Any, potential: Potential, elements: Sequence[str] | None, guards: LocalGuards):
        self.lmp, self.comm, self.potential = lmp, lmp.get_mpi_comm(), potential
        self.guards = guards
        self._passes, self._elements = Passes(lmp, potential), elements
        self.own: OwnEnergies | None = (
            None  # the way in which messages pass, once the script has the line of the potential
        )
        self._fix: lammps_fix.Fix | None = None
        self._name = ""
        self._numbers = np.zeros(1, np.int64)  # by type, from 1; 0 for NULL
        # Where atoms and ghosts were when LAMMPS found the ghosts, with the box.
        self._begun: tuple[Floats, Box] | None = None
        self._answer: tuple[Floats, Floats] | None = None  # energies and virials of own atoms, if asked for
        self.n_runs, self._is_compared = 0, False

    def create(self, arguments: Sequence[str]) -> None:
        """As `Callbacks`.

        A second potential, a group other than all, elements that do not fit, or a way of passing messages that the
        potential has not end all ranks.
        """
        wanted = self._together(lambda: self._read(arguments))
        if self.comm.Get_rank() == 0:
            print(f"mlpot: {OF_FIXES}", flush=True)
        self.own = self._passes.choose(wanted)
        self._name, self._fix = arguments[0], lammps_fix.Fix(self.lmp, arguments[0])
        self._begun = None
        enough = max(self._enough, ghost_cutoff(self.lmp))
        self.lmp.command(f"comm_modify mode single cutoff {enough:.12g}")

    def _read(self, arguments: Sequence[str]) -> str | None:
        """The way of passing messages that the line of the potential wants; elements are kept."""
        name, group, _, *words = arguments
        if self.is_there():
            raise ValueError(f"The script has a fix {lammps_fix.STYLE} already, {self._name}. Remove one line.")
        if group != "all":
            raise ValueError(
                f"fix {name} {group} {lammps_fix.STYLE}: a potential is of all atoms, as some have no energy "
                "without the others. Write `all`, and NULL for types that it is not to see."
            )
        if (units := self.lmp.extract_global("units")) != "metal":
            raise ValueError(f"The script has units {units}; energies and forces are in eV and Å: `units metal`.")
        if self.lmp.extract_setting("dimension") != 3:
            raise ValueError("The script has two dimensions, and atoms are in space. Write `dimension 3`.")
        words, wanted = split(words)
        self._numbers = self._numbers_of_types(words)
        self._passes.check(wanted)
        return wanted

    @property
    def reach(self) -> float:
        """Å, how far out ghosts are needed."""
        assert self.own is not None
        return self.own.reach

    @property
    def _enough(self) -> float:
        return (1 + STRAIN) * self.reach + SKIN

    def is_there(self) -> bool:
        """Whether the line of the potential was read and its fix is there yet."""
        return self._fix is not None and lammps_fix.is_ours(address_of(self.lmp, "fix", self._name))

    def begin_run(self, command: str) -> None:
        """As `Callbacks`; without a potential, or with an id of several atoms, all ranks end."""
        self._together(lambda: self._check_is_there(command))
        n = self.lmp.extract_setting("nlocal")
        ids = self.lmp.numpy.extract_atom("id", nelem=n).astype(np.int64) if n else np.empty(0, np.int64)
        if twice := repeated(self.comm, ids):
            flush(self.lmp)
            stop_all(self.comm, TWICE.format(twice), 1, together=True)
        self.n_runs += 1

    def _check_is_there(self, command: str) -> None:
        if not self.is_there():
            raise ValueError(
                f"The script comes to `{command}` without a potential. Before it, where the atoms are there, "
                f"write a line such as: fix potential all {lammps_fix.STYLE} {' '.join(self._example())}"
            )

    def init(self) -> None:
        """As `Callbacks`; what would give other forces than those of the potential ends all ranks."""
        self._together(self._check)
        self._compare()

    def _compare(self) -> None:
        """Tell, once, of an energy that the compositions of the training set do not tell."""
        if self._is_compared or not untold_sums(self.potential.header):
            return
        self._is_compared = True
        n = self.lmp.extract_setting("nlocal")
        types = self.lmp.numpy.extract_atom("type", nelem=n) if n else np.empty(0, np.int64)
        counts = np.bincount(self._numbers[types], minlength=len(chemical_symbols))
        self.comm.Allreduce(counts.copy(), counts)
        of = {z: n for z, n in enumerate(counts.tolist()) if z and n}
        if self.comm.Get_rank() == 0 and not tells_energy_of(self.potential.header, of):
            formula = "".join(f"{chemical_symbols[z]}{n}" for z, n in of.items())
            print(f"mlpot: {untold_words(formula)}", flush=True)

    def _check(self) -> None:
        if self.lmp.extract_global("units") != "metal":
            raise ValueError("The units are not metal any more. Write `units metal`.")
        if (style := run_style(self.lmp)) != "verlet":
            raise ValueError(
                f"run_style {style} would not apply the potential, or not to all atoms. Write `run_style verlet`."
            )
        if self.lmp.extract_setting("ntypes") != len(self._numbers) - 1:
            raise ValueError("The number of atom types changed. Write the potential's line after it.")
        check_styles(self.lmp)
        check_settings(self.lmp, self.address, self._name)
        masses = self.lmp.extract_atom("mass")  # none where each atom has its own
        if masses:
            n_types = len(self._numbers) - 1
            check_masses(self._numbers[1:], np.array(masses[1 : n_types + 1]), self.potential.elements)

    def atoms_changed(self) -> None:
        """As `Callbacks`; ghosts of too small a part of the surroundings end all ranks, each of which finds it.

        Before, such as in `init`, LAMMPS has the cutoff of the pair style that the run before had.
        """
        self._begun = None
        if ghost_cutoff(self.lmp) < self.reach:
            self._together(self._refuse_ghosts)

    def _refuse_ghosts(self) -> None:
        raise ValueError(
            f"LAMMPS keeps ghosts {ghost_cutoff(self.lmp):.4g} Å out, and they are needed {self.reach:.4g} Å out "
            f"({self.reach / self.potential.cutoff:.0f} × {self.potential.cutoff:.4g} Å). Write "
            f"`comm_modify mode single cutoff {self._enough:.4g}`, after the potential's line."
        )

    def compute(self, eflag: int, vflag: int) -> None:
        """As `Callbacks`: all ranks tell each other what they found, or what went wrong."""
        energy, virial, forces, reason, local = 0.0, np.zeros((3, 3)), None, "", None
        assert self.own is not None
        try:
            atoms = self._atoms()
        except Exception as error:
            atoms, reason = None, told(error)
        # Ranks that found their lists anew in different steps would wait for each other in each of these.
        (due,) = greatest(self.comm, Due.NOTHING if atoms is None else self.own.neighbors.due(*atoms))
        if atoms is not None:
            try:
                local = self.own.neighbors.graph(*atoms, self._box(), Due(due))
            except Exception as error:
                reason = told(error)
        if self.own.ready(local):
            assert local is not None
            try:
                energy, forces, virial = self._predict(local)
                grades = self.own.grades(local) if self.guards.wants_grades() and local.n_own else None
                reason = self.guards.reason(local, energy, forces, grades) or ""
            except Exception as error:
                reason = told(error)
                if self.own.others_wait:  # and would not come to the sum below
                    stop_all(self.comm, reason, 1)
        sums = np.array([energy, *(virial + virial.T)[VOIGT] / 2, bool(reason)])
        self.comm.Allreduce(sums.copy(), sums)
        if sums[-1] > 0:
            self._stop(reason)
        assert self._fix is not None
        assert local is not None
        assert forces is not None
        self._add(local, forces)
        self._fix.tell(sums[0], -sums[1:7])
        if eflag & ATOMIC_ENERGY or vflag & ATOMIC_VIRIAL:
            self._answer = self._by_atom(local)

    def _add(self, local: LocalGraph, forces: Floats) -> None:
        """To LAMMPS' forces; with newton on, LAMMPS will add those on ghosts to their atoms."""
        assert self._fix is not None
        if not (self.lmp.extract_setting("newton_pair") or self.lmp.extract_setting("newton_bond")):
            complete = np.zeros((self._n_all, 3))
            complete[local.kept] = forces
            self._fix.add_of_ghosts(self.address, complete)
            n_own = self.lmp.extract_setting("nlocal")
            self.lmp.numpy.extract_atom("f", nelem=self._n_all, dim=3)[:n_own] += complete[:n_own]
        elif len(forces):
            self.lmp.numpy.extract_atom("f", nelem=self._n_all, dim=3)[local.kept] += forces

    def by_atom(self) -> None:
        """As `Callbacks`."""
        n = self.lmp.extract_setting("nlocal")
        take = self.lmp.numpy.extract_atom
        if n and (reason := self.guards.strong_force(take("f", nelem=n, dim=3), take("id", nelem=n))):
            self._tell_and_stop(reason)
        if self._answer is not None:
            assert self._fix is not None
            self._fix.tell_atoms(*self._answer)
            self._answer = None

    def is_open(self) -> bool:
        """As `Callbacks`."""
        return self.lmp.lmp is not None

    def failed(self, error: BaseException) -> None:
        """As `Callbacks`: what one rank may have found alone ends all, and waits for none of them."""
        flush(self.lmp)
        stop_all(self.comm, told(error), 128 + SIGINT if isinstance(error, KeyboardInterrupt) else 1)

    def _together(self, step: Callable[[], T]) -> T:
        return together(self.comm, step, lambda: flush(self.lmp))

    def _stop(self, reason: str) -> None:
        """End all ranks, each of which may have a reason."""
        self._tell_and_stop(joined(self.comm.allgather(reason)), together=True)

    def _tell_and_stop(self, reason: str, *, together: bool = False) -> None:
        step = self.lmp.extract_global("ntimestep")
        flush(self.lmp)
        stop_all(self.comm, f"Stopped in step {step}. {reason}", BlowUpError.exit_code, together=together)

    def _atoms(self) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64], int]:
        """Positions, atomic numbers and ids of own atoms and ghosts, and how many are own."""
        n_own, n_ghosts = self.lmp.extract_setting("nlocal"), self.lmp.extract_setting("nghost")
        n = self._n_all = n_own + n_ghosts
        if n == 0:
            positions, types, ids = np.empty((0, 3)), np.empty(0, np.int32), np.empty(0, np.int32)
        else:
            take = self.lmp.numpy.extract_atom
            positions, types, ids = take("x", nelem=n, dim=3), take("type", nelem=n), take("id", nelem=n)
        self._check_ghosts(positions)
        if n and not ids[:n].all():
            raise ValueError("Atoms have no ids, by which ghosts are known. Leave out `atom_modify id no`.")
        return positions, self._numbers[types], ids.astype(np.int64), n_own

    def _check_ghosts(self, positions: Floats) -> None:
        """No atom may have come near since LAMMPS looked which ghosts are near.

        Atoms that move by at most u beside a strain whose least singular value is s were d₀ ≤ (d + 2 u) / s apart.
        """
        if self._begun is None or len(self._begun[0]) != len(positions):
            self._begun = positions.copy(), self._box()
            return
        before, (origin, cell, _) = self._begun
        moved = farthest(positions, before)
        if 2 * moved <= ghost_cutoff(self.lmp) - self.reach:  # less than LAMMPS' skin, if the script says so
            return
        new_origin, new_cell, _ = self._box()
        strain = np.linalg.solve(cell, new_cell)
        beside = farthest(positions, (before - origin) @ strain + new_origin)
        shrunk = min(1.0, float(np.linalg.svd(strain, compute_uv=False).min()))
        if (self.reach + 2 * beside) / shrunk > ghost_cutoff(self.lmp):
            raise ValueError(
                f"Atoms moved {moved:.3g} Å since LAMMPS looked which are near, and ghosts may be missing. Write "
                "`neigh_modify every 1 delay 0 check yes`, and after the potential's line `comm_modify cutoff "
                f"{self._enough + 2 * SKIN:.4g}`."
            )

    def _box(self) -> Box:
        low, high, xy, yz, xz, periodic, _ = self.lmp.extract_box()
        x, y, z = np.subtract(high, low)
        return Box(np.array(low), np.array([[x, 0, 0], [xy, y, 0], [xz, yz, z]]), np.array(periodic, bool))

    def _predict(self, local: LocalGraph) -> tuple[float, Floats, Floats]:
        """Energy, forces on the atoms of the graph and virial; eV, eV/Å."""
        if local.n_own == 0:
            return 0.0, np.zeros((len(local.kept), 3)), np.zeros((3, 3))
        assert self.own is not None
        energy, forces, virial = (t.cpu() for t in self.own.predict(local))
        return energy.item(), forces.numpy(), virial[0].numpy()

    def _by_atom(self, local: LocalGraph) -> tuple[Floats, Floats]:
        """Energies (n_own,) and virials (n_own, 6) of own atoms, zero where the potential does not see them.

        The virial of an edge is shared by its two atoms, of which a ghost gives its part to its atom.
        """
        assert self._fix is not None
        energies, parts = np.zeros(self._n_all), np.zeros((2, self._n_all, 3))
        if local.n_own:
            assert self.own is not None
            found = self.own.by_atom(local).to("cpu")
            energies[local.kept[: local.n_own]] = found.energies[: local.n_own].numpy()
            virials = -found.virials.numpy()[:, VOIGT[0], VOIGT[1]]
            parts[0, local.kept], parts[1, local.kept] = virials[:, :3], virials[:, 3:]
        for part in parts:
            self._fix.add_of_ghosts(self.address, part)
        return energies, np.concatenate([*parts], axis=1)

    def _numbers_of_types(self, words: Sequence[str]) -> NDArray[np.int64]:
        """Atomic numbers by type from what the script, the labels of types or the caller name."""
        n_types = self.lmp.extract_setting("ntypes")
        names = list(words) or self._labels(n_types) or list(self._elements or ())
        known = [chemical_symbols[z] for z in self.potential.elements]
        if len(names) != n_types:
            given = f"names {len(names)} elements ({' '.join(names)})" if names else "names no elements"
            raise ValueError(
                f"The potential's line {given}, and there are {n_types} types of atoms. Write one element for "
                f"each, of {', '.join(known)}, or NULL: fix {self._name or 'potential'} all {lammps_fix.STYLE} "
                f"{' '.join(self._example())}"
            )
        if unknown := sorted({name for name in names if name not in known and name != NULL}):
            raise ValueError(
                f"The potential does not know {', '.join(unknown)}: it was made for {', '.join(known)}. Name "
                "these, or NULL for a type that it is not to see."
            )
        return np.array([0] + [0 if name == NULL else atomic_numbers[name] for name in names])

    def _labels(self, n_types: int) -> list[str]:
        """The elements that labels of types name, [] if not all do."""
        names = [""] * n_types
        try:
            for symbol in (chemical_symbols[z] for z in self.potential.elements):
                if int(self.lmp.eval(f"is_typelabel(atom,{symbol})")):
                    names[int(self.lmp.eval(f"label2type(atom,{symbol})")) - 1] = symbol
        except Exception as error:  # of LAMMPS, which says in no other way that there are no labels
            if "without a labelmap" not in str(error):
                raise
            return []
        return names if all(names) else []

    def _example(self) -> list[str]:
        known = [chemical_symbols[z] for z in self.potential.elements]
        n_types = max(1, self.lmp.extract_setting("ntypes"))
        return (known * n_types)[:n_types]
