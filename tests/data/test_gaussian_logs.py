"""Does each structure of a Gaussian log get the energy whose derivative its forces are, of all jobs of the log?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from frames import read_output

from mlpot.data.h5md import FormatError, KeysError
from mlpot.data.sources.read import Source
from mlpot.units import BOHR, HARTREE

RULE = " " + "-" * 69
WATER = ((8, 0.0, 0.0, 0.1178), (1, 0.0, 0.7566, -0.4763), (1, 0.0, -0.7566, -0.4763))
STRETCHED = ((8, 0.0, 0.0, 0.1478), *WATER[1:])
GRADIENT = ((0.0, 0.0, 0.02), (0.0, 0.01, -0.01), (0.0, -0.01, -0.01))
END = [r" 1\1\GINC-NODE\FOpt\RB3LYP\6-31G(d)\H2O1\USER\04-Apr-2018\0\\# b3lyp\\Water\\0,1\O\\@", "",
       " Normal termination of Gaussian 16 at Wed Apr  4 10:15:35 2018."]  # fmt: skip


def orientation(kind: str, structure) -> list[str]:
    rows = [
        f"{k:7d} {z:10d}           0     {x:12.6f}{y:12.6f}{h:12.6f}"
        for k, (z, x, y, h) in enumerate(structure, start=1)
    ]
    head = [" Center     Atomic      Atomic             Coordinates (Angstroms)", " Number     Number       Type"]
    return [
        f"                         {kind} orientation:                          ",
        RULE,
        *head,
        RULE,
        *rows,
        RULE,
    ]


def forces(structure=WATER, scale: float = 1.0) -> list[str]:
    rows = [f"{k + 1:7d} {z:8d}     " + "".join(f"{-scale * g:15.9f}" for g in GRADIENT[k])
            for k, (z, *_) in enumerate(structure)]  # fmt: skip
    head = [" Center     Atomic                   Forces (Hartrees/Bohr)", " Number     Number              X"]
    return [" ***** Axes restored to original set *****", RULE, *head, RULE, *rows, RULE]


def scf(energy: float, name: str = "RB3LYP") -> list[str]:
    return [f" SCF Done:  E({name}) =  {energy:.10f}     A.U. after    9 cycles"]


def job(
    route: str, *parts: list[str], basis: str = "6-31G(d)", charge: int = 0, multiplicity: int = 1
) -> list[str]:
    lines = [" Entering Gaussian System, Link 0=g16", RULE, f" {route}", RULE]
    lines += [f" Charge = {charge:2d} Multiplicity = {multiplicity}", f" Standard basis: {basis} (6D, 7F)"]
    return [*lines, *(line for part in parts for line in part), *END]


def both(structure) -> list[str]:
    return [*orientation("Input", structure), *orientation("Standard", structure)]


def read(tmp_path: Path, lines: list[str], **said):
    return read_output(tmp_path / "job.log", lines, **said)


def energies(frames) -> list[float]:
    return [round(atoms.get_potential_energy() / HARTREE, 6) for atoms in frames]


@pytest.mark.parametrize(
    ("route", "after", "expected"),
    [
        ("#p mp3/6-31g(d)", [" E2 =    -0.189D+00 EUMP2 =    -0.76189D+02",
                             " E3=       -0.10518803D-01        EUMP3=      -0.76199500000D+02"], -76.1995),
        ("#p mp4/6-31g(d)", [" E2 =    -0.189D+00 EUMP2 =    -0.76189D+02",
                             " E4(DQ)=   -0.31002164D-02        UMP4(DQ)=   -0.761900000D+02",
                             " E4(SDTQ)= -0.32671217D-02        UMP4(SDTQ)= -0.762125000D+02"], -76.2125),
        ("#p b2plyp/6-31g(d)", [" E2(B2PLYP) =    -0.99D-01 E(B2PLYP) =    -0.76310000000D+02"], -76.31),
        ("#p qcisd(t)/6-31g(d)", [" Wavefunction amplitudes converged. E(Corr)=     -76.200000000",
                                  " QCISD(T)= -0.76205000000D+02"], -76.205),
        ("#p ccsd(t)/6-31g(d)", [" Wavefunction amplitudes converged. E(Corr)=     -76.200000000",
                                 " CCSD(T)= -0.76207000000D+02"], -76.207),
        ("#p opt td b3lyp/6-31g(d)", [" This state for optimization and/or second-order correction.",
                                      " Total Energy, E(TD-HF/TD-DFT) =  -75.700000000    "], -75.7),
        ("#p opt eomccsd/6-31g(d)", [" Total Energy, E(EOM-CCSD) =  -75.800000000    "], -75.8),
        ("#p oniom(b3lyp/6-31g(d):uff)", [" Energy=   0.0212345     NIter=   0.",
                                          " ONIOM: extrapolated energy =     -76.390000000000"], -76.39),
    ],
)  # fmt: skip
def test_the_energy_is_that_of_the_method_whose_forces_are_printed(tmp_path, route, after, expected):
    frames, _ = read(tmp_path, job(route, both(WATER), scf(-76.0, "RHF"), after, forces()))
    assert energies(frames) == [expected]
    np.testing.assert_allclose(frames[0].get_forces(), -np.array(GRADIENT) * HARTREE / BOHR, rtol=1e-12)


def test_an_excited_state_is_called_one_and_a_spectrum_leaves_the_ground_state(tmp_path):
    state = [" Total Energy, E(TD-HF/TD-DFT) =  -75.700000000"]
    _, told = read(tmp_path, job("# opt td", both(WATER), scf(-76.0), state, forces()))
    assert "energy and forces are those of an excited state, E(TD-HF/TD-DFT) (1 frame: 0)." in told
    frames, told = read(tmp_path, job("# td", both(WATER), scf(-76.0), state))
    assert energies(frames) == [-76.0]
    assert "that of the ground state" in told[1]


def test_forces_in_the_axes_of_the_input_are_not_given_to_atoms_in_others(tmp_path):
    """The standard orientation alone, as Gaussian 16 prints of a job without #p."""
    frames, told = read(tmp_path, job("# force", orientation("Standard", WATER), scf(-76.4), forces()))
    assert energies(frames) == [-76.4]
    assert "forces" not in frames[0].calc.results
    assert "nosymm" in told[1]
    frames, told = read(tmp_path, job("# force nosymm", orientation("Input", WATER), scf(-76.4), forces()))
    assert "forces" in frames[0].calc.results
    assert len(told) == 1


def test_all_jobs_of_a_log_are_read_and_what_is_printed_again_counts_once(tmp_path):
    """An optimization, the frequencies behind it in other axes, and another structure of a job of its own."""
    optimization = [*both(WATER), *scf(-76.4), *forces(), *both(STRETCHED), *scf(-76.41), *forces(scale=2)]
    route = " #N Geom=AllCheck Guess=TCheck SCRF=Check GenChk RB3LYP/6-31G(d) Freq"
    repeated = [*both(STRETCHED), RULE, route, RULE]
    repeated += [*orientation("Standard", STRETCHED), *scf(-76.4100000001), *forces(scale=2)]
    far = ((8, 0.0, 0.0, 0.2178), *WATER[1:])
    frames, told = read(
        tmp_path,
        [*job("# opt freq b3lyp/6-31g(d)", optimization, repeated),
         *job("# force b3lyp/6-31g(d)", both(far), scf(-76.3), forces(scale=3))],
    )  # fmt: skip
    assert energies(frames) == [-76.4, -76.41, -76.3]
    assert [atoms.positions[0, 2] for atoms in frames] == [0.1178, 0.1478, 0.2178]
    scales = [atoms.get_forces()[0, 2] / (-0.02 * HARTREE / BOHR) for atoms in frames]
    np.testing.assert_allclose(scales, [1, 2, 3])
    assert len(told) == 1


@pytest.mark.parametrize(
    ("route", "name", "basis", "expected"),
    [
        ("# pbe1pbe/6-31g(d)", "RPBE1PBE", "6-31G(d)", "frame 1 of PBE1PBE/6-31G(d)"),
        ("# b3lyp/cc-pvtz", "RB3LYP", "CC-pVTZ", "frame 1 of B3LYP/CC-pVTZ"),
        ("# b3lyp/6-31g(d) em=gd3bj", "RB3LYP", "6-31G(d)", "frame 1 of B3LYP/6-31G(d)/em=gd3bj"),
        ("# b3lyp/6-31g(d) scrf=(smd,solvent=water)", "RB3LYP", "6-31G(d)", "scrf=(smd,solvent=water)"),
    ],
)
def test_energies_of_two_methods_in_one_log_are_a_question(tmp_path, route, name, basis, expected):
    first = job("# opt b3lyp/6-31g(d)", both(WATER), scf(-76.4), forces())
    second = job(route, both(WATER), scf(-76.5, name), forces(), basis=basis)
    with pytest.raises(KeysError, match="energies of several methods") as caught:
        read(tmp_path, [*first, *second])
    assert expected in str(caught.value)
    assert "--index 0:1 or --index 1:" in str(caught.value)
    assert energies(read(tmp_path, [*first, *second], index="1:")[0]) == [-76.5]
    assert len(read(tmp_path, [*first, *second], labels=False)[0]) == 2


