"""Custom gradients that are differentiable themselves: higher orders, and forward mode on JAX."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras

Function = Callable[..., Any]
# From the arguments and the upstream gradient to one gradient per argument.
Gradients = Callable[..., Sequence[Any]]


def with_gradients(function: Function, gradients: Gradients, loops: bool = False) -> Function:
    """Returns `function` with `gradients` as its reverse-mode derivative.

    Higher orders follow from it, because `gradients` consists of differentiable operations and
    gets everything it needs as arguments. PyTorch gains nothing from this and differentiates
    `function` itself. With `loops`, JAX gets reverse mode only: a loop that is transposed twice
    keeps every intermediate value.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _on_tensorflow(function, gradients)
    if backend == "jax":
        return (_on_jax_in_reverse if loops else _on_jax)(function, gradients)
    return function


def _on_tensorflow(function: Function, gradients: Gradients) -> Function:
    import tensorflow as tf

    @tf.custom_gradient
    def differentiable(*args: Any) -> tuple:
        return function(*args), lambda upstream: tuple(gradients(*args, upstream))

    return differentiable


def _on_jax(function: Function, gradients: Gradients) -> Function:
    """Defines forward mode as the transpose of `gradients`, which JAX transposes back.

    A rule for reverse mode only, as in `jax.custom_vjp`, would not support forward mode.
    """
    import jax

    def tangent_of(args: tuple, tangents: dict[int, Any], like: Any) -> Any:
        def to_tangents(upstream: Any) -> tuple:
            every = gradients(*args, upstream)
            return tuple(every[which] for which in tangents)

        (tangent,) = jax.linear_transpose(to_tangents, like)(tuple(tangents.values()))
        return tangent

    def rule(args: tuple, tangents: tuple) -> tuple:
        outputs = differentiable(*args)
        zero = jax.custom_derivatives.SymbolicZero
        known = {i: tangent for i, tangent in enumerate(tangents) if not isinstance(tangent, zero)}
        like = jax.ShapeDtypeStruct(outputs.shape, outputs.dtype)
        # Recomputed, as gradients are: a loop would keep the inputs of each tap for its way back.
        follow = jax.checkpoint(partial(tangent_of, like=like), prevent_cse=False)
        return outputs, follow(args, tangents=known)

    differentiable = jax.custom_jvp(function)
    differentiable.defjvp(rule, symbolic_zeros=True)
    return differentiable


def _on_jax_in_reverse(function: Function, gradients: Gradients) -> Function:
    import jax

    differentiable = jax.custom_vjp(function)
    differentiable.defvjp(
        lambda *args: (function(*args), args),
        lambda args, upstream: tuple(gradients(*args, upstream)),
    )
    return differentiable
