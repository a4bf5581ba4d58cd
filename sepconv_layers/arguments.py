"""Checks of arguments. An error names the argument, what was expected and what was received."""

import math
import numbers
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

LIMIT = 2**31  # the kernels of the backends count in 32 bits


def is_integer(value: Any) -> bool:
    """Whether a value is a Python or NumPy integer, and not a Boolean."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def positive_int(value: Any, name: str) -> int:
    """Returns a positive integer, or raises a `ValueError` worded as in `keras.layers`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise _invalid(value, name, "an integer")
    if number <= 0:
        raise _invalid(value, name, "a strictly positive value")
    return number


def check_number(value: Any, name: str, expected: str, is_valid: Callable[[Any], bool]) -> Any:
    """Returns a number that meets a condition, or raises a `ValueError`.

    Args:
        value: The number.
        name: Name of the argument.
        expected: The condition in words, such as `"a number in [0, 1)"`.
        is_valid: The condition.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and is_valid(value):
        return value
    raise _invalid(value, name, expected)


def positive_number(value: Any, name: str) -> Any:
    """Returns a positive, finite number, or raises a `ValueError`."""
    return check_number(value, name, "a positive number", lambda number: 0 < number < math.inf)


def _invalid(value: Any, name: str, expected: str) -> ValueError:
    return ValueError(
        f"Invalid value for argument `{name}`. Expected {expected}. Received {name}={value!r}."
    )


def lookup(table: Mapping[str, Any], value: Any, name: str) -> Any:
    """Returns the entry of a table, or raises a `ValueError` that lists the keys."""
    if isinstance(value, str) and value in table:
        return table[value]
    raise ValueError(
        f"The `{name}` argument must be one of {tuple(table)}. Received: {name}={value!r}"
    )


def standardize_tuple(value: int | Sequence[int], rank: int, name: str) -> tuple[int, ...]:
    """Returns a value as a tuple of `rank` positive integers, or raises a `ValueError`."""
    message = f"The `{name}` argument must be a tuple of {rank} integers. Received {name}={value!r}"
    try:
        result = integers(value, rank)
    except TypeError:
        raise ValueError(f"{message}.") from None
    if len(result) != rank:
        raise ValueError(f"{message}.")
    wrong = {item for item in result if item <= 0}
    if wrong:
        raise ValueError(f"{message}, including values {wrong} that do not satisfy `value > 0`.")
    large = {item for item in result if item >= LIMIT}
    if large:
        raise ValueError(f"{message}, including values {large}. Give values less than {LIMIT}.")
    return result


def integers(value: Any, count: int) -> tuple[int, ...]:
    """Returns the integers of a sequence, or one integer `count` times, or raises a `TypeError`."""
    is_one = isinstance(value, np.ndarray) and value.ndim == 0
    if isinstance(value, (Sequence, np.ndarray)) and not is_one:
        if isinstance(value, (str, bytes, bytearray, memoryview)):  # sequences, but not of numbers
            raise TypeError
        return tuple(map(operator.index, value))
    return (operator.index(value),) * count
