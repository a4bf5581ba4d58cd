"""A model as a function of arrays on the fastest engine at hand."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers import timing
from sepconv_layers.arguments import positive_int
from sepconv_layers.export.artifact import TOLERANCE
from sepconv_layers.export.checks import check_model
from sepconv_layers.export.inputs import Arrays, array_dtype, has_sizes, sample_for
from sepconv_layers.export.litert import to_litert
from sepconv_layers.export.names import input_names, output_names, output_structure
from sepconv_layers.export.onnx import names_in_file, to_onnx
from sepconv_layers.export.runtimes import ArrayFunction, load_parts, run_by_name

ENGINES: Mapping[str, Callable[..., Any]] = {"litert": to_litert, "onnx": to_onnx}


@dataclasses.dataclass(frozen=True)
class CompiledModel:
    """A model on one engine: a function from a batch of inputs to arrays.

    Attributes:
        engine: "litert", "onnx", or "keras" and a mode of the backend, such as "keras, graph".
        latency_ms: Median milliseconds of a call with the sample on each engine that can run the
            model, all measured in turns.
        skipped: Why each other engine cannot run it.
        model: The Keras model.
        run: The function from a list of arrays to a list of arrays, without checks.
    """

    engine: str
    latency_ms: Mapping[str, float]
    skipped: Mapping[str, str]
    model: keras.Model = dataclasses.field(repr=False)
    run: ArrayFunction = dataclasses.field(repr=False)
    _expected: Any = dataclasses.field(init=False, repr=False)
    _structure: Any = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        # What would take longer in each call than a small model.
        inputs = self.model.inputs
        expected = (inputs[0].shape, array_dtype(inputs[0])) if len(inputs) == 1 else None
        object.__setattr__(self, "_expected", expected)
        structure = output_structure(self.model)
        is_nested = keras.tree.is_nested(structure)
        object.__setattr__(self, "_structure", structure if is_nested else None)

    def __call__(self, inputs: Any) -> Any:
        """Returns the outputs as NumPy arrays, in the structure that the model returns.

        Args:
            inputs: A batch in the structure that the model takes.
        """
        arrays = [inputs] if self._fits(inputs) else sample_for(self.model, inputs, "inputs")
        outputs = self.run(arrays)
        if self._structure is None:
            return outputs[0]
        return keras.tree.pack_sequence_as(self._structure, outputs)

    def _fits(self, inputs: Any) -> bool:
        """Whether this is an array for a model of one input, which needs no conversion."""
        if self._expected is None or not isinstance(inputs, np.ndarray):
            return False
        shape, dtype = self._expected
        return inputs.dtype == dtype and has_sizes(inputs.shape, shape) and len(inputs) > 0


def compiled(
    model: keras.Model,
    sample: Any = None,
    threads: int | None = None,
    tolerance: float | None = TOLERANCE,
) -> CompiledModel:
    """Returns a trained model as a function on the fastest engine at hand.

    In a call with one sample, a small Keras model spends most of its time in Python: `predict`
    takes several milliseconds, `predict_on_batch` about one, and an engine for files a tenth of
    that. This exports the model to temporary LiteRT and ONNX files, compares each with the model,
    times them and the modes of the Keras backend in turns, and keeps the fastest one.

    Other engines than Keras have the weights of the moment: call this again after training.

    Args:
        model: The model.
        sample: A batch of inputs to compare and time with, as large as the batches in use. By
            default one sample of random numbers, which only a model without open sizes can take.
        threads: The number of threads for LiteRT and ONNX; by default 2 for LiteRT, and as many as
            there are cores for ONNX.
        tolerance: Largest difference to allow between the model and an engine, relative to the
            largest absolute output (or to 1, if that is less); `None` for any.

    Returns:
        A `CompiledModel`, which takes the inputs of the model and returns its outputs as arrays.

    Raises:
        ValueError: If the model has unknown inputs, or `sample` does not fit it or is missing where
            sizes are open.

    Example:
        >>> import keras, numpy as np
        >>> from sepconv_layers import SeparableConvBlock2D, export
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), SeparableConvBlock2D(4)])
        >>> fast = export.compiled(model)
        >>> x = np.ones((1, 8, 8, 3), "float32")
        >>> np.allclose(fast(x), model(x), atol=1e-5)
        True
        >>> fast.latency_ms[fast.engine] == min(fast.latency_ms.values())
        True
    """
    check_model(model)
    if threads is not None:
        threads = positive_int(threads, "threads")
    arrays = sample_for(model, sample)
    if sample is None:
        arrays = [array[:1] for array in arrays]
    functions: dict[str, ArrayFunction] = {}
    skipped: dict[str, str] = {}
    # The files may be mapped into memory: where that forbids to delete them, they stay.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for engine in ENGINES:
            try:
                functions[engine] = _from_file(
                    engine, model, Path(folder) / f"model.{engine}", arrays, threads, tolerance
                )
            except (ImportError, ValueError) as error:
                skipped[engine] = str(error)
        functions |= dict(_in_keras(model))
        calls = {engine: partial(run, arrays) for engine, run in functions.items()}
        running, errors = timing.runnable(calls)
    skipped |= {engine: str(error) for engine, error in errors.items()}
    if not running:
        raise next(iter(errors.values()))
    times = timing.medians(running)
    fastest = min(times, key=lambda engine: times[engine])
    return CompiledModel(fastest, times, skipped, model, functions[fastest])


def _from_file(
    engine: str,
    model: keras.Model,
    path: Path,
    sample: Arrays,
    threads: int | None,
    tolerance: float | None,
) -> ArrayFunction:
    """Exports a model, checks the file, and returns it as a function."""
    ENGINES[engine](model, path, sample=sample, tolerance=tolerance)
    inputs, outputs = input_names(model), output_names(model)
    if engine == "onnx":
        outputs = names_in_file(inputs, outputs)
    run = run_by_name(load_parts(engine, path, threads), inputs)

    def in_order(arrays: Arrays) -> Arrays:
        found = run(arrays)
        return [found[name] for name in outputs]

    return in_order


def _in_keras(model: keras.Model) -> Iterator[tuple[str, ArrayFunction]]:
    """Yields the function in each mode of the backend; the model itself stays as it is."""
    for mode, jit_compile in timing.MODES[keras.backend.backend()].items():
        same = keras.Model(model.inputs, model.outputs)
        same.jit_compile = jit_compile

        def run(arrays: Arrays, same: keras.Model = same) -> Arrays:
            return [np.asarray(y) for y in keras.tree.flatten(same.predict_on_batch(arrays))]

        yield f"keras, {mode}", run
