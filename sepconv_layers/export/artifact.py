"""What all exports share: a sample to try the artifact with, its check, and the record of it."""

import dataclasses
import errno
import functools
import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers.export.names import leaves
from sepconv_layers.files import write
from sepconv_layers.graph_edit import input_structure

Arrays = list[np.ndarray]
Named = dict[str, np.ndarray]
Runner = Callable[[Arrays], Named]

SAMPLES = 8
PATTERN = set("[\\")  # characters of a path that TensorFlow takes for a pattern
TIMED_CALLS = 30
TIMED_SECONDS = 0.3
SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "variables", "assets"}  # what TensorFlow writes


@dataclasses.dataclass(frozen=True)
class Artifact:
    """What was exported, and what came of running it.

    Attributes:
        path: Where it is.
        kind: "hub", "litert" or "onnx".
        bytes: Its size; of a folder, that of all files in it.
        max_difference: Largest absolute difference of its outputs from those of the model.
        agreement: Share of samples for which the largest output is the same one.
        latency_ms: Median milliseconds of a call with one sample, in this process.
    """

    path: Path
    kind: str
    bytes: int
    max_difference: float
    agreement: float
    latency_ms: float


def export_checked(
    kind: str,
    path: str | os.PathLike,
    model: Runner,
    sample: Arrays,
    writer: Callable[[Path], Any],
    runner: Callable[[Path], Runner],
    tolerance: float | None,
) -> Artifact:
    """Writes an artifact beside its target, runs it, and puts it there if it does what it should.

    Args:
        kind: What it is.
        path: Where it goes.
        model: What it must agree with.
        sample: Inputs to try it with.
        writer: Writes the artifact.
        runner: Loads an artifact and returns a function from the arrays of the inputs to those of
            the outputs by their names, as `model` is one.
        tolerance: Largest difference to allow, over the largest absolute output of the model (or
            over 1, if that is less); `None` for any.

    Raises:
        ValueError: If the folder is not there, something else than such an artifact stands in the
            place, or the difference is larger than allowed.
        OSError: If it cannot be written, such as on a full disk.
    """
    path = Path(path)
    _check_path(path, kind)
    expected = model(sample)
    found: dict[str, Any] = {}

    def write_and_check(beside: Path) -> None:
        _write(writer, beside)
        run = runner(beside)
        outputs = run(sample)
        found.update(compared(kind, expected, outputs, tolerance))
        found["latency_ms"] = latency_ms(run, sample)
        found["bytes"] = size_of(beside)
        if path.is_dir():
            _keep_others(path, beside)

    write(path, write_and_check)
    return Artifact(path=path, kind=kind, **found)


def _write(writer: Callable[[Path], Any], path: Path) -> None:
    """Calls the writer, and makes an `OSError` of what TensorFlow raises for a file."""
    import tensorflow as tf

    try:
        writer(path)
    except tf.errors.OpError as error:
        if str(path) not in error.message:
            raise
        # "{{function_node ...}} PATH; No space left on device [Op:SaveV2]"
        reason = error.message.rpartition("; ")[2].partition(" [Op:")[0]
        numbers = {os.strerror(number): number for number in errno.errorcode}
        raise OSError(numbers.get(reason), reason) from error


def _keep_others(old: Path, new: Path) -> None:
    """Copies what a user has put beside an older SavedModel, such as a README."""
    for other in old.iterdir():
        if other.name in SAVED_MODEL:
            continue
        if other.is_dir():
            shutil.copytree(other, new / other.name, symlinks=True)
        else:
            shutil.copy2(other, new / other.name, follow_symlinks=False)


def _check_path(path: Path, kind: str) -> None:
    """Refuses to replace what no export has written."""
    if not path.parent.is_dir():
        raise ValueError(
            f"The folder of the `path` argument must exist. Received: path={str(path)!r}. Make the "
            f"folder {str(path.parent)!r}."
        )
    if kind != "hub" and path.is_dir():
        raise ValueError(
            f"The `path` argument must be a file. Received: path={str(path)!r}, which is a folder."
        )
    if kind == "hub" and set(path.as_posix()) & PATTERN:
        raise ValueError(
            "The `path` argument must be without the characters [ and \\ for a SavedModel, because "
            f"TensorFlow takes them for a pattern. Received: path={str(path)!r}."
        )
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(
            "The `path` argument must be text that UTF-8 can hold, because the engines take no "
            f"other. Received: path={str(path)!r}."
        ) from None
    if kind == "hub" and path.exists():
        is_old = path.is_dir() and (not any(path.iterdir()) or (path / "saved_model.pb").is_file())
        if not is_old:
            raise ValueError(
                "The `path` argument must be a new folder, or that of an older SavedModel, which "
                f"is replaced. Received: path={str(path)!r}, which is something else."
            )


def sample_for(model: keras.Model, sample: Any, argument: str = "sample") -> Arrays:
    """The sample as a list of arrays, one for each input; random numbers if there is none.

    Raises:
        ValueError: If it does not fit the model, or the model leaves sizes open and there is none.
    """
    inputs = model.inputs
    dtypes = [array_dtype(tensor) for tensor in inputs]
    if sample is None:
        rng = np.random.default_rng(0)
        arrays = []
        for tensor, dtype in zip(inputs, dtypes, strict=True):
            shape = tensor.shape[1:]
            if None in shape or dtype.hasobject:
                leaves = "takes strings as" if dtype.hasobject else "leaves sizes open in"
                raise ValueError(
                    f"The model {leaves} its input {tensor.name!r}, so the `sample` argument must "
                    "be a batch of inputs to try the artifact with. Received: sample=None for the "
                    f"shape {tuple(tensor.shape)}."
                )
            arrays.append(drawn(rng, (tensor.shape[0] or SAMPLES, *shape), dtype))
    else:
        arrays = [np.asarray(array) for array in _in_order(model, sample, argument)]
    _check_shapes(inputs, arrays, argument)
    return [array.astype(dtype) for dtype, array in zip(dtypes, arrays, strict=True)]


