"""Are files made to do harm refused before they do any: nothing run or opened, with little work?"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from frames import mixed
from h5py import h5d, h5s, h5t
from places import TESTS
from work import little_work

from mlpot.data.check.info import info
from mlpot.data.h5md import DataError, FormatError, Reader, append, write
from mlpot.data.h5md.trajectory import TrajectoryWriter
from mlpot.data.sources.convert import convert
from mlpot.data.sources.read import read_structures

HERE = TESTS


def link(kind: object) -> Callable[[h5py.File], None]:
    return lambda file: file.__setitem__("particles/extra", kind)


def external_storage(target: str) -> Callable[[h5py.File], None]:
    return lambda file: file.create_dataset("extra", (5,), "f8", external=[(target, 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((5,), "f8")
    layout[:] = h5py.VirtualSource("outside.h5", "secret", (5,))
    file.create_virtual_dataset("extra", layout)


def plugin(file: h5py.File) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((5,))
    properties.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (1, 2))
    h5d.create(file.id, b"extra", h5t.NATIVE_DOUBLE, h5s.create_simple((5,)), properties)


def python_objects(owner: str) -> Callable[[h5py.File], None]:
    """Bytes that h5py hands out as pointers to Python objects."""
    kind = h5t.create(h5t.OPAQUE, 8)
    kind.set_tag(b"NUMPY:O")

    def spoil(file: h5py.File) -> None:
        space = h5s.create_simple((3,))
        if owner == "dataset":
            h5d.create(file.id, b"extra", kind, space)
        else:
            h5py.h5a.create(file["h5md"].id, b"extra", kind, space)

    return spoil


def deflate_bomb(file: h5py.File) -> None:
    dataset = file.create_dataset("extra", (1000,), "f8", chunks=(1000,), compression="gzip")
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(128)) + packer.flush()
    dataset.id.write_direct_chunk((0,), packed)


def many_attributes(file: h5py.File) -> None:
    for k in range(1000):
        file["particles"].attrs[f"a{k}"] = k


HDF5 = {
    "external link": (link(h5py.ExternalLink("outside.h5", "/secret")), "is a link"),
    "external link to a device": (link(h5py.ExternalLink("/dev/zero", "/")), "is a link"),
    "soft link": (link(h5py.SoftLink("/particles")), "is a link"),
    "soft link upwards": (link(h5py.SoftLink("../../outside.h5")), "is a link"),
    "soft link to itself": (link(h5py.SoftLink("/particles/extra")), "is a link"),
    "external storage": (external_storage("outside.raw"), "in other files"),
    "external storage on a device": (external_storage("/dev/zero"), "in other files"),
    "virtual dataset": (virtual, "in other files"),
    "plugin filter": (plugin, "foreign HDF5 filter 32001"),
    "Python objects": (python_objects("dataset"), "type opaque"),
    "Python objects in an attribute": (python_objects("attribute"), "type opaque"),
    "1 TB contiguous": (lambda f: f.create_dataset("extra", (2**40,), "u1"), "claims 1099511627776 bytes"),
    "1 TB in chunks": (lambda f: f.create_dataset("extra", (2**37,), "f8", chunks=(1024,)), "claims"),
    "1 TB chunk": (
        lambda f: f.create_dataset("extra", (9,), "u1", maxshape=(None,), chunks=(2**40,)),
        "chunks of",
    ),
    "long text": (lambda f: f.create_dataset("extra", (2**10,), "S1000000000"), "claims"),
    "large attribute": (lambda f: f.attrs.create("extra", np.zeros(2**25, "u1")), "attribute 'extra'"),
    "many attributes": (many_attributes, "1000 attributes"),
    "deep groups": (lambda f: f.create_group("/".join("x" * 1000)), "groups in one another"),
    "deflate bomb": (deflate_bomb, "unpacks to more"),
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A set of ours for each attack, spoilt, beside files that it must not reach."""
    folder = tmp_path_factory.mktemp("hostile")
    with h5py.File(folder / "outside.h5", "w") as file:
        file["secret"] = np.arange(5.0)
    (folder / "outside.raw").write_bytes(bytes(64))
    write(folder / "good.h5", mixed(), card={})
    paths = {}
    for name, (spoil, _) in HDF5.items():
        paths[name] = folder / f"{name.replace(' ', '_')}.h5"
        shutil.copyfile(folder / "good.h5", paths[name])
        with h5py.File(paths[name], "r+", libver="latest") as file:
            spoil(file)
    with h5py.File(paths["external link"]) as file:  # the attacks are real
        assert file["particles/extra"][4] == 4.0
    with h5py.File(paths["Python objects"]) as file:
        assert file["extra"].dtype == object
    return paths


@pytest.mark.parametrize("name", HDF5)
def test_a_hostile_hdf5_file_is_refused_at_every_door(hostile, name, tmp_path):
    path, message = hostile[name], HDF5[name][1]
    before = path.read_bytes()
    for use in (
        Reader,
        info,
        lambda p: list(read_structures(p)),
        lambda p: convert(p, tmp_path / "new.h5"),
        lambda p: convert(p, tmp_path / "new.h5", format="mace"),
        lambda p: append(p, mixed()),
    ):
        with pytest.raises(FormatError, match=message):
            use(path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FormatError, match=message):
        TrajectoryWriter(path, card={}, keep=1)
    path.with_name(f"{path.name}.journal").unlink()
    assert path.read_bytes() == before


