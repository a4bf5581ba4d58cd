"""The data of a distillation, as batches that `fit` of Keras takes."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches, their number, and an example.

    Attributes:
        dataset: What `fit` takes.
        count: The number of batches.
        first: Inputs, labels and sample weights of a batch, as arrays. The last two may be `None`.
    """

    dataset: Any
    count: int
    first: tuple[Any, Any, Any]


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
    if not _comes_in_batches(data):
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
    return Batches(data, count, keras.tree.map_structure(_array, first))


class Rows(keras.utils.PyDataset):
    """Batches of the samples of arrays, or of whatever else has `len` and `[indices]`.

    The order is that of the data until `shuffle` is called.
    """

    def __init__(self, data: Any, name: str, batch_size: int, seed: int, inputs: int) -> None:
        super().__init__()
        self.data = keras.tree.map_structure(_indexable, data)
        self.batch_size, self.seed, self.inputs = batch_size, seed, inputs
        leaves = keras.tree.flatten(self.data)
        sizes = {len(leaf) if _is_indexable(leaf) else 0 for leaf in leaves}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"The `{name}` argument must be inputs of the models: an array, a structure of "
                "arrays with the same number of samples, anything else with `len` and "
                "`[indices]`, a tuple of inputs and labels, or a dataset. Received: "
                f"{', '.join(type(leaf).__name__ for leaf in leaves)}."
            )
        self.order = np.arange(sizes.pop())

    def shuffle(self, epoch: int) -> None:
        """Takes the order of an epoch, which the seed and the epoch determine."""
        self.order = np.random.default_rng((self.seed, epoch)).permutation(len(self.order))

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch_size)

    def __getitem__(self, index: int) -> tuple:
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        # Files in the HDF5 format are read in rising order only.
        places = np.argsort(chosen)
        back = np.argsort(places)
        batch = keras.tree.map_structure(lambda leaf: leaf[chosen[places]], self.data)
        return self._unpacked(keras.tree.map_structure(lambda array: _array(array)[back], batch))

    def _unpacked(self, batch: Any) -> tuple:
        """Inputs, or inputs with labels and perhaps weights, which make it more arrays."""
        is_one = isinstance(batch, tuple) and len(batch) == 1
        is_labeled = isinstance(batch, tuple) and len(keras.tree.flatten(batch)) != self.inputs
        return batch if is_one or is_labeled else (batch,)


def _comes_in_batches(data: Any) -> bool:
    classes = {(cls.__module__.partition(".")[0], cls.__name__) for cls in type(data).__mro__}
    is_torch_loader = ("torch", "DataLoader") in classes
    is_tensorflow_dataset = hasattr(data, "element_spec") and hasattr(data, "cardinality")
    return isinstance(data, keras.utils.PyDataset) or is_torch_loader or is_tensorflow_dataset


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


def _indexable(leaf: Any) -> Any:
    """Tensors as arrays: not all of them take arrays of indices."""
    return keras.ops.convert_to_numpy(leaf) if keras.ops.is_tensor(leaf) else leaf


def _is_indexable(leaf: Any) -> bool:
    if hasattr(leaf, "shape") and not leaf.shape:
        return False
    is_text = isinstance(leaf, str | bytes)
    return hasattr(leaf, "__len__") and hasattr(leaf, "__getitem__") and not is_text


def _array(leaf: Any) -> Any:
    """A tensor of any library as an array."""
    if leaf is None:
        return None
    return keras.ops.convert_to_numpy(leaf) if keras.ops.is_tensor(leaf) else np.asarray(leaf)
