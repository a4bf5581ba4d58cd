"""Writing files and folders that a crash leaves whole."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write(path: Path, writer: Callable[[Path], Any]) -> None:
    """Lets `writer` write a file or a folder beside the target, then puts it in its place.

    If `writer` raises, the target is as it was, and what was written beside it is removed.
    """
    beside = path.with_name(f"{path.stem}.partial{path.suffix}")
    _remove(beside)
    try:
        writer(beside)
    except BaseException:
        _remove(beside)
        raise
    if beside.is_dir() and path.exists():  # no folder can be renamed to one that is there
        before = path.with_name(f"{path.stem}.before-partial{path.suffix}")
        _remove(before)
        os.replace(path, before)
        os.replace(beside, path)
        _remove(before)
    else:
        os.replace(beside, path)


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8."""
    write(path, lambda beside: beside.write_text(text, "utf-8"))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
