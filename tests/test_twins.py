"""Each separable block and its standard twin: the same to the outside, another kernel inside."""

import inspect
import itertools

import keras
import numpy as np
import pytest

from tests.cases import TWINS

SIZES = (14, 8, 9)  # unequal, and more than the reach of the kernels
CHANNELS, FILTERS = 2, 3
MOVES = list(itertools.product((1, 2, (2, 1, 3)), (1, 2, (1, 2, 1)), ("valid", "same", "causal")))

each_pair = pytest.mark.parametrize(
    ("separable", "standard", "rank"), TWINS, ids=[pair[0].__name__ for pair in TWINS]
)


def cut(value, rank):
    return value[:rank] if isinstance(value, tuple) else value


def reach(block, rank):
    """Which inputs each output depends on: `(input positions, output positions)`.

    All weights are one and no term cancels another, so what an impulse reaches is not zero.
    """
    sizes = SIZES[:rank]
    block.build((None, *sizes, CHANNELS))
    block.set_weights(
        [np.full(w.shape, float("bias" not in w.path), "float32") for w in block.weights]
    )
    positions = int(np.prod(sizes))
    impulses = np.eye(positions, dtype="float32").reshape(positions, *sizes, 1)
    impulses = np.repeat(impulses, CHANNELS, axis=-1)
    outputs = keras.ops.convert_to_numpy(block(impulses))
    return outputs.shape, (outputs[..., 0] != 0).reshape(positions, -1)


@each_pair
def test_signature_and_config_agree(separable, standard, rank):
    assert inspect.signature(separable) == inspect.signature(standard)
    ours, theirs = separable(FILTERS).get_config(), standard(FILTERS).get_config()
    assert ours.pop("name") != theirs.pop("name")
    assert ours == theirs


@each_pair
@pytest.mark.parametrize(("strides", "dilation_rate", "padding"), MOVES)
def test_output_shape_receptive_field_and_stride_agree(
    separable, standard, rank, strides, dilation_rate, padding
):
    arguments = {
        "kernel_size": (3, 2, 2)[:rank],
        "strides": cut(strides, rank),
        "dilation_rate": cut(dilation_rate, rank),
        "padding": padding,
        "normalization": None,
    }
    (shape, ours), (twin_shape, theirs) = (
        reach(cls(FILTERS, **arguments), rank) for cls in (separable, standard)
    )
    assert shape == twin_shape
    assert ours.any(axis=0).all()
    np.testing.assert_array_equal(ours, theirs)
    if padding == "causal":
        size = SIZES[0]
        time_in = np.arange(len(ours)) // (len(ours) // size)
        time_out = np.arange(ours.shape[1]) // (ours.shape[1] // shape[1])
        stride = strides if isinstance(strides, int) else strides[0]
        assert (time_in[:, None] <= stride * time_out)[ours].all()


@each_pair
@pytest.mark.parametrize("kernel_size", [3, (5, 3, 2)], ids=str)
def test_the_twin_has_a_spatial_kernel_over_all_channels(separable, standard, rank, kernel_size):
    kernel_size = cut(kernel_size, rank)
    sizes = (kernel_size,) * rank if isinstance(kernel_size, int) else kernel_size
    shapes = {}
    for cls in (separable, standard):
        block = cls(FILTERS, kernel_size=kernel_size)
        block.build((None, *SIZES[:rank], CHANNELS))
        shapes[cls] = [tuple(w.shape) for w in block.weights if w.shape[:-2] == sizes]
    assert shapes[separable] and all(shape[-1] == 1 for shape in shapes[separable])
    assert shapes[standard] and len(shapes[standard]) == len(shapes[separable])
    assert all(shape[-1] > 1 and shape[-2] == CHANNELS for shape in shapes[standard][:1])
