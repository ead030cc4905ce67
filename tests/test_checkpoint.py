"""A model file gives back the potential that was saved, or says what is wrong with it."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from potentials import VARIANTS, new_potential, small_potential
from safetensors import safe_open
from safetensors.torch import save_file
from structures import ELEMENTS, STRUCTURES, batch_of, evaluate, isolated_atom

from mlpot.calculator import MLPotCalculator
from mlpot.forces import predict
from mlpot.model_file import (
    FORMAT_VERSION,
    ModelFileError,
    attach_certificate,
    hash_of,
    load_potential,
    read_header,
    save_potential,
)
from mlpot.units import HOUSE_UNITS


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_potential(small_potential(), path)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Path:
    """The file with its header and weights changed."""
    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = read_header(path)
    change(header, weights)
    header["weights_sha256"] = hash_of(weights)
    save_file(weights, path, metadata={"mlpot": json.dumps(header)})
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("repulsion", [False, True], ids=["plain", "repulsive"])
def test_a_loaded_potential_is_the_saved_one_to_the_bit(
    variant: str, dtype: torch.dtype, repulsion: bool, tmp_path: Path
) -> None:
    potential = new_potential(variant, dtype=dtype, repulsion=repulsion)
    save_potential(potential, tmp_path / "m.safetensors")
    loaded = load_potential(tmp_path / "m.safetensors")
    graph = batch_of([make() for make in STRUCTURES.values()] + [isolated_atom()])
    before, after = predict(potential.freeze(), graph), predict(loaded, graph)
    assert loaded.dtype == dtype
    assert torch.equal(before.energy, after.energy)
    assert torch.equal(before.forces, after.forces)
    assert torch.equal(before.stress.nan_to_num(), after.stress.nan_to_num())
    assert not loaded.training
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_saving_what_was_loaded_changes_nothing(saved: Path, tmp_path: Path) -> None:
    save_potential(load_potential(saved), tmp_path / "again.safetensors")
    once, twice = load_potential(saved).state_dict(), load_potential(tmp_path / "again.safetensors").state_dict()
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_the_header_says_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    card = {"training_set": {"sha256": "00ff"}, "metrics": {"forces_mae": 0.012}}
    save_potential(small_potential("egnn_attention"), path, card)
    header = read_header(path)
    assert header["format_version"] == FORMAT_VERSION
    assert header["backbone"] == "egnn"
    assert header["arguments"]["attention"] is True
    assert header["elements"] == list(ELEMENTS)
    assert header["cutoff"] == 4.0
    assert header["dtype"] == "float64"
    assert header["units"] == HOUSE_UNITS
    assert header["card"] == card
    assert {"mlpot", "torch", "numpy", "ase", "python"} <= header["versions"].keys()
    assert load_potential(path).header == header


def test_a_potential_computes_in_the_type_it_is_asked_for(saved: Path) -> None:
    double, single = load_potential(saved), load_potential(saved, dtype=torch.float32)
    assert (double.dtype, single.dtype) == (torch.float64, torch.float32)
    assert single.reference.dtype == torch.float64
    atoms = STRUCTURES["quartz"]()
    assert evaluate(single, atoms).energy.item() == pytest.approx(evaluate(double, atoms).energy.item(), abs=1e-4)
    assert MLPotCalculator(saved, dtype=torch.float32).potential.dtype == torch.float32


@pytest.mark.parametrize("place", [0.0, 0.3, 0.999], ids=["first", "middle", "last"])
def test_a_weight_with_a_flipped_bit_is_seen(place: float, saved: Path) -> None:
    """As a disk or a transfer flips it: the number is finite, and near what it was."""
    content = bytearray(saved.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")  # of the tensors
    content[begin + 8 * int(place * (len(content) - begin) / 8)] ^= 1
    saved.write_bytes(content)
    for read in (load_potential, MLPotCalculator, lambda path: attach_certificate(path, {})):
        with pytest.raises(ModelFileError, match=r"SHA-256 differs.*copy it again"):
            read(saved)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_potential(tmp_path / "absent.safetensors")


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'exploded'}",)

    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelFileError, match="not a safetensors file"):
        load_potential(path)
    assert not (tmp_path / "exploded").exists()


def test_tensors_of_somebody_else_are_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(3)}, tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match="no mlpot header"):
        load_potential(tmp_path / "m.safetensors")


@pytest.mark.parametrize("header", ["{", "[]", "3", "null"])
def test_a_header_that_is_no_header_is_refused(tmp_path: Path, header: str) -> None:
    save_file({"x": torch.zeros(3)}, tmp_path / "m.safetensors", metadata={"mlpot": header})
    with pytest.raises(ModelFileError):
        load_potential(tmp_path / "m.safetensors")


def test_a_truncated_file_is_refused_wherever_it_ends(saved: Path) -> None:
    whole = saved.read_bytes()
    for fraction in (0.0, 1e-4, 0.01, 0.3, 0.7, 0.999):
        saved.write_bytes(whole[: int(fraction * len(whole))])
        with pytest.raises(ModelFileError):
            load_potential(saved)


def _set(key: str, value: object) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    return lambda header, weights: header.__setitem__(key, value)


WRONG: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], object]] = {
    "later version": _set("format_version", FORMAT_VERSION + 1),
    "no version": lambda header, weights: header.pop("format_version"),
    "unknown backbone": _set("backbone", "transformer"),
    "dotted path": _set("backbone", "os.system"),
    "unknown argument": lambda header, weights: header["arguments"].update(cutof=5.0),
    "other size": lambda header, weights: header["arguments"].update(n_features=16),
    "unknown dtype": _set("dtype", "float8"),
    "no elements": _set("elements", []),
    "other elements": _set("elements", [1, 6]),
    "missing weight": lambda header, weights: weights.pop("energy_scale"),
    "extra weight": lambda header, weights: weights.update(extra=torch.zeros(1)),
    "NaN weight": lambda header, weights: weights["backbone.readout.0.weight"][0].fill_(float("nan")),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_file_that_does_not_fit_is_refused(saved: Path, wrong: str) -> None:
    rewrite(saved, WRONG[wrong])  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match=str(saved.name)):
        load_potential(saved)


def test_a_failed_save_leaves_the_old_file_whole(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_potential(small_potential("egnn"), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_save_leaves_one_file(saved: Path) -> None:
    save_potential(small_potential("egnn"), saved)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert read_header(saved)["backbone"] == VARIANTS["egnn"][0]
