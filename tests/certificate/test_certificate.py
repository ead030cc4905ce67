"""The certificate passes what is sound and catches every seeded defect."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import faulty_calculators
import faulty_calculators_2
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential
from faulty_calculators import CUTOFF, Blended, NotANumber, Toy
from potentials import new_potential, small_potential
from structures import copper, copper_atom, ethanol, shaken
from torch import Tensor

from mlpot import forces
from mlpot.certificate import backends, cells, derivatives, locality, nve, side_effects, symmetry
from mlpot.certificate import verify as levels
from mlpot.certificate.check import Check, Measurement, NothingToCheckError, Structures, verdict
from mlpot.certificate.structures import bundled
from mlpot.certificate.tested import CalculatorUnderTest, of_calculator, of_potential
from mlpot.certificate.verify import QUICK, _not_run, verify
from mlpot.graph import AtomGraph
from mlpot.html.certificate import write_page

CUBE = shaken(bulk("Cu", cubic=True, a=3.61), by=0.05)
COPPER: Structures = {"crystal": CUBE, "primitive cell": copper_atom()}
CLUSTER = Atoms("Cu4", positions=[(0, 0, 0), (2.4, 0.1, 0), (0.3, 2.5, 0.2), (1.1, 0.9, 2.3)])
ALL: Structures = {"cluster": CLUSTER} | dict(COPPER)


def toy(kind: type[Toy] = Toy) -> CalculatorUnderTest:
    references = {29: 1.0} if kind is faulty_calculators_2.NothingForAtoms else {}
    return CalculatorUnderTest(
        kind.__name__,
        kind,
        (29, 47) if kind is faulty_calculators_2.StaleNumbers else (29,),
        references=references,
    )


SEEDED: list[tuple[type[Toy], Callable[[CalculatorUnderTest, Structures], Check]]] = [
    (faulty_calculators.StressSign, derivatives.stress),
    (faulty_calculators.StressInGPa, derivatives.stress),
    (faulty_calculators.VoigtSwapped, derivatives.stress),
    (faulty_calculators.ForceSign, derivatives.force),
    (faulty_calculators.Curl, derivatives.force),
    (faulty_calculators.Curl, derivatives.curl),
    (faulty_calculators.Curl, derivatives.loops),
    (faulty_calculators.SingleSums, derivatives.force),
    (faulty_calculators.SingleSums, cells.supercell),
    (faulty_calculators.MissingImage, cells.supercell),
    (faulty_calculators.ZerosForStress, cells.boundaries),
    (faulty_calculators.HardCutoff, locality.smoothness),
    (faulty_calculators.CosineEnvelope, locality.smoothness),
    (faulty_calculators.NeighborCap, locality.high_coordination),
    (faulty_calculators.Attractive, locality.short_range),
    (faulty_calculators.StaleList, side_effects.memory),
    (faulty_calculators.StaleResult, side_effects.memory),
    (faulty_calculators.Noisy, side_effects.determinism),
    (faulty_calculators.Meddling, side_effects.side_effects),
    (faulty_calculators.WritesInfo, side_effects.side_effects),
    (faulty_calculators.Handed, symmetry.rotation),
    (faulty_calculators.Placed, symmetry.translation),
    (faulty_calculators.Ordered, symmetry.permutation),
    (faulty_calculators.Pulling, symmetry.momentum),
    (faulty_calculators.Unsteady, nve.reversal),
    (faulty_calculators.Growing, nve.drift),
    (faulty_calculators.Creeping, nve.drift),
    (faulty_calculators.TooStrong, nve.scaling),
    (faulty_calculators.Rocket, nve.momenta),
    (faulty_calculators_2.AlmostForces, derivatives.force),
    (faulty_calculators_2.ClippedForces, derivatives.force),
    (faulty_calculators_2.Balanced, derivatives.force),
    (faulty_calculators_2.Twisted, symmetry.momentum),
    (faulty_calculators_2.RightAngled, derivatives.stress),
    (faulty_calculators_2.SignedVolume, cells.representation),
    (faulty_calculators_2.AlwaysPeriodic, cells.boundaries),
    (faulty_calculators_2.CastEarly, symmetry.translation),
    (faulty_calculators_2.Unreferenced, locality.smoothness),
    (faulty_calculators_2.NothingForAtoms, locality.isolated_atoms),
    (faulty_calculators_2.ShuffledSums, side_effects.determinism),
    (faulty_calculators_2.StaleNumbers, side_effects.memory),
    (faulty_calculators_2.StaleCell, side_effects.memory),
    (faulty_calculators_2.StalePbc, side_effects.memory),
    (faulty_calculators_2.Lenient, side_effects.memory),
    (faulty_calculators_2.LastAnswer, side_effects.memory),
    (faulty_calculators_2.SetsDtype, side_effects.side_effects),
    (faulty_calculators_2.SetsEnvironment, side_effects.side_effects),
    (faulty_calculators_2.SilencesWarnings, side_effects.side_effects),
    (faulty_calculators_2.Wraps, side_effects.side_effects),
]


SHORT: dict[object, dict[str, float]] = {
    derivatives.loops: {"n_loops": 1, "n_points": 200},
    nve.drift: {"picoseconds": 0.3},
    nve.momenta: {"picoseconds": 0.1},
    nve.reversal: {"n_steps": 50},
    side_effects.determinism: {"n_repeats": 3},
}
"""What is enough for a toy."""
MOVING = {nve.drift, nve.momenta, nve.reversal, nve.scaling}


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Defects may leave traces."""
    dtype, environment = torch.get_default_dtype(), dict(os.environ)
    with warnings.catch_warnings():
        yield
    torch.set_default_dtype(dtype)
    os.environ.clear()
    os.environ.update(environment)


def of_backbone(name: str) -> CalculatorUnderTest:
    return of_potential(small_potential(name, trained=True).freeze())


def run(check, kind: type[Toy]) -> Check:  # type: ignore[no-untyped-def]
    structures = {"cluster": CLUSTER} if check in MOVING else ALL
    return check(toy(kind), structures, **SHORT.get(check, {}))


@pytest.mark.parametrize(("kind", "check"), SEEDED, ids=[f"{k.__name__}-{c.__name__}" for k, c in SEEDED])
def test_a_seeded_defect_is_caught_by_its_check(kind, check) -> None:  # type: ignore[no-untyped-def]
    verdict = run(check, kind)
    assert not verdict.passed, verdict
    assert not verdict.figure <= verdict.bar


SOUND = [*dict.fromkeys(check for _, check in SEEDED), cells.representation, locality.isolated_atoms]


@pytest.mark.parametrize("check", SOUND, ids=lambda c: c.__name__)
def test_a_sound_calculator_passes(check) -> None:  # type: ignore[no-untyped-def]
    verdict = run(check, Toy)
    assert verdict.passed, verdict


@pytest.mark.parametrize("check", [c for c in SOUND if c not in MOVING], ids=lambda c: c.__name__)
def test_what_is_not_a_number_fails(check) -> None:  # type: ignore[no-untyped-def]
    try:
        assert not run(check, NotANumber).passed
    except FloatingPointError:
        # These look for the cutoff first; an error is a failure.
        assert check in (
            locality.smoothness,
            locality.high_coordination,
            locality.short_range,
            locality.isolated_atoms,
        )


def test_a_batch_that_blends_is_told() -> None:
    def judged(potential: object) -> Check:
        return symmetry.batches(replace(toy(), potential=potential), {"a": CLUSTER, "b": CUBE})

    assert not judged(Blended()).passed
    assert judged(new_potential("schnet").freeze()).passed
    with pytest.raises(NothingToCheckError):
        symmetry.batches(toy(), ALL)


def test_a_long_run_tells_how_far_it_is() -> None:
    told: list[str] = []
    assert nve.long_drift(toy(), {"cluster": CLUSTER}, 1.0, told.append).passed
    assert told[-1] == "P18, cluster, float64: 1 of 1 ps"


def test_what_to_do_is_said_of_a_check_that_fails_and_of_no_other() -> None:
    for value, note in ((0.5, "of a copy"), (2.0, "of a copy; mend it")):
        assert verdict("P0", "", [Measurement("", "", value, 1.0)], "of a copy", advice="mend it").note == note


def test_nan_is_above_every_bar() -> None:
    figures = [Measurement("energy", "here", 0.5, 1.0), Measurement("forces", "there", np.nan, 1.0)]
    found = verdict("P0", "nothing", figures)
    assert not found.passed
    assert found.what == "forces"


@pytest.mark.parametrize(
    ("variant", "dtype"), [("schnet", torch.float32), ("egnn", torch.float64)], ids=["schnet", "egnn"]
)
@pytest.mark.slow
def test_our_potentials_pass_all_but_short_range(variant: str, dtype: torch.dtype) -> None:
    """Not one that moves coordinates: with so little training its ethanol falls into itself within half a ps."""
    potential = small_potential(variant, trained=True, dtype=dtype).freeze()
    structures = {"molecule": ethanol(), "crystal": copper(), "primitive cell": copper_atom()}
    certificate = verify(of_potential(potential), structures)
    failed = [c for c in certificate.checks if not c.passed and c.id != "P15"]  # there is no wall around them
    assert not failed


