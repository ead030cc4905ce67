"""Do several sources become one set with what each of them says, and only where their energies go together?"""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from mlpot.cli.data import data_app
from mlpot.data.check.survey import survey
from mlpot.data.h5md import KeysError, Reader, write
from mlpot.data.merge import MergeError, merge, references_of
from mlpot.data.sources.read import Source

ATOMS = {"H": -13.6, "C": -1030.0, "O": -2040.0}
OFFSET = {"H": -0.5, "C": 1.0, "O": 3.0}  # of another method


def frames_of(name: str, seed: int, n: int = 12, method: float = 0.0, lone: bool = False) -> list[Atoms]:
    """Rattled molecules, bound by 4 eV an atom, on a scale of energies that is moved by `method` offsets."""
    rng = np.random.default_rng(seed)
    frames = [molecule(name) for _ in range(n)] + [Atoms(s) for s in ("HCO" if lone else "")]
    for atoms in frames:
        bound = len(atoms) > 1
        atoms.positions += bound * rng.normal(scale=0.05, size=(len(atoms), 3))
        scale = sum(ATOMS[s] + method * OFFSET[s] for s in atoms.get_chemical_symbols())
        energy = scale - bound * (4.0 * len(atoms) + rng.normal(scale=0.1))
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=bound * rng.normal(size=(len(atoms), 3)))
    return frames


def put(path: Path, frames: list[Atoms]) -> Source:
    if path.suffix == ".h5":
        write(path, frames, card={})
    else:
        ase.io.write(path, frames)
    return Source(path)


def merged(path: Path, *sources: Source, **said) -> list[Atoms]:
    merge(sources, path, overwrite=True, **said)
    with Reader(path) as reader:
        return list(reader.frames())


def test_sources_of_one_method_become_one_set_with_their_names(tmp_path):
    water, ethanol = frames_of("H2O", 1), frames_of("CH3CH2OH", 2)
    ethanol[3].info["group"] = "hot"
    more = frames_of("CH3OH", 3)
    (tmp_path / "run").mkdir()
    sources = [
        put(tmp_path / "a.h5", water), put(tmp_path / "a.traj", more), put(tmp_path / "run" / "b.xyz", ethanol)
    ]  # fmt: skip
    frames = merged(tmp_path / "set.h5", *sources)
    assert [a.get_potential_energy() for a in frames] == pytest.approx(
        [a.get_potential_energy() for a in (*water, *more, *ethanol)]
    )
    families = [a.info["group"] for a in frames]
    assert families == ["a.h5"] * 12 + ["a.traj"] * 12 + ["b.xyz"] * 3 + ["b.xyz: hot"] + ["b.xyz"] * 8
    with Reader(tmp_path / "set.h5") as reader:
        assert reader.card["sources"] == "a.h5, a.traj, b.xyz"


def test_outputs_of_the_same_name_are_told_apart_by_their_folders(tmp_path):
    sources = []
    for k, name in enumerate(("run1", "run2")):
        (tmp_path / name).mkdir()
        sources.append(put(tmp_path / name / "set.xyz", frames_of("H2O", k)))
    assert {a.info["group"] for a in merged(tmp_path / "set.h5", *sources)} == {"run1/set.xyz", "run2/set.xyz"}
    with pytest.raises(KeysError, match="given twice"):
        merge([sources[0], sources[0]], tmp_path / "new.h5")
    with pytest.raises(KeysError, match="at least two"):
        merge(sources[:1], tmp_path / "new.h5")


@pytest.mark.parametrize("lone", [False, True])
def test_energies_of_two_methods_are_found_and_asked_about(tmp_path, lone):
    """N11."""
    a = put(tmp_path / "a.xyz", frames_of("CH3CH2OH", 1, lone=lone))
    b = put(tmp_path / "b.xyz", frames_of("CH3CH2OH", 2, method=1.0, lone=lone))
    words = (
        r"an isolated H has -13\.6000 eV in a\.xyz, -14\.1000 eV in b"
        if lone
        else r"energies of b\.xyz lie \+0\.\d+ eV/atom"
    )
    with pytest.raises(MergeError, match=words) as caught:
        merge([a, b], tmp_path / "set.h5")
    assert "--references fit" in str(caught.value)
    assert not (tmp_path / "set.h5").exists()


