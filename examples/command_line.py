"""The arguments that all examples take."""

import argparse
import contextlib
import functools
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from examples.nets import CHOICES, NARROW
from examples.sources import printable, shortened

INTERRUPTED = 130  # what a shell says of a command that Ctrl-C ended


def in_sentences(main: Callable) -> Callable:
    """Makes a command end with a sentence, not a traceback, where a user or the system stops it."""

    @functools.wraps(main)
    def ending(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except KeyboardInterrupt:
            print("\nInterrupted. To go on, run the same command again.", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except (FloatingPointError, ImportError, OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from error

    return ending


def new_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m module`, with the header of the module as its description."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


@contextlib.contextmanager
def user_errors(parser: argparse.ArgumentParser, **flags: str) -> Iterator[None]:
    """Ends the command with a sentence where what the user gave cannot be used.

    Args:
        parser: The parser of the command. Arguments bear the names of its options in the sentence.
        **flags: The options of arguments that have other names.
    """
    try:
        yield
    except MemoryError as error:
        parser.error(f"this needs more memory than there is: {shortened(str(error))}")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        flags |= {action.dest: action.option_strings[0] for action in parser._actions
                  if action.option_strings}  # fmt: skip

        def as_given(argument: re.Match) -> str:
            return flags.get(argument[1], argument[0])

        if isinstance(error, OSError) and error.strerror:
            parser.error(f"{shortened(str(error.filename))}: {error.strerror}")
        parser.error(re.sub(r"`(\w+)`", as_given, str(error)))


def command(module: str, argv: Sequence[str]) -> str:
    """What was run, as it can be run again."""
    return printable(shlex.join(["python", "-m", module, *argv]))


def add_budget(parser: argparse.ArgumentParser, epochs: str, batch_size: int | str = 64) -> None:
    """Adds which nets to train, and for how long. Words say on what a default depends."""
    positive, factor = positive_number(int), positive_number(float)
    parser.add_argument(
        "--conv",
        choices=CHOICES,
        default="both",
        help=f"all: also {NARROW}, with the MACs of the separable net; default: both",
    )
    parser.add_argument("--epochs", type=positive, help=f"default: {epochs}")
    parser.add_argument("--seeds", type=positive, default=3, help="trainings per net; default: 3")
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=batch_size if isinstance(batch_size, int) else None,
        help=f"default: {batch_size}",
    )
    parser.add_argument(
        "--jit-compile",
        action=argparse.BooleanOptionalAction,
        default="auto",
        help="compile nets by XLA, or not; default: the faster of both, for each net",
    )
    parser.add_argument("--width", type=factor, default=1.0, help="on all widths; default: 1")
    parser.add_argument("--limit", type=positive, help="largest number of training samples")


def positive_number(kind: Callable) -> Callable:
    """A type for `add_argument`."""

    def number(text: str):
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be positive and finite, received {text}")
        return value

    return number


def add_output(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds the folder that the results go to, which is made at once, to hear now if it can't be."""
    parser.add_argument("--output", type=_folder, metavar="FOLDER", help=f"default: {default}")


def default_output(example: str, name: str) -> Path:
    """Where the results go. TensorFlow takes some characters of paths for patterns."""
    return Path("runs", example, re.sub(r"[][\\]", "_", name))


def _folder(text: str) -> Path:
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"must be a folder, which can be made: {shortened(str(error))}"
        raise argparse.ArgumentTypeError(message) from None
    return path
