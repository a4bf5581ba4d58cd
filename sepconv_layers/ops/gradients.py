"""Custom gradients that are differentiable themselves: higher orders, and forward mode on JAX."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras

Function = Callable[..., Any]
# From the arguments and the upstream gradient to one gradient per argument.
Gradients = Callable[..., Sequence[Any]]


def with_gradients(function: Function, gradients: Gradients) -> Function:
    """Returns `function` with `gradients` as its reverse-mode derivative.

    Higher orders follow from it, because `gradients` consists of differentiable operations and
    gets everything it needs as arguments. PyTorch gains nothing from this and differentiates
    `function` itself.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _on_tensorflow(function, gradients)
    if backend == "jax":
        return _on_jax(function, gradients)
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


def derivatives(
    which: int, others: Sequence[Any], upstream: Any
) -> list[tuple[int, tuple[Any, Any]]]:
    """The gradients of one of three functions that are derivatives of each other.

    Three tensors take part. Each function computes one of them from the other two, in their order,
    as the derivative of a number that is linear in all three.

    Args:
        which: The number of the function.
        others: Its arguments, which are the other two tensors.
        upstream: The upstream gradient, which takes the place of its result.

    Returns:
        For each argument, the number of the function that computes its gradient, and from what.
    """
    (first, a), (second, b) = zip([i for i in range(3) if i != which], others, strict=True)
    to_first, to_second = {second: b, which: upstream}, {first: a, which: upstream}
    return [
        (wanted, (known[min(known)], known[max(known)]))
        for wanted, known in ((first, to_first), (second, to_second))
    ]
