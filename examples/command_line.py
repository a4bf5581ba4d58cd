"""The command lines of the examples: shared options, and messages in place of tracebacks."""

import argparse
import atexit
import contextlib
import functools
import math
import os
import re
import shlex
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from examples.artifacts import add_export
from examples.nets import CHOICES, LIMITS, NARROW
from examples.sources import VANISHED, printable, shortened

JOB = "KERAS_DISTRIBUTION_JOB_ADDRESSES"  # that Keras reads, for all processes together
INTERRUPTED = 130  # the exit status that shells report for a command that Ctrl-C ended


def without_traceback(main: Callable) -> Callable:
    """Makes a command end with a message, not a traceback, on Ctrl-C or a system error."""

    @functools.wraps(main)
    def run(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            if _is_interrupt(error):
                print("\nInterrupted. To continue, run the same command again.", file=sys.stderr)
                raise SystemExit(INTERRUPTED) from None
            if not isinstance(error, FloatingPointError | ImportError | OSError | ValueError):
                if (said := _in_callback(error)) is None:
                    raise
                error = said
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from error

    return run


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether an error is Ctrl-C, or what a library raised because of it.

    TensorFlow, for example, turns it into an error of its own if it arrives in a Python callback.
    """
    if error is None:
        return False
    name = KeyboardInterrupt.__name__
    is_interrupt = isinstance(error, KeyboardInterrupt) or f"{name}:" in str(error)
    return is_interrupt or _is_interrupt(error.__cause__ or error.__context__)


def _in_callback(error: BaseException) -> ValueError | None:
    """Returns a `ValueError` of data that are read while a net trains.

    TensorFlow turns it into an error of its own, whose text holds it.
    """
    if not type(error).__module__.startswith("tensorflow."):
        return None
    found = re.search(f"ValueError: (.* {VANISHED} .*)", str(error))
    return ValueError(found[1]) if found else None


@contextlib.contextmanager
def user_errors(parser: argparse.ArgumentParser, **flags: str) -> Iterator[None]:
    """Ends the command with a message if it cannot use what the user passed.

    Warnings are printed as a message, too, without the line of code that they come from.

    Args:
        parser: The parser of the command. The message names its options, not the arguments of
            functions.
        **flags: The options of arguments that have other names.
    """
    format_warning = warnings.formatwarning
    warnings.formatwarning = lambda message, *args, **kwargs: f"warning: {message}\n"
    try:
        yield
    except MemoryError as error:
        parser.error(f"this needs more memory than is available: {shortened(str(error))}")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        flags |= {action.dest: action.option_strings[0] for action in parser._actions
                  if action.option_strings}  # fmt: skip

        def as_option(argument: re.Match) -> str:
            return flags.get(argument[1], argument[0])

        if isinstance(error, OSError) and error.strerror:
            parser.error(f"{shortened(str(error.filename))}: {error.strerror}")
        parser.error(re.sub(r"`(\w+)`", as_option, str(error)))
    finally:
        warnings.formatwarning = format_warning


def new_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Returns a parser for `python -m module`, described by the docstring of the module."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def training_parser(
    example: str,
    description: str | None,
    *,
    datasets: Iterable[str],
    default: str,
    own_data: tuple[str, str],
    searched: Iterable[str],
    epochs: str,
    cache: str | None = None,
    batch_size: int | str = 64,
    export: str = "none",
) -> argparse.ArgumentParser:
    """Returns the parser of `examples.EXAMPLE.train`, with the options that all examples share.

    Args:
        example: The folder of the example.
        description: The docstring of the module.
        datasets: The names of its public data sets.
        default: The data set that is used by default.
        own_data: The metavar and the help of `--data`.
        searched: The names of what `--search` tries.
        epochs: The default of `--epochs`, in words.
        cache: What `--cache` keeps, and the default, in words. Without, there is no such option.
        batch_size: The default of `--batch-size`. In words if it depends on the data set.
        export: The default of `--export`.
    """
    parser = new_parser(f"examples.{example}.train", description)
    add_source(parser, datasets, default, own_data, cache)
    positive = positive_number(int)
    nets = parser.add_mutually_exclusive_group()
    nets.add_argument(
        "--conv",
        choices=CHOICES,
        default="both",
        help=f"all: also {NARROW}, with the MACs of the separable net; default: both",
    )
    nets.add_argument(
        "--sizes",
        type=_sizes,
        metavar="WIDTH,...",
        help="accuracy against cost: separable nets of these widths, standard nets with the same "
        "MACs, and one with twice as many",
    )
    nets.add_argument(
        "--search",
        type=positive,
        metavar="TRIALS",
        help="the most accurate net of each family within limits, of so many that are tried; "
        f"tried: {', '.join(searched)}",
    )
    for name, words in LIMITS.items():
        parser.add_argument(
            f"--limit-{name.replace('_', '-')}",
            type=positive_number(float),
            metavar="NUMBER",
            help=f"for --sizes and --search: most {words}",
        )
    add_budget(parser, epochs, batch_size)
    parser.add_argument(
        "--distribute",
        action=_Distribute,
        help="train on all devices; with JAX also in several processes, which run the same command "
        f"with Keras's variables: {JOB}, ..._NUM_PROCESSES, ..._PROCESS_ID",
    )
    add_export(parser, default=export)
    add_output(parser, default=f"runs/{example}/DATASET")
    return parser


def add_source(
    parser: argparse.ArgumentParser,
    datasets: Iterable[str],
    default: str,
    own_data: tuple[str, str],
    cache: str | None = None,
) -> None:
    """Adds `--dataset`, `--data` and `--cache`; arguments are those of `training_parser`."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dataset", choices=datasets, help=f"public data; default: {default}")
    metavar, own = own_data
    source.add_argument("--data", metavar=metavar, help=f"your own data: {own}")
    if cache is not None:
        parser.add_argument("--cache", metavar="FOLDER", help=f"folder of {cache}")