@pytest.mark.parametrize("how", ["atoms", "given", "fit"])
def test_references_put_two_methods_on_the_scale_of_the_first(tmp_path, how):
    plain = frames_of("CH3CH2OH", 2) + frames_of("H2O", 3) + frames_of("CH4", 4)
    moved = (
        frames_of("CH3CH2OH", 2, method=1.0) + frames_of("H2O", 3, method=1.0) + frames_of("CH4", 4, method=1.0)
    )
    lone = how == "atoms"
    first = frames_of("CH3OH", 1, lone=lone) + frames_of("H2O", 5) + frames_of("CH4", 6)
    a, b = (
        put(tmp_path / "a.xyz", first),
        put(tmp_path / "b.xyz", moved + (frames_of("H2O", 7, 0, 1.0, True) if lone else [])),
    )
    said = {"references": how}
    if how == "given":
        theirs = ",".join(f"{s}={e + OFFSET[s]}" for s, e in ATOMS.items())
        ours = ",".join(f"{s}={e}" for s, e in ATOMS.items())
        said = {"given": references_of([f"a.xyz:{ours}", f"b.xyz:{theirs}"])}
    frames = merged(tmp_path / "set.h5", a, b, **said)
    put_right = [f.get_potential_energy() for f in frames if f.info["group"] == "b.xyz" and len(f) > 1]
    wrong = np.subtract(put_right, [f.get_potential_energy() for f in plain])
    np.testing.assert_allclose(wrong, 0.0, atol=0.3 if how == "fit" else 1e-6)
    kept = merged(tmp_path / "kept.h5", a, b, references="keep")
    assert kept[-1].get_potential_energy() == pytest.approx(b and list(b.frames())[-1].get_potential_energy())


def test_other_molecules_of_one_method_are_no_other_method(tmp_path):
    """Dimethyl ether has the composition of ethanol and lies half an eV above it."""
    ether = frames_of("CH3OCH3", 2)
    for atoms in ether:
        atoms.calc.results["energy"] += 0.5
    sources = [put(tmp_path / "ethanol.xyz", frames_of("CH3CH2OH", 1)), put(tmp_path / "ether.xyz", ether)]
    assert len(merged(tmp_path / "set.h5", *sources)) == 24


def test_the_same_structure_with_another_energy_is_asked_about(tmp_path):
    """N11."""
    frames = frames_of("CH3CH2OH", 1)
    again = frames_of("CH3CH2OH", 1)
    again[2].calc.results["energy"] += 0.01
    a, b = put(tmp_path / "a.h5", frames), put(tmp_path / "b.h5", again)
    with pytest.raises(MergeError, match=r"1 structures stand in two.*\n  frame 2 of a\.h5 and frame 2 of b\.h5"):
        merge([a, b], tmp_path / "set.h5")
    assert len(merged(tmp_path / "set.h5", a, b, conflicts="keep")) == 24
    assert merge([a, b], tmp_path / "set.h5", conflicts="keep", overwrite=True).n_repeated == 11
    assert len(merged(tmp_path / "set.h5", a, b, conflicts="first")) == 23
    assert len(merged(tmp_path / "set.h5", a, b, conflicts="first", drop_duplicates=True)) == 12


def test_the_command_tells_what_it_did(tmp_path):
    put(tmp_path / "a.h5", frames_of("CH3CH2OH", 1, lone=True))
    put(tmp_path / "b.xyz", frames_of("CH3CH2OH", 2, method=1.0, lone=True))
    files = [str(tmp_path / name) for name in ("a.h5", "b.xyz", "set.h5")]
    out = CliRunner().invoke(data_app, ["merge", *files, "--references", "atoms"])
    assert out.exit_code == 0, out.exception
    assert "Energies of b.xyz changed by H +0.5000, C -1.0000, O -3.0000 eV an atom" in out.output
    assert "30 frames written to" in out.output
    assert isinstance(CliRunner().invoke(data_app, ["merge", *files]).exception, FileExistsError)
    assert isinstance(CliRunner().invoke(data_app, ["merge", *files[:2]]).exception, ValueError)


