"""Handling of batches that turn out to be empty when a TensorFlow graph runs."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from sepconv_layers.ops import context


def with_a_sample(inputs: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Returns inputs with at least one sample, and a function that drops an added sample again.

    TensorFlow's oneDNN kernels return the input's shape for an empty batch. If the batch is not
    empty, neither the padding nor the slice copies anything, forward or backward. XLA has kernels
    of its own, and exported files get no operators for this.
    """
    if not _may_be_misshapen(inputs):
        return inputs, lambda outputs: outputs
    import tensorflow as tf

    batch, rank = tf.shape(inputs)[0], len(inputs.shape)
    one = np.zeros((rank, 2), "int32")
    one[0, 1] = 1
    padded = tf.pad(inputs, tf.maximum(one - batch, 0))
    padded.set_shape(inputs.shape)

    def without(outputs: Any) -> Any:
        samples = tf.slice(outputs, [0] * rank, tf.stack([batch, *[-1] * (rank - 1)]))
        samples.set_shape(outputs.shape)
        return samples

    return padded, without


def _may_be_misshapen(inputs: Any) -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return (
        isinstance(inputs, tf.Tensor)
        and bool(inputs.shape.rank)
        and inputs.shape[0] is None
        and context.device() == "cpu"
        and not context.compiled()
        and context.forced_lowering() != "portable"
        and context.has_onednn()
    )
