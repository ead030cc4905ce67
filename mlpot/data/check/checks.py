"""Checks of the numbers of all frames: labels, outliers, closeness, net force, stillness, order in time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase.data import chemical_symbols

from mlpot.data.check.finding import Finding, Severity, finding
from mlpot.data.check.stream import Floats, Ints
from mlpot.data.check.tally import Columns, Steps, Tally

OUTLIER = 25.0  # robust standard deviations: honest sets of several kinds of structures reach 15
OVERLAP, COLLAPSED = 0.5, 0.25  # sums of covalent radii
HUGE_FORCE = 100.0  # eV/Å
NET = 0.05  # of the forces' rms, times the square root of their number
FEW = 10  # frames below which nothing is said of distributions
STILL = 1e-6  # Å


def labels(c: Columns, path: str) -> Iterator[Finding]:
    """Missing and constant labels."""
    structures = ~c.isolated
    n = int(structures.sum())
    energy, forces = np.isfinite(c.energy) & structures, (c.unlabeled < c.n_atoms) & structures
    if n == 0:
        yield finding("labels", "note", "There are isolated atoms alone, and no structures.")
        return
    if not energy.any() and not forces.any():
        yield finding("labels", "error", f"None of {n} structures has an energy or a force: nothing to learn.")
        return
    for name, there in (("energy", energy), ("forces", forces)):
        if 0 < there.sum() < n:
            lacking = np.flatnonzero(structures & ~there)
            yield finding("labels", "warning", f"{len(lacking)} of {n} structures lack {name}.", c.index[lacking])
    periodic = c.periodic & structures
    if 0 < (c.has_stress & periodic).sum() < periodic.sum():
        lacking = np.flatnonzero(periodic & ~c.has_stress)
        message = f"{len(lacking)} of {periodic.sum()} periodic structures lack stress."
        yield finding("labels", "note", message, c.index[lacking])
    zero = np.flatnonzero(forces & (c.force == 0.0) & (c.n_atoms > 2))
    if len(zero) == forces.sum() > 1:
        yield finding("labels", "error", "All forces are zero: they were never computed.", c.index[zero])
    elif (n_lost := int(c.is_unforced.sum())) > 1:
        message = (
            f"{n_lost} of {forces.sum()} structures have no force but exactly zeros, and no symmetry that asks "
            "for that: zeros stand for forces that were not computed. Leave those out, or these frames."
        )
        lost = np.flatnonzero(c.is_unforced)
        yield finding("labels", "error", message, c.index[lost], fix=dropping(c.index[lost]))
    stressless = np.flatnonzero(c.has_stress & (c.stress == 0.0) & structures)
    if 1 < len(stressless) == (c.has_stress & structures).sum():
        yield finding("labels", "error", "All stresses are zero: they were never computed.", c.index[stressless])
    yield from _constant(c, energy)


def _constant(c: Columns, energy: np.ndarray) -> Iterator[Finding]:
    """Energies that are the same for different structures, and labels copied from one frame to another."""
    for kind in np.unique(c.composition[energy]):
        mine = np.flatnonzero(energy & (c.composition == kind))
        different = len(np.unique(c.digest[mine]))
        if different >= FEW and len(np.unique(c.energy[mine])) == 1:
            message = f"{len(mine)} structures of one composition all have the energy {c.energy[mine[0]]:.6f} eV."
            yield finding("labels", "error", message, c.index[mine])
    moving = np.flatnonzero(energy & (c.force > 1e-4) & (c.unlabeled == 0))
    _, first, again = np.unique(c.labels[moving], return_index=True, return_inverse=True)
    copied = moving[c.digest[moving] != c.digest[moving[first]][again]]
    if len(copied):
        message = f"{len(copied)} frames have exactly the energy and forces of another, different structure."
        yield finding("labels", "warning", message, c.index[copied], fix=dropping(c.index[copied]))


def dropping(frames: Ints) -> str:
    """The command that leaves frames out; `fixed` completes it."""
    return "drop=" + ",".join(str(k) for k in frames[:200])


def closeness(c: Columns) -> Iterator[Finding]:
    """Atoms on top of one another, and atoms out of each other's reach."""
    collapsed = np.flatnonzero(c.overlap < COLLAPSED)
    close = np.flatnonzero((c.overlap < OVERLAP) & (c.overlap >= COLLAPSED))
    kinds: tuple[tuple[Severity, Ints], ...] = (("error", collapsed), ("warning", close))
    for severity, frames in kinds:
        if len(frames):
            worst = frames[np.argmin(c.overlap[frames])]
            message = (
                f"{len(frames)} frames have atoms closer than {OVERLAP if severity == 'warning' else COLLAPSED:g} "
                f"bond lengths; {c.closest[worst]:.3f} Å in frame {c.index[worst]}."
            )
            yield finding("overlap", severity, message, c.index[frames], fix=dropping(c.index[frames]))
    alone = np.flatnonzero(~c.isolated & (c.fewest == 0) & (c.overlap >= COLLAPSED))
    if len(alone):
        message = f"{len(alone)} frames hold atoms without any neighbor within 5 Å."
        yield finding("neighbors", "note", message, c.index[alone])


