"""What the data sets of all examples share: clear errors, and folders of a user's own."""

import importlib
import warnings
from pathlib import Path

HELD_OUT = {"test": 0.2, "val": 0.1}  # fractions of the training part as it was given
PARTS_BY_FOLDER = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PARTS_BY_FOLDER |= dict.fromkeys(("val", "valid", "validation"), "val")


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
