"""Does each structure of pw.x get its own labels: of hybrid functionals, with held atoms, in runs that failed?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.constraints import FixCartesian
from frames import read_output

from mlpot.data.h5md import FormatError, KeysError, LabelError
from mlpot.units import BOHR, RYDBERG

FORCES = ((0.02, 0.0, 0.01), (-0.02, 0.0, -0.01))
DONE = ["   JOB DONE."]


def start(*more: str, threshold: str = "1.0E-08") -> list[str]:
    axes = [f"               a({k + 1}) = (  {' '.join('1.000000' if k == j else '0.000000' for j in range(3))} )"
            for k in range(3)]  # fmt: skip
    return [
        "     Program PWSCF v.7.2 starts on  1Jan2024 at 10: 0: 0 ",
        "     number of atoms/cell      =            2", "     number of atomic types    =            1",
        f"     scf convergence threshold =      {threshold}", *more,
        "     celldm(1)=  10.000000  celldm(2)=   0.000000  celldm(3)=   0.000000",
        "     crystal axes: (cart. coord. in units of alat)", *axes,
        "     site n.     atom                  positions (alat units)",
        "         1           Si  tau(   1) = (   0.0000000   0.0000000   0.0000000  )",
        "         2           Si  tau(   2) = (   0.2500000   0.2500000   0.2500000  )", "",
    ]  # fmt: skip


def scf(value: float | None, *, accuracy: str = "1.0E-09", sign: str = "!", n: int = 9) -> list[str]:
    """A self-consistency, which prints no marked energy if it fails."""
    lines = [
        "     total energy              =     -15.00000000 Ry",
        "     estimated scf accuracy    <       0.5 Ry",
        "",
    ]
    lines += ["     End of self-consistent calculation", ""]
    if value is None:
        return [*lines, f"     convergence NOT achieved after {n:3d} iterations: stopping", ""]
    lines += [f"{sign:5s}total energy              = {value:16.8f} Ry"]
    lines += [f"     estimated scf accuracy    <  {accuracy:>15s} Ry", ""]
    return [*lines, f"     convergence has been achieved in {n:3d} iterations", ""]


def forces(scale: float = 1.0, held: bool = False) -> list[str]:
    rows = [[0.0 if held and k == 0 else scale * f for f in row] for k, row in enumerate(FORCES)]
    lines = ["     Forces acting on atoms (cartesian axes, Ry/au):", ""]
    return lines + [f"     atom {k + 1:4d} type  1   force = " + "".join(f"{f:14.8f}" for f in row)
                    for k, row in enumerate(rows)] + ["", "     Total force =     0.03"]  # fmt: skip


def positions(height: float, flags: str = "") -> list[str]:
    return ["", "ATOMIC_POSITIONS (angstrom)", f"Si               0.0000000000        0.0000000000  0.0{flags}",
            f"Si               1.3200000000        1.3200000000  {height:.4f}", ""]  # fmt: skip


def read(tmp_path: Path, lines: list[str], **said):
    return read_output(tmp_path / "pw.out", lines, **said)


def energies(frames) -> list[float]:
    return [round(atoms.get_potential_energy() / RYDBERG, 5) for atoms in frames]


def hybrid(*values: float) -> list[str]:
    """Energies of the inner cycles, and last the one with exact exchange."""
    *inner, last = values
    lines = [
        line for value in inner for line in (*scf(value), "     EXX: now go back to refine exchange calculation")
    ]
    lines += [f"!!   total energy              = {last:16.8f} Ry", "     EXX self-consistency reached", ""]
    return lines


def test_the_energy_of_a_hybrid_functional_has_exact_exchange(tmp_path):
    relax = [*start("     EXX-fraction              =        0.25"), *hybrid(-15.5, -15.7, -15.8), *forces()]
    relax += [*positions(1.33), *hybrid(-15.75, -15.81), *forces(2), *DONE]
    frames, told = read(tmp_path, relax)
    assert energies(frames) == [-15.8, -15.81]
    assert len(told) == 1
    unfinished = [
        *relax[:-1],
        *positions(1.34),
        *scf(-15.6),
        "     EXX convergence NOT achieved after 100 iterations",
        *DONE,
    ]
    frames, told = read(tmp_path, unfinished)
    assert energies(frames) == [-15.8, -15.81]
    assert "left out, as its" in told[1]
    assert told[1].endswith("(1 frame: 2).")


@pytest.mark.parametrize("n_good", [0, 1, 3])
def test_a_run_that_ends_as_it_does_not_converge_loses_its_last_step_alone(tmp_path, n_good):
    """Behind the failure pw.x prints no marked energy and no forces."""
    lines = start()
    for k in range(n_good):
        lines += [*scf(-15.8 - 0.01 * k), *forces(), *positions(1.33 + 0.01 * k)]
    lines += [*scf(None, n=100), *DONE]
    if not n_good:
        with pytest.raises(LabelError, match="no frame that converged: of frame 0, its self-consistency did not"):
            read(tmp_path, lines)
        return
    frames, told = read(tmp_path, lines)
    np.testing.assert_allclose(energies(frames), [-15.8 - 0.01 * k for k in range(n_good)])
    assert all("forces" in atoms.calc.results for atoms in frames)
    assert (
        f"self-consistency did not converge; --keep-unconverged takes such frames (1 frame: {n_good})." in told[1]
    )


def test_a_self_consistency_that_need_not_converge_is_seen_by_its_accuracy(tmp_path):
    """With scf_must_converge = .false. pw.x says that convergence has been achieved, whatever it reached."""
    lines = [
        *start(),
        *scf(-15.8, accuracy="0.00300000", n=50),
        *forces(),
        *positions(1.33),
        *scf(-15.81),
        *forces(),
    ]
    frames, told = read(tmp_path, [*lines, *DONE])
    assert energies(frames) == [-15.81]
    assert "stopped above conv_thr" in told[1]
    assert energies(read(tmp_path, [*lines, *DONE], keep_unconverged=True)[0]) == [-15.8, -15.81]
    relax = [*start(threshold="1.0E-06"), *scf(-15.8, accuracy="0.00000090"), *forces()]
    relax += [
        "     new conv_thr            =       0.0000000100 Ry",
        *positions(1.33),
        *scf(-15.81, accuracy="9.0E-09"),
    ]
    assert energies(read(tmp_path, [*relax, *forces(), *DONE])[0]) == [-15.8, -15.81]


@pytest.mark.parametrize(
    ("flags", "held"), [("    0   0   0", [[True] * 3]), ("    1   1   0", [[False, False, True]])]
)
def test_forces_of_held_atoms_are_not_learned_be_it_in_the_first_step(tmp_path, flags, held):
    """The first structure of a relaxation is printed without what is held."""
    lines = [*start(), *scf(-15.8), *forces(held=True), *positions(1.33, flags), *scf(-15.81), *forces(held=True)]
    lines += ["Begin final coordinates", *positions(1.33, flags), "End final coordinates", *DONE]
    frames, told = read(tmp_path, lines)
    assert len(frames) == 2
    assert "2 forces masked, of atoms that were held" in told[0]
    for atoms in frames:
        assert atoms.arrays["force_mask"].tolist() == [False, True]
        found = [c.mask.tolist() if isinstance(c, FixCartesian) else [True] * 3 for c in atoms.constraints]
        assert found == held


def test_a_single_calculation_with_forces_of_zero_tells_that_what_it_held_is_unknown(tmp_path):
    """pw.x prints which atoms are held with the structures behind the first alone."""
    for held in (False, True):
        frames, told = read(tmp_path, [*start(), *scf(-15.8), *forces(held=held), *DONE])
        assert len(frames) == 1
        assert any("which atoms were held is unknown" in line for line in told) is held
    frames, told = read(tmp_path, [*start(), *scf(-15.8), *forces(held=True), *positions(1.33), *scf(-15.9),
                                   *forces(2), *DONE])  # fmt: skip
    assert not any("unknown" in line for line in told), "the second structure says that nothing is held"


def test_a_second_run_in_the_file_holds_what_it_says(tmp_path):
    first = [*start(), *scf(-15.8), *forces(), *DONE]
    second = [
        *start(),
        *scf(-15.7),
        *forces(held=True),
        *positions(1.33, "   0   0   0"),
        *scf(-15.71),
        *forces(held=True),
    ]
    frames, _ = read(tmp_path, [*first, *second, *DONE])
    assert [atoms.has("force_mask") for atoms in frames] == [False, True, True]


def test_a_run_that_was_cut_off_within_its_forces_gives_the_steps_before(tmp_path):
    lines = [*start(), *scf(-15.8), *forces(), *positions(1.33), *scf(-15.81), *forces()[:3]]
    frames, told = read(tmp_path, lines)
    assert energies(frames) == [-15.8]
    np.testing.assert_allclose(frames[0].get_forces(), np.array(FORCES) * RYDBERG / BOHR, rtol=1e-6)
    assert "the run was cut off, so its last step is left out (1 frame: 1)." in told
    with pytest.raises(FormatError, match=r"pw\.x that ended in its first step"):
        read(tmp_path, [*start(), *scf(-15.8), *forces()[:3]])


def test_cells_that_relax_and_their_stress_are_those_of_the_step(tmp_path):
    """Pressures are positive where a crystal is compressed, stresses where it is stretched."""
    stress = ["     Computing stress (Cartesian axis) and pressure", ""]
    stress += ["          total   stress  (Ry/bohr**3)                   (kbar)     P=     73.55"]
    stress += ["   0.00100000   0.00010000   0.00020000       147.11       14.71       29.42",
               "   0.00010000   0.00050000   0.00030000        14.71       73.55       44.13",
               "   0.00020000   0.00030000   0.00000000        29.42       44.13        0.00", ""]  # fmt: skip
    new = ["CELL_PARAMETERS (alat= 10.00000000)", "   1.010000000   0.000000000   0.000000000",
           "   0.000000000   1.000000000   0.000000000", "   0.000000000   0.000000000   1.000000000"]  # fmt: skip
    crystal = ["", "ATOMIC_POSITIONS (crystal)", "Si 0.0 0.0 0.0", "Si 0.25 0.25 0.25", ""]
    lines = [*start(), *scf(-15.8), *forces(), *stress, *new, *crystal, *scf(-15.81), *forces(), *stress]
    frames, _ = read(tmp_path, [*lines, "Begin final coordinates", *new, *crystal, "End final coordinates", *DONE])
    np.testing.assert_allclose([atoms.cell[0, 0] for atoms in frames], [10 * BOHR, 10.1 * BOHR], rtol=1e-7)
    np.testing.assert_allclose(frames[1].positions[1], np.array([2.525, 2.5, 2.5]) * BOHR, rtol=1e-7)
    for atoms in frames:
        expected = -np.array([1e-3, 5e-4, 0, 3e-4, 2e-4, 1e-4]) * RYDBERG / BOHR**3
        np.testing.assert_allclose(atoms.get_stress(), expected, rtol=1e-9)


def test_what_is_printed_of_bands_moments_and_dipoles_does_not_matter(tmp_path):
    more = ["     ------ SPIN UP ------------", "          k = 0.0000 0.0000 0.0000 (   200 PWs)   bands (ev):"]
    more += ["********", "     the spin up/dw Fermi energies are    6.2  6.1 ev"]
    more += [
        "     Magnetic moment per site  (integrated on spheres)",
        "     Dipole               0.1 au    0.25 Debye",
    ]
    frames, _ = read(tmp_path, [*start(), *scf(-15.8), *more, *forces(), *DONE])
    assert energies(frames) == [-15.8]


def test_runs_of_two_functionals_in_one_file_are_a_question(tmp_path):
    pbe = [*start("     Exchange-correlation= PBE"), *scf(-15.8), *forces()]
    hse = [*start("     Exchange-correlation= HSE", "     EXX-fraction              =        0.25")]
    hse += [*hybrid(-15.5, -15.9), *forces()]
    with pytest.raises(KeysError, match="frame 0 of PBE, frame 1 of HSE"):
        read(tmp_path, [*pbe, *hse, *DONE])
    for index, expected in (("0", -15.8), ("1", -15.9)):
        assert energies(read(tmp_path, [*pbe, *hse, *DONE], index=index)[0]) == [expected]
