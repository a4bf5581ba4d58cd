"""Initializers that know the fans of a depthwise kernel."""

from typing import Any

import keras


@keras.saving.register_keras_serializable("sepconv_layers")
class DepthwiseVarianceScaling(keras.initializers.VarianceScaling):
    """Draws a depthwise kernel so that every output channel keeps the variance of its input.

    Each output of a depthwise convolution sums over the kernel elements of one channel, so the
    fan-in of a kernel `(*kernel_size, channels, multiplier)` is `prod(kernel_size)`, and its
    fan-out `prod(kernel_size) * multiplier`. The initializers of `keras.initializers` read that
    shape as the one of a standard convolution and count a fan-in `channels` times as large:
    activations then shrink by `sqrt(channels)` at each layer. With the default arguments, input of
    unit variance gives output of unit variance.

    Args:
        scale: Variance of the output over that of the input; 2 makes up for a ReLU that follows.
        mode: `"fan_in"`, `"fan_out"` or `"fan_avg"`: what the variance is divided by.
        distribution: `"truncated_normal"`, `"untruncated_normal"` or `"uniform"`.
        seed: Integer or `keras.random.SeedGenerator`, to draw the same numbers again.

    Raises:
        ValueError: If an argument is not of the kind described, or the shape to fill is not that
            of a depthwise kernel.

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
        # Keras's count of the fans over the true one.
        excess = {
            "fan_in": channels,
            "fan_out": 1,
            "fan_avg": (channels + multiplier) / (1 + multiplier),
        }[self.mode]
        keras_scaling = keras.initializers.VarianceScaling(
            self.scale * excess, self.mode, self.distribution, self.seed
        )
        return keras_scaling(shape, dtype)
