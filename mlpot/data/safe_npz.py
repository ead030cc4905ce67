"""npz files: the size of each member is checked before any is unpacked."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from mlpot.data.errors import FormatError
from mlpot.data.h5md.safe_hdf5 import MAX_CHUNK, MAX_RATIO, naming_damage

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def open_arrays(file: IO[bytes], name: str) -> NpzFile:
    """The arrays of an open npz file, each read when it is asked for; nothing in it is unpickled.

    Raises:
        FormatError: no npz, damaged, Python objects, or sizes that are absurd or not true; it names `name`.
    """
    with naming_damage(name):
        if not zipfile.is_zipfile(file):
            raise FormatError(f"{name} is damaged, or neither npz nor HDF5. Restore it, or name its format.")
        size = file.seek(0, os.SEEK_END)
        with zipfile.ZipFile(file) as members:
            claim = sum(member.file_size for member in members.infolist())
            if claim > MAX_CHUNK + MAX_RATIO * size:
                raise FormatError(f"{name} claims to unpack {claim} bytes from {size}. Remake the file.")
            for member in members.infolist():
                _check(f"{name}:{member.filename}", members, member)
        file.seek(0)
        arrays: NpzFile = np.load(file, allow_pickle=False)
    return arrays


def map_array(path: Path) -> NDArray[Any]:
    """The array of an npy file, of which only what is used is read; nothing is unpickled.

    Raises:
        FormatError: no npy file, damaged, Python objects, or smaller than it says.
    """
    with naming_damage(str(path)):
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _check(where: str, members: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """A member is an array of numbers or text that is as large as it says."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FormatError(f"{where} is packed in a way that numpy does not use. Save it with numpy.savez.")
    with members.open(member) as file:
        version = npy.read_magic(file)
        if version not in HEADERS:
            raise FormatError(f"{where} is an array of version {version}. Save it with numpy.savez.")
        shape, _, dtype = HEADERS[version](file)
        if dtype.hasobject:
            raise FormatError(f"{where} holds pickled Python objects, which are never read. Save plain arrays.")
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise FormatError(f"{where} claims shape {shape}, which is not what it holds. Remake the file.")
