"""Layers and blocks with any arguments that are allowed: saved, counted, and their twins."""

import functools
import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sepconv_layers as sl
from tests.backends import output_of
from tests.cases import TWINS
from tests.fuzz.profiles import cases, within
from tests.fuzz.strategies import RANKS, junk, layers_and_inputs, randomize

TWIN_OF = {a: b for pair in TWINS for a, b in (pair[:2], pair[1::-1])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("saved")


@cases(few=10, many=150)
@given(layers_and_inputs())
def test_a_saved_layer_is_the_same_and_a_twin_has_the_same_outputs(folder, case):
    make, shape = case
    layer = make()
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    inputs = keras.Input(shape[1:])
    model = keras.Model(inputs, layer(inputs))
    randomize(model, 0)
    outputs = output_of(model, x)
    assert layer.compute_output_shape(shape) == outputs.shape
    assert model.outputs[0].shape == (None, *outputs.shape[1:])
    model.save(folder / "layer.keras")
    again = keras.saving.load_model(folder / "layer.keras")
    np.testing.assert_array_equal(output_of(again, x), outputs)
    if type(layer) in TWIN_OF:
        arguments = {key: value for key, value in config.items() if key != "depth_multiplier"}
        twin = TWIN_OF[type(layer)].from_config(arguments)
        assert twin.compute_output_shape(shape) == outputs.shape


@cases(few=10, many=250)
@given(layers_and_inputs())
def test_a_profile_is_the_count_by_hand(case):
    make, shape = case
    layer = make()
    layer.build((None, *shape[1:]))
    profile = sl.profile(layer, shape[1:])
    assert profile.macs == macs_of(layer, (1, *shape[1:]))
    assert profile.params == sum(math.prod(weight.shape) for weight in layer.weights)
    assert not profile.uncounted


def macs_of(layer, shape):
    """Multiply-accumulates of a layer or block, from its kernels and the positions they take."""
    if isinstance(layer, sl.SqueezeExcite1D | sl.SqueezeExcite2D | sl.SqueezeExcite3D):
        return sum(math.prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1)
    if hasattr(layer, "stages"):
        chains = [layer.stages, getattr(layer, "shortcut", None) or [], getattr(layer, "tail", [])]
        outputs = layer.compute_output_shape(shape)
        starts = [shape, _where_outputs_are(layer, shape, outputs), outputs]
        return sum(map(_macs_of_chain, chains, starts))
    kernels = [weight for weight in layer.weights if weight.name.endswith("kernel")]
    outputs = layer.compute_output_shape(shape)
    is_transposed = "Transpose" in type(layer).__name__
    positions = [_positions(layer, outputs)] * len(kernels)
    if kernels and is_transposed:
        positions[0] = _positions(layer, shape)
    return sum(
        math.prod(kernel.shape) * number for kernel, number in zip(kernels, positions, strict=True)
    )


def _macs_of_chain(chain, shape):
    total = 0
    for layer in chain:
        total += macs_of(layer, shape)
        shape = layer.compute_output_shape(shape)
    return total


def _where_outputs_are(block, shape, outputs):
    channels = block.geometry.channel_axis
    return tuple(shape[n] if n == channels else size for n, size in enumerate(outputs))


def _positions(layer, shape):
    axes = layer.geometry.spatial_axes if hasattr(layer, "geometry") else ()
    return math.prod(shape[axis] for axis in axes)


CLASSES = sorted({cls for pair in TWINS for cls in pair[:2]}, key=lambda cls: cls.__name__)
CLASSES += [
    getattr(sl, f"{name}{rank}D") for name in ("Conv", "SeparableConv") for rank in (1, 2, 3)
]
ARGUMENTS = (
    *("filters", "kernel_size", "strides", "padding", "dilation_rate", "activation"),
    *("data_format", "depth_multiplier", "normalization", "repeats", "expansion", "se_ratio"),
    *("drop_path", "use_bias", "depthwise_initializer", "pointwise_initializer"),
)


@cases(few=15, many=250)
@given(st.sampled_from(CLASSES), st.sampled_from(ARGUMENTS), junk())
def test_any_argument_of_a_layer_is_taken_or_refused(cls, argument, value):
    known = cls.__init__.__code__.co_varnames
    if argument not in known:
        argument = "strides"
    arguments = {"filters": 3, "kernel_size": 2} | {argument: value}
    with within():
        try:
            layer = cls(**arguments)
            layer.get_config()
        except ValueError as error:
            assert str(error)
        except TypeError as error:
            # Keras's own functions for activations, initializers and the like raise it.
            assert argument in ("activation", *(name for name in ARGUMENTS if "initial" in name))
            assert str(error)


@cases(few=4, many=60)
@given(RANKS, st.lists(st.integers(-1, 4) | st.none(), max_size=5))
def test_any_input_shape_is_taken_or_refused(rank, shape):
    layer = functools.partial(getattr(sl, f"SeparableConvBlock{rank}D"), 3, 2, padding="valid")()
    with within():
        try:
            outputs = layer.compute_output_shape(tuple(shape))
        except ValueError as error:
            assert str(error)
        else:
            assert len(outputs) == rank + 2
