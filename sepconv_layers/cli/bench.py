"""`sepconv bench`: times of models and artifacts that take turns in one process."""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import keras

from sepconv_layers import cost, export, tables, timing
from sepconv_layers.cli.inputs import HDF5, first_line, load_model
from sepconv_layers.cli.options import (
    add_command,
    add_input_shape,
    positive_integer,
    positive_number,
)
from sepconv_layers.cli.outputs import versions_line
from sepconv_layers.cli.profile import profile_quietly

Calls = dict[tuple[Path, str], Callable[[], Any]]  # by path and mode

DESCRIPTION = "time models and artifacts, which take turns in one process"
EXAMPLES = """examples:
  sepconv bench separable.keras standard.keras
  sepconv bench net.keras net.tflite net.onnx net-hub --batch-size 8
  KERAS_BACKEND=jax sepconv bench net.keras

All models take turns in one process, on random numbers, each in all modes of the Keras backend.
LiteRT runs the samples of a batch one by one. Most of the time of a small Keras model at batch 1 is
overhead of Python: `export.compiled(model)` returns it as a function on the fastest engine.
"""


def add_to(commands: Any) -> None:
    """Adds the subcommand."""
    command = add_command(commands, "bench", DESCRIPTION, EXAMPLES, run)
    command.add_argument(
        "models",
        nargs="+",
        metavar="model",
        type=Path,
        help="a .keras, .tflite or .onnx file, or the folder of a SavedModel",
    )
    add_input_shape(command)
    command.add_argument(
        "--batch-size", metavar="N", type=positive_integer, default=1, help="default: 1"
    )
    command.add_argument(
        "--seconds",
        metavar="S",
        type=positive_number,
        default=1.0,
        help="measuring time for each model in each mode; default: 1",
    )


def run(arguments: argparse.Namespace) -> None:
    """Prints the median times of all models, and how much of the MAC saving becomes speed-up."""
    calls: Calls = {}
    profiles: dict[Path, cost.Profile] = {}
    notes: list[str] = []
    for path in dict.fromkeys(arguments.models):
        if path.suffix in (".keras", *HDF5):
            new_calls, failures, profiles[path] = _keras_calls(path, arguments)
            notes += failures
        else:
            new_calls = _artifact_call(path, arguments)
        calls |= new_calls
    times = timing.medians(calls, arguments.seconds)
    best = {path: min(ms for (of, _), ms in times.items() if of == path) for path, _ in times}
    first = next(iter(best.values()))
    print(f"{timing.device()}; Keras backend {keras.backend.backend()}; {versions_line()}")
    print(f"Median milliseconds per call, batch {arguments.batch_size}, in turns in one process.\n")
    rows = [
        (str(path), mode, f"{ms:.3f}", f"{ms / first:.2f}") for (path, mode), ms in times.items()
    ]
    print(tables.text([("model", "mode", "ms", "÷ first"), *rows], text_columns=2))
    for line in (*notes, *_speedups(profiles, best)):
        print(f"\n{line}")


def _keras_calls(
    path: Path, arguments: argparse.Namespace
) -> tuple[Calls, list[str], cost.Profile]:
    """Calls of a Keras model in the modes that it runs in, its failures, and its profile."""
    calls: Calls = {}
    for mode, jit_compile in timing.MODES[keras.backend.backend()].items():
        model = load_model(path)
        export.check_model(model)
        model.jit_compile = jit_compile
        inputs = _random_inputs(path, model, arguments)
        calls[path, mode] = partial(model.predict_on_batch, inputs)
    running, errors = timing.runnable(calls)
    failures = [
        f"{path} cannot run in the mode {mode}: {first_line(error)}"
        for (_, mode), error in errors.items()
    ]
    if not running:
        raise ValueError(". ".join(failures))
    shapes = keras.tree.map_structure(lambda array: array.shape[1:], inputs)
    return running, failures, profile_quietly(model, shapes)


def _artifact_call(path: Path, arguments: argparse.Namespace) -> Calls:
    """The call of an artifact."""
    artifact = export.load(path)
    threads = f", {export.LITERT_THREADS} threads" if artifact.kind == "litert" else ""
    inputs = _random_inputs(path, artifact, arguments)
    return {(path, f"{artifact.kind}{threads}"): partial(artifact, inputs)}


def _random_inputs(path: Path, model: Any, arguments: argparse.Namespace) -> Any:
    """Random inputs of the sizes that the model or the command line gives."""
    expected = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    shapes = arguments.input_shape or expected
    if len(shapes) != len(expected) or any(None in shape for shape in shapes):
        raise ValueError(
            f"{path} takes inputs of the shapes {expected}. Give their sizes by --input-shape, "
            "without the batch, once for each input"
        )
    return export.random_inputs(model, arguments.batch_size, shapes)


def _speedups(profiles: dict[Path, cost.Profile], best: dict[Path, float]) -> Iterator[str]:
    """How much of the MAC saving becomes speed-up, for the first Keras model and each other."""
    paths = list(profiles)
    for other in paths[1:]:
        small, large = sorted((paths[0], other), key=lambda path: profiles[path].macs)
        if any(profiles[path].uncounted or not profiles[path].macs for path in (small, large)):
            yield f"The MACs of {small} and {large} cannot all be counted."
            continue
        ratio = profiles[large].macs / profiles[small].macs
        speedup = best[large] / best[small]
        yield (
            f"{small} has {ratio:.2f} times fewer MACs than {large} and is {speedup:.2f} times as "
            f"fast, each in its fastest mode ({speedup / ratio:.0%} of that)."
        )
