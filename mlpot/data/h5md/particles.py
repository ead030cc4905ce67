"""One particles group of an H5MD file, of mlpot or another program, as checked columns in house units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mlpot.data.elements import Elements
from mlpot.data.errors import FormatError, LabelError, UnitsError
from mlpot.data.frame import ASE_VELOCITY, LARGEST, SPREADS, Columns, believable
from mlpot.data.h5md.foreign import creator_of, places_of
from mlpot.data.h5md.held import Held
from mlpot.data.h5md.joined import at_steps, values_at
from mlpot.data.h5md.layout import COLUMNS, INDEX
from mlpot.data.h5md.slices import SLICE, Slices, slices_of
from mlpot.data.h5md.species import Species
from mlpot.data.unit_names import H5MD_UNITS, agreed_factor

MOTION = ("velocity", "mass", "charge", "fixed", "fixed_center", "step", "time", *SPREADS)
"""Of no use to a training."""
LABELS = (
    "velocity",
    "mass",
    "charge",
    "forces",
    "energy",
    "stress",
    "total_charge",
    "total_spin",
    "weight",
    *SPREADS,
)  # columns that a frame may lack
OF_ATOMS = {"mass": "u", "charge": "e"}  # may be written once for all frames, and mostly without a unit
ELSEWHERE = {
    "forces": ("particles/{}/force",),
    "energy": ("observables/{}/potential_energy", "observables/energy", "observables/potential_energy"),
    "stress": ("observables/stress",),
}
"""Other places where programs keep a column."""
CREATORS = ("mlpot", "znh5md")  # whose species are atomic numbers
PER_ATOM = frozenset(key for key, column in COLUMNS.items() if -1 in column.tail)


class Particles:
    """The rows of one particles group.

    Args:
        file: an H5MD file.
        name: of the group.
        units: by quantity, where the file gives none.
        elements: of the atoms or their types, where the file's species are none or something else.
        keys: names of labels in the file, as the user says; a leading minus turns the sign, "none": it has none.

    Raises:
        FormatError: no positions, box or species; shapes or types that disagree.
        UnitsError: a unit is missing, unknown, doubly given or of the wrong dimension.
    """

    def __init__(
        self,
        file: h5py.File,
        name: str,
        units: Mapping[str, str],
        elements: Elements | None,
        keys: Mapping[str, str] | None = None,
    ):
        self._keys = keys or {}
        self._where = f"{file.filename}:/particles/{name}"
        self._unknown_units: set[str] = set()
        group = file[f"particles/{name}"]
        self._ours = INDEX in file
        self._creator = creator_of(file)
        self._data = {key: found for key in COLUMNS if (found := self._find(file, name, key)) is not None}
        self._n_rows, self._width = self._sizes()
        if not self._ours:
            self._data.pop("fixed", None)  # see `Held`
        self._grows = bool(file.swmr_mode)  # the datasets were opened one after another, while rows were added
        foreign = None if self._ours or self._creator in CREATORS else self._creator
        self._joined = {} if foreign is None else at_steps(group["position"], self._data, LABELS, self._where)
        if self._grows:
            self._n_rows = min(d.shape[0] for key, d in self._data.items() if key not in self._joined)
        self._held = None if self._ours else Held(group, self._where, self._n_rows, self._width)
        self._fixed: Columns = {}  # columns that are the same in every row
        self._species = Species(group, self._data.get("species"), self._where, self._width, foreign, elements)
        if self._species.once is not None:
            self._data.pop("species", None)
            self._fixed["species"] = self._species.once
        # ZnH5MD pads structures of different sizes to the largest with NaN.
        self._padded = "species" in self._data and self._data["species"].dtype.kind == "f"
        self.scales: dict[str, float] = {}
        """House units in one unit of the file, by quantity."""
        self._set_box(group, units)
        self._set_once(group, units)
        self._scale = {key: self._factor(key, dataset.attrs, units) for key, dataset in self._data.items()}
        self.scales |= {COLUMNS[key].quantity or key: scale for key, scale in self._scale.items() if scale}
        self._follow_keys()
        self._add_clocks(group["position"], units)
        self._check_units()
        for key, dataset in self._data.items():
            self._check_column(key, dataset)
        # Datasets none of whose chunks was ever written need no reading: the cell of molecules.
        self._blank = {k for k, d in self._data.items() if d.chunks and d.id.get_storage_size() == 0}

    def _follow_keys(self) -> None:
        """Turn signs as the user says, and note what is read."""
        for key in (key for key, said in self._keys.items() if said.startswith("-") and key in self._scale):
            self._scale[key] = -(self._scale[key] or 1.0)
        self.columns = set(self._data)
        """Keys of what is read for each frame."""
        self.used = {dataset.name for dataset in self._data.values()}
        """Names of the datasets that are read."""

    def _sizes(self) -> tuple[int, int]:
        """Rows and atoms of each."""
        if "position" not in self._data:
            raise FormatError(f"{self._where} has no position/value. Only groups with positions can be read.")
        if self._data["position"].ndim != 3:
            raise FormatError(
                f"{self._where}/position has shape {self._data['position'].shape}, expected (?, ?, 3)."
            )
        n_rows, width, _ = self._data["position"].shape
        return n_rows, width

    def __len__(self) -> int:
        return int(self._n_rows)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(n_rows,) number of atoms of each row."""
        if not self._padded:
            return np.full(len(self), self._width)
        species = self._data["species"]
        parts = [np.isfinite(species[k : k + SLICE]).sum(axis=1) for k in range(0, len(self), SLICE)]
        return np.concatenate(parts).astype(np.int64)

    def rows(
        self, rows: NDArray[np.integer], frames: NDArray[np.integer], *, motion: bool
    ) -> Iterator[tuple[Columns, NDArray[np.bool_]]]:
        """Columns and boundary of ascending `rows`, with velocity and time if `motion`; errors name `frames`.

        Raises:
            LabelError: a value is not finite, or a species is no atomic number.
            FormatError: the file is damaged there.
        """
        blocks, boundary = self._block(rows, motion)
        present = {} if self._padded else self._check_values(blocks, frames)
        for k in range(len(rows)):
            if self._padded:
                columns = self._unpadded(blocks, k, frames[k : k + 1])
            else:
                columns = {key: block[k] for key, block in blocks.items() if key not in present or present[key][k]}
            if "time" in columns and np.isnan(columns["time"]):
                del columns["time"]
            yield columns | self._fixed, boundary[k]

    def block(
        self, rows: NDArray[np.integer], frames: NDArray[np.integer]
    ) -> tuple[Columns, NDArray[np.bool_]] | None:
        """All columns of ascending `rows` and the boundary, each (n_rows, ...); NaN where a row lacks a label.

        None if structures of different sizes are padded here. Errors are those of `rows`.
        """
        if self._padded:
            return None
        blocks, boundary = self._block(rows, motion=True)
        self._check_values(blocks, frames)
        fixed = {key: np.broadcast_to(value, (len(rows), *value.shape)) for key, value in self._fixed.items()}
        return blocks | fixed, boundary

    def _block(self, rows: NDArray[np.integer], motion: bool) -> tuple[Columns, NDArray[np.bool_]]:
        """The columns that are not the same in every row, unchecked, and the boundary (n_rows, 3)."""
        slices = slices_of(rows)
        blocks = {key: self._read(key, rows, slices) for key in self._data if motion or key not in MOTION}
        if "species" in blocks:
            blocks["species"] = self._species.numbers(blocks["species"])
        blocks |= {"fixed": self._held.rows(rows)} if motion and self._held else {}
        pbc = blocks.pop("pbc", None)
        return blocks, np.broadcast_to(self._pbc, (len(rows), 3)) if pbc is None else pbc.astype(bool)

    def _unpadded(self, blocks: Columns, k: int, frame: NDArray[np.integer]) -> Columns:
        """The checked columns of row k, each cut to the atoms that are there."""
        n = int(np.isfinite(blocks["species"][k]).sum())
        own = {key: block[k : k + 1, :n] if key in PER_ATOM else block[k : k + 1] for key, block in blocks.items()}
        present = self._check_values(own, frame)
        return {key: block[0] for key, block in own.items() if key not in present or present[key][0]}

    def _read(self, key: str, rows: NDArray[np.integer], slices: Slices) -> NDArray[Any]:
        """The values of ascending rows in house units; NaN where a padded dataset is shorter than the group."""
        dataset, scale = self._data[key], self._scale[key]
        tail = (self._width, *dataset.shape[2:]) if key in PER_ATOM else dataset.shape[1:]
        dtype = dataset.dtype.newbyteorder("=") if scale is None else np.dtype(np.float64)
        if key in self._joined:
            return _in_our_shape(key, values_at(dataset, self._joined[key][rows]), scale)
        if key in self._blank:
            return np.full((len(rows), *tail), dataset.fillvalue, dtype=dtype)
        block = np.empty((len(rows), *tail), dtype=dtype)
        if self._padded and dtype.kind == "f":
            block.fill(np.nan)
        for lo, hi, a, b in slices:
            try:  # no context manager: this is the innermost loop of training from disk
                part = dataset[lo:hi]
            except (OSError, RuntimeError) as error:
                raise FormatError(
                    f"{dataset.file.filename}:{dataset.name} is damaged in rows {lo} to {hi}: {error}. "
                    "Restore or remake the file."
                ) from None
            wanted = rows[a:b] - lo
            there = wanted < len(part) if self._padded else slice(None)
            block[a:b][(there, slice(0, part.shape[1])) if part.ndim > 1 else there] = part[wanted[there]]
        return _in_our_shape(key, block, scale)

    def _check_values(self, blocks: Columns, frames: NDArray[np.integer]) -> dict[str, NDArray[np.bool_]]:
        """Which rows have which label, after every value was found to be one."""
        present: dict[str, NDArray[np.bool_]] = {}
        for key in ("position", "edges", *LABELS):
            if key not in blocks:
                continue
            block = blocks[key].reshape(len(frames), -1)
            finite = believable(block).all(axis=1)
            bad = ~finite & ~np.isnan(block).all(axis=1) if key in LABELS else ~finite
            if bad.any():
                raise LabelError(
                    f"{self._where}: {key} of frame {frames[bad.argmax()]} is not finite, or above {LARGEST:g} in "
                    "units of mlpot. Repair or remove the frame."
                )
            present[key] = np.asarray(finite)
        species = blocks.get("species")
        if species is not None and species.size and not (species.min() >= 1 and species.max() <= 118):
            bad = ((species < 1) | (species > 118)).any(axis=1)
            raise LabelError(
                f"{self._where}: species of frame {frames[bad.argmax()]} are not atomic numbers 1-118. "
                "Name the elements (--elements or --elements-from)."
            )
        return present

    def _find(self, file: h5py.File, name: str, key: str) -> h5py.Dataset | None:
        """The time-dependent dataset of a column, wherever its writer put it."""
        if key in self._keys:
            given = [p for p in places_of(self._keys, key, name) if isinstance(file.get(p), h5py.Dataset)]
            return file[given[0]] if given else None
        alone = len(file["particles"]) == 1
        places = [COLUMNS[key].path, *(p for p in ELSEWHERE.get(key, ()) if alone or "{}" in p)]
        # Observables need not bear the name of the only group of particles there is.
        names = [name, *file.get("observables", ())] if alone else [name]
        paths = dict.fromkeys(f"{place.format(n)}/value" for place in places for n in names)
        found = [path for path in paths if isinstance(file.get(path), h5py.Dataset)]
        if len(found) > 1:
            raise FormatError(f"{self._where} has {key} twice, in {' and '.join(found)}. Remove one of them.")
        return file[found[0]] if found else None

    def _set_box(self, group: h5py.Group, units: Mapping[str, str]) -> None:
        """Boundary and cell, which H5MD keeps per group or per frame."""
        box = group.get("box")
        boundary = None if box is None else box.attrs.get("boundary")
        if box is None or boundary is None or len(boundary) != 3 or int(box.attrs.get("dimension", 3)) != 3:
            raise FormatError(f"{self._where} has no box with a boundary in three dimensions. Correct the file.")
        if not all(_text(word) in ("periodic", "none") for word in boundary):
            raise FormatError(
                f"{self._where} has boundary {list(boundary)}, expected periodic or none. Correct the file."
            )
        self._pbc = np.array([_text(word) == "periodic" for word in boundary])
        if isinstance(box.get("pbc/value"), h5py.Dataset):  # ZnH5MD
            self._data["pbc"] = box["pbc/value"]
        if "edges" in self._data:
            return
        fixed = box["edges"] if "edges" in box else box.attrs.get("edges")
        if fixed is None and self._pbc.any():
            raise FormatError(f"{self._where} is periodic but has no box/edges. Correct the file.")
        if fixed is None:
            self._fixed["edges"] = np.zeros((3, 3))
            return
        attrs = fixed.attrs if isinstance(fixed, h5py.Dataset) else box.attrs
        self.scales["cell"] = self._factor("edges", attrs, units) or 1.0
        edges = np.array(fixed, dtype=np.float64) * self.scales["cell"]
        self._fixed["edges"] = np.diag(edges) if edges.shape == (3,) else edges
        if self._fixed["edges"].shape != (3, 3):
            raise FormatError(f"{self._where}/box/edges has shape {edges.shape}, expected (3,) or (3, 3).")

    def _set_once(self, group: h5py.Group, units: Mapping[str, str]) -> None:
        """Masses and charges that are the same in every frame."""
        for key in OF_ATOMS.keys() - self._data.keys():
            dataset = group.get(key)
            if isinstance(dataset, h5py.Dataset) and dataset.shape == (self._width,):
                values = np.array(dataset, dtype=np.float64) * (self._factor(key, dataset.attrs, units) or 1.0)
                if not believable(values).all():
                    raise LabelError(f"{self._where}/{key} is not finite, or above {LARGEST:g}. Repair it.")
                self._fixed[key] = values

    def _factor(self, key: str, attrs: Mapping[str, Any], units: Mapping[str, str]) -> float | None:
        """House units in one unit of the file; None for a column without unit."""
        quantity = "time" if key == "time" else COLUMNS[key].quantity if key in COLUMNS else None
        if quantity is None:
            return None
        if key == "velocity" and self._creator == "znh5md":
            return float(ASE_VELOCITY)  # it writes ASE's velocities, whatever their unit attribute says
        written, given = attrs.get("unit"), units.get(quantity)
        written = None if written is None else _text(written)
        given = OF_ATOMS.get(key) if given is written is None else given
        value = agreed_factor(self._where, quantity, written, given)
        if value is None:
            self._unknown_units.add(quantity)
        # One bit makes ns of fs, and HDF5 has no checksum for words.
        if self._ours and written not in (None, H5MD_UNITS[quantity]):
            raise FormatError(
                f"{self._where}: {quantity} is in {written!r}, but mlpot wrote {H5MD_UNITS[quantity]!r}. "
                "The file is damaged or edited: restore it, then `mlpot data convert --correct` changes units."
            )
        return value

    def _check_units(self) -> None:
        """Ask for all units that neither the file nor the user says."""
        if unknown := [quantity for quantity in H5MD_UNITS if quantity in self._unknown_units]:
            said = " ".join(f"--unit {quantity}={H5MD_UNITS[quantity]!r}" for quantity in unknown)
            raise UnitsError(
                f"{self._where}: the file gives no unit for {', '.join(unknown)}, and none is guessed. Give all "
                f"(units are examples, yours may differ): {said}."
            )

    def _add_clocks(self, position: h5py.Group, units: Mapping[str, str]) -> None:
        """Step and time, where they are written out for each frame."""
        step, time = position.get("step"), position.get("time")
        if all(isinstance(d, h5py.Dataset) and _fits(self._whole(d), (len(self),)) for d in (step, time)):
            self._data |= {"step": step, "time": time}
            self._scale |= {"step": None, "time": self._factor("time", time.attrs, units)}

    def _whole(self, dataset: h5py.Dataset) -> tuple[int, ...]:
        """The shape of what is read of a dataset: rows whose other columns are not there yet are left out."""
        shape: tuple[int, ...] = dataset.shape
        return (min(shape[0], len(self)), *shape[1:]) if self._grows and shape else shape

    def _check_column(self, key: str, dataset: h5py.Dataset) -> None:
        rows = len(dataset) if key in self._joined else None if self._padded else len(self)
        atoms = None if self._padded else self._width
        tails = {
            "edges": ((3, 3), (3,)),
            "stress": ((6,), (3, 3)),
            "pbc": ((3,),),
            "step": ((),),
            "time": ((),),
        }
        shapes = [
            (rows, *(atoms if size == -1 else size for size in tail))
            for tail in tails.get(key) or (COLUMNS[key].tail,)
        ]
        if not any(_fits(self._whole(dataset), shape) for shape in shapes):
            raise FormatError(
                f"{self._where}: {dataset.name} has shape {dataset.shape}, expected {shapes[0]} "
                "(frames, then atoms, then components). Correct the file."
            )
        if dataset.dtype.kind not in ("iufOSU" if key == "species" else "iufb") or dataset.dtype == np.float16:
            raise FormatError(
                f"{self._where}: {dataset.name} has type {dataset.dtype}, expected float64 or float32. Convert it."
            )


def _in_our_shape(key: str, block: NDArray[Any], scale: float | None) -> NDArray[Any]:
    """Values of a file in house units, six components of a stress and three vectors of a cell."""
    if key == "stress" and block.ndim == 3:
        block = block[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    if key == "edges" and block.ndim == 2:  # the diagonal of a cuboid
        block = block[:, :, None] * np.eye(3)
    return block if scale in (None, 1.0) else block * scale


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(e in (None, s) for s, e in zip(shape, expected, strict=True))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
