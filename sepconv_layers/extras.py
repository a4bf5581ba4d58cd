"""Imports of optional packages, which the extras of this package install."""

import importlib
from typing import Any


def require(module: str, extra: str, user: str) -> Any:
    """Imports a module of an optional package.

    Args:
        module: The module.
        extra: The extra in `pyproject.toml` that installs it.
        user: The public function that needs it, for the message.

    Returns:
        The module.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"`{user}` needs the package {package!r}. Install it with `pip install "
            f"'sepconv-layers[{extra}]'`."
        ) from error
