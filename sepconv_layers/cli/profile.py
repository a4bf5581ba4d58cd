"""`sepconv profile`: the cost of a model, layer by layer."""

import argparse
import warnings
from typing import Any

import keras

from sepconv_layers import cost
from sepconv_layers.cli.inputs import load_model
from sepconv_layers.cli.options import add_command, add_input_shape, add_model, add_path

DESCRIPTION = "count multiply-accumulates, parameters and memory traffic, layer by layer"
EXAMPLES = """examples:
  sepconv profile net.keras
  sepconv profile net.keras --input-shape 96,96,3 --plot net.png
  sepconv profile net.keras --json > net.json
"""


def add_to(commands: Any) -> None:
    """Adds the subcommand."""
    command = add_command(commands, "profile", DESCRIPTION, EXAMPLES, run)
    add_model(command)
    add_input_shape(command)
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_path(command, "--plot", "plot the layers as bars")


def run(arguments: argparse.Namespace) -> None:
    """Prints the profile."""
    model = load_model(arguments.model)
    shapes = arguments.input_shape
    costs = profile_quietly(model, shapes[0] if shapes and len(shapes) == 1 else shapes)
    if arguments.plot:
        costs.plot(arguments.plot)
    print(costs.to_json() if arguments.json else costs)


def profile_quietly(model: keras.Model, input_shape: Any = None) -> cost.Profile:
    """Profiles a model without the warning about layers that cannot be counted.

    The commands print that in their own way.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The MACs of")
        return cost.profile(model, input_shape)
