"""Data in a folder for each part and class: which files are used, and which are left out."""

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.sources import PARTS_BY_FOLDER, expect, printable, reading


def files_below(
    folder: Path, suffixes: Sequence[str], left_out: Counter[str] | None = None
) -> list[Path]:
    """Returns the files in a folder and its subfolders, except hidden ones. Follows links.

    Args:
        folder: The folder.
        suffixes: The endings that names may have, in lower case.
        left_out: Counts all other files, by ending or by what they are.
    """
    found: list[Path] = []
    others: Counter[str] = Counter() if left_out is None else left_out
    seen = set(map(str, folder.resolve().parents))  # following a link to one would never end

    def closed(error: OSError) -> None:
        others["that cannot be opened"] += 1

    for place, folders, files in os.walk(folder, onerror=closed, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # Sorted: the first of two links to one place counts, and the order decides the split.
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
    """Returns the folders in a folder by name, except hidden ones."""
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

    Args:
        roots: The folder of each part.
        suffixes: The endings that names may have, in lower case.
        samples: What the files hold, in the plural.

    Raises:
        ValueError: If the name of a class has several lines, or none of its files can be used.
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
            fix = f"Convert the files to one of {', '.join(suffixes)}, or move the folder away."
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
    """Returns the number of files of each kind, the most frequent first, in words."""

    def words(kind: str, n: int) -> str:
        files = "files" if n > 1 else "file"
        return f"{n:,} {kind} {files}" if kind.startswith(".") else f"{n:,} {files} {kind}"

    return ", ".join(words(kind, n) for kind, n in left_out.most_common())


def expect_classes(
    roots: dict[str, Path], found: dict[str, dict[str, Any]], samples: str, classes: str, fix: str
) -> list[str]:
    """Returns the classes, after checking that there are two, and that no part has others.

    Args:
        roots: The folder of each part.
        found: The classes of each part.
        samples: What the files hold, in the plural.
        classes: What the classes are called: "classes" or "words".
        fix: What to do if there is no class.
    """
    names, root = list(found["train"]), roots["train"]
    if len(names) == 1:
        fix = f"If {names[0]!r} holds the folders of the {classes}, use {root / names[0]}."
    one = {"classes": "class", "words": "word"}[classes]
    expect(
        len(names) > 1,
        f"`folder` {root} must hold one folder of {samples} for each {one}, at least two",
        f"the {classes} {names}",
        fix,
    )
    for part, by_class in found.items():
        unknown = sorted(set(by_class) - set(names))
        expected = f"`folder` {roots[part]} must have the {classes} of the training part, {names}"
        expect(not unknown, expected, f"also {unknown}", "Rename or remove the folders.")
    return names


def part_folders(root: Path) -> dict[str, Path]:
    """Returns the folder of each part. Without a split, the root is the training part."""
    folders = subfolders(root)
    part_of = {name: PARTS_BY_FOLDER.get(name.lower()) for name in folders}
    others = [name for name, part in part_of.items() if part is None]
    # A class may be called "train": folders are parts if there are two of them, or nothing else.
    if not (len(set(part_of.values()) - {None}) > 1 or (folders and not others)):
        return {"train": root}
    roots = {part: folders[name] for name, part in part_of.items() if part}
    expected = f"`folder` {root} must have one folder for each part, including train"
    unique = len(roots) == len(folders) - len(others)
    expect("train" in roots and unique, expected, sorted(folders))
    if others:
        warnings.warn(f"Ignored beside the parts in {root}: {others}.", stacklevel=4)
    return roots