def test_a_cosine_envelope_of_ours_is_told() -> None:
    potential = new_potential("schnet", envelope="cosine").freeze()
    assert not locality.smoothness(of_potential(potential), {"crystal": copper()}).passed


def test_any_calculator_of_ase_can_be_judged() -> None:
    tested = of_calculator("ase.calculators.morse:MorsePotential", (29,))
    assert symmetry.rotation(tested, COPPER).passed
    assert isinstance(tested.calculator, MorsePotential)
    with pytest.raises(ValueError, match="no calculator"):
        of_calculator("ase.calculators.morse:Nothing", (29,))


def test_the_cutoff_of_a_calculator_is_found() -> None:
    assert toy().cutoff(29, 29) == pytest.approx(CUTOFF, abs=1e-6)


def test_every_row_is_told_or_said_not_to_apply() -> None:
    certificate = verify(toy(NotANumber), {"cluster": CLUSTER})
    assert not certificate.passed
    ids = [c.id for c in certificate.checks] + list(certificate.not_applicable)
    assert sorted(ids) == sorted(QUICK)
    json.dumps(certificate.as_dict(), allow_nan=False)


def test_what_is_not_run_is_said_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(levels.LEVELS, "quick", {"P2": symmetry.rotation})  # it does not depend on what is run
    certificate = verify(of_backbone("schnet"), {"ethanol": ethanol()}, level="quick")
    told = certificate.as_dict()["not_run"]
    assert told["P7"] == told["P30 under torch.compile"] == "only at level full"
    assert ("P28 on a GPU" in told) != torch.cuda.is_available()
    assert "P30 as TorchScript" in told
    write_page(certificate.as_dict(), tmp_path / "verify.html")
    page = (tmp_path / "verify.html").read_text()
    assert "Not run here" in page
    assert told["P30 across versions of PyTorch"] in page
    assert "P7" not in dict(_not_run(of_backbone("schnet"), "full", 1000.0))


def test_a_slab_may_have_the_stress_of_its_plane_and_none_across() -> None:
    crystal = {"copper": copper()}
    check = cells.boundaries(of_backbone("schnet"), crystal)
    assert check.passed, check
    across = cells.boundaries(CalculatorUnderTest("EMT", EMT, (29,)), crystal)  # its stress is that of the crystal
    assert not across.passed
    assert "across an open direction" in across.what


@pytest.mark.parametrize("name", ["schnet", "egnn", "deepsets", "se3_transformer"])
@pytest.mark.slow
def test_the_compiler_gives_the_same(name: str) -> None:
    check = backends.agreement(of_backbone(name), {"ethanol": ethanol()}, compiled=True)
    assert check.passed, check
    assert "torch.compile" in check.note


@pytest.mark.parametrize("off", [1e-8, math.nan])
def test_a_native_call_that_is_off_is_found(off: float, monkeypatch: pytest.MonkeyPatch) -> None:
    tested = of_backbone("schnet")
    calculator = tested.make()
    sound = forces.native_call_of(calculator.potential)

    def native(graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor]:
        energy, forces, virial = sound(graph)
        return energy, forces * (1 + off), virial

    assert backends.agreement(tested, {"ethanol": ethanol()}).passed
    usual = forces.native_call_of
    monkeypatch.setattr(forces, "native_call_of", lambda p: native if p is calculator.potential else usual(p))
    check = backends.agreement(replace(tested, make=lambda: calculator), {"ethanol": ethanol()})
    assert not check.passed
    assert check.where == "ethanol, modules"


@pytest.mark.parametrize("name", ["EMT", "LJ"])
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_calculators_of_ase_miss_what_they_are_known_to_miss(name: str) -> None:
    """A cutoff that is not C2, stress without volume, NaN of coincident atoms; and nothing else."""
    smooth = partial(LennardJones, sigma=2.3, epsilon=0.4, rc=6.0, ro=4.0, smooth=True)
    certificate = verify(CalculatorUnderTest(name, EMT if name == "EMT" else smooth, (29,)), bundled((29,)))
    assert [c.id for c in certificate.checks if not c.passed] == ["P9", "P13", "P15"]
    assert list(certificate.not_applicable) == ["P4", "P30"]
