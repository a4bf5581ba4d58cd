"""Tables by names of layers, for what is known of each kind of layer."""

import fnmatch
from collections.abc import Mapping
from typing import TypeVar

import keras

from sepconv_layers import layers

Entry = TypeVar("Entry")


def by_class(table: Mapping[str, Entry]) -> dict[type, Entry]:
    """The entry of each class of `keras.layers` and of this library's layers that a table names.

    Args:
        table: Names of classes, or patterns of names, with blanks between them, to their entry.

    Example:
        >>> from sepconv_layers import DepthwiseConv3D
        >>> from sepconv_layers.class_table import by_class
        >>> by_class({"Dense DepthwiseConv?D": "has a kernel"})[DepthwiseConv3D]
        'has a kernel'
    """
    return {
        cls: entry
        for patterns, entry in table.items()
        for pattern in patterns.split()
        for module in (keras.layers, layers)
        for name, cls in vars(module).items()
        if isinstance(cls, type) and fnmatch.fnmatchcase(name, pattern)
    }
