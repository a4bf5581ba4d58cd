"""Writing files that a crash leaves whole."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write(path: Path, writer: Callable[[Path], Any]) -> None:
    """Lets `writer` write a file of the same suffix beside the target, then renames it."""
    beside = path.with_name(f"{path.stem}.partial{path.suffix}")
    writer(beside)
    os.replace(beside, path)


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8."""
    write(path, lambda beside: beside.write_text(text, "utf-8"))
