"""A potential gives the same bits whatever the program around it has set in PyTorch, and sets nothing itself."""

from __future__ import annotations

import copy
import io
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from mlpot.calculator import MLPotCalculator
from mlpot.forces import hessian, native_obstacle, predict, predict_atoms
from mlpot.graph import edge_vectors
from mlpot.kernels import ops, threads
from mlpot.model_file import load_potential, save_potential
from mlpot.neighbors import build_graph
from mlpot.potential import Potential, UnknownElementError
from mlpot.stages.spline_grid import KnotEdges
from mlpot.torch_settings import usual_settings

ONE_THREAD = threads.ONE_THREAD
Calm = tuple[Callable[[str], Path], Callable[[str, str], list[np.ndarray]]]
BACKBONES = {
    "schnet": ("schnet", {"n_interactions": 2, "n_knots": 32}),
    "schnet, cubic": ("schnet", {"n_interactions": 1, "n_knots": 32, "degree": 3, "radial": "bessel"}),
    "schnet without knots": ("schnet", {"n_interactions": 1, "n_knots": None}),
    "egnn": ("egnn", {"n_layers": 2}),
    "egnn that stays": ("egnn", {"n_layers": 2, "move_coordinates": False}),
    "egnn with attention": ("egnn", {"n_layers": 2, "attention": True}),
    "deepsets": ("deepsets", {"radial": "expnormal"}),
    "painn": ("painn", {"n_interactions": 1, "n_knots": 32}),
    "se3_transformer": ("se3_transformer", {"max_degree": 1, "n_interactions": 2}),
    "ace": ("ace", {"max_degree": 1, "n_knots": 32}),
    "nequip": ("nequip", {"max_degree": 1, "n_interactions": 2, "n_knots": 32, "radial_layers": [8]}),
    "mace": (
        "mace",
        {"n_features": 8, "max_degree": 1, "correlation": 2, "radial_layers": [8], "n_knots": 32},
    ),
}


def made(name: str) -> Potential:
    torch.manual_seed(1)
    backbone, arguments = BACKBONES[name]
    energies = {1: -13.6, 8: -2042.0, 14: -7870.0}
    return Potential(
        backbone, {"n_features": 16, "n_radial": 8, **arguments}, reference_energies=energies, repulsion=True
    )


@contextmanager
def _set(value: Callable[[object], None], there: object, back: object) -> Iterator[None]:
    value(there)
    try:
        yield
    finally:
        value(back)


def _threads(n: object) -> None:
    """So many, even for little work."""
    torch.set_num_threads(n)  # type: ignore[arg-type]  # a number here
    threads.ONE_THREAD = 0 if n == 2 else ONE_THREAD


def _mkldnn(precision: object) -> None:
    torch.backends.mkldnn.matmul.fp32_precision = precision


STATES: dict[str, Callable[[], object]] = {
    "float64": lambda: _set(torch.set_default_dtype, torch.float64, torch.float32),
    "float16": lambda: _set(torch.set_default_dtype, torch.float16, torch.float32),
    "bfloat16": lambda: _set(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "device meta": lambda: _set(torch.set_default_device, "meta", None),
    "within device meta": lambda: torch.device("meta"),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "deterministic": lambda: _set(torch.use_deterministic_algorithms, True, False),
    "flush denormal": lambda: _set(torch.set_flush_denormal, True, False),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "matrix precision": lambda: _set(torch.set_float32_matmul_precision, "medium", "highest"),
    "precision of one library": lambda: _set(_mkldnn, "bf16", "ieee"),
    "two threads": lambda: _set(_threads, 2, 1),
}
N_OUTPUTS = 3  # energy, forces, stress, before the gradients of weights
TRAINING_CHOOSES = ("matrix precision", "precision of one library")  # `training.precision: tf32` sets them


def structures() -> list[Atoms]:
    crystal = bulk("Si", cubic=True)
    crystal.rattle(0.1, seed=0)
    return [molecule("H2O"), crystal]


def numbers_of(potential: Potential) -> list[np.ndarray]:
    """Energies, forces, stresses, and atomic energies, which no native call gives."""
    found = []
    for atoms in structures():
        graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, potential.cutoff)
        out, atomic = predict(potential, graph), predict_atoms(potential, graph)
        found += [t.numpy().copy() for t in (out.energy, out.forces, out.stress, atomic.energies)]
    return found


def _sent(potential: Potential) -> Potential:
    return pickle.loads(pickle.dumps(potential))


def _saved(potential: Potential) -> Potential:
    memory = io.BytesIO()
    torch.save(potential, memory)
    memory.seek(0)
    return torch.load(memory, weights_only=False)


