"""The bars of the certificate: every number with which a check compares, and its words for `mlpot verify --list`.

Bars of a potential that computes in float32 stand at True, those of float64 at False.
"""

from __future__ import annotations

from mlpot.equivariance import LARGEST

Bars = tuple[float, float, float]
"""Energy (eV/atom) and forces (eV/Å), and forces relative to the largest."""

# In float32 a readout adds terms that cancel: the last place of a sum of 56 eV is 4e-6 eV, and errors of 7e-6 eV
# were measured in a cell of one atom. Errors of forces were 2.7e-5 eV/Å near a bond with a force of 40 eV/Å.
TRANSLATION: dict[bool, Bars] = {False: (1e-11, 1e-10, 0.0), True: (1e-5, 1e-5, 1e-6)}
ROTATION: dict[bool, Bars] = {False: (1e-11, 1e-10, 0.0), True: (1e-5, 2e-5, 1e-6)}
PERMUTATION: dict[bool, Bars] = {False: (1e-11, 1e-11, 0.0), True: (2e-5, 2e-5, 1e-6)}
BATCH: dict[bool, Bars] = {False: (1e-11, 1e-11, 1e-12), True: (1e-5, 1e-5, 1e-6)}
CELLS: dict[bool, Bars] = {False: (1e-11, 1e-10, 0.0), True: (1e-5, 2e-5, 1e-6)}
BACKENDS: dict[bool, Bars] = {False: (1e-11, 1e-11, 1e-12), True: (2e-5, 2e-5, 1e-6)}
TYPES: Bars = (2e-5, 5e-5, 1e-5)  # float32 beside float64

FORCES, STRESS = 1e-7, 1e-8  # eV/Å, eV/Å³, in float64; more where the energy is large
FORCES_SINGLE, STRESS_SINGLE = 2e-3, 2e-4  # eV/Å, eV
CURL = {False: 1e-7, True: 1e-4}
LOOP = {False: 1e-9, True: 1e-6}

JUMPS = {False: (1e-9, 1e-8), True: (1e-5, 1e-4)}  # eV, eV/Å
JUMP_OF_STIFFNESS = 1e-4
HIGH_COORDINATION = {False: 1e-7, True: 1e-5}  # of the largest value
ISOLATED = 1e-10  # eV
NET_FORCE = {False: 1e-12, True: 1e-7}  # eV/Å an atom; in float32 of the RMS force

DRIFT, DRIFT_OF_KINETIC = 1.0, 0.02  # meV/atom/ns; of σ(E_kin) over the run
LONG_DRIFT = {False: 0.005, True: 0.03}  # meV/atom/ns
HALVINGS = (0.2, 0.4)  # of the step, the finer first
REVERSAL, REVERSAL_IN_CELL, REVERSAL_SINGLE = 1e-6, 1e-9, 1e-3  # Å
MOMENTUM = {False: 1e-10, True: 1e-6}
ANGULAR_MOMENTUM = {False: 1e-8, True: 1e-2}

SIGNIFICANCE, SHARE = 0.01, 2.5  # of the distance of distributions; standard deviations
POSITIONS = 0.01
BOLTZMANN, PRESSURE = 3.0, 2.0  # standard deviations
DRIFT_IN_HEAT_BATH = 5.0  # meV/atom/ns
GAS_VOLUME, GAS_VARIANCE = 0.01, 0.05

REPEATED_ON_GPU = (1e-6, 1e-5)  # eV/atom, eV/Å
HISTORY = {False: 1e-11, True: 1e-5}  # eV/atom, eV/Å, eV/Å³


def _number(value: float) -> str:
    """As 1e-10, not 1.0000e-10 or 1e-010."""
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{value:g}" if 1e-3 <= value < 1e4 else f"{mantissa}e{int(exponent)}"


def _forces(bars: dict[bool, Bars]) -> str:
    words = {}
    for single, (_, absolute, relative) in bars.items():
        more = f" + {_number(relative)} |F|max" if relative else ""
        words[single] = f"{_number(absolute)} eV/Å{more}"
    return f"{words[False]} (float32: {words[True]})"


def _two(bars: dict[bool, float], unit: str = "") -> str:
    return f"{_number(bars[False])}{unit} (float32: {_number(bars[True])})"


WORDS = {
    "P1": _forces(TRANSLATION),
    "P2": _forces(ROTATION),
    "P3": _forces(PERMUTATION),
    "P4": _forces(BATCH),
    "P5": f"{_number(FORCES)} eV/Å (float32: {_number(FORCES_SINGLE)} or more, by the energy)",
    "P6": f"{_number(STRESS)} eV/Å³ (float32: by the energy)",
    "P7": _two(CURL),
    "P8": _two(LOOP),
    "P9": f"jumps of {_number(JUMPS[False][0])} eV, {_number(JUMPS[False][1])} eV/Å, "
    f"{_number(JUMP_OF_STIFFNESS)} of the stiffness (float32: {_number(JUMPS[True][0])} eV, "
    f"{_number(JUMPS[True][1])} eV/Å)",
    "P10": _two(HIGH_COORDINATION, " of the largest value"),
    "P11": _forces(CELLS),
    "P12": _forces(CELLS),
    "P13": _forces(CELLS),
    "P14": f"{_number(ISOLATED)} eV, no force",
    "P15": "no step inwards lowers the energy",
    "P16": f"{_number(NET_FORCE[False])} eV/Å an atom (float32: {_number(NET_FORCE[True])} of the RMS force "
    "or 1 eV/Å)",
    "P17": f"{DRIFT:g} meV/atom/ns, {DRIFT_OF_KINETIC:.0%} of σ(E_kin) over the run",
    "P18": _two(LONG_DRIFT, " meV/atom/ns"),
    "P19": f"|ratio − 4| of {HALVINGS[0]:g} (coarser halving: {HALVINGS[1]:g})",
    "P20": f"{_number(REVERSAL)} Å, with a cell {_number(REVERSAL_IN_CELL)} Å "
    f"(float32: {_number(REVERSAL_SINGLE)} Å)",
    "P21": _two(MOMENTUM, " of Σ|p|"),
    "P22": f"distance at {SIGNIFICANCE:.0%} significance, {SHARE:g} σ of a share",
    "P23": f"{POSITIONS:.0%}, or three standard errors",
    "P24": f"{BOLTZMANN:g} σ, more for many runs",
    "P25": f"{DRIFT_IN_HEAT_BATH:g} meV/atom/ns",
    "P26": f"{GAS_VOLUME:.0%} of the volume, {GAS_VARIANCE:.0%} of its variance, or three standard errors",
    "P27": f"{BOLTZMANN:g} σ of the volumes, {PRESSURE:g} σ of the pressure, more for many runs",
    "P28": f"0 on a CPU (GPU: {_number(REPEATED_ON_GPU[1])} eV/Å)",
    "P29": "no difference",
    "P30": _forces(BACKENDS),
    "P31": _two(HISTORY, " eV/Å"),
    "P32": f"{LARGEST:.0%} of the RMS force",
}
"""The bars of each check in words; the result of a check states the bar of each measurement."""
