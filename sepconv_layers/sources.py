"""Samples that are read by index: arrays in memory or on disk, and data sets of other libraries.

A source is a NumPy array in memory, or a `Samples`, which reads anything else as if it were one.
Data are a source or a structure of sources, as a model takes its inputs.
"""

import copy
import hashlib
import math
import mmap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

__all__ = ["Ordered"]

PIECE_BYTES = 2**24  # to read at a time where all samples are read in turn
AHEAD = 2  # batches that are read while the net trains
PROBED = 2  # samples that show how a data set is read
LIBRARIES = {"torch", "grain"}  # whose data sets take the index of one sample
FORMS = (
    "NumPy arrays, in memory or mapped into it, or anything else with `len` and `[indices]`, such "
    "as HDF5 and zarr arrays and the map-style data sets of PyTorch and Grain"
)


def sources_of(data: Any, name: str) -> Any:
    """Returns data with a source in place of each leaf. NumPy arrays in memory stay as they are.

    Args:
        data: A structure of arrays and data sets.
        name: What messages call the data, such as "The `data` argument".

    Raises:
        ValueError: If a leaf has no random access, has no samples, or cannot be read.
    """
    return keras.tree.map_structure(lambda leaf: _source_of(leaf, name), data)


def take(data: Any, index: slice | np.ndarray) -> Any:
    """Reads samples of each source in a structure, in the order of the indices."""
    return keras.tree.map_structure(lambda source: source[index], data)


def shapes_of(data: Any) -> Any:
    """The shapes of one sample, in the structure of the inputs that a model gets."""
    return keras.tree.map_structure(lambda array: array.shape[1:], take(data, slice(1)))


def count_of(data: Any) -> int:
    """The number of samples in the first source of a structure."""
    return len(keras.tree.flatten(data)[0])


def digest_of(data: Any) -> str:
    """A hash of all samples, read piece by piece.

    A source with a method `digest` is known by what that returns, and not read.
    """
    digest = hashlib.sha256()
    for source in keras.tree.flatten(data):
        own = getattr(source, "digest", None)
        if own is not None:
            digest.update(repr(own()).encode())
            continue
        first = keras.tree.flatten(source[:1])
        for array in first:
            digest.update(repr(((len(source), *array.shape[1:]), array.dtype)).encode())
        size = PIECE_BYTES // max(1, sum(array.nbytes for array in first))
        if any(array.dtype.kind == "O" for array in first):
            size = len(source)
        for start in range(0, len(source), max(1, size)):
            for array in keras.tree.flatten(source[start : start + max(1, size)]):
                is_object = array.dtype.kind == "O"  # whose bytes are addresses
                digest.update(repr(array.tolist()).encode() if is_object else array.tobytes())
    return digest.hexdigest()


def comes_in_batches(data: Any) -> bool:
    """Whether data are a data set of batches, as `fit` of Keras takes them."""
    is_tensorflow_dataset = hasattr(data, "element_spec") and hasattr(data, "cardinality")
    is_torch_loader = ("torch", "DataLoader") in _classes_of(data)
    return isinstance(data, keras.utils.PyDataset) or is_torch_loader or is_tensorflow_dataset


def is_indexed(data: Any) -> bool:
    """Whether data are an array or a data set that has random access to its samples."""
    if isinstance(data, str | bytes) or getattr(data, "shape", None) == ():
        return False
    is_sized = hasattr(data, "__len__") or _is_array(data)
    return is_sized and hasattr(data, "__getitem__") and not comes_in_batches(data)


def is_by_sample(data: Any) -> bool:
    """Whether data are read by index where they could also be batches to iterate over."""
    return all(
        is_indexed(leaf)
        and (_is_array(leaf) or not isinstance(leaf, Iterable) or _is_of_libraries(leaf))
        for leaf in keras.tree.flatten(data)
    )


