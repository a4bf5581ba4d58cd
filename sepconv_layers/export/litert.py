"""Exports models to LiteRT files for phones and microcontrollers, quantized or not."""

import dataclasses
import functools
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import keras

from sepconv_layers.export.artifact import (
    TOLERANCE,
    Artifact,
    Runner,
    check_path,
    export_checked,
    latency_ms,
)
from sepconv_layers.export.calibration import (
    AUTO,
    LARGEST_SAMPLE,
    calibration_batches,
    check_calibration,
    fixed_shapes,
    halves,
    validation_of,
)
from sepconv_layers.export.checks import check_arguments
from sepconv_layers.export.conversion import Conversion
from sepconv_layers.export.flatbuffer import finalize
from sepconv_layers.export.graph import ExportGraph
from sepconv_layers.export.inputs import Arrays, sample_for
from sepconv_layers.export.mixed import Judge, Mix, smallest
from sepconv_layers.export.noise import (
    MEASURED,
    QuantizationReport,
    float_note,
    measured_noise,
)
from sepconv_layers.export.origins import Origins
from sepconv_layers.export.quantizer import INTEGERS, PACKAGE
from sepconv_layers.export.runtimes import checked_runner
from sepconv_layers.export.variables import in_turn, internal_states
from sepconv_layers.extras import require
from sepconv_layers.quantize.insertion import is_aware

# The default tolerance of each kind; `None` where only the user can judge the difference.
QUANTIZE: dict[str | None, float | None] = {
    None: TOLERANCE,
    "float16": 1e-2,
    "dynamic": None,
    **dict.fromkeys(INTEGERS),
    AUTO: None,
}
SLOWER = 3.0  # "dynamic" warns from this multiple of the float32 latency
MAX_LOSS = 0.2  # points that "auto" may lose, if the user states none


@dataclasses.dataclass(frozen=True)
class LitertArtifact(Artifact):
    """A LiteRT file, and how it ran.

    Attributes:
        report: The noise of each tensor, a `QuantizationReport`, measured when it is first asked
            for; `None` for float32 and float16.
    """

    measure: dataclasses.InitVar[Callable[[], QuantizationReport] | None] = None

    def __post_init__(self, measure: Callable[[], QuantizationReport] | None) -> None:
        object.__setattr__(self, "_measure", measure)

    @functools.cached_property
    def report(self) -> QuantizationReport | None:
        measure: Callable[[], QuantizationReport] | None = vars(self)["_measure"]
        return measure() if measure else None


