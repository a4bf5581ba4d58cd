"""Tables of layer classes, written with patterns of class names."""

import fnmatch
from collections.abc import Mapping
from typing import TypeVar

import keras

from sepconv_layers import layers

Entry = TypeVar("Entry")


def by_class(table: Mapping[str, Entry]) -> dict[type, Entry]:
    """Maps the layer classes of Keras and of this package to the entries of a table.

    Args:
        table: Class names, or patterns of them, separated by blanks → entry.

    Returns:
        Class → entry.

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
