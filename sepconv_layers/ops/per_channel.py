"""A product with one weight per channel, with a gradient that XLA computes fast on a CPU."""

from typing import Any

import keras

from sepconv_layers.ops.geometry import Geometry

# Numbers of slices to add up at once, in two rounds. More win little and take long to compile;
# after one round alone, XLA fuses the slices into the sum again, and nothing is won.
SLICES = (4, 3, 2)
ROUNDS = 2


def weigh(inputs: Any, weights: Any, geometry: Geometry) -> Any:
    """Multiplies each channel with its weight."""

    @keras.ops.custom_gradient
    def product(inputs: Any, weights: Any) -> tuple:
        # PyTorch's `custom_gradient` passes all arguments, and the upstream gradient by name.
        def gradients(*args: Any, upstream: Any = None) -> tuple:
            upstream = args[0] if upstream is None else upstream
            to_inputs = upstream * geometry.per_channel(weights)
            return to_inputs, _sum_per_channel(upstream * inputs, geometry)

        return inputs * geometry.per_channel(weights), gradients

    return product(inputs, weights)


def _sum_per_channel(products: Any, geometry: Geometry) -> Any:
    """Sums over all positions.

    XLA on a CPU runs a sum over all axes but the last one by one number at a time, while adding up
    slices is vectorised: what is left for the sum is a small part.
    """
    axes = [axis for axis in range(geometry.rank + 2) if axis != geometry.channel_axis]
    for _ in range(ROUNDS):
        size, axis = max((products.shape[axis] or 1, axis) for axis in axes)
        slices = next((number for number in SLICES if size % number == 0), 1)
        first, *others = keras.ops.split(products, slices, axis)
        products = sum(others, first)
    return keras.ops.sum(products, axis=axes)
