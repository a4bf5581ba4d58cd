"""Saved states and results of runs, with checks that reject damaged files."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers import checkpoint
from sepconv_layers.checkpoint import check_archive, set_aside, values
from sepconv_layers.comparison.task import LOSS, Task
from sepconv_layers.files import regular, write_text

RESULT = {"seconds", "best", "history", "artifact"}  # beside metrics
DIGEST, TALLY = "digest", "tally"


def save_result(result_path: Path, model_path: Path, result: Mapping[str, Any]) -> None:
    """Writes the result of a run with a digest of the result and its model."""
    text = json.dumps({**result, DIGEST: _digest(result, model_path)}, indent=2)
    write_text(result_path, text)


def load_result(result_path: Path, model_path: Path, task: Task) -> dict[str, Any] | None:
    """Returns the result of a run, or `None` if it is missing or if result or model is damaged."""
    if not os.path.lexists(result_path):
        return None
    try:
        result = json.loads(regular(result_path).read_text("utf-8"))
        digest = result.pop(DIGEST, None)
        _check_result(result, task)
    except Exception as error:  # any type: a damaged file can hold anything
        set_aside(result_path, error)
        return None
    try:
        if digest is None:  # written by a version without digests
            check_archive(regular(model_path))
            is_intact = model_path.stat().st_size == result["artifact"]["bytes"]
        else:
            is_intact = _digest(result, regular(model_path)) == digest
        if not is_intact:
            raise ValueError(f"it does not belong to {result_path.name}, or one of them is damaged")
    except Exception as error:
        set_aside(model_path, error)
        set_aside(result_path, f"it is useless without {model_path.name}")
        return None
    return result


def save_state(
    path: Path, state: Sequence[keras.Variable], history: list, best: list[np.ndarray]
) -> None:
    """Writes everything the next epoch depends on, and the best weights so far."""
    checkpoint.save(path, [*values(state), *best], history)


def load_state(
    path: Path,
    state: Sequence[keras.Variable],
    weights: Sequence[keras.Variable],
    epochs: int,
    task: Task,
) -> tuple[list, list[np.ndarray]]:
    """Restores the variables of an interrupted run and returns its history and best weights.

    If there is no saved state, or it is damaged, both are empty and the variables stay unchanged.
    """
    if not os.path.lexists(path):
        return [], []
    try:
        history, arrays = checkpoint.read(path, [*state, *weights])
        _check_history(history, task)
        if not 0 < len(history) <= epochs:
            raise ValueError("it belongs to a different training")
    except Exception as error:  # any type: a damaged file can hold anything
        set_aside(path, error)
        return [], []
    checkpoint.assign(state, arrays[: len(state)])
    return history, arrays[len(state) :]


def _digest(result: Mapping[str, Any], model_path: Path) -> str:
    digest = hashlib.sha256(json.dumps(result, sort_keys=True).encode())
    digest.update(model_path.read_bytes())
    return digest.hexdigest()


def _check_result(result: Mapping[str, Any], task: Task) -> None:
    expected = RESULT | set(task.measured) | ({TALLY} if not task.is_default else set())
    numbers = [result[name] for name in ("seconds", *task.measured)]
    if set(result) != expected or not math.isfinite(sum(numbers)):
        raise ValueError("it is not the result of a run")
    _check_history([result["best"], *result["history"]], task)


def _check_history(history: list, task: Task) -> None:
    names = {LOSS, *task.measured}
    expected = {"seconds", *names, *(f"val_{name}" for name in names)}
    for epoch in history:
        if not math.isfinite(sum(epoch[key] for key in expected)):
            raise ValueError("its history is not the history of a run")
