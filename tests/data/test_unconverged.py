"""Are frames whose self-consistency failed found in what programs print, named by number, and left out?"""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from outputs import FIRST, WRITERS, aims, gaussian, orca, steps_of, vasprun

from mlpot.data.h5md import FormatError, LabelError
from mlpot.data.sources.convert import convert
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading

GOOD = [(True,), (True, False, True, True), (False, True, False), (True, True, False)]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("good", GOOD, ids=str)
def test_frames_that_did_not_converge_are_left_out_and_named(tmp_path, kind, good):
    path = tmp_path / "output"
    path.write_text(WRITERS[kind](steps_of(FIRST[kind], good)))
    source = Source(path, Reading(format=kind))
    out = [k for k, converged in enumerate(good) if not converged]
    assert [k for k, _ in source.numbered()] == [k for k in range(len(good)) if k not in out]
    named = [line for line in source.report.lines() if line.endswith(f": {', '.join(map(str, out))}).")]
    assert len(named) == bool(out)
    assert all("--keep-unconverged takes such frames" in line for line in named)
    kept = list(Source(path, Reading(format=kind, keep_unconverged=True)).numbered())
    assert [k for k, _ in kept] == list(range(len(good)))
    assert all(set(atoms.calc.results) >= {"energy", "forces"} for _, atoms in kept)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_run_that_never_converged_is_refused(tmp_path, kind):
    path = tmp_path / "output"
    path.write_text(WRITERS[kind](steps_of(FIRST[kind], (False,))))
    with pytest.raises(LabelError, match=r"no frame that converged: of frame 0, its .*--keep-unconverged"):
        convert(path, tmp_path / "set.h5", format=kind)
    assert [p.name for p in tmp_path.iterdir()] == ["output"]


def test_structures_alone_need_no_convergence(tmp_path):
    path = tmp_path / "vasprun.xml"
    path.write_text(vasprun(steps_of(-4.0, (False, True))))
    assert len(list(Source(path, Reading(labels=False)).frames())) == 2


def test_a_second_attempt_at_self_consistency_counts(tmp_path):
    """Gaussian's XQC: the first procedure fails, the quadratic one converges, for the same geometry."""
    text = gaussian([(-1.1, True)])
    failed = (
        " >>>>>>>>>> Convergence criterion not met.\n SCF Done:  E(RPBE) =  -1.000000000     A.U. after  129\n"
    )
    path = tmp_path / "xqc.log"
    path.write_text(text.replace(" SCF Done:", f"{failed} SCF Done:"))
    assert len(list(Source(path).frames())) == 1
    path.write_text(
        gaussian([(-1.1, True), (-1.2, True)], end=" Error termination request processed by link 9999.")
    )
    assert len(list(Source(path).frames())) == 2, "an optimization that needs more steps"
    path.write_text(gaussian([(-1.1, True), (-1.2, True)], end=" Error termination via Lnk1e in /g16/l703.exe at"))
    source = Source(path)
    assert [k for k, _ in source.numbered()] == [0]
    assert "the run ended in an error before the frame was complete" in source.report.lines()[1]


def test_what_orca_says_behind_an_energy_is_no_energy(tmp_path):
    path = tmp_path / "orca.out"
    path.write_text(orca([(-1.1, True), (-1.2, False)]).replace("SCF not", "Wavefunction not"))
    assert [k for k, _ in Source(path).numbered()] == [0]
    (_, last) = Source(path, Reading(keep_unconverged=True)).frames()
    assert last.get_potential_energy() == pytest.approx(-1.2 * ase.units.Hartree)


def test_what_a_run_of_orca_did_not_finish_is_told(tmp_path):
    path = tmp_path / "orca.out"
    died = "SCF NOT CONVERGED AFTER 125 CYCLES\n ORCA finished by error termination in SCF\n"
    path.write_text(orca([(-1.1, True), (-1.2, True)]).replace("****ORCA TERMINATED NORMALLY****", died))
    source = Source(path)
    assert [k for k, _ in source.numbered()] == [0]
    assert "the run did not end normally, so its last step is left out (1 frame: 1)." in source.report.lines()


def test_outputs_are_known_under_any_name(tmp_path):
    for kind, writer in WRITERS.items():
        path = tmp_path / f"{kind}.renamed"
        path.write_text(writer(steps_of(FIRST[kind], (True, True))))
        if kind != "vasp-out":
            assert Source(path).kind == kind
            assert len(list(Source(path).frames())) == 2


def test_a_run_of_fhi_aims_that_was_cut_off_gives_its_whole_steps(tmp_path):
    path = tmp_path / "aims.out"
    steps = steps_of(-31.5, (True,) * 4)
    path.write_text(aims(steps, whole=False))
    source = Source(path)
    assert [atoms.get_potential_energy() for atoms in source.frames()] == [energy for energy, _ in steps[:3]]
    assert "the run was cut off, so its last step is left out (1 frame: 3)." in source.report.lines()
    path.write_text(aims(steps[:1], whole=False))
    with pytest.raises(FormatError, match="ended in its first step, so it has no whole frame"):
        list(Source(path).frames())


@pytest.mark.parametrize("kind", ["vasp-out", "orca-output", "gaussian-out"])
def test_frames_are_counted_from_the_end_of_the_file_and_others_told_of_no_more(tmp_path, kind):
    """An index counts frames of the file, those that did not converge among them."""
    path = tmp_path / "output"
    path.write_text(WRITERS[kind](steps_of(FIRST[kind], (True, False, True, True))))
    for index, expected, n_out in (("-1", [3], 0), ("-2:", [2, 3], 0), ("-3:-1", [2], 1), ("-4", [0], 0)):
        source = Source(path, Reading(format=kind, index=index))
        assert [k for k, _ in source.numbered()] == expected
        assert sum("did not converge" in line or "NELM" in line for line in source.report.lines()) == n_out


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_what_is_left_of_an_output_that_was_cut_off_is_true(tmp_path, kind):
    """Frames are those of the whole, perhaps without labels at their end."""
    text, path = WRITERS[kind](steps_of(FIRST[kind], (True, True))), tmp_path / "output"
    path.write_text(text)
    whole = list(Source(path, Reading(format=kind)).frames())
    for cut in range(len(text) // 3, len(text), 41):
        path.write_text(text[:cut])
        try:
            found = list(Source(path, Reading(format=kind)).frames())
        except (FormatError, LabelError):
            continue
        assert len(found) <= len(whole)
        for ours, theirs in zip(found, whole, strict=False):
            np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-8)
            results = {} if ours.calc is None else ours.calc.results
            for key, value in results.items():
                np.testing.assert_array_equal(value, theirs.calc.results[key], err_msg=f"{key}, cut at {cut}")
