"""Exports models to microcontrollers: an int8 file as a C array, run in TensorFlow Lite Micro."""

import collections
import dataclasses
import json
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers.cost import profile
from sepconv_layers.export import c_sources
from sepconv_layers.export.artifact import (
    FOLDERS,
    Artifact,
    check_path,
    compare_outputs,
    keep_others,
)
from sepconv_layers.export.calibration import (
    calibration_batches,
    check_calibration,
    fixed_shapes,
)
from sepconv_layers.export.checks import check_arguments
from sepconv_layers.export.conversion import Conversion
from sepconv_layers.export.errors import micro_error
from sepconv_layers.export.flatbuffer import finalize, operators
from sepconv_layers.export.graph import ExportGraph
from sepconv_layers.export.inputs import Arrays, sample_for
from sepconv_layers.export.npu import npu_estimate
from sepconv_layers.export.quantizer import PACKAGE
from sepconv_layers.export.tflm import ReferenceKernels, TflmError, TflmRun, run_in_tflm
from sepconv_layers.export.variables import States, in_turn, internal_states
from sepconv_layers.extras import require
from sepconv_layers.files import write
from sepconv_layers.graph_edit import input_structure
from sepconv_layers.quantize.insertion import is_aware

LARGEST_SAMPLE = 32  # samples of the calibration to run, if no others are given
# Between two runtimes, an operator may round to the other neighbor, and deep nets multiply that. A
# kernel that is wrong differs by far more.
LARGEST_STEPS = 8
MODEL_FILE, HEADER_FILE, DATA_FILE, MAIN_FILE, REPORT_FILE = FOLDERS["micro"][1]
PACKAGES = ("sepconv-layers", "tflite-micro", "ethos-u-vela")


@dataclasses.dataclass(frozen=True)
class MicroArtifact(Artifact):
    """A model for a microcontroller, and how it ran in TensorFlow Lite Micro.

    Attributes:
        flash_bytes: Size of the model in flash, without the runtime's code.
        arena_bytes: Size of the smallest arena that it runs in, to 64 bytes: RAM for activations
            and the runtime's own data. It is that of a machine with pointers of 64 bits, so a
            microcontroller with 32 bits needs no more.
        operators: The kinds of operators, in LiteRT's names, and how often each occurs.
        macs: Multiply-accumulates of one sample, by `profile`.
        litert_steps: Largest difference of an integer output from LiteRT's reference kernels.
        npu: Arm's estimate for an Ethos-U55 NPU with 128 MACs per cycle: the `operator_share` that
            it runs and its `cycles`. `None` without the package `ethos-u-vela`.
    """

    flash_bytes: int
    arena_bytes: int
    operators: dict[str, int]
    macs: int
    litert_steps: int
    npu: dict[str, Any] | None


def to_micro(
    model: keras.Model,
    folder: str | os.PathLike,
    calibration: Any = None,
    sample: Any = None,
    labels: Sequence[str] | None = None,
    tolerance: float | None = None,
    states: str = "explicit",
) -> MicroArtifact:
    """Exports a model to C++ sources for TensorFlow Lite Micro, the runtime of microcontrollers.

    Weights, activations, inputs and outputs are int8; inputs and outputs of integers, such as
    tokens, stay as they are. The file runs in TensorFlow Lite Micro on this machine, in the
    smallest arena that it fits in. The folder holds:

    - `model.tflite`, the int8 file, which `load` runs too;
    - `model.cc` and `model.h`: the same bytes as an array, with the size of the arena, scales and
      zero points, and labels;
    - `main.cc`: a program that registers the operators of the model and runs it;
    - `report.json`: the record, with names, shapes, scales and zero points.

    Args:
        model: The model, of which the file is made as by `to_litert`.
        folder: The folder to write. An older export there is replaced only if the new one passes
            the check, `main.cc` included, and other files in it stay.
        calibration: About a hundred typical inputs, which set the range of each activation: a
            batch, or an iterable of batches, as for `to_litert`. A model of `quantize.aware` takes
            none: it has learned its ranges.
        sample: A batch of inputs to run the file with. Where the model has open sizes, the file
            gets the sample's. By default the first 32 samples of the calibration.
        labels: Names of the classes, in the order of the outputs.
        tolerance: Largest difference to allow between the model and the file, relative to the
            largest absolute output (or to 1, if that is less); `None` for any.
        states: For the `model` of `streaming.to_streaming`, as in `to_litert`: `"explicit"` for
            states as inputs and outputs, or `"internal"` for variables of the runtime.

    Returns:
        A `MicroArtifact`.

    Raises:
        ImportError: If a package of the extra `micro` is missing.
        ValueError: If an argument is invalid, the backend is not TensorFlow, TensorFlow Lite Micro
            lacks an operator of the model, or an output differs by more than the tolerance from the
            model's, or by more than eight steps from that of LiteRT's reference kernels. An older
            export in `folder` then stays.

    Example:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from sepconv_layers import SeparableConvBlock1D, export
        >>> model = keras.Sequential([keras.Input((9, 4)), SeparableConvBlock1D(8)])
        >>> inputs = np.random.default_rng(0).normal(size=(20, 9, 4))
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     folder = os.path.join(parent, "net")
        ...     artifact = export.to_micro(model, folder, inputs)  # doctest: +SKIP
        >>> artifact.arena_bytes  # doctest: +SKIP
        2368

    Reference:
        [David et al., "TensorFlow Lite Micro: Embedded Machine Learning on TinyML Systems",
        2020](https://arxiv.org/abs/2010.08678).
    """
    names = check_arguments("export.to_micro", model, labels)
    require("ai_edge_litert.interpreter", "micro", "export.to_micro")
    require("tflite_micro", "micro", "export.to_micro")
    pairs = internal_states(model, states)
    path = Path(folder)
    check_path(path, "micro", "folder")
    check_calibration(model, "int8", calibration)
    if calibration is not None:
        require(PACKAGE, "micro", "export.to_micro")
    batches = [] if calibration is None else calibration_batches(model, calibration)
    if sample is None and batches:
        sample = [array[:LARGEST_SAMPLE] for array in batches[0]]
    arrays = sample_for(model, sample)
    graph = ExportGraph(model, fixed_shapes(arrays, batches))
    content = Conversion(graph, batches).content("int8", quantize_io=True)
    found: dict[str, Any] = {}

    def write_and_check(beside: Path) -> None:
        beside.mkdir()
        _write_file(beside / MODEL_FILE, graph, content, pairs)
        kernels = ReferenceKernels(beside / MODEL_FILE)
        found.update(
            _measured(beside / MODEL_FILE, graph, content, kernels, arrays, tolerance, pairs)
        )
        _write_sources(beside, graph, kernels, names, found, len(pairs))
        if path.is_dir():
            keep_others(path, beside, "micro")

    write(path, write_and_check)
    return MicroArtifact(path=path, kind="micro", bytes=found["flash_bytes"], **found)


