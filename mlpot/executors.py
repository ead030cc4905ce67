"""What computes a potential: its definition in PyTorch, compiled code on CPUs, Triton's kernels on CUDA devices.

The latter two know networks that are lists of stages. They are asked first, and say by name what keeps them from a
potential; then its definition computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, cast, get_args
from weakref import WeakKeyDictionary

from torch import Tensor

from mlpot.cpu.calls import ExchangedCall, StagedCall, StagedTraining, native_call
from mlpot.gpu import driver
from mlpot.graph import AtomGraph
from mlpot.models.native import Elements, obstacle_of_weights
from mlpot.potential import Outputs, Potential
from mlpot.stages.network import StagedNetwork
from mlpot.torch_settings import usual_settings

Native = Callable[[AtomGraph], tuple[Tensor, Tensor, Tensor] | None]
"""Energies (n_graphs,) eV, forces (n_atoms, 3) eV/Å and virials (n_graphs, 3, 3) eV of whole structures in
float64, which autograd can differentiate once, by the weights that require a gradient. None for a structure with
an unknown element, or if there is no such call for the potential."""
_in_use: WeakKeyDictionary[Potential, tuple[Tensor, Native | None]] = WeakKeyDictionary()
"""Native calls of potentials whose weights no longer change, each with the constants that it was made for."""
_in_training: WeakKeyDictionary[Potential, StagedTraining] = WeakKeyDictionary()
"""What the native calls of potentials in training keep from step to step."""
_on_device: WeakKeyDictionary[Potential, tuple[Tensor, Outputs]] = WeakKeyDictionary()
"""Networks on CUDA devices whose weights no longer change, as `_in_use`."""

Executor = Literal["definition", "cpu", "gpu"]
"""The definition in PyTorch, compiled code on a CPU, Triton's kernels on a CUDA device."""


def native_obstacle(potential: Potential) -> str | None:
    """Why PyTorch and not compiled code computes energies and forces; None if compiled code does."""
    return potential.backbone.native_obstacle() or obstacle_of_weights(potential.energy_scale)


def device_obstacle(potential: Potential) -> str | None:
    """Why PyTorch and not Triton's kernels computes sums over neighbors; None if these do."""
    own = potential.backbone.native_obstacle()  # of networks that are no list of stages too
    return own or driver.obstacle(potential.backbone, potential.energy_scale)


def computed_by(potential: Potential) -> str:
    """What computes energies and forces, in words: compiled code, Triton's kernels, or PyTorch and why."""
    if potential.energy_scale.device.type == "cuda":
        return _on_cuda(device_obstacle(potential))
    obstacle = native_obstacle(potential)
    return "compiled code" if obstacle is None else f"PyTorch ({obstacle})"


def computed_on_cuda_by(potential: Potential) -> str:
    """The same on a CUDA device, wherever the potential is now."""
    return _on_cuda(potential.backbone.native_obstacle() or driver.obstacle_of_stages(potential.backbone))


def _on_cuda(obstacle: str | None) -> str:
    return "Triton's kernels and PyTorch" if obstacle is None else f"PyTorch ({obstacle})"


def check_executor(potential: object, executor: Executor) -> None:
    """Raise ValueError unless an executor knows the potential."""
    why: str | None = "it is no Potential of mlpot"
    if executor not in get_args(Executor):
        raise ValueError(f"Unknown executor {executor!r}. Choose one of {', '.join(get_args(Executor))}.")
    if executor == "definition":
        why = None
    elif isinstance(potential, Potential):
        why = native_obstacle(potential) if executor == "cpu" else device_obstacle(potential)
    if why is not None:
        raise ValueError(f"The executor {executor!r} cannot compute this potential: {why}. Leave `executor` out.")


def device_outputs(potential: object) -> Outputs | None:
    """The network by Triton's kernels, None if there is an obstacle; of a frozen potential it is made once."""
    if not isinstance(potential, Potential) or device_obstacle(potential) is not None:
        return None
    network = cast("StagedNetwork", potential.backbone)
    if not potential.is_frozen:  # its weights may change
        return driver.DeviceOutputs(network, fixed=False)
    constants, outputs = _on_device.get(potential, (None, None))
    if outputs is None or constants is not potential.isolated:
        outputs = driver.DeviceOutputs(network, fixed=True)
        _on_device[potential] = potential.isolated, outputs
    return outputs


def native_call_of(potential: object) -> Native | None:
    """The compiled energies, forces and virials of a potential; None if there is an obstacle.

    Of a potential that is frozen the call is made once, until its constants are computed again: when it moves to
    another device or type, too.
    """
    if not isinstance(potential, Potential):
        return None
    constants, call = _in_use.get(potential, (None, None))
    if constants is potential.isolated:
        return call
    if native_obstacle(potential) is not None:
        return None
    if not potential.is_frozen:  # its weights may change
        return None if potential.core_repulsion is not None else partial(_call_in_training, potential)
    known = potential.backbone, _elements(potential), potential.isolated
    with usual_settings():
        call = native_call(*known)
    _in_use[potential] = potential.isolated, call
    return call


def native_call_with_ghosts(potential: Potential) -> StagedCall | None:
    """As `native_call_of` for a frozen potential and the atoms of one process among several.

    `models.native.GHOST` is added to the atomic numbers of other processes' atoms. Of their energies, and so of
    forces and virials, nothing counts; sums over all processes are those of the whole.
    """
    if native_obstacle(potential) is not None:
        return None
    known = potential.backbone, _elements(potential)._replace(ghosts=True), potential.isolated
    with usual_settings():
        return native_call(*known)


def native_call_with_exchanges(potential: Potential) -> ExchangedCall | None:
    """As `native_call_with_ghosts`, where processes send each other the features of their atoms."""
    if native_obstacle(potential) is not None or not isinstance(potential.backbone, StagedNetwork):
        return None
    with usual_settings():
        elements = _elements(potential)._replace(ghosts=True)
        return ExchangedCall(potential.backbone, elements, potential.isolated)


def _call_in_training(potential: Potential, graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor] | None:
    if potential not in _in_training:
        _in_training[potential] = StagedTraining()
    return _in_training[potential](potential.backbone, _elements(potential), graph)


def _elements(potential: Potential) -> Elements:
    of = potential
    terms = of.repulsion, of.core_repulsion, of.cutoff
    return Elements(of.elements, of.reference, of.energy_scale, of.energy_shift, *terms)
