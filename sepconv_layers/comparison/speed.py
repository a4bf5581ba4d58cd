"""Times of inference and training steps, with the nets taking turns in one process."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import keras
import numpy as np

from sepconv_layers.comparison.data import Part
from sepconv_layers.comparison.quiet import quiet_tensorflow
from sepconv_layers.comparison.recipe import Training
from sepconv_layers.sources import take
from sepconv_layers.timing import MODES, medians, runnable


def measure(
    build: Callable[[str], keras.Model],
    convs: Sequence[str],
    part: Part,
    training: Training,
    batch_sizes: Sequence[int],
    jit_compile: bool | str = "auto",
) -> dict[str, dict[str, Any]]:
    """Times throw-away models of each net.

    Returns:
        For each net, the fields of `Row` that hold times and modes.
    """
    x, y, *_ = part
    training = dataclasses.replace(training, augmentation=None, mixing=None)
    modes = MODES[keras.backend.backend()]
    wanted = {mode: compiles for mode, compiles in modes.items() if compiles is jit_compile}
    trainers = {}
    for conv in convs:
        for mode, compiles in (wanted or modes).items():
            trainers[conv, mode] = training.trainer(build(conv), x, compiles)
            trainers[conv, mode].model.jit_compile = compiles

    def batch_of(size: int) -> tuple[Any, ...]:
        inputs, labels, *weights = take(part, np.arange(size) % len(y))
        task = training.task
        return inputs, task.targets(labels), *map(task.weights, weights)

    def best(method: str, *batch: Any) -> dict[str, tuple[float, str]]:
        bound = attrgetter(method)
        calls = {key: partial(bound(trainer), *batch) for key, trainer in trainers.items()}
        times = medians(_in_working_modes(calls))
        return {
            conv: min((ms, mode) for (net, mode), ms in times.items() if net == conv)
            for conv in convs
        }

    with quiet_tensorflow():
        infer = {size: best("model.predict_on_batch", *batch_of(size)[:1]) for size in batch_sizes}
        train = best("train_on_batch", *batch_of(training.batch_size))
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
    """Leaves out the modes that a net cannot run in, if it runs as a graph."""
    running, errors = runnable(calls)
    for (conv, _), error in errors.items():
        if (conv, "graph") not in running:
            raise error
    return running
