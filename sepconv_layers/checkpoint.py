"""States of interrupted trainings: saved in one step, checked when they are read."""

import json
import os
import random
import sys
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers.files import regular, write

HISTORY = "history"  # the name of the record beside the arrays


def save(path: Path, arrays: Sequence[np.ndarray], history: Any) -> None:
    """Writes arrays and a record of what led to them, which JSON can hold."""
    write(path, partial(_savez, arrays, json.dumps(history)))


def _savez(arrays: Sequence[np.ndarray], history: str, path: Path) -> None:
    np.savez(path, *arrays, history=history)


def read(path: Path, variables: Sequence[keras.Variable]) -> tuple[Any, list[np.ndarray]]:
    """Reads a record and the arrays beside it, which must be values of these variables.

    Raises:
        ValueError: If they are not. A damaged file may raise any other exception, too.
    """
    check_archive(regular(path))
    with np.load(path) as file:
        history = json.loads(str(file[HISTORY]))
        arrays = [file[f"arr_{i}"] for i in range(len(file.files) - 1)]
    if len(arrays) != len(variables):
        raise ValueError("it belongs to a different training")
    for i, expected in enumerate(values(variables)):
        if arrays[i].dtype.kind == "V" and arrays[i].itemsize == expected.itemsize:
            arrays[i] = arrays[i].view(expected.dtype)  # bfloat16, a type that NumPy does not know
        if (arrays[i].shape, arrays[i].dtype) != (expected.shape, expected.dtype):
            raise ValueError("it belongs to a different net")
        if expected.dtype.kind not in "iub" and np.isnan(arrays[i]).any():
            raise ValueError("it contains NaN")
    return history, arrays


def check_archive(path: Path) -> None:
    """Verifies the checksums of all members of a ZIP archive."""
    with zipfile.ZipFile(path) as archive:
        if name := archive.testzip():
            raise ValueError(f"its member {name} is damaged")


def values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Copies the values of variables to NumPy."""
    return [np.array(variable.numpy()) for variable in variables]  # copies: PyTorch shares memory


def assign(variables: Sequence[keras.Variable], arrays: Sequence[np.ndarray]) -> None:
    """Sets variables to values that `values` returned."""
    for variable, value in zip(variables, arrays, strict=True):
        variable.assign(value)


def set_seed(entropy: tuple[int, ...]) -> None:
    """Sets all random seeds as `keras.utils.set_random_seed` does, except TensorFlow's own.

    Setting that one makes TensorFlow build all functions again, which takes seconds, and no layer
    needs it: Keras layers keep the state of their generators in variables.
    """
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    if keras.backend.backend() != "tensorflow":
        return keras.utils.set_random_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def set_aside(path: Path, why: object) -> None:
    """Renames an unusable file or folder and prints why; does nothing if it is absent."""
    if not os.path.lexists(path):
        return
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    try:
        os.replace(path, aside)
    except FileNotFoundError:  # another process renamed it first
        return
    reason = str(why).partition("\n")[0] or type(why).__name__
    print(
        f"{path} cannot be used: {reason}. It is kept as {aside.name}, and its contents are "
        "trained again.",
        file=sys.stderr,
    )
