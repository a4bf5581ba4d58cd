"""The command `sepconv`: what a saved model costs, how fast it is, its twins and its artifacts."""

import argparse
import json
import logging
import math
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers import comparison, convert, cost, export, twins
from sepconv_layers.export.checks import SAMPLES, array_dtype, check_model, random_array
from sepconv_layers.export.litert import QUANTIZE
from sepconv_layers.export.runtimes import LITERT_THREADS
from sepconv_layers.files import regular, write
from sepconv_layers.graph_edit import input_structure

OURS = ("keras", "sepconv_layers")
HDF5 = (".h5", ".hdf5")
WRITERS: dict[str, Callable[..., export.Artifact]] = {
    "hub": export.to_hub,
    "litert": export.to_litert,
    "onnx": export.to_onnx,
}
TWINS = {"standard": twins.standard_twin, "separable": twins.separable_twin}
# The name of an artifact beside its model.
ENDINGS = {"hub": "-hub", "litert": ".tflite", "onnx": ".onnx"}

EXAMPLES = """examples:
  sepconv profile net.keras
  sepconv export net.keras --to litert --quantize int8 --calibration images.npy
  sepconv bench separable.keras standard.keras
"""
PROFILE_EXAMPLES = """examples:
  sepconv profile net.keras
  sepconv profile net.keras --input-shape 96,96,3 --plot net.png
  sepconv profile net.keras --json > net.json
"""
TWIN_EXAMPLES = """examples:
  sepconv twin net.keras --to standard
  sepconv twin net.keras --to separable --output small.keras

The twin is untrained: train it as the model was, or look at what it costs.
"""
CONVERT_EXAMPLES = """examples:
  sepconv convert net.keras --rank 2
  sepconv convert net.keras --keep stem --output small.keras

What a low rank loses, `sepconv_layers.convert.distill` brings back in part, from Python.
"""
EXPORT_EXAMPLES = """examples:
  sepconv export net.keras --to hub --labels labels.txt
  sepconv export net.keras --to onnx --sample images.npy
  sepconv export net.keras --to litert --quantize int8 --calibration images.npy

Arrays are read from .npy files, or for several inputs from .npz files with the names of the inputs.
A model with other layers than those of Keras and sepconv_layers is exported from Python, by the
functions of `sepconv_layers.export`.
"""
BENCH_EXAMPLES = """examples:
  sepconv bench separable.keras standard.keras
  sepconv bench net.keras net.tflite net.onnx net-hub --batch-size 8
  KERAS_BACKEND=jax sepconv bench net.keras

All models take turns in one process, on random numbers, each in all modes of the Keras backend.
LiteRT runs the samples of a batch one by one.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, or 1 if it failed, or 130 if interrupted.

    Wrong usage ends the process with 2.

    Args:
        argv: The arguments; by default those of the process.

    Example:
        >>> import os, tempfile
        >>> from sepconv_layers import SeparableConvBlock1D, cli
        >>> model = keras.Sequential([keras.Input((9, 4)), SeparableConvBlock1D(8)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(os.path.join(folder, "net.keras"))
        ...     code = cli.main(["profile", os.path.join(folder, "net.keras")])
        layer ...
        total ...
        >>> code
        0
    """
    parser = make_parser()
    arguments = parser.parse_args(argv)
    # TensorFlow says where it saves, and takes several models that are traced for one that is
    # traced again and again.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        arguments.run(arguments)
    except (ImportError, OSError, ValueError) as error:
        print(f"sepconv {arguments.command}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = "interrupted. To go on, run the same command again"
        print(f"\nsepconv {arguments.command}: {again}", file=sys.stderr)
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command and its subcommands."""
    parser = _described(argparse.ArgumentParser, __doc__, EXAMPLES, prog="sepconv")
    version = comparison.versions()["sepconv_layers"]
    parser.add_argument("--version", action="version", version=f"sepconv-layers {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    text = "multiply-accumulates, parameters and memory traffic of a model, layer by layer"
    command = _described(commands.add_parser, text, PROFILE_EXAMPLES, name="profile", help=text)
    command.set_defaults(run=_profile)
    _add_model(command)
    _add_input_shape(command)
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_argument("--plot", metavar="FILE", type=Path, help="draw the layers as bars")

    text = "the same architecture with standard or with separable convolutions, untrained"
    command = _described(commands.add_parser, text, TWIN_EXAMPLES, name="twin", help=text)
    command.set_defaults(run=_twin)
    _add_model(command)
    command.add_argument("--to", required=True, choices=TWINS, help="which twin")
    _add_keras_output(command, "MODEL-standard.keras or MODEL-separable.keras")

    text = "the standard convolutions of a trained model as separable ones, as close as can be"
    command = _described(commands.add_parser, text, CONVERT_EXAMPLES, name="convert", help=text)
    command.set_defaults(run=_convert)
    _add_model(command)
    command.add_argument(
        "--rank",
        metavar="N",
        type=_count,
        default=1,
        help="depthwise outputs for each input channel: more are closer and cost more; default: 1",
    )
    command.add_argument(
        "--keep", metavar="LAYER", action="append", default=[], help="a layer to leave as it is"
    )
    _add_keras_output(command, "MODEL-rank-N.keras")

    text = "a model as an artifact that runs without this package, and how well it agrees"
    command = _described(commands.add_parser, text, EXPORT_EXAMPLES, name="export", help=text)
    command.set_defaults(run=partial(_export, command.error))
    _add_model(command)
    command.add_argument("--to", required=True, choices=ENDINGS, help="kind of the artifact")
    command.add_argument(
        "--output",
        metavar="PATH",
        type=Path,
        help="where it goes; default: beside the model, as MODEL-hub, MODEL.tflite or MODEL.onnx",
    )
    kinds = [kind for kind in QUANTIZE if kind]
    command.add_argument("--quantize", choices=kinds, help="of LiteRT; default: float32")
    command.add_argument(
        "--calibration", metavar="FILE", type=Path, help="inputs for --quantize int8: .npy or .npz"
    )
    command.add_argument(
        "--sample",
        metavar="FILE",
        type=Path,
        help="inputs to try the artifact with: .npy or .npz; default: the calibration, or random "
        "numbers",
    )
    command.add_argument(
        "--labels", metavar="FILE", type=Path, help="names of the classes, one in a line"
    )
    command.add_argument(
        "--tolerance",
        metavar="X",
        type=_tolerance,
        help="largest difference to allow, over the largest output, or `any`; default: 0.001, "
        "for float16 0.01, for dynamic and int8 any",
    )

    text = "milliseconds of a call of each model and artifact, in turns in one process"
    command = _described(commands.add_parser, text, BENCH_EXAMPLES, name="bench", help=text)
    command.set_defaults(run=_bench)
    command.add_argument(
        "models",
        nargs="+",
        metavar="model",
        type=Path,
        help="a .keras, .tflite or .onnx file, or the folder of a SavedModel",
    )
    _add_input_shape(command)
    command.add_argument("--batch-size", metavar="N", type=_count, default=1, help="default: 1")
    command.add_argument(
        "--seconds",
        metavar="S",
        type=_seconds,
        default=1.0,
        help="how long to measure each model in each mode; default: 1",
    )
    return parser


def _described(make: Callable[..., Any], text: str | None, examples: str, **names: str) -> Any:
    raw = argparse.RawDescriptionHelpFormatter
    return make(**names, description=text, epilog=examples, formatter_class=raw)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=Path, help="a .keras file")


def _add_keras_output(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--output",
        metavar="PATH",
        type=Path,
        help=f"the .keras file to write; default: beside the model, as {default}",
    )


def _add_input_shape(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--input-shape",
        metavar="SIZES",
        type=_shape,
        action="append",
        help="such as 96,96,3, without the batch, where the model leaves sizes open; once for "
        "each input",
    )


def _shape(text: str) -> tuple[int, ...]:
    return tuple(_count(size) for size in text.split(","))


def _count(text: str) -> int:
    if not text.strip().isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive integer")
    return int(text)


def _seconds(text: str) -> float:
    seconds = _number(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive number")
    return seconds


def _tolerance(text: str) -> float | str:
    if text == "any":
        return text
    tolerance = _number(text)
    if not tolerance >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0 on, or `any`")
    return tolerance


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number") from None


# Each command takes the parsed arguments.


def _profile(arguments: argparse.Namespace) -> None:
    model = _load_model(arguments.model)
    shapes = arguments.input_shape
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The MACs of")  # table and JSON say it too
        found = cost.profile(model, shapes[0] if shapes and len(shapes) == 1 else shapes)
    if arguments.plot:
        found.plot(arguments.plot)
    print(found.to_json() if arguments.json else found)


def _twin(arguments: argparse.Namespace) -> None:
    path = _new_keras_file(arguments, arguments.to)
    model = _load_model(arguments.model)
    twin = TWINS[arguments.to](model)
    write(path, twin.save)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The MACs of")  # of open sizes, or of unknown layers
        costs = [
            (str(name), f"{found.params:,}", "–" if found.uncounted else f"{found.macs:,}")
            for name, found in ((arguments.model, _costs(model)), (path, _costs(twin)))
            if found
        ]
    print(_table([("model", "parameters", "MACs"), *costs], texts=1) if costs else path)


def _convert(arguments: argparse.Namespace) -> None:
    path = _new_keras_file(arguments, f"rank-{arguments.rank}")
    model = _load_model(arguments.model)
    converted, report = convert.to_separable(model, arguments.rank, arguments.keep)
    write(path, converted.save)
    rows = [
        (layer.name, str(layer.rank), f"{layer.error:.1%}", f"{layer.macs_ratio:.3f}")
        for layer in report
    ]
    print(_table([("layer", "rank", "kernel lost", "MACs, new ÷ old"), *rows], texts=1))
    print(f"\n{path}")


def _costs(model: keras.Model) -> cost.Profile | None:
    """What a model costs, where its sizes are known."""
    try:
        return cost.profile(model)
    except ValueError:
        return None


def _export(usage_error: Callable[[str], Any], arguments: argparse.Namespace) -> None:
    to, quantize = arguments.to, arguments.quantize
    if quantize and to != "litert":
        usage_error(f"--quantize is for --to litert only. Received: --to {to}")
    if (quantize == "int8") != (arguments.calibration is not None):
        usage_error(
            "--calibration must be given with --quantize int8, and only with it: inputs as they "
            "will come, some hundred of them, in a .npy or .npz file"
        )
    path = arguments.output or _beside(arguments.model, to, quantize)
    _check_output(path, arguments.model)
    model = _load_model(arguments.model)
    check_model(model)
    options: dict[str, Any] = {}
    if arguments.sample:
        options["sample"] = _arrays(arguments.sample, model)
    if arguments.labels:
        options["labels"] = _labels(arguments.labels)
    if arguments.tolerance is not None:
        options["tolerance"] = None if arguments.tolerance == "any" else arguments.tolerance
    if to == "litert":
        options["quantize"] = quantize
    if arguments.calibration:
        options["calibration"] = _arrays(arguments.calibration, model)
    existed = path.exists()
    artifact = WRITERS[to](model, path, **options)
    tried = arguments.sample or arguments.calibration or f"{SAMPLES} samples of random numbers"
    print(f"{artifact.path}{', where an older one was replaced' if existed else ''}")
    print(f"size                {artifact.bytes / 1e3:,.1f} kB")
    print(f"largest difference  {artifact.max_difference:.3g}, on {tried}")
    print(f"agreement           {artifact.agreement:.1%} of the largest outputs")
    print(f"latency             {artifact.latency_ms:.3f} ms, batch 1, on {comparison.device()}")
    print(_versions())


def _bench(arguments: argparse.Namespace) -> None:
    calls: dict[tuple[Path, str], Callable[[], Any]] = {}
    profiles: dict[Path, cost.Profile] = {}
    missing: list[str] = []
    for path in dict.fromkeys(arguments.models):
        if path.suffix in (".keras", *HDF5):
            found, problems, profiles[path] = _in_all_modes(path, arguments)
            missing += problems
        else:
            found = _as_loaded(path, arguments)
        calls |= {(path, mode): call for mode, call in found.items()}
    times = comparison.medians(calls, arguments.seconds)
    best = {path: min(ms for (of, _), ms in times.items() if of == path) for path, _ in times}
    first = next(iter(best))
    print(f"{comparison.device()}; Keras backend {keras.backend.backend()}; {_versions()}")
    print(
        f"Median milliseconds of a call, batch {arguments.batch_size}, in turns in one process.\n"
    )
    rows = [
        (str(path), mode, f"{ms:.3f}", f"{ms / best[first]:.2f}")
        for (path, mode), ms in times.items()
    ]
    print(_table([("model", "mode", "ms", "÷ first"), *rows]))
    for line in (*missing, *(_gains(profiles, best) if profiles else ())):
        print(f"\n{line}")


def _in_all_modes(
    path: Path, arguments: argparse.Namespace
) -> tuple[dict[str, Callable[[], Any]], list[str], cost.Profile]:
    """Calls of a Keras model by mode, the modes that it cannot run in, and its costs."""
    calls: dict[str, Callable[[], Any]] = {}
    missing: list[str] = []
    for mode, jit_compile in comparison.MODES[keras.backend.backend()].items():
        model = _load_model(path)
        check_model(model)
        model.jit_compile = jit_compile
        dtypes = [array_dtype(tensor) for tensor in model.inputs]
        shapes = [tensor.shape for tensor in model.inputs]
        inputs = _drawn(path, list(zip(shapes, dtypes, strict=True)), arguments)
        call = partial(model.predict_on_batch, _packed(model, inputs))
        try:
            call()
        except Exception as error:  # of any kind: there are operations that XLA cannot compile
            missing.append(f"{path} cannot run in the mode {mode}: {_first_line(error)}")
        else:
            calls[mode] = call
    if not calls:
        raise ValueError(". ".join(missing))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The MACs of")  # what cannot be counted is said below
        costs = cost.profile(model, _packed(model, [array.shape[1:] for array in inputs]))
    return calls, missing, costs


def _as_loaded(path: Path, arguments: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """The call of an artifact, by what runs it."""
    loaded = export.load(path)
    specs = [(tensor.shape, tensor.dtype) for tensor in loaded.inputs]
    mode = loaded.kind + f", {LITERT_THREADS} threads" * (loaded.kind == "litert")
    return {mode: partial(loaded, _drawn(path, specs, arguments))}


def _packed(model: keras.Model, parts: Sequence[Any]) -> Any:
    """One part for each input, in the structure that the model takes."""
    return keras.tree.pack_sequence_as(input_structure(model), list(parts))


def _gains(profiles: dict[Path, cost.Profile], best: dict[Path, float]) -> Iterator[str]:
    """What becomes of the MACs that the first Keras model saves against each other, or costs."""
    first, *others = profiles
    for other in others:
        few, many = sorted((first, other), key=lambda path: profiles[path].macs)
        if any(profiles[path].uncounted or not profiles[path].macs for path in (few, many)):
            yield f"The MACs of {few} and {many} cannot all be counted."
            continue
        ratio = profiles[many].macs / profiles[few].macs
        speedup = best[many] / best[few]
        yield (
            f"{few} has {ratio:.2f} times fewer MACs than {many} and is {speedup:.2f} times as "
            f"fast, each in its best mode ({speedup / ratio:.0%} of that)."
        )


# What is read.


def _load_model(path: Path) -> keras.Model:
    """The model, in safe mode, or a `ValueError` that says what is wrong with the file."""
    if path.suffix != ".keras":
        raise ValueError(
            "The model must be a .keras file, as `model.save` writes it. Received: "
            f"{path}{_conversion(path)}"
        )
    if not path.is_file():
        state = "a folder" if path.is_dir() else "not there"
        raise ValueError(f"The model must be a .keras file. Received: {path}, which is {state}")
    try:
        with zipfile.ZipFile(path) as archive:
            config = dict(json.loads(archive.read("config.json"))["config"])
    except (zipfile.BadZipFile, zlib.error, LookupError, TypeError, ValueError, EOFError) as error:
        raise ValueError(
            f"The model must be a .keras file. Received: {path}, which is truncated, or of another "
            "kind: copy or save it again"
        ) from error
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # of any kind: of what is broken, each layer has its own
        unknown = sorted(set(_unknown(config)))
        if unknown:
            raise ValueError(
                f"{path} needs custom objects: {', '.join(unknown)}. Only those of Keras and of "
                "sepconv_layers are known here. Load the model in Python, where its own are "
                "imported, and call the functions of sepconv_layers there"
            ) from error
        raise ValueError(f"{path} cannot be loaded: {_first_line(error)}") from error


def _conversion(path: Path) -> str:
    """How a model of another format becomes a .keras file, by the name of its file."""
    target = path.parent / f"{path.name.partition('.')[0]}.keras"
    ending = path.suffix.lower()
    if path.name.lower().endswith((".weights.h5", ".weights.hdf5", ".ckpt")):
        return (
            ", which holds weights alone. Build the model in Python, then call "
            f"`model.load_weights({str(path)!r})` and `model.save({str(target)!r})`"
        )
    if ending in HDF5:
        return (
            ", of an older format. Convert it in Python: `keras.saving.load_model("
            f"{str(path)!r}, compile=False).save({str(target)!r})`"
        )
    if ending in (".tflite", ".onnx", ".pb") or path.is_dir():
        return (
            ", an artifact that no longer has the layers of the model. Take the .keras file that "
            "it was made from, or save one there by `model.save`; `sepconv bench` takes SavedModel "
            "folders, .tflite and .onnx files as they are"
        )
    return ""


def _unknown(config: Any) -> Iterator[str]:
    """Classes and functions of a configuration that are neither Keras's nor registered."""
    if isinstance(config, dict):
        name = config.get("registered_name") or config.get("class_name")
        if name == "function":
            name = config.get("config")
        module = str(config.get("module") or "").partition(".")[0]
        if (
            isinstance(name, str)
            and not name.startswith("__")  # what Keras itself has no class for, such as a lambda
            and module not in OURS
            and keras.saving.get_registered_object(name) is None
        ):
            yield name
    for value in config.values() if isinstance(config, dict) else config:
        if isinstance(value, dict | list):
            yield from _unknown(value)


def _arrays(path: Path, model: keras.Model) -> Any:
    """The array of a file, or a list of arrays for several inputs of the model."""
    try:
        with open(regular(path), "rb") as file:
            found = np.load(file, allow_pickle=False)
            arrays = {"one without a name": found} if isinstance(found, np.ndarray) else dict(found)
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} must be a .npy or .npz file of numbers, as `numpy.save` and `numpy.savez` "
            f"write them. Received: one that cannot be read: {_first_line(error)}"
        ) from error
    names = [tensor.name for tensor in model.inputs]
    if len(names) == len(arrays) == 1:
        return next(iter(arrays.values()))
    if not set(names) <= set(arrays):
        raise ValueError(
            f"{path} must hold an array for each input of the model, {names}. Received: "
            f"{sorted(arrays)}"
        )
    chosen = [arrays[name] for name in names]
    return chosen if len(chosen) > 1 else chosen[0]