def inputs_at(data: Any, index: slice, inputs: int) -> Any:
    """Reads inputs of a model.

    Args:
        data: A structure of sources. A data set may have labels and sample weights, too.
        index: The samples.
        inputs: Number of inputs of the model.
    """
    batch = take(data, index)
    has_labels = isinstance(data, Samples) and len(keras.tree.flatten(batch)) != inputs
    return keras.utils.unpack_x_y_sample_weight(batch)[0] if has_labels else batch


def in_turn(data: Any, batch_size: int, inputs: int) -> Iterator[Any]:
    """Yields the inputs of a model, batch by batch, as `inputs_at` reads them."""
    for start in range(0, count_of(data), batch_size):
        yield inputs_at(data, slice(start, start + batch_size), inputs)


def array_of(leaf: Any) -> np.ndarray:
    """A tensor of any library, or whatever else holds numbers, as an array."""
    return keras.ops.convert_to_numpy(leaf) if keras.ops.is_tensor(leaf) else np.asarray(leaf)


class Samples:
    """The samples of a data set, read as NumPy arrays when they are indexed.

    Attributes:
        data: The data set.
        digest: Its method of that name, or `None`.

    Args:
        data: An object with `len` and `[indices]`, or `[index]` for one sample at a time. A sample
            is an array or a structure of arrays.
        name: What messages call the data.

    Raises:
        ValueError: If there are no samples, or they cannot be read.
    """

    def __init__(self, data: Any, name: str) -> None:
        self.data, self.name = data, name
        self.digest: Callable[[], Any] | None = getattr(data, "digest", None)
        self._count = _count_of_source(data)
        if not self._count:
            raise ValueError(f"{name} must have samples. Received: an empty {_kind(data)}.")
        self._read = _reader_of(data, name)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: slice | np.ndarray) -> Any:
        if isinstance(index, slice):
            return self._read(np.arange(*index.indices(len(self))))
        # Files in the HDF5 format are read in rising order only, and no sample twice.
        rising, places = np.unique(index, return_inverse=True)
        return take(self._read(rising), places)


class Ordered:
    """Samples of an array or data set in another order, or some of them. Nothing is copied.

    A random split or a shuffled part of a file that is larger than memory is an order of indices.

    Args:
        data: An array, such as a memory-mapped file, or whatever else has a `shape`, a `dtype` and
            `[indices]`.
        order: The indices of the samples.
        digest: Returns what changes when the samples do, so that they need not be read to tell. By
            default, all of them are read for that.

    Raises:
        ValueError: If the data cannot be read by index, or an index is not that of a sample.

    Example:
        >>> import numpy as np
        >>> from sepconv_layers.sources import Ordered
        >>> part = Ordered(np.arange(10.0), [7, 3, 5])
        >>> part[:2], part.shape
        (array([7., 3.]), (3,))
    """

    def __init__(self, data: Any, order: Any, digest: Callable[[], Any] | None = None) -> None:
        self.order, self.digest = np.asarray(order), digest
        self._source = _source_of(data, "The `data` argument")
        is_order = self.order.ndim == 1 and self.order.dtype.kind in "iu"
        if not is_order or not len(self.order):
            raise ValueError(
                "The `order` argument must be the indices of samples, at least one. Received: "
                f"dtype={self.order.dtype}, shape={self.order.shape}."
            )
        low, high = self.order.min(), self.order.max()
        if low < 0 or high >= len(self._source):
            raise ValueError(
                f"The `order` argument must be indices of the {len(self._source)} samples. "
                f"Received: indices from {low} to {high}."
            )
        self.shape = (len(self.order), *data.shape[1:])
        self.dtype = data.dtype

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        return self._source[self.order[index]]


