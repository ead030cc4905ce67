"""A potential: a backbone between reference energies and physical units.

    E_i = E0(Z_i) + s(Z_i) [b_i − b(Z_i alone)] + t(Z_i) (1 − exp(−n_i²)) + E_i^ZBL,    n_i = Σ_j u(d_ij)

b_i is the backbone's output, s and t the scale and shift of an element. The backbone's value for the atom alone
is taken off and the shift is switched on by neighbours, so a lone atom has exactly its reference energy E0. After
training all this ends at a wall where atoms are closer, or lonelier, than any were in training: `models.wall`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from mlpot.extrapolation import Domain, atom_features
from mlpot.forces import Native
from mlpot.graph import AtomGraph, Edges
from mlpot.kernels.reductions import distances, sum_at_centers
from mlpot.knots import RadialTable
from mlpot.models import build_backbone
from mlpot.models.layers import MAX_Z
from mlpot.models.native import Elements, native_schnet
from mlpot.models.native_egnn import native_egnn
from mlpot.models.native_training import NativeTraining
from mlpot.stages.radial import PolynomialEnvelope
from mlpot.terms.core_repulsion import Seen, Wall
from mlpot.terms.zbl import ZBL


class UnknownElementError(ValueError):
    """A structure holds an element that the potential was not made for."""


class Potential(nn.Module):
    """Atomic energies of structures made of known elements.

    Args:
        backbone: a name in `models.BACKBONES`.
        arguments: keyword arguments of the backbone.
        reference_energies: eV of each free atom, by atomic number; its keys are the elements of the potential.
        scale: eV by atomic number.
        shift: eV by atomic number.
        repulsion: add the ZBL repulsion at short range.
    """

    element_index: Tensor
    reference: Tensor
    scale: Tensor
    shift: Tensor
    lone: Tensor
    header: dict[str, Any]  # what the file says of it; empty if it was not loaded

    def __init__(
        self,
        backbone: str,
        arguments: Mapping[str, object],
        *,
        reference_energies: Mapping[int, float],
        scale: Mapping[int, float] | None = None,
        shift: Mapping[int, float] | None = None,
        repulsion: bool = False,
    ):
        super().__init__()
        self.header = {}
        self.elements = tuple(sorted(int(z) for z in reference_energies))
        if not self.elements or self.elements[0] < 1 or self.elements[-1] > MAX_Z:
            raise ValueError(f"A potential needs elements with 1 <= Z <= {MAX_Z}, got {self.elements}.")
        self.backbone_name, self.arguments = backbone, dict(arguments)
        self.backbone = build_backbone(backbone, elements=self.elements, **self.arguments)
        self.cutoff = float(self.backbone.cutoff)  # type: ignore[arg-type]  # Å
        self.envelope = PolynomialEnvelope(self.cutoff)
        self.repulsion = ZBL(self.cutoff) if repulsion else None
        index = torch.full((MAX_Z + 1,), -1)
        index[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("element_index", index, persistent=False)
        self.register_buffer("reference", _by_element(reference_energies, self.elements, torch.float64))
        self.register_buffer("scale", _by_element(scale or {}, self.elements, missing=1.0))
        self.register_buffer("shift", _by_element(shift or {}, self.elements, missing=0.0))
        self.register_buffer("lone", torch.empty(0), persistent=False)  # filled by freeze()
        self.domain: Domain | None = None  # of its training, once that is over
        self.wall: Wall | None = None  # likewise
        self._training = NativeTraining()
        self.native: Native | None = self._for_training  # until freeze()
        self.register_load_state_dict_post_hook(_renew_constants)  # type: ignore[no-untyped-call]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, in which the backbone computes."""
        return self.scale.dtype

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) eV above the references, from edge vectors (n_edges, 3) Å."""
        kind, pushed = self.element_index.index_select(0, numbers), None
        if self.wall is not None:
            vectors, pushed = self.wall(numbers, kind, edges, vectors)
        backbone = self._above_lone(numbers, kind, edges, vectors)
        crowd = sum_at_centers(self.envelope(distances(vectors)), edges)
        energy: Tensor = self.scale.index_select(0, kind) * backbone
        if self.wall is not None:
            energy = energy * self.wall.share(kind, crowd)
        energy = energy + self.shift.index_select(0, kind) * (1 - torch.exp(-crowd.square()))
        if self.repulsion is not None:
            energy = energy + self.repulsion(numbers, edges, vectors)
        if pushed is not None:
            energy = energy + pushed
        # b_i and b(Z_i alone) differ in the last bit when they come from products of different sizes.
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
        return self.domain(kind, atom_features(self.backbone, graph))

    def check_elements(self, numbers: Tensor) -> None:
        """Raise UnknownElementError unless every atom is of a known element."""
        known = (numbers >= 0) & (numbers <= MAX_Z)
        known &= self.element_index.index_select(0, numbers.clamp(0, MAX_Z)) >= 0
        if bool(known.all()):
            return
        bad = sorted(set(numbers[~known].tolist()))
        raise UnknownElementError(
            f"Atomic numbers {bad} are unknown to this potential, made for "
            f"{', '.join(chemical_symbols[z] for z in self.elements)}. Use a potential trained on these elements."
        )

    def build_wall(self, seen: Seen) -> None:
        """Ask the backbone no more of atoms that are closer or lonelier than in training, see `models.wall`."""
        self.wall = Wall.of(self.elements, seen, self.cutoff).to(self.scale.device)
        _renew_constants(self)

    def freeze(self) -> Potential:
        """For use, not training: evaluation mode, no gradients of weights, constants computed once."""
        self.eval().requires_grad_(False)
        self._compute_constants()
        return self

    def _compute_constants(self) -> None:
        for module in self.modules():
            if isinstance(module, RadialTable):
                module.freeze()
        self.lone = self._lone_energies()
        known = self.backbone, self._elements(), self.lone
        self.native = native_schnet(*known) or native_egnn(*known)

    def _elements(self) -> Elements:
        return Elements(self.elements, self.reference, self.scale, self.shift, self.repulsion, self.wall)

    def _above_lone(self, numbers: Tensor, kind: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """b_i − b(Z_i alone); in training one lone atom of each element rides along in the same pass."""
        if len(self.lone):
            b: Tensor = self.backbone(numbers, edges, vectors)
            return b - self.lone.index_select(0, kind)
        elements = torch.tensor(self.elements, device=numbers.device)
        row_ptr = torch.cat([edges.row_ptr, edges.row_ptr[-1:].expand(len(elements))])
        with_lone = Edges(edges.center, edges.neighbor, row_ptr, edges.reverse)
        b = self.backbone(torch.cat([numbers, elements]), with_lone, vectors)
        n = len(numbers)
        return b[:n] - b[n:].index_select(0, kind)

    def train(self, mode: bool = True) -> Potential:
        """As nn.Module.train; what `freeze` computed from the weights is forgotten."""
        if mode:
            self.lone, self.native = self.lone.new_empty(0), self._for_training
        super().train(mode)
        return self

    def _for_training(self, graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor] | None:
        """A native call for weights that may change; behind a wall there is none."""
        return None if self.wall is not None else self._training(self.backbone, self._elements(), graph)

    def _lone_energies(self) -> Tensor:
        numbers = torch.tensor(self.elements, device=self.scale.device)
        nothing = numbers.new_empty(0)
        edges = Edges(nothing, nothing, numbers.new_zeros(len(numbers) + 1), nothing)
        lone: Tensor = self.backbone(numbers, edges, self.scale.new_empty(0, 3))
        return lone

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        """Reference energies stay float64 whatever the type of the weights: 4000 eV leave float32 0.2 meV."""
        reference = self.reference
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.reference = reference.to(self.reference.device)
        if len(self.lone):
            self._compute_constants()
        return self


def _renew_constants(potential: Potential, _: object = None) -> None:
    """With new weights, or a wall, what `freeze` computed from the old ones is computed again."""
    if len(potential.lone):
        potential._compute_constants()


def _by_element(
    values: Mapping[int, float],
    elements: tuple[int, ...],
    dtype: torch.dtype | None = None,
    missing: float | None = None,
) -> Tensor:
    column = [values[z] if missing is None else values.get(z, missing) for z in elements]
    return torch.tensor(column, dtype=dtype or torch.get_default_dtype())
