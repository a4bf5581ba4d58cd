"""Inference and training-step times of nets that take turns in one process."""

import contextlib
import dataclasses
import logging
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from sepconv_layers.comparison.training import Training, take

SECONDS_PER_CALL = 0.5  # for all repeats together
SECONDS_PER_TURN = 0.03
CALLS_PER_TURN = 3
FEWEST_TURNS = 5

MODES = {
    "tensorflow": {"graph": False, "xla": True},
    "jax": {"xla": True},
    "torch": {"eager": False},
}
"""How each backend can run a model, and what `jit_compile` is then. Each net gets the fastest."""


def measure(
    build: Callable[[str], keras.Model],
    convs: Sequence[str],
    part: tuple[Any, np.ndarray],
    training: Training,
    batch_sizes: Sequence[int],
    jit_compile: bool | str = "auto",
) -> dict[str, dict[str, Any]]:
    """The fields of `Row` that are times, for each net, from throw-away models."""
    x, y = part[0], training.one_hot(part[1])
    training = dataclasses.replace(training, augmentation=None)
    modes = MODES[keras.backend.backend()]
    wanted = {mode: compiles for mode, compiles in modes.items() if compiles is jit_compile}
    trainers = {}
    for conv in convs:
        for mode, compiles in (wanted or modes).items():
            trainers[conv, mode] = training.trainer(build(conv), x, compiles)
            trainers[conv, mode].model.jit_compile = compiles

    def best(size: int, call: Callable[..., Any], *arrays: Any) -> dict[str, tuple[float, str]]:
        batch = take(arrays, np.arange(size) % len(y))
        calls = {key: partial(call(it), *batch) for key, it in trainers.items()}
        times = medians(_that_run(calls))
        return {
            conv: min((ms, mode) for (of, mode), ms in times.items() if of == conv)
            for conv in convs
        }

    with _quiet_tensorflow():
        infer = {size: best(size, lambda it: it.model.predict_on_batch, x) for size in batch_sizes}
        train = best(training.batch_size, lambda it: it.train_on_batch, x, y)
    return {
        conv: {
            "infer_ms": {size: infer[size][conv][0] for size in batch_sizes},
            "infer_mode": {size: infer[size][conv][1] for size in batch_sizes},
            "train_step_ms": train[conv][0],
            "train_mode": train[conv][1],
        }
        for conv in convs
    }


def medians(
    calls: Mapping[Any, Callable[[], Any]], seconds: float | None = None, turns: int = FEWEST_TURNS
) -> dict[Any, float]:
    """Median milliseconds of each call. They take turns, so that all meet the same machine.

    Args:
        calls: What to time: functions that return when their work is done.
        seconds: How long to measure for each call; by default half a second.
        turns: The fewest turns to take, however long they are.

    Returns:
        The medians by the keys of `calls`.

    Example:
        >>> from sepconv_layers import comparison
        >>> times = comparison.medians({"sum": lambda: sum(range(9))}, seconds=0.01)
        >>> times["sum"] >= 0
        True
    """
    repeats = {}
    for key, call in calls.items():
        call()
        call()
        repeats[key] = max(CALLS_PER_TURN, math.ceil(SECONDS_PER_TURN / _seconds(call)))
    times: dict[Any, list[float]] = {key: [] for key in calls}
    order, shuffle = list(calls), random.Random(0).shuffle
    taken, end = 0, time.perf_counter() + (seconds or SECONDS_PER_CALL) * len(calls)
    while taken < turns or time.perf_counter() < end:
        taken += 1
        shuffle(order)  # a call is faster after some others: of the memory that they gave back
        for key in order:
            calls[key]()  # finds the caches as the others have left them
            times[key] += [_seconds(calls[key]) for _ in range(repeats[key])]
    return {key: round(1e3 * statistics.median(values), 4) for key, values in times.items()}


def _that_run(
    calls: Mapping[tuple[str, str], Callable[[], Any]],
) -> dict[tuple[str, str], Callable[[], Any]]:
    """The calls without those of a mode that a net cannot run in, if it can in a graph."""
    running = {}
    for (conv, mode), call in calls.items():
        try:
            call()
        except Exception:  # of any kind: there are operations that XLA cannot compile
            if (conv, "graph") not in running:
                raise
            continue
        running[conv, mode] = call
    return running


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@contextlib.contextmanager
def _quiet_tensorflow() -> Iterator[None]:
    # It takes several models that are traced for one model that is traced again and again.
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def device() -> str:
    """What the backend computes on, without the name of the machine."""
    backend, name = keras.backend.backend(), None
    if backend == "tensorflow":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU")[:1]:
            name = tf.config.experimental.get_device_details(gpu).get("device_name", "gpu")
    elif backend == "jax":
        import jax

        name = jax.devices()[0].device_kind if jax.default_backend() != "cpu" else None
    elif backend == "torch":
        import torch

        name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return name or f"cpu, {cores} cores, {platform.machine()}"


def versions() -> dict[str, str]:
    """Versions of what computes."""
    names = ("sepconv_layers", "keras", keras.backend.backend(), "numpy")  # all imported by now
    found = {name: sys.modules[name].__version__ for name in names}
    return {"python": platform.python_version(), **found}
