"""Layers that quantize what is around them as an int8 file does."""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.arguments import check_number
from sepconv_layers.convert.folding import channel_axes
from sepconv_layers.layers.stateful import Stateful
from sepconv_layers.quantize.arithmetic import (
    LARGEST,
    fake_quantize,
    fake_quantize_kernel,
    scale_and_zero_point,
)
from sepconv_layers.quantize.rules import Kind, kind_of

BITS = (8, 4)  # of weights


@keras.saving.register_keras_serializable("sepconv_layers")
class FakeQuantize(Stateful):
    """Rounds an activation to the 256 values that it has in an int8 file.

    `aware` puts it where the file has an int8 tensor. In training, the range follows the smallest
    and the largest value of each batch. In inference it stays. Zero is always one of the values.
    The gradient is one within the range and zero outside of it. Until the first batch, the layer
    does nothing. With `trainable=False`, the range stays as it is, as in the last epochs of Jacob
    et al.

    Args:
        momentum: Momentum of the moving averages of minimum and maximum. The first batches are
            averaged equally, until one has a weight of `1 - momentum`.
        fixed_range: Minimum and maximum where the file prescribes them, as for a softmax. Defaults
            to a moving range.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape:
        Any.

    Output shape:
        Same as the input shape.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import quantize
        >>> layer = quantize.FakeQuantize()
        >>> y = layer(np.array([0.0, 0.3, 255.0], "float32"), training=True)
        >>> [float(value) for value in y]
        [0.0, 0.0, 255.0]
        >>> layer.scale, layer.zero_point
        (1.0, -128)

    Reference:
        [Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", 2017](https://arxiv.org/abs/1712.05877).
    """

    def __init__(
        self,
        momentum: float = 0.99,
        fixed_range: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.momentum = check_number(
            momentum, "momentum", "a number in [0, 1)", lambda number: 0 <= number < 1
        )
        self.fixed_range = fixed_range and tuple(fixed_range)
        if fixed_range and not (len(fixed_range) == 2 and fixed_range[0] <= 0 <= fixed_range[1]):
            raise ValueError(
                "The `fixed_range` argument must be None, or a minimum and a maximum with zero "
                f"between them. Received: fixed_range={fixed_range!r}"
            )
        self.supports_masking = True
        self.is_measuring = False  # whether inference only measures the range

    def build(self, input_shape: Sequence[int | None]) -> None:
        low, high = self.fixed_range or (0.0, 0.0)
        self.minimum = self._state("minimum", low)
        self.maximum = self._state("maximum", high)
        self.updates = self._state("updates", 1.0 if self.fixed_range else 0.0)

    def _state(self, name: str, value: float) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=(),
            dtype="float32",
            initializer=keras.initializers.Constant(value),
            trainable=False,
            autocast=False,
        )

    def call(self, inputs: Any, training: bool | None = None, is_update: bool = True) -> Any:
        """Quantizes.

        Without `is_update`, the range is that of another tensor, and stays.
        """
        moves = is_update and self.trainable and not self.fixed_range
        if moves and (training or self.is_measuring):
            self._update(inputs)
        if self.is_measuring:
            return inputs
        x = keras.ops.cast(inputs, "float32")
        quantized = fake_quantize(x, self.minimum.value, self.maximum.value)
        return keras.ops.cast(keras.ops.where(self.updates > 0, quantized, x), inputs.dtype)

    def _update(self, inputs: Any) -> None:
        if 0 in inputs.shape:
            return
        x = keras.ops.stop_gradient(keras.ops.cast(inputs, "float32"))
        low, high = keras.ops.min(x), keras.ops.max(x)
        # Not so in an empty batch, and where training has diverged.
        is_finite = keras.ops.isfinite(high - low)
        weight = keras.ops.maximum(1.0 / (self.updates + 1.0), 1.0 - self.momentum)
        for variable, now in ((self.minimum, low), (self.maximum, high)):
            moved = variable + (now - variable) * weight
            variable.assign(keras.ops.where(is_finite, moved, variable.value))
        self.updates.assign_add(keras.ops.cast(is_finite, "float32"))

    def compute_macs(self, input_shape: Any, output_shape: Any) -> int:
        return 0

    @property
    def is_ready(self) -> bool:
        """Whether the layer has a range."""
        return bool(self.built and keras.ops.convert_to_numpy(self.updates) > 0)

    @property
    def scale(self) -> float:
        """The step between two values."""
        return float(scale_and_zero_point(self.minimum.value, self.maximum.value)[0])

    @property
    def zero_point(self) -> int:
        """The int8 that stands for zero."""
        _, zero_point = scale_and_zero_point(self.minimum.value, self.maximum.value)
        return int(zero_point) - (LARGEST + 1) // 2

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "fixed_range": self.fixed_range,
        }


