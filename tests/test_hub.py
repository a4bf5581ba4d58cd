"""Reusable SavedModels: used and fine-tuned without this package, and by a layer of Keras 3."""

import os
import subprocess
import sys
from collections import OrderedDict
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import export
from tests.backends import BACKEND

pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the exports are made of TensorFlow graphs"
)

LABELS = ["one", "zwei", "trois"]
REGULARIZED = 2  # weights of the model


def scaled(images):
    import tensorflow as tf

    return tf.cast(images, "float32") / 255.0


def build():
    """All families in 2D, one each in 1D and 3D, and all that is different in training."""
    x = inputs = keras.Input((12, 10, 3), name="images")
    x = keras.layers.Conv2D(4, 3, kernel_regularizer="l2")(x)
    x = sl.SeparableConvBlock2D(8, strides=2)(x)
    x = sl.InvertedBottleneckBlock2D(8, expansion=2, se_ratio=0.25)(x)
    x = sl.ResidualSeparableConvBlock2D(8, repeats=1, drop_path=0.1)(x)
    x = sl.SeparableConvBlock1D(8, 3)(keras.layers.Reshape((20, 8))(x))
    x = sl.SeparableConvBlock3D(8, 3)(keras.layers.Reshape((5, 4, 2, 4))(x))
    x = keras.layers.Dropout(0.1)(keras.layers.GlobalAveragePooling3D()(x))
    x = keras.layers.Dense(len(LABELS), kernel_regularizer="l2", name="logits")(x)
    return keras.Model(inputs, x)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    folder, model = tmp_path_factory.mktemp("hub"), build()
    images = np.random.default_rng(0).integers(0, 255, (24, 12, 10, 3)).astype("uint8")
    signature = tf.TensorSpec((None, 12, 10, 3), "uint8", name="images")
    artifact = export.to_hub(
        model, folder / "net", scaled, LABELS, sample=images, input_signature=signature
    )
    expected = keras.ops.convert_to_numpy(model(scaled(images), training=False))
    classes = np.arange(len(images)) % len(LABELS)
    np.savez(folder / "data.npz", images=images, expected=expected, classes=classes)
    return SimpleNamespace(
        model=model,
        folder=folder,
        path=str(folder / "net"),
        artifact=artifact,
        images=images,
        expected=expected,
        classes=classes,
        signature=signature,
    )


def test_the_record_says_what_was_written(exported):
    files = [file for file in (exported.folder / "net").rglob("*") if file.is_file()]
    assert exported.artifact.kind == "hub"
    assert exported.artifact.bytes == sum(file.stat().st_size for file in files)
    assert exported.artifact.max_difference < 1e-5
    assert exported.artifact.agreement == 1


ELSEWHERE = """
import sys
import numpy as np
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras

labels, regularized = sys.argv[1].split(), int(sys.argv[2])
data = np.load("data.npz")
images, expected, classes = (data[key] for key in ("images", "expected", "classes"))

net = hub.load("net")
np.testing.assert_allclose(net(images), expected, atol=1e-5)
np.testing.assert_allclose(net(images[:1]), expected[:1], atol=1e-5)
assert np.abs(net(images, training=True) - expected).max() > 1e-3
with open(net.labels.asset_path.numpy(), encoding="utf-8") as file:
    assert file.read().split() == labels

found = hub.load("net").signatures["classify"](images=tf.constant(images))
assert [label.decode() for label in found["label"].numpy()] == [
    labels[i] for i in expected.argmax(-1)
]
assert [label.decode() for label in found["labels"][0].numpy()] == labels
np.testing.assert_allclose(found["probabilities"], tf.nn.softmax(expected), atol=1e-5)

layer = hub.KerasLayer("net", trainable=True, input_shape=images.shape[1:], dtype=tf.uint8)
model = tf_keras.Sequential([layer])
loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(tf_keras.optimizers.Adam(0.01), loss)
assert len(model.losses) == regularized
before = [weight.numpy().copy() for weight in layer.weights]
losses = model.fit(images, classes, epochs=8, shuffle=False, verbose=0).history["loss"]
assert losses[-1] < 0.9 * losses[0], losses
moved = [
    np.abs(weight.numpy() - old).max() > 0
    for weight, old in zip(layer.weights, before, strict=True)
    if "moving" in weight.name
]
assert moved and all(moved)
assert not [name for name in sys.modules if name.startswith("sepconv")]
"""


