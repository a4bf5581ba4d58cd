"""The command `sepconv`, which profiles, converts, exports and times saved models.

Each subcommand is a module with `add_to`, which adds its parser to the command, and `run`.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from sepconv_layers import timing
from sepconv_layers.cli import bench, convert, export, frontier, profile, search, twin
from sepconv_layers.cli.options import described

__all__ = ["main", "make_parser"]

DESCRIPTION = "Profiles, converts, exports and times saved Keras models."
EXAMPLES = """examples:
  sepconv profile net.keras
  sepconv export net.keras --to litert --quantize int8 --calibration images.npy
  sepconv bench separable.keras standard.keras
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 1 if it failed, or 130 if interrupted.

    Wrong usage ends the process with exit code 2.

    Args:
        argv: The arguments; by default those of the process.

    Example:
        >>> import os, tempfile
        >>> import keras
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
    arguments = make_parser().parse_args(argv)
    # TensorFlow reports where it saves, and mistakes several models for one that is retraced.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        arguments.run(arguments)
    except (ImportError, OSError, ValueError) as error:
        print(f"sepconv {arguments.command}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = "interrupted. To resume, run the same command again"
        print(f"\nsepconv {arguments.command}: {hint}", file=sys.stderr)
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command and its subcommands."""
    parser = described(argparse.ArgumentParser, DESCRIPTION, EXAMPLES, prog="sepconv")
    version = timing.versions()["sepconv_layers"]
    parser.add_argument("--version", action="version", version=f"sepconv-layers {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for module in (profile, twin, convert, export, bench, frontier, search):
        module.add_to(commands)
    return parser
