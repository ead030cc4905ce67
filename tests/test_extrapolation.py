"""Does a potential know what it was trained on, and does a run that leaves it stop?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read as ase_read
from md_runs import assert_same_run, md_recipe, prepared
from potentials import new_potential
from sets import crystals, labeled, small_recipe, write
from structures import STRUCTURES, batch_of, copper, graph_of, shaken

from mlpot.calculator import MLPotCalculator
from mlpot.data.h5md import Reader
from mlpot.data.sources.output import write_structures
from mlpot.dynamics.ensembles import Ensemble
from mlpot.dynamics.guards import NO_DOMAIN, WINDOW, Monitor
from mlpot.dynamics.log import read_log
from mlpot.dynamics.recipe import Guards
from mlpot.dynamics.run import run_md
from mlpot.evaluate import evaluate
from mlpot.extrapolation import BETWEEN, UNTOLD, Domain, Outside, domain_of, tells_energy
from mlpot.forces import extrapolation_grade, predict, predict_and_grade
from mlpot.graph import edge_vectors
from mlpot.model_file import load_potential, save_potential
from mlpot.potential import Potential
from mlpot.predictions import predict_file
from mlpot.signals import BlowUpError
from mlpot.stages.pointwise import SECOND_MOMENT
from mlpot.training.fit import train

pytestmark = pytest.mark.usefixtures("_no_pictures")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models and structures for the runs; `known.safetensors` knows copper as it is in one of them."""
    with prepared(tmp_path_factory.mktemp("domain")) as folder:
        model = folder / "native.safetensors"
        run_md(md_recipe(folder, model=model, output=folder / "known", steps=WINDOW, **KNOWN, write_every=1))
        with Reader(folder / "known/trajectory.h5") as reader:
            graphs = [graph_of(frame) for frame in reader.frames()]
        potential = load_potential(model)
        potential.domain = domain_of(
            potential.atom_features, potential.element_index, len(potential.elements), graphs
        )
        save_potential(potential, folder / "known.safetensors")
        yield folder


KNOWN: dict[str, Any] = {"log_every": 20, "timestep_fs": 1, "temperature_K": 30}


