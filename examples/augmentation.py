"""Augmentations of inputs of any rank: shifts, mirror images, turns, and mixtures of samples."""

import math
from collections.abc import Sequence
from typing import Any

import keras


class Augmentation(keras.layers.Layer):
    """A layer that changes its inputs at random, in training only.

    Args:
        seed: The seed of the random numbers.
        **kwargs: As for every Keras layer.
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.augment(inputs) if training else inputs

    def augment(self, inputs: Any) -> Any:
        """Returns the inputs, changed."""
        raise NotImplementedError

    def get_config(self) -> dict:
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable("sepconv_examples")
class RandomMirror(Augmentation):
    """Mirrors samples along some of their axes, each with a probability of one half.

    Args:
        axes: The axes, counted with that of the batch.
        **kwargs: As for `Augmentation`.
    """

    def __init__(self, axes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axes = tuple(axes)

    def augment(self, inputs: Any) -> Any:
        for axis in self.axes:
            shape = (keras.ops.shape(inputs)[0], *(1,) * (len(inputs.shape) - 1))
            is_mirrored = keras.random.uniform(shape, seed=self.generator) < 0.5
            inputs = keras.ops.where(is_mirrored, keras.ops.flip(inputs, axis), inputs)
        return inputs

    def get_config(self) -> dict:
        return {**super().get_config(), "axes": self.axes}


@keras.saving.register_keras_serializable("sepconv_examples")
class RandomShift(Augmentation):
    """Shifts samples at random along some of their axes: a crop of a padded sample.

    Args:
        by: The largest shift, in positions.
        axes: The axes, counted with that of the batch.
        fill: What comes in at the border: "zeros", or "nearest" for what was there.
        **kwargs: As for `Augmentation`.
    """

    def __init__(self, by: int, axes: Sequence[int], fill: str = "zeros", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if fill not in ("zeros", "nearest"):
            raise ValueError(f"`fill` must be 'zeros' or 'nearest'. Received: fill={fill!r}.")
        self.by, self.axes, self.fill = by, tuple(axes), fill

    def augment(self, inputs: Any) -> Any:
        inputs = keras.ops.cast(inputs, self.compute_dtype)
        for axis in self.axes:
            # One matrix per sample, with ones that move each position to its new one: XLA has no
            # kernel for the operation by which Keras shifts images.
            size = inputs.shape[axis]
            places = keras.ops.arange(size)
            shape = (keras.ops.shape(inputs)[0], 1)
            by = keras.random.randint(shape, -self.by, self.by + 1, seed=self.generator)
            sources = places + by
            if self.fill == "nearest":
                sources = keras.ops.clip(sources, 0, size - 1)
            moves = keras.ops.equal(keras.ops.expand_dims(sources, -1), places)
            old = "".join(chr(ord("a") + number) for number in range(len(inputs.shape)))
            new, moved = old.replace(old[axis], "z"), f"{old[0]}z{old[axis]}"
            moves = keras.ops.cast(moves, inputs.dtype)
            inputs = keras.ops.einsum(f"{moved},{old}->{new}", moves, inputs)
        return inputs

    def get_config(self) -> dict:
        return {**super().get_config(), "by": self.by, "axes": self.axes, "fill": self.fill}


@keras.saving.register_keras_serializable("sepconv_examples")
class RandomTurn(Augmentation):
    """Turns samples about their center by random angles, in the plane of two axes.

    Each position gets the value nearest to where it came from, and zero if that is outside.

    Args:
        axes: The two axes of the plane, counted with that of the batch, one after the other.
        degrees: The largest angle, in either direction.
        **kwargs: As for `Augmentation`.
    """

    def __init__(self, axes: Sequence[int], degrees: float = 180.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axes, self.degrees = tuple(axes), degrees

    def augment(self, inputs: Any) -> Any:
        ops = keras.ops
        first, second = self.axes
        height, width = (inputs.shape[axis] for axis in self.axes)
        shape, limit = (ops.shape(inputs)[0], 1, 1), math.radians(self.degrees)
        angle = keras.random.uniform(shape, -limit, limit, seed=self.generator)
        row, column = ((height - 1) / 2, (width - 1) / 2)
        y = ops.reshape(ops.arange(height, dtype="float32") - row, (1, height, 1))
        x = ops.reshape(ops.arange(width, dtype="float32") - column, (1, 1, width))
        rows = ops.round(ops.cos(angle) * y - ops.sin(angle) * x + row)
        columns = ops.round(ops.sin(angle) * y + ops.cos(angle) * x + column)
        is_inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        places = ops.cast(ops.where(is_inside, rows * width + columns, 0), "int32")
        # The plane becomes one axis, before and after which the others stay as they are.
        before, after = inputs.shape[1:first], inputs.shape[second + 1 :]
        flat = (-1, *before, height * width, *after)
        spread = (-1, *(1,) * len(before), height * width, *(1,) * len(after))
        taken = ops.take_along_axis(
            ops.reshape(inputs, flat), ops.reshape(places, spread), axis=first
        )
        taken = ops.where(ops.reshape(is_inside, spread), taken, ops.zeros_like(taken))
        return ops.reshape(taken, (-1, *inputs.shape[1:]))

    def get_config(self) -> dict:
        return {**super().get_config(), "axes": self.axes, "degrees": self.degrees}


@keras.saving.register_keras_serializable("sepconv_examples")
class MixUp(Augmentation):
    """Replaces samples and their labels with weighted means of two samples, at any rank.

    `keras.layers.MixUp` does the same to images. Pass it as `mixing` to `compare`.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018:
    https://arxiv.org/abs/1710.09412.

    Args:
        alpha: Both parameters of the beta distribution that the weights are drawn from.
        **kwargs: As for `Augmentation`.
    """

    def __init__(self, alpha: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha

    def augment(self, inputs: Any) -> Any:
        size = keras.ops.shape(inputs["labels"])[0]
        weights = keras.random.beta((size,), self.alpha, self.alpha, seed=self.generator)
        # The order of random numbers is a random order, on every backend alike.
        others = keras.ops.argsort(keras.random.uniform((size,), seed=self.generator))

        def mix(values: Any) -> Any:
            values = keras.ops.cast(values, self.compute_dtype)
            weight = keras.ops.reshape(
                keras.ops.cast(weights, values.dtype), (-1, *(1,) * (len(values.shape) - 1))
            )
            return weight * values + (1 - weight) * keras.ops.take(values, others, axis=0)

        return keras.tree.map_structure(mix, inputs)

    def get_config(self) -> dict:
        return {**super().get_config(), "alpha": self.alpha}