WAYS: dict[str, Callable[[Path, Potential], Potential]] = {
    "loaded": lambda path, _: load_potential(path),
    "loaded in float64": lambda path, _: load_potential(path, dtype="float64"),
    "copied": lambda _, potential: MLPotCalculator(potential).potential,
    "pickled": lambda _, potential: _sent(potential),
    "saved by torch": lambda _, potential: _saved(potential),
    "moved": lambda _, potential: copy.deepcopy(potential).to(torch.float64),
    "moved and back": lambda _, potential: copy.deepcopy(potential).double().float(),
}


@pytest.fixture(scope="module")
def in_calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """The file of a potential by name, and what it gives in a way as long as nothing is set."""

    @cache
    def file(name: str) -> Path:
        path = tmp_path_factory.mktemp("calm") / "model.safetensors"
        save_potential(made(name), path)
        return path

    @cache
    def found(name: str, way: str) -> list[np.ndarray]:
        return numbers_of(WAYS[way](file(name), load_potential(file(name))))

    return file, found


def some_of_the_ways(name: str, state: str, part: str) -> list[str]:
    """One way or all others: within the names, and within the states, all ways come up in either part."""
    ways = list(WAYS)
    one = ways[(list(BACKBONES).index(name) + list(STATES).index(state)) % len(ways)]
    return [way for way in ways if (way == one) == (part == "one way")]


@pytest.mark.parametrize("part", ["one way", pytest.param("all others", marks=pytest.mark.slow)])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", BACKBONES)
def test_the_bits_of_an_answer_do_not_depend_on_what_a_program_has_set(
    name: str, state: str, part: str, in_calm: Calm
) -> None:
    ways, path = some_of_the_ways(name, state, part), in_calm[0](name)
    expected, given = {way: in_calm[1](name, way) for way in ways}, load_potential(path)
    with STATES[state]():  # type: ignore[attr-defined]
        there = {way: WAYS[way](path, given) for way in ways}
        found = {way: numbers_of(potential) for way, potential in there.items()}
    after = {way: numbers_of(potential) for way, potential in there.items()}
    for way in ways:
        for right, here, later in zip(expected[way], found[way], after[way], strict=True):
            assert np.array_equal(right, here, equal_nan=True), f"{way} and asked in this state"
            assert np.array_equal(right, later, equal_nan=True), f"{way} in this state, asked later"


@pytest.mark.parametrize("state", STATES)
def test_curvature_does_not_depend_on_it_either(state: str) -> None:
    potential, atoms = made("deepsets").freeze(), structures()[0]
    expected = hessian(potential, build_graph(atoms.numbers, atoms.positions, atoms.cell, atoms.pbc, 5.0))
    with STATES[state]():  # type: ignore[attr-defined]
        graph = build_graph(atoms.numbers, atoms.positions, atoms.cell, atoms.pbc, 5.0)
        assert np.array_equal(hessian(potential, graph).numpy(), expected.numpy())


@pytest.mark.parametrize("state", STATES)
def test_what_was_set_is_set_afterwards(state: str) -> None:
    def seen() -> list[object]:
        tiny = torch.tensor(2e-308, dtype=torch.float64, device="cpu")
        return [
            torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(), torch.are_deterministic_algorithms_enabled(),
            torch.is_autocast_enabled("cpu"), torch.backends.mkldnn.matmul.fp32_precision, (tiny / 8).item() == 0,
        ]  # fmt: skip

    modules, native = made("deepsets").freeze(), made("egnn").freeze()
    with STATES[state]():  # type: ignore[attr-defined]
        before = seen()
        numbers_of(copy.deepcopy(modules))
        numbers_of(copy.deepcopy(native))
        with usual_settings(), usual_settings():
            pass
        assert seen() == before


