"""What runs in the environment of mace-torch: a trained model in, its tensors and all that is known of it out.

It is run as a script by another Python, where mlpot is not installed; so it needs PyTorch and mace-torch alone.
mace-torch's file is a pickle, which may run any code when it is opened: it is opened here, and nowhere else.

    python inside_mace.py MODEL DIRECTORY

It prints a line with the elements, reads one with structures, and leaves description.json, weights.safetensors
and answers.safetensors in the directory.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mace.data.neighborhood import get_neighborhood
from mace.modules.blocks import o3  # mace-torch lets e3nn load its constants, which alone it may not
from torch import Tensor

TYPES = {"torch.float32": "F32", "torch.float64": "F64", "torch.int64": "I64", "torch.int32": "I32"}
ELEMENTS = "elements:"  # how the line begins; others may print too
NOT_WEIGHTS = ("output_mask", "_compiled", "_zeroed", "conv_tp.weight", "bias")


def main(model_path: str, directory: str) -> None:
    """What the model is, and what it answers."""
    torch.set_num_threads(1)
    model = torch.load(model_path, map_location="cpu", weights_only=False)
    model = model.to("cpu").eval()
    print(ELEMENTS, json.dumps(sorted(model.atomic_numbers.tolist())), flush=True)
    asked = json.loads(sys.stdin.readline())
    with open(directory + "/description.json", "w") as file:
        json.dump(described(model), file)
    write(directory + "/weights.safetensors", weights(model))
    found: dict[str, Tensor] = {}
    for head in range(len(getattr(model, "heads", None) or ["Default"])):
        for dtype in (torch.float64, torch.float32):
            found.update(answer(model, asked, head, dtype))
    write(directory + "/answers.safetensors", found)


def weights(model: Any) -> dict[str, Tensor]:
    """All tensors of the state that are numbers of the model, empty ones left out."""
    named = dict(model.state_dict())
    return {n: t for n, t in named.items() if t.numel() and not any(part in n for part in NOT_WEIGHTS)}


def described(model: Any) -> dict[str, Any]:
    """What lies outside the state: classes, irreps, numbers and names of functions."""
    radial = model.radial_embedding
    version = {name: importlib.metadata.version(name) for name in ("mace-torch", "torch", "e3nn")}
    return {
        "versions": version,
        "class": type(model).__name__,
        "children": sorted(name for name, _ in model.named_children()),
        "heads": list(getattr(model, "heads", None) or ["Default"]),
        "options": {
            name: plain(getattr(model, name, None))
            for name in ("use_so3", "use_agnostic_product", "use_last_readout_only", "edge_irreps", "lammps_mliap")
        },
        "radial": {
            "basis": type(radial.bessel_fn).__name__,
            "envelope": type(radial.cutoff_fn).__name__,
            "distance_transform": type(getattr(radial, "distance_transform", None)).__name__,
            "apply_cutoff": bool(getattr(radial, "apply_cutoff", True)),
        },
        "repulsion": type(getattr(model, "pair_repulsion_fn", None)).__name__,
        "interactions": [interaction(block) for block in model.interactions],
        "products": [product(block) for block in model.products],
        "readouts": [readout(block) for block in model.readouts],
        "harmonics": [str(model.spherical_harmonics.irreps_out), str(model.spherical_harmonics.normalization)],
        "normalized": bool(model.spherical_harmonics.normalize),
    }


def interaction(block: Any) -> dict[str, Any]:
    """Of one message."""
    names = ("node_feats_irreps", "edge_attrs_irreps", "edge_irreps", "target_irreps", "hidden_irreps")
    layers = [layer for layer in block.conv_tp_weights.children() if hasattr(layer, "weight")]
    return {
        "class": type(block).__name__,
        "children": sorted(name for name, _ in block.named_children()),
        **{name: str(getattr(block, name, getattr(block, "node_feats_irreps", ""))) for name in names},
        "neighbors": float(block.avg_num_neighbors),
        "couplings": couplings(block.conv_tp),
        "radial": type(block.conv_tp_weights).__name__,
        "activations": [function(layer.act) for layer in layers],
        "variances": [[float(layer.var_in), float(layer.var_out)] for layer in layers],
        "cueq": plain(getattr(block, "cueq_config", None)),
    }


def couplings(messages: Any) -> list[float]:
    """The sign of the first number of each path's Wigner symbol: versions of e3nn differ in some."""
    out = []
    for path in getattr(messages, "instructions", []):
        both = messages.irreps_in1[path.i_in1], messages.irreps_in2[path.i_in2]
        symbol = o3.wigner_3j(*(part.ir.l for part in (*both, messages.irreps_out[path.i_out])))
        out.append(float(symbol[symbol.abs() > 1e-6][0].sign()))
    return out


