"""A model made anew, with other layers in place of some of its own and without others."""

import collections
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

from sepconv_layers.layers.composite import Composite

FUNCTIONS = ("activation", "normalization")  # what may be a function in a configuration


class ModelGraph:
    """The graphs of a model, its own and those of all models inside it, to look at and to rebuild.

    Args:
        model: A functional model, or a sequential one that is built. It is not changed.

    Raises:
        ValueError: If the model is of another kind.
    """

    def __init__(self, model: keras.Model) -> None:
        if not is_graph(model):
            raise ValueError(
                "The `model` argument must be a functional model, or a sequential one that is "
                "built, such as by a `keras.Input` at its start. Received: "
                f"model={model!r}"
            )
        self.model = model
        self._graphs = {id(graph): _plain(graph) for graph in _graphs(model)}
        by_depth = [graph._nodes_by_depth for graph in self._graphs.values()]
        self.nodes = [  # from inputs to outputs
            node for levels in by_depth for depth in sorted(levels)[::-1] for node in levels[depth]
        ]
        self._calls = collections.Counter(id(node.operation) for node in self.nodes)
        self._users: dict[int, list[Any]] = collections.defaultdict(list)
        for node in self.nodes:
            for tensor in node.input_tensors:
                self._users[id(tensor)].append(node)
        self._outputs = {id(tensor) for graph in self._graphs.values() for tensor in graph.outputs}

    def is_called_once(self, layer: Any) -> bool:
        """Whether a layer stands in one place only."""
        return self._calls[id(layer)] == 1

    def only_user(self, tensor: Any) -> Any:
        """The node that is all that a tensor is for, or `None`."""
        users = self._users[id(tensor)]
        return users[0] if len(users) == 1 and id(tensor) not in self._outputs else None

    def rebuild(
        self, make: Callable[[Any], Any], skipped: Iterable[Any] = ()
    ) -> tuple[keras.Model, list[tuple[Any, Any]]]:
        """Rebuilds the model.

        Args:
            make: Gives what is to stand in place of a layer or operation, called once for each.
            skipped: Layers to leave out, which hand on their input.

        Returns:
            A functional model, without the weights of the old one, and the pairs of old and new
            layers.
        """
        without = {id(layer) for layer in skipped}
        made: dict[int, Any] = {}
        pairs: list[tuple[Any, Any]] = []

        def new(old: Any) -> Any:
            if id(old) in without:
                return old  # which is not called
            if id(old) not in made:
                if id(old) in self._graphs:
                    made[id(old)] = clone(self._graphs[id(old)])
                else:
                    made[id(old)] = make(old)
                    if isinstance(old, keras.layers.Layer):  # other operations have no weights
                        pairs.append((old, made[id(old)]))
            return made[id(old)]

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if id(layer) in without:
                return keras.tree.flatten((args, kwargs))[0]
            return layer(*args, **kwargs)

        def clone(graph: keras.Model) -> keras.Model:
            return keras.models.clone_model(graph, clone_function=new, call_function=call)

        return clone(self._graphs[id(self.model)]), pairs


def clone_layer(layer: Any, cls: Any = None, **changes: Any) -> Any:
    """A layer of the same configuration, without weights, or an operation of the same arguments.

    Functions are handed on as they are: not every one can be found by its name, or written.

    Args:
        layer: The old one.
        cls: Another class to make of its configuration.
        **changes: Other values in the configuration; of an operation, its name alone can be
            another one.

    Raises:
        ValueError: If the layer's class cannot make another one of its configuration.
    """
    if not isinstance(layer, keras.layers.Layer):
        return shallow_copy(layer, **changes)  # its arguments need not be ones that can be written
    if isinstance(layer, keras.layers.Lambda):
        return keras.layers.Lambda(
            layer.function,
            output_shape=layer._output_shape,
            mask=layer.mask,
            arguments=layer.arguments,
            name=layer.name,
            dtype=changes.get("dtype", layer.dtype_policy),
        )
    try:
        with warnings.catch_warnings():
            # That it could not be loaded safely: it is not written.
            warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
            config = layer.get_config()
        build_config = layer.get_build_config() if layer.built else None
        if "dtype" in changes:
            config, build_config = _in_dtype([config, build_config], changes.pop("dtype"))
        found = {key: getattr(layer, key, None) for key in FUNCTIONS if key in config}
        functions = {key: function for key, function in found.items() if callable(function)}
        new = (cls or type(layer)).from_config({**config, **functions, **changes})
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"The layer {layer.name!r} cannot be made anew: its class, {type(layer).__name__}, "
            "needs a `get_config` that returns the arguments of its constructor."
        ) from error
    if isinstance(layer, Composite) and layer.changes():
        new.build_from_config(build_config)
    return new


