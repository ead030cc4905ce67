"""Is an imported model of mace-torch the function of the original, and is what ours has not refused?"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from e3nn_mace import Definition, Size, description, state
from places import TESTS
from structures import ethanol, evaluate, graph_of, isolated_atom, worst
from torch import Tensor

from mlpot.certificate.locality import isolated_atoms, short_range
from mlpot.certificate.tested import of_potential
from mlpot.data.sources.export import export
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.forces import predict
from mlpot.importers.mace import Differences, MaceProcessError, examples, import_mace, potential_of
from mlpot.importers.mace_weights import NotCoveredError, arguments, backbone_weights
from mlpot.model_file import load_potential, save_potential

PYTHON = os.environ.get("MLPOT_MACE_PYTHON")
ORIGINAL = pytest.mark.skipif(PYTHON is None, reason="MLPOT_MACE_PYTHON names no Python that has mace-torch")
SIZE = Size((8, 1, 6), n=3, message_degree=1, residual_first=True)
E0, SCALE, SHIFT = {8: -432.1, 1: -13.6, 6: -1028.4}, 1.3, -0.7
SHARES = (0.1818, 0.5099, 0.2802, 0.02817)
DECAYS = (3.2, 0.9423, 0.4028, 0.2016)


def told(repulsion: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What another process would tell of a model: elements in an order of their own, scale, shift and E0."""
    model, double = Definition(SIZE), {"dtype": torch.float64}
    weights = {name: t.detach() for name, t in state(model).items()}
    weights |= {
        "atomic_energies_fn.atomic_energies": torch.tensor([list(E0.values())], **double),
        "scale_shift.scale": torch.tensor(SCALE, **double),
        "scale_shift.shift": torch.tensor([SHIFT], **double),
        "pair_repulsion_fn.c": torch.tensor(SHARES, **double),
        "pair_repulsion_fn.p": torch.tensor(5),
        "pair_repulsion_fn.a_exp": torch.tensor(0.3, **double),
        "pair_repulsion_fn.a_prefactor": torch.tensor(0.4543, **double),
    }
    return description(SIZE) | {"repulsion": "ZBLBasis" if repulsion else "NoneType"}, weights


def test_an_isolated_atom_has_the_energy_that_the_model_gives_for_it() -> None:
    potential = potential_of(*told(), 0, 256)
    model = Definition(SIZE)
    for k, (z, e0) in enumerate(E0.items()):
        one_hot = torch.nn.functional.one_hot(torch.tensor([k]), 3).double()
        b = model(one_hot, torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.float64))
        assert worst(evaluate(potential, isolated_atom(z)).energy, e0 + SHIFT + SCALE * b.item()) < 1e-10
        assert abs(b.item()) > 1e-3  # the first layer adds features of the element: E0 it is not


def test_nuclei_repel_as_in_mace_torch_within_the_scale() -> None:
    """The formula of ZBLBasis, with its constants."""
    d = 0.9
    with_, without = (potential_of(*told(repulsion), 0, 256) for repulsion in (True, False))
    pair = Atoms("CO", [(0, 0, 0), (0, 0, d)])
    a = 0.4543 * 0.529 / (6**0.3 + 8**0.3)
    x, p = d / (0.76 + 0.66), 5  # covalent radii
    u = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    phi = sum(c * np.exp(-b * d / a) for c, b in zip(SHARES, DECAYS, strict=True))
    added = evaluate(with_, pair).energy - evaluate(without, pair).energy
    assert worst(added, SCALE * 14.3996 * 6 * 8 / d * phi * u) < 1e-9


def test_products_whose_weights_all_elements_share_are_those_of_each() -> None:
    """mace-torch's use_agnostic_product."""
    model, weights = told()
    own = [name for name in weights if "symmetric_contractions" in name and ".weights" in name]
    each = weights | {name: weights[name][:1].expand_as(weights[name]) for name in own}
    found = backbone_weights(model, weights | {name: weights[name][:1] for name in own})
    assert own
    assert all(torch.equal(found[name], w) for name, w in backbone_weights(model, each).items())


def test_the_form_of_the_repulsion_is_kept_in_the_file(tmp_path: Path) -> None:
    potential = potential_of(*told(True), 0, 64)
    save_potential(potential, tmp_path / "model.safetensors")
    again = load_potential(tmp_path / "model.safetensors")
    close = Atoms("CO", [(0, 0, 0), (0, 0, 0.8)])
    for atoms in (close, ethanol()):
        one, two = evaluate(potential, atoms), evaluate(again, atoms)
        assert torch.equal(one.energy, two.energy)
        assert torch.equal(one.forces, two.forces)
        plain = predict(potential, graph_of(atoms), native=False)
        assert worst(plain.forces, one.forces) < 1e-9


def test_the_certificate_judges_an_imported_function_by_the_original() -> None:
    potential = potential_of(*told(), 0, 64)
    tested = of_potential(potential)
    assert not short_range(tested, {"ethanol": ethanol()}).passed  # without repulsion, weights of a formula
    potential.header = {"card": {"imported": {}}}
    for check in (isolated_atoms, short_range):
        result = check(tested, {"ethanol": ethanol()})
        assert result.passed
        assert "the original" in result.note


