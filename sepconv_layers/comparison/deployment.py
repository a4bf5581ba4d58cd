"""What a net costs once it is deployed: size, latency and score of its LiteRT files."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras

from sepconv_layers import export, timing
from sepconv_layers.comparison.data import Part
from sepconv_layers.comparison.task import Task
from sepconv_layers.sources import take

KINDS = {"litert": None, "int8": "int8"}  # name of an artifact to `quantize` of `to_litert`
CALIBRATION = 256  # training samples
BATCH = 256  # test samples at a time


def unavailable() -> str | None:
    """Why LiteRT files cannot be written here, or `None` if they can."""
    if keras.backend.backend() != "tensorflow":
        return f"LiteRT files need the TensorFlow backend, not {keras.backend.backend()}."
    for package in ("ai_edge_litert", "litert_quantizer"):
        if find_spec(package) is None:
            return f"LiteRT files need {package!r}: `pip install 'sepconv-layers[export]'`."
    return None


def write_artifact(model: keras.Model, kind: str, folder: Path, train: Any) -> Path:
    """Exports a model to a LiteRT file, calibrated with training samples; returns its path."""
    path = folder / f"{kind}.tflite"
    samples = take(train, slice(CALIBRATION))
    calibration = {"calibration": samples} if KINDS[kind] == "int8" else {"sample": samples}
    export.to_litert(model, path, quantize=KINDS[kind], tolerance=None, **calibration)
    return path


def latencies_ms(paths: dict[Any, Path], train: Any) -> dict[Any, float]:
    """Median milliseconds of each file for one sample on one thread, the files taking turns."""
    sample = take(train, slice(1))
    nets = {key: export.load(path, threads=1) for key, path in paths.items()}
    return timing.medians({key: partial(net, sample) for key, net in nets.items()})


def score_of(path: Path, part: Part, task: Task) -> dict[str, float]:
    """The monitored metric of a file on a part, by name."""
    net = export.load(path)
    starts = range(0, len(part[1]), BATCH)
    batches = (take(part, slice(start, start + BATCH)) for start in starts)
    measured = task.measure(lambda x: net(x)[0], batches)
    return {task.monitor: round(measured[task.monitor], 6)}
