"""`export.load`: artifacts of all kinds as functions, and what is none."""

import os
import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import export
from sepconv_layers.export.artifact import compare_outputs
from tests.backends import BACKEND

pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the exports are made of TensorFlow graphs"
)

NAMES = {"hub": "net", "litert": "net.tflite", "onnx": "net.onnx"}
KINDS = pytest.mark.parametrize("kind", NAMES)
WRITERS = {"hub": export.to_hub, "litert": export.to_litert, "onnx": export.to_onnx}


@pytest.fixture(scope="module")
def model():
    """Two inputs and two outputs, whose names are not in the model's order."""
    keras.utils.set_random_seed(0)
    image, vector = keras.Input((8, 6, 3), name="z_image"), keras.Input((5,), name="a_vector")
    x = keras.layers.GlobalAveragePooling2D()(sl.SeparableConvBlock2D(4)(image))
    y = keras.layers.concatenate([x, vector])
    outputs = [keras.layers.Dense(3, name="zebra")(x), keras.layers.Dense(2, name="ape")(y)]
    return keras.Model([image, vector], outputs)


@pytest.fixture(scope="module")
def paths(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    return {kind: WRITERS[kind](model, folder / name).path for kind, name in NAMES.items()}


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return {"z_image": rng.normal(size=(3, 8, 6, 3)), "a_vector": rng.normal(size=(3, 5))}


@KINDS
def test_what_is_loaded_gives_what_the_model_gives(kind, model, paths, inputs):
    net = export.load(str(paths[kind]))
    assert (net.kind, net.outputs) == (kind, ("ape", "zebra"))
    assert [tensor.name for tensor in net.inputs] == ["a_vector", "z_image"]
    assert [tensor.shape for tensor in net.inputs] == [(None, 5), (None, 8, 6, 3)]
    assert {tensor.dtype for tensor in net.inputs} == {np.dtype("float32")}
    expected = model([inputs["z_image"], inputs["a_vector"]], training=False)[::-1]
    for given in (inputs, [inputs["a_vector"], inputs["z_image"]]):
        for found, output in zip(net(given), expected, strict=True):
            np.testing.assert_allclose(found, output, atol=1e-5)


@KINDS
def test_dictionaries_in_and_out_keep_their_keys(kind, tmp_path):
    rng = np.random.default_rng(0)
    inputs = {key: keras.Input((6,), name=key) for key in ("size", "age")}  # not as they are sorted
    difference = keras.layers.Subtract(name="zz")([inputs["size"], inputs["age"]])
    logits = keras.layers.Dense(2, name="aa")(difference)
    model = keras.Model(inputs, {"difference": difference, "logits": logits})
    x = {key: rng.normal(size=(4, 6)).astype("float32") for key in ("size", "age")}
    path = WRITERS[kind](model, tmp_path / NAMES[kind], sample=x).path
    net = export.load(path)
    assert net.outputs == ("difference", "logits")
    expected = model(x)
    for name, found in zip(net.outputs, net(x), strict=True):
        np.testing.assert_allclose(found, expected[name], atol=1e-5)
    with pytest.raises(ValueError, match="`sample` argument must have the keys"):
        WRITERS[kind](model, tmp_path / "other", sample={"size": x["size"], "ages": x["age"]})


def dense(x, size=3):
    return keras.layers.Dense(size, bias_initializer="normal")(x)


def written(kind, model, sample, tmp_path):
    return export.load(WRITERS[kind](model, tmp_path / NAMES[kind], sample=sample).path)


@KINDS
def test_an_ordered_dictionary_keeps_its_order(kind, tmp_path):
    inputs = OrderedDict((key, keras.Input((3,), name=key)) for key in ("zone", "area"))
    outputs = OrderedDict(gender=dense(inputs["zone"]), age=dense(inputs["area"]))
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    x = OrderedDict((key, rng.normal(size=(2, 3)).astype("float32")) for key in inputs)
    net, expected = written(kind, model, x, tmp_path), model(x)
    assert net.outputs == ("age", "gender")
    for given in (x, [x["area"], x["zone"]]):
        for name, found in zip(net.outputs, net(given), strict=True):
            np.testing.assert_allclose(found, expected[name], atol=1e-5)


@KINDS
def test_nested_outputs_and_inputs_are_those_of_the_layers(kind, tmp_path):
    a, b, c = (keras.Input((3,), name=name) for name in "cab")
    outputs = {"z": [dense(a), dense(b)], "y": OrderedDict(q=dense(c), p=dense(a))}
    model = keras.Model({"q": [a, b], "p": OrderedDict(z=c)}, outputs)
    x, y, z = np.random.default_rng(0).normal(size=(3, 2, 3)).astype("float32")
    nested = {"q": [x, y], "p": OrderedDict(z=z)}
    net, expected = written(kind, model, nested, tmp_path), model(nested)
    assert [tensor.name for tensor in net.inputs] == ["a", "b", "c"]  # y, z, x
    names = [
        tensor._keras_history.operation.name
        for tensor in (*outputs["z"], outputs["y"]["q"], outputs["y"]["p"])
    ]
    values = (*expected["z"], expected["y"]["q"], expected["y"]["p"])
    found = dict(zip(net.outputs, net({"a": y, "b": z, "c": x}), strict=True))
    for name, value in zip(names, values, strict=True):
        np.testing.assert_allclose(found[name], value, atol=1e-5)


@KINDS
@pytest.mark.parametrize("outputs", [lambda y: [y], lambda y: (y,), lambda y: [{"only": y}]])
def test_a_list_of_one_output_is_that_output(kind, outputs, tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, outputs(keras.layers.Dense(3, name="only")(inputs)))
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    (expected,) = keras.tree.flatten(model(x))  # which Keras returns without the list
    path = WRITERS[kind](model, tmp_path / NAMES[kind]).path
    (found,) = export.load(path)(x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@KINDS
def test_names_that_converters_change_stay_apart(kind, tmp_path):
    rng = np.random.default_rng(0)
    given = ["X", "x", "größe", "class", "self", "1a", "a.b", "a-b", "a_b_0"]
    names = ["X_0", "x_1", "gr__e", "class_", "self_", "arg_1a", "a_b_1", "a_b_2", "a_b_0"]
    inputs = [keras.Input((3,), name=name) for name in given]
    keys = ["a b", "a_b", "a_b_0", "größe", "1a", "class_", ""]
    spelled = ["a_b_1", "a_b_2", "a_b_0", "größe", "_1a", "class_", "output"]
    outputs = {key: dense(inputs[i]) for i, key in enumerate(keys)}
    model = keras.Model(inputs, {**outputs, "all": keras.layers.Concatenate()(inputs)})
    x = [rng.normal(size=(2, 3)).astype("float32") for _ in given]
    net, expected = written(kind, model, x, tmp_path), model(x)
    found = net(dict(zip(names, x, strict=True)))
    found = dict(zip(net.outputs, found, strict=True))
    for key, name in zip([*keys, "all"], [*spelled, "all"], strict=True):
        if kind == "onnx" and name in names:  # has one list of names for inputs and outputs
            name = f"{name}_output"
        np.testing.assert_allclose(found.pop(name), expected[key], atol=1e-5)
    assert not found


@KINDS
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict:UserWarning")
def test_keys_are_what_inputs_are_called_by(kind, tmp_path):
    a, b = (keras.Input((3,), name=name) for name in "ab")
    model = keras.Model({"b": a, "a": b}, dense(a - 2 * b))
    x = dict(zip("ab", np.random.default_rng(0).normal(size=(2, 2, 3)), strict=True))
    (found,) = written(kind, model, x, tmp_path)(x)
    np.testing.assert_allclose(found, model(x), atol=1e-5)


@KINDS
def test_keys_that_are_numbers(kind, tmp_path):
    x = keras.Input((3,))
    model = keras.Model(x, {10: dense(x), 2: dense(x)})
    sample = np.ones((2, 3), "float32")
    if kind == "hub":
        with pytest.raises(ValueError, match=r"keys of the model's outputs must be strings.*10"):
            written(kind, model, sample, tmp_path)
    else:
        found = written(kind, model, sample, tmp_path)
        assert found.outputs == ("_10", "_2")
        for output, key in zip(found(sample), (10, 2), strict=True):
            np.testing.assert_allclose(output, model(sample)[key], atol=1e-5)


def test_the_check_is_by_name():
    one, two = np.zeros((2, 3)), np.ones((2, 3))
    expected = {"b": one, "a": two}
    assert compare_outputs("onnx", expected, {"a": two, "b": one}, 1e-3)["max_difference"] == 0
    with pytest.raises(ValueError, match="artifact must agree with the model"):
        compare_outputs("onnx", expected, {"a": one, "b": two}, 1e-3)
    with pytest.raises(ValueError, match="returns outputs of the shapes"):
        compare_outputs("onnx", expected, {"a": two, "c": one}, 1e-3)


@KINDS
def test_threads_do_not_mix_up_their_samples(kind, model, paths):
    net, rng = export.load(paths[kind]), np.random.default_rng(0)
    batches = [
        {"z_image": rng.normal(size=(2, 8, 6, 3)), "a_vector": rng.normal(size=(2, 5))}
        for _ in range(40)
    ]
    alone = [net(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            together = pool.map(net, batches)
            for found, expected in zip(together, alone, strict=True):
                for one, other in zip(found, expected, strict=True):
                    np.testing.assert_allclose(one, other, atol=1e-6)


@KINDS
def test_outputs_of_one_layer_are_all_there(kind, tmp_path):
    sequence = keras.Input((5, 3), name="sequence")
    outputs = keras.layers.SimpleRNN(4, return_sequences=True, return_state=True)(sequence)
    model = keras.Model(sequence, [*outputs, outputs[1]])
    net = export.load(WRITERS[kind](model, tmp_path / NAMES[kind]).path)
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    assert len(net.outputs) == 3
    for found, expected in zip(net(x), model(x), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@KINDS
def test_nothing_is_replaced_that_no_export_wrote(kind, model, tmp_path):
    folder, file = tmp_path / "thesis", tmp_path / "thesis.txt"
    folder.mkdir()
    for path in (folder / "thesis.txt", file):
        path.write_text("Chapter 1")
    for path in (folder, file) if kind == "hub" else (folder,):
        with pytest.raises(ValueError, match="`path` argument must be a"):
            WRITERS[kind](model, path)
    assert (folder / "thesis.txt").read_text() == file.read_text() == "Chapter 1"


@KINDS
def test_inputs_that_do_not_fit_are_named(kind, paths, inputs):
    net = export.load(paths[kind])
    image, vector = inputs["z_image"], inputs["a_vector"]
    for wrong in ([image, vector], [vector], vector, [vector[:2], image], [vector[:0], image[:0]]):
        with pytest.raises(ValueError, match=r"`inputs` argument must be a batch.*'z_image'"):
            net(wrong)
    with pytest.raises(ValueError, match="must have the keys"):
        net({"image": image, "a_vector": vector})


@KINDS
def test_one_input_is_an_array_and_integers_are_not_cut_off(kind, tmp_path):
    tokens = keras.Input((4,), dtype="int32", name="tokens")
    outputs = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 3)(tokens))
    model = keras.Model(tokens, outputs)
    net = export.load(WRITERS[kind](model, tmp_path / NAMES[kind]).path)
    batch = np.arange(8).reshape(2, 4)
    expected = keras.ops.convert_to_numpy(model(batch))
    for given in (batch, [batch], batch.tolist(), {"tokens": batch}):
        np.testing.assert_allclose(net(given)[0], expected, atol=1e-5)
    with pytest.raises(ValueError, match="int32. Received: .* float64"):
        net(batch / 2)


def test_integers_at_both_ends_are_scaled(tmp_path):
    model = keras.Sequential([keras.Input((9, 4)), sl.SeparableConvBlock1D(8)])
    batch = np.random.default_rng(0).normal(size=(50, 9, 4))
    path = tmp_path / "net.tflite"
    export.to_litert(model, path, "int8", calibration=batch, quantize_io=True)
    (found,) = export.load(path)(batch)
    expected = keras.ops.convert_to_numpy(model(batch, training=False))
    assert 0 < np.abs(found - expected).max() < 0.1


@KINDS
def test_what_is_truncated_or_foreign_is_refused(kind, paths, tmp_path):
    is_folder = kind == "hub"
    file = paths[kind] / "saved_model.pb" if is_folder else paths[kind]
    copy = tmp_path / NAMES[kind]
    if is_folder:
        copy.mkdir()
    content = file.read_bytes()
    for part in (content[: len(content) // 2], content[:-1], content[:9], b"", b"no model" * 99):
        (copy / file.name if is_folder else copy).write_bytes(part)
        with pytest.raises(ValueError, match="cannot be loaded: .* may be truncated"):
            export.load(copy)


def test_what_is_no_artifact_is_refused(model, tmp_path):
    model.save(tmp_path / "net.keras")
    with pytest.raises(ValueError, match=r"Load it with `keras\.saving\.load_model`"):
        export.load(tmp_path / "net.keras")
    with pytest.raises(ValueError, match="which is not there"):
        export.load(tmp_path / "nothing.onnx")
    with pytest.raises(ValueError, match="which cannot be loaded"):
        export.load(tmp_path)  # a folder without a SavedModel


def test_a_saved_model_without_the_signature_is_refused(tmp_path):
    import tensorflow as tf

    tf.saved_model.save(tf.Module(), str(tmp_path / "net"))
    with pytest.raises(ValueError, match="it has no signature 'serving_default'"):
        export.load(tmp_path / "net")


@pytest.mark.parametrize(
    ("kind", "module"), [("litert", "ai_edge_litert.interpreter"), ("onnx", "onnxruntime")]
)
def test_a_missing_package_is_named(kind, module, paths, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'sepconv-layers\[export\]'"):
        export.load(paths[kind])


@pytest.mark.parametrize("name", ["pipe.tflite", "pipe.onnx"])
def test_a_pipe_is_no_artifact(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="which is none of these"):
        export.load(tmp_path / name)


@pytest.mark.parametrize("load", [export.load, export.HubLayer])
def test_a_pipe_in_a_saved_model_is_refused(load, model, tmp_path):
    path = export.to_hub(model, tmp_path / "net").path
    index = path / "variables" / "variables.index"
    index.unlink()
    os.mkfifo(index)
    with pytest.raises(ValueError, match="variables.index is not a file"):
        load(str(path))


def test_paths_that_the_engines_misread_are_refused_early(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="reads them as a glob pattern.*run\\[1\\]"):
        export.to_hub(model, tmp_path / "run[1]")
    with pytest.raises(ValueError, match="must be valid UTF-8"):
        export.to_litert(model, tmp_path / "caf\udce9.tflite")
    assert not list(tmp_path.iterdir())
