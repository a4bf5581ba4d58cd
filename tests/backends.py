"""One way to run a function and its gradients on whichever backend Keras has."""

import os

import keras
import numpy as np
import pytest

from sepconv_layers.ops import context

BACKEND = keras.backend.backend()
# How many random configurations to test; `test_backends.py` asks for few, and a short run of all.
MANY = 200
CONFIGURATIONS = int(os.environ.get("SEPCONV_TEST_CONFIGURATIONS", MANY))
SHORT = CONFIGURATIONS < MANY
the_same_everywhere = pytest.mark.skipif(SHORT, reason="the same on every backend")
# On a CPU without oneDNN, TensorFlow and thus Keras have no channels-first kernels.
HAS_CHANNELS_FIRST = BACKEND != "tensorflow" or context.device() != "cpu" or context.has_onednn()
needs_channels_first = pytest.mark.skipif(not HAS_CHANNELS_FIRST, reason="not in Keras here")
MODES = {
    "tensorflow": ("eager", "graph", "xla"),
    # Eagerly, JAX compiles what it traces for `jit`, one operation at a time, which takes longer.
    "jax": ("jit",) if SHORT else ("eager", "jit"),
    "torch": ("eager",),
}[BACKEND]


def output_of(layer, x, **arguments):
    """Returns what a layer or model makes of `x`, in NumPy."""
    # As in `MODES`. With arguments it may train, and then changes what a function cannot.
    if BACKEND == "jax" and SHORT and isinstance(layer, keras.Layer) and not arguments:
        import jax

        if not layer.built:
            layer.build(np.shape(x))
        # The weights are arguments: as constants, they would make each layer a new program, where
        # JAX has kept that of any layer like it.
        variables = layer.variables

        def call(values, x):
            with keras.StatelessScope(zip(variables, values, strict=True)):
                return layer(x)

        return keras.ops.convert_to_numpy(jax.jit(call)([v.value for v in variables], x))
    return keras.ops.convert_to_numpy(layer(x, **arguments))


def run_with_gradients(function, arguments, upstream, mode, dtype="float64", signature=None):
    """Returns `function(*arguments)` and the gradients of its product with `upstream`, in float64.

    With a `signature`, the shapes of the arguments with `None` for what is unknown, TensorFlow
    traces the function for these shapes and not for those of the arguments.
    """
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def compute(upstream, *tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                outputs = function(*tensors)
            return outputs, *tape.gradient(outputs, tensors, upstream)

        if mode != "eager":
            shapes = signature and ([None] * upstream.ndim, *signature)
            specs = signature and [tf.TensorSpec(shape, dtype) for shape in shapes]
            compute = tf.function(compute, input_signature=specs, jit_compile=mode == "xla")
        results = compute(*(tf.cast(array, dtype) for array in (upstream, *arguments)))
    elif BACKEND == "jax":
        import jax

        def compute(upstream, *tensors):
            outputs, pull = jax.vjp(function, *tensors)
            return outputs, *pull(upstream)

        if mode == "jit":
            compute = jax.jit(compute)
        with jax.enable_x64(dtype == "float64"):
            results = compute(*(jax.numpy.asarray(a, dtype) for a in (upstream, *arguments)))
    else:
        import torch

        dtype = getattr(torch, dtype)
        tensors = [torch.tensor(array, dtype=dtype, requires_grad=True) for array in arguments]
        outputs = function(*tensors)
        outputs.backward(torch.tensor(upstream, dtype=dtype))
        results = (outputs, *(tensor.grad for tensor in tensors))
    return [np.asarray(keras.ops.convert_to_numpy(result), "float64") for result in results]
