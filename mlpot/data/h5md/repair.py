"""Repair a damaged HDF5 file so far that the library opens its whole parts.

Every block of metadata that our files have ends with a checksum (R. Jenkins' lookup3). A checksum of 32 bits shows
which one of some thousand bits was flipped, so a block with one wrong bit can be corrected.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

SUPERBLOCK = struct.Struct("<8sBBBBQQQQI")  # signature, version, three bytes, base, extension, end, root, checksum
SIGNATURE = b"\x89HDF\r\n\x1a\n"
BLOCKS = re.compile(rb"OHDR|OCHK|EAHD|EAIB|EASB|EADB|FRHP|FHIB|BTHD|BTLF|BTIN|FSHD|FSSE")
MAX_BLOCK = 2**13  # bytes; longer blocks are those of large index tables
MAX_BLOCKS, MAX_BROKEN = 10**5, 100  # looked at; of more, only the first
MAX_GUESSED = 512  # bytes up to which every length is tried
NOISE = 2**20  # bytes written at once
MAX_MISSING = 64  # times the bytes that are there
ROTATIONS = (4, 6, 8, 16, 19, 4)  # bits, of lookup3's mix
LAST_ROTATIONS = (14, 11, 25, 16, 4, 14, 24)  # of its end


def repair(path: Path) -> list[str]:
    """Change a file so that HDF5 opens its whole parts; the changes, in words."""
    with path.open("r+b") as file:
        if file.seek(0, os.SEEK_END) < SUPERBLOCK.size:
            return []
        with mmap.mmap(file.fileno(), 0) as data:
            notes = _superblock(data)
            notes += _blocks(data)
            end = SUPERBLOCK.unpack(data[: SUPERBLOCK.size])[7]
        return notes + _lengthen(file.fileno(), end)


def _superblock(data: mmap.mmap) -> list[str]:
    data[: len(SIGNATURE)] = SIGNATURE
    return [] if agree([data[: SUPERBLOCK.size]])[0] else _put_right(data, 0, [SUPERBLOCK.size - 4])


def _blocks(data: mmap.mmap) -> list[str]:
    """Correct blocks with one wrong bit; blocks with more, and bytes that only look like a block, stay."""
    starts = [match.start() for match in islice(BLOCKS.finditer(data), MAX_BLOCKS)]
    spaces = dict(zip(starts, np.diff([*starts, len(data)]).clip(max=MAX_BLOCK).tolist(), strict=True))
    kinds: dict[bytes, list[int]] = defaultdict(list)
    for start in starts:
        kinds[data[start : start + 4]].append(start)
    notes = []
    for kind, todo in kinds.items():
        lengths: list[int] = []
        broken: list[int] = []
        while todo and len(broken) < MAX_BROKEN:
            block = data[todo[0] : todo[0] + spaces[todo[0]]]
            length = whole_length(block[:MAX_GUESSED]) or whole_length(block)
            if length is None:
                broken.append(todo.pop(0))
                continue
            lengths.append(length)
            fits = [start for start in todo if length + 4 <= spaces[start]]
            whole = agree([data[start : start + length + 4] for start in fits])
            todo = sorted(set(todo) - {start for start, ok in zip(fits, whole, strict=True) if ok})
        guessed = range(12, MAX_GUESSED) if kind in (b"OHDR", b"OCHK") else ()
        for start in broken:
            notes += _put_right(data, start, [n for n in (*lengths, *guessed) if n + 4 <= spaces[start]])
    return notes


def _put_right(data: mmap.mmap, start: int, lengths: Iterable[int]) -> list[str]:
    for length in lengths:
        block, stored = data[start : start + length], data[start + length : start + length + 4]
        bit = wrong_bit(block, int.from_bytes(stored, "little"))
        if bit is not None:
            data[start + bit // 8] ^= 1 << bit % 8
            return [f"bit {bit % 8} of byte {start + bit // 8} was wrong and is corrected"]
    return []


def _lengthen(descriptor: int, end: int) -> list[str]:
    """Fill the missing end with random bytes, as zeros would have a valid checksum."""
    size = os.fstat(descriptor).st_size
    if not size < end < MAX_MISSING * size + NOISE:
        return []
    noise = np.random.default_rng(0)
    for start in range(size, end, NOISE):
        os.pwrite(descriptor, noise.bytes(min(NOISE, end - start)), start)
    return [f"the last {end - size} of {end} bytes are missing"]


# --- lookup3: each column of a state (3, n) is one computation ---


def agree(blocks: Sequence[bytes]) -> NDArray[np.bool_]:
    """Which of some blocks of equal length agree with the checksum at their end."""
    length = len(blocks[0]) - 4
    words = np.stack([_words(block[:length]) for block in blocks], axis=-1)
    state = _begin(np.full(len(blocks), length))
    for k, word in enumerate(words):
        state += word
        _mix(state) if k < len(words) - 1 else _end(state)
    return np.asarray(state[2] == [int.from_bytes(block[length:], "little") for block in blocks])


def whole_length(block: bytes) -> int | None:
    """After how many bytes their checksum follows, if anywhere."""
    lengths = np.arange(1, len(block) - 3)
    state = _begin(lengths)
    for k, word in enumerate(_words(block)):
        for n in range(12 * k + 1, min(12 * k + 13, len(block) - 3)):  # those that end here
            state[:, n - 1] += _words(block[12 * k : n])[0]
        rest = state[:, 12 * k + 12 :]
        rest += word[:, None]
        _mix(rest)
    _end(state)
    stored = [int.from_bytes(block[n : n + 4], "little") for n in lengths]
    found = np.flatnonzero(state[2] == np.array(stored, dtype=np.uint32))
    return int(lengths[found[0]]) if len(found) else None


def wrong_bit(block: bytes, stored: int) -> int | None:
    """The bit of a block with its checksum behind it whose flip makes the two agree."""
    words, base = _words(block), _begin(np.array([len(block)]))
    state = np.repeat(base, 96 * len(words), axis=1)  # one column for each flip
    flips = np.zeros((3, 96), np.uint32)
    flips[np.arange(96) // 32, np.arange(96)] = np.uint32(1) << np.arange(96, dtype=np.uint32) % 32
    for k, word in enumerate(words):
        here = slice(96 * k, 96 * k + 96)
        state[:, : here.start] += word[:, None]
        state[:, here] = base + (word[:, None] ^ flips)
        base += word[:, None]
        for some in (state[:, : here.stop], base):
            _mix(some) if k < len(words) - 1 else _end(some)
    wrong = int(base[2, 0]) ^ stored
    if wrong.bit_count() == 1:
        return 8 * len(block) + wrong.bit_length() - 1
    found = np.flatnonzero(state[2] == stored)
    return int(found[0]) if len(found) and found[0] < 8 * len(block) else None


def _words(block: bytes) -> Words:
    """(n, 3), the end filled with zeros."""
    return np.frombuffer(block.ljust(-(-len(block) // 12) * 12, b"\0"), "<u4").reshape(-1, 3)


def _begin(lengths: NDArray[np.int64]) -> Words:
    return np.tile((0xDEADBEEF + lengths).astype(np.uint32), (3, 1))


def _mix(s: Words) -> None:
    for k, bits in enumerate(ROTATIONS):
        x, y, z = k % 3, (k + 1) % 3, (k + 2) % 3
        s[x] -= s[z]
        s[x] ^= s[z] << bits | s[z] >> 32 - bits
        s[z] += s[y]


def _end(s: Words) -> None:
    for k, bits in enumerate(LAST_ROTATIONS):
        x, y = (k + 2) % 3, (k + 1) % 3
        s[x] ^= s[y]
        s[x] -= s[y] << bits | s[y] >> 32 - bits