@keras.saving.register_keras_serializable("sepconv_layers")
class FakeQuantizeKernel(keras.layers.Wrapper):
    """Runs a layer with its kernel rounded to integers, one scale for each output channel.

    The largest value of a channel is the largest integer. The bias, which a file has in 32 bits,
    stays as it is. So does a batch normalization that follows: its scale for each channel scales
    the steps of that channel, so that the file's kernel, in which it is folded, has the integers of
    this one.

    Args:
        layer: A convolution, depthwise convolution or dense layer, transposed or not, of this
            package or of Keras.
        bits: 8 or 4.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape:
        That of the layer.

    Output shape:
        That of the layer.

    Raises:
        ValueError: If the layer is of another kind, or `bits` is invalid.

    Example:
        >>> import keras, numpy as np
        >>> from sepconv_layers import quantize
        >>> layer = quantize.FakeQuantizeKernel(keras.layers.Dense(1), bits=4)
        >>> layer.build((None, 2))
        >>> layer.set_weights([np.array([[1.0], [0.4]]), np.zeros(1)])
        >>> y = layer(np.eye(2, dtype="float32"))
        >>> [round(float(value), 3) for value in y[:, 0]]
        [1.0, 0.429]

    Reference:
        [Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", 2018](
        https://arxiv.org/abs/1806.08342).
    """

    def __init__(self, layer: keras.layers.Layer, bits: int = 8, **kwargs: Any) -> None:
        super().__init__(
            layer,
            **{
                "name": layer.name,
                "dtype": layer.dtype_policy,
                "trainable": layer.trainable,
                "activity_regularizer": layer.activity_regularizer,
                **kwargs,
            },
        )
        check_bits(bits, "bits")
        if kind_of(layer) is not Kind.KERNEL:
            raise ValueError(
                "The `layer` argument must be a convolution or dense layer with one kernel, which "
                "`enable_lora` and `quantize` have not changed. Received: "
                f"{layer.name!r} of the class {type(layer).__name__}."
            )
        self.bits = bits
        self.supports_masking = layer.supports_masking

    def call(self, inputs: Any) -> Any:
        values = {id(weight): weight.value for weight in self.layer.variables}
        values[id(self.layer.kernel)] = self.quantized_kernel()
        with keras.StatelessScope([(one, values[id(one)]) for one in self.layer.variables]):
            return self.layer.call(inputs)

    def quantized_kernel(self) -> Any:
        """The kernel that the layer runs with."""
        return fake_quantize_kernel(self.layer.kernel.value, self.bits, channel_axes(self.layer))

    @property
    def scales(self) -> Any:
        """The step of each channel's kernel."""
        kernel = abs(keras.ops.convert_to_numpy(self.layer.kernel))
        axes = [n for n in range(kernel.ndim) if n - kernel.ndim not in channel_axes(self.layer)]
        return kernel.max(tuple(axes)).ravel() / (2 ** (self.bits - 1) - 1)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "bits": self.bits}


def check_bits(bits: Any, argument: str) -> None:
    """Raises a `ValueError` for a number of bits that weights cannot have."""
    if bits not in BITS or isinstance(bits, bool):
        raise ValueError(
            f"The `{argument}` argument must be one of {BITS}. Received: {argument}={bits!r}"
        )