def test_references_are_complete_or_asked_for(tmp_path):
    a, b = put(tmp_path / "a.xyz", frames_of("H2O", 1)), put(tmp_path / "b.xyz", frames_of("H2O", 2))
    with pytest.raises(KeysError, match=r"isolated O of b\.xyz.*--reference b\.xyz:O=\.\.\."):
        merge([a, b], tmp_path / "s.h5", given=references_of(["a.xyz:H=-13,O=-430", "b.xyz:H=-13"]))
    with pytest.raises(KeysError, match=r"of \['c\.xyz'\], but the sources are a\.xyz, b\.xyz"):
        merge([a, b], tmp_path / "s.h5", given=references_of(["c.xyz:H=-13"]))
    for text in ("a.xyz", "a.xyz:H", "a.xyz:Xx=1", "a.xyz:H=low"):
        with pytest.raises(KeysError, match="is no reference"):
            references_of([text])


@pytest.mark.parametrize("how", ["fit", "atoms"])
def test_an_element_that_one_source_has_keeps_its_scale(how: str, tmp_path: Path) -> None:
    """Hydrogen of a second method is shifted, oxygen, which the first source lacks, is not, and hides nothing."""

    def known(atoms: Atoms, by: dict[str, float]) -> Atoms:
        atoms.calc = SinglePointCalculator(atoms, energy=sum(by[s] for s in atoms.symbols) - 0.1 * len(atoms))
        return atoms

    pbe, other = {"H": -13.6}, {"H": -12.6, "O": -430.0}
    hydrogen = [known(Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + 0.01 * k]]), pbe) for k in range(4)]
    water = [known(Atoms("OH2", [[0, 0, 0], [0.97 + 0.01 * k, 0, 0], [0, 0.97, 0]]), other) for k in range(4)]
    water += [known(Atoms("H2", [[0, 0, 0], [0, 0, 0.8 + 0.01 * k]]), other) for k in range(4)]
    lone = [Atoms(s) for s in "HO"]
    for atoms in lone:
        atoms.calc = SinglePointCalculator(atoms, energy=other[str(atoms.symbols)])
    first = Atoms("H")
    first.calc = SinglePointCalculator(first, energy=pbe["H"])
    for name, frames in (("a.h5", [*hydrogen, first]), ("b.h5", [*water, *lone])):
        write(tmp_path / name, frames, card={})
    out = merge([Source(tmp_path / "a.h5"), Source(tmp_path / "b.h5")], tmp_path / "both.h5", references=how)
    assert out.shifted["b.h5"] == pytest.approx({"H": -1.0}, abs=1e-6)
    with Reader(tmp_path / "both.h5") as reader:
        found = {str(a.symbols): a.get_potential_energy() for a in reader.frames(5)}
    assert found["O"] == pytest.approx(-430.0)
    assert found["OH2"] == pytest.approx(-430.0 - 2 * 13.6 - 0.3, abs=1e-6)


def test_a_cell_of_one_atom_is_no_isolated_atom(tmp_path: Path) -> None:
    """Of fcc metals the primitive cell has one atom, whose energy is that of the bulk."""

    def cells(spacing: float, shift: float) -> list[Atoms]:
        frames = [bulk("Cu", "fcc", a=spacing + 0.05 * k) for k in range(6)]
        for k, atoms in enumerate(frames):
            atoms.calc = SinglePointCalculator(
                atoms, energy=-3.7 + shift + 0.01 * (k - 2) ** 2, forces=np.zeros((1, 3))
            )
        return frames

    a, b = put(tmp_path / "a.h5", cells(3.6, 0.0)), put(tmp_path / "b.h5", cells(3.62, 0.003))
    assert len(merged(tmp_path / "set.h5", a, b)) == 12
    with pytest.raises(KeysError, match=r"No energy of an isolated Cu of a\.h5"):
        merge([a, b], tmp_path / "set.h5", references="atoms", overwrite=True)