def test_restricted_and_unrestricted_spins_are_one_method(tmp_path):
    first = job("# b3lyp/6-31g(d)", both(WATER), scf(-76.4), forces())
    second = job("# b3lyp/6-31g(d)", both(STRETCHED), scf(-76.1, "UB3LYP"), forces(), charge=1, multiplicity=2)
    frames, told = read(tmp_path, [*first, *second])
    assert energies(frames) == [-76.4, -76.1]
    assert [atoms.info["charge"] for atoms in frames] == [0, 1]
    assert any("Charge 0 in 1 frame, 1 in 1 frame" in line for line in told)


def test_layers_of_oniom_are_no_structures(tmp_path):
    """Gaussian prints the model, with its link atoms, between the whole system and its forces."""
    model = WATER[:2]
    parts = [" ONIOM: generating point  1 -- low level on model system.", *orientation("Input", model)]
    parts += [
        " Energy=   0.0200000     NIter=   0.",
        *forces(model),
        " ONIOM: generating point  3 -- low level on real",
    ]
    lines = [*both(WATER), *parts, " ONIOM: extrapolated energy =     -76.390000000000", *forces(scale=2)]
    frames, _ = read(tmp_path, job("#p opt oniom(b3lyp/6-31g(d):uff)", lines))
    assert energies(frames) == [-76.39]
    assert len(frames[0]) == 3
    assert frames[0].get_forces()[0, 2] == pytest.approx(-0.04 * HARTREE / BOHR)


def test_parts_of_a_counterpoise_correction_are_refused(tmp_path):
    ghosts = [(0, *WATER[0][1:]), *WATER[1:]]
    whole, part = (
        "Counterpoise: doing full-system calculation",
        "Counterpoise: doing DCBS calculation for fragment  1",
    )
    lines = job("# counterpoise=2", [whole], both(WATER), scf(-76.4), [f" {part}"], both(ghosts), scf(-1.1))
    with pytest.raises(FormatError, match="counterpoise correction, whose parts have ghost atoms"):
        read(tmp_path, lines)


def test_a_log_that_was_cut_off_gives_its_whole_steps(tmp_path):
    whole = [*both(WATER), *scf(-76.4), *forces()]
    lines = job("# opt", whole, both(STRETCHED), scf(-76.41), forces())
    n = len(lines) - len(END)
    for stop, expected in ((n, 2), (n - 3, 1), (n - 10, 1), (n - 12, 1)):
        frames, told = read(tmp_path, lines[:stop])
        assert energies(frames) == [-76.4, -76.41][:expected]
        assert ("the run was cut off, so its last step is left out (1 frame: 1)." in told) == (expected == 1)


def test_titles_may_be_in_any_encoding_and_routes_of_titles_are_none(tmp_path):
    path = tmp_path / "job.log"
    lines = job("# force", [" # scrf in title"], both(WATER), scf(-76.4), forces())
    path.write_bytes("\n".join([*lines, ""]).encode().replace(b"title", b"\xe9\xe9"))
    (atoms,) = Source(path).frames()
    assert atoms.get_forces()[0, 2] == pytest.approx(-0.02 * HARTREE / BOHR)


def test_vectors_of_a_cell_are_none_of_its_atoms(tmp_path):
    chain = [*WATER, (-2, 2.5, 0.0, 0.0)]
    frames, _ = read(tmp_path, job("# force pbepbe", orientation("Input", chain), scf(-76.4), forces()))
    assert len(frames[0]) == 3
    assert frames[0].pbc.tolist() == [True, False, False]
    np.testing.assert_allclose(frames[0].cell[0], [2.5, 0, 0])
