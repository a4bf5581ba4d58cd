"""What training on TensorFlow computes twice: the same results, in less memory."""

from unittest import mock

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers.blocks import rematerialization
from sepconv_layers.comparison import memory
from sepconv_layers.comparison.recipe import Training
from sepconv_layers.comparison.task_choice import classification
from tests.backends import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "tensorflow", reason="on TensorFlow alone")

SIZES = (9, 7, 5)
BLOCKS = {
    "separable": lambda: sl.SeparableConvBlock2D(6, strides=2, activation="swish"),
    "linear": lambda: sl.SeparableConvBlock2D(6, activation=None),
    "two kernels": lambda: sl.SeparableConvBlock2D(6, depth_multiplier=2, dilation_rate=2),
    "sequence": lambda: sl.SeparableConvBlock1D(6, padding="causal"),
    "volume": lambda: sl.SeparableConvBlock3D(6),
    "residual": lambda: sl.ResidualSeparableConvBlock2D(4, repeats=3),
    "inverted": lambda: sl.InvertedBottleneckBlock2D(4, expansion=2, activation="relu6"),
    "depthwise first": lambda: sl.InvertedBottleneckBlock2D(4, expansion=2, depthwise="start"),
    "fused": lambda: sl.FusedInvertedBottleneckBlock2D(4, expansion=2),
}


def with_everything_kept():
    return mock.patch.object(rematerialization, "is_supported", lambda inputs: False)


def trained(make, graph):
    """Gradients, gradients of their sines, and moving averages of a block."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    block = make()
    x = np.random.default_rng(0).normal(size=(3, *SIZES[: block.rank], 4)).astype("float32")
    block.build(x.shape)

    def compute(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                loss = tf.reduce_sum(tf.sin(3 * block(x, training=True)))
            gradients = inner.gradient(loss, block.trainable_variables)
            total = tf.add_n([tf.reduce_sum(tf.sin(gradient)) for gradient in gradients])
        return gradients, outer.gradient(total, x)

    compute = tf.function(compute) if graph else compute
    found = keras.tree.flatten(compute(tf.constant(x)))
    return [keras.ops.convert_to_numpy(v) for v in (*found, *block.non_trainable_variables)]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_of_both_orders_and_statistics_do_not_change(name, graph):
    with mock.patch.object(
        rematerialization, "in_training", wraps=rematerialization.in_training
    ) as used:
        found = trained(BLOCKS[name], graph)
    assert used.called
    with with_everything_kept():
        expected = trained(BLOCKS[name], graph)
    for value, same in zip(found, expected, strict=True):
        scale = np.abs(same).max()
        np.testing.assert_allclose(value, same, rtol=1e-3, atol=1e-4 * scale + 1e-3)


def test_half_precision_and_batches_of_unknown_size_train():
    images = keras.Input((8, 8, 4))
    x = sl.SeparableConvBlock2D(8, dtype="mixed_bfloat16")(images)
    x = sl.InvertedBottleneckBlock2D(8, dtype="mixed_bfloat16")(x)
    model = keras.Model(images, x)
    model.compile("sgd", "mse", jit_compile=False)
    for size in (3, 1, 5):
        x, y = np.ones((size, 8, 8, 4), "float32"), np.zeros((size, 8, 8, 8), "float32")
        assert np.isfinite(model.train_on_batch(x, y))


@pytest.mark.parametrize(
    "make",
    [
        lambda: sl.SeparableConvBlock2D(6, normalization="layer"),
        lambda: sl.SeparableConvBlock2D(6, normalization=None),
        lambda: sl.SeparableConvBlock2D(6, data_format="channels_first"),
        lambda: sl.InvertedBottleneckBlock2D(6, se_ratio=0.5),
        lambda: sl.ConvBlock2D(6),
    ],
)
def test_other_blocks_keep_what_they_compute(make):
    with mock.patch.object(rematerialization, "in_training") as used:
        under_tape(make(), training=True)
    assert not used.called


def under_tape(block, training):
    import tensorflow as tf

    with tf.GradientTape():
        block(np.ones((2, 5, 5, 5), "float32"), training=training)


def test_nothing_is_computed_twice_without_gradients():
    with mock.patch.object(rematerialization, "in_training") as used:
        under_tape(sl.SeparableConvBlock2D(6), training=False)
        sl.SeparableConvBlock2D(6)(np.ones((2, 5, 5, 5), "float32"), training=True)
    assert not used.called


def peak(conv):
    model = sl.models.mobilenet((64, 64, 3), 10, conv, width=0.25)
    part = np.zeros((128, 64, 64, 3), "float32"), np.zeros(128, int)
    settings = {"epochs": 1, "learning_rate": 1e-3, "classes": 10, "batch_size": 128}
    return memory.train_peak_bytes(model, part, Training(**settings, task=classification(10)))


def test_a_separable_net_trains_in_the_memory_of_its_twin():
    peaks = [peak(conv) for conv in ("separable", "standard")]
    if None in peaks:
        pytest.skip("not measured on this system")
    assert peaks[0] < 1.15 * peaks[1]
