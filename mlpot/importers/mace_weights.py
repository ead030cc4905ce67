"""A model of mace-torch, as `inside_mace` describes it, as our `models.mace`: what is covered, and its numbers.

mace-torch keeps normalizations beside its weights, ours are in them: a linear map has 1/√fan-in, an activation the
factor that e3nn found for it. Its products have a weight for each coupling, and many are equal once factors are
exchanged; ours have one for each independent product, so w = M w′ with M from both polynomials. Its edges point
from neighbor to center, ours to the neighbor: with natural parity that is the same function, without parity
(`use_so3`) harmonics of odd degree change their sign. Signs of couplings of odd sum are those of a version of
e3nn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlpot.models.mace import paths
from mlpot.models.tensors import Path
from mlpot.stages.coupling import symmetric_products, wigner_3j
from mlpot.stages.pointwise import SECOND_MOMENT

Description = Mapping[str, Any]
Tensors = Mapping[str, Tensor]

FIRST = ("RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock")
CHILDREN = {
    "atomic_energies_fn",
    "interactions",
    "node_embedding",
    "pair_repulsion_fn",
    "products",
    "radial_embedding",
    "readouts",
    "scale_shift",
    "spherical_harmonics",
}
PARTS = {"linear_up", "conv_tp", "conv_tp_weights", "linear", "skip_tp", "reshape"}


class NotCoveredError(ValueError):
    """A model has a part that ours has not."""


def arguments(model: Description, weights: Tensors) -> dict[str, Any]:
    """Arguments of `models.mace.MACE`.

    Raises:
        NotCoveredError: says which part of the model ours has not.
    """
    check_covered(model)
    if lacking := [k for k in range(len(model["interactions"])) if _first_radial(k) not in weights]:
        raise NotCoveredError(
            f"{_first_radial(lacking[0])} is not there, as where LoRA replaced layers: merge its weights into "
            "the model with mace-torch first."
        )
    layers, n = model["interactions"], len(model["interactions"])
    parity = _has_parity(model)
    _, before = _tensor(layers[-1]["node_feats_irreps"], "node_feats_irreps", parity)
    n_features, max_degree = _tensor(layers[0]["target_irreps"], "target_irreps", parity)
    radial = [weights[f"interactions.0.conv_tp_weights.layer{k}.weight"] for k in range(_n_radial(weights))]
    exponent = int(weights["radial_embedding.cutoff_fn.p"])
    out = {
        "cutoff": float(weights["r_max"]),
        "n_features": n_features,
        "max_degree": max_degree,
        "message_degree": before,
        "correlation": model["products"][0]["correlation"][0],
        "parity": parity,
        "n_interactions": n,
        "residual_first": layers[0]["class"] == FIRST[1],
        "n_radial": len(radial[0]),
        "envelope_exponent": exponent,
        "envelope_last": not model["radial"]["apply_cutoff"],
        "radial_layers": [w.shape[1] for w in radial[:-1]],
        "n_neighbors": layers[0]["neighbors"],
    }
    if n > 1:
        hidden = weights[f"readouts.{len(model['readouts']) - 1}.linear_1.weight"]
        out["n_hidden"] = hidden.numel() // (n_features * len(model["heads"]))
    return out


def check_covered(model: Description) -> None:
    """Raise NotCoveredError unless every part is one of ours."""
    found: list[tuple[str, Any, Any]] = [
        ("class", model["class"], ("MACE", "ScaleShiftMACE")),
        ("radial basis", model["radial"]["basis"], ("BesselBasis",)),
        ("envelope", model["radial"]["envelope"], ("PolynomialCutoff",)),
        ("distance transform", model["radial"]["distance_transform"], ("NoneType",)),
        ("pair repulsion", model["repulsion"], ("NoneType", "ZBLBasis")),
        ("SO(3) without parity (use_so3)", model["options"]["use_so3"], (None, False, True)),
        ("normalization of harmonics", model["harmonics"][1], ("component",)),
        ("normalized harmonics", model["normalized"], (True,)),
    ]
    for k, layer in enumerate(model["interactions"]):
        found += [
            (f"interaction {k}", layer["class"], FIRST if k == 0 else FIRST[1:]),
            (f"edge irreps of interaction {k}", layer["edge_irreps"], (layer["node_feats_irreps"],)),
            (f"radial network of interaction {k}", layer["radial"], ("FullyConnectedNet",)),
            (f"cueq_config of interaction {k}", layer["cueq"], (None,)),
            (f"neighbors of interaction {k}", layer["neighbors"], (model["interactions"][0]["neighbors"],)),
        ]
        found += [(f"parts of interaction {k}", name, PARTS) for name in layer["children"]]
        found += [(f"activation of interaction {k}", a and a[0], ("silu", None)) for a in layer["activations"]]
        found += [(f"variances of interaction {k}", pair, ([1.0, 1.0],)) for pair in layer["variances"]]
    for k, product in enumerate(model["products"]):
        found += [
            (f"product {k}", product["class"], ("EquivariantProductBasisBlock",)),
            (f"contraction {k}", product["contraction"], ("SymmetricContraction",)),
            (f"residual of product {k}", product["residual"], (model["interactions"][k]["class"] == FIRST[1],)),
        ]
        first = model["products"][0]["correlation"][0]
        found += [(f"correlation of product {k}", c, (first,)) for c in product["correlation"]]
        found.append((f"correlation of product {k}", first, (1, 2, 3)))
    for k, readout in enumerate(model["readouts"]):
        is_last = k == len(model["readouts"]) - 1 and len(model["interactions"]) > 1
        found.append(
            (f"readout {k}", readout["class"], ("NonLinearReadoutBlock" if is_last else "LinearReadoutBlock",))
        )
        found += [(f"activation of readout {k}", a and a[0], ("silu",)) for a in readout.get("activations", [])]
    found += [("part", name, CHILDREN) for name in model["children"]]
    for what, value, known in found:
        if value not in known:
            told = ", ".join(map(str, known))
            raise NotCoveredError(f"{what} is {value}; covered is {told}. Use this model with mace-torch itself.")
    _check_irreps(model)


def _check_irreps(model: Description) -> None:
    """Degrees of every array are those that ours has."""
    layers, parity = model["interactions"], _has_parity(model)
    n, degree = _tensor(layers[0]["target_irreps"], "target_irreps", parity)
    message = _tensor(layers[-1]["node_feats_irreps"], "node_feats_irreps", parity)[1]
    last = len(layers) - 1
    for k, (layer, product) in enumerate(zip(layers, model["products"], strict=True)):
        expected = {
            "node_feats_irreps": (n, message if k else 0),
            "edge_attrs_irreps": (1, degree),
            "target_irreps": (n, degree),
            "hidden_irreps": (n, message if k < last else 0),
        }
        wrong = [
            (name, layer[name]) for name, pair in expected.items() if _tensor(layer[name], name, parity) != pair
        ]
        if _tensor(product["irreps_out"], "irreps_out", parity) != expected["hidden_irreps"]:
            wrong.append(("irreps_out", product["irreps_out"]))
        if wrong:
            raise NotCoveredError(
                f"{wrong[0][0]} of layer {k} is {wrong[0][1]}: covered are equal numbers of channels of the "
                "degrees 0 to L, of natural parity, and scalars alone after the last layer. Use this model with "
                "mace-torch itself."
            )
    if degree > 3 or message > 2:
        raise NotCoveredError(f"Harmonics to degree {degree}, messages to {message}: covered are 3 and 2.")


def _has_parity(model: Description) -> bool:
    return not model["options"]["use_so3"]


def _tensor(irreps: str, name: str, parity: bool) -> tuple[int, int]:
    """Channels and highest degree of irreps such as 64x0e+64x1o, or 64x0e+64x1e without parity."""
    parts = [re.fullmatch(r"(\d+)x(\d+)([eo])", part) for part in irreps.replace(" ", "").split("+")]
    n = {part[1] for part in parts if part}
    if len(n) == 1 and all(p and (int(p[2]), p[3]) == (k, "eo"[k % 2 * parity]) for k, p in enumerate(parts)):
        return int(n.pop()), len(parts) - 1
    raise NotCoveredError(
        f"{name} is {irreps}: covered are equal numbers of channels of the degrees 0 to L, of natural parity, or "
        "all even with use_so3. Use this model with mace-torch itself."
    )


def _first_radial(k: int) -> str:
    return f"interactions.{k}.conv_tp_weights.layer0.weight"


def _n_radial(weights: Tensors) -> int:
    return sum(name.startswith("interactions.0.conv_tp_weights.") for name in weights)


def backbone_weights(model: Description, weights: Tensors, head: int = 0) -> dict[str, Tensor]:
    """The state of `models.mace.MACE`, float64.

    Args:
        model: covered.
        weights: by mace-torch's names.
        head: number of the one that is taken.
    """
    order, n = _order(weights), arguments(model, weights)["n_features"]
    w = {name: t.double() for name, t in weights.items()}
    n_elements, n_heads = len(order), len(model["heads"])
    out = {"embedding": w["node_embedding.linear.weight"].view(n_elements, n)[order] / math.sqrt(n_elements)}
    for k in range(len(model["interactions"])):
        own = {
            name.removeprefix(f"interactions.{k}."): t
            for name, t in w.items()
            if name.startswith(f"interactions.{k}.")
        }
        own |= {
            name.removeprefix(f"products.{k}."): t for name, t in w.items() if name.startswith(f"products.{k}.sym")
        }
        own |= {"after": w[f"products.{k}.linear.weight"], "r_max": w["r_max"]}
        own["prefactor"] = w["radial_embedding.bessel_fn.prefactor"]
        out |= {f"layers.{k}.{name}": t for name, t in _layer(model, k, own, n, order).items()}
    readouts, n_linear = model["readouts"], max(len(model["interactions"]) - 1, 1)
    linear = torch.zeros(n_linear, n, 1, dtype=torch.float64)
    for k in range(len(readouts) - (len(model["interactions"]) > 1)):
        linear[k] = w[f"readouts.{k}.linear.weight"].view(n, n_heads)[:, head : head + 1] / math.sqrt(n)
    out["readouts"] = linear
    frequencies = "basis.frequencies" if not model["radial"]["apply_cutoff"] else "basis.basis.frequencies"
    out[frequencies] = w["radial_embedding.bessel_fn.bessel_weights"]
    if len(model["interactions"]) > 1:
        name, act = f"readouts.{len(readouts) - 1}", readouts[-1]["activations"][0]
        hidden = w[f"{name}.linear_1.weight"].view(n, n_heads, -1)
        out["hidden"] = hidden[None, :, head] / math.sqrt(n)
        last = w[f"{name}.linear_2.weight"].view(n_heads, -1, n_heads)[head, :, head]
        out["last_readout"] = last[:, None] * act[1] / SECOND_MOMENT / math.sqrt(n_heads * len(last))
    return {name: t.contiguous() for name, t in out.items()}


def _order(weights: Tensors) -> list[int]:
    """Rows of the elements by atomic number."""
    return weights["atomic_numbers"].argsort().tolist()  # type: ignore[no-any-return]


def _layer(model: Description, k: int, w: Tensors, n: int, order: list[int]) -> dict[str, Tensor]:
    """Weights of `models.mace.Layer`."""
    interaction = model["interactions"][k]
    parity = _has_parity(model)
    before, degree, after = (
        _tensor(interaction[name], name, parity)[1]
        for name in ("node_feats_irreps", "target_irreps", "hidden_irreps")
    )
    own, n_elements = paths(before, degree, parity=parity), len(order)
    prefactor = float(w["prefactor"]) / math.sqrt(2 / float(w["r_max"]))
    out = {"up": w["linear_up.weight"].view(before + 1, n, n) / math.sqrt(n)}
    factor = prefactor
    for number, act in enumerate(interaction["activations"]):
        layer = w[f"conv_tp_weights.layer{number}.weight"]
        out[f"radial.{2 * number}.weight"] = factor * layer.T / math.sqrt(len(layer))
        factor = act[1] if act else 1.0
    signs = _signs(own, interaction["couplings"], parity)
    out["mix"] = signs * w["linear.weight"].view(len(own), n, n) / (math.sqrt(n) * _fan_in(own))
    skip = w["skip_tp.weight"].view(-1, n, n_elements, n).permute(2, 0, 1, 3)[order]
    out["skip"] = skip / math.sqrt(n * n_elements)
    out["linear"] = w["after"].view(after + 1, n, n) / math.sqrt(n)
    coupling = torch.cat([_coupling(w, degree, to, model, k) for to in range(after + 1)], dim=1)
    out["coupling"] = coupling.expand(n_elements, -1, -1)[order]
    return out


def _signs(own: tuple[Path, ...], theirs: Sequence[float], parity: bool) -> Tensor:
    """Of each path: of its coupling, and of its harmonic where the direction of edges matters."""
    symbols = [wigner_3j(*path) for path in own]
    ours = [float(np.sign(symbol[symbol != 0][0])) for symbol in symbols]
    turned = [1.0 if parity else (-1.0) ** path.harmonic for path in own]
    signs = [a * b * c for a, b, c in zip(ours, theirs, turned, strict=True)]
    return torch.tensor(signs, dtype=torch.float64)[:, None, None]


def _fan_in(own: tuple[Path, ...]) -> Tensor:
    """√ of the number of paths to the degree of each."""
    numbers = [sum(p.target == path.target for p in own) for path in own]
    return torch.tensor(numbers, dtype=torch.float64).sqrt()[:, None, None]


def _coupling(w: Tensors, degree: int, to: int, model: Description, k: int) -> Tensor:
    """Weights (n_elements, n_products, n) of our products to one degree; (1, …) where elements share them."""
    name, highest = f"symmetric_contractions.contractions.{to}", model["products"][k]["correlation"][to]
    out = []
    for order in range(1, highest + 1):
        theirs = w[f"{name}.weights_max" if order == highest else f"{name}.weights.{highest - 1 - order}"]
        u, parity = w[f"{name}.U_matrix_{order}"].numpy(), _has_parity(model)
        matrix = torch.from_numpy(independent(u, degree, to, order, parity=parity))
        out.append(torch.einsum("pk,zkc->zpc", matrix, theirs))
    return torch.cat(out, dim=1)


def independent(
    u: np.ndarray[Any, Any], max_degree: int, degree: int, order: int, *, parity: bool
) -> np.ndarray[Any, Any]:
    """M (n_products, n_couplings): what each coupling U of A ⊗ … ⊗ A is in our independent products.

    Args:
        u: (2L + 1, n, …, n, n_couplings) with `order` axes of n, without the first axis if L is 0.
        max_degree: l of A, n = (l + 1)².
        degree: L of the products.
        order: number of factors.
        parity: only products of natural parity.

    Raises:
        NotCoveredError: a coupling is no sum of ours.
    """
    n = (max_degree + 1) ** 2
    u = u.reshape(2 * degree + 1, *[n] * order, -1)
    ours = symmetric_products(tuple(range(max_degree + 1)), degree, order, parity=parity)
    b: dict[tuple[int, ...], Any] = {}
    every: Any = slice(None)
    for place in np.argwhere(np.abs(u).max(axis=(0, -1)) > 0).tolist():
        key = tuple(sorted(place))
        b[key] = b.get(key, 0) + u[(every, *place)]
    keys = sorted({*b, *(key for p in ours for key in p)})
    nothing = np.zeros((2 * degree + 1, u.shape[-1]))
    theirs = np.array([b.get(key, nothing) for key in keys]).reshape(-1, u.shape[-1])
    if not ours:
        known, m = np.zeros_like(theirs), np.zeros((0, u.shape[-1]))
    else:
        no = np.zeros(2 * degree + 1)
        polynomials = (
            np.array([[p.get(key, no) for p in ours] for key in keys]).swapaxes(1, 2).reshape(-1, len(ours))
        )
        m, *_ = np.linalg.lstsq(polynomials, theirs, rcond=None)
        known = polynomials @ m
    wrong = float(np.abs(known - theirs).max(initial=0.0))
    if wrong > 1e-5:
        raise NotCoveredError(
            f"Couplings of {order} factors to degree {degree} are none of ours (by {wrong:.1g})."
        )
    return m