def product(block: Any) -> dict[str, Any]:
    """Of the products of one layer."""
    contraction = block.symmetric_contractions
    return {
        "class": type(block).__name__,
        "children": sorted(name for name, _ in block.named_children()),
        "contraction": type(contraction).__name__,
        "irreps_in": str(contraction.irreps_in),
        "irreps_out": str(contraction.irreps_out),
        "correlation": [int(c.correlation) for c in contraction.contractions],
        "residual": bool(block.use_sc),
        "agnostic": bool(getattr(block, "use_agnostic_product", False)),
    }


def readout(block: Any) -> dict[str, Any]:
    """Of one readout."""
    out = {"class": type(block).__name__, "children": sorted(name for name, _ in block.named_children())}
    if hasattr(block, "linear_1"):
        acts = list(block.non_linearity.acts)
        out.update(hidden=str(block.linear_1.irreps_out), activations=[function(act) for act in acts])
        out.update(irreps_in=str(block.linear_1.irreps_in))
    else:
        out.update(irreps_in=str(block.linear.irreps_in))
    return out


def function(act: Any) -> list[Any] | None:
    """Name and factor of an activation of e3nn."""
    if act is None:
        return None
    f = getattr(act, "f", act)
    return [getattr(f, "__name__", type(f).__name__), float(getattr(act, "cst", 1.0))]


def plain(value: Any) -> Any:
    """As JSON has it."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def answer(model: Any, structures: Sequence[Any], head: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Energies, forces and stresses of all structures by one head in one type."""
    found: dict[str, Tensor] = {}
    model = copy.deepcopy(model).to(dtype)
    torch.set_default_dtype(dtype)  # mace-torch makes its inputs in this type
    for number, atoms in enumerate(structures):
        batch = graph(model, atoms, head)
        inside = len(batch["edge_index"].T) > 0
        result = model(batch, compute_force=inside, compute_stress=inside and all(atoms["pbc"]))
        kind = f"{head} {str(dtype).removeprefix('torch.')} {number} "
        found[kind + "energy"] = result["energy"]
        if inside:
            found[kind + "forces"] = result["forces"]
        if inside and all(atoms["pbc"]):
            found[kind + "stress"] = result["stress"]
    return {name: t.detach().double() for name, t in found.items()}


def graph(model: Any, atoms: Mapping[str, Any], head: int) -> dict[str, Tensor]:
    """One structure as mace-torch's model takes it."""
    kind, positions = torch.get_default_dtype(), np.array(atoms["positions"], float)
    cell = np.array(atoms["cell"], float) if any(atoms["pbc"]) else np.zeros((3, 3))
    found = get_neighborhood(positions, float(model.r_max), pbc=tuple(atoms["pbc"]), cell=cell)
    edges, shifts, unit_shifts, cell = found
    order = model.atomic_numbers.tolist()
    kinds = torch.tensor([order.index(z) for z in atoms["numbers"]])
    n = len(kinds)
    return {
        "positions": torch.tensor(positions, dtype=kind),
        "edge_index": torch.tensor(np.array(edges), dtype=torch.int64).reshape(2, -1),
        "shifts": torch.tensor(shifts, dtype=kind).reshape(-1, 3),
        "unit_shifts": torch.tensor(unit_shifts, dtype=kind).reshape(-1, 3),
        "cell": torch.tensor(np.array(cell), dtype=kind).reshape(3, 3),
        "node_attrs": torch.nn.functional.one_hot(kinds, len(order)).to(kind),
        "batch": torch.zeros(n, dtype=torch.int64),
        "ptr": torch.tensor([0, n]),
        "head": torch.tensor([head]),
        "pbc": torch.tensor([atoms["pbc"]]),
    }


def write(path: str, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file; that package may be absent here."""
    header: dict[str, Any] = {}
    parts: list[bytes] = []
    place = 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        data = tensor.numpy().tobytes()
        span = [place, place + len(data)]
        header[name] = {"dtype": TYPES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": span}
        parts.append(data)
        place += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(parts)


if __name__ == "__main__":
    main(*sys.argv[1:])
