"""Data that are read by index: each form gives what an array gives, and no form is read at once."""

import hashlib
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest
from keras import layers

from sepconv_layers import compare, convert, export, quantize, sources
from sepconv_layers.comparison.data import Epoch
from sepconv_layers.quantize.insertion import ranges_of
from sepconv_layers.sources import Batches, digest_of, shapes_of, sources_of, take
from tests.backends import BACKEND, the_same_everywhere
from tests.test_comparison import no_training, without_timing

N, SHAPE, CLASSES = 23, (6, 4), 3
X = np.random.default_rng(0).normal(size=(N, *SHAPE)).astype("float32")
Y = np.arange(N) % CLASSES
ORDERS = [slice(2), slice(20, 40), np.array([7, 0, 7, 22]), np.random.default_rng(1).permutation(N)]


class Indices:
    """What has `len` and `[indices]`, and no more."""

    def __init__(self, array=X, change=lambda samples: samples):
        self.array, self.change, self.seen = array, change, []

    def __len__(self):
        return len(self.array)

    def __getitem__(self, indices):
        if not isinstance(indices, np.ndarray):
            raise TypeError(f"arrays only, not {indices!r}")
        self.seen.append(len(indices))
        return self.change(self.array[indices])


class OneByOne(Indices):
    """What has `len` and `[index]`: a decoder of files, say."""

    def __getitem__(self, index):
        return self.change(self.array[int(index)])


def torch_dataset(make=lambda index: X[index]):
    torch = pytest.importorskip("torch")

    class Dataset(torch.utils.data.Dataset):
        def __len__(self):
            return N

        def __getitem__(self, index):
            return make(index)

    return Dataset()


def grain_dataset(make=lambda index: X[index]):
    grain = pytest.importorskip("grain")
    return grain.MapDataset.range(N).map(make)


def in_file(kind, folder, array=X):
    if kind == "zarr":
        zarr = pytest.importorskip("zarr")
        chunks = (7, *array.shape[1:])
        return zarr.create_array(folder / "x.zarr", data=array, chunks=chunks)
    if kind == "hdf5":
        h5py = pytest.importorskip("h5py")
        return h5py.File(folder / "x.h5", "w").create_dataset("x", data=array, chunks=True)
    np.save(folder / "x.npy", array)
    return np.load(folder / "x.npy", mmap_mode="r")


FORMS = {
    "memory-mapped": lambda folder: in_file("npy", folder),
    "hdf5": lambda folder: in_file("hdf5", folder),
    "zarr": lambda folder: in_file("zarr", folder),
    "tensor": lambda folder: keras.ops.convert_to_tensor(X),
    "indices": lambda folder: Indices(),
    "one by one": lambda folder: OneByOne(),
    "torch": lambda folder: torch_dataset(),
    "grain": lambda folder: grain_dataset(),
}
forms = pytest.mark.parametrize("form", FORMS)


@forms
def test_samples_are_those_of_an_array_in_any_order(form, tmp_path):
    found = sources_of(FORMS[form](tmp_path), "`data`")
    assert len(found) == N and shapes_of(found) == SHAPE
    for order in ORDERS:
        np.testing.assert_array_equal(take(found, order), X[order])
    assert digest_of(found) == digest_of(X)


def test_files_of_another_byte_order_are_read(tmp_path):
    found = sources_of(in_file("hdf5", tmp_path, X.astype(">f4")), "`data`")
    np.testing.assert_array_equal(take(found, ORDERS[0]), X[ORDERS[0]])
    assert digest_of(found) == digest_of(X)


def test_arrays_are_not_copied():
    assert sources_of({"a": X}, "`data`")["a"] is X


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_a_mapped_file_does_not_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PIECE_BYTES", 2**20)

    def mapped_kb():
        return int(Path("/proc/self/status").read_text().split("RssFile:")[1].split()[0])

    array = in_file("npy", tmp_path, np.ones((4096, 4096), "int8"))
    found, before = sources_of(array, "`data`"), mapped_kb()
    digest_of(found)
    assert mapped_kb() - before < 2**11
    assert array.sum(dtype="int64") == 2**24 and mapped_kb() - before > 2**13


@pytest.mark.parametrize("dtype", ["float32", "int8", "U3", object])
def test_the_digest_of_arrays_is_that_of_all_their_bytes(dtype, monkeypatch):
    monkeypatch.setattr(sources, "PIECE_BYTES", 100)
    array = X.astype(dtype)
    parts = {"b": array[:, 1:], "a": (array, Y)}
    expected = hashlib.sha256()
    for each in (*parts["a"], parts["b"]):
        expected.update(repr((each.shape, each.dtype)).encode())
        held = repr(each.tolist()).encode() if each.dtype == object else each.tobytes()
        expected.update(held)
    assert digest_of(parts) == expected.hexdigest()


