"""Lets the reference show the sections of a docstring that its reader takes for remarks."""

import re
import textwrap
from typing import Any

import griffe

TEXTS = re.compile(r"^(Input shape|Output shape|Reference):\n((?:    .*\n?|\n)+)", re.MULTILINE)
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Sections(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Gives the docstring of one object its sections."""
        if obj.docstring:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(docstring: str) -> str:
    """The docstring with its own sections as text, and its example as a section with that title."""
    texts = TEXTS.sub(lambda match: f"**{match[1]}:**\n\n{textwrap.dedent(match[2])}", docstring)
    return EXAMPLE.sub("Examples: Example:", texts)
