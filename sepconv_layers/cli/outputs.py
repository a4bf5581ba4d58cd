"""Paths that subcommands write to, checked before anything is computed, and shared lines."""

import argparse
from pathlib import Path

from sepconv_layers import timing
from sepconv_layers.cli.options import add_path


def add_keras_output(command: argparse.ArgumentParser, default: str) -> None:
    """Adds `--output` for a new .keras file."""
    description = f"the .keras file to write; default: beside the model, as {default}"
    add_path(command, "--output", description, metavar="PATH")


def new_keras_file(arguments: argparse.Namespace, suffix: str) -> Path:
    """Returns the path for a model derived from another one.

    It never replaces a model, which may be a trained one.

    Raises:
        ValueError: If it is not a .keras file, exists already, or its folder does not exist.
    """
    source = arguments.model
    path = arguments.output or source.with_name(f"{source.stem}-{suffix}.keras")
    if path.suffix != ".keras" or path.exists():
        problem = "which exists already" if path.exists() else "which has a different ending"
        raise ValueError(f"--output must be a new .keras file. Received: {path}, {problem}")
    if not path.parent.is_dir():
        raise ValueError(f"--output must be in a folder that exists. Received: {path}")
    return path


def check_export_path(path: Path, model: Path) -> None:
    """Refuses to replace the model. The export itself refuses to replace foreign files."""
    target = path.resolve()
    if target == model.resolve() or target in model.resolve().parents:
        raise ValueError(f"--output must not be the path of the model. Received: {path}")


def versions_line() -> str:
    """Names and versions of the packages that compute."""
    return ", ".join(f"{name} {version}" for name, version in timing.versions().items())
