"""A block with an arrangement of its own, defined here, works everywhere that the others do."""

import operator

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import convert, streaming
from sepconv_layers.blocks.base import CONV, DEPTHWISE_CONV, Block
from tests.backends import SHORT, output_of
from tests.cases import SIZES
from tests.test_convert import as_trained, norms_of

CHANNELS, FILTERS = 3, 4


class TwoScales(Block):
    """Depthwise convolutions of two sizes side by side, added, then a standard one."""

    def __init__(
        self,
        filters,
        kernel_size=3,
        strides=1,
        padding="causal",
        dilation_rate=1,
        activation="relu",
        normalization="batch",
        data_format=None,
        **kwargs,
    ):
        super().__init__(
            filters,
            kernel_size,
            strides,
            padding,
            dilation_rate,
            activation,
            normalization,
            data_format,
            **kwargs,
        )

    def _make_chains(self, channels):
        large = tuple(size + 2 for size in self.kernel_size)
        return {
            "small": [
                self._spatial(DEPTHWISE_CONV, name="small"),
                *self._norm(channels, "small"),
            ],
            "large": [
                self._spatial(DEPTHWISE_CONV, kernel_size=large, name="large"),
                *self._norm(channels, "large"),
            ],
            "drop": sl.DropPath(0.5, dtype=self.dtype_policy, name="drop_path"),
            "mix": [
                *self._act("sum"),
                self._spatial(CONV, self.filters, strides=1, dilation_rate=1, name="mix"),
                *self._norm(self.filters, "mix"),
            ],
        }

    def walk(self, x, chains, walker):
        small = walker.run(chains["small"], x)
        large = walker.run(chains["drop"], walker.run(chains["large"], x))
        return walker.run(chains["mix"], walker.merge(operator.add, small, large))


@keras.saving.register_keras_serializable("tests")
class TwoScales1D(TwoScales):
    rank = 1


@keras.saving.register_keras_serializable("tests")
class TwoScales2D(TwoScales):
    rank = 2


@keras.saving.register_keras_serializable("tests")
class OwnCall(TwoScales1D):
    def call(self, inputs, training=None):
        return 2.0 * super().call(inputs, training)


CLASSES = {1: TwoScales1D, 2: TwoScales2D}
ranks = pytest.mark.parametrize("rank", CLASSES)


def net(rank, cls=None, **arguments):
    keras.utils.set_random_seed(0)
    shape = (None, *SIZES[1:rank], CHANNELS)
    block = (cls or CLASSES[rank])(FILTERS, data_format="channels_last", name="block", **arguments)
    return as_trained(keras.Sequential([keras.Input(shape), block]))


def images(rank):
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, *SIZES[:rank], CHANNELS)).astype("float32")


@ranks
def test_it_is_built_and_called_as_it_walks(rank):
    model, x = net(rank, strides=2), images(rank)
    block = model.layers[0]
    unbuilt = CLASSES[rank](FILTERS, strides=2, data_format="channels_last")

    def through(layers, x):
        for layer in layers:
            x = output_of(layer, x)
        return x

    expected = through(block.mix, through(block.small, x) + through(block.large, x))
    outputs = output_of(model, x)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    shape = unbuilt.compute_output_shape(x.shape)
    assert shape == block.compute_output_shape(x.shape) == outputs.shape
    assert not unbuilt.weights


@ranks
def test_it_is_saved_and_loaded_again(rank, tmp_path):
    model, x = net(rank), images(rank)
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(output_of(again, x), output_of(model, x))


@ranks
def test_it_is_folded(rank):
    model, x = net(rank), images(rank)
    folded = convert.fold_batch_norm(model)
    assert len(norms_of(model)) == 3 and not norms_of(folded)
    np.testing.assert_allclose(output_of(folded, x), output_of(model, x), rtol=1e-4, atol=1e-5)


@ranks
def test_it_becomes_separable(rank):
    model, x = net(rank), images(rank)
    exact, (layer,) = convert.to_separable(model, rank=3**rank)
    assert layer.error < 1e-6 and layer.name.endswith("block/mix")
    np.testing.assert_allclose(output_of(exact, x), output_of(model, x), rtol=1e-4, atol=1e-4)


@ranks
@pytest.mark.parametrize("strides", [2] if SHORT else [1, 2])
def test_it_is_streamed(rank, strides):
    model, x = net(rank, strides=strides), images(rank)
    stream = streaming.to_streaming(model).stream(len(x))
    outputs = [stream(chunk) for chunk in np.split(x, [1, 2, 5], axis=1)]
    expected = output_of(model, x)
    np.testing.assert_allclose(np.concatenate(outputs, 1), expected, rtol=1e-4, atol=1e-5)


def test_branches_that_do_not_keep_step_are_refused():
    with pytest.raises(ValueError, match="'block' .TwoScales1D.: its branches do not keep step"):
        streaming.to_streaming(net(1, padding="valid", kernel_size=1, strides=1))


def test_one_with_its_own_call_is_left_as_it_is():
    model, x = net(1, OwnCall), images(1)
    folded = convert.fold_batch_norm(model)
    np.testing.assert_allclose(output_of(folded, x), output_of(model, x), rtol=1e-5, atol=1e-6)
    assert len(norms_of(folded)) == 3
    with pytest.raises(ValueError, match="with a standard convolution"):
        convert.to_separable(model)
    with pytest.raises(ValueError, match="there is no rule for it"):
        streaming.to_streaming(model)


def test_its_cost_is_that_of_its_layers():
    profile = sl.profile(net(1), (10, CHANNELS))
    assert profile.macs == 10 * (CHANNELS * (3 + 5) + 3 * CHANNELS * FILTERS)
    assert not profile.uncounted
