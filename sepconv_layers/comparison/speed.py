"""Inference and training-step times of nets that take turns in one process."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from sepconv_layers.comparison.training import Training, take
from sepconv_layers.timing import MODES, medians, runnable


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
        times = medians(_in_working_modes(calls))
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


def _in_working_modes(
    calls: Mapping[tuple[str, str], Callable[[], Any]],
) -> dict[tuple[str, str], Callable[[], Any]]:
    """The calls, except those in a mode that a net cannot run in although it runs in a graph."""
    running, errors = runnable(calls)
    for (conv, _), error in errors.items():
        if (conv, "graph") not in running:
            raise error
    return running


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
