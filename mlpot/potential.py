"""A potential: a backbone between reference energies and physical units.

    E_i = E0(Z_i) + s(Z_i) [b_i − b(Z_i isolated)] + t(Z_i) (1 − exp(−n_i²)) + E_i^ZBL,    n_i = Σ_j u(d_ij)

b_i is the backbone's output; s is the energy scale and t the energy shift of an element. The backbone's output for
the isolated atom is subtracted, and neighbors switch the shift on: an isolated atom has exactly the energy E0.
After training, `terms.core_repulsion` takes over where atoms are closer than in training or have fewer neighbors.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, cast

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from mlpot.extrapolation import Domain
from mlpot.graph import AtomGraph, Edges
from mlpot.kernels.reductions import distances, sum_at_centers
from mlpot.knots import RadialTable
from mlpot.models import build_backbone
from mlpot.models.backbone import Backbone, atom_features
from mlpot.models.committee import Committee
from mlpot.models.layers import LIMITS, MAX_Z
from mlpot.module_state import ModuleState
from mlpot.stages.radial import PolynomialEnvelope
from mlpot.terms.core_repulsion import CoreRepulsion, TrainingLimits
from mlpot.terms.zbl import UNIVERSAL, ZBL, Form
from mlpot.torch_settings import DTYPES, known_dtype, usual_settings, without_autocast

Outputs = Callable[[Tensor, Edges, Tensor], Tensor]
"""b (n_atoms,) from numbers, edges and vectors, as of `models.backbone`."""


class UnknownElementError(ValueError):
    """A structure holds an element that the potential was not made for."""


class Potential(nn.Module):
    """Atomic energies of structures made of known elements.

    Args:
        backbone: a name in `models.BACKBONES`.
        arguments: keyword arguments of the backbone.
        reference_energies: eV of each free atom, by atomic number; its keys are the elements of the potential.
        energy_scale: eV by atomic number.
        energy_shift: eV by atomic number.
        repulsion: add the ZBL repulsion at short range; in the form of another package if one is given.
        cutoff: Å, of u and of the repulsion, where it is larger than that of the backbone.

    Raises:
        ValueError: an element or a cutoff is none.
        TypeError: an argument of the backbone is none of its, or of another kind.
    """

    element_index: Tensor
    reference: Tensor
    energy_scale: Tensor
    energy_shift: Tensor
    isolated: Tensor
    header: dict[str, Any]  # of the model file; empty if the potential was not loaded from one

    def __init__(
        self,
        backbone: str,
        arguments: Mapping[str, object],
        *,
        reference_energies: Mapping[int, float],
        energy_scale: Mapping[int, float] | None = None,
        energy_shift: Mapping[int, float] | None = None,
        repulsion: bool | Form = False,
        cutoff: float | None = None,
    ):
        super().__init__()
        if not isinstance(arguments, Mapping):
            raise TypeError(f"arguments = {str(arguments)[:40]}: give those of the backbone by name, or {{}}.")
        self.header = {}
        _check_by_element("reference_energies", reference_energies)
        _check_by_element("energy_scale", energy_scale or {})
        _check_by_element("energy_shift", energy_shift or {})
        self.elements = tuple(sorted(int(z) for z in reference_energies))
        if not self.elements or self.elements[0] < 1 or self.elements[-1] > MAX_Z:
            raise ValueError(f"A potential needs elements with 1 <= Z <= {MAX_Z}, got {self.elements}.")
        self.backbone_name, self.arguments = backbone, dict(arguments)
        self.backbone = build_backbone(backbone, elements=self.elements, **self.arguments)
        self.cutoff = float(self.backbone.cutoff if cutoff is None else cutoff)  # Å
        if not self.backbone.cutoff <= self.cutoff <= LIMITS["cutoff"]:
            raise ValueError(
                f"The cutoff of a potential, {self.cutoff:g} Å, is at least that of its backbone, "
                f"{self.backbone.cutoff:g} Å, and at most {LIMITS['cutoff']:g} Å."
            )
        self.envelope = PolynomialEnvelope(self.cutoff)
        form = repulsion if isinstance(repulsion, Form) else UNIVERSAL
        self.repulsion = ZBL(self.cutoff, form) if repulsion else None
        # What no file holds is made in memory, even within `without_values`.
        index = torch.full((MAX_Z + 1,), -1, device="cpu")
        index[list(self.elements)] = torch.arange(len(self.elements), device="cpu")
        self.register_buffer("element_index", index, persistent=False)
        self.register_buffer("reference", _by_element(reference_energies, self.elements, torch.float64))
        self.register_buffer("energy_scale", _by_element(energy_scale or {}, self.elements, missing=1.0))
        self.register_buffer("energy_shift", _by_element(energy_shift or {}, self.elements, missing=0.0))
        nothing = torch.empty(0, dtype=torch.float32, device="cpu")  # until freeze()
        self.register_buffer("isolated", nothing, persistent=False)
        self.domain: Domain | None = None  # of the training structures, after training
        self.core_repulsion: CoreRepulsion | None = None  # after training
        self.register_load_state_dict_pre_hook(_accept_old_names)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_renew_constants)  # type: ignore[no-untyped-call]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, in which the backbone computes."""
        return self.energy_scale.dtype

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor, outputs: Outputs | None = None) -> Tensor:
        """Atomic energies (n_atoms,) eV above the references, from edge vectors (n_edges, 3) Å.

        Autocast changes nothing: energies of 16 bits, and slopes of splines of 16 bits, are noise.

        Args:
            numbers: (n_atoms,) atomic numbers.
            edges: from each atom to its neighbors.
            vectors: of the type of the weights.
            outputs: what computes b instead of the backbone.
        """
        with without_autocast(vectors):
            return self._atomic_energies(numbers, edges, vectors, outputs or self.backbone)

    def _atomic_energies(self, numbers: Tensor, edges: Edges, vectors: Tensor, outputs: Outputs) -> Tensor:
        kind, repelled = self.element_index.index_select(0, numbers), None
        if self.core_repulsion is not None:
            vectors, repelled = self.core_repulsion(numbers, kind, edges, vectors)
        backbone = self._above_isolated(numbers, kind, edges, vectors, outputs)
        coordination = sum_at_centers(self.envelope(distances(vectors)), edges)
        energy: Tensor = self.energy_scale.index_select(0, kind) * backbone
        if self.core_repulsion is not None:
            energy = energy * self.core_repulsion.backbone_weight(kind, coordination)
        energy = energy + self.energy_shift.index_select(0, kind) * (1 - torch.exp(-coordination.square()))
        if self.repulsion is not None:
            energy = energy + self.repulsion(numbers, edges, vectors)
        if repelled is not None:
            energy = energy + repelled
        # b_i and b(Z_i isolated) differ in the last bit when they come from products of different sizes.
        return torch.where(edges.row_ptr.diff() > 0, energy, 0.0)

    def reference_energies(self, numbers: Tensor) -> Tensor:
        """E0 of each atom, (n_atoms,) float64, eV.

        Raises:
            UnknownElementError: an element has no reference.
        """
        self.check_elements(numbers)
        return self.reference.index_select(0, self.element_index.index_select(0, numbers))

    def extrapolation_grade(self, graph: AtomGraph) -> Tensor | None:
        """Extrapolation grade of each atom, (n_atoms,); 99.9 % of the training atoms are below 1.

        None if the file of the potential holds no statistics of its training.
        """
        if self.domain is None:
            return None
        kind = self.element_index.index_select(0, graph.numbers)
        return self.domain(kind, self.atom_features(graph))

    def atom_features(self, graph: AtomGraph) -> Tensor:
        """What the backbone's readout receives, (n_atoms, n_features), without gradients."""
        return atom_features(self.backbone, graph)

    def check_elements(self, numbers: Tensor) -> None:
        """Raise UnknownElementError unless every atom is of a known element; TypeError for what is no tensor."""
        if not isinstance(numbers, Tensor):
            raise TypeError("Atomic numbers are a tensor of integers here: torch.tensor(atoms.numbers).")
        known = (numbers >= 0) & (numbers <= MAX_Z)
        known &= self.element_index.index_select(0, numbers.clamp(0, MAX_Z)) >= 0
        if bool(known.all()):
            return
        bad = sorted(set(numbers[~known].tolist()))
        names = ", ".join(chemical_symbols[z] if 0 < z <= MAX_Z else f"atomic number {z}" for z in bad)
        raise UnknownElementError(
            f"{names} {'is' if len(bad) == 1 else 'are'} unknown to this potential, made for "
            f"{', '.join(chemical_symbols[z] for z in self.elements)}. Use a potential trained on these elements."
        )

    def add_core_repulsion(self, limits: TrainingLimits, start: Potential | None = None) -> None:
        """Replace the backbone beyond the limits of its training, see `terms.core_repulsion`.

        Args:
            limits: of this training.
            start: the potential that it started from, whose training counts too.
        """
        added = CoreRepulsion.of(self.elements, limits, self.cutoff)
        if start is not None and start.core_repulsion is not None:
            added.keep(start.core_repulsion.to("cpu"), self.elements, start.elements, limits)
        self.core_repulsion = added.to(self.energy_scale.device)
        _renew_constants(self)

    def freeze(self) -> Potential:
        """For use, not training: evaluation mode, no gradients of weights, constants computed once."""
        self.eval().requires_grad_(False)
        self._compute_constants()
        return self

    def _compute_constants(self) -> None:
        with usual_settings():
            _let_autograd_keep(self)
            for module in self.modules():
                if isinstance(module, RadialTable):
                    module.freeze()
            self.isolated = self._isolated_outputs()
        self._state = ModuleState(self)

    def renew(self) -> None:
        """Compute what `freeze` computed again if a weight was changed or replaced since then."""
        if self.is_frozen and not self._state.holds():
            self._compute_constants()

    def members(self) -> list[Potential]:
        """The potentials whose mean a committee is, frozen; none if this is no committee."""
        if not isinstance(self.backbone, Committee):
            return []
        of: dict[str, Any] = dict(self.arguments)
        own = of.get("member_arguments") or [{}] * len(self.backbone.members)
        members = []
        for k, arguments in enumerate(own):
            member = copy.deepcopy(self)  # reference energies, scales and training limits are common to all
            member.backbone = cast("Backbone", cast("Committee", member.backbone).members[k])
            member.backbone_name, member.arguments = of["member"], of["arguments"] | arguments
            member.domain, member.header = None, {}
            members.append(member.freeze())
        return members

    @property
    def n_passes(self) -> int:
        """Messages that an atomic energy depends on: it reaches that many cutoffs, and at least one."""
        return max(1, self.backbone.n_passes)

    @property
    def mirror_images(self) -> str:
        """Whether a structure and its mirror image can have different energies, in words."""
        obstacle = self.backbone.handedness_obstacle()
        if self.backbone.parity or obstacle is not None:
            return "have one energy" + ("" if obstacle is None else f" ({obstacle})")
        return "are told apart"

    @property
    def is_frozen(self) -> bool:
        """Whether `freeze` was called, and no `train` since then."""
        return self._buffers["isolated"].shape[0] > 0  # type: ignore[union-attr]  # made in __init__, never None

    def __getstate__(self) -> dict[str, Any]:
        self.renew()  # a copy cannot tell what changed before
        return {name: value for name, value in self.__dict__.items() if name != "_state"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        with usual_settings():
            _let_autograd_keep(self)
        self._state = ModuleState(self)

    def _above_isolated(
        self, numbers: Tensor, kind: Tensor, edges: Edges, vectors: Tensor, outputs: Outputs
    ) -> Tensor:
        """b_i − b(Z_i isolated); in training, one isolated atom of each element is computed in the same pass."""
        if self.is_frozen:
            return outputs(numbers, edges, vectors) - self.isolated.index_select(0, kind)
        elements = torch.tensor(self.elements, dtype=torch.int64, device=numbers.device)
        row_ptr = torch.cat([edges.row_ptr, edges.row_ptr[-1:].expand(len(elements))])
        with_isolated = Edges(edges.center, edges.neighbor, row_ptr, edges.reverse)
        b = outputs(torch.cat([numbers, elements]), with_isolated, vectors)
        n = len(numbers)
        return b[:n] - b[n:].index_select(0, kind)

    def train(self, mode: bool = True) -> Potential:
        """As nn.Module.train; what `freeze` computed from the weights is forgotten."""
        if mode:
            self.isolated = self.isolated.new_empty(0)
        super().train(mode)
        return self

    def _isolated_outputs(self) -> Tensor:
        numbers = torch.tensor(self.elements, device=self.energy_scale.device)
        nothing = numbers.new_empty(0)
        edges = Edges(nothing, nothing, numbers.new_zeros(len(numbers) + 1), nothing)
        return self.backbone(numbers, edges, self.energy_scale.new_empty(0, 3))

    def to(self, *args: Any, **kwargs: Any) -> Potential:
        """As nn.Module.to; a type of numbers may have a name too, as everywhere: to("float64").

        Raises:
            ValueError: there is no such device or type.
        """
        if args and isinstance(args[0], str) and args[0].removeprefix("torch.") in DTYPES:
            args = (DTYPES[args[0].removeprefix("torch.")], *args[1:])
        if isinstance(kwargs.get("dtype"), str):
            kwargs["dtype"] = known_dtype(kwargs["dtype"])
        return super().to(*args, **kwargs)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        """Reference energies stay float64 whatever the type of the weights: 4000 eV leave float32 0.2 meV."""
        with usual_settings():
            reference = self.reference
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            self.reference = reference.to(self.reference.device)
        if self.is_frozen:
            self._compute_constants()
        return self


RENAMED = {
    "scale": "energy_scale",
    "shift": "energy_shift",
    "wall.distances": "core_repulsion.distances",
    "wall.crowds": "core_repulsion.coordination",
}
"""Names of weights in model files of format 2 and in training checkpoints of that time, and their names today."""


def _accept_old_names(_: Potential, weights: dict[str, Any], prefix: str, *__: object) -> None:
    for old, new in RENAMED.items():
        if prefix + old in weights:
            weights[prefix + new] = weights.pop(prefix + old)


def _let_autograd_keep(module: nn.Module) -> None:
    """Tensors that were made in inference mode, which autograd refuses, are replaced by copies."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_inference():
                part._parameters[name] = nn.Parameter(parameter.clone(), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_inference():
                part._buffers[name] = buffer.clone()


def _renew_constants(potential: Potential, _: object = None) -> None:
    """Compute the constants of `freeze` again, from new weights or with core repulsion."""
    if potential.is_frozen:
        potential._compute_constants()


def _check_by_element(name: str, values: Any) -> None:
    """Raise ValueError for what are no finite numbers by atomic number."""
    if isinstance(values, Mapping) and len(values) > MAX_Z:  # too many elements, which costs nothing to say
        return
    told = f"{name} = {str(values)[:40]}: give finite numbers of eV by atomic number: {{1: -13.6, 8: -2041.3}}."
    if not isinstance(values, Mapping) or not all(isinstance(z, Integral) for z in values):
        raise ValueError(told)
    if not all(isinstance(x, Real) and math.isfinite(x) for x in values.values()):
        raise ValueError(told)


def _by_element(
    values: Mapping[int, float],
    elements: tuple[int, ...],
    dtype: torch.dtype | None = None,
    missing: float | None = None,
) -> Tensor:
    column = [values[z] if missing is None else values.get(z, missing) for z in elements]
    return torch.tensor(column, dtype=dtype or torch.float32)
