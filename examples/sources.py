"""Shared by the data sets of all examples: errors, safe reading of files, and splits."""

import contextlib
import dataclasses
import gzip
import importlib
import json
import lzma
import math
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Part = tuple[np.ndarray, np.ndarray]  # samples and their labels

HELD_OUT = {"test": 0.2, "val": 0.1}  # fractions of the original training part
PARTS_BY_FOLDER = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PARTS_BY_FOLDER |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")
PACKED = {".gz": gzip.open, ".xz": lzma.open}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Samples `(n, ...)` and labels `(n,)`, by part.

    Attributes:
        name: The name of the data set.
        train: The training part.
        val: The validation part.
        test: The test part.
        classes: The names of the classes, in the order of the labels.
        note: Origin and license.
        scaling: How values were scaled, if they were. New samples must be scaled the same way.
    """

    name: str
    train: Part
    val: Part
    test: Part
    classes: tuple[str, ...]
    note: str
    scaling: str = dataclasses.field(default="", kw_only=True)

    def sizes(self, samples: str) -> str:
        """Returns the number of samples in each part, in words."""
        train, val, test = (f"{len(y):,}" for _, y in (self.train, self.val, self.test))
        return f"{train} training, {val} validation and {test} test {samples}"

    def summary(self, samples: str, details: str) -> str:
        """Returns what an example prints about its data."""
        lines = [f"{self.name}: {self.note}", f"{self.sizes(samples)}{details}", self.scaling]
        return "\n".join(filter(None, lines))


def expect(condition: bool, expected: str, received: object, fix: str = "") -> None:
    """Raises a `ValueError` with what was expected and received, unless the condition holds."""
    if not condition:
        raise ValueError(f"{expected}. Received {received}. {fix}".rstrip())


def require(module: str, extra: str = "examples"):
    """Imports a module that an extra installs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f"{module} is missing: run `pip install 'sepconv-layers[{extra}]'`."
        raise ImportError(message) from error


def local_path(place: str) -> Path | None:
    """Returns the path of a file or folder in the folder that SEPCONV_DATA names, if it exists."""
    root = os.environ.get("SEPCONV_DATA")
    path = Path(os.path.expanduser(root or "."), place)
    return path if root and os.path.exists(path) else None


def not_found(problem: str, place: str) -> RuntimeError:
    """Returns the error for public data that are not in the folder that SEPCONV_DATA names."""
    return RuntimeError(
        f"{problem} Set SEPCONV_DATA to a folder that holds {place}. "
        f"Received SEPCONV_DATA={os.environ.get('SEPCONV_DATA')!r}."
    )


def download(name: str, fetch: Callable[[], Any], place: str) -> Any:
    """Returns what `fetch` downloads.

    Raises:
        RuntimeError: If it cannot be downloaded. The message says where a local copy belongs.
    """
    try:
        return fetch()
    except Exception as error:  # Keras raises a bare Exception if it cannot download
        problem = f"{name} could not be downloaded: {error}."
        fix = "Run this once where there is a network, or use a copy of it."
        raise not_found(f"{problem} {fix}", place) from error


def printable(name: str) -> str:
    """Returns a file name with escapes for bytes that are not UTF-8 and cannot be printed."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# Untrusted files: nothing is opened that may never end, or unpacked that may not fit into memory

VANISHED = "cannot be read any more"  # of a file that could be read before the training
KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
HARMLESS = 2**28  # bytes
LOCAL_HEADER = 30  # bytes before the name of a file in a zip archive
PACKING = 500  # largest compression ratio of real data; zeros, as in a zip bomb, reach 1000
SHOWN = 200  # characters of a reason in a message
try:
    MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # bytes
except (AttributeError, OSError, ValueError):  # as on Windows
    MEMORY = 2**35


def existing(place: str | os.PathLike, expected: str) -> Path:
    """Returns the absolute path of an existing file or folder; a pipe or device is neither."""
    shown = shortened(repr(os.fspath(place)))
    try:
        path = Path(os.path.expanduser(place)).resolve()
        mode = path.stat().st_mode
    except (OSError, RuntimeError, ValueError) as error:  # also circular links, and null characters
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{expected}. Received {shown}: {reason}.") from error
    expect(stat.S_ISREG(mode) or stat.S_ISDIR(mode), expected, f"{shown}, which is {_kind(mode)}")
    return path


def expect_file(path: Path) -> Path:
    """Refuses anything except a regular file before it is opened: opening a pipe may never end."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{shortened(str(path))} cannot be read: {reason}.") from error
    expect(stat.S_ISREG(mode), f"{path} must be a file", _kind(mode))
    return path


