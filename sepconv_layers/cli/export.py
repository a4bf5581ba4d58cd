"""`sepconv export`: a model as a file that runs without this package."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sepconv_layers import export, timing
from sepconv_layers.cli.inputs import load_array, load_arrays, load_labels, load_model
from sepconv_layers.cli.options import add_command, add_model, add_path, points, tolerance
from sepconv_layers.cli.outputs import check_export_path, versions_line

EXPORTERS: dict[str, Callable[..., export.Artifact]] = {
    "hub": export.to_hub,
    "litert": export.to_litert,
    "micro": export.to_micro,
    "onnx": export.to_onnx,
}
CALIBRATED = ("int8", "int16x8", "int4", "auto")  # the kinds that measure ranges
SHOWN = 5  # tensors
SUFFIXES = {"hub": "-hub", "litert": ".tflite", "micro": "-micro", "onnx": ".onnx"}

DESCRIPTION = "write a model as an artifact that runs without this package, and check its outputs"
EXAMPLES = """examples:
  sepconv export net.keras --to hub --labels labels.txt
  sepconv export net.keras --to onnx --sample images.npy
  sepconv export net.keras --to litert --quantize int8 --calibration images.npy
  sepconv export net.keras --to litert --quantize auto --max-loss 0.5 --calibration images.npy
  sepconv export net.keras --to micro --calibration images.npy --labels labels.txt

Arrays are read from .npy files, or for several inputs from .npz files with the names of the inputs.
A model with layers other than those of Keras and sepconv_layers has to be exported from Python,
by the functions of `sepconv_layers.export`.
"""


def add_to(commands: Any) -> None:
    """Adds the subcommand."""
    command = add_command(commands, "export", DESCRIPTION, EXAMPLES, run)
    command.set_defaults(usage_error=command.error)
    add_model(command)
    command.add_argument("--to", required=True, choices=EXPORTERS, help="kind of the artifact")
    output = (
        "path to write; default: beside the model, as MODEL-hub, MODEL.tflite, MODEL-micro or "
        "MODEL.onnx"
    )
    add_path(command, "--output", output, metavar="PATH")
    kinds = [kind for kind in export.QUANTIZE if kind]
    command.add_argument("--quantize", choices=kinds, help="for LiteRT; default: float32")
    add_path(
        command, "--calibration", "inputs for kinds of integers, auto and --to micro: .npy or .npz"
    )
    command.add_argument(
        "--max-loss",
        metavar="POINTS",
        type=points,
        help="for --quantize auto, percentage points of agreement, or of accuracy with "
        "--validation-labels, that the file may lose; default: 0.2",
    )
    add_path(
        command,
        "--validation",
        "held-out inputs for --quantize auto: .npy or .npz; default: half of the calibration",
    )
    add_path(command, "--validation-labels", "indices of their classes: .npy")
    add_path(
        command,
        "--report",
        "folder for report.json and report.md, the noise of each quantized tensor",
        metavar="FOLDER",
    )
    sample = "inputs to run the artifact with: .npy or .npz; default: the calibration, or random "
    add_path(command, "--sample", sample + "numbers")
    add_path(command, "--labels", "names of the classes, one per line")
    command.add_argument(
        "--tolerance",
        metavar="X",
        type=tolerance,
        help="largest allowed difference, relative to the largest output, or `any`; default: "
        "0.001, for float16 0.01, for the other kinds and micro any",
    )


def run(arguments: argparse.Namespace) -> None:
    """Exports the model and prints the record of the artifact."""
    _check_usage(arguments)
    path = arguments.output or _default_path(arguments)
    check_export_path(path, arguments.model)
    model = load_model(arguments.model)
    export.check_model(model)
    options: dict[str, Any] = {}
    if arguments.sample:
        options["sample"] = load_arrays(arguments.sample, model)
    if arguments.labels:
        options["labels"] = load_labels(arguments.labels)
    if arguments.tolerance is not None:
        options["tolerance"] = None if arguments.tolerance == "any" else arguments.tolerance
    if arguments.to == "litert":
        options["quantize"] = arguments.quantize
    if arguments.max_loss is not None:
        options["max_loss"] = arguments.max_loss
    if arguments.validation:
        inputs = load_arrays(arguments.validation, model)
        labels = arguments.validation_labels
        options["validation_data"] = (inputs, load_array(labels)) if labels else inputs
    if arguments.calibration:
        options["calibration"] = load_arrays(arguments.calibration, model)
    existed = path.exists()
    artifact = EXPORTERS[arguments.to](model, path, **options)
    sample = arguments.sample or arguments.calibration or "random numbers"
    print(f"{artifact.path}{' (replaced an older one)' if existed else ''}")
    print(f"size                {artifact.bytes / 1e3:,.1f} kB")
    print(f"largest difference  {artifact.max_difference:.3g}, on {sample}")
    print(f"agreement           {artifact.agreement:.1%} of the largest outputs")
    print(f"latency             {artifact.latency_ms:.3f} ms, batch 1, on {timing.device()}")
    if isinstance(artifact, export.MicroArtifact):
        _print_micro(artifact)
    if isinstance(artifact, export.LitertArtifact) and artifact.report:
        _print_noise(artifact.report)
        if arguments.report:
            artifact.report.save(arguments.report)
    print(versions_line())


def _print_noise(report: export.QuantizationReport) -> None:
    """Prints what the report says, with the worst tensors of its table."""
    print("\n".join(report.notes), end="\n" if report.notes else "")
    if len(report):
        print(f"Noisiest tensors of {len(report)}:")
        print(dataclasses.replace(report, layers=report.layers[:SHOWN], notes=()))


def _print_micro(artifact: export.MicroArtifact) -> None:
    kinds = ", ".join(f"{kind} x {count}" for kind, count in artifact.operators.items())
    print(f"flash               {artifact.flash_bytes:,} bytes, without the code of the runtime")
    print(f"arena               {artifact.arena_bytes:,} bytes")
    print(f"MACs                {artifact.macs:,}")
    print(f"operators           {kinds}")
    print(f"from LiteRT         {artifact.litert_steps} steps of quantization at most")
    if artifact.npu:
        share, cycles = artifact.npu["operator_share"], artifact.npu["cycles"]
        where = artifact.npu["accelerator"]
        print(f"NPU                 {share:.1%} of operators, {cycles:,} cycles on {where}")


def _check_usage(arguments: argparse.Namespace) -> None:
    """Ends the process if options do not go together."""
    if arguments.quantize and arguments.to != "litert":
        arguments.usage_error(f"--quantize is for --to litert only. Received: --to {arguments.to}")
    needs_ranges = arguments.quantize in CALIBRATED or arguments.to == "micro"
    if needs_ranges != (arguments.calibration is not None):
        arguments.usage_error(
            f"--calibration must be given with --quantize {', '.join(CALIBRATED)} or --to micro, "
            "and only with them: about a hundred typical inputs, in a .npy or .npz file"
        )
    for name in ("max_loss", "validation"):
        if getattr(arguments, name) is not None and arguments.quantize != "auto":
            arguments.usage_error(f"--{name.replace('_', '-')} is for --quantize auto only")
    if arguments.validation_labels and not arguments.validation:
        arguments.usage_error("--validation-labels must be given with --validation")
    if arguments.report and arguments.quantize in (None, "float16"):
        arguments.usage_error("--report is for --quantize with integers only")


def _default_path(arguments: argparse.Namespace) -> Path:
    quantize = f"-{arguments.quantize}" if arguments.quantize else ""
    return arguments.model.with_name(f"{arguments.model.stem}{quantize}{SUFFIXES[arguments.to]}")
