"""`sepconv twin`: the same architecture with standard or with separable convolutions."""

import argparse
from typing import Any

import keras

from sepconv_layers import cost, tables, twins
from sepconv_layers.cli.inputs import load_model
from sepconv_layers.cli.options import add_command, add_model
from sepconv_layers.cli.outputs import add_keras_output, new_keras_file
from sepconv_layers.cli.profile import profile_quietly
from sepconv_layers.files import write

TWINS = {"standard": twins.standard_twin, "separable": twins.separable_twin}

DESCRIPTION = "build the same architecture with standard or separable convolutions, untrained"
EXAMPLES = """examples:
  sepconv twin net.keras --to standard
  sepconv twin net.keras --to separable --output small.keras

The twin is untrained: train it like the model, or compare the cost of both.
"""


def add_to(commands: Any) -> None:
    """Adds the subcommand."""
    command = add_command(commands, "twin", DESCRIPTION, EXAMPLES, run)
    add_model(command)
    command.add_argument(
        "--to", required=True, choices=TWINS, help="kind of convolutions in the twin"
    )
    add_keras_output(command, "MODEL-standard.keras or MODEL-separable.keras")


def run(arguments: argparse.Namespace) -> None:
    """Saves the twin and prints the cost of both."""
    path = new_keras_file(arguments, arguments.to)
    model = load_model(arguments.model)
    twin = TWINS[arguments.to](model)
    write(path, twin.save)
    rows = [
        (str(name), f"{costs.params:,}", "–" if costs.uncounted else f"{costs.macs:,}")
        for name, costs in ((arguments.model, _cost_of(model)), (path, _cost_of(twin)))
        if costs
    ]
    print(tables.text([("model", "parameters", "MACs"), *rows]) if rows else path)


def _cost_of(model: keras.Model) -> cost.Profile | None:
    """The profile of a model, or `None` if it has open sizes."""
    try:
        return profile_quietly(model)
    except ValueError:
        return None
