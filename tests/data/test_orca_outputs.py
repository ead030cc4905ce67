"""Does each structure of ORCA get its own energy and gradient, in jobs, scans, dynamics and derivatives?"""

from __future__ import annotations

from pathlib import Path

import pytest
from frames import read_output

from mlpot.data.h5md import FormatError, KeysError
from mlpot.units import BOHR, HARTREE

BANNER = ["                                 * O   R   C   A *", ""]
END = ["", "                             ****ORCA TERMINATED NORMALLY****", "TOTAL RUN TIME: 0 days 0 hours"]
GRADIENT = ((0.0, 0.0, 0.02), (0.0, 0.01, -0.01), (0.0, -0.01, -0.01))
TITLE = "CARTESIAN GRADIENT"


def keywords(*lines: str) -> list[str]:
    return [f"|  {k}> {line}" for k, line in enumerate(lines, start=1)]


def structure(height: float) -> list[str]:
    rule = "-" * 33
    rows = [f"  O      0.000000      0.000000    {height:.6f}"]
    rows += [f"  H      0.000000     {side}0.757000     -0.476000" for side in (" ", "-")]
    state = [
        " Total Charge           Charge          ....    0",
        " Multiplicity           Mult            ....    1",
    ]
    return [rule, "CARTESIAN COORDINATES (ANGSTROEM)", rule, *rows, "", "CARTESIAN COORDINATES (A.U.)", "", *state]


def energy(value: float, remark: str = "") -> list[str]:
    rule = "-------------------------   --------------------"
    return ["", rule, f"FINAL SINGLE POINT ENERGY   {value:18.12f}{remark}", rule]


def gradient(scale: float = 1.0, title: str = TITLE) -> list[str]:
    head = [title, "-" * len(title)] + ([""] if title == TITLE else [])
    rows = [[f"{scale * g:14.9f}" for g in row] for row in GRADIENT]
    if "MP2" in title:
        return [head[1], *head, *(f"{k:3d}: " + " ".join(row) for k, row in enumerate(rows)), ""]
    return [*head, *(f"{k + 1:4d}   {'OHH'[k]}   :  " + " ".join(row) for k, row in enumerate(rows)), ""]


def step(height: float, value: float, scale: float) -> list[str]:
    return [*structure(height), *energy(value), *gradient(scale)]


def job(number: int) -> list[str]:
    return ["", f"          $$$$$$$$$$$$$$$$  JOB NUMBER  {number} $$$$$$$$$$$$$$", ""]


def read(tmp_path: Path, lines: list[str], **said):
    return read_output(tmp_path / "job.out", lines, **said)


def contents(frames) -> list[tuple[float, float, float | None]]:
    """Height of the oxygen, energy in hartree, and how often its force is that of `GRADIENT`."""
    found = []
    for atoms in frames:
        force = atoms.calc.results.get("forces")
        scale = None if force is None else round(force[0, 2] / (-0.02 * HARTREE / BOHR), 6)
        found.append((atoms.positions[0, 2], round(atoms.get_potential_energy() / HARTREE, 6), scale))
    return found


def test_each_job_of_a_file_has_its_own_structure_energy_and_gradient(tmp_path):
    text = [
        *BANNER,
        *keywords("! PBE def2-SVP EnGrad", "* xyz 0 1", "*", "$new_job", "! PBE def2-SVP TightSCF EnGrad"),
    ]
    text += [*job(1), *step(0.10, -76.4, 1), *job(2), *step(0.15, -76.3, 2), *END]
    frames, told = read(tmp_path, text)
    assert contents(frames) == [(0.10, -76.4, 1.0), (0.15, -76.3, 2.0)]
    assert len(told) == 1


def test_jobs_of_two_methods_are_a_question(tmp_path):
    text = [*BANNER, *keywords("! PBE D3BJ def2-SVP Opt", "$new_job", "! DLPNO-CCSD(T) def2-TZVP TightSCF")]
    text += [*job(1), *step(0.10, -76.4, 1), *job(2), *structure(0.10), *energy(-76.6), *END]
    with pytest.raises(KeysError, match=r"frame 0 of d3bj def2-svp pbe, frame 1 of def2-tzvp dlpno-ccsd\(t\)"):
        read(tmp_path, text)
    assert contents(read(tmp_path, text, index="0:1")[0]) == [(0.10, -76.4, 1.0)]