def test_a_source_may_have_a_digest_of_its_own():
    class Versioned(Indices):
        version = 1

        def digest(self):
            return "corpus", self.version

    found = sources_of(Versioned(), "`data`")
    found.data.seen.clear()
    first = digest_of(found)
    found.data.version = 2
    assert first != digest_of(found) and not found.data.seen


def test_what_computes_by_sample_is_read_one_by_one():
    # It can be given several indices, and then returns something else.
    class Scaled(OneByOne):
        def __getitem__(self, index):
            sample = self.array[index]
            return sample / np.abs(sample).max()

    expected = X / np.abs(X).max((1, 2), keepdims=True)
    np.testing.assert_array_equal(sources_of(Scaled(), "`data`")[:], expected)


@pytest.mark.parametrize("form", ["array", "npy"])
def test_samples_in_an_order_are_those_of_an_array_in_it(form, tmp_path):
    array = X if form == "array" else in_file("npy", tmp_path)
    order = np.random.default_rng(2).permutation(N)[:20]
    found = sources.Ordered(array, order)
    assert (len(found), found.shape, found.dtype) == (20, (20, *SHAPE), X.dtype)
    for index in (slice(3, 8), np.array([5, 1, 5])):
        np.testing.assert_array_equal(found[index], X[order][index])
    assert digest_of(sources_of(found, "`data`")) == digest_of(X[order])
    assert digest_of(sources.Ordered(array, order, lambda: 1)) != digest_of(X[order])
    for bad in ([], [0.5], [[0]], [N], [-1]):
        with pytest.raises(ValueError, match="`order`"):
            sources.Ordered(array, bad)


def test_samples_may_be_structures():
    pairs = OneByOne(change=lambda sample: {"a": sample, "b": sample.sum()})
    found = sources_of(pairs, "`data`")
    assert shapes_of(found) == {"a": SHAPE, "b": ()}
    np.testing.assert_array_equal(take(found, ORDERS[2])["a"], X[ORDERS[2]])
    other = sources_of(OneByOne(X + 1, pairs.change), "`data`")
    assert digest_of(found) != digest_of(other)


