"""What the data sets of all examples share: clear errors, places, and splits."""

import dataclasses
import importlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Part = tuple[np.ndarray, np.ndarray]  # samples and their labels

HELD_OUT = {"test": 0.2, "val": 0.1}  # fractions of the training part as it was given
PARTS_BY_FOLDER = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PARTS_BY_FOLDER |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Samples `(n, ...)` and labels `(n,)`, by part."""

    name: str
    train: Part
    val: Part
    test: Part
    classes: tuple[str, ...]
    note: str


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
    path = Path(root or ".").expanduser() / place
    return path if root and path.exists() else None


def files_below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files in a folder and in all folders in it, linked ones too, without hidden ones."""
    found: list[Path] = []
    seen = set(map(str, folder.resolve().parents))  # a link to one of them would never end
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # Sorted: of two links to one place, the first counts, and names decide how data are split.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in suffixes and path.is_file())


def subfolders(folder: Path) -> dict[str, Path]:
    """The folders in a folder by name, without hidden ones."""
    paths = sorted(folder.iterdir(), key=lambda path: path.name)
    skip = (".", "__MACOSX")
    return {path.name: path for path in paths if path.is_dir() and not path.name.startswith(skip)}


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
