"""Does a disk that is full while HDF5 writes end in words, with nothing left behind, and not in a crash?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from mlpot.atomic_files import StorageError
from mlpot.data import h5md
from mlpot.data.h5md.write import append, write_parts

def frames(n, seed):
    rng = np.random.default_rng(seed)
    for k in range(n):
        atoms = Atoms("CH4", rng.normal(size=(5, 3)))
        atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=rng.normal(size=(5, 3)))
        yield atoms

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
h5md.write(folder / "whole.h5", frames(400, 0), card={})
whole = (folder / "whole.h5").read_bytes()
for limit in (1, 3000, 9000, len(whole) // 3, len(whole) // 2, len(whole) - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))  # as a disk with so much room
    for name, fill in {
        "new.h5": lambda path: h5md.write(path, frames(400, 0), card={}),
        "parts.h5": lambda path: write_parts(path, (frames(50, k) for k in range(20)), card={}),
        "whole.h5": lambda path: append(path, frames(400, 1)),
    }.items():
        try:
            fill(folder / name)
            raise SystemExit(f"{name} fits into {limit} bytes?")
        except StorageError as error:
            assert name in str(error) and ".part" not in str(error), error
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert [path.name for path in folder.iterdir()] == ["whole.h5"], list(folder.iterdir())
assert (folder / "whole.h5").read_bytes() == whole
append(folder / "whole.h5", frames(3, 1))  # HDF5 works as before
with h5md.Reader(folder / "whole.h5") as reader:
    assert len(reader) == 403
"""


DATABASE = """
import resource, signal, sys
from pathlib import Path
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from mlpot.atomic_files import StorageError
from mlpot.data import h5md
from mlpot.data.sources.export import export
from mlpot.data.sources.output import write_structures

def frames():
    for k in range(40):
        atoms = Atoms("CH4", [[0.1 * k, j, 0] for j in range(5)])
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 * k)
        yield atoms

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
h5md.write(folder / "set.h5", frames(), card={})
for limit in (1, 5000, 20000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))  # as a disk with so much room
    for fill in (lambda path: export(folder / "set.h5", path), lambda path: write_structures(path, frames())):
        try:
            fill(folder / "out.db")
            raise SystemExit(f"it fits into {limit} bytes?")
        except StorageError as error:
            assert "out.db cannot be written: SQLite says" in str(error) and "Make room" in str(error), error
assert [path.name for path in folder.iterdir()] == ["set.h5"], list(folder.iterdir())
"""


@pytest.mark.filterwarnings("error")
def test_a_full_disk_is_told_of_a_database_too(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DATABASE, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.filterwarnings("error")
def test_a_full_disk_is_told_and_crashes_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


REPORTS = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from matplotlib.figure import Figure
from mlpot.atomic_files import StorageError
from mlpot.certificate.verify import Certificate
from mlpot.data.check.finding import Report
from mlpot.figures.parity import Compared, write_compared
from mlpot.figures.svg import write_picture
from mlpot.html import certificate, data_check

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
report = Report("set.h5", 3, [], {"frames": "3"}, {})
card = Certificate("model", "quick", {}, "float64", [], {}, {}, "today", "0", 1.0)
writers = {
    "check.html": lambda path: data_check.write_page(report, path),
    "check.json": report.write_json,
    "verify.html": lambda path: certificate.write_page(card.as_dict(), path),
    "verify.json": card.write,
    "parity.json": lambda path: write_compared(Compared("of", np.ones((9, 2)), {}, np.ones((0, 2, 3, 3))), path),
    "picture.png": lambda path: write_picture(Figure(), path, dpi=50),
}
for name, write in writers.items():
    (folder / name).write_text("what was there")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))  # as a disk with so much room
    try:
        write(folder / name)
        raise SystemExit(f"{name} fits?")
    except StorageError as error:
        assert f"{name} cannot grow" in str(error), error
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (folder / name).read_text() == "what was there"
    write(folder / name)
    assert (folder / name).stat().st_size > 100
assert len(list(folder.iterdir())) == len(writers), list(folder.iterdir())
"""


def test_a_report_or_picture_without_room_leaves_what_was_there(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", REPORTS, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
