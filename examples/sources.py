"""Shared by the data sets of all examples: errors, safe reading of files, folders, and splits."""

import contextlib
import dataclasses
import gzip
import importlib
import json
import lzma
import os
import stat
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Part = tuple[np.ndarray, np.ndarray]  # samples and their labels

HELD_OUT = {"test": 0.2, "val": 0.1}  # fractions of the training part as it was given
PARTS_BY_FOLDER = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PARTS_BY_FOLDER |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")
PACKED = {".gz": gzip.open, ".xz": lzma.open}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Samples `(n, ...)` and labels `(n,)`, by part.

    Attributes:
        scaling: How the values of samples were scaled, as others must be too.
    """

    name: str
    train: Part
    val: Part
    test: Part
    classes: tuple[str, ...]
    note: str
    scaling: str = dataclasses.field(default="", kw_only=True)

    def sizes(self, samples: str) -> str:
        """How many samples each part has, in words."""
        train, val, test = (f"{len(y):,}" for _, y in (self.train, self.val, self.test))
        return f"{train} training, {val} validation and {test} test {samples}"


def expect(condition: bool, expected: str, received: object, fix: str = "") -> None:
    """Raises a `ValueError` that says what was expected, if the condition does not hold."""
    if not condition:
        raise ValueError(f"{expected}. Received {received}. {fix}".rstrip())


def require(module: str):
    """A module of the extra `examples`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f"{module} is missing: run `pip install 'sepconv-layers[examples]'`."
        raise ImportError(message) from error


def local(place: str) -> Path | None:
    """A file or folder in the folder that SEPCONV_DATA names, if it is there."""
    root = os.environ.get("SEPCONV_DATA")
    path = Path(os.path.expanduser(root or "."), place)
    return path if root and os.path.exists(path) else None


def printable(name: str) -> str:
    """A file name, with escapes for bytes that are not UTF-8 and could not be printed."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# Files that others made: nothing is opened that may not end, or unpacked that may not fit

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
HARMLESS = 2**28  # bytes
PACKING = 500  # times that real data get smaller, at most; zeros, as in a bomb, 1000 times
SHOWN = 200  # characters of what is wrong
try:
    MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # bytes
except (AttributeError, OSError, ValueError):  # as on Windows
    MEMORY = 2**35


def existing(place: str | os.PathLike, expected: str) -> Path:
    """The absolute path of an existing file or folder; a pipe or device is neither."""
    shown = shortened(repr(os.fspath(place)))
    try:
        path = Path(os.path.expanduser(place)).resolve()
        mode = path.stat().st_mode
    except (OSError, RuntimeError, ValueError) as error:  # also of circular links, and zeros
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{expected}. Received {shown}: {reason}.") from error
    expect(stat.S_ISREG(mode) or stat.S_ISDIR(mode), expected, f"{shown}, which is {_kind(mode)}")
    return path


def expect_file(path: Path) -> Path:
    """Refuses anything but a regular file before it is opened: opening a pipe may never end."""
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
    """A text in one line that is not too long for a message."""
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


def expect_room(path: Path, size: int, packed: int | None = None) -> None:
    """Refuses what would take more memory than there is, or is packed as no real data are.

    Args:
        path: The file, for the message.
        size: How many bytes it needs in memory, by what it says of itself.
        packed: In how many bytes they are stored, if it is an archive or the like.
    """
    # Half of it: parts are put into order, which takes a copy.
    expect(size <= MEMORY // 2, f"{path} must fit into the memory", f"{size / 2**30:,.1f} GiB")
    if packed is not None and size > HARMLESS:
        expected = f"{path} must not unpack to more than {PACKING} times its size"
        expect(size <= PACKING * packed, expected, f"{size / max(packed, 1):,.0f} times")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns every error raised while a file is read into a `ValueError` that names it."""
    try:
        yield
    except Exception as error:  # decoders of damaged files raise all there are
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        if isinstance(error, OSError) and error.strerror:
            raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
        reason = shortened(str(error)) or type(error).__name__
        if "Object arrays" in reason:  # as NumPy calls them
            raise ValueError(
                f"{path} must hold arrays of numbers or strings. Received objects. "
                "Labels become strings by y.astype(str)."
            ) from error
        raise ValueError(
            f"{path} is truncated or not what its name says, and cannot be read ({reason}). "
            "Get it again."
        ) from error


def read_file(path: Path) -> bytes:
    """The content of a file, unpacked if its name says that it is packed."""
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
    """The content of a JSON file."""
    content = read_file(path)
    with reading(path):
        return json.loads(content)


