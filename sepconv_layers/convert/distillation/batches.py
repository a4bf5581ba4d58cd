"""The data of a distillation, as batches that `fit` of Keras takes."""

import dataclasses
from typing import Any

import keras
import numpy as np

from sepconv_layers import sources


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches, their number, and an example.

    Attributes:
        dataset: The batches, in a form that `fit` takes.
        count: The number of batches.
        first: Inputs, labels and sample weights of a batch, as arrays. The last two may be `None`.
    """

    dataset: Any
    count: int
    first: tuple[Any, Any, Any]

    def for_fit(self) -> Any:
        """The batches as `fit` takes them best. They follow the order of the dataset."""
        is_ours = isinstance(self.dataset, sources.Batches)
        return self.dataset.dataset() if is_ours else self.dataset


def batches_of(data: Any, name: str, batch_size: int, seed: int, inputs: int) -> Batches:
    """Returns data of any form as batches.

    Args:
        data: As `distill` takes it.
        name: The name of the argument.
        batch_size: Samples in a batch, where data do not come in batches.
        seed: Seed of the order of samples.
        inputs: Number of inputs of the models.

    Raises:
        ValueError: If the form is another one, or the number of batches is unknown or zero.
    """
    if not sources.comes_in_batches(data):
        data = Rows(data, name, batch_size, seed, inputs)
    count = _count(data)
    if count is None or count < 1:
        raise ValueError(
            f"The `{name}` argument must have a known number of batches, at least one. Received: "
            f"{type(data).__name__} with {'no' if count == 0 else 'an unknown number of'} batches. "
            "Give a `tf.data.Dataset` its number by `take` or "
            "`apply(tf.data.experimental.assert_cardinality(number))`, and a "
            "`keras.utils.PyDataset` by `__len__`."
        )
    batch = data[0] if isinstance(data, keras.utils.PyDataset) else next(iter(data))
    first = keras.utils.unpack_x_y_sample_weight(batch)
    return Batches(data, count, keras.tree.map_structure(_array_or_none, first))


class Rows(sources.Batches):
    """Batches of the samples of arrays, or of whatever else has `len` and `[indices]`.

    The order is that of the data until `shuffle` is called.
    """

    def __init__(self, data: Any, name: str, batch_size: int, seed: int, inputs: int) -> None:
        rows = sources.sources_of(data, f"The `{name}` argument, unless it comes in batches,")
        sizes = {len(source) for source in keras.tree.flatten(rows)}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"The `{name}` argument must be inputs of the models: {sources.FORMS}, a structure "
                "of them with the same number of samples, a tuple of inputs and labels, or a "
                f"dataset. Received: inputs of length {', '.join(map(str, sizes))}."
            )
        super().__init__(rows, batch_size)
        self.seed, self.inputs = seed, inputs

    def shuffle(self, epoch: int) -> None:
        """Takes the order of an epoch, which the seed and the epoch determine."""
        count = sources.count_of(self.data)
        self.order = np.random.default_rng((self.seed, epoch)).permutation(count)

    def arranged(self, batch: Any) -> tuple:
        """Inputs, or inputs with labels and perhaps weights, which make it more arrays."""
        is_one = isinstance(batch, tuple) and len(batch) == 1
        is_labeled = isinstance(batch, tuple) and len(keras.tree.flatten(batch)) != self.inputs
        return batch if is_one or is_labeled else (batch,)


def _count(data: Any) -> int | None:
    if isinstance(data, keras.utils.PyDataset):
        try:
            return data.num_batches
        except NotImplementedError:
            return None
    if hasattr(data, "cardinality"):
        count = int(data.cardinality())
        return count if count >= 0 else None  # negative if it is unknown or infinite
    try:
        return len(data)
    except TypeError:  # of an iterable dataset
        return None


def _array_or_none(leaf: Any) -> Any:
    return None if leaf is None else sources.array_of(leaf)
