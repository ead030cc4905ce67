"""H5MD of other programs: which of its groups are structures, and what in it nobody reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import h5py

from mlpot.data.errors import KeysError

KEYS = ("energy", "stress", "forces", "particles")
"""What a user may name in H5MD of another program; `particles` are the groups that are structures."""
KNOWN = ("box", "id", "species", "position", "mass", "charge", "velocity")
"""Elements of a particles group that are used, or say nothing of the structure."""


def particles_of(file: h5py.File, said: str | None, known: Collection[str]) -> list[str]:
    """Names of the groups of particles that are read, each as structures of its own.

    Args:
        file: an H5MD file.
        said: "a" or "a,b", as the user names them.
        known: programs that write a group for each kind of structures.

    Raises:
        KeysError: there are several, which in H5MD are parts of one system, or one that is named is not there.
    """
    names = list(file["particles"])
    if said is not None:
        asked = [name.strip() for name in said.split(",")]
        if absent := [name for name in asked if name not in names]:
            raise KeysError(f"{file.filename} has no particles {absent}. It has {names}. Correct --key particles.")
        return asked
    if len(names) < 2 or creator_of(file) in known:
        return names
    sizes = {name: file.get(f"particles/{name}/position/value") for name in names}
    told = ", ".join(f"{n}: {d.shape[1]} atoms" for n, d in sizes.items() if d is not None and d.ndim == 3)
    raise KeysError(
        f"{file.filename} has several groups of particles ({told}), which in H5MD are parts of one system, and "
        f"whose forces come from all of it. If one of them is the whole system: --key particles={names[0]}. If "
        f"they are structures of their own: --key particles={','.join(names)}."
    )


def creator_of(file: h5py.File) -> str:
    """The program that wrote a file, empty if it does not say."""
    name = file["h5md/creator"].attrs.get("name", "") if "h5md/creator" in file else ""
    return name.decode() if isinstance(name, bytes) else str(name)


def unread(file: h5py.File, used: Collection[str]) -> list[str]:
    """Names of elements of particles and of observables that are not read.

    Args:
        file: an H5MD file.
        used: names of the datasets that are.
    """
    found = []
    for name, group in file["particles"].items():
        for element in group:
            path = f"/particles/{name}/{element}"
            if element not in KNOWN and not any(place.startswith(path) for place in used):
                found.append(path[1:])

    def visit(path: str, item: Any) -> None:
        place = f"/observables/{path}"
        if (
            isinstance(item, h5py.Dataset)
            and path.rpartition("/")[2] not in ("step", "time")
            and place not in used
        ):
            found.append(place[1:].removesuffix("/value"))

    if isinstance(file.get("observables"), h5py.Group):
        file["observables"].visititems(visit)
    return found


def places_of(said: Mapping[str, str], key: str, group: str) -> list[str]:
    """Where an element may be that a user names: relative to the observables, to its group, or to the file."""
    name = said[key].removeprefix("-").removesuffix("/value").strip("/")
    return [
        f"{place}{name}/value" for place in (f"observables/{group}/", "observables/", f"particles/{group}/", "")
    ]
