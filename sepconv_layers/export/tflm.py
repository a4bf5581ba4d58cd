"""Runs quantized LiteRT files in TensorFlow Lite Micro, and in LiteRT's reference kernels.

Arrays here are those of the file: integers, one for each input or output, in the file's order.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sepconv_layers.export import tflm_worker
from sepconv_layers.export.inputs import Arrays
from sepconv_layers.export.runtimes import SIGNATURE, dequantize, quantize


class TflmError(Exception):
    """TensorFlow Lite Micro cannot run a file; holds what it printed."""


class TflmRun(NamedTuple):
    """The outputs of a run in TensorFlow Lite Micro, its arena, and its time for one sample."""

    outputs: Arrays
    arena_bytes: int
    latency_ms: float


def run_in_tflm(path: Path, arrays: Arrays) -> TflmRun:
    """Finds the smallest arena that a file runs in, and runs all samples in it.

    Raises:
        TflmError: If it runs in no arena.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(inputs, *arrays)
        command = [sys.executable, tflm_worker.__file__, *map(str, (path, inputs, outputs))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise TflmError(done.stderr)
        with np.load(outputs) as found:
            arrays = [found[f"arr_{index}"] for index in range(len(found.files))]
    return TflmRun(arrays, **json.loads(done.stdout))


class ReferenceKernels:
    """A quantized LiteRT file in LiteRT's reference kernels, which optimize nothing.

    Args:
        path: The file.

    Attributes:
        inputs: The details of each input, in the file's order.
        outputs: The details of each output, in the file's order.
        input_names: The names of the inputs, in the file's order.
        output_names: The names of the outputs, in the file's order.
    """

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self.interpreter = Interpreter(
            str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_REF
        )
        self.interpreter.allocate_tensors()
        self.inputs = self.interpreter.get_input_details()
        self.outputs = self.interpreter.get_output_details()
        signature = self.interpreter.get_signature_runner(SIGNATURE)
        self.input_names = _names(self.inputs, signature.get_input_details())
        self.output_names = _names(self.outputs, signature.get_output_details())

    def quantized(self, named: Mapping[str, np.ndarray]) -> Arrays:
        """Returns the model's inputs as the file's."""
        pairs = zip(self.input_names, self.inputs, strict=True)
        return [quantize(named[name], details) for name, details in pairs]

    def dequantized(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """Returns the file's outputs as the model's."""
        triples = zip(self.output_names, arrays, self.outputs, strict=True)
        return {name: dequantize(array, details) for name, array, details in triples}

    def run(self, arrays: Arrays) -> Arrays:
        """Runs all samples."""
        found = []
        for index in range(len(arrays[0])):
            for details, array in zip(self.inputs, arrays, strict=True):
                self.interpreter.set_tensor(details["index"], array[index : index + 1])
            self.interpreter.invoke()
            found.append([self.interpreter.get_tensor(out["index"]) for out in self.outputs])
        return [np.concatenate(outputs) for outputs in zip(*found, strict=True)]


def _names(details: Sequence[Mapping[str, Any]], named: Mapping[str, Any]) -> list[str]:
    names = {entry["index"]: name for name, entry in named.items()}
    return [names[entry["index"]] for entry in details]
