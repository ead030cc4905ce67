"""What a program may set for the whole process, kept away from numbers: types, devices, modes, precisions.

Other codes and notebooks set PyTorch's defaults for themselves. A potential gives the same bits whatever they are:
tensors are made with a type and a device of their own, and what no argument can say is set here, for the time of a
block, and set back.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "float64": torch.float64}

# The first exponentials of a process are taken here, by one thread. Where several threads of PyTorch took them
# at once, MKL gave one of them four digits (PyTorch 2.13 on an Intel Xeon, in one new process of thirty), so that
# the first energy of a worker was 0.015 eV off.
for _dtype in DTYPES.values():
    torch.exp(torch.zeros(64, dtype=_dtype, device="cpu"))


@cache
def _pause() -> Callable[[int], int] | None:
    """OpenMP's omp_pause_resource_all (OpenMP 5.0, section 3.6), if PyTorch brings a library that has it."""
    library = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
    return ctypes.CDLL(str(library)).omp_pause_resource_all if library.exists() else None


def openmp_rests() -> None:
    """End PyTorch's OpenMP threads, which wait for work in a busy loop on the cores that our threads need."""
    if pause := _pause():
        pause(1)


# Threads do not survive a fork, and a child that waited for those of its parent would wait for ever, also where
# the parent has only loaded a model. So OpenMP's are ended before, and PyTorch makes them anew in both processes.
os.register_at_fork(before=openmp_rests)

_one_at_a_time = Lock()
_precise = 0  # blocks that need full precision at this moment, in all threads
_precision_before: Any = None


@contextmanager
def usual_settings(*, full_precision: bool = True) -> Iterator[None]:
    """Within the block PyTorch computes as in a new process, on tensors that autograd may keep.

    Not the default type, which belongs to all threads at once: tensors are made with an explicit one.

    Args:
        full_precision: of products of float32 matrices, where a program, or a training, allowed TF32.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_subnormal_numbers())
        if full_precision:
            stack.enter_context(_full_precision())
        yield


def without_autocast(numbers: Tensor) -> AbstractContextManager[object]:
    """A block in which numbers keep their type, for what 16 bits are too few for: splines, sums of many terms."""
    device = numbers.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


@contextmanager
def _subnormal_numbers() -> Iterator[None]:
    """Numbers below the normal ones are kept, as they are unless the program called set_flush_denormal."""
    half = 0.5
    flushed = sys.float_info.min * half == 0.0
    if flushed:
        torch.set_flush_denormal(False)
    try:
        yield
    finally:
        if flushed:
            torch.set_flush_denormal(True)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products of float32 matrices on a CPU are taken in float32, not in bfloat16 or TF32."""
    global _precise, _precision_before
    with _one_at_a_time:
        if _precise == 0 and (before := _matmul_precision()) not in ("none", "ieee", "highest"):
            _precision_before = before
            _set_matmul_precision("ieee")
        _precise += 1
    try:
        yield
    finally:
        with _one_at_a_time:
            _precise -= 1
            if _precise == 0 and _precision_before is not None:
                _set_matmul_precision(_precision_before)
                _precision_before = None


def _matmul_precision() -> str:
    matmul = getattr(torch.backends.mkldnn, "matmul", None)  # since PyTorch 2.9
    return str(torch.get_float32_matmul_precision() if matmul is None else matmul.fp32_precision)


def _set_matmul_precision(precision: str) -> None:
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None:
        torch.set_float32_matmul_precision("highest" if precision == "ieee" else precision)
    else:
        matmul.fp32_precision = precision


def known_dtype(dtype: Any) -> torch.dtype:
    """The type of numbers that is meant by torch.float64, numpy.float64 or "float64".

    Raises:
        ValueError: it is neither float32 nor float64.
    """
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", str(dtype))
    name = {"float": "float64", "double": "float64", "single": "float32"}.get(name, name.removeprefix("torch."))
    if name not in DTYPES:
        raise ValueError(f"{str(dtype)[:40]} is no type that potentials compute in. Use float32 or float64.")
    return DTYPES[name]


def known_device(device: torch.device | str) -> torch.device:
    """The device that is meant, after a number of float64 was stored there.

    Raises:
        ValueError: there is no such device here, or it has no float64, in which positions and sums are.
    """
    if not isinstance(device, str | int | torch.device) or isinstance(device, bool):
        raise ValueError(f'device = {str(device)[:20]}: give "cpu", or "cuda", or one of several: "cuda:1".')
    try:
        torch.empty(1, dtype=torch.float64, device=device)
        found = torch.device(device)
    except (AssertionError, RuntimeError, TypeError, NotImplementedError) as error:
        why = str(error).strip().partition("\n")[0].partition(". ")[0][:120]
        if (isinstance(device, int) or str(device).startswith("cuda")) and not torch.cuda.is_available():
            why = "there is no CUDA device here, or this PyTorch was built without CUDA"
        elif str(device).startswith("mps"):
            why = "there is none here, or it has no float64, in which positions and sums are"
        elif str(device).partition(":")[0] in ("gpu", "nvidia", "auto"):
            why = "GPUs of CUDA are called cuda, cuda:1, and so on"
        raise ValueError(f"Nothing computes on device {str(device)[:20]!r}: {why}. Use cpu.") from None
    if found.type == "meta":
        raise ValueError("Nothing computes on device 'meta', which stores no numbers. Use cpu.")
    return found
