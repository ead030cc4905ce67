"""Is NequIP the function of its paper, as e3nn's parts make it?"""

from __future__ import annotations

from functools import cache

import pytest
from definitions import KNOTS, check_energies_and_forces, check_gradients
from e3nn_nequip import Definition, Size, weights
from slow_parts import every_second

from mlpot.models.nequip import Irrep, NequIP, features
from mlpot.potential import Potential

SIZES = {
    "vectors": Size((1, 6, 8), max_degree=1, residual=True),
    "one element": Size((29,), n=5, n_layers=2, exponent=5),
    "one layer": Size((1, 6, 8), n_layers=1),
    "tensors of both parities": Size((1, 6, 8), n=2, n_layers=4, radial=(5, 4), residual=True),
    "odd scalars": Size((1, 6, 8), n=2, n_layers=6, max_degree=1, neighbors=3.0),
    "degree 3": Size((1, 6, 8), n=2, max_degree=3),
    "no parity": Size((1, 6, 8), parity=False, residual=True),
    "no parity, degree 3": Size((1, 6, 8), n=2, max_degree=3, parity=False),
}


@cache
def both(size: Size) -> tuple[Definition, Potential]:
    """The definition, and a potential with its weights."""
    model = Definition(size)
    references = dict.fromkeys(size.elements, 0.0)
    potential = Potential("nequip", size.arguments() | {"n_knots": KNOTS}, reference_energies=references).double()
    backbone = potential.backbone
    assert isinstance(backbone, NequIP)
    backbone.load_state_dict({**backbone.state_dict(), **weights(model, backbone)})
    return model, potential.freeze()


@pytest.mark.parametrize("name", SIZES)
def test_energies_and_forces_are_those_of_e3nn(name: str) -> None:
    check_energies_and_forces(*both(SIZES[name]))


@pytest.mark.parametrize("name", every_second(SIZES))
def test_gradients_of_a_loss_on_forces_are_those_of_e3nn(name: str) -> None:
    model, potential = both(SIZES[name])
    backbone = potential.backbone
    assert isinstance(backbone, NequIP)
    check_gradients(model, potential, weights(model, backbone), list(model.parameters()))


def test_a_layer_has_the_tensors_that_are_reached_and_that_matter() -> None:
    natural, every = {Irrep(0, 1), Irrep(1, -1)}, {Irrep(0, 1), Irrep(0, -1), Irrep(1, -1), Irrep(1, 1)}
    without_odd_scalars = every - {Irrep(0, -1)}
    found = [set(irreps) for irreps in features(6, 1, parity=True)]
    scalar = {Irrep(0, 1)}
    assert found == [scalar, natural, without_odd_scalars, every, without_odd_scalars, natural, scalar]
    assert features(2, 3, parity=False)[1] == tuple(Irrep(degree, 1) for degree in range(4))


def test_arguments_that_make_no_network_are_refused() -> None:
    with pytest.raises(ValueError, match="max_degree is 4, expected one of 1, 2, 3"):
        NequIP(elements=(1,), max_degree=4)