CHANGES: dict[str, Callable[[Any], Any]] = {
    "class is AtomicDipolesMACE": lambda m: m.update({"class": "AtomicDipolesMACE"}),
    "radial basis is GaussianBasis": lambda m: m["radial"].update(basis="GaussianBasis"),
    "distance transform is AgnesiTransform": lambda m: m["radial"].update(distance_transform="AgnesiTransform"),
    "interaction 1 is RealAgnosticDensityResidualInteractionBlock": lambda m: m["interactions"][1].update(
        {"class": "RealAgnosticDensityResidualInteractionBlock"}
    ),
    "edge irreps of interaction 1": lambda m: m["interactions"][1].update(edge_irreps="2x0e+2x1o"),
    "activation of interaction 0 is tanh": lambda m: m["interactions"][0].update(activations=[["tanh", 1.0]]),
    "contraction 0 is CueqContraction": lambda m: m["products"][0].update(contraction="CueqContraction"),
    "part is joint_embedding": lambda m: m["children"].append("joint_embedding"),
    "target_irreps is 3x0e . 3x1o.*even with use_so3": lambda m: m["options"].update(use_so3=True),
    "target_irreps": lambda m: [layer.update(target_irreps="3x0e+3x1e") for layer in m["interactions"]],
    "hidden_irreps of layer 1": lambda m: m["interactions"][1].update(hidden_irreps="3x0e+3x1o"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_ours_has_not_is_refused_by_name(what: str) -> None:
    model, weights = told()
    model = copy.deepcopy(model)
    CHANGES[what](model)
    with pytest.raises(NotCoveredError, match=what):
        arguments(model, weights)


def test_layers_that_were_replaced_are_refused() -> None:
    """As mace-torch's inject_lora does, whose weights have other names."""
    model, weights = told()
    renamed = {name.replace("layer0.weight", "layer0.base.weight"): w for name, w in weights.items()}
    with pytest.raises(NotCoveredError, match="LoRA"):
        potential_of(model, renamed, 0, 64)


def test_a_repulsion_beyond_the_cutoff_is_refused() -> None:
    model, weights = told(True)
    with pytest.raises(NotCoveredError, match="ends beyond the cutoff"):
        potential_of(model, weights | {"r_max": torch.tensor(1.4, dtype=torch.float64)}, 0, 64)


def test_every_element_is_compared() -> None:
    for elements in ([14], [1, 6, 8], list(range(1, 90))):
        found = examples(elements)
        assert set(np.concatenate([atoms.numbers for atoms in found if len(atoms) > 1])) == set(elements)
        assert {len(atoms) for atoms in found} >= {1, 2}


def test_a_model_that_asks_for_more_than_structures_is_refused_by_that_part(tmp_path: Path) -> None:
    """N10: one with charges is told, answers nothing, and ends as KeyError: 'charge'."""
    (tmp_path / "model").write_bytes(b"a pickle")
    model = description(SIZE)
    model["children"] = [*model["children"], "joint_embedding"]
    (tmp_path / "description.json").write_text(json.dumps(model))
    python = tmp_path / "python"
    told = f"cp {tmp_path}/description.json $5/ && : > $5/weights.safetensors"
    python.write_text(f"#!/bin/sh\n{told}\necho \"KeyError: 'charge'\" >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(NotCoveredError, match="part is joint_embedding"):
        import_mace(tmp_path / "model", tmp_path / "out", python=python, tell=lambda _: None)


def test_a_python_without_mace_torch_is_an_error_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").write_bytes(b"no pickle")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named mace' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(MaceProcessError, match="No module named mace"):
        import_mace(tmp_path / "model", tmp_path / "out", python=python, tell=lambda _: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MaceProcessError, match="No module named mace"):  # and it is not sought where it runs
        import_mace(Path("model"), tmp_path / "out", python=Path("./python"), tell=lambda _: None)
    with pytest.raises(MaceProcessError, match="true could not open"):
        import_mace(tmp_path / "model", tmp_path / "out", python=Path("true"), tell=lambda _: None)
    python.chmod(0o644)
    with pytest.raises(FileNotFoundError, match=r"no Python .* that can be run"):
        import_mace(tmp_path / "model", tmp_path / "out", python=python, tell=lambda _: None)
    with pytest.raises(FileNotFoundError, match="no model"):
        import_mace(tmp_path / "absent", tmp_path / "out", python=python, tell=lambda _: None)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with models that mace-torch trained for three epochs."""
    where = tmp_path_factory.mktemp("mace")
    for name in ("ethanol", "silicon"):
        export(Source(TESTS.parent / "data" / f"{name}.h5", Reading()), where / f"{name}.xyz")
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = TESTS / "importers" / "mace_models.py"
    subprocess.run([str(PYTHON), str(script)], cwd=where, env=own, check=True, capture_output=True)
    return where


@ORIGINAL
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head"), [("scale_shift", None), ("plain", None), ("heads", "first"), ("heads", "second")]
)
def test_trained_models_of_mace_torch_are_the_same_function(trained: Path, name: str, head: str | None) -> None:
    lines: list[str] = []
    out = trained / f"{name}_{head}.safetensors"
    import_mace(trained / f"{name}.model", out, python=Path(str(PYTHON)), head=head, tell=lines.append)
    card = load_potential(out).header["card"]["imported"]
    exact, single, theirs = (
        _read(card["differences"][kind]) for kind in ("float64", "float32", "of mace-torch's float32")
    )
    assert exact.largest <= (1e-8 if name != "plain" else 1e-5)
    assert single.energy <= theirs.energy
    assert single.forces <= 1.2 * theirs.forces  # both are rounding, the greatest of some hundred numbers
    assert any("pickle" in line for line in lines)


@ORIGINAL
@pytest.mark.slow
def test_of_several_heads_one_must_be_chosen(trained: Path) -> None:
    for head in (None, "third"):
        with pytest.raises(NotCoveredError, match="choose one of"):
            import_mace(trained / "heads.model", trained / "out", python=Path(str(PYTHON)), head=head)


def _read(text: str) -> Differences:
    return Differences(*(float(part.split()[1]) for part in text.split(", ")))
