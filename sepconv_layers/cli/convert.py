"""`sepconv convert`: the standard convolutions of a trained model as separable ones."""

import argparse
from typing import Any

from sepconv_layers import convert, tables
from sepconv_layers.cli.inputs import load_model
from sepconv_layers.cli.options import add_command, add_model, positive_integer
from sepconv_layers.cli.outputs import add_keras_output, new_keras_file
from sepconv_layers.files import write

DESCRIPTION = "approximate the standard convolutions of a trained model by separable ones"
EXAMPLES = """examples:
  sepconv convert net.keras --rank 2
  sepconv convert net.keras --keep stem --output small.keras

`sepconv_layers.convert.distill`, from Python, recovers part of what a low rank loses.
"""


def add_to(commands: Any) -> None:
    """Adds the subcommand."""
    command = add_command(commands, "convert", DESCRIPTION, EXAMPLES, run)
    add_model(command)
    command.add_argument(
        "--rank",
        metavar="N",
        type=positive_integer,
        default=1,
        help="number of depthwise outputs for each input channel: a higher rank is closer to the "
        "model and costs more; default: 1",
    )
    command.add_argument(
        "--keep", metavar="LAYER", action="append", default=[], help="a layer to leave unchanged"
    )
    add_keras_output(command, "MODEL-rank-N.keras")


def run(arguments: argparse.Namespace) -> None:
    """Saves the converted model and prints the error of each layer."""
    path = new_keras_file(arguments, f"rank-{arguments.rank}")
    model = load_model(arguments.model)
    converted, report = convert.to_separable(model, arguments.rank, arguments.keep)
    write(path, converted.save)
    rows = [
        (layer.name, str(layer.rank), f"{layer.error:.1%}", f"{layer.macs_ratio:.3f}")
        for layer in report
    ]
    print(tables.text([("layer", "rank", "kernel error", "MACs, new ÷ old"), *rows]))
    print(f"\n{path}")