def _kind(mode: int) -> str:
    return KINDS.get(stat.S_IFMT(mode), "a device")


def shortened(text: str) -> str:
    """Returns a text in one line, shortened for a message."""
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


def expect_room(path: Path, size: int, packed: int | None = None) -> None:
    """Refuses a file that would not fit into memory, or is compressed more than real data can be.

    Args:
        path: The file, for the message.
        size: The number of bytes that it claims to need in memory.
        packed: The number of bytes that it takes on disk, if it is compressed.
    """
    # Half of the memory: shuffling takes a copy.
    expect(size <= MEMORY // 2, f"{path} must fit into memory", f"{size / 2**30:,.1f} GiB")
    if packed is not None and size > HARMLESS:
        expected = f"{path} must not unpack to more than {PACKING} times its size"
        expect(size <= PACKING * packed, expected, f"{size / max(packed, 1):,.0f} times")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns every error that is raised while a file is read into a `ValueError` that names it."""
    try:
        yield
    except Exception as error:  # a damaged file can make a decoder raise anything
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        if isinstance(error, OSError) and error.strerror:
            raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
        reason = shortened(str(error)) or type(error).__name__
        if "Object arrays" in reason:  # NumPy's message
            raise ValueError(
                f"{path} must hold arrays of numbers or strings. Received objects. "
                "Convert labels to strings with y.astype(str)."
            ) from error
        raise ValueError(
            f"{path} is truncated or not what its name says, and cannot be read ({reason}). "
            "Replace it with an intact copy."
        ) from error


def read_file(path: Path) -> bytes:
    """Returns the content of a file, decompressed if its name ends in .gz or .xz."""
    packed = expect_file(path).stat().st_size
    opened = PACKED.get(path.suffix.lower())
    expect_room(path, packed)
    chunks: list[bytes] = []
    size = 0
    with reading(path), opened(path) if opened else path.open("rb") as file:
        while chunk := file.read(2**20):
            size += len(chunk)
            expect_room(path, size, packed if opened else None)
            chunks.append(chunk)
    return b"".join(chunks)


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file."""
    content = read_file(path)
    with reading(path):
        return json.loads(content)


def tar_files(path: Path, wanted: Callable[[str], Any]) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of the files in a tar archive whose name is wanted."""
    packed, total = expect_file(path).stat().st_size, 0
    with reading(path), tarfile.open(path) as archive:
        for member in archive:
            # A negative size would go back in the archive, and never end.
            expect(member.size >= 0, f"{path} must have files of a positive size", member.size)
            total += member.size
            expect_room(path, total, packed)
            if member.isfile() and wanted(member.name):
                yield member.name, archive.extractfile(member).read()
        # For `tarfile` the archive ends at a damaged header. The checksum comes after the end.
        archive.fileobj.seek(archive.offset)
        zeros = archive.fileobj.read(tarfile.BLOCKSIZE)
        has_end = zeros == bytes(tarfile.BLOCKSIZE)
        expect(has_end, f"{path} is truncated or damaged", "no end marker")
        while archive.fileobj.read(2**20):
            pass


def npz_names(path: Path) -> list[str]:
    """Returns the names of the arrays in a `.npz` file."""
    with reading(expect_file(path)), zipfile.ZipFile(path) as archive:
        return sorted(name.removesuffix(".npy") for name in archive.namelist())


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns arrays of a `.npz` file, after checking that each is as large as its shape says."""
    arrays, total = {}, 0
    with reading(expect_file(path)), zipfile.ZipFile(path) as archive:
        there = set(archive.namelist())
        for name in names:
            info = archive.getinfo(f"{name}.npy" if f"{name}.npy" in there else name)
            total += info.file_size
            expect_room(path, total)
            expect_room(path, info.file_size, info.compress_size)
            with archive.open(info) as file:
                claimed = _claimed_bytes(file)
            expected = f"{path} must hold all of {name!r}, {claimed:,} bytes"
            expect(claimed <= info.file_size, expected, f"{info.file_size:,}")
            with archive.open(info) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def map_npz(path: Path, name: str) -> tuple[np.memmap, int]:
    """Maps an array of a `.npz` file into memory, if it is not compressed.

    Returns:
        The array, read-only, and its checksum, which is not compared with what it holds.
    """
    with reading(expect_file(path)), zipfile.ZipFile(path) as archive, path.open("rb") as file:
        info = archive.getinfo(f"{name}.npy")
        is_stored = info.compress_type == zipfile.ZIP_STORED
        expect(is_stored, f"{path} must hold {name!r} without compression", "a compressed array")
        file.seek(info.header_offset)
        lengths = struct.unpack("<HH", file.read(LOCAL_HEADER)[-4:])  # of name and extra field
        start = info.header_offset + LOCAL_HEADER + sum(lengths)
        file.seek(start)
        shape, is_fortran, dtype = _npy_header(file)
        size = file.tell() - start + math.prod(shape) * dtype.itemsize
        expected = f"{path} must hold all of {name!r}, {size:,} bytes of numbers"
        expect(not dtype.hasobject and size <= info.file_size, expected, f"{info.file_size:,}")
        order = "F" if is_fortran else "C"
        return np.memmap(path, dtype, "r", file.tell(), shape, order), info.CRC


def _claimed_bytes(file) -> int:
    """Returns the number of bytes of an array, according to the header of its file."""
    shape, _, dtype = _npy_header(file)
    return 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize


def _npy_header(file) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns the shape, whether the order is that of Fortran, and the type of an array."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    return read(file)


# Splits


def split(
    parts: dict[str, Part], classes: Sequence[str], limit: int | None, seed: int, samples: str
) -> dict[str, Part]:
    """Holds missing parts out of train, class by class, then limits and shuffles train.

    Args:
        parts: The parts that there are.
        classes: The names of the classes.
        limit: The maximum number of training samples.
        seed: The seed of the split and of the order.
        samples: What the samples are, in the plural.
    """
    items, labels = parts["train"]
    absent = [part for part in HELD_OUT if part not in parts]
    counts = np.bincount(labels, minlength=len(classes))
    fewest = classes[counts.argmin()]
    expect(
        counts.min() > len(absent),
        f"Class {fewest!r} must have at least {1 + len(absent)} training {samples}"
        + f", because {' and '.join(absent)} must be held out of them" * bool(absent),
        counts.min(),
        f"Add {samples} or remove the class.",
    )
    expected = f"`limit` must be at least the number of classes, {len(classes)}"
    expect(limit is None or limit >= len(classes), expected, limit)
    rng = np.random.default_rng(seed)
    chosen: dict[str, list] = {part: [] for part in ("train", *absent)}
    for label, count in enumerate(counts):
        left = rng.permutation(np.flatnonzero(labels == label))
        for part in absent:
            held_out, left = np.split(left, [max(1, round(HELD_OUT[part] * count))])
            chosen[part].append(held_out)
        chosen["train"].append(left)
    order = {part: rng.permutation(np.concatenate(chosen[part])) for part in absent}
    left = np.concatenate(chosen["train"])
    order["train"] = rng.permutation(left[in_proportion(labels[left])[:limit]])
    return parts | {part: (items[index], labels[index]) for part, index in order.items()}


def balanced(part: Part, seed: int) -> Part:
    """Returns a shuffled part in which samples of rare classes are repeated.

    The new size of a class is the geometric mean of its own size and that of the largest class.
    """
    samples, labels = part
    rng, counts = np.random.default_rng(seed), np.bincount(labels)
    wanted = np.ceil(np.sqrt(counts * counts.max())).astype(int)
    copies = [
        np.resize(rng.permutation(np.flatnonzero(labels == label)), count)
        for label, count in enumerate(wanted)
    ]
    index = rng.permutation(np.concatenate(copies))
    return samples[index], labels[index]


def in_proportion(labels: np.ndarray) -> np.ndarray:
    """Returns an order in which any number of first samples has the classes in proportion."""
    ranks = np.zeros(len(labels))
    for label in np.unique(labels):
        mine = labels == label
        ranks[mine] = np.arange(mine.sum()) / mine.sum()
    return np.argsort(ranks, kind="stable")
