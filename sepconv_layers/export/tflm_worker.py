"""Runs a LiteRT file in TensorFlow Lite Micro: a script for a process of its own.

The runtime prints its errors, and too small an arena may end the process. So this script runs
apart, tries each arena in a child process, and imports nothing but NumPy and the runtime.

Its arguments are the LiteRT file; an `.npz` file of inputs, `arr_0` for the first one, as the
file's integers; and the `.npz` file to write the outputs to. It prints the smallest arena and the
latency as JSON.
"""

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

STEP = 64  # bytes: arenas are multiples of it
LARGEST = 2**30  # bytes: more than any microcontroller has


def main(path: str, inputs: str, outputs: str) -> None:
    """Finds the smallest arena of a file, and runs all samples in it."""
    content = Path(path).read_bytes()
    with np.load(inputs) as arrays:
        batches = [arrays[f"arr_{index}"] for index in range(len(arrays.files))]
    first = [batch[:1] for batch in batches]
    run(content, LARGEST, first)  # raises an error if no arena is large enough
    fails, fits = 0, LARGEST // STEP
    while fits - fails > 1:
        middle = (fails + fits) // 2
        fails, fits = (fails, middle) if runs(content, middle * STEP, first) else (middle, fits)
    found, seconds = run(content, fits * STEP, batches)
    np.savez(outputs, *found)
    print(json.dumps({"arena_bytes": fits * STEP, "latency_ms": 1e3 * statistics.median(seconds)}))


def runs(content: bytes, arena: int, batches: Sequence[np.ndarray]) -> bool:
    """Whether a model runs in an arena of this size; tried in a child process."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(RuntimeError):
            run(content, arena, batches)
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    return status == 0


def run(
    content: bytes, arena: int, batches: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[float]]:
    """Runs a model sample by sample in an arena.

    Returns:
        The outputs, and the seconds of each call.

    Raises:
        RuntimeError: If an operator is missing or does not support its inputs, or the arena is too
            small. The runtime prints the reason.
    """
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
    found, seconds = [], []
    for index in range(len(batches[0])):
        for position, batch in enumerate(batches):
            interpreter.set_input(batch[index : index + 1], position)
        started = time.perf_counter()
        interpreter.invoke()
        seconds.append(time.perf_counter() - started)
        found.append(all_outputs(interpreter))
    return [np.concatenate(outputs) for outputs in zip(*found, strict=True)], seconds


def all_outputs(interpreter: Any) -> list[np.ndarray]:
    """Returns all outputs; only an error tells how many there are."""
    found: list[np.ndarray] = []
    with contextlib.suppress(IndexError):
        while True:
            found.append(interpreter.get_output(len(found)))
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