def to_litert(
    model: keras.Model,
    path: str | os.PathLike,
    quantize: str | None = None,
    calibration: Any = None,
    sample: Any = None,
    labels: Sequence[str] | None = None,
    quantize_io: bool = False,
    tolerance: float | Literal["auto"] | None = "auto",
    states: str = "explicit",
    max_loss: float | None = None,
    validation_data: Any = None,
) -> LitertArtifact:
    """Exports a model to a LiteRT (formerly TensorFlow Lite) file, usually named `.tflite`.

    Batch normalization is folded into the convolutions. The file has built-in operators only, also
    for sequences and volumes, so it runs on the plain interpreter. It takes one sample at a time
    and all its sizes are fixed, as the fast kernels require. Its signature `serving_default` has
    the names of the model's inputs and outputs.

    Args:
        model: The model. The file computes in float32, whatever the model was trained in.
        path: The file to write. An older one is replaced only if the new one passes the check.
        quantize: `None` for float32; `"float16"` for weights of half the size; `"dynamic"` for int8
            weights in kernels of 1,024 values or more, with a warning if they make the model
            several times slower than float32; `"int8"` for int8 weights, with one scale per
            channel, and int8 activations; `"int16x8"` for int8 weights and int16 activations;
            `"int4"` for int8 activations, and weights of 4 bits in convolutions and dense layers,
            but of 8 bits in depthwise and transposed ones; `"auto"` for the smallest file of layers
            in int8, int16x8 and float32 that loses no more than `max_loss`. Operators without such
            a kernel stay in float32; the report names them.
        calibration: For the kinds of integers and `"auto"`, about a hundred typical inputs, which
            set the range of each activation: a batch, or an iterable of batches. A batch is an
            array, or a list or dictionary of arrays for several inputs. Arrays on disk and data
            sets with `len` and `[indices]` are read piece by piece. A model of `quantize.aware` has
            learned its ranges: it needs `"int8"` and takes no calibration.
        sample: A batch of inputs to run the artifact with, one by one. Where the model has open
            sizes, the file gets the sample's. By default samples of the calibration, or random
            numbers.
        labels: Names of the classes, in the order of the outputs. They become `labels.txt` in the
            file's metadata, where MediaPipe looks for them and any ZIP reader finds them.
        quantize_io: For `"int8"`, `"int16x8"` and `"int4"`, whether inputs and outputs have the
            type of the activations too, as microcontrollers need. Their scales and zero points are
            in the tensor details.
        tolerance: Largest difference to allow between the model and the artifact, relative to the
            largest absolute output (or to 1, if that is less); `None` for any. By default 0.001 for
            float32, 0.01 for `"float16"`, and any for the others, where `agreement` says more.
        states: For the `model` of `streaming.to_streaming`. `"explicit"` keeps its states as inputs
            and outputs of the file. With `"internal"`, the file keeps them as variables, and runs
            from chunk to chunk: it starts anew when it is loaded anew.
        max_loss: For `"auto"`, the largest loss in percentage points, 0.2 by default. It is counted
            on held-out samples, and expected on others like them from how close those are to
            another class; both must pass. Without labels, the loss is the share of samples that
            get another class than by the model; with labels, the share that the model gets right
            and the file does not.
        validation_data: For `"auto"`, the held-out samples: inputs, as for `calibration`, or a
            tuple `(inputs, labels)` with the index of each sample's class. A few hundred make the
            expectation reliable. By default, half of the calibration is held out from measuring the
            ranges.

    Returns:
        A `LitertArtifact`.

    Raises:
        ImportError: If a package of the extra `export` is missing.
        ValueError: If an argument is invalid, the backend is not TensorFlow, an operation of the
            model has no built-in operator, or the artifact differs by more than the tolerance. An
            older file at `path` then stays.

    Example:
        >>> import os, tempfile
        >>> from sepconv_layers import SeparableConvBlock1D, export
        >>> model = keras.Sequential([keras.Input((9, 4)), SeparableConvBlock1D(8)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     artifact = export.to_litert(model, os.path.join(folder, "net.tflite"))
        >>> artifact.max_difference < 1e-5
        True

    Reference:
        [Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", 2017](https://arxiv.org/abs/1712.05877).
    """
    names = check_arguments("export.to_litert", model, labels)
    pairs = internal_states(model, states)
    require("ai_edge_litert.interpreter", "export", "export.to_litert")
    _check_quantize(quantize, quantize_io, max_loss, validation_data)
    check_path(Path(path), "litert")
    allowed = QUANTIZE[quantize] if tolerance == "auto" else tolerance
    check_calibration(model, quantize, calibration)
    if calibration is not None:
        require(PACKAGE, "export", "export.to_litert")
    batches = [] if calibration is None else calibration_batches(model, calibration)
    if sample is None and batches:
        sample = [array[:LARGEST_SAMPLE] for array in batches[0]]
    sample = sample_for(model, sample)
    shapes = fixed_shapes(sample, batches)
    graph, is_learned = ExportGraph(model, shapes), is_aware(model)
    if quantize == AUTO:
        if validation_data is None:
            (batches, held_out), classes = halves(batches), None
        else:
            held_out, classes = validation_of(model, validation_data)
            fixed_shapes(sample, held_out, "validation_data")
    conversion = Conversion(graph, batches)
    inputs = conversion.inputs

    def finish(content: bytes) -> bytes:
        return finalize(content, model.name, inputs, graph.outputs, names, is_learned, pairs)

    def load(beside: Path) -> Runner:
        return checked_runner("litert", beside, model.name, inputs)

    mix: Mix | None = None
    if quantize == AUTO:
        judge = Judge(conversion, held_out, classes)
        mix = smallest(conversion, judge, MAX_LOSS if max_loss is None else max_loss)
        content = mix.content
    else:
        content = conversion.content(quantize, quantize_io)
    reference = in_turn(graph.reference, pairs, inputs) if pairs else graph.reference
    artifact = export_checked(
        "litert",
        path,
        reference,
        sample,
        lambda beside: beside.write_bytes(finish(content)),
        load,
        allowed,
    )
    if quantize == "dynamic":
        with tempfile.TemporaryDirectory() as folder:
            beside = Path(folder) / "float.tflite"
            beside.write_bytes(finish(conversion.floats))
            _warn_if_slower(artifact, latency_ms(load(beside), sample))
    measure = None
    if quantize not in (None, "float16"):
        arrays = [array[:MEASURED] for array in sample]
        # Without the conversion itself, which holds the calibration.
        floats, origins = conversion.floats, Origins(graph)
        measure = partial(_report, floats, content, inputs, arrays, origins, str(quantize), mix)
    return LitertArtifact(**vars(artifact), measure=measure)


def _report(
    floats: bytes,
    content: bytes,
    inputs: Sequence[str],
    arrays: Arrays,
    origins: Origins,
    quantize: str,
    mix: Mix | None,
) -> QuantizationReport:
    return QuantizationReport(
        name=origins.graph.model.name,
        quantize=quantize,
        layers=measured_noise(floats, content, inputs, arrays, origins),
        samples=len(arrays[0]),
        loss=None if mix is None else mix.loss.points,
        kinds={} if mix is None else mix.kinds,
        notes=float_note(content, origins) if quantize in INTEGERS else mix.notes if mix else (),
    )


def _check_quantize(
    quantize: str | None, quantize_io: bool, max_loss: float | None, validation_data: Any
) -> None:
    if quantize not in tuple(QUANTIZE):
        raise ValueError(
            f"The `quantize` argument must be one of {tuple(QUANTIZE)}. Received: "
            f"quantize={quantize!r}"
        )
    if quantize_io and quantize not in INTEGERS:
        raise ValueError(
            f"The `quantize_io` argument is for `quantize` in {tuple(INTEGERS)} only. Received: "
            f"quantize_io={quantize_io!r} with quantize={quantize!r}"
        )
    for name, value in (("max_loss", max_loss), ("validation_data", validation_data)):
        if value is not None and quantize != AUTO:
            raise ValueError(
                f"The `{name}` argument is for quantize='auto' only. Received: quantize="
                f"{quantize!r}"
            )
    if max_loss is not None and not (isinstance(max_loss, int | float) and 0 <= max_loss <= 100):
        raise ValueError(
            "The `max_loss` argument must be a number of points from 0 to 100. Received: max_loss="
            f"{max_loss!r}"
        )


def _warn_if_slower(artifact: Artifact, float_ms: float) -> None:
    """Warns if int8 weights cost time, because kernels convert them to floats in each call."""
    if artifact.latency_ms > SLOWER * float_ms:
        warnings.warn(
            f"{artifact.path} takes {artifact.latency_ms:.3f} ms per sample, and the same model "
            f"with float32 weights {float_ms:.3f} ms: quantize='dynamic' saves size here but not "
            "time. quantize=None or 'int8' is faster.",
            stacklevel=3,
        )
