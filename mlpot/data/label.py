"""Label structures by a quantum-chemistry code: in parallel, resumable; a failed frame does not end the run."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mlpot.atomic_files import check_place
from mlpot.data import h5md
from mlpot.data.cluster import LOST, WorkerError, cluster, threads_of_worker
from mlpot.data.errors import DataError, FormatError, KeysError, LabelError
from mlpot.data.frame import columns_of
from mlpot.data.label_workers import KEPT, Outcome, attempt, in_processes
from mlpot.data.quantum import Code, SettingsError, charge_of, choose, version
from mlpot.data.sources.names import KNOWN, looks_like
from mlpot.data.sources.read import H5MD_ENDINGS, Source, as_source
from mlpot.data.sources.shapes import charge_of_columns
from mlpot.folder_lock import folder_lock

AHEAD = 1000  # structures that a scheduler knows at a time


class ResumeError(DataError):
    """An interrupted run cannot be continued: it had other settings, another code or other structures."""


@dataclass(frozen=True)
class LabelReport:
    """What a run of `label` did."""

    frames: int
    """Structures in the source."""
    resumed: int
    """Of these, done by an earlier run that was interrupted."""
    failures: dict[int, str]
    """Why a structure of this index has no label."""
    net_force: float
    """Largest magnitude of the sum of forces in a frame, eV/Å."""

    @property
    def labeled(self) -> int:
        """Frames in the destination."""
        return self.frames - len(self.failures)


def label(
    source: str | Path | Source,
    destination: str | Path,
    *,
    calculator: str,
    settings: Mapping[str, object] | None = None,
    workers: int = 1,
    on: str | None = None,
    card: Mapping[str, str] | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> LabelReport:
    """Compute energy, forces and stress of every structure and write them as H5MD with a card.

    Results are kept in `<destination>.partial` as they come, one JSON line each, from which an interrupted
    run goes on; it is gone once the destination is complete. A structure that fails is left out, and named
    with its reason in the report and the card. Each worker is one process with one thread.

    Args:
        calculator: a name in `mlpot.data.quantum.CODES`; `settings` are the fields of that class.
        workers: processes here; or, with `on`, those of the Dask scheduler of that address, tcp://host:8786.
        card: entries that are added to the card, such as the licence.
        progress: called with the number of structures done and their total.

    Raises:
        SettingsError: the calculator or one of its settings is unknown. MissingCodeError: it is not installed.
        ResumeError: the working file belongs to another run. LockedError: another process labels into it.
        LabelError: not one structure could be labeled. ClusterError: `on` cannot be used, or a worker here.
        FileExistsError: the destination exists and `overwrite` is not given. FormatError: it does not end in .h5.
    """
    code, destination = choose(calculator, settings or {}), Path(destination)
    _check_destination(destination, overwrite)
    frames = list(_structures(as_source(source, labels=False)))
    partial = destination.with_name(destination.name + ".partial")
    run = {"calculator": calculator, "version": version(code), "settings": code.model_dump()}
    with folder_lock(destination.with_name(f".{destination.name}.label")):  # two would compute all twice
        done = _reopen(partial, run | {"structures": _fingerprint(frames)}, resume)
        left, resumed = [(k, f) for k, f in enumerate(frames) if k not in done], len(done)
        with partial.open("a", encoding="utf-8") as record, _single_threaded_children():
            for outcome in _outcomes(code, left, workers, on):
                _append(record, asdict(outcome))
                done[outcome.frame] = outcome
                (progress or _silent)(len(done), len(frames))
        found = [done[k] for k in range(len(frames))]
        report = _report(found, resumed)
        labeled = (_labeled(frames[k], o, code) for k, o in enumerate(found) if o.failure is None)
        h5md.write(destination, labeled, card=_card(code, report) | dict(card or {}), overwrite=overwrite)
        partial.unlink()
    return report


def _silent(done: int, total: int) -> None:
    """The progress of a caller who asked for none."""


def _structures(source: Source) -> Iterator[Atoms]:
    """All of them, with the charge that the initial charges of their atoms sum to where none is said.

    Raises:
        KeysError: a charge or spin under a name that is not read, as another would be computed.
    """
    for k, atoms in source.numbered():
        for quantity in {"charge", "spin"} - atoms.info.keys():
            numbers = {name for name, value in atoms.info.items() if isinstance(value, int | float | np.number)}
            others = [name for name in sorted(numbers) if looks_like(quantity, name)]
            if others:
                raise KeysError(
                    f"{source.path}, frame {k}: is {others[0]!r} its total {quantity}? What is computed depends "
                    f"on it, and it is read under the names {', '.join(KNOWN[quantity])}. Rename it in the file, "
                    "or remove it."
                )
        total = charge_of_columns(atoms.arrays, whole=False)
        if "charge" not in atoms.info and total is not None:
            atoms.info["charge"] = total
        try:
            columns_of(atoms, k)  # what cannot be written is told before anything is computed
        except LabelError as error:
            raise LabelError(f"{source.path}: {error}") from error
        yield atoms


def _check_destination(destination: Path, overwrite: bool) -> None:
    if destination.suffix not in H5MD_ENDINGS:
        raise FormatError(f"{destination} does not end in .h5, and labels are written as H5MD. Name it so.")
    check_place(destination, overwrite=overwrite)


# --- computing ---


def _outcomes(code: Code, jobs: list[tuple[int, Atoms]], workers: int, on: str | None) -> Iterator[Outcome]:
    """In order of completion, by processes of this machine or by the workers of a cluster."""
    if on is None:
        return in_processes(code, jobs, workers)
    if workers != 1:
        raise SettingsError(f"Workers are those of {on}: give either a number of workers or `on`.")
    return on_cluster(code, jobs, on)


def on_cluster(code: Code, frames: Iterable[tuple[int, Atoms]], address: str) -> Iterator[Outcome]:
    """Outcomes by the workers of a scheduler, in order of completion, see `cluster`.

    A structure whose workers die each time has that as its reason.

    Args:
        code: with its settings; workers must have the same version of it, and one thread.
        frames: with their numbers.
        address: of the scheduler.
    """
    with cluster(address, packages="mlpot[dask,label]", kept=KEPT) as workers:
        own = version(code)
        jobs = ((code, own, *frame) for frame in frames)
        for (_, _, frame, _), outcome in workers.as_done(_elsewhere, jobs, AHEAD):
            died = Outcome(frame, failure="each worker that computed it died: a crash, or no memory left")
            yield died if outcome is LOST else outcome


def _elsewhere(code: Code, expected: str, frame: int, atoms: Atoms) -> Outcome:
    """Runs in a worker of the cluster."""
    if (threads := threads_of_worker()) != 1:
        raise WorkerError(
            f"A worker has {threads} threads, and quantum-chemistry codes are not made for two calculations in "
            f"one process. Start workers with `dask worker --nthreads 1 --nworkers N`. {KEPT}"
        )
    if (own := version(code)) != expected:
        raise WorkerError(
            f"A worker has {code.package} {own}, and this process {expected}: labels of one set are of one "
            f"version. Install the same on all. {KEPT}"
        )
    return attempt(code, frame, atoms)


@contextmanager
def _single_threaded_children() -> Iterator[None]:
    """A code reads its number of threads from the environment when it loads: children inherit ours."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


