"""A trained model of mace-torch as a potential of ours: the same function, compared before it is written.

mace-torch's file is a pickle and opened only by the Python of the environment that has mace-torch, in a process of
its own (`inside_mace`). What comes back are numbers.

    E = Σ_i E0(Z_i) + scale (Σ_i b_i + ZBL) + shift n        class MACE: scale 1, shift 0

Our potentials subtract what a network gives for an isolated atom, and have the energy of that atom instead. So it
is E0 + shift + scale b(isolated), which is what the original gives for it; E0 itself is kept in the card.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from torch import Tensor

from mlpot.forces import predict
from mlpot.importers.mace_weights import NotCoveredError, arguments, backbone_weights, check_covered
from mlpot.model_file import read_tensors, save_potential
from mlpot.neighbors import build_graph
from mlpot.potential import Potential
from mlpot.terms.zbl import Form

INSIDE = Path(__file__).with_name("inside_mace.py")
KNOTS = (128, 256, 512, 1024, 2048, 4096)
"""Numbers of intervals of the radial functions that are tried, until the potential is the model."""
BAR = {torch.float64: 1e-8, torch.float32: 1e-6}
"""Of the size of what is compared, at least 1 eV, eV/Å, eV/Å³."""
GAIN = 0.8  # of errors in float32, by twice as many intervals; above it they are of rounding
MOST_PAIRS = 60

Answers = Mapping[str, Tensor]
Tell = Callable[[str], None]


class NotTheSameError(ValueError):
    """The potential differs from the model by more than rounding."""


class MaceProcessError(ValueError):
    """The other Python could not open the model."""


@dataclass(frozen=True)
class Differences:
    """Largest ones over all structures, of energies in eV, forces in eV/Å, stresses in eV/Å³."""

    energy: float
    forces: float
    stress: float

    def __str__(self) -> str:
        return f"energy {self.energy:.1e} eV, forces {self.forces:.1e} eV/Å, stress {self.stress:.1e} eV/Å³"

    @property
    def largest(self) -> float:
        """Of all three."""
        return max(self.energy, self.forces, self.stress)


def import_mace(
    model: Path,
    out: Path,
    *,
    python: Path,
    head: str | None = None,
    dtype: torch.dtype | None = None,
    tell: Tell = print,
) -> Potential:
    """Write a model of mace-torch as a potential.

    Args:
        model: what mace-torch saved.
        out: *.safetensors.
        python: of an environment that has mace-torch; opens the pickle in a process of its own.
        head: name of the one that is taken of several.
        dtype: of the potential; that of the model if none is given.
        tell: gets the lines for the user.

    Returns:
        The potential, frozen.

    Raises:
        FileNotFoundError: there is no such model, or no such Python that can be run.
        MaceProcessError: that Python failed; its last words are in the message.
        NotCoveredError: a part of the model is none of ours, or a head must be chosen.
        NotTheSameError: the potential is not the model to rounding; nothing is written.
    """
    if not model.is_file():
        raise FileNotFoundError(f"There is no model {model}. Give the path of the file of one.")
    python = _program(python)
    tell(f"{model} is a pickle, which may run code: it is opened only by {python}, in a process of its own.")
    with tempfile.TemporaryDirectory() as directory:
        description, structures = _ask(python, model, Path(directory))
        weights = read_tensors(Path(directory) / "weights.safetensors")
        answers = read_tensors(Path(directory) / "answers.safetensors")
    number = _head(description["heads"], head)
    potential, exact, single = _matching(description, weights, structures, answers, number, dtype)
    tell(f"Differences of {len(structures)} structures from mace-torch in float64: {exact}.")
    tell(f"In float32, from mace-torch in float64: {single[0]}; of mace-torch itself: {single[1]}.")
    save_potential(potential, out, {"imported": _card(description, weights, number, exact, single)})
    kind = str(potential.dtype).removeprefix("torch.")
    tell(f"Written: {out}, {kind}, elements {' '.join(chemical_symbols[z] for z in potential.elements)}.")
    tell(
        "An isolated atom has the energy that the model gives for it; repulsion at short range is the model's own."
    )
    return potential


def _program(python: Path) -> Path:
    """A Python by its path from here, as it runs elsewhere, or by its name; a link of an environment stays one."""
    program = shutil.which(python.absolute()) or shutil.which(python)
    if program is None:
        raise FileNotFoundError(
            f"There is no Python {python} that can be run. Give the path of one: .../bin/python"
        )
    return Path(program).absolute()


def _ask(python: Path, model: Path, directory: Path) -> tuple[Any, list[Atoms]]:
    """Run `inside_mace`: what it says of the model, and the structures that it was asked about."""
    script = shutil.copy(INSIDE, directory)  # from elsewhere: beside it lies a file called mace
    command = [str(python), "-W", "ignore", script, str(model.resolve()), str(directory)]
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    structures: list[Atoms] = []
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        (directory / "errors.txt").open("w") as errors,
        subprocess.Popen(command, text=True, cwd=directory, env=own, stderr=errors, **pipes) as process,  # type: ignore[call-overload]
    ):
        for line in process.stdout:
            if line.startswith("elements:"):
                structures = examples(json.loads(line.removeprefix("elements:")))
                process.stdin.write(json.dumps([_plain(atoms) for atoms in structures]) + "\n")
                process.stdin.flush()
    description = directory / "description.json"
    if process.returncode and (directory / "weights.safetensors").is_file():  # it was opened, but did not answer
        check_covered(json.loads(description.read_text()))  # as a model that asks for charges of its structures
    if process.returncode or not description.is_file():  # other programs than Python may end well too
        last = "\n".join((directory / "errors.txt").read_text().strip().splitlines()[-3:])
        raise MaceProcessError(
            f"{python} could not open {model} as a model of mace-torch:\n{last}\n"
            "Give --python of an environment with the mace-torch that saved it."
        )
    return json.loads(description.read_text()), structures


def _head(heads: Sequence[str], asked: str | None) -> int:
    if asked is None and len(heads) == 1:
        return 0
    if asked is None or asked not in heads:
        told = "It has several heads" if asked is None else f"It has no head {asked!r}"
        raise NotCoveredError(f"{told}: choose one of {', '.join(heads)} by --head.")
    return list(heads).index(asked)


def examples(elements: Sequence[int]) -> list[Atoms]:
    """Isolated atoms, dimers, a cluster, small cells, a dense cluster and a slab; every element in some."""
    rng = np.random.default_rng(0)
    out = [Atoms([z]) for z in elements]
    pairs = [(a, b) for k, a in enumerate(elements) for b in elements[k:]]
    for a, b in pairs[:: 1 + len(pairs) // MOST_PAIRS]:
        for part in (0.7, 1.3):
            along = np.array([2.0, -1.0, 2.0]) / 3 * part * (covalent_radii[a] + covalent_radii[b])
            out.append(Atoms([a, b], [np.zeros(3), along]))
    skewed = np.array([[1.0, 0.1, 0.0], [-0.2, 0.9, 0.1], [0.0, 0.2, 1.1]])
    for n, per_atom, pbc in ((12, 15.0, False), (2, 8.0, True), (24, 6.0, True), (16, 15.0, (True, True, False))):
        chosen = np.concatenate([elements, rng.choice(elements, n)])[: max(n, len(elements) if n > 2 else n)]
        cell = skewed * (len(chosen) * per_atom) ** (1 / 3)
        out.append(Atoms(chosen, _apart(rng, len(chosen), cell), cell=cell, pbc=pbc))
    return out


def _apart(rng: np.random.Generator, n: int, cell: Any) -> Any:
    """Places in a cell, none on another."""
    grid = np.ceil(n ** (1 / 3)).astype(int)
    places = np.argwhere(np.ones((grid, grid, grid)))[rng.permutation(grid**3)[:n]]
    return ((places + rng.uniform(-0.2, 0.2, (n, 3))) / grid) @ cell


def _plain(atoms: Atoms) -> dict[str, Any]:
    cell = atoms.cell.array * atoms.pbc[:, None]
    lists = {"positions": atoms.positions, "numbers": atoms.numbers, "cell": cell, "pbc": atoms.pbc}
    return {name: np.asarray(array).tolist() for name, array in lists.items()}


def _matching(
    model: Mapping[str, Any],
    weights: Answers,
    structures: list[Atoms],
    answers: Answers,
    head: int,
    dtype: torch.dtype | None,
) -> tuple[Potential, Differences, tuple[Differences, Differences]]:
    """The potential with as many knots as it needs, and how far it is from the model in both types.

    More than the bar asks for where float32 is further from the model than mace-torch's own and they help.
    """
    given = weights["r_max"].dtype
    dtype, bar = dtype or given, BAR[dtype or given]
    if given == torch.float32:
        bar = max(bar, 1e-5)  # constants of such a model have seven digits
    theirs = difference(answers, head, "float64", head, "float32", answers, len(structures))
    exact, taken = Differences(math.inf, math.inf, math.inf), None
    for n_knots in KNOTS:
        potential = potential_of(model, weights, head, n_knots)
        exact = compared(potential, structures, answers, head, relative=True)
        if exact.largest > bar:
            continue
        own = compared(copy.deepcopy(potential).float().freeze(), structures, answers, head)
        if taken is None or own.forces <= GAIN * taken[2].forces:
            taken = potential, exact, own
        if taken[0] is not potential or own.forces <= theirs.forces:
            break
    if taken is not None:
        return taken[0].to(dtype).freeze(), taken[1], (taken[2], theirs)
    raise NotTheSameError(
        f"The potential differs from the model by {exact}, above {bar:.0e}: nothing was written. Please report "
        "this model; use it with mace-torch until then."
    )


def potential_of(model: Mapping[str, Any], weights: Answers, head: int, n_knots: int) -> Potential:
    """The potential of one head, float64.

    Args:
        model: description by `inside_mace`.
        weights: by mace-torch's names.
        head: its number.
        n_knots: intervals of the radial functions.
    """
    elements = sorted(weights["atomic_numbers"].tolist())
    references, scale, shift = _outside(weights, head)
    made = Potential(
        "mace",
        arguments(model, weights) | {"n_knots": n_knots},
        reference_energies=references,
        repulsion=_repulsion(model, weights, scale, elements),
    ).double()
    state = made.backbone.state_dict() | backbone_weights(model, weights, head)
    made.backbone.load_state_dict(state)
    made.energy_scale.fill_(scale)
    made.freeze()
    made.reference += shift + scale * made.isolated
    return made.freeze()


def _outside(weights: Answers, head: int) -> tuple[dict[int, float], float, float]:
    """E0 by atomic number, scale and shift of a head."""
    numbers = weights["atomic_numbers"].tolist()
    e0 = weights["atomic_energies_fn.atomic_energies"].double().view(-1, len(numbers))
    constants = []
    for name, default in (("scale_shift.scale", 1.0), ("scale_shift.shift", 0.0)):
        values = weights.get(name, torch.tensor(default, dtype=torch.float64)).double().flatten()
        constants.append(float(values[head if len(values) > 1 else 0]))
    row = e0[head if len(e0) > 1 else 0]
    return dict(zip(numbers, row.tolist(), strict=True)), constants[0], constants[1]


def _repulsion(model: Mapping[str, Any], weights: Answers, scale: float, elements: list[int]) -> Form | bool:
    if model["repulsion"] == "NoneType":
        return False
    cutoff, name = float(weights["r_max"]), "pair_repulsion_fn"
    if 2 * max(covalent_radii[elements]) > cutoff:
        raise NotCoveredError(
            f"The repulsion of nuclei ends beyond the cutoff of {cutoff} Å, where the model cuts it off with a "
            "step. Use this model with mace-torch itself."
        )
    shares = weights[f"{name}.c"].double().tolist()
    return Form(
        screening=tuple(zip(shares, (3.2, 0.9423, 0.4028, 0.2016), strict=True)),
        length=float(weights[f"{name}.a_prefactor"]) * 0.529,
        power=float(weights[f"{name}.a_exp"]),
        charge=14.3996 * scale,
        exponent=int(weights[f"{name}.p"]),
    )


def compared(
    potential: Potential, structures: list[Atoms], answers: Answers, head: int, *, relative: bool = False
) -> Differences:
    """Largest differences from the model in float64; of the size of its values if that is above one."""
    found: dict[str, Tensor] = {}
    for number, atoms in enumerate(structures):
        cell = atoms.cell.array * atoms.pbc[:, None]
        graph = build_graph(atoms.numbers, atoms.positions, cell, atoms.pbc, potential.cutoff)
        out = predict(potential, graph)
        values = {"energy": out.energy, "forces": out.forces, "stress": out.stress}
        found |= {f"0 ours {number} {name}": t for name, t in values.items()}
    return difference(answers, head, "float64", 0, "ours", found, len(structures), relative=relative)


def difference(
    answers: Answers,
    head: int,
    kind: str,
    other_head: int,
    other_kind: str,
    others: Answers,
    n: int,
    *,
    relative: bool = False,
) -> Differences:
    """Of two sets of answers."""
    worst = {}
    for name in ("energy", "forces", "stress"):
        largest = 0.0
        for number in range(n):
            expected = answers.get(f"{head} {kind} {number} {name}")
            if expected is None:
                continue
            size = max(1.0, float(expected.abs().max())) if relative and name != "energy" else 1.0
            off = (others[f"{other_head} {other_kind} {number} {name}"].reshape(expected.shape) - expected).abs()
            largest = max(largest, float(off.max()) / size)
        worst[name] = largest
    return Differences(**worst)


def _card(
    model: Mapping[str, Any],
    weights: Answers,
    head: int,
    exact: Differences,
    single: tuple[Differences, Differences],
) -> dict[str, Any]:
    """What is kept of where a potential comes from."""
    references, scale, shift = _outside(weights, head)
    return {
        "from": model["class"],
        "versions": model["versions"],
        "head": model["heads"][head],
        "reference_energies": {chemical_symbols[z]: e for z, e in references.items()},
        "scale": scale,
        "shift": shift,
        "differences": {
            "float64": str(exact),
            "float32": str(single[0]),
            "of mace-torch's float32": str(single[1]),
        },
    }
