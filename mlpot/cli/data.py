"""The `mlpot data` commands; as in `cli`, imports stand inside the subcommands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from mlpot.cli.options import On, counted, numbers_in, pairs
from mlpot.signals import SignalledAtOnce, SignalledError, stop_request

if TYPE_CHECKING:
    from mlpot.data.sources.read import Source

data_app = typer.Typer(
    help="Training sets: convert, merge, inspect, check, split, compute, export.", no_args_is_help=True
)
console = Console()

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Repeatable.")]
Card = Annotated[
    list[str] | None, typer.Option("--card", metavar="KEY=VALUE", help="What the data are. Repeatable.")
]

FileFormat = Annotated[str | None, typer.Option("--format", help="Where the file does not show it.")]
Keys = Annotated[
    list[str] | None, typer.Option("--key", metavar="QUANTITY=NAME", help="Name in the file. Repeatable.")
]
Units = Annotated[
    list[str] | None, typer.Option("--unit", metavar="QUANTITY=UNIT", help="Unit in the file. Repeatable.")
]
Index = Annotated[str, typer.Option("--index", help="Slice of the frames, such as ::10.")]
Boundary = Annotated[
    str | None, typer.Option("--pbc", help="Periodic directions, such as TTF, whatever the file says.")
]
NanIsMissing = Annotated[
    bool, typer.Option("--nan-is-missing", help="A label that is NaN throughout was not calculated.")
]
RawForces = Annotated[
    bool, typer.Option("--raw-forces", help="Forces are the potential's, also of atoms that are held.")
]

ElementNames = Annotated[
    str | None,
    typer.Option(
        "--elements", help="Where the file tells types: Si,O or 0=Na,1=Cl; where it tells nothing: Si8O16."
    ),
]
ElementsFrom = Annotated[
    Path | None, typer.Option("--elements-from", help="A file with the same atoms in the same order.")
]
KeepUnconverged = Annotated[
    bool, typer.Option("--keep-unconverged", help="Take frames whose self-consistency did not converge.")
]


@data_app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Any file that ASE reads, npz, HDF5 or H5MD.")],
    destination: Annotated[Path, typer.Argument(help="H5MD file to write.")],
    format: FileFormat = None,
    key: Keys = None,
    unit: Units = None,
    index: Index = ":",
    pbc: Boundary = None,
    nan_is_missing: NanIsMissing = False,
    raw_forces: RawForces = False,
    elements: ElementNames = None,
    elements_from: ElementsFrom = None,
    keep_unconverged: KeepUnconverged = False,
    cell: Annotated[str | None, typer.Option(help="Å, where CP2K's file of cells is absent: 10,10,10.")] = None,
    correct: Annotated[
        list[str] | None,
        typer.Option(
            metavar="QUANTITY=UNIT", help="What the numbers really are, whatever the file says. Repeatable."
        ),
    ] = None,
    drop: Annotated[str | None, typer.Option(help="Frames to leave out: 3,5,8, or duplicates.")] = None,
    without: Annotated[Path | None, typer.Option(help="A set whose structures are left out.")] = None,
    hold: Annotated[str | None, typer.Option(help="Atoms whose forces are not to be learned: 0,1,2.")] = None,
    card: Card = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn a file of labeled structures into H5MD; units are given or read, never guessed."""
    from mlpot.data.sources.convert import convert as run
    from mlpot.data.sources.read import Source, named_elements
    from mlpot.data.sources.reading import Reading

    said = pairs(key), pairs(unit), index, pbc, nan_is_missing, raw_forces
    reading = Reading(format, *said, True, named_elements(elements, elements_from), keep_unconverged, cell)
    read = Source(source, reading)
    n = run(
        read,
        destination,
        corrections=pairs(correct),
        drop=drop,
        without=without,
        hold=[int(atom) for atom in numbers_in("--hold", hold, "0,1,2", whole=True)],
        card=pairs(card),
        overwrite=overwrite,
    )
    print_account(read)
    console.print(f"{counted(n, 'frame')} written to {destination}", soft_wrap=True)


@data_app.command()
def merge(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE... SET.h5", help="Sources of any kind; the last is the set to write."),
    ],
    references: Annotated[
        Literal["ask", "atoms", "fit", "keep"],
        typer.Option(help="Energies of several methods: by isolated atoms, by a fit, or as they are."),
    ] = "ask",
    reference: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:H=eV,O=eV", help="Isolated atoms of a source. Repeatable."),
    ] = None,
    conflicts: Annotated[
        Literal["ask", "first", "keep"],
        typer.Option(help="A structure with two energies, or forces: the first, or both."),
    ] = "ask",
    drop_duplicates: Annotated[bool, typer.Option("--drop-duplicates", help="Keep each structure once.")] = False,
    card: Card = None,
    overwrite: Overwrite = False,
) -> None:
    """Put several sources into one H5MD file; which source a frame is from becomes its family."""
    from mlpot.data.merge import merge as run
    from mlpot.data.merge import references_of
    from mlpot.data.sources.read import Source

    *paths, destination = files
    if destination.suffix not in (".h5", ".hdf5", ".h5md"):
        raise ValueError(f"The last file, {destination}, is the set to write. Let it end in .h5.")
    sources = [Source(path) for path in paths]
    done = run(
        sources,
        destination,
        references=references,
        given=references_of(reference or ()),
        conflicts=conflicts,
        drop_duplicates=drop_duplicates,
        card=pairs(card),
        overwrite=overwrite,
    )
    for source in sources:
        print_account(source)
    for name, shift in done.shifted.items():
        told = ", ".join(f"{symbol} {energy:+.4f}" for symbol, energy in shift.items())
        console.print(f"Energies of {name} changed by {told} eV an atom", markup=False, soft_wrap=True)
    if done.n_repeated and not drop_duplicates:
        told = f"{done.n_repeated} structures stand in an earlier source too; --drop-duplicates keeps each once"
        console.print(told, soft_wrap=True)
    left = f", {done.n_left_out} left out that an earlier source has" if done.n_left_out else ""
    console.print(f"{counted(done.n_frames, 'frame')} written to {destination}{left}", soft_wrap=True)


