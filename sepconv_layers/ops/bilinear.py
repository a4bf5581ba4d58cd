"""Functions that are linear in each of two tensors, and derivatives of each other."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.ops.gradients import Function, derivatives


@dataclasses.dataclass(frozen=True)
class Bilinear:
    """A function that is linear in each of two tensors, and what its derivatives are made of.

    Three tensors take part: the two arguments and an upstream gradient. Each of the functions
    computes from two of them, in this order, and from the shape of the third, the derivative of
    `sum(upstream * outputs)` with respect to the third. So they are the derivatives of each other,
    in reverse and in forward mode, and no order is ever computed by differentiating a loop. PyTorch
    differentiates `outputs` itself.

    Attributes:
        to_first: Computes the gradient with respect to the first argument.
        to_second: Computes the gradient with respect to the second argument.
        outputs: Computes the outputs.
    """

    to_first: Function
    to_second: Function
    outputs: Function

    def __call__(self, first: Any, second: Any, shape: Sequence[Any]) -> Any:
        """Returns the outputs, which have this shape."""
        backend = keras.backend.backend()
        if backend == "torch":
            return self.outputs(first, second, shape)
        shapes = tuple(map(tuple, (keras.ops.shape(first), keras.ops.shape(second), shape)))
        if backend == "jax":
            from sepconv_layers.ops import on_jax

            return on_jax.bilinear(self.functions, shapes, first, second)
        return self._on_tensorflow(2, shapes, first, second)

    @property
    def functions(self) -> tuple[Function, Function, Function]:
        return self.to_first, self.to_second, self.outputs

    def _on_tensorflow(self, which: int, shapes: Sequence[Any], *others: Any) -> Any:
        import tensorflow as tf

        @tf.custom_gradient
        def differentiable(*others: Any) -> tuple:
            outputs = self.functions[which](*others, shapes[which])

            def gradients(upstream: Any) -> tuple:
                upstream.set_shape(outputs.shape)  # which a loop has to know
                return tuple(
                    self._on_tensorflow(wanted, shapes, *known)
                    for wanted, known in derivatives(which, others, upstream)
                )

            return outputs, gradients

        return differentiable(*others)
