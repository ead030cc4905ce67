"""What mace-torch gives for small models whose weights a formula determines: makes mace_torch.json beside it.

python tests/golden/make_mace_torch.py        in an environment of bench/mace.txt
"""

import importlib.metadata
import json
import sys
from datetime import date
from pathlib import Path

import torch
from mace import modules
from mace.modules.blocks import o3  # e3nn 0.4.4 loads its constants only after mace-torch allowed it

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "mlpot" / "importers")]

from inside_mace import graph  # noqa: E402
from numbers_by_formula import fill  # noqa: E402

SIZES = [
    {"elements": [1, 6, 8]},
    {"elements": [1, 6, 8], "n": 3, "message_degree": 1, "residual_first": True, "radial": [5, 4], "exponent": 6},
    {"elements": [1, 6, 8], "n": 2, "max_degree": 2, "message_degree": 2, "correlation": 2, "n_layers": 3},
    {"elements": [1, 6, 8], "n": 5, "max_degree": 2, "message_degree": 1, "n_layers": 1},
    {"elements": [1, 6, 8], "n": 3, "max_degree": 2, "message_degree": 1, "parity": False},
]
DEFAULTS = {
    "cutoff": 4.0, "n": 4, "max_degree": 3, "message_degree": 0, "correlation": 3, "n_layers": 2,
    "residual_first": False, "n_radial": 5, "exponent": 5, "radial": [6], "n_hidden": 3, "neighbors": 7.0,
    "parity": True,
}  # fmt: skip
STRUCTURES = [
    {
        "numbers": [6, 8, 1, 1, 1, 1],
        "positions": [[-0.05, 0.66, 0.0], [0.0, -0.76, 0.1], [-1.09, 0.98, 0.2], [0.88, -1.06, 0],
                      [0.44, 1.07, 0.89], [0.41, 1.05, -0.93]],
        "cell": [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
        "pbc": [False] * 3,
    },
    {
        "numbers": [6, 8, 6],
        "positions": [[0.1, 0.0, 0.2], [1.4, 1.3, 1.1], [2.3, 0.2, 2.0]],
        "cell": [[3.1, 0.0, 0.2], [0.4, 2.9, 0.0], [0.0, -0.3, 3.3]],
        "pbc": [True] * 3,
    },
]  # fmt: skip


def model(elements, cutoff, n, max_degree, message_degree, correlation, n_layers, residual_first, n_radial,
          exponent, radial, n_hidden, neighbors, parity):  # type: ignore[no-untyped-def]  # fmt: skip
    """A ScaleShiftMACE of scale 1, shift 0 and no reference energies."""
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    first = block if residual_first else modules.interaction_classes["RealAgnosticInteractionBlock"]
    irreps = " + ".join(f"{n}x{k}{'eo'[k % 2 * parity]}" for k in range(message_degree + 1))
    made = modules.ScaleShiftMACE(
        r_max=cutoff, num_bessel=n_radial, num_polynomial_cutoff=exponent, max_ell=max_degree,
        interaction_cls=block, interaction_cls_first=first, num_interactions=n_layers, num_elements=len(elements),
        hidden_irreps=o3.Irreps(irreps), MLP_irreps=o3.Irreps(f"{n_hidden}x0e"),
        atomic_energies=torch.zeros(len(elements)).numpy(), avg_num_neighbors=neighbors, atomic_numbers=elements,
        correlation=correlation, gate=torch.nn.functional.silu, radial_MLP=radial, use_reduced_cg=False,
        use_so3=not parity,
        atomic_inter_scale=1.0, atomic_inter_shift=0.0,
    )  # fmt: skip
    fill(made)
    return made


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    cases = []
    for size in SIZES:
        made, answers = model(**{**DEFAULTS, **size}), []
        for structure in STRUCTURES:
            out = made(graph(made, structure, 0), compute_stress=all(structure["pbc"]))
            own = ("energy", "forces", "stress") if all(structure["pbc"]) else ("energy", "forces")
            answers.append({name: out[name].detach().squeeze(0).tolist() for name in own})
        cases.append({"size": size, "answers": answers})
    versions = {name: importlib.metadata.version(name) for name in ("mace-torch", "e3nn", "torch")}
    found = {"made_by": versions, "on": date.today().isoformat(), "structures": STRUCTURES, "cases": cases}
    (HERE / "mace_torch.json").write_text(json.dumps(found) + "\n")
