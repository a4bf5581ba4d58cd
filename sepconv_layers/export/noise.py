"""The report of a quantized file: how far each of its tensors is from the float file's."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sepconv_layers import tables
from sepconv_layers.convert.report import LayerReport
from sepconv_layers.export.inputs import Arrays
from sepconv_layers.export.origins import Origins
from sepconv_layers.export.quantizer import float_steps, steps
from sepconv_layers.export.tensors import AllTensors, constants
from sepconv_layers.files import write_text

MEASURED = 32  # samples to run both files with


@dataclasses.dataclass(frozen=True)
class TensorNoise:
    """What quantization did to a tensor.

    Attributes:
        layer: Path of the layer in the model.
        operator: The operator of the file that writes the tensor, or reads it if it is a kernel.
        tensor: "output" or "kernel".
        dtype: Type of the tensor in the file, such as "int8" or "float32".
        mse: Mean squared difference from the tensor of the float file, in its units.
        snr_db: Signal-to-noise ratio, the mean square of the float file's tensor divided by `mse`,
            in decibels; `None` if the tensors are equal. The noise of an output includes that of
            its inputs.
    """

    layer: str
    operator: str
    tensor: str
    dtype: str
    mse: float
    snr_db: float | None


@dataclasses.dataclass(frozen=True)
class QuantizationReport(LayerReport[TensorNoise]):
    """The noise of quantization, a sequence of `TensorNoise`; `print` shows it as a table.

    Attributes:
        name: Name of the model.
        quantize: The kind of quantization.
        layers: One row for each output of an operator and each kernel, the lowest SNR first.
        samples: Number of samples that the outputs were measured on.
        loss: For "auto", the loss in points on held-out samples, as `to_litert` says; else `None`.
        kinds: For "auto", the kind of each layer by its path, "float32" included; else empty.
        notes: Further findings, one sentence each.
    """

    name: str
    quantize: str
    layers: tuple[TensorNoise, ...]
    samples: int
    loss: float | None = None
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Returns the report as a JSON object, with `null` for the SNR of equal tensors."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    def save(self, directory: str | os.PathLike) -> None:
        """Writes `report.json` and `report.md`.

        Each file is written beside its target and then renamed. Other files stay untouched.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "report.json", self.to_json())
        title = f"# {self.name}: {self.quantize}, on {self.samples} samples"
        write_text(folder / "report.md", f"{title}\n\n{self.to_markdown()}\n")

    def _rows(self) -> list[tables.Cells]:
        header = "layer|operator|tensor|dtype|MSE|SNR (dB)"
        rows = [
            [
                row.layer,
                row.operator,
                row.tensor,
                row.dtype,
                f"{row.mse:.3g}",
                "–" if row.snr_db is None else f"{row.snr_db:.1f}",
            ]
            for row in self
        ]
        return [header.split("|"), *rows]


def measured_noise(
    floats: bytes, content: bytes, inputs: Sequence[str], arrays: Arrays, origins: Origins
) -> tuple[TensorNoise, ...]:
    """Runs a float file and a quantized one, and compares the tensors of the same name.

    Args:
        floats: The float file, as the converter returns it.
        content: The quantized file, with the names of its tensors.
        inputs: The names of the inputs, in the order of the arrays.
        arrays: Samples.
        origins: The layers of the model.

    Returns:
        A row for each tensor, the lowest SNR first.
    """
    reference, file = AllTensors(floats, inputs), AllTensors(content, inputs)
    found = {name for step in steps(content) for name in step.outputs}
    written = {
        name: step.kind
        for step in steps(floats)
        for name in step.outputs
        # A second conversion may have folded another part of the graph.
        if name in found and _is_comparable(reference.details[name], file.details[name])
    }
    sums = {name: np.zeros(2) for name in written}
    sizes = dict.fromkeys(written, 0)
    for _ in zip(reference.runs(arrays), file.runs(arrays), strict=True):
        for name in written:
            expected = reference.value(name).astype("float64")
            sums[name] += _powers(expected, file.value(name))
            sizes[name] += expected.size
    rows = [
        _row(origins, kind, "output", name, file.details[name]["dtype"], sums[name], sizes[name])
        for name, kind in written.items()
    ]
    kernels, rounded = constants(floats), constants(content)
    seen = set()
    for step in steps(floats):
        for name in step.inputs[:2]:
            if name in kernels and name in rounded and name not in seen:
                (expected, _), (value, dtype) = kernels[name], rounded[name]
                if expected.ndim > 1 and expected.shape == value.shape and expected.size > 1:
                    seen.add(name)
                    powers = _powers(expected, value)
                    place = step.outputs[0]
                    row = _row(origins, step.kind, "kernel", place, dtype, powers, expected.size)
                    rows.append(row)
    return tuple(sorted(rows, key=lambda row: math.inf if row.snr_db is None else row.snr_db))


def _is_comparable(reference: Mapping[str, Any], details: Mapping[str, Any]) -> bool:
    is_float = reference["dtype"] == np.float32
    return is_float and np.array_equal(reference["shape"], details["shape"])


def _powers(expected: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The sums of the squares of a tensor and of the difference from it."""
    return np.array([np.square(expected).sum(), np.square(expected - value).sum()])


def _row(
    origins: Origins, operator: str, tensor: str, name: str, dtype: Any, powers: Any, size: int
) -> TensorNoise:
    signal, noise = map(float, powers)
    # A tensor of zeros has no signal: with noise, it is the worst of all.
    ratio = None if noise == 0 else 10 * math.log10(max(signal, 1e-30) / noise)
    kind = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    return TensorNoise(origins.path(name), operator, tensor, kind, noise / max(size, 1), ratio)


def float_note(content: bytes, origins: Origins) -> tuple[str, ...]:
    """Says which operators of a quantized file compute in float32, if any do."""
    found: dict[str, list[str]] = {}
    for step in float_steps(content):
        found.setdefault(step.kind, []).append(origins.path(step.outputs[0]))
    listed = "; ".join(
        f"{kind} in {', '.join(dict.fromkeys(layers))}" for kind, layers in found.items()
    )
    return (f"Operators in float32: {listed}.",) if listed else ()