def add_budget(
    parser: argparse.ArgumentParser, epochs: str, batch_size: int | str = 64, seeds: int = 3
) -> None:
    """Adds the options of nets and their training; the arguments are those of `training_parser`."""
    positive = positive_number(int)
    parser.add_argument("--epochs", type=positive, help=f"default: {epochs}")
    parser.add_argument(
        "--seeds", type=positive, default=seeds, help=f"trainings per net; default: {seeds}"
    )
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
        help="compile the nets with XLA, or not; default: whichever is faster for each net",
    )
    width = "factor on the width of every layer; default: 1"
    parser.add_argument("--width", type=positive_number(float), default=1.0, help=width)
    parser.add_argument("--limit", type=positive, help="maximum number of training samples")


def _sizes(text: str) -> list[float]:
    """Several widths, in rising order."""
    widths = sorted({positive_number(float)(width) for width in text.split(",")})
    if len(widths) < 2:
        raise argparse.ArgumentTypeError(f"must be at least two widths, received {text}")
    return widths


def compare_options(
    arguments: argparse.Namespace,
    argv: Sequence[str],
    *,
    example: str,
    dataset: str,
    epochs: int,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Returns the arguments of `compare` that follow from the options of `training_parser`.

    Args:
        arguments: The parsed options.
        argv: The options as they were given, for the record.
        example: The folder of the example.
        dataset: The name of the data set.
        epochs: The default number of epochs for this data set.
        batch_size: The default batch size, if the parser has none.
    """
    return {
        "convs": CHOICES[arguments.conv],
        "epochs": arguments.epochs or epochs,
        "batch_size": arguments.batch_size or batch_size,
        "seeds": arguments.seeds,
        "jit_compile": arguments.jit_compile,
        "distribution": arguments.distribute,
        "output": output_folder(arguments, example, dataset),
        "dataset": dataset,
        "command": command(f"examples.{example}.train", argv),
    }


def command(module: str, argv: Sequence[str]) -> str:
    """Returns the command line that repeats a run."""
    return printable(shlex.join(["python", "-m", module, *argv]))


def positive_number(kind: Callable) -> Callable:
    """Returns a type for `add_argument` that refuses numbers that are not positive and finite."""

    def number(text: str):
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be positive and finite, received {text}")
        return value

    return number


def add_output(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds `--output`, whose folder is created at once, so that an error precedes the training."""
    parser.add_argument("--output", type=_folder, metavar="FOLDER", help=f"default: {default}")


class _Distribute(argparse.Action):
    """Joins the processes that Keras's variables name, before anything is computed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, nargs=0, **kwargs)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *args: Any
    ) -> None:
        namespace.distribute = "auto"
        if JOB not in os.environ:
            return
        if keras.backend.backend() != "jax":
            parser.error(f"{JOB} needs the JAX backend: set KERAS_BACKEND=jax")
        keras.distribution.initialize()
        if not _is_first_process():  # the first one prints and writes
            sys.stdout = Path(os.devnull).open("w")


def _is_first_process() -> bool:
    if keras.backend.backend() != "jax":
        return True
    import jax

    return jax.process_index() == 0


def output_folder(arguments: argparse.Namespace, example: str, name: str) -> Path:
    """Returns the folder for results; a temporary one in all processes but the first."""
    if arguments.distribute and not _is_first_process():
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)
    return arguments.output or default_output(example, name)


def default_output(example: str, name: str) -> Path:
    """Returns the default folder for results, without characters that TensorFlow expands."""
    return Path("runs", example, re.sub(r"[][\\]", "_", name))


def _folder(text: str) -> Path:
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"must be a folder that can be created: {shortened(str(error))}"
        raise argparse.ArgumentTypeError(message) from None
    return path
