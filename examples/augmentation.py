"""The base class of the augmentations."""

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
