"""Loads artifacts as functions of arrays, without the model that they were exported from."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sepconv_layers.export.inputs import Arrays, check_keys, has_sizes
from sepconv_layers.export.runtimes import LOADERS, ArrayFunction, Tensor

SUFFIXES = {".tflite": "litert", ".onnx": "onnx"}


@dataclasses.dataclass(frozen=True)
class LoadedArtifact:
    """An artifact as a function from a batch of inputs to a list of output arrays.

    Several inputs are passed as a list sorted by name, or as a dictionary. Several outputs are
    sorted by name, the only order that all kinds of artifacts keep.

    Attributes:
        path: The file or folder.
        kind: "hub", "litert" or "onnx".
        inputs: Its inputs, sorted by name.
        outputs: The names of its outputs, sorted.
        run: The function from a list of arrays to a list of arrays, without checks.
    """

    path: Path
    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    run: ArrayFunction = dataclasses.field(repr=False)

    def __call__(self, inputs: Any) -> Arrays:
        return self.run(self._arrays(inputs))

    def _arrays(self, inputs: Any) -> Arrays:
        names = [tensor.name for tensor in self.inputs]
        if isinstance(inputs, Mapping):
            check_keys("inputs", names, inputs)
            inputs = [inputs[name] for name in names]
        elif len(names) == 1 and not _is_list_of_one_batch(inputs, self.inputs[0]):
            inputs = [inputs]
        arrays = [np.asarray(array) for array in inputs]
        fits = len(arrays) == len(names) and all(
            _fits(array, tensor) for array, tensor in zip(arrays, self.inputs, strict=True)
        )
        if not fits or len({len(array) for array in arrays}) > 1 or not len(arrays[0]):
            raise ValueError(
                "The `inputs` argument must be a batch for "
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
    """Whether known sizes are equal, and the cast of the array rounds no floats to integers."""
    return (
        array.ndim > 0
        and has_sizes(array.shape, tensor.shape)
        and (tensor.dtype.kind not in "iub" or array.dtype.kind in "iub")
        and (tensor.dtype.kind == "O") == (array.dtype.kind in "OSU")
    )


def _described(tensor: Tensor) -> str:
    dtype = "strings" if tensor.dtype.kind == "O" else tensor.dtype.name
    return f"{tensor.name!r} of shape {tensor.shape} and dtype {dtype}"


def load(path: str | os.PathLike) -> LoadedArtifact:
    """Loads an artifact of `to_hub`, `to_litert` or `to_onnx`, or another one of these formats.

    It needs neither the model nor its code, works on every Keras backend, and runs no Python code
    from the artifact. Several threads may call the result; calls of a LiteRT file take turns. A
    LiteRT file takes one sample at a time, so a batch runs sample by sample, and int8 inputs and
    outputs are quantized and dequantized with the scales in the file.

    Args:
        path: The folder of a SavedModel with the signature `serving_default`, a `.tflite` file, or
            an `.onnx` file.

    Returns:
        A `LoadedArtifact`, a function from a batch of inputs to a list of output arrays. Pass one
        input as an array, and several as a list sorted by name or as a dictionary. The outputs are
        sorted by name; the attributes `inputs` and `outputs` hold the names.

    Raises:
        ImportError: If the package that runs the artifact is missing.
        ValueError: If there is no such artifact, or it cannot be loaded. The function raises it if
            the inputs do not fit.

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
    if kind is None or not (kind == "hub" or path.is_file()):  # reading a pipe may never end
        fix = " Load it with `keras.saving.load_model`." if path.suffix == ".keras" else ""
        raise ValueError(
            f"The `path` argument must be {expected}. Received: path={str(path)!r}, which is "
            f"{'none of these' if os.path.lexists(path) else 'not there'}.{fix}"
        )
    try:
        inputs, outputs, run = LOADERS[kind](path)
    except ImportError:
        raise
    except Exception as error:  # each runtime has several types
        raise ValueError(
            f"The `path` argument must be {expected}. Received: path={str(path)!r}, which cannot "
            f"be loaded: {error}. It may be truncated or of another format: export it again."
        ) from error
    return LoadedArtifact(path, kind, tuple(inputs), tuple(outputs), run)
