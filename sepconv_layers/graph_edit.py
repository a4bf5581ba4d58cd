"""Rebuilds a model with some of its layers replaced or left out."""

import collections
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras

from sepconv_layers.layers.composite import Composite

FUNCTIONS = ("activation", "normalization")  # configuration entries that may be functions


class ModelGraph:
    """The graphs of a model and of all models inside it, to inspect and to rebuild.

    Args:
        model: A functional model or a built sequential model. It is not changed.

    Raises:
        ValueError: If the model is of another kind.
    """

    def __init__(self, model: keras.Model) -> None:
        if not is_graph(model):
            raise ValueError(
                "The `model` argument must be a functional model or a built sequential model: "
                "start a sequential model with a `keras.Input`. Received: "
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
        """Whether a layer is called exactly once."""
        return self._calls[id(layer)] == 1

    def only_user(self, tensor: Any) -> Any:
        """The node that is the only use of a tensor, or `None`."""
        users = self._users[id(tensor)]
        return users[0] if len(users) == 1 and id(tensor) not in self._outputs else None

    def layers_named(self, names: Sequence[str], argument: str) -> set[int]:
        """The ids of the layers of those names and of all layers inside them.

        Args:
            names: Names of layers, blocks and nested models.
            argument: Name of the argument that has them.

        Raises:
            ValueError: If a name is unknown.
        """
        found: dict[str, list[Any]] = collections.defaultdict(list)
        for node in self.nodes:
            found[node.operation.name].append(node.operation)
        if unknown := sorted(set(names) - set(found)):
            raise ValueError(
                f"The `{argument}` argument must hold names of layers of the model. Received "
                f"unknown names: {unknown}."
            )
        return {
            id(inner)
            for name in names
            for layer in found[name]
            for inner in (
                layer._flatten_layers() if isinstance(layer, keras.layers.Layer) else [layer]
            )
        }

    def rebuild(
        self, make: Callable[[Any], Any], skipped: Iterable[Any] = ()
    ) -> tuple[keras.Model, list[tuple[Any, Any]]]:
        """Rebuilds the model.

        Args:
            make: Returns the replacement of a layer or operation. It is called once for each.
            skipped: Layers to leave out. Their input is passed on.

        Returns:
            A functional model, without the weights of the old one, and the pairs of old and new
            layers.
        """
        without = {id(layer) for layer in skipped}
        made: dict[int, Any] = {}
        pairs: list[tuple[Any, Any]] = []

        def new(old: Any) -> Any:
            if id(old) in without or id(old) in self._graphs:
                return old  # it is not called
            if id(old) not in made:
                made[id(old)] = make(old)
                if isinstance(old, keras.layers.Layer):  # other operations have no weights
                    pairs.append((old, made[id(old)]))
            return made[id(old)]

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if id(layer) in without:
                return keras.tree.flatten((args, kwargs))[0]
            if id(layer) not in self._graphs:
                return layer(*args, **kwargs)
            if id(layer) not in made:
                made[id(layer)] = clone(self._graphs[id(layer)], args[0])
            return made[id(layer)](*args, **kwargs)

        def clone(graph: keras.Model, inputs: Any = None) -> keras.Model:
            if inputs is not None:  # of a model inside the model: layers before it may be others
                inputs = keras.tree.pack_sequence_as(
                    graph.input,
                    [
                        _input_like(old, tensor)
                        for old, tensor in zip(
                            graph.inputs, keras.tree.flatten(inputs), strict=True
                        )
                    ],
                )
            return keras.models.clone_model(
                graph, input_tensors=inputs, clone_function=new, call_function=call
            )

        return clone(self._graphs[id(self.model)]), pairs


def _input_like(old: Any, tensor: Any) -> Any:
    """An input in place of an old one, with the sizes of a tensor where the old one has sizes."""
    sizes = zip(old.shape, tensor.shape, strict=True)
    shape = [new if size is not None else None for size, new in sizes]
    return keras.Input(batch_shape=shape, dtype=old.dtype, name=old.name)


def clone_layer(layer: Any, cls: Any = None, **changes: Any) -> Any:
    """Returns a layer with the same configuration and no weights, or a copy of an operation.

    Functions in the configuration are passed on as they are, since not all can be serialized.

    Args:
        layer: The layer or operation.
        cls: Class of the clone, if it is another one.
        **changes: Changes to the configuration. Only the name of an operation can change.

    Raises:
        ValueError: If the class of the layer cannot be created from its configuration.
    """
    if not isinstance(layer, keras.layers.Layer):
        return shallow_copy(layer, **changes)  # its arguments may not be serializable
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
            # It warns that loading would be unsafe, but nothing is saved here.
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
            f"The layer {layer.name!r} cannot be cloned: its class, {type(layer).__name__}, must "
            "have a `get_config` that returns the arguments of its constructor."
        ) from error
    if isinstance(layer, Composite) and layer.changes():
        new.build_from_config(build_config)
    return new