def outliers(c: Columns) -> Iterator[Finding]:
    """Energies and forces far from those of all other frames."""
    energy = np.full(len(c.index), np.nan)
    for kind in np.unique(c.composition):
        mine = np.flatnonzero((c.composition == kind) & np.isfinite(c.energy) & ~c.isolated)
        if len(mine) >= FEW:
            per_atom = c.energy[mine] / c.n_atoms[mine]
            energy[mine] = robust(per_atom, 1e-3)
    far = np.flatnonzero(np.abs(energy) > OUTLIER)
    if len(far):
        worst = far[np.argmax(np.abs(energy[far]))]
        message = (
            f"{len(far)} energies lie more than {OUTLIER:g} robust standard deviations from those of their "
            f"composition; frame {c.index[worst]}: {c.energy[worst]:.4f} eV ({energy[worst]:+.0f})."
        )
        yield finding("outliers", "warning", message, c.index[far], fix=dropping(c.index[far]))
    size = np.where(~c.isolated, c.force, np.nan)
    typical = float(np.nanmedian(size[size > 0])) if (size > 0).any() else 0.0
    big = np.flatnonzero(size > max(HUGE_FORCE, OUTLIER * typical))
    if len(big) and len(big) < 0.2 * len(size):
        worst = big[np.argmax(size[big])]
        message = (
            f"{len(big)} frames have a force above {max(HUGE_FORCE, OUTLIER * typical):.3g} eV/Å (the median "
            f"greatest force is {typical:.3g}); frame {c.index[worst]}: {size[worst]:.4g} eV/Å."
        )
        yield finding("outliers", "warning", message, c.index[big], fix=dropping(c.index[big]))


