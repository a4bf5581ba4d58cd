"""Arguments that several subcommands share, and the types of their values."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any


def described(make: Callable[..., Any], description: str, examples: str, **names: str) -> Any:
    """A parser with a description and examples."""
    raw = argparse.RawDescriptionHelpFormatter
    return make(**names, description=description, epilog=examples, formatter_class=raw)


def add_command(
    commands: Any, name: str, description: str, examples: str, run: Callable[..., None]
) -> argparse.ArgumentParser:
    """Adds a subcommand, whose parsed arguments `run` takes."""
    command = described(commands.add_parser, description, examples, name=name, help=description)
    command.set_defaults(run=run)
    return command


def add_model(command: argparse.ArgumentParser) -> None:
    """Adds the argument of a model."""
    command.add_argument("model", type=Path, help="a .keras file")


def add_path(
    command: argparse.ArgumentParser, name: str, description: str, metavar: str = "FILE"
) -> None:
    """Adds an option that takes a path."""
    command.add_argument(name, metavar=metavar, type=Path, help=description)


def add_input_shape(command: argparse.ArgumentParser) -> None:
    """Adds `--input-shape`."""
    command.add_argument(
        "--input-shape",
        metavar="SIZES",
        type=sizes,
        action="append",
        help="shape without the batch, such as 96,96,3, for a model with open sizes; once for "
        "each input",
    )


def sizes(text: str) -> tuple[int, ...]:
    """Positive integers, separated by commas."""
    return tuple(map(positive_integer, text.split(",")))


def positive_integer(text: str) -> int:
    """A positive integer."""
    if not text.strip().isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive integer")
    return int(text)


def positive_number(text: str) -> float:
    """A positive, finite number."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive number")
    return value


def tolerance(text: str) -> float | str:
    """A non-negative number, or `any`."""
    if text == "any":
        return text
    value = _number(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a non-negative number, or `any`")
    return value


def points(text: str) -> float:
    """Percentage points, from 0 to 100."""
    value = _number(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0 to 100")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number") from None