def shallow_copy(operation: keras.Operation, **attributes: Any) -> Any:
    """Returns a copy that shares everything with an operation except the graph.

    Args:
        operation: A layer or operation that cannot be created from a configuration.
        **attributes: Attributes that differ in the copy.
    """
    new = object.__new__(type(operation))  # `copy.copy` would use the configuration
    own: dict[str, Any] = {"_inbound_nodes": [], "_outbound_nodes": [], **attributes}
    vars(new).update({**vars(operation), **own})
    return new


def _in_dtype(config: Any, dtype: str) -> Any:
    """Replaces the float dtypes in a configuration, also of inner layers such as of a wrapper."""
    if isinstance(config, list | tuple):
        return type(config)(_in_dtype(value, dtype) for value in config)
    if not isinstance(config, dict):
        return config
    changed = {key: _in_dtype(value, dtype) for key, value in config.items()}
    policy = config.get("dtype")
    if isinstance(policy, dict):
        policy = keras.dtype_policies.deserialize(policy)
        if policy.quantization_mode:  # it is kept
            return {**changed, "dtype": _quantized_from(policy, dtype)}
        policy = policy.name
    return {**changed, "dtype": dtype} if isinstance(policy, str) and "float" in policy else changed


def _quantized_from(policy: Any, dtype: str) -> Any:
    new = type(policy).from_config({**policy.get_config(), "source_name": dtype})
    return keras.dtype_policies.serialize(new)


def copy_state(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Copies weights and vocabularies the way Keras saves and loads them."""
    for one, other in zip(old._flatten_layers(), new._flatten_layers(), strict=True):
        store: dict[str, Any] = {}
        one.save_own_variables(store)
        # Copied, because training on JAX frees the memory of the old values.
        arrays = {key: keras.ops.convert_to_numpy(value).copy() for key, value in store.items()}
        other.load_own_variables(arrays)
        if hasattr(one, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                one.save_assets(folder)
                other.load_assets(folder)


def calls_as_defined(layer: Any) -> bool:
    """Whether the `call` of a layer is defined by Keras or by this package."""
    return type(layer).call.__module__.partition(".")[0] in ("keras", "sepconv_layers")


def is_graph(layer: Any) -> bool:
    """Whether a layer is a functional or built sequential model, with a known graph."""
    is_model = isinstance(layer, keras.Model) and getattr(layer, "inputs", None)
    return bool(is_model and calls_as_defined(layer))


def input_structure(model: keras.Model) -> Any:
    """The inputs in the structure that a graph takes: a tensor, or a list or dictionary of them."""
    if isinstance(model, keras.Sequential):  # it has no `input` until it is called
        return model.inputs[0]
    is_list = isinstance(model.input, list | tuple)
    return model.inputs[0] if is_list and len(model.inputs) == 1 else model.input


def _graphs(model: keras.Model) -> Iterator[keras.Model]:
    """The model and all models inside it, one for each place."""
    yield model
    for layer in model.layers:
        if is_graph(layer):
            yield from _graphs(layer)


def _plain(model: keras.Model) -> keras.Model:
    """The same graph as a functional model that is not compiled.

    A clone of a compiled model is compiled again, which fails for some losses.
    """
    if isinstance(model, keras.Sequential):
        outputs = model.outputs if len(model.outputs) > 1 else model.outputs[0]
        return keras.Model(model.inputs[0], outputs, name=model.name)
    return keras.Model(model.input, model.output, name=model.name)
