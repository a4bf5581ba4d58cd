"""Extends the static reader of the reference: docstring sections and computed signatures."""

import importlib
import inspect
import re
import textwrap
from typing import Any

import griffe

TEXTS = re.compile(r"^(Input shape|Output shape|Reference):\n((?:    .*\n?|\n)+)", re.MULTILINE)
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Sections(griffe.Extension):
    """Rewrites docstrings before they are parsed, and inspects computed signatures."""

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Inspects a constructor that another function returns."""
        if isinstance(cls.members.get("__init__"), griffe.Attribute):
            module = importlib.import_module(cls.module.path)
            cls.set_member("__init__", constructor_of(getattr(module, cls.name)))

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Gives the docstring of one object its sections."""
        if obj.docstring:
            obj.docstring.value = rewritten(obj.docstring.value)


def constructor_of(cls: type) -> griffe.Function:
    """The constructor of an imported class, described by its signature."""
    parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    return griffe.Function(
        "__init__",
        parameters=griffe.Parameters(
            *(
                griffe.Parameter(
                    one.name,
                    annotation=inspect.formatannotation(one.annotation).replace(
                        "collections.abc.", ""
                    ),
                    kind=griffe.ParameterKind(one.kind.description),
                    default=None if one.default is one.empty else repr(one.default),
                )
                for one in parameters
            )
        ),
    )


def rewritten(docstring: str) -> str:
    """The docstring with its own sections as text, and its example as a section with that title."""
    texts = TEXTS.sub(lambda match: f"**{match[1]}:**\n\n{textwrap.dedent(match[2])}", docstring)
    return EXAMPLE.sub("Examples: Example:", texts)