def robust(values: Floats, least: float) -> Floats:
    """Distances from the median in standard deviations estimated by quartiles, at least `least`."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return np.asarray((values - middle) / max(least, (high - low) / 1.349))


def balance(c: Columns) -> Iterator[Finding]:
    """Net forces and torques, which no isolated system feels."""
    for name, total, arm in (("net force", c.net, 1.0), ("torque", c.torque, 2.0)):
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = total / (arm * c.force_rms * np.sqrt(3.0 * c.n_atoms))
        known = (c.n_atoms > 2) & np.isfinite(relative)
        unbalanced = np.flatnonzero(known & (relative > NET) & (total > 0.05 * arm))
        if len(unbalanced) > 0.01 * known.sum():
            worst = unbalanced[np.argmax(total[unbalanced])]
            unit = "eV/Å" if name == "net force" else "eV"
            message = (
                f"{len(unbalanced)} frames have a {name} on the whole, up to {total[worst]:.3g} {unit} in frame "
                f"{c.index[worst]}: forces of some atoms are missing, unconverged, or from an external field."
            )
            yield finding(name, "warning", message, c.index[unbalanced])


def stillness(tally: Tally) -> Iterator[Finding]:
    """Atoms that never move or never feel a force while others do: frozen by the one who made the data."""
    for motion in tally.motions.values():
        if motion.n < FEW or len(motion.numbers) < 3:
            continue
        still = (motion.moved < STILL) & (np.median(motion.moved) > 0.02)
        unpushed = (motion.pushed < 1e-10) & (np.median(motion.pushed) > 1e-3)
        atoms = np.flatnonzero(still & unpushed | unpushed)
        if len(atoms):
            message = (
                f"Atoms {_listed(atoms)} of {_formula(motion.numbers)} have no force in any of {motion.n} frames: "
                "a constraint put zeros there, which are not the slope of the energy."
            )
            fix = "hold=" + ",".join(map(str, atoms))
            yield finding("frozen atoms", "error", message, fix=fix)
        elif still.sum() > 1:
            message = (
                f"Atoms {_listed(np.flatnonzero(still))} of {_formula(motion.numbers)} stand in the same place in "
                f"all of {motion.n} frames while others move: the set says nothing of their motion."
            )
            yield finding("frozen atoms", "warning", message)


def _listed(atoms: Ints) -> str:
    return ", ".join(map(str, atoms[:12])) + (f" and {len(atoms) - 12} more" if len(atoms) > 12 else "")


def _formula(numbers: Ints) -> str:
    counts = {chemical_symbols[z]: int((numbers == z).sum()) for z in np.unique(numbers)}
    return "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in counts.items())


def trajectory_slope(steps: Steps) -> tuple[float, float, int]:
    """Work of the forces per change of the energy along small steps: ratio, correlation, number of steps."""
    plain = np.isnan(steps.strain_work)
    change, work = steps.change[plain], steps.work[plain]
    if len(work) < FEW:
        return np.nan, 0.0, len(work)
    keep = _trimmed(change) & _trimmed(work)
    return _slope(change[keep], work[keep])


def strain_slope(steps: Steps) -> tuple[float, float, int]:
    """Work of the stress per change of energy not done by forces, over steps that change the cell."""
    strained = np.isfinite(steps.strain_work)
    return _slope((steps.change - steps.work)[strained], steps.strain_work[strained])


def _slope(change: Floats, work: Floats) -> tuple[float, float, int]:
    """Work per change: ratio, correlation, number; NaN and no correlation where there is too little."""
    if len(work) < FEW or not work.any() or not change.any():
        return np.nan, 0.0, len(work)
    cosine = float(change @ work / (np.linalg.norm(change) * np.linalg.norm(work)))
    return float(np.sign(cosine) * np.linalg.norm(work) / np.linalg.norm(change)), cosine, len(work)


def breaks(steps: Steps, index: Ints) -> Iterator[Finding]:
    """Single steps over which the energy does not change by the work of the forces."""
    plain = np.isnan(steps.strain_work)
    off = (steps.change - steps.work)[plain]
    if len(off) < 3 * FEW:
        return
    slope, cosine, _ = trajectory_slope(steps)
    if abs(cosine) < 0.9 or not 0.8 < slope < 1.25:
        return
    spread = 1.4826 * float(np.median(np.abs(off)))
    wrong = np.abs(off) > np.maximum(30 * spread, 2 * steps.error[plain]) + 0.02
    frames = steps.index[plain][wrong]
    if len(frames):
        worst = np.argmax(np.abs(off))
        message = (
            f"Over {len(frames)} small steps the energy does not change by the work of the forces; it is off by "
            f"{off[worst]:+.3f} eV on the way to frame {steps.index[plain][worst]}."
        )
        yield finding("energy and forces", "warning", message, frames)


def _trimmed(values: Floats) -> np.ndarray:
    return np.abs(values) <= 30 * np.median(np.abs(values)) + 1e-12


def correlation_time(c: Columns) -> float:
    """Frames over which energies remember, in the longest run of one composition, by U. Wolff's window."""
    kinds = np.flatnonzero(np.diff(c.composition.astype(np.int64)) != 0) + 1
    runs = np.split(np.arange(len(c.index)), kinds)
    run = max(runs, key=len)[:20000]
    e = c.energy[run]
    if len(e) < 50 or not np.isfinite(e).all() or np.ptp(e) == 0.0:
        return np.nan
    e = e - e.mean()
    spectrum = np.abs(np.fft.rfft(e, 2 * len(e))) ** 2
    rho = np.fft.irfft(spectrum)[: len(e)] / np.arange(len(e), 0, -1)
    tau = 0.5 + np.cumsum(rho[1:] / rho[0])
    window = np.flatnonzero(np.arange(1, len(e)) >= 5 * tau)
    return float(max(0.5, tau[window[0] if len(window) else -1]))
