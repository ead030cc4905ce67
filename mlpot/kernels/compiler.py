"""Numba's compiler for this CPU, with a cache of machine code that a damaged file or a full disk does not break.

Loops keep the arithmetic that they are written in: no sum is reordered, and no product fused with a sum unless
`fma` of a `Writer` says so. So the bits are the same whoever compiles, and whatever is inlined where.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import stat
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import llvmlite
import numba
from numba.core.compiler import CompilerBase, CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps
from numba.core.types.misc import unliteral

from mlpot.kernels.pipeline import BYTES as BYTES
from mlpot.kernels.pipeline import FastFlags, PartCompiler, WholeCompiler

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
HOUSE = Path(__file__).parents[1]
ROOM = 2**21  # bytes, more than a kernel takes
ROOMS = ("kernels", "cpu")  # where compiled code lives
IMPORT = re.compile(r"^from mlpot((?:\.\w+)*) import (.*)$", re.MULTILINE)
compiled_here: list[str] = []  # what this process compiled, as it was not in the cache


@cache
def sources(module: str) -> str:
    """A hash of the files of a module and of all that it imports from the rooms of compiled code."""
    found: dict[str, bytes] = {}
    _read_sources(module, found)
    return hashlib.sha256(b"".join(found[name] for name in sorted(found))).hexdigest()


def _read_sources(module: str, found: dict[str, bytes]) -> None:
    path = HOUSE.parent / Path(*module.split(".")).with_suffix(".py")
    if module in found or module.split(".")[1:2] not in [[room] for room in ROOMS] or not path.is_file():
        return
    found[module] = path.read_bytes()
    for inside, names in IMPORT.findall(found[module].decode()):
        for name in ("", *re.findall(r"\w+", names)):
            _read_sources(f"mlpot{inside}.{name}".rstrip("."), found)


class KernelCache:
    """What Numba asks of a cache, for one function; one file for each signature, CPU and version of its sources.

    A file begins with the SHA-256 of the rest: machine code that is not whole is never run.
    """

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    @property
    def cache_path(self) -> Path | None:
        """Where new files go; None if nothing can be kept."""
        return _home()[0]

    def is_kept(self, name: str) -> bool:
        """Whether there is such a file."""
        return any((folder / name).is_file() for folder in folders())

    def load_overload(self, signature: Any, target: Any) -> Any:
        """What was compiled for a signature, None if it must be compiled."""
        target.refresh()
        name = self.file_name(signature, target.codegen())
        wrong = ""
        for folder in folders():
            content, why = _read(folder / name)
            if content is not None:
                return CompileResult._rebuild(target, *pickle.loads(content))
            wrong = why or wrong
        if not compiled_here:
            _announce(wrong)
        compiled_here.append(name)
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep what was compiled; if that fails, say why once."""
        folder, _ = _home()
        if folder is not None:
            content = dumps(result._reduce())
            _write(folder / self.file_name(signature, result.codegen), content)

    def enable(self) -> None:
        """Nothing to do; part of the interface, as the next two."""

    def disable(self) -> None:
        """Likewise."""

    def flush(self) -> None:
        """Likewise."""

    def file_name(self, signature: Any, codegen: Any) -> str:
        """Of what is kept for a signature."""
        versions = (
            sources(self._function.__module__),
            numba.__version__,
            llvmlite.__version__,
            sys.version,
            BYTES,
        )
        key = repr((_identity(self._function), str(signature), codegen.magic_tuple(), versions))
        return f"{self._function.__name__}-{hashlib.sha256(key.encode()).hexdigest()[:40]}.mlpot"


def _identity(function: Any) -> tuple[str, ...]:
    """Name, code and closure of a function; what it calls is in `sources`."""
    if isinstance(function, Dispatcher):
        function = function.py_func
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    inside = [
        repr(_identity(value))
        if isinstance(value, Dispatcher | FunctionType)
        else hashlib.sha256(dumps(value)).hexdigest()
        for value in cells
    ]
    code = function.__code__
    written = repr(
        (code.co_code, code.co_names, [c for c in code.co_consts if not isinstance(c, CodeType | frozenset)])
    )
    return function.__module__, function.__qualname__, written, *inside


