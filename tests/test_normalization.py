"""Batch normalization: its derivatives of any order, and batches that are empty."""

import subprocess
import sys
from functools import partial

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers.ops import choice
from tests.backends import BACKEND

RNG = np.random.default_rng(0)
SHAPE = (6, 5, 4, 3)
X, DIRECTION = (RNG.normal(size=SHAPE).astype("float32") for _ in range(2))
CLASSES = (sl.BatchNormalization, keras.layers.BatchNormalization)
MODES = {"tensorflow": ("graph", "xla"), "jax": ("jit",), "torch": ("eager",)}[BACKEND]


def make(cls, **arguments):
    layer = cls(**arguments)
    layer.build((None, *SHAPE[1:]))
    layer.gamma.assign([1.3, 0.7, 2.0])
    return layer


def directional_derivatives(layer, mode):
    """Of a loss, of the penalty of its gradient, and of the latter derivative once more."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def loss(x):
            return tf.reduce_sum(tf.sin(layer(x, training=True)) * DIRECTION)

        def gradient(function, x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = function(x)
            return tape.gradient(value, x)

        def penalty(x):
            return tf.reduce_sum(gradient(loss, x) ** 2)

        def along(function, x):
            return tf.reduce_sum(gradient(function, x) * DIRECTION)

        @tf.function(jit_compile=mode == "xla")
        def derivatives(x):
            third = along(lambda x: along(penalty, x), x)
            return along(loss, x), along(penalty, x), third

        return [float(value) for value in derivatives(tf.constant(X))]
    if BACKEND == "jax":
        import jax

        weights = [[weight.value for weight in weights] for weights in (
            layer.trainable_variables, layer.non_trainable_variables)]  # fmt: skip

        def loss(x):
            outputs, _ = layer.stateless_call(*weights, x, training=True)
            return jax.numpy.sum(jax.numpy.sin(outputs) * DIRECTION)

        def penalty(x):
            return jax.numpy.sum(jax.grad(jax.checkpoint(loss))(x) ** 2)

        def along(function):
            return lambda x: jax.numpy.sum(jax.grad(function)(x) * DIRECTION)

        @jax.jit  # one by one, each operation takes longer
        def derivatives(x):
            first = along(lambda x: jax.vmap(loss)(x[None])[0])(x)
            forwards = [jax.jvp(function, (x,), (DIRECTION,))[1] for function in (loss, penalty)]
            return [first, along(penalty)(x), along(along(penalty))(x)], forwards

        found, forwards = derivatives(X)
        np.testing.assert_allclose(forwards, found[:2], rtol=1e-4)
        return [float(value) for value in found]
    import torch
    from torch.utils.checkpoint import checkpoint

    direction = torch.tensor(DIRECTION)
    x = torch.tensor(X, requires_grad=True)

    def loss(x):
        return (torch.sin(layer(x, training=True)) * direction).sum()

    def along(value):
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        return gradient, (gradient * direction).sum()

    gradient, first = along(checkpoint(loss, x, use_reentrant=False))
    _, second = along((along(loss(x))[0] ** 2).sum())
    return [first.item(), second.item()]


@pytest.mark.parametrize("mode", MODES)
def test_derivatives_of_every_order_are_those_of_keras(mode):
    ours, theirs = (directional_derivatives(make(cls), mode) for cls in CLASSES)
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)


@pytest.mark.skipif(BACKEND != "jax", reason="taps runs there, with a gradient of its own")
@pytest.mark.parametrize(
    ("shape", "kernel_size"),
    [
        ((2, 9, 3), (3,)),
        ((2, 7, 6, 3), (3, 3)),
        ((1, 4, 5, 4, 2), (3, 3, 3)),
        ((1, 9, 8, 1), (8, 7)),
    ],
)
def test_convolutions_have_forward_and_second_derivatives_on_jax(shape, kernel_size):
    import jax

    x = RNG.normal(size=shape).astype("float32")
    kernel = RNG.normal(size=(*kernel_size, shape[-1], 2)).astype("float32") / 3

    def loss(x):
        outputs = sl.ops.depthwise_conv(x, kernel, strides=2, padding="same")
        return jax.numpy.sum(jax.numpy.sin(outputs))

    def derivatives(lowering, x):
        with sl.ops.lowering(lowering):
            gradient, second = jax.jvp(jax.grad(loss), (x,), (x,))
            return gradient, jax.jvp(loss, (x,), (x,))[1], second

    # Compiled: one by one, each operation takes longer.
    derivatives = jax.jit(derivatives, static_argnums=0)
    gradient, forward, second = derivatives("auto", x)
    np.testing.assert_allclose(forward, np.sum(gradient * x), rtol=1e-4)
    np.testing.assert_allclose(second, derivatives("native", x)[2], atol=1e-4)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="its XLA lacks gradients of some gradients")
@pytest.mark.parametrize(
    ("operator", "shapes", "arguments", "is_large"),
    [
        (sl.ops.depthwise_conv, [(1, 9, 2), (3, 2, 1)], {"padding": "causal"}, False),
        (sl.ops.depthwise_conv, [(1, 4, 3, 1), (3, 2, 1, 1)], {"padding": "same"}, True),
        (
            sl.ops.depthwise_conv,
            [(1, 5, 4, 2), (3, 3, 2, 1)],
            {"strides": 2, "padding": "same"},
            False,
        ),
        (sl.ops.conv, [(1, 4, 3, 3, 2), (3, 3, 3, 2, 2)], {"padding": "same"}, False),
    ],
)
def test_xla_differentiates_a_convolution_three_times(
    operator, shapes, arguments, is_large, monkeypatch
):
    import tensorflow as tf

    if is_large:  # all three functions are loops then
        monkeypatch.setattr(choice, "MAX_UNROLLED_TAPS", 1)
        monkeypatch.setattr(choice, "MAX_UNROLLED_WEIGHTS", 2)
    tensors = [tf.constant(RNG.normal(size=shape) / 3) for shape in shapes]

    def derivative(order, *tensors):
        if order == 0:
            return tf.reduce_sum(operator(*tensors, **arguments) ** 3)
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = derivative(order - 1, *tensors)
        return tf.add_n([tf.reduce_sum(part**2) for part in tape.gradient(value, tensors)])

    third = tf.function(lambda *tensors: derivative(3, *tensors), jit_compile=True)
    with sl.ops.lowering("native"):
        expected = derivative(3, *tensors)
    np.testing.assert_allclose(third(*tensors), expected, rtol=1e-6)


def statistics(layer):
    return [np.copy(keras.ops.convert_to_numpy(weight)) for weight in layer.non_trainable_variables]


def train(layer, x, mode, **arguments):
    """Runs the layer on a batch whose size, on a TensorFlow graph, only the run knows."""
    if BACKEND != "tensorflow":
        return layer(x, training=True, **arguments)
    import tensorflow as tf

    @tf.function(jit_compile=mode == "xla", reduce_retracing=True)
    def call(x):
        with tf.GradientTape() as tape:
            outputs = layer(x, training=True, **arguments)
            loss = tf.reduce_sum(outputs)
        return outputs, tape.gradient(loss, layer.trainable_variables)

    if mode == "graph":
        call = call.get_concrete_function(tf.TensorSpec((None, *x.shape[1:]), x.dtype))
    outputs, gradients = call(tf.constant(x))
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    return outputs


RENORM = {"renorm": True, "renorm_momentum": 0.5}  # statistics that differ from the moving ones


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("arguments", [{}, {"synchronized": True}, RENORM], ids=str)
def test_an_empty_batch_leaves_the_statistics_alone(mode, axis, arguments):
    if "synchronized" in arguments and BACKEND != "tensorflow":
        pytest.skip("TensorFlow alone synchronizes")
    if "renorm" in arguments and not hasattr(keras.layers.BatchNormalization(), "renorm"):
        pytest.skip("older versions of Keras do not renormalize")
    layer = sl.BatchNormalization(axis=axis, **arguments)
    layer.build((None, 4, 5, 3))
    train(layer, RNG.normal(size=(2, 4, 5, 3)).astype("float32"), mode)
    before = statistics(layer)
    outputs = train(layer, np.zeros((0, 4, 5, 3), "float32"), mode)
    assert tuple(outputs.shape) == (0, 4, 5, 3)
    for now, then in zip(statistics(layer), before, strict=True):
        np.testing.assert_allclose(now, then, rtol=1e-6)


def test_a_batch_that_is_wholly_masked_leaves_them_alone():
    layer = sl.BatchNormalization()
    x = RNG.normal(size=(2, 5, 3)).astype("float32")
    layer(x, training=True)
    before = statistics(layer)
    mask = keras.ops.zeros((2, 5), "bool")
    outputs = layer(x, training=True, mask=mask)
    assert np.isfinite(keras.ops.convert_to_numpy(outputs)).all()
    for now, then in zip(statistics(layer), before, strict=True):
        np.testing.assert_allclose(now, then, rtol=1e-6)


REPLICAS = """
import keras, numpy as np, tensorflow as tf
from sepconv_layers import SeparableConvBlock1D

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.Input((8, 4)), SeparableConvBlock1D(4), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
x = np.random.default_rng(0).normal(size=(25, 8, 4)).astype("float32")
data = tf.data.Dataset.from_tensor_slices((x, np.zeros((25, 8, 1), "float32"))).batch(12)
model.fit(data, epochs=2, verbose=0)
assert all(np.isfinite(weight.numpy()).all() for weight in model.weights)
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow")
def test_a_replica_without_samples_spoils_nothing():
    command = [sys.executable, "-W", "ignore", "-c", REPLICAS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


WHOLE, LARGE = {"mode": "full"}, {"mode": "larger_than", "output_size_threshold": 8}
INVERTED = partial(sl.InvertedBottleneckBlock2D, 3, se_ratio=0.5, drop_path=0.5)
REMATERIALIZED = [
    (sl.BatchNormalization, WHOLE),
    (partial(sl.SeparableConvBlock2D, 4), LARGE),
    (partial(sl.ConvBlock2D, 4, data_format="channels_first"), WHOLE),
    (INVERTED, WHOLE),
    (INVERTED, {"mode": "list_of_layers", "layer_names": ["depthwise_norm", "drop_path"]}),
]


def trained(make, scope):
    """The weights after two steps of a net whose middle was created in a `keras.RematScope`."""
    keras.utils.set_random_seed(0)
    images = keras.Input(SHAPE[1:])
    with keras.RematScope(**scope):
        features = make()(images)
    model = keras.Model(images, keras.layers.Dense(1)(keras.layers.Flatten()(features)))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=BACKEND == "jax")
    for _ in range(2):
        model.train_on_batch(X, DIRECTION[:, 0, 0, :1])
    return model.get_weights()


@pytest.mark.parametrize(("make", "scope"), REMATERIALIZED)
def test_remat_scopes_change_neither_gradients_nor_statistics(make, scope):
    expected = trained(make, {"mode": None})
    for weight, same in zip(trained(make, scope), expected, strict=True):
        np.testing.assert_allclose(weight, same, rtol=1e-4, atol=1e-6)


def test_models_can_be_created_in_a_remat_scope():
    sample, target = np.ones((2, 49, 10, 1), "float32"), np.zeros((2, 5), "float32")
    with keras.RematScope(mode="full"):
        model = sl.models.ds_cnn((49, 10, 1), 5, size="s")
    model.compile("sgd", "mse", jit_compile=BACKEND == "jax")
    assert np.isfinite(model.train_on_batch(sample, target))