class Batches(keras.utils.PyDataset):
    """Batches of samples in an order, as `fit` of Keras takes them.

    Floats are cast to those that Keras uses by default, as `fit` does with whole arrays.

    Args:
        data: A structure of sources with the same number of samples.
        batch_size: Number of samples in a batch. The last one may have fewer.
        order: The indices of the samples; by default, all in turn.

    Attributes:
        pieces: The number of pieces in which each batch comes, one after the other.
    """

    pieces = 1

    def __init__(self, data: Any, batch_size: int, order: np.ndarray | None = None) -> None:
        super().__init__()
        self.data, self.batch_size, self.order = data, batch_size, order

    def __len__(self) -> int:
        return self.pieces * math.ceil(self._count() / self.batch_size)

    def __getitem__(self, index: int) -> Any:
        number, piece = divmod(index, self.pieces)
        start = number * self.batch_size
        size = min(self.batch_size, self._count() - start)
        ends = [start + size * place // self.pieces for place in (piece, piece + 1)]
        part = slice(*ends)
        batch = take(self.data, part if self.order is None else self.order[part])
        return _as_fit_takes(self.arranged(batch))

    def _count(self) -> int:
        return count_of(self.data) if self.order is None else len(self.order)

    @property
    def indices(self) -> np.ndarray:
        """The indices of the samples in their order."""
        return np.arange(self._count()) if self.order is None else self.order

    def of(self, order: np.ndarray, batch_size: int) -> "Batches":
        """The same data in another order and in batches of another size."""
        other = copy.copy(self)
        other.order, other.batch_size = order, batch_size
        return other

    def divided(self, pieces: int) -> "Batches":
        """The same batches in pieces, whose sizes differ by one at most."""
        other = copy.copy(self)
        other.pieces = pieces
        return other

    def arranged(self, batch: Any) -> Any:
        """What `fit` gets, from the samples of a batch."""
        return batch

    def dataset(self) -> Any:
        """The batches as `fit` takes them best: on TensorFlow, with shapes that are known.

        Keras leaves the batch size of a `PyDataset` open there, as if the last batch were smaller,
        and XLA compiles other code for that.
        """
        if keras.backend.backend() != "tensorflow":
            return self
        import tensorflow as tf

        def spec(first: Any, last: Any) -> Any:
            sizes = zip(first.shape, last.shape, strict=True)
            return tf.TensorSpec([n if n == other else None for n, other in sizes], first.dtype)

        count = len(self)
        dataset = tf.data.Dataset.from_generator(
            lambda: map(self.__getitem__, range(count)),
            # The first piece of a batch is its smallest.
            output_signature=keras.tree.map_structure(spec, self[0], self[count - self.pieces]),
        )
        known = tf.data.experimental.assert_cardinality(count)
        options = tf.data.Options()
        # Its thread sleeps for 10, 20, 40 ms and so on, and at least up to TensorFlow 2.21 the end
        # of an epoch waits until it wakes up: almost for as long as the epoch took, in bad cases.
        options.autotune.enabled = False
        return dataset.apply(known).prefetch(AHEAD).with_options(options)


def _source_of(leaf: Any, name: str) -> Any:
    if keras.ops.is_tensor(leaf):  # not all of them take arrays of indices
        leaf = keras.ops.convert_to_numpy(leaf)
    is_array = isinstance(leaf, np.ndarray) and leaf.ndim
    if isinstance(leaf, Samples) or (is_array and not _is_file(leaf)):
        return leaf
    if is_indexed(leaf):
        return Samples(leaf, name)
    why, advice = (
        "which has no random access",
        (
            "Write its samples to a file by `numpy.lib.format.open_memmap`, and open that by "
            "`numpy.load(path, mmap_mode='r')`."
        ),
    )
    if comes_in_batches(leaf):
        why = "which has batches in an order of its own"
        advice = "Give what it reads." if not hasattr(leaf, "dataset") else "Give its `dataset`."
    raise ValueError(
        f"{name} must be {FORMS}. Each epoch is an order of samples that the seed determines, so "
        "that all models get the same batches, also after an interruption. Received: "
        f"{_kind(leaf)}, {why}. {advice}"
    )


def _reader_of(data: Any, name: str) -> Callable[[np.ndarray], Any]:
    """A function that reads the samples of rising indices."""
    if _is_file(data):
        return _of_file(data)
    if _is_array(data):
        return _of_array(data)
    probe = np.arange(min(PROBED, _count_of_source(data)))
    one_by_one, together = _one_by_one(data), _together(data)
    try:
        expected = keras.tree.flatten(one_by_one(probe))
    except Exception as error:  # any type: data sets can raise anything
        expected, problem = None, error
    if expected is not None and _is_of_libraries(data):
        return one_by_one
    try:
        found = keras.tree.flatten(together(probe))
    except Exception as error:
        if expected is None:
            raise ValueError(
                f"{name} must be {FORMS}. Received: {_kind(data)}, whose first samples cannot be "
                f"read. By `[0]`: {problem!r}. By `[[0, 1]]`: {error!r}"
            ) from error
        return one_by_one
    if expected is None:
        is_same = all(array.shape[:1] == probe.shape for array in found)
    else:
        is_same = len(found) == len(expected) and all(map(np.array_equal, found, expected))
    return together if is_same else one_by_one


def _of_file(data: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Reads a file that is mapped into memory, and lets go of its pages: they would add up."""

    def read(rising: np.ndarray) -> np.ndarray:
        found = np.asarray(data[rising])  # a copy
        data._mmap.madvise(mmap.MADV_DONTNEED)  # they stay in the cache of the system
        return found

    return read


def _of_array(data: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Reads arrays of other libraries, neighbors as a slice."""
    selection = getattr(data, "oindex", data)  # of zarr

    def read(rising: np.ndarray) -> np.ndarray:
        start, stop = (int(rising[0]), int(rising[-1]) + 1) if len(rising) else (0, 0)
        is_slice = len(rising) == stop - start
        found = array_of(data[start:stop] if is_slice else selection[rising])
        # Files have a byte order. Backends take that of the machine, and digests its name.
        own = found.dtype.newbyteorder("=")
        return found.view(own) if found.dtype.isnative else found.astype(own)

    return read


def _together(data: Any) -> Callable[[np.ndarray], Any]:
    return lambda rising: keras.tree.map_structure(array_of, data[rising])


def _one_by_one(data: Any) -> Callable[[np.ndarray], Any]:
    def stacked(*leaves: Any) -> np.ndarray:
        return np.stack([array_of(leaf) for leaf in leaves])

    def read(rising: np.ndarray) -> Any:
        indices = rising.tolist()
        several = getattr(data, "__getitems__", None)  # what PyTorch calls for a batch
        samples = several(indices) if several else [data[index] for index in indices]
        return keras.tree.map_structure(stacked, *samples)

    return read


def _as_fit_takes(batch: Any) -> Any:
    """A batch with the types of arrays that `fit` gets from Keras where it is given arrays."""
    is_tensorflow = keras.backend.backend() == "tensorflow"

    def converted(array: np.ndarray) -> Any:
        if is_tensorflow and array.dtype.kind in "OSU":
            import tensorflow as tf

            return tf.convert_to_tensor(array, "string")
        if "float" in array.dtype.name:
            array = array.astype(keras.config.floatx(), copy=False)
        return array if array.flags.writeable else array.copy()  # PyTorch warns of the others

    batch = keras.tree.map_structure(converted, batch)
    # `tf.data` takes a list for a tensor.
    return keras.tree.lists_to_tuples(batch) if is_tensorflow else batch


def _classes_of(data: Any) -> set[tuple[str, str]]:
    """The libraries and the names of a class and of its bases."""
    return {(cls.__module__.partition(".")[0], cls.__name__) for cls in type(data).__mro__}


def _count_of_source(data: Any) -> int:
    return data.shape[0] if _is_array(data) else len(data)  # arrays of zarr have no `len`


def _is_array(data: Any) -> bool:
    return hasattr(data, "shape") and hasattr(data, "dtype")


def _is_file(data: Any) -> bool:
    """Whether data are a mapped file whose pages can be read again: nobody has changed them."""
    is_read_only = isinstance(data, np.memmap) and data.mode == "r"
    is_mapped = getattr(data, "_mmap", None) is not None
    return is_read_only and is_mapped and hasattr(mmap, "MADV_DONTNEED")


def _is_of_libraries(data: Any) -> bool:
    return bool(LIBRARIES & {library for library, _ in _classes_of(data)})


def _kind(data: Any) -> str:
    return type(data).__name__
