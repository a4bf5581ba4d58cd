"""Timing of functions that take turns in one process, and what they ran on."""

import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import keras

__all__ = ["MODES", "device", "medians", "runnable", "versions"]

SECONDS_PER_CALL = 0.5  # for all repeats together
SECONDS_PER_TURN = 0.03
CALLS_PER_TURN = 3
FEWEST_TURNS = 5

MODES = {
    "tensorflow": {"graph": False, "xla": True},
    "jax": {"xla": True},
    "torch": {"eager": False},
}
"""The modes in which each backend can run a model, with the value of `jit_compile` in each."""

Key = TypeVar("Key")


def runnable(
    calls: Mapping[Key, Callable[[], Any]],
) -> tuple[dict[Key, Callable[[], Any]], dict[Key, Exception]]:
    """Calls each function once, and separates those that run from those that raise an error.

    Not every model runs in every mode: XLA cannot compile some operations, and some kernels have
    no gradient. On JAX the functions run in parallel, since most of the time goes to compiling.

    Args:
        calls: Functions without arguments.

    Returns:
        The functions that run, and the errors of the others, by the keys of `calls`.

    Example:
        >>> from sepconv_layers import timing
        >>> running, errors = timing.runnable({"list": list, "division": lambda: 1 / 0})
        >>> running, errors
        ({'list': <class 'list'>}, {'division': ZeroDivisionError('division by zero')})
    """

    def error_of(call: Callable[[], Any]) -> Exception | None:
        try:
            call()
        except Exception as error:  # any type: each backend has its own
            return error
        return None

    if keras.backend.backend() == "jax":
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = list(pool.map(error_of, calls.values()))
    else:
        outcomes = list(map(error_of, calls.values()))
    errors = {key: error for key, error in zip(calls, outcomes, strict=True) if error is not None}
    return {key: call for key, call in calls.items() if key not in errors}, errors


def medians(
    calls: Mapping[Any, Callable[[], Any]], seconds: float | None = None, turns: int = FEWEST_TURNS
) -> dict[Any, float]:
    """Returns the median milliseconds of each call. They take turns under the same conditions.

    Args:
        calls: Functions without arguments that return when their work is done.
        seconds: Measuring time for each call; by default half a second.
        turns: Minimum number of turns, however long they take.

    Returns:
        The medians by the keys of `calls`.

    Example:
        >>> from sepconv_layers import timing
        >>> times = timing.medians({"sum": lambda: sum(range(9))}, seconds=0.01)
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
        shuffle(order)  # a call can be faster after another one, on memory that it freed
        for key in order:
            calls[key]()  # refills the caches, which the others have used
            times[key] += [_seconds(calls[key]) for _ in range(repeats[key])]
    return {key: round(1e3 * statistics.median(values), 4) for key, values in times.items()}


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def device() -> str:
    """Returns the processor that the backend computes on, without the name of the machine."""
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
    return name or f"cpu, {cores} core{'s' * (cores != 1)}, {platform.machine()}"


def versions() -> dict[str, str]:
    """Returns the versions of Python, this package, Keras, its backend and NumPy."""
    names = ("sepconv_layers", "keras", keras.backend.backend(), "numpy")  # all imported already
    loaded = {name: sys.modules[name].__version__ for name in names}
    return {"python": platform.python_version(), **loaded}
