"""Writes an artifact, runs it, compares it with the model, and records the result."""

import dataclasses
import errno
import functools
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sepconv_layers.export.inputs import Arrays
from sepconv_layers.export.names import NamedArrays
from sepconv_layers.files import write

Runner = Callable[[Arrays], NamedArrays]

TOLERANCE = 1e-3  # for float32, relative to the largest absolute output
LABELS_FILE = "labels.txt"
GLOB_CHARACTERS = set("[\\")  # TensorFlow reads a path with one of them as a pattern
TIMED_CALLS = 30
TIMED_SECONDS = 0.3
SAVED_MODEL_FILE = "saved_model.pb"
# For each kind of artifact that is a folder: what it is called, and all that an export writes into
# it. The first file is the one that an older export is recognized by.
FOLDERS = {
    "hub": ("SavedModel", (SAVED_MODEL_FILE, "fingerprint.pb", "variables", "assets")),
    "micro": ("export", ("model.tflite", "model.h", "model.cc", "main.cc", "report.json")),
}


@dataclasses.dataclass(frozen=True)
class Artifact:
    """An exported artifact, and how it ran.

    Attributes:
        path: The file or folder.
        kind: "hub", "litert", "micro" or "onnx".
        bytes: Its size; for a folder, the total size of its files, or for "micro" that of the
            LiteRT file, which the other files hold again.
        max_difference: Largest absolute difference between its outputs and the model's.
        agreement: Share of samples whose largest output has the same index in both.
        latency_ms: Median milliseconds per call with one sample, in this process.
    """

    path: Path
    kind: str
    bytes: int
    max_difference: float
    agreement: float
    latency_ms: float


def export_checked(
    kind: str,
    path: str | os.PathLike,
    model: Runner,
    sample: Arrays,
    writer: Callable[[Path], Any],
    runner: Callable[[Path], Runner],
    tolerance: float | None,
) -> Artifact:
    """Writes an artifact beside its target, runs it, and moves it there if it passes the check.

    Args:
        kind: "hub", "litert" or "onnx".
        path: The target.
        model: The function that the artifact must agree with, from a list of arrays to a dictionary
            of arrays by output name.
        sample: Inputs to run both with.
        writer: Writes the artifact to a path.
        runner: Loads the artifact from a path as a function like `model`.
        tolerance: Largest difference to allow, relative to the model's largest absolute output (or
            to 1, if that is less); `None` for any.

    Raises:
        ValueError: If the parent folder does not exist, the path holds anything but an older
            artifact of this kind, or the difference is larger than allowed.
        OSError: If it cannot be written, such as on a full disk.
    """
    path = Path(path)
    check_path(path, kind)
    expected = model(sample)
    found: dict[str, Any] = {}

    def write_and_check(beside: Path) -> None:
        _write(writer, beside)
        run = runner(beside)
        outputs = run(sample)
        found.update(compare_outputs(kind, expected, outputs, tolerance))
        found["latency_ms"] = latency_ms(run, sample)
        found["bytes"] = size_of(beside)
        if path.is_dir():
            keep_others(path, beside, kind)

    write(path, write_and_check)
    return Artifact(path=path, kind=kind, **found)


def _write(writer: Callable[[Path], Any], path: Path) -> None:
    """Calls the writer, and turns TensorFlow's file errors into an `OSError`."""
    import tensorflow as tf

    try:
        writer(path)
    except tf.errors.OpError as error:
        if str(path) not in error.message:
            raise
        # "{{function_node ...}} PATH; No space left on device [Op:SaveV2]"
        reason = error.message.rpartition("; ")[2].partition(" [Op:")[0]
        numbers = {os.strerror(number): number for number in errno.errorcode}
        raise OSError(numbers.get(reason), reason) from error


def keep_others(old: Path, new: Path, kind: str) -> None:
    """Copies the files that a user added to the folder of an older export, such as a README."""
    _, written = FOLDERS[kind]
    for other in old.iterdir():
        if other.name in written:
            continue
        if other.is_dir():
            shutil.copytree(other, new / other.name, symlinks=True)
        else:
            shutil.copy2(other, new / other.name, follow_symlinks=False)


def check_path(path: Path, kind: str, argument: str = "path") -> None:
    """Refuses paths that no artifact can have, and to replace anything that is no artifact."""
    if not path.parent.is_dir():
        raise ValueError(
            f"The folder of the `{argument}` argument must exist. Received: {argument}="
            f"{str(path)!r}. Create the folder {str(path.parent)!r}."
        )
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"The `{argument}` argument must be valid UTF-8, the only encoding that the runtimes "
            f"take. Received: {argument}={str(path)!r}."
        ) from None
    if kind == "hub" and set(path.as_posix()) & GLOB_CHARACTERS:
        raise ValueError(
            "The `path` argument of a SavedModel must not contain the characters [ and \\, because "
            f"TensorFlow reads them as a glob pattern. Received: path={str(path)!r}."
        )
    if kind in FOLDERS:
        _check_folder(path, kind, argument)
    elif path.is_dir():
        raise ValueError(
            f"The `path` argument must be a file. Received: path={str(path)!r}, which is a folder."
        )


def _check_folder(path: Path, kind: str, argument: str) -> None:
    name, (first, *_) = FOLDERS[kind]
    is_replaceable = path.is_dir() and ((path / first).is_file() or not any(path.iterdir()))
    if path.exists() and not is_replaceable:
        raise ValueError(
            f"The `{argument}` argument must be a new folder, or the folder of an older {name}, "
            f"which is replaced. Received: {argument}={str(path)!r}, which is something else."
        )


def compare_outputs(
    kind: str, expected: NamedArrays, outputs: NamedArrays, tolerance: float | None
) -> dict[str, float]:
    """Compares the outputs of a model and of an artifact by name.

    Returns:
        The `max_difference` and `agreement` of an `Artifact`.

    Raises:
        ValueError: If the names or shapes differ, or the difference is larger than allowed.
    """
    shapes = [
        {name: arrays[name].shape for name in sorted(arrays)} for arrays in (expected, outputs)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The {kind} artifact returns outputs of the shapes {shapes[1]}, and the model of the "
            f"shapes {shapes[0]}."
        )
    pairs = [
        (ours.astype("float64"), outputs[name].astype("float64")) for name, ours in expected.items()
    ]
    difference = max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
    scale = max(1.0, max(float(np.abs(ours).max()) for ours, _ in pairs))
    if tolerance is not None and not difference <= tolerance * scale:  # also if it is NaN
        raise ValueError(
            f"The {kind} artifact must agree with the model: the `tolerance` argument allows a "
            f"difference of {tolerance} times the largest output, {scale:.3g}. Received: a "
            f"difference of {difference:.3g}. Nothing was written. `tolerance=None` allows any "
            "difference."
        )
    ours, theirs = (array.reshape(len(array), -1).argmax(-1) for array in pairs[0])
    return {"max_difference": difference, "agreement": float((ours == theirs).mean())}


def size_of(path: Path) -> int:
    """Bytes in a file, or in all files of a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def latency_ms(run: Runner, sample: Arrays) -> float:
    """Median milliseconds per call with one sample."""
    call = functools.partial(run, [array[:1] for array in sample])
    call()
    times: list[float] = []
    while len(times) < TIMED_CALLS and sum(times) < TIMED_SECONDS:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return round(1e3 * statistics.median(times), 4)