def tar_files(path: Path, wanted: Callable[[str], Any]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files in an archive, packed or not, whose name is wanted."""
    packed, total = expect_file(path).stat().st_size, 0
    with reading(path), tarfile.open(path) as archive:
        for member in archive:
            # Going back, as a negative one does, would never end.
            expect(member.size >= 0, f"{path} must have files of a size", member.size)
            total += member.size
            expect_room(path, total, packed)
            if member.isfile() and wanted(member.name):
                yield member.name, archive.extractfile(member).read()
        # A damaged or missing head is an end for `tarfile`; and the checksum is behind the end.
        archive.fileobj.seek(archive.offset)
        zeros = archive.fileobj.read(tarfile.BLOCKSIZE)
        expect(zeros == bytes(tarfile.BLOCKSIZE), f"{path} is truncated or damaged", "no end of it")
        while archive.fileobj.read(2**20):
            pass


def npz_names(path: Path) -> list[str]:
    """The names of the arrays in a `.npz` file."""
    with reading(expect_file(path)), zipfile.ZipFile(path) as archive:
        return sorted(name.removesuffix(".npy") for name in archive.namelist())


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """These arrays of a `.npz` file, when each has as many bytes as its shape says."""
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


def _claimed_bytes(file) -> int:
    """How many bytes an array has, by the head of its file."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read(file)
    count = 1
    for size in shape:
        count *= size  # an integer of Python, which does not overflow
    return 0 if dtype.hasobject else count * dtype.itemsize


# Folders


def files_below(
    folder: Path, suffixes: Sequence[str], left_out: Counter[str] | None = None
) -> list[Path]:
    """The files in a folder and in all folders in it, linked ones too, without hidden ones.

    Args:
        folder: Where.
        suffixes: How their names may end.
        left_out: Counts all others, by what they end in or are.
    """
    found: list[Path] = []
    others: Counter[str] = Counter() if left_out is None else left_out
    seen = set(map(str, folder.resolve().parents))  # a link to one of them would never end

    def closed(error: OSError) -> None:
        others["that cannot be opened"] += 1

    for place, folders, files in os.walk(folder, onerror=closed, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # Sorted: of two links to one place, the first counts, and names decide how data are split.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(place, name) for name in files if not name.startswith(".")):
            if path.suffix.lower() not in suffixes:
                others[path.suffix.lower() or "without an ending"] += 1
            elif not os.path.isfile(path):
                others["that are no regular files"] += 1
            else:
                found.append(path)
    return sorted(found)


def subfolders(folder: Path) -> dict[str, Path]:
    """The folders in a folder by name, without hidden ones."""
    with reading(folder):
        paths = sorted(folder.iterdir(), key=lambda path: path.name)
    skip = (".", "__MACOSX")
    return {
        path.name: path for path in paths if os.path.isdir(path) and not path.name.startswith(skip)
    }


def files_by_class(
    roots: dict[str, Path], suffixes: Sequence[str], samples: str
) -> dict[str, dict[str, list[Path]]]:
    """Returns the files of each class in each part, and prints what is left out.

    Raises:
        ValueError: If a class has files, but none that ends as it must; or a name of two lines.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    for part, root in roots.items():
        left_out: Counter[str] = Counter()
        found[part] = {}
        for name, folder in subfolders(root).items():
            expected = f"The name of the class {name!r} must be one line"
            one_line = not set(name) & set("\n\r")
            expect(one_line, expected, repr(str(folder)), "Rename the folder.")
            others: Counter[str] = Counter()
            paths = files_below(folder, suffixes, others)
            expected = f"{folder} must hold {samples} that can be read"
            fix = f"They end in {', '.join(suffixes)}: convert them, or move the folder away."
            expect(bool(paths) or not others, expected, counted(others), fix)
            found[part][printable(name)] = paths
            left_out += others
        beside = (path for path in root.iterdir() if os.path.isfile(path))
        endings = [path.suffix.lower() for path in beside if not path.name.startswith(".")]
        loose = Counter(ending for ending in endings if ending in suffixes)
        for where, some in (("", left_out), (", in no folder of a class", loose)):
            if some:
                print(f"Left out of {printable(str(root))}: {counted(some)}{where}.")
    return found


def counted(left_out: Counter[str]) -> str:
    """How many files of which kinds, the most frequent first."""
    return ", ".join(f"{n:,} file{'s' * (n > 1)} {kind}" for kind, n in left_out.most_common())


def part_folders(root: Path) -> dict[str, Path]:
    """The folder of each part; the root is that of the training part if it is not split."""
    folders = subfolders(root)
    part_of = {name: PARTS_BY_FOLDER.get(name.lower()) for name in folders}
    others = [name for name, part in part_of.items() if part is None]
    # A class may bear the name "train": parts are meant if there are two, or nothing else.
    if not (len(set(part_of.values()) - {None}) > 1 or (folders and not others)):
        return {"train": root}
    roots = {part: folders[name] for name, part in part_of.items() if part}
    expected = f"`folder` {root} must have one folder for each part, train among them"
    unique = len(roots) == len(folders) - len(others)
    expect("train" in roots and unique, expected, sorted(folders))
    if others:
        warnings.warn(f"Ignored, beside the parts in {root}: {others}.", stacklevel=4)
    return roots


def split(
    parts: dict[str, Part], classes: Sequence[str], limit: int | None, seed: int, samples: str
) -> dict[str, Part]:
    """Holds the absent parts out of train, class by class; then limits and shuffles train."""
    items, labels = parts["train"]
    absent = [part for part in HELD_OUT if part not in parts]
    counts = np.bincount(labels, minlength=len(classes))
    fewest = classes[counts.argmin()]
    expect(
        counts.min() > len(absent),
        f"Class {fewest!r} must have at least {1 + len(absent)} training {samples}"
        + f", as {' and '.join(absent)} must be held out of them" * bool(absent),
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
    """A part in which samples of rare classes come several times, shuffled.

    A class gets the geometric mean of its own number of samples and that of the largest class.
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
    """An order in which the first samples, however many, have the classes in proportion."""
    ranks = np.zeros(len(labels))
    for label in np.unique(labels):
        mine = labels == label
        ranks[mine] = np.arange(mine.sum()) / mine.sum()
    return np.argsort(ranks, kind="stable")