def array_dtype(tensor: Any) -> np.dtype:
    """What an array for an input of a model holds; strings are objects."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return np.dtype(object if dtype == "string" else dtype)


def _in_order(model: keras.Model, sample: Any, argument: str) -> list[Any]:
    """What a sample has for each input: by the keys that the model takes, or by their names."""
    if not isinstance(sample, Mapping):
        return keras.tree.flatten(sample)
    structure = input_structure(model)
    has_keys = isinstance(structure, Mapping)
    keys = list(structure) if has_keys else [tensor.name for tensor in model.inputs]
    if set(sample) != set(keys):
        raise ValueError(
            f"The `{argument}` argument must have the keys {sorted(keys, key=str)}. Received: the "
            f"keys {sorted(sample, key=str)}."
        )
    return leaves(structure, sample) if has_keys else [sample[key] for key in keys]


def drawn(rng: np.random.Generator, size: Sequence[int], dtype: Any) -> np.ndarray:
    """Random numbers; of integers, whose range is not known, all 1."""
    is_float = "float" in np.dtype(dtype).name
    return (rng.normal(size=size) if is_float else np.ones(size)).astype(dtype)


def _check_shapes(inputs: Sequence[Any], arrays: Arrays, argument: str) -> None:
    shapes = [tuple(tensor.shape) for tensor in inputs]
    received = [array.shape for array in arrays]
    fits = len(shapes) == len(received) and all(
        len(shape) == len(other) and all(a in (None, b) for a, b in zip(shape, other, strict=True))
        for shape, other in zip(shapes, received, strict=True)
    )
    if not fits or len({shape[0] for shape in received}) > 1 or 0 in received[0]:
        raise ValueError(
            f"The `{argument}` argument must be a batch of inputs of the shapes {shapes}. "
            f"Received: arrays of the shapes {received}."
        )


def compared(
    kind: str, expected: Named, outputs: Named, tolerance: float | None
) -> dict[str, float]:
    """How far two results are from each other, output by output of the same name."""
    shapes = [
        {name: arrays[name].shape for name in sorted(arrays)} for arrays in (expected, outputs)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The {kind} artifact gives outputs of the shapes {shapes[1]} where the model gives "
            f"{shapes[0]}."
        )
    pairs = [
        (ours.astype("float64"), outputs[name].astype("float64")) for name, ours in expected.items()
    ]
    difference = max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
    scale = max(1.0, max(float(np.abs(ours).max()) for ours, _ in pairs))
    if tolerance is not None and not difference <= tolerance * scale:  # nor if it is not a number
        raise ValueError(
            f"The {kind} artifact must give what the model gives, with a difference of at most "
            f"{tolerance} of the largest output, {scale:.3g}. Received: a difference of "
            f"{difference:.3g}. Nothing was written. With `tolerance=None`, anything is."
        )
    ours, theirs = (array.reshape(len(array), -1).argmax(-1) for array in pairs[0])
    return {"max_difference": difference, "agreement": float((ours == theirs).mean())}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def latency_ms(run: Runner, sample: Arrays) -> float:
    """Median milliseconds of a call with one sample."""
    call = functools.partial(run, [array[:1] for array in sample])
    call()
    times: list[float] = []
    while len(times) < TIMED_CALLS and sum(times) < TIMED_SECONDS:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return round(1e3 * statistics.median(times), 4)


def require_tensorflow(function: str) -> None:
    """Raises a `ValueError` on another backend than TensorFlow, whose graphs the exports are."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"`{function}` needs the TensorFlow backend. Received: the backend {backend!r}. Save "
            "the model by `model.save('model.keras')`, which any backend can load, and export it "
            "in a process with KERAS_BACKEND=tensorflow."
        )


def check_model(model: Any) -> None:
    """Raises a `ValueError` if it is no Keras model that knows its inputs, for any batch or one."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ValueError(
            "The `model` argument must be a Keras model with known inputs: a functional one, or a "
            f"built sequential one. Received: model={model!r}"
        )
    for tensor in model.inputs:
        if tensor.shape[0] not in (None, 1):
            raise ValueError(
                "The `model` argument must be a model for batches of any size, or of one sample. "
                f"Received: a model whose input {tensor.name!r} has the shape "
                f"{tuple(tensor.shape)}. Build it with `keras.Input(shape)`, which leaves the size "
                "of the batch open, and give it the weights by `set_weights`."
            )


def check_labels(labels: Sequence[str] | None, model: keras.Model) -> list[str]:
    """The labels as a list, or a `ValueError` if they are not one for each output."""
    if labels is None:
        return []
    names = [labels] if isinstance(labels, str) else list(labels)
    classes = model.outputs[0].shape[-1]
    fits = all(isinstance(name, str) and "\n" not in name for name in names)
    if len(model.outputs) > 1 or len(names) != classes or not fits:
        raise ValueError(
            f"The `labels` argument must be {classes} strings of one line, one for each class of "
            f"the model's only output. Received: labels={labels!r}"
        )
    return names
