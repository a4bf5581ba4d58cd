"""Stochastic depth."""

from collections.abc import Sequence
from typing import Any

import keras

from sepconv_layers.arguments import check_number
from sepconv_layers.layers.stateful import Stateful


@keras.saving.register_keras_serializable("sepconv_layers")
class DropPath(Stateful):
    """Drops whole samples of the batch, so that training skips a residual branch for them.

    Put it at the end of a branch, before the addition. The samples that remain are scaled by
    `1 / (1 - rate)`. Outside training, the layer does nothing.

    Args:
        rate: Probability of dropping a sample, in `[0, 1)`.
        seed: Integer seed, for reproducible drops.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape:
        `(batch, ...)`, of any rank.

    Output shape:
        Same as the input shape.

    Raises:
        ValueError: If `rate` is outside `[0, 1)`.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers import DropPath
        >>> y = DropPath(0.5, seed=1)(np.ones((8, 4), "float32"), training=True)
        >>> sorted({float(v) for v in np.unique(y)})
        [0.0, 2.0]

    Reference:
        [Huang et al., "Deep Networks with Stochastic Depth", 2016](
        https://arxiv.org/abs/1603.09382).
    """

    def __init__(self, rate: float = 0.0, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = check_number(rate, "rate", "a number in [0, 1)", lambda rate: 0 <= rate < 1)
        self.seed = seed
        if rate > 0:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates no weights."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or self.rate == 0:
            return inputs
        per_sample = (keras.ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        return keras.random.dropout(
            inputs, self.rate, noise_shape=per_sample, seed=self.seed_generator
        )

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