ATTEMPT = """
import json, os, sys
from pathlib import Path
from mlpot.data.h5md import DataError, FormatError, Reader
from work import little_work

def mark(name):
    try:
        os.open(f"/mark {name}", os.O_RDONLY)
    except FileNotFoundError:
        return

files, told = json.loads(sys.stdin.read()), []
Reader(files.pop("good")).close()
for name, path in files.items():
    mark(name)
    try:
        with little_work():
            Reader(path)
    except FormatError:
        told.append(name)
mark("end")
print(json.dumps(told))
"""


def test_refusal_is_little_work_and_opens_nothing_else(hostile, tmp_path):
    files = {
        "good": str(hostile["virtual dataset"].with_name("good.h5")),
        **{k: str(p) for k, p in hostile.items()},
    }
    command = [sys.executable, "-c", ATTEMPT]
    if tracer := shutil.which("strace"):
        calls = "open,openat,openat2,creat,execve,socket,connect"
        command = [tracer, "-f", "-o", str(tmp_path / "calls"), "-e", f"trace={calls}", *command]
    place = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    out = subprocess.run(command, input=json.dumps(files), capture_output=True, text=True, check=True, env=place)
    assert json.loads(out.stdout) == list(HDF5)
    if tracer is None:
        pytest.skip("strace is not installed: what else was opened is not known")
    attack, opened = None, {}
    for line in (tmp_path / "calls").read_text().splitlines():
        if marked := re.search(r'"/mark (.*?)"', line):
            attack = marked[1]
            opened[attack] = set()
        elif attack:
            opened[attack].add((re.findall(r'"(.*?)"', line) or [line])[0])
    assert opened == {**{name: {str(path)} for name, path in hostile.items()}, "end": opened["end"]}


# --- npz ---


class Bomb:
    """What touches a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def npz(path: Path, members: dict[str, bytes], *, times: int = 1) -> Path:
    """An archive whose table may name each member several times."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
        file.filelist *= times
    return path


def npy(shape: tuple[int, ...], data: bytes, kind: str = "<f8") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


@pytest.mark.parametrize(
    ("members", "times", "message"),
    [
        (lambda fuse: {"R": npy((1,), pickle.dumps([Bomb(fuse)]), "|O")}, 1, "pickled Python objects"),
        (lambda fuse: {"R": pickle.dumps(Bomb(fuse))}, 1, "is damaged"),
        (lambda fuse: {"R": npy((2**37,), bytes(8))}, 1, "which is not what it holds"),
        (lambda fuse: {"R": npy((2**21,), bytes(2**24))}, 20, "claims to unpack"),
        (lambda fuse: {"R": npy((-1, 3), bytes(24))}, 1, "is not what it holds|is damaged"),
        (lambda fuse: {"../../escaped": npy((1,), bytes(8))}, 1, "no layout that is known"),
    ],
    ids=["objects", "pickle", "1 TB", "zip bomb", "negative", "zip slip"],
)
def test_a_hostile_npz_file_is_refused(tmp_path, members, times, message):
    path, fuse = tmp_path / "set.npz", tmp_path / "exploded"
    npz(path, members(fuse), times=times)
    with little_work(), pytest.raises(DataError, match=message):
        convert(path, tmp_path / "new.h5")
    assert list(tmp_path.iterdir()) == [path]


def test_a_pickle_is_no_npz_file(tmp_path):
    path = tmp_path / "set.npz"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(FormatError, match="is damaged, or neither"):
        convert(path, tmp_path / "new.h5")
    assert list(tmp_path.iterdir()) == [path]


# --- what ASE reads ---


def test_formats_that_run_or_open_something_else_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("root")
    files = {
        "old.trj": b"PickleTrajectory" + pickle.dumps(Bomb(tmp_path / "exploded")),
        "old.traj": b"PickleTrajectory" + pickle.dumps(Bomb(tmp_path / "exploded")),
        "basis.com": f"# hf/gen\n\ntitle\n\n0 1\nH 0 0 0\n\n@{secret}\n\n".encode(),
        "inp": f"XYZCoordinates = '{secret}'\n".encode(),
        "crystal.cell": b"%BLOCK LATTICE_CART\n1 0 0\n0 1 0\n0 0 1\n%ENDBLOCK LATTICE_CART\n",
        "input.dat": b"%block lattice_cart\n includefile secret\n*\nlock species \n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError):
            list(read_structures(tmp_path / name))
        with pytest.raises(DataError):
            convert(tmp_path / name, tmp_path / "new.h5")
    for kind in (
        "gaussian-in",
        "octopus-in",
        "onetep-in",
        "castep-cell",
        "bundletrajectory",
        "postgresql",
        "znh5md",
    ):
        with pytest.raises(FormatError, match=r"no format that is read|There is no format"):
            convert(secret, tmp_path / "new.h5", format=kind)
    assert {path.name for path in tmp_path.iterdir()} == {*files, "secret"}


@pytest.mark.parametrize("count", ["1000000000000", "-1", "1e9", "x"])
def test_a_false_number_of_atoms_is_refused(tmp_path, count):
    path = tmp_path / "set.xyz"
    path.write_text(f"{count}\nProperties=species:S:1:pos:R:3\nH 0 0 0\n")
    with pytest.raises(DataError):
        convert(path, tmp_path / "new.h5")
    assert list(tmp_path.iterdir()) == [path]