def test_an_ion_is_no_reference_and_no_duplicate_of_its_atom(tmp_path: Path) -> None:
    water, more = frames_of("H2O", 1, lone=True), frames_of("H2O", 2, lone=True)
    proton, hydroxide = Atoms("H"), water[0].copy()
    proton.calc = SinglePointCalculator(proton, energy=-20.0)  # lower than the atom
    hydroxide.calc = SinglePointCalculator(hydroxide, energy=5.0)
    proton.info["charge"] = hydroxide.info["charge"] = -1
    a, b = put(tmp_path / "a.h5", water), put(tmp_path / "b.h5", [proton, hydroxide, *more])
    assert len(merged(tmp_path / "set.h5", a, b)) == len(water) + len(more) + 2


def test_isolated_atoms_stay_references_in_a_set_of_several_sources(tmp_path: Path) -> None:
    lone = Atoms("H", cell=[7, 7, 7], pbc=True, info={"config_type": "IsolatedAtom"})
    lone.calc = SinglePointCalculator(lone, energy=-13.6)
    a, b = put(tmp_path / "a.xyz", [lone, *frames_of("H2O", 1)]), put(tmp_path / "b.xyz", frames_of("H2O", 2))
    merge([a, b], tmp_path / "set.h5")
    assert survey(tmp_path / "set.h5").isolated_atoms() == {1: -13.6}


@pytest.mark.parametrize(
    ("quantity", "change", "told"),
    [
        ("forces", 0.5, "forces that differ by up to 0.5 eV/Å"),
        ("stress", 0.01, "stresses that differ by up to 0.01"),
    ],
)
def test_the_same_structure_with_other_forces_or_another_stress_is_asked_about(tmp_path, quantity, change, told):
    """Energies alone would not tell, nor would rounding be told from a difference."""
    crystals = []
    for k in range(6):
        atoms = bulk("Si", cubic=True)
        atoms.rattle(0.05, seed=k)
        forces, stress = np.random.default_rng(k).normal(size=(2, 8, 3))
        atoms.calc = SinglePointCalculator(
            atoms, energy=-40.0 + 0.01 * k, forces=forces, stress=stress.ravel()[:6]
        )
        crystals.append(atoms)
    first = put(tmp_path / "a.h5", crystals)
    for k, atoms in enumerate(crystals):
        labels = dict(atoms.calc.results)
        labels[quantity] = labels[quantity] + 1e-6
        if k == 3:
            labels[quantity].flat[4] += change
        atoms.calc = SinglePointCalculator(atoms, **labels)
    second = put(tmp_path / "b.h5", crystals)
    with pytest.raises(MergeError, match=f"1 structures.*\n  frame 3 of a.h5 and frame 3 of b.h5: {told}"):
        merge([first, second], tmp_path / "set.h5")
    assert merge([first, second], tmp_path / "set.h5", conflicts="keep").n_repeated == 5
    left = merged(tmp_path / "set.h5", first, second, conflicts="first", drop_duplicates=True)
    assert len(left) == 6
    np.testing.assert_allclose(left[3].calc.results[quantity], list(first.frames())[3].calc.results[quantity])


def test_a_duplicate_with_labels_that_the_first_lacks_is_not_dropped_without_a_word(tmp_path):
    frames = frames_of("CH3CH2OH", 1)
    second = put(tmp_path / "b.h5", frames)
    del frames[5].calc.results["forces"]
    first = put(tmp_path / "a.h5", frames)
    assert len(merged(tmp_path / "set.h5", first, second)) == 24
    with pytest.raises(MergeError, match=r"frame 5 of a\.h5 and frame 5 of b\.h5: forces in the second alone"):
        merge([first, second], tmp_path / "set.h5", drop_duplicates=True, overwrite=True)
    assert len(merged(tmp_path / "set.h5", first, second, drop_duplicates=True, conflicts="keep")) == 13


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400"])
def test_a_reference_energy_that_is_not_finite_is_refused(value):
    with pytest.raises(KeysError, match="is no reference"):
        references_of([f"a.xyz:H=-13.6,O={value}"])
