"""Artifacts back as functions of arrays, without the model that they were made from."""

import dataclasses
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sepconv_layers.export.artifact import Arrays
from sepconv_layers.extras import require
from sepconv_layers.files import regular_below

Run = Callable[[Arrays], Arrays]

THREADS = 2
SIGNATURE = "serving_default"
SUFFIXES = {".tflite": "litert", ".onnx": "onnx"}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or an output of an artifact.

    Attributes:
        name: Its name.
        shape: Its sizes with the batch, `None` for what is open.
        dtype: What its arrays hold; float32 for integers with a scale.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An artifact as a function: from a batch of inputs to a list of the arrays of the outputs.

    Several inputs come as a list in the order of their names, or as a dictionary by their names.
    Several outputs are in the order of their names. It is the only order that all artifacts keep.

    Attributes:
        path: Where the artifact is.
        kind: "hub", "litert" or "onnx".
        inputs: What it takes, in the order of the names.
        outputs: Names of what it gives, in their order.
        run: From arrays to arrays, unchecked.
    """

    path: Path
    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    run: Run = dataclasses.field(repr=False)

    def __call__(self, inputs: Any) -> Arrays:
        return self.run(self._arrays(inputs))

    def _arrays(self, inputs: Any) -> Arrays:
        names = [tensor.name for tensor in self.inputs]
        if isinstance(inputs, Mapping):
            if sorted(inputs) != names:
                raise ValueError(
                    f"The `inputs` argument must have the keys {names}. Received: the keys "
                    f"{sorted(inputs)}."
                )
            inputs = [inputs[name] for name in names]
        elif len(names) == 1 and not _is_list_of_one_batch(inputs, self.inputs[0]):
            inputs = [inputs]
        arrays = [np.asarray(array) for array in inputs]
        fits = len(arrays) == len(names) and all(
            _fits(array, tensor) for array, tensor in zip(arrays, self.inputs, strict=True)
        )
        if not fits or len({len(array) for array in arrays}) > 1 or not len(arrays[0]):
            raise ValueError(
                "The `inputs` argument must be a batch of arrays for "
                f"{', '.join(map(_described, self.inputs))}. Received: arrays of the shapes and "
                f"dtypes {', '.join(f'{array.shape} {array.dtype}' for array in arrays)}."
            )
        return [
            array.astype(tensor.dtype) for array, tensor in zip(arrays, self.inputs, strict=True)
        ]


def _is_list_of_one_batch(inputs: Any, tensor: Tensor) -> bool:
    return (
        isinstance(inputs, list | tuple)
        and len(inputs) == 1
        and np.ndim(inputs[0]) == len(tensor.shape)
    )


def _fits(array: np.ndarray, tensor: Tensor) -> bool:
    """Whether sizes are equal where they are known, and numbers are not cut off to integers."""
    return (
        array.ndim == len(tensor.shape) > 0
        and all(size in (None, n) for size, n in zip(tensor.shape, array.shape, strict=True))
        and (tensor.dtype.kind not in "iub" or array.dtype.kind in "iub")
        and (tensor.dtype.kind == "O") == (array.dtype.kind in "OSU")
    )


def _described(tensor: Tensor) -> str:
    dtype = "strings" if tensor.dtype.kind == "O" else tensor.dtype.name
    return f"{tensor.name!r} of the shape {tensor.shape} and {dtype}"


def load(path: str | os.PathLike) -> Loaded:
    """Loads what `to_hub`, `to_litert` or `to_onnx` wrote, or another artifact of these kinds.

    It runs where the model is not known, on any Keras backend, and no Python code of the artifact
    is run. Several threads may call what it returns; those that call a LiteRT file take turns.
    LiteRT takes one sample at a time, so a batch runs sample by sample; what is int8 at both ends
    is quantized and back by the scales in the file.

    Args:
        path: A folder with a SavedModel that has the signature `serving_default`, a file named
            `.tflite`, or a file named `.onnx`.

    Returns:
        A function from a batch of inputs to a list of the arrays of the outputs. Inputs are an
        array; a list in the order of their names or a dictionary by them for several. Outputs are
        in the order of their names. Its attributes `inputs` and `outputs` tell the names.

    Raises:
        ImportError: If the package that runs the artifact is missing.
        ValueError: If there is no such artifact, or it cannot be loaded; from the function, if the
            inputs do not fit.

    Example:
        >>> import keras, os, tempfile
        >>> import numpy as np
        >>> from sepconv_layers import SeparableConvBlock1D, export
        >>> model = keras.Sequential([keras.Input((9, 4)), SeparableConvBlock1D(8)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export.to_litert(model, os.path.join(folder, "net.tflite")).path
        ...     net = export.load(path)
        >>> (outputs,) = net(np.ones((3, 9, 4)))
        >>> outputs.shape
        (3, 9, 8)
    """
    path = Path(path)
    kind = "hub" if path.is_dir() else SUFFIXES.get(path.suffix.lower())
    expected = "the folder of a SavedModel, a .tflite file or an .onnx file"
    if kind is None or not (kind == "hub" or path.is_file()):  # a pipe would never end
        fix = " Load it by `keras.saving.load_model`." if path.suffix == ".keras" else ""
        raise ValueError(
            f"The `path` argument must be {expected}. Received: path={str(path)!r}, which is "
            f"{'none of them' if os.path.lexists(path) else 'not there'}.{fix}"
        )
    try:
        inputs, outputs, run = LOADERS[kind](path)
    except ImportError:
        raise
    except Exception as error:  # of any kind: each of the packages has several
        raise ValueError(
            f"The `path` argument must be {expected}. Received: path={str(path)!r}, which cannot "
            f"be loaded: {error}. It may be truncated, or of another kind: copy or export it again."
        ) from error
    return Loaded(path, kind, tuple(inputs), tuple(outputs), run)


Parts = tuple[Sequence[Tensor], Sequence[str], Run]


def _litert(path: Path) -> Parts:
    module = require("ai_edge_litert.interpreter", "export", "export.load")
    interpreter = module.Interpreter(str(path), num_threads=THREADS)
    interpreter.allocate_tensors()
    if SIGNATURE in interpreter.get_signature_list():
        signature = interpreter.get_signature_runner(SIGNATURE)
        into, out = signature.get_input_details(), signature.get_output_details()
    else:  # an older file
        into = {details["name"]: details for details in interpreter.get_input_details()}
        out = {details["name"]: details for details in interpreter.get_output_details()}
    inputs, outputs = sorted(into), sorted(out)
    run = litert_runner(
        interpreter, [into[name] for name in inputs], [out[name] for name in outputs]
    )
    return [_litert_tensor(name, into[name]) for name in inputs], outputs, run


def _litert_tensor(name: str, details: Mapping[str, Any]) -> Tensor:
    batch, *sizes = (int(size) for size in details["shape"])
    dtype = np.dtype("float32" if _is_scaled(details) else details["dtype"])
    return Tensor(name, (None if batch == 1 else batch, *sizes), dtype)


def litert_runner(
    interpreter: Any, into: Sequence[Mapping[str, Any]], out: Sequence[Mapping[str, Any]]
) -> Run:
    """A function that runs samples one by one, and quantizes what has to be integers.

    Several threads may call it: an interpreter has one set of tensors, so they take turns.

    Args:
        interpreter: With its tensors allocated.
        into: Details of the inputs, in the order of the arrays.
        out: Details of the outputs, in the order of the arrays.
    """
    step = int(into[0]["shape"][0])  # 1, but in files from elsewhere
    turn = threading.Lock()

    def once(arrays: Arrays) -> Arrays:
        with turn:
            for details, array in zip(into, arrays, strict=True):
                interpreter.set_tensor(details["index"], _quantized(array, details))
            interpreter.invoke()
            found = [interpreter.get_tensor(details["index"]) for details in out]  # copies
        return [_dequantized(array, details) for array, details in zip(found, out, strict=True)]

    def run(arrays: Arrays) -> Arrays:
        starts = range(0, len(arrays[0]), step)
        samples = [once([array[i : i + step] for array in arrays]) for i in starts]
        return [np.concatenate(outputs) for outputs in zip(*samples, strict=True)]

    return run


def _is_scaled(details: Mapping[str, Any]) -> bool:
    scale, _ = details["quantization"]
    return bool(scale) and np.issubdtype(details["dtype"], np.integer)


def _quantized(array: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    dtype, (scale, zero_point) = details["dtype"], details["quantization"]
    if not _is_scaled(details):
        return array.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(array / scale) + zero_point, limits.min, limits.max).astype(dtype)


def _dequantized(array: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    scale, zero_point = details["quantization"]
    return (array.astype("float32") - zero_point) * scale if _is_scaled(details) else array


# Where ONNX and NumPy have different words.
ONNX_TYPES: dict[str, Any] = {"float": "float32", "double": "float64", "string": object}


def _onnx(path: Path) -> Parts:
    runtime = require("onnxruntime", "export", "export.load")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = [_onnx_tensor(node) for node in sorted(session.get_inputs(), key=lambda x: x.name)]
    outputs = sorted(node.name for node in session.get_outputs())
    return inputs, outputs, onnx_runner(session, [tensor.name for tensor in inputs], outputs)


def _onnx_tensor(node: Any) -> Tensor:
    word = node.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return Tensor(node.name, shape, np.dtype(ONNX_TYPES.get(word, word)))


def onnx_runner(session: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Run:
    """A function of arrays in the order of `inputs`, to arrays in that of `outputs`."""

    def run(arrays: Arrays) -> Arrays:
        return session.run(outputs, dict(zip(inputs, arrays, strict=True)))

    return run


def _hub(path: Path) -> Parts:
    import tensorflow as tf

    regular_below(path)  # a pipe would never end
    loaded = tf.saved_model.load(str(path))
    if SIGNATURE not in loaded.signatures:
        raise ValueError(f"it has no signature {SIGNATURE!r}, only {sorted(loaded.signatures)}")
    specs = loaded.signatures[SIGNATURE].structured_input_signature[1]
    inputs = [
        Tensor(name, tuple(specs[name].shape), np.dtype(specs[name].dtype.as_numpy_dtype))
        for name in sorted(specs)
    ]
    outputs = sorted(loaded.signatures[SIGNATURE].structured_outputs)

    def run(arrays: Arrays) -> Arrays:
        tensors = {
            tensor.name: tf.convert_to_tensor(array)
            for tensor, array in zip(inputs, arrays, strict=True)
        }
        found = loaded.signatures[SIGNATURE](**tensors)  # by `loaded`, which owns the weights
        return [found[name].numpy() for name in outputs]

    return inputs, outputs, run


LOADERS: dict[str, Callable[[Path], Parts]] = {"hub": _hub, "litert": _litert, "onnx": _onnx}
