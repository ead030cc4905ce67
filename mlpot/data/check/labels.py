"""Infer units and signs of labels; the findings name the command that corrects them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from mlpot.data.check import infer_units
from mlpot.data.check.checks import FEW, OUTLIER, dropping, robust, strain_slope, trajectory_slope
from mlpot.data.check.finding import Finding, Severity, finding
from mlpot.data.check.geometry import NOBLE
from mlpot.data.check.infer_units import PROBABLE, SURE, Evidence, Hypothesis, StressVerdict, Verdict
from mlpot.data.check.linear import Basis, Fit, fit
from mlpot.data.check.tally import Columns, Steps, Tally
from mlpot.data.frame import Frame
from mlpot.neighbors import build_graph
from mlpot.units import ENERGY, LENGTH, PRESSURE

HALF_A_BOND = 0.5  # Å
FEWEST = 20  # labeled frames of which something can be inferred
BOND_ERROR = 0.35  # of the logarithm of nearest distances in sums of covalent radii
BINDING = {False: (0.05, 12.0), True: (1.2, 9.0)}  # eV an atom; the latter where all elements are covalent
COVALENT = {1, 5, 6, 7, 8, 9, 14, 15, 16, 17}
MOST_MISFIT = 8.0
CLEAR = 3.0  # times the noise of predicted forces, above which they are judged
VANISHING = 0.005  # of the median of a sample: forces that are zero but for noise; kcal/mol is 0.04 of an eV
AGREEING = 0.5  # of logarithms of ratios that one unit explains
EXPLAINED = 0.5  # part of the forces, below which one linear potential is none for all
MOST_FAMILIES = 5  # the largest, each fitted by itself
UNIT_APART = 2.8  # as factors between units are; what differs less is noise of fits
TORN = 0.03  # part of the forces that a potential loses to energies which contradict them
TURNED = 0.9  # minus the cosine, from which one frame alone is told to have the wrong sign
CHANCE = 6  # components of forces, up to which chance or symmetry may align them with a prediction
PLACES = ("yz", "xz", "xy")


@dataclass
class Examined:
    """Findings about the labels."""

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)


def examine(tally: Tally, c: Columns, steps: Steps) -> Examined:
    """Infer units and signs of everything in a set."""
    examined = Examined()
    length = _unit_of_length(c, examined)
    frames = [_scaled(f, LENGTH[length]) for f in tally.sample()]
    frames = _ordinary(frames)
    isolated = {z: e[0][1] for z, e in tally.isolated.items()}
    if len(frames) < FEWEST:
        examined.skipped["units of energy, forces and stress"] = f"only {len(frames)} labeled structures"
        examined.findings += _references(tally, c, Hypothesis())
        return examined
    elements = sorted({int(z) for f in frames for z in f.numbers})
    basis, fitted = _fit(frames, elements)
    evidence = infer_units.measure(fitted, frames, basis, isolated)
    evidence = _along_trajectory(evidence, steps, LENGTH[length], examined)
    verdict = infer_units.weigh(evidence)
    believed = verdict.best if verdict.confidence >= PROBABLE and verdict.misfit < MOST_MISFIT else Hypothesis()
    examined.findings += _told(verdict, evidence)
    _record(examined, evidence, fitted)
    examined.findings += _references(tally, c, believed)
    if fitted is None:
        examined.skipped["energies against forces"] = "too few labels, or energies that do not vary"
        return examined
    examined.findings += [*_families(frames, fitted)] or [*_unrelated(fitted)]
    examined.findings += _mixed(fitted)
    _stress(fitted, believed, steps, examined)
    return examined


def _scaled(frame: Frame, length: float) -> Frame:
    return replace(frame, positions=frame.positions * length, cell=frame.cell * length)


def _ordinary(frames: list[Frame]) -> list[Frame]:
    """The frames without those whose labels are far off, or whose atoms overlap."""
    size = np.array([np.nanmax(np.abs(f.forces)) for f in frames])  # forces of held atoms are NaN, never all
    limit = 20 * np.median(size) if len(frames) else 0.0
    kinds: dict[bytes, list[Frame]] = {}
    for frame, greatest in zip(frames, size, strict=True):
        if not greatest > limit and len(frame.numbers) > 1 and _apart(frame):
            kinds.setdefault(np.sort(frame.numbers).tobytes(), []).append(frame)
    kept = []
    for members in kinds.values():
        energies = np.array([f.energy / len(f.numbers) for f in members])
        far = (
            np.abs(robust(energies, 1e-9)) > OUTLIER if len(members) >= FEW else np.zeros(len(members), dtype=bool)
        )
        kept += [f for f, out in zip(members, far, strict=True) if not out]
    return kept


def _apart(frame: Frame) -> bool:
    """Whether neighbors can be listed; where not, `checks.closeness` names the frame.

    Coincident atoms are found within any cutoff. A small one sorts atoms into more boxes than there are atoms, and
    a large one finds crowds where positions are in nm.
    """
    try:
        build_graph(frame.numbers, frame.positions, frame.cell, frame.pbc, HALF_A_BOND)
    except ValueError:
        return False
    return True


def _fit(frames: list[Frame], elements: list[int]) -> tuple[Basis, Fit | None]:
    """The richest potential that the sample can determine."""
    nearest = float(np.mean([2 * covalent_radii[z] for z in elements]))
    n = sum(int(np.isfinite(f.forces).sum()) for f in frames)
    for n_moment in (3, 2, 1):
        basis = Basis(elements, nearest, n_moment)
        if n >= 3 * basis.size:
            return basis, fit(frames, basis)
    return basis, None


def _unit_of_length(c: Columns, examined: Examined) -> str:
    """The unit that puts nearest atoms a bond apart; tells where that is not the one in the file."""
    bonds = c.bond[np.isfinite(c.bond)]
    if not len(bonds):
        examined.skipped["unit of length"] = "no two atoms that could bind"
        return "angstrom"
    middle = float(np.median(bonds))
    off = {unit: abs(np.log(middle * value)) for unit, value in LENGTH.items()}
    unit = min(off, key=lambda u: off[u])
    if off["angstrom"] < BOND_ERROR:
        return "angstrom"
    what = f"Nearest atoms stand {middle:.2f} sums of their covalent radii apart"
    if off[unit] < 0.25 and off["angstrom"] > 2 * off[unit]:
        fix = f"positions={unit}" + (f";cell={unit}" if c.periodic.any() else "")
        message = f"{what}: positions are in {unit}, not in angstrom."
        examined.findings.append(finding("unit of length", "error", message, fix=fix, confidence=SURE))
        return unit
    examined.findings.append(finding("unit of length", "warning", f"{what}, and no unit of length explains that."))
    return "angstrom"


def _along_trajectory(evidence: Evidence, steps: Steps, length: float, examined: Examined) -> Evidence:
    """The evidence with the ratio measured along small steps, where there are such."""
    slope, cosine, n = trajectory_slope(steps)
    if n < FEWEST:
        examined.skipped["energy along trajectories"] = (
            f"{n} pairs of frames follow each other closely; a fit was used"
        )
        return evidence
    examined.facts["work of forces / change of energy"] = (
        f"{slope:.4g} over {n} small steps (correlation {cosine:.3f})"
    )
    if abs(cosine) < 0.9:
        return evidence
    return replace(evidence, ratio=slope * length, ratio_error=0.03 + (1 - abs(cosine)))


def _told(verdict: Verdict, evidence: Evidence) -> Iterator[Finding]:
    """The verdict as a finding; none if nothing is wrong, or nothing is sure."""
    best, fine = verdict.best, Hypothesis()
    ratio = f"forces are {evidence.ratio:.4g} times the slope of the energy" if np.isfinite(evidence.ratio) else ""
    if verdict.misfit > MOST_MISFIT:
        if ratio and not 0.3 < evidence.ratio < 3.3:
            message = f"Energies and forces do not belong together: {ratio}, and no units explain that."
            yield finding("units of labels", "error", message)
        return
    if best == fine or verdict.confidence < PROBABLE:
        return
    parts = []
    if best.energy != "eV" or best.energy_sign < 0:
        sign = "with the opposite sign" if best.energy_sign < 0 else ""
        parts.append(
            f"energies are in {best.energy} {sign}".strip() if best.energy != "eV" else f"energies come {sign}"
        )
    if best.forces_sign < 0:
        parts.append("forces have the wrong sign: they are gradients")
    if best.forces != "eV/angstrom":
        parts.append(f"forces are in {best.forces}")
    figures = [ratio] if ratio else []
    if np.isfinite(evidence.stiffness):
        figures.append(f"bonds are {evidence.stiffness:.3g} times as stiff as expected")
    if np.isfinite(evidence.total) and abs(evidence.total) > 1e-3:
        figures.append(f"energies are {evidence.total:.3g} of those of all electrons in eV")
    sure = verdict.confidence >= SURE
    message = f"{'' if sure else 'Probably '}{', '.join(parts)} ({'; '.join(figures)})."
    message = message[0].upper() + message[1:]
    fix = ";".join(best.fixes())
    severity: Severity = "error" if sure else "warning"
    yield finding("units of labels", severity, message, fix=fix, confidence=round(verdict.confidence, 3))


def _record(examined: Examined, evidence: Evidence, fitted: Fit | None) -> None:
    if fitted is None:
        return
    examined.facts |= {
        "forces / slope of energy": f"{fitted.ratio:.3g} in a linear potential, which explains "
        f"{fitted.forces_explained:.1%} of forces and {fitted.energies_explained:.1%} of energies",
        "stiffness of bonds": f"{evidence.stiffness:.2f} times the expected",
    }
    examined.curves["predicted energy"] = fitted.predicted
    examined.curves["labeled energy"] = fitted.energy * fitted.ratio
    forces = [fitted.known(k) for k in range(len(fitted.frames))]
    examined.curves["labeled forces"], examined.curves["predicted forces"] = map(
        np.concatenate, zip(*forces, strict=True)
    )


def _unrelated(fitted: Fit) -> Iterator[Finding]:
    """Labels that no local potential explains: those of other structures, or of other atoms."""
    is_many = len(fitted.frames) >= 3 * FEWEST
    if is_many and fitted.forces_explained < 0.3:
        message = (
            f"A linear potential explains {fitted.forces_explained:.0%} of the forces, which is little: "
            "do they belong to these structures, and to the atoms in this order?"
        )
        yield finding("forces", "warning", message)
    elif is_many and fitted.forces_explained > 0.8 and fitted.energies_explained < 0.3:
        message = (
            f"A potential that explains {fitted.forces_explained:.0%} of the forces explains "
            f"{fitted.energies_explained:.0%} of the energies: they are those of other structures."
        )
        yield finding("energies", "error", message)
    elif len(fitted.frames) >= 2 * FEWEST and _are_at_odds(fitted):
        message = (
            f"A potential explains {fitted.forces_alone:.1%} of the forces by themselves, but "
            f"{fitted.forces_explained:.1%} of them with {fitted.energies_explained:.0%} of the energies: "
            "some energies have another offset, are of another method or structure, or carry noise."
        )
        yield finding("energies", "warning", message)


def _are_at_odds(fitted: Fit) -> bool:
    """Whether energies keep a potential from explaining forces, or are explained much less than these."""
    alone, together = 1 - fitted.forces_alone, 1 - fitted.forces_explained
    is_torn = together > max(TORN, 5 * alone)
    return fitted.forces_alone > 0.8 and (is_torn or 1 - fitted.energies_explained > max(0.1, 3 * together))


def _families(frames: list[Frame], fitted: Fit) -> Iterator[Finding]:
    """Families, or sources of a merged set, that are sound each on its own, with other units of energy to force.

    Only where one potential for all explains little: it is fitted to the average of two units.
    """
    families: dict[str, list[Frame]] = {}
    for frame in frames if fitted.forces_explained < EXPLAINED else ():
        families.setdefault((frame.group or "").partition(": ")[0], []).append(frame)
    ratios: dict[str, float] = {}
    for name in sorted(families, key=lambda name: -len(families[name]))[:MOST_FAMILIES]:
        mine = families[name]
        elements = sorted({int(z) for frame in mine for z in frame.numbers})
        own = _fit(mine, elements)[1] if len(families) > 1 and len(mine) >= FEWEST else None
        if own is not None and min(own.forces_explained, own.energies_explained) > EXPLAINED:
            ratios[name] = own.ratio
    first = next(iter(ratios), "")
    for name, ratio in ratios.items():
        if not 1 / UNIT_APART < ratio / ratios[first] < UNIT_APART:
            message = (
                f"Beside its energies, forces of {name or 'frames without a family'} are about "
                f"{ratio / ratios[first]:.3g} times those of {first or 'frames without a family'}: one of the two "
                "is in other units, or of another sign. Look at each source by itself: mlpot data check."
            )
            yield finding("mixed units", "error", message)


def _mixed(fitted: Fit) -> Iterator[Finding]:
    """Frames whose forces are one and the same multiple of the prediction, another than that of the rest.

    Forces that vanish (of perfect crystals, relaxed structures, dimers near their minimum) have chance directions
    and ratios. So frames are judged only where label and prediction stand clear of noise: that of the labels is
    judged by their size beside that of the others, that of the prediction by its part across the label. Where few
    components leave the direction to chance, frames count only if their ratios agree, as those of a unit do.
    """
    pairs = [fitted.known(k) for k in range(len(fitted.frames))]
    size = np.array([len(labeled) for labeled, _ in pairs])
    theirs, ours = (np.array([np.sqrt(np.mean(p[side] ** 2)) for p in pairs]) for side in (0, 1))
    cosine = np.array([float(np.mean(a * b)) for a, b in pairs]) / np.maximum(ours * theirs, 1e-300)
    across = ours * np.sqrt(np.maximum(0.0, 1 - cosine**2))  # of the prediction, whatever the unit of the label
    telling = size > CHANCE
    noise = float(np.median(across[telling])) if telling.any() else 0.0
    large = [x > VANISHING * np.median(x) for x in (ours, theirs)]
    slope = np.sign(cosine) * theirs / np.maximum(ours, 1e-300)
    usual = (slope > 0.35) & (slope < 2.8)
    deviating = (ours > CLEAR * noise) & large[0] & large[1] & ~usual & (np.abs(cosine) > 0.8)
    enough = max(1.0, 0.01 * len(slope))
    turned = deviating & telling & (cosine < -TURNED) & (ours > 2 * CLEAR * noise)
    if fitted.forces_explained > 0.8 and deviating.sum() == turned.sum() == 1:
        atoms = fitted.frames[int(np.argmax(turned))].numbers
        message = (
            f"The forces of 1 of {len(slope)} sampled structures ({len(atoms)} atoms, energy "
            f"{fitted.frames[int(np.argmax(turned))].energy:.6f} eV) have the opposite sign of those expected."
        )
        yield finding("mixed units", "warning", message)
        return
    if fitted.forces_explained < 0.5 or deviating.sum() <= enough:
        return
    middle = float(np.median(slope[deviating]))
    agree = deviating & (np.abs(np.log(np.maximum(slope / middle, 1e-300))) < AGREEING)
    if (deviating & telling).sum() <= enough and agree.sum() <= max(enough, 0.75 * deviating.sum()):
        return
    message = (
        f"The forces of {deviating.sum()} of {len(slope)} sampled structures are about {middle:.3g} times those "
        "expected of the others: units or signs are mixed."
    )
    yield finding("mixed units", "error", message)


def _references(tally: Tally, c: Columns, believed: Hypothesis) -> Iterator[Finding]:
    """Energies of isolated atoms against those of the structures."""
    isolated = np.array(sorted(k for members in tally.isolated.values() for k, _ in members), dtype=np.int64)
    for z, members in tally.isolated.items():
        energies = np.array([e for _, e in members])
        if np.ptp(energies) > 1e-3:
            symbol = chemical_symbols[z]
            message = f"The isolated {symbol} atom has {len(members)} energies, {np.ptp(energies):.3g} eV apart."
            yield finding("reference energies", "error", message, isolated)
    frames = tally.sample()
    elements = {int(z) for f in frames for z in f.numbers}
    if not frames or not elements <= tally.isolated.keys() or believed.energy == infer_units.PER_ATOM:
        return
    unit = believed.energy_sign * ENERGY[believed.energy]
    energies = unit * np.array([f.energy for f in frames])
    sizes = np.array([len(f.numbers) for f in frames])
    atoms = unit * np.array([sum(tally.isolated[int(z)][0][1] for z in f.numbers) for f in frames])
    each = (atoms - energies) / sizes
    binding = float(np.median(each))
    low, high = BINDING[elements <= COVALENT]
    if elements <= set(np.flatnonzero(NOBLE).tolist()):
        low = -high  # hardly bound, and not at all where compressed
    # The most bound tell whether the references are too low: many of a dissociation curve are not bound at all.
    if low <= float(np.percentile(each, 95)) and binding <= high:
        return
    message = f"Measured from the isolated atoms, the structures are bound by {binding:.4g} eV an atom"
    mean = float(np.median(-energies / sizes))
    if low <= mean <= high:
        message += f"; from zero, by {mean:.3g}: energies are cohesive, those of the isolated atoms are total."
        yield finding("reference energies", "error", message, isolated, fix=dropping(isolated))
        return
    for name, value in ENERGY.items():
        if low <= float(np.median((atoms * value / unit - energies) / sizes)) <= high and name != believed.energy:
            message += f": the isolated atoms are in {name}."
            yield finding("reference energies", "error", message, isolated, fix=f"isolated={name}")
            return
    message += ": they were computed otherwise than the structures, or are those of other elements."
    yield finding("reference energies", "error", message, isolated, fix=dropping(isolated))


def _stress(fitted: Fit, believed: Hypothesis, steps: Steps, examined: Examined) -> None:
    """Unit, sign and order of the stress."""
    if not any(np.isfinite(f.stress).all() for f in fitted.frames):
        examined.skipped["stress"] = "no frame has any"
        return
    unit, length = believed.forces.rsplit("/", 1)
    verdict = infer_units.weigh_stress(fitted, believed.forces_sign * ENERGY[unit] / LENGTH[length])
    if verdict is None:
        examined.skipped["stress"] = "the linear potential does not predict it"
        return
    examined.facts["stress"] = (
        f"{verdict.slope * PRESSURE.get(verdict.unit, 1.0):.2f} times the strain derivative, in {verdict.unit} "
        f"(correlation {verdict.agreement:.3f})"
    )
    slope, cosine, n = strain_slope(steps)
    if abs(cosine) > 0.9:
        examined.facts["work of stress / change of energy"] = f"{slope:.4g} over {n} small strains"
    examined.findings += _stress_told(verdict)


def _stress_told(verdict: StressVerdict) -> Iterator[Finding]:
    parts, fixes = [], []
    sign = "-" * (verdict.sign < 0)
    if verdict.unit == "eV" and verdict.sign < 0:
        parts.append("it is a virial in eV, not a stress")
        fixes.append("stress=virial")
    else:
        if verdict.unit != "eV/angstrom^3":
            parts.append(f"it is in {verdict.unit}" if verdict.unit != "eV" else "it is multiplied by the volume")
        if verdict.sign < 0:
            parts.append("it has the sign of a pressure, positive where compressed")
        if parts:
            fixes.append(f"stress={sign}{verdict.unit}")
    if verdict.order != (0, 1, 2):
        stored = [""] * 3
        for place, source in zip(PLACES, verdict.order, strict=True):
            stored[source] = place
        order = ",".join(["xx", "yy", "zz", *stored])
        parts.append(f"its components are in the order {order}")
        fixes.append(f"voigt={order}")
    if parts:
        message = (
            f"Stress against the strain derivative of the energy: {'; '.join(parts)} "
            f"(correlation {verdict.agreement:.2f})."
        )
        yield finding("stress", "error", message, fix=";".join(fixes), confidence=round(verdict.agreement, 3))