def test_two_files_one_behind_the_other_are_two_jobs(tmp_path):
    first = [*BANNER, *keywords("! PBE def2-SVP EnGrad"), *step(0.10, -76.4, 1), *END]
    frames, _ = read(tmp_path, [*first, *BANNER, *keywords("! PBE def2-SVP EnGrad"), *step(0.15, -76.3, 2), *END])
    assert contents(frames) == [(0.10, -76.4, 1.0), (0.15, -76.3, 2.0)]
    with pytest.raises(KeysError, match="several methods"):
        read(tmp_path, [*first, *BANNER, *keywords("! BLYP def2-SVP EnGrad"), *step(0.15, -76.3, 2), *END])


def test_a_scan_and_dynamics_give_all_their_structures(tmp_path):
    scan = [line for k in range(3) for line in (*structure(0.1 * k), *energy(-76.0 - 0.1 * k))]
    frames, _ = read(tmp_path, [*BANNER, *scan, *END])
    assert contents(frames) == [(0.0, -76.0, None), (0.1, -76.1, None), (0.2, -76.2, None)]
    dynamics = [line for k in range(3) for line in step(0.1 * k, -76.0 - 0.1 * k, k + 1)]
    frames, _ = read(tmp_path, [*BANNER, *dynamics, *END])
    assert contents(frames) == [(0.0, -76.0, 1.0), (0.1, -76.1, 2.0), (0.2, -76.2, 3.0)]


def test_a_numerical_gradient_belongs_to_the_structure_that_is_displaced(tmp_path):
    moved = ["         << Calculating on displaced geometry  1 (of  18) >>", *step(0.101, -76.399, 5)]
    text = [
        *BANNER,
        *structure(0.10),
        *energy(-76.4),
        *moved,
        *gradient(1, "CARTESIAN GRADIENT (NUMERICAL)"),
        *END,
    ]
    frames, told = read(tmp_path, text)
    assert contents(frames) == [(0.10, -76.4, 1.0)]
    assert "displaced for a numerical derivative left out" in told[1]
    frequencies = [*step(0.10, -76.4, 1), *moved, "VIBRATIONAL FREQUENCIES", *step(0.2, -76.2, 2)]
    assert contents(read(tmp_path, [*BANNER, *frequencies, *END])[0]) == [(0.10, -76.4, 1.0), (0.2, -76.2, 2.0)]


def test_the_gradient_of_mp2_is_that_of_its_energy(tmp_path):
    text = [*structure(0.10), *gradient(7), *energy(-76.4), *gradient(1, "The final MP2 gradient"), *END]
    assert contents(read(tmp_path, [*BANNER, *text])[0]) == [(0.10, -76.4, 1.0)]


def test_what_a_population_analysis_would_print_is_not_needed(tmp_path):
    """ASE multiplies the center of mass with a charge that is not there."""
    text = [*step(0.10, -76.4, 1), "The origin for moment calculation is the CENTER OF MASS  = ( 0.0, -0.3  0.1)",
            "Total Dipole Moment    :      0.00000       0.00000       0.81215"]  # fmt: skip
    assert contents(read(tmp_path, [*BANNER, *text, *END])[0]) == [(0.10, -76.4, 1.0)]


def test_energies_without_coordinates_are_left_out_and_told(tmp_path):
    """MiniPrint prints the coordinates once."""
    text = [*BANNER, *step(0.10, -76.4, 1), *energy(-76.41), *gradient(2), *energy(-76.42), *gradient(3), *END]
    frames, told = read(tmp_path, text)
    assert contents(frames) == [(0.10, -76.4, 1.0)]
    assert any("no coordinates are printed left out" in line for line in told)
    with pytest.raises(FormatError, match="prints energies and no coordinates with them"):
        read(tmp_path, [*BANNER, *energy(-76.41), *gradient(2), *END])


def test_a_second_state_of_one_structure_counts(tmp_path):
    """Broken symmetry: the high spin comes first."""
    text = [*BANNER, *structure(0.10), *energy(-76.3), *energy(-76.4), *gradient(1), *END]
    assert contents(read(tmp_path, text)[0]) == [(0.10, -76.4, 1.0)]


def test_one_step_of_a_relaxation_may_fail(tmp_path):
    bad = [*structure(0.2), "SCF NOT CONVERGED AFTER 125 CYCLES", *energy(-76.1), *gradient(2)]
    text = [*BANNER, *step(0.1, -76.4, 1), *bad, *step(0.3, -76.2, 3), *END]
    assert [height for height, *_ in contents(read(tmp_path, text)[0])] == [0.1, 0.3]
