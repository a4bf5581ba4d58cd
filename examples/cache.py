"""Samples on disk, which are made once and then mapped into memory, batch by batch.

A cache is a folder of `.npz` files without compression. The name of a file is a hash of all that
its samples depend on. It is written beside its place and then renamed, so that what a killed run
leaves is never taken for whole, and locked meanwhile, so that a second run waits and then reads it.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from examples.sources import existing, expect, map_npz, printable, read_npz
from sepconv_layers import files, sources

IN_MEMORY = 2**27  # bytes of samples up to which all are kept in memory
SAMPLES = "samples"  # the name of their array in a file
AHEAD = 256  # items that are computed at a time

Item = TypeVar("Item")
Result = TypeVar("Result")
Check = Callable[[Mapping[str, np.ndarray]], bool]  # of the arrays of a file


class Add(Protocol):
    """Adds an array to a file, piece by piece along its first axis."""

    def __call__(
        self, name: str, shape: Sequence[int], dtype: Any, pieces: Iterable[np.ndarray]
    ) -> None: ...


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a file of a cache holds.

    Attributes:
        samples: The samples, in memory or mapped into it.
        others: The other arrays by name, in memory.
        digest: A hash of the samples, or nothing if they are in memory.
    """

    samples: np.ndarray
    others: Mapping[str, np.ndarray]
    digest: str

    def ordered(self, order: np.ndarray) -> Any:
        """Returns samples in an order: an array if they are in memory, or read by index."""
        return ordered(self.samples, order, self.digest)


def ordered(samples: Any, order: np.ndarray, digest: str) -> Any:
    """Returns samples in an order: an array if they are in memory, or read by index.

    Args:
        samples: An array, or what is read by index.
        order: The indices.
        digest: A hash of all samples, if they are not in memory.
    """
    if not digest:
        return samples[order]
    return sources.Ordered(samples, order, partial(key_of, digest, order.tobytes()))


def key_of(*facts: Any) -> str:
    """Returns a hash of values that determine samples."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def state_of(path: str | os.PathLike) -> tuple[int, int] | None:
    """Returns the size of a file and the time of its last change, if it can be found."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def size_of(shape: Sequence[int], dtype: Any) -> int:
    """Returns the number of bytes of an array."""
    return math.prod(shape) * np.dtype(dtype).itemsize


def in_parallel(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
    """Yields the results for items, in their order. Few are computed ahead of their use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(cores) as pool:
        for start in range(0, len(items), AHEAD):
            yield from pool.map(function, items[start : start + AHEAD])


def checked_folder(folder: str | os.PathLike | None) -> Path | None:
    """Returns the folder of a cache that the user names, which is made if it is missing.

    Raises:
        ValueError: If there is something else in its place.
    """
    if folder is None:
        return None
    path = Path(os.path.expanduser(folder))
    if not os.path.lexists(path):
        path.mkdir(parents=True)
    expected = "`cache` must be a folder"
    expect(existing(path, expected).is_dir(), expected, repr(str(folder)))
    return path


def stored(
    folder: Path | None,
    key: str,
    make: Callable[[Add], None],
    check: Check,
    others: Sequence[str] = (),
    what: str = SAMPLES,
) -> Stored:
    """Returns samples from a cache, which are made first if it does not have them.

    Args:
        folder: The cache. Without one, the samples are in a temporary file while they are used.
        key: The hash of all that the samples depend on.
        make: Makes the samples and the other arrays, and adds them.
        check: Whether arrays have the right shapes and types.
        others: The names of the other arrays.
        what: What messages call the samples.

    Raises:
        OSError: If the file cannot be written.
    """
    name, read = f"{key}.npz", partial(_read, check=check, others=others)
    if folder is None:
        # A mapped file can be removed at once, except on Windows.
        with tempfile.TemporaryDirectory(prefix="sepconv-", ignore_cleanup_errors=True) as place:
            files.write(Path(place, name), partial(_write, make=make))
            return read(Path(place, name))
    path = folder / name
    with contextlib.suppress(ValueError):  # missing or damaged
        return read(path)

    def waiting() -> None:
        print(f"Waiting for another run that writes {printable(str(path))}", flush=True)

    with files.locked(path.with_suffix(".lock"), waiting):
        if os.path.lexists(path):
            try:
                return read(path)  # another run has written it meanwhile
            except ValueError:
                _give_up(path, what)
        files.write(path, partial(_write, make=make))
    return read(path)


def _give_up(path: Path, what: str) -> None:
    """Says that a file cannot be read and is replaced. A folder in its place is kept."""
    how = "it is replaced"
    if path.is_dir():  # a file cannot replace it, and it may be of value
        aside = path.with_name(f"{path.name}.set-aside-{time.time_ns()}")
        how = f"it is now {aside.name}"
        path.rename(aside)
    warnings.warn(
        f"{path} is not a readable cache: {what} are computed again, and {how}.", stacklevel=3
    )


def _write(path: Path, make: Callable[[Add], None]) -> None:
    with zipfile.ZipFile(path, "w") as archive:

        def add(name: str, shape: Sequence[int], dtype: Any, pieces: Iterable[np.ndarray]) -> None:
            about = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, about)
                for piece in pieces:
                    file.write(np.ascontiguousarray(piece, dtype).tobytes())

        make(add)


def _read(path: Path, check: Check, others: Sequence[str]) -> Stored:
    """Reads small samples, which compares their checksum; maps large ones into memory.

    Raises:
        ValueError: If the file cannot be read, or holds something else.
    """
    arrays = read_npz(path, others)
    samples, checksum = map_npz(path, SAMPLES)
    is_small = samples.nbytes <= IN_MEMORY
    if is_small:
        samples = read_npz(path, [SAMPLES])[SAMPLES]
    is_right = check({**arrays, SAMPLES: samples})
    expect(is_right, f"{path} must hold the samples of its name", "others")
    return Stored(samples, arrays, "" if is_small else key_of(path.stem, checksum))
