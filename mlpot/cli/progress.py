"""A bar on the terminal for what takes longer than two seconds; nothing where nobody looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PATIENCE = 2.0  # seconds for which a terminal may be silent


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A function to tell how much is done, and of how much if that is known."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True)
    task, began = bar.add_task(what, total=None), time.monotonic()

    def tell(done: int, total: int | None = None) -> None:
        bar.update(task, completed=done, total=total)
        if console.is_terminal and not bar.live.is_started and time.monotonic() - began > PATIENCE:
            bar.start()

    try:
        yield tell
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def working(what: str) -> Iterator[None]:
    """A sign of life for what cannot tell how far it is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield
