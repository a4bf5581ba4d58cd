"""Base class of layers that contain other layers."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras

from sepconv_layers.layers.stateful import Stateful

_CHANGES = "changes"  # key in the build configuration


class Composite(Stateful):
    """A layer that creates inner layers in `build`, and saves later changes to them.

    Keras saves only the configuration of the outer layer. Changes to an inner layer by
    `model.quantize`, `enable_lora` or a new `dtype_policy` are not arguments of the outer layer, so
    they are saved in its build configuration.
    """

    # For the next build. Keras and TensorFlow do not search this type for weights.
    _to_change: Mapping[str, dict[str, Any]] = MappingProxyType({})

    def _scope_of_inner(self) -> contextlib.AbstractContextManager:
        """The scope to create inner layers in: none runs again alone if this layer may.

        On TensorFlow, its weights would get no gradients.
        """
        mode = self._remat_mode
        if mode is None or mode.mode == "activations":
            return contextlib.nullcontext()
        is_other = mode.mode == "list_of_layers" and self.name not in mode.layer_names
        return contextlib.nullcontext() if is_other else keras.RematScope(mode=None)

    def changes(self) -> dict[str, dict[str, Any]]:
        """Changes to inner layers since they were created, by path."""
        found = {path: _change(layer, self) for path, layer in _inner(self)}
        return {path: change for path, change in found.items() if change}

    def get_build_config(self) -> dict | None:
        config, changes = super().get_build_config(), self.changes()
        return {**(config or {}), _CHANGES: changes} if changes else config

    def build_from_config(self, config: dict) -> None:
        self._to_change = MappingProxyType((config or {}).get(_CHANGES, {}))
        super().build_from_config(config)

    def _build_inner(self, layer: Any, shape: Sequence[int | None]) -> None:
        """Builds an inner layer in the state in which this layer was saved."""
        change = self._to_change.get(layer.name, {})
        policy = keras.dtype_policies.get(change.get("dtype", layer.dtype_policy))
        if policy.quantization_mode is not None:  # it has other weights
            layer.dtype_policy = policy
        if "quantization_config" in change:
            config = change["quantization_config"]
            layer.quantization_config = keras.saving.deserialize_keras_object(config)
        if isinstance(layer, Composite):
            within = f"{layer.name}/"
            layer._to_change = MappingProxyType(
                {
                    path.removeprefix(within): inner
                    for path, inner in self._to_change.items()
                    if path.startswith(within)
                }
            )
        if not layer.built:
            layer.build(shape)
        if policy.quantization_mode is None and "dtype" in change:
            layer.dtype_policy = policy  # the weights stay as they are
        if "lora" in change:
            layer.enable_lora(**change["lora"])


def _inner(layer: keras.layers.Layer, path: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields all inner layers with their paths."""
    for child in layer._flatten_layers(recursive=False, include_self=False):
        yield f"{path}{child.name}", child
        yield from _inner(child, f"{path}{child.name}/")


def _change(layer: Any, outer: keras.layers.Layer) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if layer.dtype_policy.name != outer.dtype_policy.name:
        found["dtype"] = keras.dtype_policies.serialize(layer.dtype_policy)
    if getattr(layer, "quantization_config", None) is not None:
        config = layer.quantization_config
        found["quantization_config"] = keras.saving.serialize_keras_object(config)
    if getattr(layer, "lora_enabled", False):
        found["lora"] = {"rank": layer.lora_rank, "lora_alpha": layer.lora_alpha}
    return found
