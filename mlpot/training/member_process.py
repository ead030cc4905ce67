"""Members of a committee that are trained at once, each by a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

import torch

from mlpot.signals import SignalledError, end_with_parent, stop_request
from mlpot.training import fit
from mlpot.training.messages import LOG, Messages
from mlpot.training.recipe import Recipe
from mlpot.training.run_directory import has_begun

POLL = 0.1  # seconds
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
COMMAND = "from mlpot.training.member_process import train_one; train_one()"


class MemberError(ValueError):
    """A member could not be trained; the others are saved."""


def train_members(recipes: Mapping[int, Recipe], at_once: int, tell: Messages, *, resume: bool) -> None:
    """Train members, so many at once; the threads of this process are shared out among theirs.

    Args:
        recipes: by number of the member.
        at_once: processes.
        tell: which member begins and has finished.
        resume: go on with those that have begun.

    Raises:
        SignalledError: a signal asked to stop; all are saved, and can be resumed.
        MemberError: one of them stopped for another reason; the others are saved.
    """
    waiting, running = list(recipes.items()), dict[int, subprocess.Popen[bytes]]()
    with stop_request() as stop:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    k, recipe = waiting.pop(0)
                    tell(f"Member {k + 1} begins, see {Path(recipe.training.directory) / LOG}")
                    running[k] = _start(recipe, max(1, torch.get_num_threads() // at_once), resume)
                time.sleep(POLL)
                for k in [k for k, process in running.items() if process.poll() is not None]:
                    _check_end(k, running.pop(k))
                    tell(f"Member {k + 1} has finished")
                if stop.signal is not None:
                    folder = Path(next(iter(recipes.values())).training.directory).parent
                    raise SignalledError(
                        f"Stopped by {stop.signal.name}; what was trained is saved. Continue with mlpot train "
                        f"{folder / 'recipe.yaml'} --resume",
                        stop.signal,
                    )
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.communicate()


def _start(recipe: Recipe, n_threads: int, resume: bool) -> subprocess.Popen[bytes]:
    """The process of a member, which an interrupt at the terminal reaches through this one alone."""
    silent = recipe.model_copy(update={"training": recipe.training.model_copy(update={"progress": False})})
    begun = resume and has_begun(Path(recipe.training.directory))
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # warnings stand in the log
        env={**os.environ, **dict.fromkeys(THREADS, str(n_threads))},
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"recipe": silent.model_dump(mode="json"), "resume": begun}).encode())
    process.stdin.close()
    process.stdin = None  # or `communicate` would write to it
    return process


def _check_end(k: int, process: subprocess.Popen[bytes]) -> None:
    said = process.communicate()[0].decode().strip()
    if process.returncode == 0:
        return
    if not said:
        said = f"its process ended with {process.returncode}, and said nothing: was it killed for its memory?"
    raise MemberError(f"Member {k + 1}: {said} The other members are saved: go on with --resume.")


def train_one() -> None:
    """The process of a member: trains what its input says, and says why if it cannot."""
    end_with_parent()
    told = json.load(sys.stdin)
    reason, code = "", 0
    try:
        fit.train(Recipe.model_validate(told["recipe"]), resume=told["resume"])
    except SignalledError as error:
        reason, code = str(error), error.exit_code
    except (ValueError, OSError) as error:  # what a user can mend
        reason, code = str(error), 1
    except Exception:  # a fault of the program, which the process that waits shows whole
        reason, code = traceback.format_exc(), 1
    print(reason, flush=True)
    sys.exit(code)
