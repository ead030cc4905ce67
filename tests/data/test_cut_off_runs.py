"""A run that was cut off, anywhere: whole steps are read as of the whole run, and the rest is told."""

from __future__ import annotations

import gzip
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from outputs import aims, espresso, outcar, vasprun

from mlpot.data.errors import FormatError
from mlpot.data.sources.read import Source

STEPS = [(-4.0, True), (-4.5, True), (-4.25, True)]
TOLD = "the run was cut off, so its last step is left out (1 frame: {})."
VASP = {"OUTCAR": (outcar(STEPS), "  FREE ENERGIE"), "vasprun.xml": (vasprun(STEPS), "<calculation>")}


def energies(path: Path, text: str) -> tuple[list[float], list[str]]:
    path.write_text(text)
    source = Source(path)
    return [atoms.get_potential_energy() for atoms in source.frames()], source.report.lines()


@pytest.mark.parametrize("name", VASP)
def test_every_whole_step_of_vasp_is_read_wherever_its_output_ends(tmp_path, name):
    text, begin = VASP[name]
    ends = {"OUTCAR": "energy(sigma->0) =     -4.50000000\n", "vasprun.xml": "</calculation>\n"}
    second = text.index(
        ends[name], text.index("-4.5") if name == "OUTCAR" else text.index("-4.5 </i></energy>\n<")
    )
    second += len(ends[name])
    begins = text.index(begin, second)
    for end in range(begins + len(begin) + 3, len(text.rstrip()) - len("</modeling>") - 20, 13):
        found, told = energies(tmp_path / name, text[:end])
        if len(found) < 3:
            assert found == [-4.0, -4.5], text[end - 40 : end]
            assert TOLD.format(2) in told
    assert energies(tmp_path / name, text)[0] == [-4.0, -4.5, -4.25]
    assert "cut off" not in "".join(energies(tmp_path / name, text)[1])


def test_a_last_step_without_its_energies_does_not_take_the_whole_steps_along(tmp_path):
    text = VASP["OUTCAR"][0]
    for words in ("FREE ENERGIE", "free  energy   TOTEN", "energy  without", "energy(sigma->0)"):
        at = text.rindex(words)
        for end in (at, at + 5, at + len(words), at + len(words) + 8):
            found, told = energies(tmp_path / "OUTCAR", text[:end])
            assert found == [-4.0, -4.5]
            assert TOLD.format(2) in told


def test_a_run_of_vasp_without_a_whole_step_says_so(tmp_path):
    text = VASP["OUTCAR"][0]
    with pytest.raises(FormatError, match="ended in its first step, so it has no whole frame"):
        energies(tmp_path / "OUTCAR", text[: text.index("free  energy")])


def test_a_packed_output_is_read_as_the_plain_one(tmp_path):
    text = VASP["OUTCAR"][0]
    path = tmp_path / "OUTCAR.gz"
    path.write_bytes(gzip.compress(text[: text.rindex("free  energy")].encode()))
    assert [atoms.get_potential_energy() for atoms in Source(path).frames()] == [-4.0, -4.5]


def test_runs_of_one_system_behind_each_other_are_one_and_of_two_are_refused(tmp_path):
    text = " vasp.6.4.2\n" + VASP["OUTCAR"][0]
    assert energies(tmp_path / "OUTCAR", text + text)[0] == 2 * [-4.0, -4.5, -4.25]
    with pytest.raises(FormatError, match=r"runs of two systems behind each other.*mlpot data merge"):
        energies(tmp_path / "OUTCAR", text + text.replace("PAW_PBE He", "PAW_PBE Ne"))


def test_a_last_step_of_espresso_without_forces_is_left_out_where_others_have_them(tmp_path):
    text = espresso([(-5.5, True), (-5.25, True), (-5.0, True)])
    end = text.rindex("     Forces acting")
    found, told = energies(tmp_path / "pw.out", text[:end])
    assert len(found) == 2
    assert TOLD.format(2) in told
    assert len(energies(tmp_path / "pw.out", text[:end] + "   JOB DONE.\n")[0]) == 3, (
        "a run that ended computed none"
    )


def of_cp2k(folder: Path) -> dict[str, str]:
    """Positions, forces and cells of three steps of a helium pair, in a cell that changes."""
    rng, texts = (
        np.random.default_rng(0),
        {"water-pos-1.xyz": "", "water-frc-1.xyz": "", "water-1.cell": "# Step\n"},
    )
    for k in range(3):
        for name in ("water-pos-1.xyz", "water-frc-1.xyz"):
            rows = [f"He {' '.join(f'{x:18.10f}' for x in row)}\n" for row in rng.normal(size=(2, 3)) + [[0], [3]]]
            texts[name] += f"       2\n i = {k}, time = {k / 2}, E = {-4.0 - k:.10f}\n{''.join(rows)}"
        cell = " ".join(f"{x:.10f}" for x in (9 * np.eye(3) + 0.01 * k).ravel())
        texts["water-1.cell"] += f"{k} {k / 2} {cell} {729 + k:.10f}\n"
    for name, text in texts.items():
        (folder / name).write_text(text)
    return texts


@pytest.mark.parametrize("name", ["water-pos-1.xyz", "water-frc-1.xyz", "water-1.cell"])
def test_every_whole_step_of_cp2k_is_read_wherever_one_of_its_files_ends(tmp_path, name):
    texts, path = of_cp2k(tmp_path), tmp_path / "water-pos-1.xyz"
    whole = list(Source(path).frames())
    text = texts[name]
    third = text.rindex("\n2 1." if name.endswith("cell") else "       2\n") + (9 if name.endswith("xyz") else 1)
    assert len(whole) == 3
    for end in range(third + 1, len(text) - 1, 3):
        (tmp_path / name).write_text(text[:end])
        source = Source(path)
        frames = list(source.frames())
        assert len(frames) == (3 if name == "water-frc-1.xyz" else 2), text[end - 20 : end]
        assert all("forces" in atoms.calc.results for atoms in frames[:2])
        assert "forces" not in frames[-1].calc.results or len(frames) == 2
        for atoms, true in zip(frames, whole, strict=False):
            np.testing.assert_array_equal(atoms.positions, true.positions)
            np.testing.assert_array_equal(atoms.cell.array, true.cell.array)
        assert any("(1 frame: 2)" in line for line in source.report.lines())


def test_whole_frames_of_a_trajectory_of_ase_that_was_cut_off_are_read_and_none_is_skipped(tmp_path):
    path, frames = tmp_path / "run.traj", []
    for k in range(4):
        atoms = Atoms("He2", positions=[[0, 0, 0], [0, 0, 3.0 + k]])
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - k, forces=np.full((2, 3), 0.1 * k))
        frames.append(atoms)
    ase.io.write(path, frames)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    source = Source(path)
    assert [atoms.get_potential_energy() for atoms in source.frames()] == [-1.0, -2.0, -3.0]
    assert "left out, as the file ends before the frame does (1 frame: 3)." in source.report.lines()
    second = whole.index(np.float64(4.0).tobytes())
    begin = whole.index(b'{"version', second) if b'{"version' in whole[second:] else whole.index(b'{"', second)
    path.write_bytes(whole[:begin] + b"#" * 30 + whole[begin + 30 :])
    with pytest.raises(FormatError, match="could not read frame 1"):
        list(Source(path).frames())


def relaxation_of_aims(n_steps: int, *tail: str) -> str:
    """A relaxation by FHI-aims up to where its next structure would stand, and what follows."""
    lines = aims([(-31.0, True)], whole=False).splitlines()
    begin = next(k for k, line in enumerate(lines) if "Begin self-consistency loop" in line)
    end = next(k for k, line in enumerate(lines) if "as used in the preceding" in line)
    text = [
        line.replace("Molecular dynamics time step = 0.001 ps", "Geometry relaxation: BFGS")
        for line in lines[:begin]
    ]
    for k in range(n_steps):
        step = "\n".join(lines[begin:end]).replace("-3.1", f"-3.1{k}")
        text += [step.replace("Initialization.", "Re-initialization.") if k else step]
        text += ["", "  Geometry optimization: Attempting to predict improved coordinates.", ""]
        if k < n_steps - 1:
            text += [
                "  Present geometry is not yet converged.",
                "",
                "  Updated atomic structure:",
                "    x [A]   y [A]",
            ]
            text += [f"            atom         0.0  0.0  {z}  H" for z in (0.0, 0.76 + 0.01 * k)] + [""]
    return "\n".join([*text, *tail, ""])


CONVERGED = ("  Present geometry is converged.", "  Final atomic structure:", "       x [A]   y [A]   z [A]")
LEFT = "          Leaving FHI-aims."


@pytest.mark.parametrize(
    ("text", "n", "is_told"),
    [
        (relaxation_of_aims(3, *CONVERGED, LEFT), 3, False),
        (relaxation_of_aims(3, CONVERGED[0]), 3, False),
        (relaxation_of_aims(3, "          Begin self-consistency loop: Re-initialization."), 3, True),
        (aims([(-31.0, True), (-31.1, True)], whole=False) + LEFT + "\n", 2, False),
        (aims([(-31.0, True)], whole=False) + LEFT + "\n", 1, False),
    ],
    ids=["relaxed", "converged", "goes on", "dynamics", "one point"],
)
def test_a_run_of_aims_whose_account_of_times_was_cut_off_has_all_its_steps(tmp_path, text, n, is_told):
    found, told = energies(tmp_path / "aims.out", text)
    assert found == pytest.approx([-31.0 - 0.1 * k for k in range(n)])
    assert any("last step is left out" in line for line in told) == is_told
