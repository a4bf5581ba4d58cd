"""An aware model as exporters need it: plain layers with rounded kernels, and constant ranges."""

from typing import Any

import keras
import numpy as np

from sepconv_layers.graph_edit import ModelGraph, clone_layer, copy_state
from sepconv_layers.quantize.arithmetic import LARGEST, scale_and_zero_point
from sepconv_layers.quantize.insertion import ranges_of
from sepconv_layers.quantize.layers import FakeQuantize, FakeQuantizeKernel
from sepconv_layers.quantize.volumes import AS_IMAGES


class ConstantRange(keras.layers.Layer):
    """`FakeQuantize` with a range that does not change, as the operation that LiteRT recognizes."""

    def __init__(self, low: float, high: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.low, self.high = low, high

    def call(self, inputs: Any, is_update: bool = True) -> Any:
        import tensorflow as tf

        return tf.quantization.fake_quant_with_min_max_vars(inputs, self.low, self.high)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "low": self.low, "high": self.high}


def deployable(model: keras.Model) -> keras.Model:
    """Returns an aware model with plain layers, whose kernels have the rounded values.

    Raises:
        ValueError: If a range is unknown.
    """
    if unknown := [layer.name for layer in ranges_of(model) if not layer.is_ready]:
        raise ValueError(
            "The `model` argument must be an aware model with known ranges. Received: "
            f"{model.name!r}, in which {unknown[0]!r} has none. Train the model, or pass inputs "
            "with `quantize.aware(model, calibration=inputs)`."
        )

    def make(old: Any) -> Any:
        if isinstance(old, FakeQuantize):
            low, high = _ends(old)
            return ConstantRange(low, high, name=old.name, dtype="float32")
        if isinstance(old, FakeQuantizeKernel):
            return clone_layer(old.layer, AS_IMAGES.get(type(old.layer)))
        return clone_layer(old)

    plain, pairs = ModelGraph(model).rebuild(make)
    for old, new in pairs:
        if isinstance(old, FakeQuantizeKernel):
            copy_state(old.layer, new)
            new.kernel.assign(old.quantized_kernel())
        elif not isinstance(old, FakeQuantize):
            copy_state(old, new)
    return plain


def _ends(layer: FakeQuantize) -> tuple[float, float]:
    """The values of the smallest and the largest integer."""
    ranges = (layer.minimum.value, layer.maximum.value)
    scale, zero_point = (
        np.float64(keras.ops.convert_to_numpy(value)) for value in scale_and_zero_point(*ranges)
    )
    return float(-zero_point * scale), float((LARGEST - zero_point) * scale)
