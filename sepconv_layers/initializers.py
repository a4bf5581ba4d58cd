"""Initializers with the correct fan-in and fan-out of a depthwise kernel."""

from typing import Any

import keras


@keras.saving.register_keras_serializable("sepconv_layers")
class DepthwiseVarianceScaling(keras.initializers.VarianceScaling):
    """Variance scaling with the fan-in and fan-out of a depthwise kernel.

    Each output of a depthwise convolution sums over the kernel elements of one channel, so a
    kernel of shape `(*kernel_size, channels, multiplier)` has a fan-in of `prod(kernel_size)` and a
    fan-out of `prod(kernel_size) * multiplier`. The initializers of `keras.initializers` take that
    shape for a standard convolution, with a fan-in `channels` times as large, so activations shrink
    by `sqrt(channels)` at each layer. With the default arguments, outputs keep the variance of
    their inputs.

    Args:
        scale: Ratio of the output variance to the input variance. Use 2 before a ReLU.
        mode: Divisor of the variance: `"fan_in"`, `"fan_out"` or `"fan_avg"`.
        distribution: `"truncated_normal"`, `"untruncated_normal"` or `"uniform"`.
        seed: Integer or `keras.random.SeedGenerator`, for reproducible values.

    Raises:
        ValueError: If an argument is invalid, or the shape is not the shape of a depthwise
            kernel.

    Example:
        >>> import keras
        >>> from sepconv_layers import DepthwiseVarianceScaling
        >>> kernel = DepthwiseVarianceScaling(seed=0)((3, 3, 256, 1))
        >>> abs(float(keras.ops.std(kernel)) - 1 / 3) < 0.02
        True

    Reference:
        [He et al., "Delving Deep into Rectifiers", 2015](https://arxiv.org/abs/1502.01852).
    """

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        if len(shape) < 3:
            raise ValueError(
                "The `shape` of a depthwise kernel is (*kernel_size, channels, multiplier). "
                f"Received: shape={tuple(shape)}"
            )
        channels, multiplier = shape[-2:]
        # Ratio of the fan that Keras computes to the correct one.
        excess = {
            "fan_in": channels,
            "fan_out": 1,
            "fan_avg": (channels + multiplier) / (1 + multiplier),
        }[self.mode]
        keras_scaling = keras.initializers.VarianceScaling(
            self.scale * excess, self.mode, self.distribution, self.seed
        )
        return keras_scaling(shape, dtype)