@cache
def folders() -> tuple[Path, ...]:
    """Where compiled kernels lie: as NUMBA_CACHE_DIR says, or beside the sources, or in the user's cache."""
    if given := numba.config.CACHE_DIR:
        return (Path(given) / "mlpot",)
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    own = (HOUSE / "kernels" / "__pycache__",)
    return own if user.startswith("~") else (*own, Path(user) / "mlpot")


@cache
def _home() -> tuple[Path | None, str]:
    """The first of the folders that can be written, or None and the reason of the last."""
    why = ""
    for folder in folders():
        probe = folder / f".probe.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                probe.write_bytes(bytes(ROOM))
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            why = error.strerror or str(error)
        else:
            return folder, ""
    return None, why


@cache
def _trusted() -> set[int]:
    """Users whose machine code may run: this one, root, and who installed the sources.

    A folder such as NUMBA_CACHE_DIR=/tmp/numba may be shared, and what is loaded from it runs as this user.
    """
    return {os.geteuid(), 0, HOUSE.stat().st_uid}


def _announce(wrong: str) -> None:
    """One line, whatever is wrong with what was kept."""
    folder, why = _home()
    if folder is None:
        where = " or ".join(map(str, folders()))
        wrong = f"{wrong}, and " if wrong else ""
        tell(
            f"mlpot compiles kernels for this process alone, in some 30 seconds: {wrong}{where} cannot be written "
            f"({why}). Set NUMBA_CACHE_DIR to a folder that can."
        )
    elif wrong:
        tell(f"mlpot compiles kernels anew: {wrong}. They are kept in {folder}, or where NUMBA_CACHE_DIR says.")
    else:
        tell(f"mlpot compiles its kernels for this CPU, once, in some 30 seconds; they are kept in {folder}.")


def tell(line: str) -> None:
    """Say something in one line, where the program's messages go."""
    logging.getLogger("mlpot").warning(line)


def _read(path: Path) -> tuple[bytes | None, str]:
    """The content of a file if it is there, readable and whole; if it is there, what is wrong."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_uid not in _trusted() or found.st_mode & stat.S_IWOTH:
                return None, f"{path} belongs to another user, or others may write to it"
            content = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except OSError as error:
        return None, f"{path} cannot be read ({error.strerror})"
    if hashlib.sha256(content[32:]).digest() == content[:32]:
        return content[32:], ""
    return None, f"{path} is damaged"


def _write(path: Path, content: bytes) -> None:
    """In one step, so that a file is whole whenever another process looks."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(hashlib.sha256(content).digest() + content)
        os.replace(part, path)
    except OSError as error:
        _tell_of_failure(str(path.parent), error.strerror or str(error))
        part.unlink(missing_ok=True)


@cache
def _tell_of_failure(folder: str, why: str) -> None:
    tell(
        f"mlpot cannot keep its compiled kernels in {folder} ({why}), so that the next process compiles again. "
        "Make room, or set NUMBA_CACHE_DIR to another folder."
    )


def _compiler(pipeline: type[CompilerBase], **options: Any) -> Callable[[Callable[..., Any]], Any]:
    def compiler(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**OPTIONS, pipeline_class=pipeline, **options)(function)
        dispatcher._compiler._customize_flags = FastFlags
        template = dispatcher.get_call_template

        def without_literals(args: Any, kws: Any) -> Any:
            """One function for all values of an argument that callers write as a number."""
            return template(tuple(map(unliteral, args)), kws)

        dispatcher.get_call_template = without_literals
        if pipeline is WholeCompiler:
            dispatcher._cache = KernelCache(function)
        return dispatcher

    return compiler


# Compiled functions have no annotations: Numba finds the types of each call, in either precision and with tuples
# that mypy cannot follow. So they are marked `no-untyped-def`, here and wherever these decorators are used.
compiled = _compiler(WholeCompiler, no_cfunc_wrapper=True)
# For what only compiled functions call: unpacking Python's objects is most of the code, and time to compile, else.
inner = _compiler(PartCompiler, no_cpython_wrapper=True, no_cfunc_wrapper=True)
# For what makes no arrays: nothing counts references to those that it is given, which are most of a call, else.
_BARE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
bare = _compiler(PartCompiler, **_BARE)
# For what stands in an innermost loop and takes whole records: to hand over hundreds of numbers takes longer.
inlined = _compiler(PartCompiler, **_BARE, forceinline=True)
# For what takes memory of the stack for its caller: LLVM frees that where a function that it inlines ends.
expanded = _compiler(PartCompiler, **_BARE, inline="always")
