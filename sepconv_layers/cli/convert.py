"""`sepconv convert`: the standard convolutions of a trained model as separable ones."""

import argparse
from typing import Any

from sepconv_layers import convert
from sepconv_layers.cli.inputs import load_arrays, load_model
from sepconv_layers.cli.options import (
    add_command,
    add_model,
    add_path,
    positive_integer,
    positive_number,
)
from sepconv_layers.cli.outputs import add_keras_output, new_keras_file
from sepconv_layers.files import write

DESCRIPTION = "approximate the standard convolutions of a trained model by separable ones"
EXAMPLES = """examples:
  sepconv convert net.keras --rank 2
  sepconv convert net.keras --macs 0.25 --calibration images.npy --report report
  sepconv convert net.keras --energy 0.95 --keep stem --output small.keras

--calibration makes the difference: a few thousand inputs that the model was trained on, without
labels, in a .npy file, or for several inputs in a .npz file with the names of the inputs.
`sepconv_layers.convert.distill`, from Python, recovers part of what is still lost.
"""


def add_to(commands: Any) -> None:
    """Adds the subcommand."""
    command = add_command(commands, "convert", DESCRIPTION, EXAMPLES, run)
    add_model(command)
    goal = command.add_mutually_exclusive_group()
    goal.add_argument(
        "--rank",
        metavar="N",
        type=positive_integer,
        help="number of depthwise outputs for each input channel: a higher rank is closer to the "
        "model and costs more; default: 1",
    )
    goal.add_argument(
        "--energy",
        metavar="X",
        type=positive_number,
        help="a rank for each layer, so that it keeps this share of its kernel or outputs, up to 1",
    )
    goal.add_argument(
        "--macs",
        metavar="X",
        type=positive_number,
        help="a rank for each layer, so that the whole model has at most this share of its MACs, "
        "up to 1, or this number of MACs",
    )
    add_path(command, "--calibration", "inputs to fit the layers to: .npy or .npz")
    command.add_argument(
        "--keep", metavar="LAYER", action="append", default=[], help="a layer to leave unchanged"
    )
    add_keras_output(command, "MODEL-rank-N.keras, MODEL-energy-X.keras or MODEL-macs-X.keras")
    add_path(command, "--report", "a folder for report.json, report.md and report.png", "FOLDER")


def run(arguments: argparse.Namespace) -> None:
    """Saves the converted model, and prints and saves the error and cost of each layer."""
    goals = {name: getattr(arguments, name) for name in ("rank", "energy", "macs")}
    goal = {name: value for name, value in goals.items() if value is not None} or {"rank": 1}
    ((name, value),) = goal.items()
    path = new_keras_file(arguments, f"{name}-{value:g}")
    model = load_model(arguments.model)
    data = load_arrays(arguments.calibration, model) if arguments.calibration else None
    converted, report = convert.to_separable(model, keep=arguments.keep, data=data, **goal)
    write(path, converted.save)
    print(report)
    print(f"\n{path}")
    if arguments.report:
        report.save(arguments.report)
        print(arguments.report / "report.md")