def shallow_copy(operation: keras.Operation, **attributes: Any) -> Any:
    """A copy that shares everything with an operation except the graphs that it is part of.

    Args:
        operation: A layer or operation whose configuration cannot rebuild it.
        **attributes: Attributes of the copy that differ.
    """
    new = object.__new__(type(operation))  # `copy` would build one from its configuration
    own: dict[str, Any] = {"_inbound_nodes": [], "_outbound_nodes": [], **attributes}
    vars(new).update({**vars(operation), **own})
    return new


def _in_dtype(config: Any, dtype: str) -> Any:
    """A configuration whose layers, such as those of a wrapper, compute in floats of that type."""
    if isinstance(config, list | tuple):
        return type(config)(_in_dtype(value, dtype) for value in config)
    if not isinstance(config, dict):
        return config
    changed = {key: _in_dtype(value, dtype) for key, value in config.items()}
    policy = config.get("dtype")
    if isinstance(policy, dict):
        policy = keras.dtype_policies.deserialize(policy)
        if policy.quantization_mode:  # which is kept
            return {**changed, "dtype": _quantized_from(policy, dtype)}
        policy = policy.name
    return {**changed, "dtype": dtype} if isinstance(policy, str) and "float" in policy else changed


def _quantized_from(policy: Any, dtype: str) -> Any:
    new = type(policy).from_config({**policy.get_config(), "source_name": dtype})
    return keras.dtype_policies.serialize(new)


def copy_state(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Copies weights and vocabularies, by what Keras saves and loads."""
    for one, other in zip(old._flatten_layers(), new._flatten_layers(), strict=True):
        store: dict[str, Any] = {}
        one.save_own_variables(store)
        # Copies: training on JAX gives back the memory of the old values, which none may share.
        arrays = {key: keras.ops.convert_to_numpy(value).copy() for key, value in store.items()}
        other.load_own_variables(arrays)
        if hasattr(one, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                one.save_assets(folder)
                other.load_assets(folder)


def calls_as_defined(layer: Any) -> bool:
    """Whether the layer is called as its class in Keras or in this package defines it."""
    return type(layer).call.__module__.partition(".")[0] in ("keras", "sepconv_layers")


def is_graph(layer: Any) -> bool:
    """Whether a layer is a model whose layers and their calls are known."""
    is_model = isinstance(layer, keras.Model) and getattr(layer, "inputs", None)
    return bool(is_model and calls_as_defined(layer))


def input_structure(model: keras.Model) -> Any:
    """The inputs of a graph as it takes them: a tensor, or a list or dictionary of tensors."""
    if isinstance(model, keras.Sequential):  # has no `input` until it is called
        return model.inputs[0]
    is_list = isinstance(model.input, list | tuple)
    return model.inputs[0] if is_list and len(model.inputs) == 1 else model.input


def _graphs(model: keras.Model) -> Iterator[keras.Model]:
    """The model and all models that it calls, each as often as it is met."""
    yield model
    for layer in model.layers:
        if is_graph(layer):
            yield from _graphs(layer)


def _plain(model: keras.Model) -> keras.Model:
    """The same graph as a functional model that is not compiled: how it was trained is no matter.

    Clones of a compiled model are compiled again, which not every loss survives.
    """
    if isinstance(model, keras.Sequential):
        outputs = model.outputs if len(model.outputs) > 1 else model.outputs[0]
        return keras.Model(model.inputs[0], outputs, name=model.name)
    return keras.Model(model.input, model.output, name=model.name)
