"""Puts the help of the command `sepconv` where a page has `<!-- sepconv COMMAND -->`."""

import argparse
import os
import re
from typing import Any
from unittest import mock

COMMAND = re.compile(r"<!-- sepconv ?(\w*) -->")


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Called by MkDocs for each page."""
    return COMMAND.sub(lambda match: f"```text\n{help_of(match[1])}```", markdown)


def help_of(command: str) -> str:
    """The help of a subcommand, or without a name that of the command itself."""
    from sepconv_layers.cli import make_parser  # imports a backend, which most pages do not need

    parser = make_parser()
    if command:
        (commands,) = (
            action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
        )
        parser = commands.choices[command]
    with mock.patch.dict(os.environ, COLUMNS="80", NO_COLOR="1"):  # whatever the terminal is
        return parser.format_help()
