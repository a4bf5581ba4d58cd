"""Inference and training-step times of nets that take turns in one process."""

import contextlib
import dataclasses
import logging
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from sepconv_layers.comparison.training import Training, take

SECONDS_PER_CALL = 1.0  # for all repeats together
SECONDS_PER_TURN = 0.03
FEWEST_TURNS = 7

# How a backend can run a model, by `jit_compile`. Each net gets the fastest.
MODES = {
    "tensorflow": {"graph": False, "xla": True},
    "jax": {"xla": True},
    "torch": {"eager": False},
}


def measure(
    build: Callable[[str], keras.Model],
    convs: Sequence[str],
    part: tuple[Any, np.ndarray],
    training: Training,
    batch_sizes: Sequence[int],
) -> dict[str, dict[str, Any]]:
    """The fields of `Row` that are times, for each net, from throw-away models."""
    x, y = part[0], training.one_hot(part[1])
    training = dataclasses.replace(training, augmentation=None)
    trainers = {}
    for conv in convs:
        for mode, jit_compile in MODES[keras.backend.backend()].items():
            trainers[conv, mode] = training.trainer(build(conv), x, jit_compile)
            trainers[conv, mode].model.jit_compile = jit_compile

    def best(size: int, call: Callable[..., Any], *arrays: Any) -> dict[str, tuple[float, str]]:
        batch = take(arrays, np.arange(size) % len(y))
        times = _medians({key: partial(call(it), *batch) for key, it in trainers.items()})
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


def _medians(calls: Mapping[tuple[str, str], Callable[[], Any]]) -> dict[tuple[str, str], float]:
    """Median milliseconds of each call. They take turns, so that all meet the same machine."""
    repeats = {}
    for (conv, mode), call in calls.items():
        try:
            call()
        except Exception:  # of any kind: there are operations that XLA cannot compile
            if (conv, "graph") not in repeats:
                raise
            continue
        call()
        repeats[conv, mode] = math.ceil(SECONDS_PER_TURN / _seconds(call))
    times: dict[tuple[str, str], list[float]] = {key: [] for key in repeats}
    turns, end = 0, time.perf_counter() + SECONDS_PER_CALL * len(repeats)
    while turns < FEWEST_TURNS or time.perf_counter() < end:
        turns += 1
        for key, count in repeats.items():
            times[key] += [_seconds(calls[key]) for _ in range(count)]
    return {key: round(1e3 * statistics.median(values), 4) for key, values in times.items()}


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