def test_it_is_used_and_fine_tuned_where_this_package_is_not(exported):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, " ".join(LABELS), str(REGULARIZED)],
        capture_output=True,
        text=True,
        check=False,
        cwd=exported.folder,
        env={**environment, "TF_USE_LEGACY_KERAS": "1", "PYTHONUTF8": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_keras_has_a_layer_for_its_signature(exported):
    layer = keras.layers.TFSMLayer(exported.path, call_endpoint="serving_default")
    (output,) = layer(exported.images).values()
    np.testing.assert_allclose(output, exported.expected, atol=1e-5)


def with_layer(exported, trainable):
    """A model of the artifact and a dense layer, to be trained."""
    layer = export.HubLayer(exported.path, trainable=trainable)
    inputs = keras.Input(exported.images.shape[1:], dtype="uint8")
    outputs = keras.layers.Dense(len(LABELS), kernel_initializer="identity")(layer(inputs))
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    return layer, model


def fitted(exported, layer, model):
    """The losses, and whether each weight of the layer has changed, by its name."""
    before = [weight.numpy().copy() for weight in layer.weights]
    arguments = {"epochs": 8, "shuffle": False, "verbose": 0}
    losses = model.fit(exported.images, exported.classes, **arguments).history["loss"]
    pairs = zip(layer.weights, before, strict=True)
    return losses, [(weight.name, not np.array_equal(weight.numpy(), old)) for weight, old in pairs]


def test_the_layer_trains_in_keras_3(exported):
    layer, model = with_layer(exported, trainable=True)
    np.testing.assert_allclose(layer(exported.images), exported.expected, atol=1e-5)
    model(exported.images, training=True)
    assert len(model.losses) == REGULARIZED
    assert len(layer.trainable_weights) == len(exported.model.trainable_weights)
    losses, changed = fitted(exported, layer, model)
    assert losses[-1] < 0.9 * losses[0]
    assert all(has for name, has in changed if "moving" in name)
    trainable = {weight.name for weight in layer.trainable_weights}
    assert sum(has for name, has in changed if name in trainable) > 0.9 * len(trainable)


def test_a_frozen_layer_stays_as_it_is(exported):
    layer, model = with_layer(exported, trainable=False)
    _, changed = fitted(exported, layer, model)
    assert changed and not any(has for _, has in changed)
    assert not model.losses
    np.testing.assert_allclose(layer(exported.images, training=True), exported.expected, atol=1e-5)


def test_a_model_with_the_layer_is_loaded_in_unsafe_mode_only(exported, tmp_path):
    _, model = with_layer(exported, trainable=True)
    model.fit(exported.images, exported.classes, verbose=0)
    model.save(tmp_path / "net.keras")
    with pytest.raises(ValueError, match="safe_mode=False"):
        keras.saving.load_model(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras", safe_mode=False)
    np.testing.assert_allclose(loaded(exported.images), model(exported.images), atol=1e-6)
    assert len(loaded.trainable_weights) == len(model.trainable_weights)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The folder of an artifact that takes floats."""
    inputs = keras.Input((8, 8, 4))
    x = sl.SeparableConvBlock2D(8, activation="hard_silu")(inputs)
    x = keras.layers.Conv2D(8, 3, groups=2)(x)  # which TensorFlow has XLA compile
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    return export.to_hub(model, tmp_path_factory.mktemp("plain") / "net").path


@pytest.mark.parametrize(
    ("policy", "trainable"),
    [("float32", True), ("mixed_float16", True), ("mixed_bfloat16", False), ("bfloat16", True)],
)
def test_what_was_fine_tuned_is_exported(policy, trainable, plain, tmp_path):
    keras.utils.set_random_seed(0)
    layer = export.HubLayer(plain, trainable=trainable, dtype=policy)
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), layer, keras.layers.Dense(3, dtype=policy, name="logits")]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(12, 8, 8, 4)).astype("float32")
    model.fit(x, np.arange(12) % 3, epochs=2, verbose=0)
    assert layer(x).dtype == layer.compute_dtype
    expected = np.asarray(model(x), "float32")
    for name, function in (
        ("net", export.to_hub),
        ("net.tflite", export.to_litert),
        ("net.onnx", export.to_onnx),
    ):
        path = function(model, tmp_path / name, sample=x).path
        (found,) = export.load(path)(x)
        np.testing.assert_allclose(np.asarray(found, "float32"), expected, atol=0.02)
    assert layer.compute_dtype == keras.dtype_policies.get(policy).compute_dtype


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "mixed_bfloat16"])
def test_models_in_half_precision(policy, tmp_path):
    inputs = keras.Input((9, 8, 3), dtype=policy.removeprefix("mixed_"))
    x = keras.layers.Conv2D(4, 3, dtype=policy)(inputs)
    x = sl.SeparableConv2D(4, 3, dtype=policy)(x)
    x = sl.SeparableConv3D(2, 2, dtype=policy)(keras.layers.Reshape((5, 4, 2, 2), dtype=policy)(x))
    model = keras.Model(inputs, keras.layers.Flatten(dtype=policy)(x))
    x = np.random.default_rng(0).normal(size=(4, 9, 8, 3)).astype("float32")
    (found,) = export.load(export.to_hub(model, tmp_path / "net").path)(x)
    expected = np.asarray(model(x), "float32")
    np.testing.assert_allclose(np.asarray(found, "float32"), expected, atol=0.05)


def test_names_of_raw_inputs_are_those_of_their_keys(tmp_path):
    import tensorflow as tf

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    keys = ("width", "height")  # not as they are sorted
    signature = OrderedDict((key, tf.TensorSpec((None,))) for key in keys)
    sample = OrderedDict((key, np.array([i, 5.0], "float32")) for i, key in enumerate(keys))

    def joined(inputs):
        return tf.stack([inputs["width"], 3 * inputs["height"]], -1)

    path = export.to_hub(
        model, tmp_path / "net", joined, sample=sample, input_signature=signature
    ).path
    (found,) = export.load(path)(dict(sample))
    np.testing.assert_allclose(found, model(joined(sample)), atol=1e-5)


def test_labels_of_an_output_with_a_key(tmp_path):
    import tensorflow as tf

    inputs = keras.Input((2,), name="sizes")
    model = keras.Model(inputs, {"logits": keras.layers.Dense(2)(inputs)})
    path = export.to_hub(model, tmp_path / "net", labels=["one", "two"]).path
    x = np.array([[1.0, 2.0]], "float32")
    found = tf.saved_model.load(str(path)).signatures["classify"](sizes=tf.constant(x))
    assert found["label"].numpy()[0] == [b"one", b"two"][np.argmax(model(x)["logits"])]


def test_several_inputs_and_outputs_have_their_names(tmp_path):
    image, vector = keras.Input((6, 6, 2), name="z_image"), keras.Input((5,), name="a_vector")
    x = keras.layers.GlobalAveragePooling2D()(sl.SeparableConvBlock2D(4)(image))
    outputs = [keras.layers.Dense(3, name="zebra")(x), keras.layers.Dense(2, name="ape")(vector)]
    model = keras.Model([image, vector], outputs)
    path = export.to_hub(model, tmp_path / "net").path
    inputs = {"z_image": np.ones((2, 6, 6, 2), "float32"), "a_vector": np.ones((2, 5), "float32")}
    found = keras.layers.TFSMLayer(path, call_endpoint="serving_default")
    found = found._reloaded_obj.signatures["serving_default"](**inputs)
    expected = model(list(inputs.values()))
    np.testing.assert_allclose(found["zebra"], expected[0], atol=1e-5)
    np.testing.assert_allclose(found["ape"], expected[1], atol=1e-5)


def test_strings_go_through_the_preprocessor(tmp_path):
    import tensorflow as tf

    def lengths(texts):
        return tf.cast(tf.strings.length(texts), "float32")[:, None]

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, name="logits")])
    texts, signature = np.array(["a", "bcd"]), tf.TensorSpec((None,), tf.string, name="texts")
    path = export.to_hub(
        model, tmp_path / "net", lengths, sample=texts, input_signature=signature
    ).path
    (found,) = export.load(path)(texts)
    np.testing.assert_allclose(found, model(np.array([[1.0], [3.0]])), atol=1e-5)


def test_keras_models_may_take_strings(tmp_path):
    vectorize = keras.layers.TextVectorization(output_sequence_length=4)
    vectorize.adapt(["a b c", "d e f"])
    texts = np.array(["a c", "d"])
    tokens = keras.Sequential([keras.Input((), dtype="string"), vectorize])
    body = keras.Sequential(
        [
            keras.Input((4,), dtype="int64"),
            keras.layers.Embedding(9, 3),
            sl.SeparableConv1D(2, 3),
            keras.layers.GlobalAveragePooling1D(),
        ]
    )
    whole = keras.Sequential([*tokens.layers, *body.layers])
    whole.build((None,))
    for name, net, preprocessor in (("whole", whole, None), ("split", body, tokens)):
        path = export.to_hub(net, tmp_path / name, preprocessor, sample=texts).path
        (found,) = export.load(path)(texts)
        np.testing.assert_allclose(
            found, body(tokens(keras.ops.convert_to_tensor(list(texts)))), atol=1e-5
        )
        with pytest.raises(ValueError, match="takes strings"):
            export.to_hub(net, tmp_path / "other", preprocessor)


def test_a_preprocessor_may_take_a_dictionary(tmp_path):
    import tensorflow as tf

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    signature = {"width": tf.TensorSpec((None,)), "length": tf.TensorSpec((None,))}
    sample = {"width": np.array([1.0, 2.0], "float32"), "length": np.array([4.0, 5.0], "float32")}

    def joined(inputs):
        return tf.stack([inputs["width"], inputs["length"]], -1)

    path = export.to_hub(
        model, tmp_path / "net", joined, sample=sample, input_signature=signature
    ).path
    (found,) = export.load(path)(sample)
    np.testing.assert_allclose(found, model(joined(sample)), atol=1e-5)
    with pytest.raises(ValueError, match="`sample` argument must be a batch of raw inputs"):
        export.to_hub(model, tmp_path / "net", joined, sample=[1.0], input_signature=signature)


def test_a_failed_export_leaves_the_old_folder(exported, tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "saved_model.pb").write_text("old")
    with pytest.raises(ValueError, match="artifact must agree with the model"):
        export.to_hub(exported.model, tmp_path / "net", tolerance=-1)  # not even 0 is small enough
    assert [file.name for file in tmp_path.iterdir()] == ["net"]
    assert (tmp_path / "net" / "saved_model.pb").read_text() == "old"


def test_what_a_user_put_beside_an_older_artifact_stays(tmp_path):
    path, model = tmp_path / "net", keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    export.to_hub(model, path)
    (path / "README.md").write_text("mine")
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / "warmup").write_text("mine too")
    (path / "latest").symlink_to("README.md")
    export.to_hub(model, path)
    assert (path / "README.md").read_text() == "mine" and (path / "latest").is_symlink()
    assert (path / "assets.extra" / "warmup").read_text() == "mine too"
    (again,) = export.load(path)(np.ones((1, 4), "float32"))
    np.testing.assert_allclose(again, model.predict(np.ones((1, 4)), verbose=0), rtol=1e-5)
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_artifact_is_replaced(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    for _ in range(2):
        export.to_hub(model, tmp_path / "net")
    assert [file.name for file in tmp_path.iterdir()] == ["net"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": sl.Conv1D(4, 3)}, "`model` argument must be a Keras model"),
        ({"labels": ["one"]}, "`labels` argument must be 3 strings"),
        ({"labels": ["one", "two", "thr\nee"]}, "`labels` argument must be 3 strings"),
        ({"preprocessor": scaled}, "`input_signature` argument must be the `tf.TensorSpec`"),
        (
            {"preprocessor": scaled, "input_signature": "exported"},
            "`sample` argument must be a batch of raw inputs",
        ),
        ({"input_signature": (None, 12)}, "`input_signature` argument must be a `tf.TensorSpec`"),
        ({"sample": np.ones((2, 3))}, "`sample` argument must be a batch"),
        ({"path": "no/such/folder/net"}, "folder of the `path` argument must exist"),
    ],
)
def test_bad_arguments_are_named(exported, tmp_path, arguments, message):
    if arguments.get("input_signature") == "exported":
        arguments = {**arguments, "input_signature": exported.signature}
    defaults = {"model": exported.model, "path": tmp_path / "net"}
    with pytest.raises(ValueError, match=message):
        export.to_hub(**{**defaults, **arguments})
    assert not list(tmp_path.iterdir())


def test_the_layer_names_what_it_cannot_load(exported, tmp_path):
    with pytest.raises(ValueError, match="must be the folder of a SavedModel"):
        export.HubLayer(tmp_path / "nothing")
    content = (exported.folder / "net" / "saved_model.pb").read_bytes()
    for truncated in (content[: len(content) // 2], content[:10], b""):
        (tmp_path / "saved_model.pb").write_bytes(truncated)
        with pytest.raises(ValueError, match="folder of a reusable SavedModel"):
            export.HubLayer(tmp_path)
