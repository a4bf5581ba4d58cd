"""`sepconv frontier`: accuracy against cost, and the best net under limits."""

import argparse
from functools import partial
from typing import Any

from sepconv_layers import files
from sepconv_layers.cli.options import add_command, add_path, positive_number
from sepconv_layers.comparison import Frontier

DESCRIPTION = "show accuracy against cost, and the best net under limits"
EXAMPLES = """examples:
  sepconv frontier runs/vision/digits
  sepconv frontier runs/vision/digits --limit macs=5e6 --limit int8_bytes=100000
  sepconv frontier runs/vision/digits --plot frontier.png --costs macs int8_ms
"""


def add_to(commands: Any) -> None:
    """Adds the subcommand."""
    command = add_command(commands, "frontier", DESCRIPTION, EXAMPLES, run)
    command.add_argument("record", metavar="FOLDER", help="a frontier.json, or its folder")
    command.add_argument(
        "--limit",
        metavar="COST=NUMBER",
        type=_limit,
        action="append",
        default=[],
        help="name the most accurate net within this limit; once for each limit",
    )
    add_path(command, "--plot", "plot accuracy against the costs")
    command.add_argument("--costs", nargs="+", metavar="COST", help="costs to plot")


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, positive_number(value)


def run(arguments: argparse.Namespace) -> None:
    """Prints the record, and the best net within the limits."""
    result = Frontier.load(arguments.record)
    print(result)
    if arguments.limit:
        best = result.best(**dict(arguments.limit))
        score = f"test {result.metric_words} {best.score_text()}"
        print(f"\nBest on validation data: {best.name}, {score}")
    if arguments.plot:
        figure = result.plot(arguments.costs) if arguments.costs else result.plot()
        files.write(arguments.plot, partial(figure.savefig, dpi=150))