# --- the working file ---


def _reopen(partial: Path, run: dict[str, Any], resume: bool) -> dict[int, Outcome]:
    """What an interrupted run left; its last line may be torn and is then cut off."""
    run = json.loads(json.dumps(run))
    if resume and partial.exists():
        text = partial.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if whole:
            os.truncate(partial, len(whole))
            head, *lines = (json.loads(line) for line in whole.splitlines())
            changed = [key for key in run if head.get(key) != run[key]]
            if changed:
                raise ResumeError(
                    f"{partial} was begun with other {' and '.join(changed)}. Continue with those, "
                    "or forget that run (--restart; in Python resume=False)."
                )
            outcomes = {line["frame"]: Outcome(**line) for line in lines}
            if any(outcome.failure is None for outcome in outcomes.values()):
                return outcomes  # else all failed, perhaps of what was mended since: they are tried again
    with partial.open("w", encoding="utf-8") as record:
        _append(record, run)
    return {}


def _append(record: Any, line: dict[str, Any]) -> None:
    record.write(json.dumps(line) + "\n")
    record.flush()
    os.fsync(record.fileno())


def _fingerprint(frames: Iterable[Atoms]) -> str:
    digest = hashlib.sha256()
    for atoms in frames:
        for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
            digest.update(array.tobytes())
        state = {key: float(atoms.info[key]) for key in ("charge", "spin") if key in atoms.info}
        digest.update(json.dumps(state).encode() if state else b"")
    return digest.hexdigest()


# --- the destination ---


def _labeled(atoms: Atoms, outcome: Outcome, code: Code) -> Atoms:
    frame = atoms.copy()
    if charge := charge_of(atoms, code.charge):
        frame.info["charge"] = charge
    results = {"energy": outcome.energy, "forces": np.array(outcome.forces)}
    if outcome.stress is not None:
        results["stress"] = np.array(outcome.stress)
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def _report(outcomes: list[Outcome], resumed: int) -> LabelReport:
    failures = {o.frame: o.failure for o in outcomes if o.failure is not None}
    if len(failures) == len(outcomes):
        reason = outcomes[0].failure if outcomes else "there are none"
        raise LabelError(f"Not one of {len(outcomes)} structures could be labeled; the first: {reason}.")
    sums = [np.sum(o.forces, axis=0) for o in outcomes if o.forces is not None]
    net_force = max(float(np.linalg.norm(f)) for f in sums)
    return LabelReport(len(outcomes), resumed, failures, net_force)


def _card(code: Code, report: LabelReport) -> dict[str, str]:
    card = {
        "level of theory": code.theory(),
        "code": f"{code.package} {version(code)}",
        "settings": json.dumps(code.model_dump()),
        "units": "Å, eV, eV/Å, eV/Å³ (positive stress: stretched)",
        "frames": str(report.labeled),
        "largest net force": f"{report.net_force:.1e} eV/Å",
        "date": datetime.date.today().isoformat(),
    }
    if report.failures:
        card["failed structures"] = json.dumps(report.failures)
    return card