def drawn(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of two elements, one of them rare, and features of a normal distribution for each."""
    rng = np.random.default_rng(seed)
    kind = torch.from_numpy((rng.random(n) < 0.1).astype(np.int64))
    mix = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.5, 0.2], [0.0, 0.0, 1e-3]], dtype=torch.float64)
    return kind, torch.from_numpy(rng.normal(size=(n, 3))) @ mix + 5 * kind[:, None]


def test_a_thousandth_of_what_is_like_training_has_a_grade_above_1() -> None:
    domain = Domain.of(*drawn(20_000), 2)
    edge = domain.mean[0].double() + torch.linalg.inv(domain.measure[0].double())[:, 0]
    assert domain(torch.tensor([0]), edge[None].float()).item() == pytest.approx(1, rel=1e-3)
    kind, features = drawn(100_000, seed=1)
    assert (domain(kind, features.float()) > 1).double().mean().item() == pytest.approx(1e-3, rel=0.5)
    assert domain(kind[:1], features[:1].float() + 100).item() > 10


def test_an_atom_is_judged_by_the_others() -> None:
    _, features = drawn(30)
    kind = torch.zeros(30, dtype=torch.int64)
    expected = []  # Σ⁻¹ and d of each atom, by all the others
    for k in range(30):
        rest = features[torch.arange(30) != k]
        inverse = torch.linalg.inv(rest.T.cov())
        own = features[k] - rest.mean(dim=0)
        expected.append((own @ inverse @ own).sqrt().item())
    grades = Domain.of(kind, features, 1)(kind, features.float())
    distance = (features - features.mean(dim=0)) @ torch.linalg.cholesky(torch.linalg.inv(features.T.cov()))
    limit = (distance.norm(dim=1) / grades).mean()  # about: three features count as three atoms more
    assert limit == pytest.approx(np.quantile(expected, 0.999), rel=0.1)


def test_of_an_element_with_a_few_atoms_nothing_is_said() -> None:
    kind = torch.tensor([0] * 50 + [1] * 3)
    domain = Domain.of(kind, drawn(53)[1], 2)
    assert domain(torch.tensor([1]), torch.full((1, 3), 1e3)).item() == 0


def test_the_features_of_every_backbone_are_seen(variant: str) -> None:
    potential = new_potential(variant).freeze()
    graph = batch_of([make() for make in STRUCTURES.values()])
    features = potential.atom_features(graph)
    assert len(features) == graph.n_atoms
    readout = potential.backbone.get_submodule("readout")
    if variant == "mace":  # which adds what its first layer gives, and reads out the last one by stages
        backbone = potential.backbone
        with torch.no_grad():
            backbone.readouts.zero_()
        hidden = SECOND_MOMENT * torch.nn.functional.silu(features @ backbone.hidden[0])
        read = hidden @ backbone.last_readout
    elif variant == "nequip":
        read = features @ potential.backbone.energy
    else:
        read = readout(features)
    energies = potential.backbone(graph.numbers, graph.edges, edge_vectors(graph))
    torch.testing.assert_close(read.squeeze(-1), energies, rtol=1e-12, atol=1e-13)
    assert not features.requires_grad


def test_compiled_code_finds_the_grades_of_every_backbone(variant: str) -> None:
    potential = new_potential(variant).freeze()
    graph = batch_of([make() for make in STRUCTURES.values()])
    assert extrapolation_grade(potential, graph) is None
    potential.domain = domain_of(
        potential.atom_features, potential.element_index, len(potential.elements), [graph]
    )
    found = extrapolation_grade(potential, graph)
    torch.testing.assert_close(found, potential.extrapolation_grade(graph), rtol=1e-6, atol=1e-6)
    graded, plain = predict_and_grade(potential, graph), predict(potential, graph)
    for name in ("energy", "forces", "stress"):
        assert torch.equal(*(getattr(out, name).nan_to_num() for out in (graded, plain)))
    ends = graph.batch.bincount().tolist()
    assert graded.extrapolation_grade.tolist() == [of_one.max().item() for of_one in found.split(ends)]


def test_training_leaves_its_domain_in_the_file(tmp_path: Path) -> None:
    result = train(small_recipe(write(tmp_path / "set.h5", crystals()), tmp_path / "run"))
    potential = load_potential(result.model)
    known, squeezed = crystals()[3], crystals()[3]
    squeezed.set_cell(0.7 * squeezed.cell.array, scale_atoms=True)
    assert highest_grade(potential, known) < 2 < 5 < highest_grade(potential, squeezed)
    assert highest_grade(load_potential(result.model, dtype=torch.float64), known) == pytest.approx(
        highest_grade(potential, known), rel=1e-3
    )


def test_what_is_outside_of_the_training_set_is_counted_by_every_way_to_predict(folder: Path) -> None:
    structures = []
    for scale in (1.0, 0.9, 0.7, 0.8):
        atoms = copper()
        atoms.set_cell(scale * atoms.cell.array, scale_atoms=True)
        structures.append(atoms)
    told = set()
    for name in ("structures.h5", "structures.xyz"):
        write_structures(folder / name, structures, overwrite=True)
        outside = Outside()
        predict_file(folder / "known.safetensors", folder / name, folder / f"out_{name}", outside=outside)
        assert (outside.n_outside, outside.n_structures) == (3, 4)
        told.add(str(outside))
    (sentence,) = told
    assert "3 of 4, up to grade" in sentence
    assert "in structure 2." in sentence
    labeled = ase_read(folder / "out_structures.xyz", ":")
    judged = evaluate(folder / "known.safetensors", labeled)
    assert judged.outside == sentence
    assert [row.extrapolation_grade > 5 for row in judged.frames] == [False, True, True, True]
    assert evaluate(folder / "native.safetensors", labeled).outside == ""
    assert all(
        np.isnan(row.extrapolation_grade) for row in evaluate(folder / "native.safetensors", labeled).frames
    )


def test_a_calculator_warns_once_of_what_is_outside_of_the_training_set(folder: Path) -> None:
    known, squeezed = copper(), copper()
    squeezed.set_cell(0.7 * squeezed.cell.array, scale_atoms=True)
    calculator = MLPotCalculator(folder / "known.safetensors")
    calculator.calculate(known)
    with pytest.warns(UserWarning, match="has extrapolation grade .* Do not trust"):
        calculator.calculate(squeezed)
    squeezed.rattle(0.5)  # for a new list of neighbors
    for _ in range(2 * BETWEEN):
        calculator.calculate(squeezed)
    MLPotCalculator(folder / "known.safetensors", extrapolation_grade=None).calculate(squeezed)
    MLPotCalculator(folder / "native.safetensors").calculate(squeezed)  # cannot tell


def highest_grade(potential: Potential, atoms: object) -> float:
    grades = potential.extrapolation_grade(graph_of(atoms, potential.cutoff))
    assert grades is not None
    return grades.max().item()


def test_compositions_whose_energy_is_not_told_are_named(tmp_path: Path) -> None:
    """Of Cu₃Au alone any energy may go from Cu to Au, three times as much each; it was used without a word."""
    alloys = [labeled(shaken(alloy("Cu3Au"), seed=k)) for k in range(8)]
    data = write(tmp_path / "set.h5", [*alloys, labeled(Atoms("Cu")), labeled(Atoms("Au"))])
    train(small_recipe(data, tmp_path / "run", "training.epochs=2"))
    header = load_potential(tmp_path / "run/model.safetensors").header
    (direction,) = header["card"]["metrics"][UNTOLD]
    assert direction["Au"] == pytest.approx(-3 * direction["Cu"])
    for formula, is_told in {"Cu3Au": True, "Cu6Au2": True, "Cu": True, "Cu4": False, "Cu2Au2": False}.items():
        assert tells_energy(header, Atoms(formula).numbers) == is_told, formula
    atoms = alloy("Cu4")
    atoms.calc = MLPotCalculator(tmp_path / "run/model.safetensors", extrapolation_grade=1e9)
    with pytest.warns(UserWarning, match="do not tell the energy of Cu4: it must not be compared"):
        atoms.get_potential_energy()
    atoms.rattle(0.3)
    atoms.get_potential_energy()  # says nothing more
    for ending in ("xyz", "h5"):
        outside, given, predicted = Outside(), tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
        write_structures(given, [alloy("Cu3Au"), alloy("Cu4"), alloy("Cu2Au2")])
        predict_file(tmp_path / "run/model.safetensors", given, predicted, outside=outside)
        assert "do not tell the energy of 2 structures (Cu4, Cu2Au2)" in str(outside)


def alloy(formula: str) -> Atoms:
    """Four atoms of a cubic cell."""
    atoms = bulk("Cu", a=3.75, cubic=True)
    atoms.symbols = formula
    return atoms


def test_a_potential_without_a_domain_says_so(folder: Path) -> None:
    assert load_potential(folder / "native.safetensors").extrapolation_grade(graph_of(copper())) is None
    recipe = md_recipe(folder, model=folder / "native.safetensors", output=folder / "unknown")
    assert run_md(recipe).warnings == (NO_DOMAIN,)


def test_a_run_warns_of_atoms_unlike_training_and_stops_at_the_level_asked_for(folder: Path) -> None:
    known = {"model": folder / "known.safetensors", **KNOWN}
    still = md_recipe(folder, output=folder / "still", steps=WINDOW, **known)
    assert run_md(still).warnings == ()
    log = read_log(still.output / "log.csv")
    assert np.isfinite(log["extrapolation_grade"]).tolist() == [True, False, False, False, False, True]
    assert (log["extrapolation_grade"][[0, -1]] < 1).all()
    free = {name: None for name in Guards.model_fields if name not in ("extrapolation_grade", "disk")}
    hot = known | {"temperature_K": 20_000, "steps": 1000}
    warned = run_md(md_recipe(folder, output=folder / "hot", guards=free | {"extrapolation_grade": 1e9}, **hot))
    assert "times as far from the training set" in warned.warnings[0]
    stopped = md_recipe(folder, output=folder / "too_hot", guards=free | {"extrapolation_grade": 3}, **hot)
    with pytest.raises(BlowUpError, match=r"guards\.extrapolation_grade"):
        run_md(stopped)
    assert (stopped.output / "bad_frame.xyz").exists()
    log = read_log(stopped.output / "log.csv")
    assert np.nanmax(log["extrapolation_grade"]) <= 3
    whole = md_recipe(folder, output=folder / "off", guards=free | {"extrapolation_grade": None}, **hot)
    assert "extrapolation_grade" not in "".join(run_md(whole).warnings)


def test_what_is_seen_now_and_then_is_seen_after_a_restart_too(folder: Path) -> None:
    known = {"model": folder / "known.safetensors", "guards": {"extrapolation_grade": 1e9}}
    whole = md_recipe(folder, output=folder / "seen_whole", steps=210, **known)
    run_md(whole)
    parts = whole.model_copy(update={"output": folder / "seen_parts", "steps": 130})
    run_md(parts)
    run_md(parts.model_copy(update={"steps": 210}), resume=True)
    assert_same_run(whole.output, parts.output)


def test_neighbors_that_come_or_go_are_a_warning(folder: Path) -> None:
    atoms = copper()
    atoms.calc = MLPotCalculator(folder / "known.safetensors")
    atoms.get_forces()
    monitor = Monitor(
        md_recipe(folder, guards={"extrapolation_grade": None}), atoms, Ensemble("langevin", None, 24, None), {}
    )
    assert monitor.check_slowly(atoms) is monitor.check_slowly(atoms) is None
    assert monitor.warnings == {}
    atoms.set_cell(1.2 * atoms.cell.array, scale_atoms=True)
    assert monitor.check_slowly(atoms) is None
    assert "neighbors went from" in monitor.warnings["neighbors"]
