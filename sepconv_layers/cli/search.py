"""`sepconv search`: what a search for the best net under limits found."""

import argparse
from functools import partial
from typing import Any

from sepconv_layers import files
from sepconv_layers.cli.options import add_command, add_path
from sepconv_layers.comparison import Search

DESCRIPTION = "show what a search for the best net under limits found"
EXAMPLES = """examples:
  sepconv search runs/vision/digits
  sepconv search runs/vision/digits --plot search.png
"""


def add_to(commands: Any) -> None:
    """Adds the subcommand."""
    command = add_command(commands, "search", DESCRIPTION, EXAMPLES, run)
    command.add_argument("record", metavar="FOLDER", help="a search.json, or its folder")
    add_path(command, "--plot", "plot the validation accuracy of all trials")


def run(arguments: argparse.Namespace) -> None:
    """Prints the record."""
    result = Search.load(arguments.record)
    print(result)
    if arguments.plot:
        files.write(arguments.plot, partial(result.plot().savefig, dpi=150))