def test_batches_have_the_order_the_rest_and_the_floats_of_keras():
    order = ORDERS[3]
    batches = Batches((X.astype("float64"), Y), 9, order)
    found = [batches[index] for index in range(len(batches))]
    assert [len(y) for _, y in found] == [9, 9, 5]
    assert {x.dtype for x, _ in found} == {np.dtype("float32")}
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), X[order])
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), Y[order])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only there")
@pytest.mark.parametrize(("count", "size"), [(20, 10), (23, None), (7, 7)])
def test_tensorflow_knows_the_shapes_of_all_batches(count, size):
    dataset = Batches(([X[:count], X[:count]], Y[:count].astype(str)), 10).dataset()
    (a, _), y = dataset.element_spec
    assert a.shape == (size, *SHAPE) and y.shape == (size,) and y.dtype.name == "string"
    assert int(dataset.cardinality()) == len(list(dataset)) == -(-count // 10)
    assert dataset.options().autotune.enabled is False  # the end of an epoch would wait for it


# Comparisons


def build(conv):
    stages = [layers.Conv1D(4, 3), layers.Dropout(0.2), layers.GlobalMaxPooling1D()]
    return keras.Sequential([keras.Input(SHAPE), *stages, layers.Dense(CLASSES)])


def compare_tiny(x, labels=Y, **changes):
    test = X[:9], Y[:9]
    data = {"train": (x, labels), "val": (x, labels), "test": test}
    arguments = {"convs": "standard", "epochs": 2, "batch_size": 8, "seeds": [3], "progress": False}
    with without_timing():
        return compare(build, data, **arguments | changes)


def weights_and_record(x, folder):
    result = compare_tiny(x, output=folder)
    (run,) = (folder / "runs").glob("*/seed-3.json")
    (row,) = result.rows
    # The name of the folder holds the hash of net, settings and data.
    return run.parent.name, row.accuracy, result.models["standard"].get_weights()


@pytest.fixture(scope="module")
def of_an_array(tmp_path_factory):
    return weights_and_record(X, tmp_path_factory.mktemp("array"))


def assert_same(found, expected):
    assert found[:2] == expected[:2]
    for ours, theirs in zip(found[2], expected[2], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("form", ["memory-mapped", "hdf5"])
def test_a_comparison_is_that_of_an_array(form, of_an_array, tmp_path):
    assert_same(weights_and_record(FORMS[form](tmp_path), tmp_path / "output"), of_an_array)


def test_an_epoch_is_an_order_of_indices_and_no_more_than_a_batch_is_read(of_an_array, tmp_path):
    x, fit = Indices(), keras.Model.fit
    sizes, orders = [], []

    def watched(*args, **kwargs):
        x.seen.clear()
        history = fit(*args, **kwargs)
        sizes.append(max(x.seen))
        return history

    with (
        mock.patch.object(keras.Model, "fit", watched),
        mock.patch("sepconv_layers.comparison.training.Epoch", side_effect=epoch_with(orders)),
    ):
        assert_same(weights_and_record(x, tmp_path), of_an_array)
    assert sizes == [8, 8]
    assert orders == [np.random.default_rng((3, epoch)).permutation(N).tolist() for epoch in (0, 1)]


def epoch_with(orders):
    def make(part, training, order=None, *args):
        if order is not None:
            orders.append(order.tolist())
        return Epoch(part, training, order, *args)

    return make


def test_the_labels_of_a_data_set_are_those_of_the_part(of_an_array, tmp_path):
    pairs = torch_dataset(lambda index: (X[index], int(Y[index])))
    assert_same(weights_and_record(pairs, tmp_path), of_an_array)
    with pytest.raises(ValueError, match="labels of the 'train' part must be those.*beside"):
        compare_tiny(pairs, (Y + 1) % CLASSES)


# Conversion, quantization and export


def make_net():
    keras.utils.set_random_seed(0)
    stages = [layers.Conv1D(4, 3, name="conv"), layers.ReLU(), layers.GlobalAveragePooling1D()]
    return keras.Sequential([keras.Input(SHAPE), *stages, layers.Dense(CLASSES)])


PAIRS = pytest.mark.parametrize(
    "data",
    [Indices(), OneByOne(change=lambda sample: (sample, sample.sum()))],
    ids=["inputs", "inputs with labels"],
)


@PAIRS
def test_conversion_and_distillation_of_data_by_index(data):
    def weights(data):
        teacher = make_net()
        student, _ = convert.to_separable(teacher, data=data)
        arguments = {"epochs": 2, "batch_size": 9, "verbose": 0, "jit_compile": False}
        history = convert.distill(student, teacher, data, features=["conv"], **arguments)
        return [*student.get_weights(), *history["loss"]]

    for ours, theirs in zip(weights(data), weights(X), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


@PAIRS
def test_ranges_of_data_by_index(data):
    def ranges(data):
        found = ranges_of(quantize.aware(make_net(), calibration=data))
        return [layer.get_weights() for layer in found]

    np.testing.assert_allclose(ranges(data), ranges(X), rtol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="LiteRT files need it")
@pytest.mark.parametrize("form", ["memory-mapped", "hdf5", "one by one", "torch"])
def test_files_are_calibrated_by_index(form, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr("sepconv_layers.export.calibration.LARGEST_SAMPLE", 10)  # several pieces

    net = make_net()

    def content(data):
        export.to_litert(net, tmp_path / "net.tflite", "int8", calibration=data)
        return (tmp_path / "net.tflite").read_bytes()

    assert content(FORMS[form](tmp_path)) == content([X[:10], X[10:20], X[20:]])


# What is refused


def a_generator(*_):
    yield X


def tensorflow_dataset():
    return pytest.importorskip("tensorflow").data.Dataset.from_tensor_slices(X)


def torch_loader():
    torch = pytest.importorskip("torch")
    return torch.utils.data.DataLoader(torch_dataset(), batch_size=4)


def failing(index):
    raise OSError("the archive is damaged")


BAD = {
    "a generator": (a_generator, "generator, which has no random access.*open_memmap"),
    "tf.data": (tensorflow_dataset, "Dataset, which has batches in an order of its own"),
    "a loader": (torch_loader, "DataLoader, which has batches.*Give its `dataset`"),
    "a PyDataset": (lambda: Batches((X,), 4), "Batches, which has batches in an order of its own"),
    "nothing": (lambda: Indices(X[:0]), "have samples.*an empty Indices"),
    "what fails": (lambda: torch_dataset(failing), "cannot be read.*the archive is damaged"),
}


@the_same_everywhere
@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_by_index_is_refused_early(make, message):
    expected = f"(?s)The inputs of the 'train' part must .*{message}"
    with no_training(), pytest.raises(ValueError, match=expected):
        compare_tiny(make())