def _write_file(path: Path, graph: ExportGraph, content: bytes, states: States) -> None:
    """Writes the LiteRT file, without labels, which would only take flash in it."""
    inputs = [spec.name for spec in graph.specs]
    learned = is_aware(graph.model)
    path.write_bytes(
        finalize(content, graph.model.name, inputs, graph.outputs, [], learned, states)
    )


def _measured(
    file: Path,
    graph: ExportGraph,
    content: bytes,
    kernels: ReferenceKernels,
    sample: Arrays,
    tolerance: float | None,
    states: States,
) -> dict[str, Any]:
    """Runs the file; returns the fields of the record that say how."""
    names = [spec.name for spec in graph.specs]
    reference = in_turn(graph.reference, states, names) if states else graph.reference
    inputs = kernels.quantized(dict(zip(names, sample, strict=True)))
    try:
        run = run_in_tflm(file, inputs)
    except TflmError as error:
        raise micro_error(graph, operators(content), str(error)) from error
    outputs = kernels.dequantized(run.outputs)
    kinds = collections.Counter(operator.kind for operator in operators(file.read_bytes()))
    shapes = [array.shape[1:] for array in sample]
    structure = input_structure(graph.model)
    return {
        "flash_bytes": file.stat().st_size,
        "arena_bytes": run.arena_bytes,
        "operators": dict(sorted(kinds.items())),
        "macs": profile(graph.model, keras.tree.pack_sequence_as(structure, shapes)).macs,
        **compare_outputs("micro", reference(sample), outputs, tolerance),
        "litert_steps": _steps(run, kernels.run(inputs)),
        "latency_ms": round(run.latency_ms, 4),
        "npu": npu_estimate(file),
    }


def _steps(run: TflmRun, expected: Arrays) -> int:
    """Returns the largest difference from LiteRT's reference kernels, in steps of quantization."""
    steps = max(
        int(np.abs(ours.astype("int64") - theirs.astype("int64")).max())
        for ours, theirs in zip(run.outputs, expected, strict=True)
    )
    if steps > LARGEST_STEPS:
        raise ValueError(
            "TensorFlow Lite Micro must agree with LiteRT's reference kernels to "
            f"{LARGEST_STEPS} steps of quantization. Received: a difference of {steps} steps. "
            "Nothing was written."
        )
    return steps


def _write_sources(
    folder: Path,
    graph: ExportGraph,
    kernels: ReferenceKernels,
    labels: Sequence[str],
    found: dict[str, Any],
    variables: int,
) -> None:
    """Writes the C++ sources and the report beside the LiteRT file."""
    inputs = [*map(_entry, kernels.input_names, kernels.inputs)]
    outputs = [*map(_entry, kernels.output_names, kernels.outputs)]
    content, kinds = (folder / MODEL_FILE).read_bytes(), list(found["operators"])
    arena, size = found["arena_bytes"], found["flash_bytes"]
    report = {
        "model": graph.model.name,
        **found,
        "resolver": c_sources.resolver_lines(kinds),
        "inputs": inputs,
        "outputs": outputs,
        "labels": list(labels),
        "versions": _versions(),
    }
    texts = {
        HEADER_FILE: c_sources.header(graph.model.name, inputs, outputs, labels, arena, size),
        DATA_FILE: c_sources.data(content),
        MAIN_FILE: c_sources.main(kinds, inputs, outputs, labels, variables),
        REPORT_FILE: json.dumps(report, indent=2, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")


def _entry(name: str, details: Any) -> dict[str, Any]:
    scale, zero_point = details["quantization"]
    return {
        "name": name,
        "shape": [int(size) for size in details["shape"]],
        "dtype": np.dtype(details["dtype"]).name,
        "scale": float(scale),
        "zero_point": int(zero_point),
    }


def _versions() -> dict[str, str]:
    """Versions of the packages that made and ran the file, where they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # an optional one, or a checkout
            continue
    return found
