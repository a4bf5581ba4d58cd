"""One way to run a function and its gradients on whichever backend Keras has."""

import keras
import numpy as np

BACKEND = keras.backend.backend()
MODES = {"tensorflow": ("eager", "graph", "xla"), "jax": ("eager", "jit"), "torch": ("eager",)}[
    BACKEND
]


def run_with_gradients(function, arguments, upstream, mode):
    """Returns `function(*arguments)` and the gradients of its product with `upstream`, in NumPy."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def compute(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                outputs = function(*tensors)
            return outputs, *tape.gradient(outputs, tensors, tf.cast(upstream, outputs.dtype))

        if mode != "eager":
            compute = tf.function(compute, jit_compile=mode == "xla")
        results = compute(*map(tf.convert_to_tensor, arguments))
    elif BACKEND == "jax":
        import jax

        def compute(*tensors):
            outputs, pull = jax.vjp(function, *tensors)
            return outputs, *pull(jax.numpy.asarray(upstream, outputs.dtype))

        with jax.enable_x64(arguments[0].dtype == "float64"):
            results = (jax.jit(compute) if mode == "jit" else compute)(*arguments)
    else:
        import torch

        tensors = [torch.tensor(argument, requires_grad=True) for argument in arguments]
        outputs = function(*tensors)
        outputs.backward(torch.tensor(upstream).to(outputs.dtype))
        results = (outputs, *(tensor.grad for tensor in tensors))
    return [np.asarray(keras.ops.convert_to_numpy(result)) for result in results]
