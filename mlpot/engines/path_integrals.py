"""i-PI's door: a potential as a custom potential of its `ffdirect`, all beads in one call.

```xml
<ffdirect name='mlpot'>
  <pes> custom </pes>
  <pes_path> .../mlpot/engines/path_integrals.py </pes_path>
  <parameters> {model: model.safetensors, template: start.xyz} </parameters>
  <batch_size> 4 </batch_size>
</ffdirect>
```

i-PI loads this file by its path, which `python -m mlpot.engines.path_integrals` prints, and gives cells and
positions in its own units. Energies and forces are the calculator's. The virial of a structure without periods is
NaN: it has no volume. Atoms are those of the template, in its order, as i-PI tells no elements.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np
import torch
from ipi.utils.softexit import softexit
from ipi.utils.units import unit_to_internal, unit_to_user
from numpy.typing import NDArray

from mlpot.data.sources.read import read_structure
from mlpot.engines.images import images_matter, no_images
from mlpot.engines.template import Template
from mlpot.equivariance import warn_of_rotations
from mlpot.model_file import load_potential
from mlpot.neighbors import build_graphs
from mlpot.watched import Watch, predict_watched, warn_of_state

__DRIVER_NAME__ = "mlpot"
__DRIVER_CLASS__ = "MLPotDriver"

Floats = NDArray[np.float64]
Answer = tuple[float, Floats, Floats, str]
"""Energy, forces (n_atoms, 3), virial (3, 3) and no more, in i-PI's units."""
OWN = {"verbosity", "verbose"}
"""Parameters that i-PI adds."""


class MLPotDriver:
    """What i-PI calls; it tells once of a bead outside of the training set.

    Args:
        model: a file that mlpot wrote.
        template: any file of structures; the first has the elements and the boundary of all beads.
        dtype: "float32" or "float64"; that of the model by default.

    Raises:
        ValueError: a parameter is unknown, or an element of the template.
        FileNotFoundError, FormatError: as the functions that read the model and the template.
    """

    def __init__(self, model: str, template: str, dtype: str | None = None, **others: Any):
        if unknown := sorted(set(others) - OWN):
            raise ValueError(
                f"ffdirect has parameters {unknown}; mlpot knows model, template and dtype. Remove them."
            )
        self._potential = load_potential(model, dtype=dtype)
        warn_of_rotations(self._potential)
        self._template = read_structure(template)
        self._potential.check_elements(torch.as_tensor(self._template.numbers))
        warn_of_state(self._template)
        self._order = Template(self._template, "template", "i-PI")
        self._warned, self._watch = False, Watch()

    def __call__(self, cell: Any, pos: Any) -> Answer | list[Answer]:
        """Energy, forces and virial of a structure, or of each in a list.

        Args:
            cell: (3, 3), columns are cell vectors; or one for each structure.
            pos: (n_atoms, 3); or one for each structure.

        Raises:
            ValueError: positions are not finite, two atoms are in one place, or atoms are not the template's.
        """
        try:
            if isinstance(cell, list):
                return self._answers(cell, pos)
            return self._answers([cell], [pos])[0]
        except Exception as error:
            if threading.current_thread() is not threading.main_thread():  # else i-PI waits for this one for ever
                softexit.trigger(status="bad", message=f"mlpot: {error}")
            raise

    def _answers(self, cells: list[Floats], positions: list[Floats]) -> list[Answer]:
        h = [unit_to_user("length", "angstrom", cell.T) for cell in cells]
        r = [unit_to_user("length", "angstrom", one) for one in positions]
        for one in r:
            self._order.check(one)
        z, pbc = self._template.numbers, self._template.pbc
        if not self._warned and not pbc.any():
            self._warned = images_matter(z, r[0], h[0], self._potential.cutoff)
            if self._warned:
                warnings.warn(no_images("template", "i-PI"), stacklevel=3)
        graph = build_graphs([z] * len(r), r, h, [pbc] * len(r), self._potential.cutoff)
        out = predict_watched(self._potential, graph, self._watch, lambda k: self._name(k, len(r)))
        forces = out.forces.view(len(r), len(z), 3).numpy()
        volumes = np.abs(np.linalg.det(np.array(h)))[:, None, None]
        virials = -out.stress.numpy() * volumes
        return [
            (
                float(unit_to_internal("energy", "electronvolt", energy)),
                unit_to_internal("force", "ev/ang", force),
                unit_to_internal("energy", "electronvolt", virial.T),
                "",
            )
            for energy, force, virial in zip(out.energy.tolist(), forces, virials, strict=True)
        ]

    @staticmethod
    def _name(k: int, n: int) -> str:
        """Of an atom of structure k of n, for a warning."""
        return f"An atom of i-PI's structure {k} of {n}" if n > 1 else "An atom of i-PI's structure"


if __name__ == "__main__":
    print(__file__)
