"""Operators: each case against its definition in NumPy, with gradients; and any argument at all."""

import warnings

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends import BACKEND, MODES, run_with_gradients
from tests.fuzz.profiles import PROFILE, cases, within
from tests.fuzz.strategies import OPERATORS, SEEDS, by_definition, in_format, junk, problems

# XLA compiles each case for a second: few, and none in a run of all tests. On JAX all are compiled,
# for one by one, each operation is.
FUZZED_MODES = MODES[:2] if PROFILE == "ci" else (*MODES[:2] * 4, *MODES[2:])
FUZZED_MODES = MODES[-1:] if BACKEND == "jax" else FUZZED_MODES
TOLERANCES = {"float64": 1e-9, "float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}


@cases(few=16, many=700)
@given(
    problems(),
    st.sampled_from(FUZZED_MODES),
    st.sampled_from([*TOLERANCES, "float64"]),
    SEEDS,
)
def test_outputs_and_gradients_are_those_of_the_definition(problem, mode, dtype, seed):
    name, tensors, how = problem
    rng = np.random.default_rng(seed)
    expected = by_definition(name, tensors, how)

    def place(array):
        return in_format(array, how["data_format"])

    arguments = [place(tensors[0]), *tensors[1:]]
    if expected is None:
        with pytest.raises(ValueError, match="output size"):
            OPERATORS[name](*[array.astype("float32") for array in arguments], **how)
        return
    expected = place(expected)
    upstream = rng.normal(size=expected.shape)
    is_open = [rng.integers(2) for _ in range(arguments[0].ndim - 1)]
    signature = [list(array.shape) for array in arguments]
    for axis, is_unknown in zip((0, *spatial_axes(arguments[0], how)), is_open, strict=True):
        signature[0][axis] = None if is_unknown else signature[0][axis]
    results = run_with_gradients(
        lambda *arrays: OPERATORS[name](*arrays, **how),
        arguments,
        upstream,
        mode,
        dtype,
        signature if BACKEND == "tensorflow" else None,
    )
    scale = 1 + max_of(place(by_definition(name, list(map(np.abs, tensors)), how)))
    assert results[0].shape == expected.shape
    assert max_of(results[0] - expected) <= TOLERANCES[dtype] * scale
    # In each of its tensors an operator is linear: its gradient gives any change exactly.
    for position, gradient in enumerate(results[1:]):
        assert gradient.shape == arguments[position].shape
        change = rng.normal(size=tensors[position].shape)
        moved = [change if i == position else tensor for i, tensor in enumerate(tensors)]
        wanted = np.vdot(upstream, place(by_definition(name, moved, how)))
        found = np.vdot(gradient, place(change) if position == 0 else change)
        terms = np.abs(upstream).sum() * scale * 4
        assert abs(found - wanted) <= TOLERANCES[dtype] * (1 + terms)


def spatial_axes(x, how):
    first = 2 if how["data_format"] == "channels_first" else 1
    return range(first, first + x.ndim - 2)


def max_of(array):
    return np.abs(array).max(initial=0)


ARGUMENTS = ("inputs", "kernel", "strides", "padding", "data_format", "dilation_rate")


@cases(few=25, many=500)
@given(st.sampled_from(list(OPERATORS)), st.sampled_from(ARGUMENTS), junk())
def test_any_argument_is_taken_or_refused_with_a_value_error(name, argument, value):
    arguments = {"inputs": np.ones((1, 4, 4, 2), "float32")}
    arguments |= {"kernel": np.ones((2, 2, 2, 1), "float32")}
    pointwise = {"pointwise_kernel": np.ones((1, 1, 2, 3), "float32")}
    if name.startswith("separable"):
        arguments["depthwise_kernel"] = arguments.pop("kernel")
        arguments |= pointwise
        argument = "depthwise_kernel" if argument == "kernel" else argument
    with within(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            outputs = OPERATORS[name](**arguments | {argument: value})
        except ValueError as error:
            assert str(error)
        else:
            assert isinstance(outputs, keras.KerasTensor) or 0 not in outputs.shape[1:]
