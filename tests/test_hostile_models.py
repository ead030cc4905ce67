"""Are model files and checkpoints made to do harm refused: nothing run, with little work?"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from potentials import new_potential
from safetensors import safe_open
from safetensors.torch import save
from sets import crystals, small_recipe, write
from work import little_work

from mlpot.dynamics.checkpoints import Checkpoint, CheckpointError, Checkpoints
from mlpot.model_file import ModelFileError, load_potential, save_potential
from mlpot.training.fit import train
from mlpot.training.run_directory import RunDirectoryError, read_checkpoint
from mlpot.training.trainer import LAST

pytestmark = pytest.mark.usefixtures("_no_pictures")


class Bomb:
    """What touches a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.target,)


@pytest.fixture(autouse=True)
def no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable with which users switch torch's guard off."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


def refused(path: Path, message: str = r"\S") -> None:
    with little_work(), pytest.raises(ModelFileError, match=message):
        load_potential(path)


# --- model files ---


@pytest.fixture(scope="module", params=["schnet", "egnn_moving", "deepsets", "se3_transformer"])
def honest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("honest") / "model.safetensors"
    save_potential(new_potential(request.param), path)
    load_potential(path)  # what it compiles is not to be counted
    return path


def changed(honest: Path, path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> Path:
    with safe_open(honest, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        header = json.loads(file.metadata()["mlpot"])
    change(header, weights)
    path.write_bytes(save(weights, metadata={"mlpot": json.dumps(header)}))
    return path


def replace(weights: dict[str, torch.Tensor], by: Callable[[torch.Tensor], torch.Tensor]) -> None:
    name = next(name for name in weights if name.endswith("weight") and weights[name].ndim == 2)
    weights[name] = by(weights[name])


ARGUMENTS: list[dict[str, Any]] = [
    {"n_features": 10**9},
    {"n_features": 4096},
    {"n_features": 10**400},
    {"n_features": -1},
    {"n_features": 2.5},
    {"n_radial": 10**9},
    {"n_radial": 1024},
    {"n_knots": 10**12},
    {"n_interactions": 10**9},
    {"n_layers": 10**9},
    {"n_layers": 64},
    {"cutoff": 1e300},
    {"cutoff": float("nan")},
    {"cutoff": -5.0},
    {"cutoff": [5.0]},
    {"radial": ["gaussian"]},
    {"radial": "os.system"},
    {"_target_": "os.system"},
    {"class_path": "os.system"},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda a: str(a)[:40])
def test_absurd_arguments_build_nothing(honest, tmp_path, arguments):
    path = changed(honest, tmp_path / "m", lambda header, _: header["arguments"].update(arguments))
    refused(path, "does not describe a potential")


HEADERS: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], object]] = {
    "arguments that are none": lambda h, w: h.update(arguments=[1, 2]),
    "a backbone that is a list": lambda h, w: h.update(backbone=["schnet"]),
    "elements of text": lambda h, w: h.update(elements=["H"]),
    "huge elements": lambda h, w: h.update(elements=[1, 10**30]),
    "many elements": lambda h, w: h.update(elements=list(range(1, 10**5))),
    "other units": lambda h, w: h["units"].update(energy="kcal/mol"),
    "no units": lambda h, w: h.pop("units"),
    "another type": lambda h, w: h.update(dtype="os.system"),
    "wrong shape": lambda h, w: replace(w, lambda t: t[:1].clone()),
    "turned": lambda h, w: replace(w, lambda t: torch.zeros(t.shape[1], t.shape[0] + 1, dtype=t.dtype)),
    "integers": lambda h, w: replace(w, lambda t: t.to(torch.int8)),
    "half precision": lambda h, w: replace(w, lambda t: t.half()),
    "complex": lambda h, w: replace(w, lambda t: t.to(torch.complex64)),
    "NaN": lambda h, w: replace(w, lambda t: t * float("nan")),
    "infinite": lambda h, w: replace(w, lambda t: t / 0),
    "missing": lambda h, w: w.pop("energy_shift"),
    "extra": lambda h, w: w.update(extra=torch.zeros(1)),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_or_weights_that_do_not_fit_are_refused(honest, tmp_path, name):
    refused(changed(honest, tmp_path / "m", HEADERS[name]))


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start: int, stop: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


OURS = {"__metadata__": {"mlpot": "{}"}}
FILES = {
    "a header of 1 TB": safetensors({}, length=2**40),
    "a header beyond the end": safetensors(OURS, length=10**6),
    "a header of 2^64 - 1": safetensors({}, length=2**64 - 1),
    "a long header": safetensors(json.dumps(OURS).encode() + b" " * 2**25),
    "overlapping tensors": safetensors({**OURS, "a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12)),
    "tensors beyond the end": safetensors({**OURS, "a": tensor(0, 2**40, [2**38])}, bytes(12)),
    "a shape that overflows": safetensors({**OURS, "a": tensor(0, 0, [2**32, 2**32])}),
    "negative offsets": safetensors({**OURS, "a": tensor(-8, 8, [4])}, bytes(16)),
    "a hole": safetensors({**OURS, "a": tensor(4, 8, [1])}, bytes(8)),
    "deep JSON around": safetensors(b'{"a":' * 10**5),
    "deep JSON within": safetensors({"__metadata__": {"mlpot": "[" * 10**5}}),
    "a key twice": safetensors({"__metadata__": {"mlpot": '{"format_version": 2, "format_version": 1}'}}),
    "digits": safetensors({"__metadata__": {"mlpot": '{"format_version": ' + "9" * 10**5 + "}"}}),
    "nothing": b"",
    "seven bytes": bytes(7),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_made_up_is_refused(tmp_path, name):
    (tmp_path / "m").write_bytes(FILES[name])
    refused(tmp_path / "m")


@pytest.mark.parametrize(
    "make", [torch.save, lambda b, p: p.write_bytes(pickle.dumps(b))], ids=["torch", "pickle"]
)
def test_a_pickle_is_no_model_and_runs_nothing(tmp_path, make):
    make(Bomb(tmp_path / "exploded"), tmp_path / "m")
    refused(tmp_path / "m", "not a safetensors file")
    assert not (tmp_path / "exploded").exists()


# --- checkpoints of training ---


def test_resuming_runs_nothing_that_a_checkpoint_holds(tmp_path):
    data = write(tmp_path / "set.h5", crystals())
    recipe = small_recipe(data, tmp_path / "run", "training.epochs=1")
    train(recipe)
    last, fuse = tmp_path / "run" / LAST, tmp_path / "exploded"
    honest = torch.load(last, weights_only=True)
    for loaded in ({**honest, "loops": Bomb(fuse)}, {**honest, "hyper_parameters": {"x": Bomb(fuse)}}, Bomb(fuse)):
        torch.save(loaded, last)
        torch.load(last, weights_only=False)
        assert fuse.exists(), "the bomb is real"
        fuse.unlink()
        with pytest.raises(RunDirectoryError, match=r"last\.ckpt is damaged, or holds more"):
            read_checkpoint(last)
    with pytest.raises(RunDirectoryError, match=r"last\.ckpt is damaged, or holds more"):
        train(recipe, resume=True)
    for content in (pickle.dumps(Bomb(fuse)), b"", last.read_bytes()[:1000]):
        last.write_bytes(content)
        with pytest.raises(RunDirectoryError, match=r"last\.ckpt is damaged"):
            read_checkpoint(last)
    assert not fuse.exists()


# --- checkpoints of molecular dynamics ---


def sealed(facts: str, members: dict[str, bytes], *, times: int = 1) -> bytes:
    """A checkpoint whose checksum is right, whatever it holds; its table may name each member several times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
        file.filelist *= times
    body = facts.encode() + b"\n" + buffer.getvalue()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def npy(shape: tuple[int, ...], data: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


def objects(fuse: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb(fuse)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


FACTS = '{"format": 1, "generation": 7}'


@pytest.mark.parametrize(
    "content",
    [
        lambda fuse: sealed(FACTS, {"x.npy": objects(fuse)}),
        lambda fuse: sealed(FACTS, {"x.npy": pickle.dumps(Bomb(fuse))}),
        lambda fuse: sealed(FACTS, {"x.npy": npy((2**37,), bytes(8))}),
        lambda fuse: sealed(FACTS, {"x.npy": npy((2**21,), bytes(2**24))}, times=20),
        lambda fuse: sealed(FACTS, {"../../escaped.npy": npy((1,), bytes(3))}),
        lambda fuse: sealed("[" * 10**5, {}),
        lambda fuse: sealed("[]", {}),
        lambda fuse: sealed('{"format": 1}', {}),
    ],
    ids=["objects", "pickle", "1 TB", "zip bomb", "zip slip", "deep", "list", "empty"],
)
def test_a_hostile_checkpoint_of_a_run_is_refused(tmp_path, content):
    Checkpoints(tmp_path).write(Checkpoint({}, {"x": np.zeros(3)}))
    (tmp_path / "checkpoint_A").write_bytes(content(tmp_path / "exploded"))
    told = "checkpoint_A holds objects that are no plain arrays"
    with little_work(), pytest.raises(CheckpointError, match=told):
        Checkpoints(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint_A", "checkpoint_B"}
