"""Each separable block and its standard twin: alike in all but the kernels."""

import inspect
import itertools
import math

import numpy as np
import pytest

from tests.backends import SHORT, output_of
from tests.cases import TWINS

CHANNELS = 2
SIZES = (14, 8, 7)  # room for two unpadded kernels with all that follows
KERNEL = (3, 2, 2)
PER_AXIS = (2, 1, 2)

every_pair = pytest.mark.parametrize(
    ("separable", "standard", "rank"), TWINS, ids=[pair[0].__name__ for pair in TWINS]
)


def own_arguments(cls):
    """What keeps a block of that class small, and plain where it matters here."""
    small = {"repeats": 2, "expansion": 2, "depth_multiplier": 2}
    return {name: small[name] for name in small.keys() & inspect.signature(cls).parameters}


@every_pair
def test_twins_have_the_same_signature_and_configuration(separable, standard, rank):
    assert inspect.signature(separable) == inspect.signature(standard)
    arguments = {**own_arguments(separable), "filters": 6, "strides": 2, "name": "same"}
    assert separable(**arguments).get_config() == standard(**arguments).get_config()


def influence(cls, rank, filters, **arguments):
    """Which input position reaches which output position: a matrix of truth values.

    All kernels are of ones and nothing is normalised, so that no influence cancels out; each
    sample of the batch has its only ones in a position of its own.
    """
    plain = {"activation": None, "normalization": None, **own_arguments(cls)}
    block = cls(filters, KERNEL[:rank], **plain, **arguments)
    sizes = SIZES[:rank]
    step = 5 if rank == 3 else 1  # some of the positions of a volume do
    x = np.eye(math.prod(sizes), dtype="float32")[::step]
    x = x.reshape(-1, *sizes, 1).repeat(CHANNELS, axis=-1)
    block.build(x.shape)
    block.set_weights([np.full(w.shape, len(w.shape) > 1, "float32") for w in block.get_weights()])
    return output_of(block, x) > 0.5


@every_pair
@pytest.mark.parametrize("padding", ["valid", "same", "causal"])
@pytest.mark.parametrize("filters", [3] if SHORT else [CHANNELS, 3])
def test_twins_have_the_same_shape_stride_and_receptive_field(
    separable, standard, rank, padding, filters
):
    choices = [1, 2, PER_AXIS[:rank]]
    together = [(choices[2], 2)] if SHORT else itertools.product(choices, choices)
    for strides, dilation in together:
        arguments = {"strides": strides, "padding": padding, "dilation_rate": dilation}
        one = influence(separable, rank, filters, **arguments)
        assert one.any()
        other = influence(standard, rank, filters, **arguments)
        np.testing.assert_array_equal(one, other, err_msg=str(arguments))


# For four channels, six filters, and a multiplier, expansion and number of repeats of two: the
# shapes of the kernels that look around in space, without the kernel size.
SPATIAL_KERNELS = {
    "SeparableConvBlock": [(4, 2)],
    "ConvBlock": [(4, 6)],
    "ResidualSeparableConvBlock": [(4, 1), (6, 1)],
    "ResidualConvBlock": [(4, 6), (6, 6)],
    "InvertedBottleneckBlock": [(8, 1)],
    "FusedInvertedBottleneckBlock": [(4, 8)],
}


@every_pair
def test_the_twin_has_a_standard_kernel_of_the_kernel_size(separable, standard, rank):
    kernel_size = KERNEL[:rank]
    for cls in (separable, standard):
        block = cls(6, kernel_size, **own_arguments(cls))
        block.build((None, *(None,) * rank, 4))
        shapes = [tuple(weight.shape) for weight in block.weights]
        spatial = [shape[rank:] for shape in shapes if shape[:rank] == kernel_size]
        assert spatial == SPATIAL_KERNELS[cls.__name__[:-2]]