@data_app.command()
def split(
    file: Annotated[Path, typer.Argument(help="A file of structures of any kind.")],
    fractions: Annotated[str, typer.Option(help="Of training, validation and test frames.")] = "0.8,0.1,0.1",
    by: Annotated[
        Literal["block", "composition", "group", "random"], typer.Option(help="What stays together.")
    ] = "block",
    block: Annotated[
        int | None, typer.Option(min=1, max=2**31, help="Frames of a block; by default as the set needs.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; by default that of the file.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the parts.")] = 0,
    elements: ElementNames = None,
    elements_from: ElementsFrom = None,
    overwrite: Overwrite = False,
) -> None:
    """Write training, validation and test sets that share no structure."""
    from mlpot.data.split import split as run

    parts = numbers_in("--fractions", fractions, "0.8,0.1,0.1")
    source = source_of(file, elements, elements_from)
    written = run(source, parts, by=by, block=block, output=output, seed=seed, overwrite=overwrite)
    print_account(source)
    for path, n in written.items():
        console.print(f"{counted(n, 'frame')} written to {path}", soft_wrap=True)


@data_app.command()
def recover(
    file: Annotated[Path, typer.Argument(help="Damaged H5MD file that mlpot wrote; it is left as it is.")],
    destination: Annotated[Path, typer.Argument(help="H5MD file to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Take every whole frame out of a damaged file; exit status 0: nothing is lost, 3: something is."""
    from mlpot.data.h5md.recover import recover as run

    told = run(file, destination, overwrite=overwrite)
    for note in told.notes:
        console.print(note, markup=False, soft_wrap=True)
    least = "at least " if told.notes else ""  # what is in notes may have had frames that nobody counted
    console.print(
        f"{counted(told.n_frames, 'frame')} written to {destination}, {least}{told.n_lost} lost", soft_wrap=True
    )
    raise typer.Exit(3 if told.n_lost or told.notes else 0)


data_app.command("salvage", hidden=True)(recover)  # its name until version 0.1


@data_app.command()
def label(
    source: Annotated[Path, typer.Argument(help="A file of structures of any kind.")],
    destination: Annotated[Path, typer.Argument(help="H5MD file to write.")],
    calculator: Annotated[str, typer.Option(help="pyscf, gpaw or tblite.")],
    settings: Settings = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes of one thread each.")] = 1,
    on: On = None,
    card: Card = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget an interrupted run.")] = False,
    elements: ElementNames = None,
    elements_from: ElementsFrom = None,
    overwrite: Overwrite = False,
) -> None:
    """Compute energies, forces and stresses by quantum chemistry; an interrupted run goes on where it was."""
    from rich.progress import Progress

    from mlpot.data.label import label as run
    from mlpot.recipes import assign

    read = source_of(source, elements, elements_from, labels=False)
    with ended_in_words(destination), Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("labeling", total=None)
        report = run(
            read,
            destination,
            calculator=calculator,
            settings=assign({}, settings or ()),
            workers=workers,
            on=on,
            card=pairs(card),
            resume=not restart,
            overwrite=overwrite,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    for frame, reason in report.failures.items():
        console.print(f"Frame {frame} failed: {reason}", soft_wrap=True)
    print_account(read)
    console.print(f"{report.labeled} of {report.frames} structures labeled in {destination}", soft_wrap=True)


@contextmanager
def ended_in_words(destination: Path) -> Iterator[None]:
    """Say, where a signal ends a run that labels, what is kept and how to go on.

    Raises:
        SignalledError: a signal came.
    """
    with stop_request(at_once=True) as stop:
        try:
            yield
        except SignalledAtOnce:
            assert stop.signal is not None
            partial = destination.with_name(f"{destination.name}.partial")
            kept = f"what is computed is kept in {partial}" if partial.exists() else "nothing was computed yet"
            raise SignalledError(
                f"{stop.signal.name} ended the labeling; {kept}. The same command goes on from there.", stop.signal
            ) from None


def source_of(file: Path, elements: str | None, elements_from: Path | None, *, labels: bool = True) -> Source:
    """A file of structures as its format says, but for elements that it may not tell."""
    from mlpot.data.sources.read import Source, named_elements
    from mlpot.data.sources.reading import Reading

    return Source(file, Reading(labels=labels, elements=named_elements(elements, elements_from)))


def print_account(source: Source) -> None:
    """What was read of a source, and what was left out and why."""
    for line in source.report.lines():
        console.print(line, markup=False, soft_wrap=True)


def print_facts(facts: Mapping[str, str]) -> None:
    """A line for each fact under its name; those that are empty are left out."""
    for name, fact in facts.items():
        if fact:
            console.print(f"[bold]{name}[/bold]: ", end="")
            console.print(fact, markup=False, soft_wrap=True)


def new_table(title: str, names: str, *columns: str) -> Table:
    """A table of figures with names on the left; `names` says of what they are."""
    table = FigureTable(title=title, title_justify="left")
    table.add_column(names)
    for column in columns:
        table.add_column(column, justify="right")
    return table


class FigureTable(Table):
    """A table each of whose rows has a cell in each column, so that no figure stands under another's head."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """As rich's, but a row of another length is an error."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells for {len(self.columns)} columns: {cells}")
        super().add_row(*cells, **options)
