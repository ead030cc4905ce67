"""The certificate of a model file or a calculator, on given structures or our own."""

from __future__ import annotations

from pathlib import Path

from ase import Atoms

from mlpot.certificate.examples import of_training, with_companions
from mlpot.certificate.nve import Tell
from mlpot.certificate.structures import bundled, elements_of, numbers_of
from mlpot.certificate.tested import CalculatorUnderTest, of_calculator, of_model
from mlpot.certificate.verify import Certificate, Level, verify
from mlpot.data.sources.read import read_structures

MOST_STRUCTURES = 4  # of a file, spread over it


def certify(
    model: str | Path | None = None,
    structures: str | Path | None = None,
    *,
    level: Level = "quick",
    calculator: str | None = None,
    elements: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    long_ps: float = 100.0,
    tell: Tell = lambda text: None,
) -> Certificate:
    """The certificate of a model file, or of an ASE calculator of any package.

    Args:
        model: file of a trained potential.
        structures: any file that ASE reads, of which four structures are used; by default the training structures
            in the model file, or ours.
        level: "quick" or "full".
        calculator: module:name, instead of a model.
        elements: of the calculator, such as "H,C,O"; those of the structures by default.
        device: on which the model computes.
        dtype: "float32" or "float64"; by default that of the model, or float64 for a calculator.
        long_ps, tell: as `verify`.

    Raises:
        ValueError: elements are unknown, or neither they nor structures were given with a calculator.
        FileNotFoundError, FormatError, ModelFileError: of the files.
    """
    given = _read(structures) if structures is not None else {}
    if model is not None:
        tested = of_model(model, device=device, dtype=dtype)
    else:
        tested = _foreign(calculator or "", elements, given, single=dtype == "float32")
    unknown = set(elements_of(given.values())) - set(tested.elements)
    if unknown:
        raise ValueError(
            f"{structures} holds Z = {sorted(unknown)}, unknown to {tested.name}. Give other structures."
        )
    if given:
        chosen = with_companions(given)
    else:
        header = {} if tested.potential is None else tested.potential.header
        chosen = of_training(header) or bundled(tested.elements)
    return verify(tested, chosen, level, long_ps=long_ps, tell=tell)


def _foreign(
    calculator: str, elements: str | None, given: dict[str, Atoms], *, single: bool
) -> CalculatorUnderTest:
    known = numbers_of(elements) if elements else elements_of(given.values())
    if not known:
        raise ValueError("The elements of the calculator are unknown. Give --elements H,C,O or --structures.")
    return of_calculator(calculator, known, single=single)


def _read(path: str | Path) -> dict[str, Atoms]:
    n = sum(1 for _ in read_structures(path))
    step = max(1, n // MOST_STRUCTURES)
    frames = enumerate(read_structures(path, 0, step * MOST_STRUCTURES, step))
    return {f"frame {k * step}": _bare(atoms) for k, atoms in frames}


def _bare(atoms: Atoms) -> Atoms:
    """A copy without labels and constraints; charge and spin in `info` stay."""
    out = atoms.copy()
    out.calc = None
    out.set_constraint()
    return out
