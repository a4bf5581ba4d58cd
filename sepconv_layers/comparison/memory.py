"""Peak memory of a training step, measured in a process of its own."""

import ctypes
import ctypes.util
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers.comparison.data import Part
from sepconv_layers.comparison.kinds import task_from_config
from sepconv_layers.comparison.recipe import Training
from sepconv_layers.sources import take

MODEL, BATCH, SETTINGS = "model.keras", "batch.npz", "settings.json"
WARM_UP_STEPS = 2
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def train_peak_bytes(model: keras.Model, part: Part, training: Training) -> int | None:
    """Measures how far a training step raises the resident memory of a process.

    Each model gets a process of its own, because allocators keep the memory that other models have
    used. The step runs on the CPU, on TensorFlow without XLA.

    Args:
        model: The untrained model.
        part: Inputs, labels and weights, of which one batch is used.
        training: The settings. Augmentation and mixing do not count.

    Returns:
        The number of bytes, or `None` where it cannot be measured: on systems other than Linux, and
        for layers that only the running script defines.
    """
    x, y = take(part[:2], np.arange(training.batch_size) % len(part[1]))
    arrays = [np.asarray(leaf) for leaf in keras.tree.flatten(x)]
    with_classes = [*model._flatten_layers(), training.task.loss, *training.task.metrics]
    settings = {
        "task": training.task.config(),
        "ema_momentum": training.ema_momentum,
        "structure": keras.tree.pack_sequence_as(x, list(range(len(arrays)))),
        "modules": sorted({type(each).__module__ for each in with_classes}),
    }
    on_cpu = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", "KERAS_TORCH_DEVICE": "cpu"}
    path = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))
    backend = {"KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": path}
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder, MODEL))
        np.savez(Path(folder, BATCH), *arrays, labels=y)
        Path(folder, SETTINGS).write_text(json.dumps(settings), "utf-8")
        done = subprocess.run(
            [sys.executable, "-m", __name__, folder],
            env={**os.environ, **on_cpu, **backend},
            capture_output=True,
            text=True,
            check=False,
        )
    found = done.stdout.split()[-1:]
    return int(found[0]) if done.returncode == 0 and found and found[0].isdigit() else None


def measure_saved(folder: Path) -> int | None:
    """Measures a training step of the model and the batch in a folder."""
    settings = json.loads(Path(folder, SETTINGS).read_text("utf-8"))
    for module in settings["modules"]:
        importlib.import_module(module)  # registers its layers
    model = keras.models.load_model(Path(folder, MODEL))
    with np.load(Path(folder, BATCH)) as file:
        arrays = [file[f"arr_{index}"] for index in range(len(file.files) - 1)]
        y = file["labels"]
    x = keras.tree.map_structure(lambda index: arrays[index], settings["structure"])
    task = task_from_config(settings["task"])
    training = Training(
        epochs=1,
        batch_size=len(y),
        learning_rate=1e-3,
        ema_momentum=settings["ema_momentum"],
        classes=len(task.names),
        task=task,
    )
    trainer, y = training.trainer(model, x, False), task.targets(y)
    if keras.backend.backend() == "tensorflow":
        # The allocator of oneDNN keeps its memory, so only the first step of that size shows it. At
        # a second batch size, TensorFlow traces once more, for all sizes. That takes more memory
        # than the step of a small net.
        for size in (1, 2):
            trainer.train_on_batch(*take((x, y), slice(size)))
    else:  # compilation takes memory, too
        for _ in range(WARM_UP_STEPS):
            trainer.train_on_batch(x, y)
    return _peak_bytes(partial(trainer.train_on_batch, x, y))


def _peak_bytes(call: Callable[[], Any]) -> int | None:
    """How far a call raises the resident memory of the process; `None` except on Linux."""
    gc.collect()
    libc = ctypes.util.find_library("c")
    if libc and hasattr(ctypes.CDLL(libc), "malloc_trim"):
        ctypes.CDLL(libc).malloc_trim(0)  # pages that are used again would not count
    try:
        _CLEAR.write_text(_RESET_PEAK)
        before = _status("VmRSS")
        call()
        return max(0, _status("VmHWM") - before)
    except (OSError, LookupError):
        return None


def _status(field: str) -> int:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return 1024 * int(lines[field].split()[0])


if __name__ == "__main__":
    print(measure_saved(Path(sys.argv[1])))
