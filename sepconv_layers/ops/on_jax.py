"""JAX: functions that are derivatives of each other, as primitives.

`jax.custom_vjp` has no forward mode, and `jax.custom_jvp` transposes what it is given: a loop that
is transposed twice is no longer the loop that it was. A primitive names its transpose.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sepconv_layers.ops.gradients import derivatives

Functions = tuple[Callable[..., Any], ...]
Shapes = tuple[tuple[Any, ...], ...]


def bilinear(functions: Functions, shapes: Shapes, first: Any, second: Any) -> Any:
    """Computes the outputs of a `bilinear.Bilinear`, given the shapes of the three tensors."""
    return _primitive(2).bind(first, second, functions=functions, shapes=shapes)


@functools.cache
def _primitive(which: int) -> Any:
    from jax.extend.core import Primitive
    from jax.interpreters import ad, batching, mlir

    primitive, compute = Primitive(f"bilinear_{which}"), partial(_compute, which)
    primitive.def_impl(compute)
    primitive.def_abstract_eval(partial(_abstract, which))
    ad.defbilinear(primitive, *(partial(_transpose, which, position) for position in (0, 1)))
    batching.primitive_batchers[primitive] = partial(_batch, which)
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    return primitive


def _compute(which: int, *others: Any, functions: Functions, shapes: Shapes) -> Any:
    return functions[which](*others, shapes[which])


def _abstract(which: int, first: Any, second: Any, *, functions: Functions, shapes: Shapes) -> Any:
    return first.update(shape=shapes[which], weak_type=False)


def _transpose(
    which: int, position: int, upstream: Any, first: Any, second: Any, **parameters: Any
) -> Any:
    """Differentiates one function with respect to the argument at a position, which is unknown."""
    wanted, known = derivatives(which, (first, second), upstream)[position]
    return _primitive(wanted).bind(*known, **parameters)


def _batch(
    which: int,
    others: Sequence[Any],
    axes: Sequence[int | None],
    *,
    functions: Functions,
    shapes: Shapes,
) -> tuple[Any, int]:
    """Computes a batch by functions of batches, which are derivatives of each other, too."""
    import jax.numpy as jnp

    (size,) = {
        other.shape[axis] for other, axis in zip(others, axes, strict=True) if axis is not None
    }
    batches = [
        jnp.broadcast_to(other, (size, *other.shape))
        if axis is None
        else jnp.moveaxis(other, axis, 0)
        for other, axis in zip(others, axes, strict=True)
    ]
    mapped = tuple(_Mapped(function) for function in functions)
    shapes = tuple((size, *shape) for shape in shapes)
    return _primitive(which).bind(*batches, functions=mapped, shapes=shapes), 0


@dataclasses.dataclass(frozen=True)
class _Mapped:
    """A function of batches, equal to others of the same function."""

    function: Callable[..., Any]

    def __call__(self, first: Any, second: Any, shape: Sequence[Any]) -> Any:
        import jax

        return jax.vmap(partial(self.function, shape=tuple(shape[1:])))(first, second)
