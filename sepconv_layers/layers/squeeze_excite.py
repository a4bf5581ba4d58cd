"""Squeeze-and-excitation layers."""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.arguments import check_number, positive_int
from sepconv_layers.layers.base import channels_of
from sepconv_layers.layers.composite import Composite
from sepconv_layers.ops.geometry import standardize_data_format


class SqueezeExcite(Composite):
    """Scales each channel by a gate computed from the spatial means of all channels.

    Two dense layers, a narrow one and one that restores the width, turn the channel means into
    gates in `[0, 1]`. It needs the whole input, so a streaming model cannot use it.

    Args:
        ratio: Width of the narrow layer relative to the number of channels, in `(0, 1]`.
        activation: Activation of the narrow layer.
        gate_activation: Activation of the gates: `"sigmoid"`, or `"hard_sigmoid"` on small devices.
        divisor: The width of the narrow layer is rounded to a positive multiple of it.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the Keras configuration.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape:
        `(batch, *spatial, channels)`, or `(batch, channels, *spatial)` for channels first.

    Output shape:
        Same as the input shape.

    Raises:
        ValueError: If an argument is invalid, or the input does not have the rank of the layer.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import SqueezeExcite2D
        >>> tuple(SqueezeExcite2D(ratio=0.25)(np.ones((1, 8, 6, 16), "float32")).shape)
        (1, 8, 6, 16)

    Reference:
        [Hu et al., "Squeeze-and-Excitation Networks", 2018](https://arxiv.org/abs/1709.01507).
    """

    rank: int  # set by the 1D, 2D and 3D subclasses

    def __init__(
        self,
        ratio: float = 0.25,
        activation: Any = "relu",
        gate_activation: Any = "sigmoid",
        divisor: int = 1,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ratio = check_number(
            ratio, "ratio", "a number in (0, 1]", lambda ratio: 0 < ratio <= 1
        )
        self.activation = keras.activations.get(activation)
        self.gate_activation = keras.activations.get(gate_activation)
        self.divisor = positive_int(divisor, "divisor")
        self.data_format = standardize_data_format(data_format)
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2)

    @property
    def _channel_axis(self) -> int:
        return 1 if self.data_format == "channels_first" else self.rank + 1

    def build(self, input_shape: Sequence[int | None]) -> None:
        channels = channels_of(self, input_shape)
        width = max(1, round(channels * self.ratio / self.divisor)) * self.divisor
        with self._scope_of_inner():
            self.squeeze = keras.layers.Dense(
                width, activation=self.activation, dtype=self.dtype_policy, name="squeeze"
            )
            self.excite = keras.layers.Dense(
                channels, activation=self.gate_activation, dtype=self.dtype_policy, name="excite"
            )
        self._build_inner(self.squeeze, (None, channels))
        self._build_inner(self.excite, (None, width))
        self.input_spec = keras.layers.InputSpec(
            ndim=self.rank + 2, axes={self._channel_axis: channels}
        )

    def call(self, inputs: Any) -> Any:
        spatial = [axis for axis in range(1, self.rank + 2) if axis != self._channel_axis]
        gates = self.excite(self.squeeze(keras.ops.mean(inputs, axis=spatial)))
        return inputs * keras.ops.expand_dims(gates, spatial)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "ratio": self.ratio,
            "activation": keras.activations.serialize(self.activation),
            "gate_activation": keras.activations.serialize(self.gate_activation),
            "divisor": self.divisor,
            "data_format": self.data_format,
        }


@keras.saving.register_keras_serializable("sepconv_layers")
class SqueezeExcite1D(SqueezeExcite):
    """`SqueezeExcite` for sequences: `(batch, time, channels)`."""

    rank = 1


@keras.saving.register_keras_serializable("sepconv_layers")
class SqueezeExcite2D(SqueezeExcite):
    """`SqueezeExcite` for images: `(batch, height, width, channels)`."""

    rank = 2


@keras.saving.register_keras_serializable("sepconv_layers")
class SqueezeExcite3D(SqueezeExcite):
    """`SqueezeExcite` for volumes and clips: `(batch, depth, height, width, channels)`."""

    rank = 3