def _labels(path: Path) -> list[str]:
    try:
        return regular(path).read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--labels must be a text file in UTF-8, with a class in each line. Received: {path}, "
            f"which cannot be read: {error}"
        ) from error


def _drawn(
    path: Path,
    specs: Sequence[tuple[Sequence[int | None], np.dtype]],
    arguments: argparse.Namespace,
) -> list[np.ndarray]:
    """Random inputs of a model."""
    given = arguments.input_shape or [tuple(shape[1:]) for shape, _ in specs]
    if len(given) != len(specs) or any(None in shape for shape in given):
        raise ValueError(
            f"{path} has inputs of the shapes {[tuple(shape) for shape, _ in specs]}. Give the "
            "sizes by --input-shape, without the batch, once for each input"
        )
    rng, arrays = np.random.default_rng(0), []
    for shape, (_, dtype) in zip(given, specs, strict=True):
        if dtype.kind == "O":
            raise ValueError(f"{path} takes strings, of which none can be drawn")
        arrays.append(random_array(rng, (arguments.batch_size, *shape), dtype))
    return arrays


# What is written.


def _new_keras_file(arguments: argparse.Namespace, what: str) -> Path:
    """Where a model goes that comes of another one: never in the place of one that may be trained.

    Raises:
        ValueError: If it is no .keras file, is there already, or is in no folder.
    """
    source = arguments.model
    path = arguments.output or source.with_name(f"{source.stem}-{what}.keras")
    if path.suffix != ".keras" or path.exists():
        state = "which is there already" if path.exists() else "which has another ending"
        raise ValueError(f"--output must be a new .keras file. Received: {path}, {state}")
    if not path.parent.is_dir():
        raise ValueError(f"--output must be in a folder that exists. Received: {path}")
    return path


def _beside(model: Path, to: str, quantize: str | None) -> Path:
    quantized = f"-{quantize}" if quantize else ""
    return model.with_name(f"{model.stem}{quantized}{ENDINGS[to]}")


def _check_output(path: Path, model: Path) -> None:
    """Refuses to replace the model; whatever else no export has written, the export refuses."""
    target = path.resolve()
    if target == model.resolve() or target in model.resolve().parents:
        raise ValueError(f"--output must be another place than that of the model. Received: {path}")


def _versions() -> str:
    return ", ".join(f"{name} {version}" for name, version in comparison.versions().items())


def _table(rows: Sequence[Sequence[str]], texts: int = 2) -> str:
    """Cells in columns, of which the first ones hold text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    header, *body = (
        "  ".join(
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join([header, "-" * len(header), *body])


def _first_line(error: Exception) -> str:
    """What an error says first: those of the backends go on for pages."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
