"""Names of inputs and outputs, the same in every kind of artifact."""

import functools
import keyword
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from sepconv_layers.graph_edit import input_structure

NamedArrays = dict[str, np.ndarray]


def leaves(structure: Any, values: Any) -> list[Any]:
    """Returns the values at the leaves of `structure`, in the order in which Keras flattens it.

    The keys of the two may be in different orders: Keras sorts the keys of a dictionary but not of
    an `OrderedDict`, and a SavedModel returns a plain dictionary for either.
    """
    paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
    return [functools.reduce(operator.getitem, path, values) for path in paths]


def keys_of(structure: Any) -> list[Any] | None:
    """Returns the keys of a flat dictionary in the order of its leaves, or else `None`."""
    paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
    is_flat = isinstance(structure, Mapping) and all(len(path) == 1 for path in paths)
    return [key for (key,) in paths] if is_flat else None


def input_names(model: keras.Model) -> list[str]:
    """Returns the keys of a dictionary of inputs, or the names of the inputs, or `inputs`."""
    keys = keys_of(input_structure(model))
    if keys is not None:
        return argument_names(keys)
    default = default_names(len(model.inputs))
    return argument_names(
        [
            name if tensor.name.startswith("keras_tensor") else tensor.name
            for tensor, name in zip(model.inputs, default, strict=True)
        ]
    )


def default_names(count: int) -> list[str]:
    """Returns names for `count` unnamed inputs."""
    return ["inputs"] if count == 1 else [f"inputs_{i}" for i in range(count)]


def output_names(model: keras.Model) -> list[str]:
    """Returns the keys of a dictionary of outputs, or the names of the layers that made them."""
    layers = [tensor._keras_history.operation.name for tensor in model.outputs]
    keys = None if isinstance(model, keras.Sequential) else keys_of(model.output)
    return unique([_identifier(name) or "output" for name in (layers if keys is None else keys)])


def output_structure(model: keras.Model) -> Any:
    """Returns the structure of a call's result: Keras unpacks a list of one output."""
    if isinstance(model, keras.Sequential):  # has no `output` until it is called
        structure = model.compute_output_spec(model.inputs[0])
    else:
        structure = model.output
    is_list_of_one = isinstance(structure, list | tuple) and len(structure) == 1
    return structure[0] if is_list_of_one else structure


def named_arrays(names: Sequence[str], structure: Any, values: Any) -> NamedArrays:
    """Returns the result of a call as arrays by name.

    Args:
        names: A name for each leaf.
        structure: The model's output structure.
        values: The result of the call, whose keys may be in another order.
    """
    found = leaves(structure, values)
    return {
        name: keras.ops.convert_to_numpy(value) for name, value in zip(names, found, strict=True)
    }


def argument_names(names: Sequence[Any]) -> list[str]:
    """Returns distinct names that are valid for arguments of TensorFlow, which ignores case."""
    found = [re.sub(r"[^0-9a-zA-Z]", "_", str(name)) for name in names]
    found = [name if name[:1].isalpha() else f"arg_{name}" for name in found]
    found = [f"{name}_" if keyword.iskeyword(name) or name == "self" else name for name in found]
    return unique(found, str.lower)


def _identifier(name: Any) -> str:
    """Replaces the characters that TensorFlow would replace."""
    return re.sub(r"^(?=\d)|\W", "_", str(name))


def unique(names: Sequence[str], form: Callable[[str], str] = str) -> list[str]:
    """Appends numbers to names that occur more than once.

    Args:
        names: The names.
        form: Maps a name to what must be unique.
    """
    forms = [form(name) for name in names]
    taken = set(forms)
    found: list[str] = []
    for index, name in enumerate(names):
        if forms.count(forms[index]) > 1:
            number = forms[:index].count(forms[index])
            while form(f"{name}_{number}") in taken:
                number += 1
            name = f"{name}_{number}"
            taken.add(form(name))
        found.append(name)
    return found
