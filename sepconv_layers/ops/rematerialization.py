"""Rematerialization: training keeps only the input of a cheap step, and computes the step again.

Between two matrix products, a separable block normalizes, activates and convolves channel by
channel, with a few operations per number. Computing this again in the backward pass takes little
time, and up to five tensors need not be kept.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from sepconv_layers.ops import context, on_tensorflow


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a step.

    Attributes:
        weights: The weights that `function` takes, or scale and shift of a batch normalization.
        function: Computes outputs from inputs and weights; `None` for a batch normalization.
        epsilon: The epsilon of the batch normalization.
    """

    weights: Sequence[Any] = ()
    function: Callable[..., Any] | None = None
    epsilon: float = 0.0


def is_supported(inputs: Any) -> bool:
    """Whether a step with such inputs can be computed again, and whether that saves memory.

    A gradient tape must be recording, because a trainable SavedModel cannot hold such a step. XLA
    for CPUs, which JAX uses too, merges the two computations. On PyTorch a training step would take
    longer, and its own compiler decides what to keep.
    """
    return (
        keras.backend.backend() == "tensorflow"
        and not isinstance(inputs, keras.KerasTensor)
        and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "bfloat16", "float16")
        and context.device() == "cpu"
        and not context.compiled()
        and on_tensorflow.is_recorded()
    )


def run(parts: Sequence[Part], inputs: Any) -> tuple[Any, list[Any]]:
    """Computes a step in training, and computes all but the last part again for its gradients.

    Args:
        parts: What to compute, one after the other.
        inputs: A tensor, for which this `is_supported`.

    Returns:
        The outputs; and the mean and the variance of each channel before each normalization, one
        after the other.
    """
    import tensorflow as tf

    def computed(normalize: Callable[..., Any], x: Any, weights: Iterator[Any]) -> list[Any]:
        moments = []
        for part in parts:
            own = [next(weights) for _ in part.weights]
            if part.function is not None:
                x = part.function(x, *own)
                continue
            # In float32, as Keras does: squares would overflow.
            normal, *now = normalize(tf.cast(x, tf.float32), *own, part.epsilon)
            moments += now
            x = tf.cast(normal, x.dtype)
        return [x, *moments]

    @tf.custom_gradient
    def twice(inputs: Any, *weights: Any) -> tuple:
        outputs, *moments = computed(on_tensorflow.batch_norm, inputs, iter(weights))

        def gradients(upstream: Any, *_: Any) -> Any:
            known = iter(moments)

            def again(x: Any, gamma: Any, beta: Any, epsilon: float) -> list[Any]:
                now = next(known), next(known)
                return [on_tensorflow.batch_norm_again(x, gamma, beta, epsilon, *now)]

            # Without the dependency, the graph would merge both computations and keep the result.
            # It drops the last part of the second one, because nothing needs its outputs.
            with tf.control_dependencies([upstream]):
                with tf.GradientTape() as tape:
                    tape.watch((inputs, weights))
                    repeated = computed(again, inputs, iter(weights))[0]
                return tape.gradient(repeated, (inputs, *weights), upstream)

        return (outputs, *moments), gradients

    weights = [weight for part in parts for weight in part.weights]
    outputs, *moments = twice(inputs, *weights)
    return outputs, moments
