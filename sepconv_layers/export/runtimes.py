"""The runtimes of artifacts, TensorFlow, LiteRT and ONNX Runtime, as functions of arrays."""

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sepconv_layers.export.inputs import Arrays
from sepconv_layers.export.names import NamedArrays
from sepconv_layers.extras import require
from sepconv_layers.files import regular_below

ArrayFunction = Callable[[Arrays], Arrays]

LITERT_THREADS = 2
SIGNATURE = "serving_default"
RUNTIMES = {"litert": "The LiteRT interpreter", "onnx": "ONNX Runtime"}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or an output of an artifact.

    Attributes:
        name: Its name.
        shape: Its sizes, batch included; `None` for an open size.
        dtype: The dtype of its arrays; float32 for quantized integers.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype


Parts = tuple[Sequence[Tensor], Sequence[str], ArrayFunction]  # inputs, outputs, function


def _load_litert(path: Path, threads: int) -> Parts:
    module = require("ai_edge_litert.interpreter", "export", "export.load")
    interpreter = module.Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    if SIGNATURE in interpreter.get_signature_list():
        signature = interpreter.get_signature_runner(SIGNATURE)
        into, out = signature.get_input_details(), signature.get_output_details()
    else:  # an older file
        into = {details["name"]: details for details in interpreter.get_input_details()}
        out = {details["name"]: details for details in interpreter.get_output_details()}
    inputs, outputs = sorted(into), sorted(out)
    run = _litert_function(
        interpreter, [into[name] for name in inputs], [out[name] for name in outputs]
    )
    return [_litert_tensor(name, into[name]) for name in inputs], outputs, run


def _litert_tensor(name: str, details: Mapping[str, Any]) -> Tensor:
    batch, *sizes = (int(size) for size in details["shape"])
    dtype = np.dtype("float32" if _is_quantized(details) else details["dtype"])
    return Tensor(name, (None if batch == 1 else batch, *sizes), dtype)


def _litert_function(
    interpreter: Any, into: Sequence[Mapping[str, Any]], out: Sequence[Mapping[str, Any]]
) -> ArrayFunction:
    """Runs samples one by one; converts floats to and from quantized integers.

    Threads take turns, because an interpreter has one set of tensors.

    Args:
        interpreter: The interpreter, with its tensors allocated.
        into: Details of the inputs, in the order of the arrays.
        out: Details of the outputs, in the order of the arrays.
    """
    step = int(into[0]["shape"][0])  # 1, except in files from elsewhere
    lock = threading.Lock()

    def run_once(arrays: Arrays) -> Arrays:
        with lock:
            for details, array in zip(into, arrays, strict=True):
                interpreter.set_tensor(details["index"], quantize(array, details))
            interpreter.invoke()
            found = [interpreter.get_tensor(details["index"]) for details in out]  # copies
        return [dequantize(array, details) for array, details in zip(found, out, strict=True)]

    def run(arrays: Arrays) -> Arrays:
        starts = range(0, len(arrays[0]), step)
        samples = [run_once([array[i : i + step] for array in arrays]) for i in starts]
        return [np.concatenate(outputs) for outputs in zip(*samples, strict=True)]

    return run


def _is_quantized(details: Mapping[str, Any]) -> bool:
    scale, _ = details["quantization"]
    return bool(scale) and np.issubdtype(details["dtype"], np.integer)


def quantize(array: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """Returns an array as the integers of a quantized LiteRT tensor, or cast to its dtype."""
    dtype, (scale, zero_point) = details["dtype"], details["quantization"]
    if not _is_quantized(details):
        return array.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(array / scale) + zero_point, limits.min, limits.max).astype(dtype)


def dequantize(array: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """Returns the floats that the integers of a quantized LiteRT tensor stand for."""
    scale, zero_point = details["quantization"]
    return (array.astype("float32") - zero_point) * scale if _is_quantized(details) else array


# ONNX types whose names differ from NumPy's.
ONNX_TYPES: dict[str, Any] = {"float": "float32", "double": "float64", "string": object}


def _load_onnx(path: Path, threads: int | None) -> Parts:
    runtime = require("onnxruntime", "export", "export.load")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0: all cores
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = [_onnx_tensor(node) for node in sorted(session.get_inputs(), key=lambda x: x.name)]
    outputs = sorted(node.name for node in session.get_outputs())

    def run(arrays: Arrays) -> Arrays:
        names = (tensor.name for tensor in inputs)
        return session.run(outputs, dict(zip(names, arrays, strict=True)))

    return inputs, outputs, run


def _onnx_tensor(node: Any) -> Tensor:
    word = node.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return Tensor(node.name, shape, np.dtype(ONNX_TYPES.get(word, word)))


def _load_hub(path: Path) -> Parts:
    import tensorflow as tf

    regular_below(path)  # opening a pipe may never end
    return signature_parts(tf.saved_model.load(str(path)))


def signature_parts(loaded: Any) -> Parts:
    """Returns the inputs, outputs and function of a loaded SavedModel's `serving_default`."""
    import tensorflow as tf

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
        found = loaded.signatures[SIGNATURE](**tensors)  # keeps `loaded`, which owns the weights
        return [found[name].numpy() for name in outputs]

    return inputs, outputs, run


def load_parts(kind: str, path: Path, threads: int | None = None) -> Parts:
    """Loads a SavedModel ("hub"), a LiteRT file or an ONNX file.

    Args:
        kind: "hub", "litert" or "onnx".
        path: The folder or file.
        threads: The number of threads; by default that of `LITERT_THREADS` for LiteRT, and all
            cores for ONNX. TensorFlow has one pool of threads for the whole process.
    """
    if kind == "litert":
        return _load_litert(path, threads or LITERT_THREADS)
    return _load_onnx(path, threads) if kind == "onnx" else _load_hub(path)


def run_by_name(parts: Parts, inputs: Sequence[str]) -> Callable[[Arrays], NamedArrays]:
    """Returns a function from arrays in the order of `inputs` to arrays by output name.

    Args:
        parts: A loaded artifact.
        inputs: The names of its inputs, in the order of the arrays.
    """
    tensors, outputs, run = parts

    def run_named(arrays: Arrays) -> NamedArrays:
        named = dict(zip(inputs, arrays, strict=True))
        found = run([named[tensor.name] for tensor in tensors])
        return dict(zip(outputs, found, strict=True))

    return run_named


def checked_runner(
    kind: str, path: Path, model: str, inputs: Sequence[str]
) -> Callable[[Arrays], NamedArrays]:
    """Loads a new artifact as a function like the one that `run_by_name` returns.

    Args:
        kind: "litert" or "onnx".
        path: The file.
        model: The name of the model that was converted, for the message.
        inputs: The names of its inputs, in the order of the arrays.

    Raises:
        ValueError: If the runtime cannot load or run the file.
    """
    try:
        run = run_by_name(load_parts(kind, path), inputs)
    except Exception as error:  # each runtime has several types
        raise _cannot_run(kind, model, error) from error

    def run_checked(arrays: Arrays) -> NamedArrays:
        try:
            return run(arrays)
        except Exception as error:
            raise _cannot_run(kind, model, error) from error

    return run_checked


def _cannot_run(kind: str, model: str, error: Exception) -> ValueError:
    return ValueError(f"{RUNTIMES[kind]} cannot run the converted model {model!r}: {error}")