@pytest.mark.parametrize("name", BACKBONES)
def test_loading_and_asking_draw_no_random_number(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_potential(made(name), path)
    torch.rand(1)
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    numbers_of(copy.deepcopy(load_potential(path)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (str(np.random.get_state()), random.getstate()) == before[1:]  # noqa: NPY002


def test_after_an_error_a_calculator_has_no_results() -> None:
    calculator, good = MLPotCalculator(made("schnet").freeze()), structures()[0]
    together = Atoms("H2", [(0, 0, 0), (0, 0, 1e-3)])
    nowhere = Atoms("H2", [(0, 0, 0), (0, 0, np.nan)])
    for wrong, error in ((molecule("NH3"), UnknownElementError), (together, ValueError), (nowhere, ValueError)):
        calculator.calculate(good)
        for _ in range(2):
            with pytest.raises(error):
                calculator.calculate(wrong)
            assert calculator.results == {}
            with pytest.raises(error):
                calculator.get_potential_energy(wrong)
    assert np.isfinite(calculator.get_potential_energy(good))


@pytest.mark.parametrize("dtype", ["float64", np.float64, torch.float64, "double"])
def test_a_type_may_be_named_in_any_usual_way(dtype: object) -> None:
    assert MLPotCalculator(made("schnet"), dtype=dtype).potential.dtype == torch.float64  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, "float16", "half", np.int64, "double precision"])
def test_a_type_that_is_too_coarse_is_refused(dtype: object, tmp_path: Path) -> None:
    save_potential(made("schnet"), tmp_path / "model.safetensors")
    for potential in (made("schnet"), tmp_path / "model.safetensors"):
        with pytest.raises(ValueError, match="Use float32 or float64"):
            MLPotCalculator(potential, dtype=dtype)  # type: ignore[arg-type]
    atoms = structures()[0]
    with pytest.raises(ValueError, match="Use float32 or float64"):
        predict(
            made("deepsets").half(),
            build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 5.0),
        )


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "mps", "meta", "cpu:cpu", ""])
def test_a_device_that_is_not_here_is_named_in_one_line(device: str, tmp_path: Path) -> None:
    save_potential(made("schnet"), tmp_path / "model.safetensors")
    for potential in (made("schnet"), tmp_path / "model.safetensors"):
        with pytest.raises(ValueError, match=r"device.*Use cpu") as caught:
            MLPotCalculator(potential, device=device)
        assert "\n" not in str(caught.value)


def of_training(name: str, native: bool, state: Callable[[], object]) -> list[torch.Tensor]:
    """Outputs of a training step within a state of the process, and the gradient of a loss, taken after it."""
    potential, atoms = made(name), structures()[1]
    graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, potential.cutoff)
    with state():  # type: ignore[attr-defined]  # a context manager here
        out = predict(potential, graph, training=True, native=native)
    (out.energy.sum() + out.forces.square().sum() + out.stress.square().sum()).backward()
    gradients = [p.grad for p in potential.parameters() if p.grad is not None]
    assert gradients
    return [out.energy.detach(), out.forces.detach(), out.stress.detach(), *gradients]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", BACKBONES)
def test_the_bits_of_a_training_step_do_not_depend_on_it_either(name: str, native: bool) -> None:
    """SchNet's splines of 16 bits once gave forces that were a third off, stages an error of PyTorch.

    Sums that PyTorch takes by two threads may round otherwise: on an AMD EPYC MKL parts them (5e-7 eV of an
    energy, 3e-6 of a gradient), on an Intel Xeon it does not.
    """
    right = of_training(name, native, nullcontext)
    compiled = native and native_obstacle(made(name)) is None
    for state, entered in STATES.items():
        if state not in TRAINING_CHOOSES:
            found = of_training(name, native, entered)
            for k, (a, b) in enumerate(zip(right, found, strict=True)):
                if compiled or state != "two threads":
                    assert torch.equal(a, b), state
                else:
                    assert (a - b).abs().max() <= 1e-5 * (1.0 if k < N_OUTPUTS else a.abs().max()), state


@pytest.mark.parametrize("name", ["egnn", "deepsets"])
def test_a_gradient_is_not_taken_under_autocast(name: str) -> None:
    potential, atoms = made(name), structures()[1]
    graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, potential.cutoff)
    for loss in ("energy", "forces", "stress"):
        values = getattr(predict(potential, graph, training=True), loss)
        with (
            torch.autocast("cpu", dtype=torch.bfloat16),
            pytest.raises(RuntimeError, match="Autocast would round"),
        ):
            values.square().sum().backward()
        assert all(p.grad is None for p in potential.parameters())


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("training", [False, True])
def test_weights_of_16_bits_are_refused_for_every_network(name: str, training: bool) -> None:
    potential, atoms = made(name).to(torch.bfloat16), structures()[0]
    graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, potential.cutoff)
    with pytest.raises(ValueError, match="Use float32 or float64"):
        predict(potential, graph, training=training)


def test_a_sum_over_neighbors_takes_numbers_of_one_type() -> None:
    """Loops would read the others' bytes as numbers of theirs."""
    atoms = structures()[1]
    graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 5.0)
    on = KnotEdges(graph.edges, edge_vectors(graph).norm(dim=1).float(), cutoff=5.0, n_knots=8, degree=5)
    x, table = torch.ones(len(atoms), 4), torch.ones(27, 4)
    for mixed in ((x.double(), table), (x, table.double()), (x.bfloat16(), table)):
        with pytest.raises(TypeError, match="numbers of one type"):
            ops.conv(*mixed, on)
