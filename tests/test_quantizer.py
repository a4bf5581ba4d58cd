"""Kinds of integers in LiteRT files: what they lose, what the report says, and the smallest mix."""

import json
import sys

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import export
from sepconv_layers.export.conversion import Conversion
from sepconv_layers.export.flatbuffer import finalize
from sepconv_layers.export.graph import ExportGraph
from sepconv_layers.export.mixed import loss_of
from sepconv_layers.export.quantizer import INTEGERS, float_steps, steps
from tests.backends import BACKEND
from tests.test_convert import as_trained
from tests.test_export import interpreter_of, kernels_of

EXPORTS = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the exports are made of TensorFlow graphs"
)
CLASSES = 4


def net(rank, filters=8):
    sizes = {1: (24,), 2: (10, 8), 3: (4, 6, 6)}[rank]
    block, inverted = (
        getattr(sl, f"{name}{rank}D")
        for name in ("ResidualSeparableConvBlock", "InvertedBottleneckBlock")
    )
    pool = getattr(keras.layers, f"GlobalAveragePooling{rank}D")
    x = inputs = keras.Input((*sizes, 3), name="inputs")
    x = block(filters, repeats=1)(x)
    x = inverted(filters, expansion=4, se_ratio=0.25)(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(pool()(x)))


def fitted(model, count=700, distance=2):
    """A net with random features and a linear discriminant as head; samples and labels."""
    keras.utils.set_random_seed(0)
    as_trained(model)
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, count)
    centers = distance * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, -1]])
    shape = (count, *model.input.shape[1:])
    x = centers[y].reshape(count, *[1] * (len(shape) - 2), 3) + rng.normal(size=shape)
    x = x.astype("float32")
    features = keras.Model(model.input, model.layers[-1].input).predict(x, verbose=0)
    means, center = np.stack([features[y == i].mean(0) for i in range(CLASSES)]), features.mean(0)
    spread = np.square(features - means[y]).mean(0)
    kernel, bias = (means - center) / spread, (center**2 - means**2) / (2 * spread)
    model.layers[-1].set_weights([kernel.T, bias.sum(1)])
    return model, x, y


def conversion_of(model, calibration):
    shapes = [(1, *tensor.shape[1:]) for tensor in model.inputs]
    return Conversion(ExportGraph(model, shapes), [[calibration]])


def outputs_of(conversion, content, x, path):
    path.write_bytes(finalize(content, "net", conversion.inputs, conversion.graph.outputs, []))
    return export.load(path)(x)[0]


def with_an_outlier(model):
    """Makes the first input channel of the inverted block 100 times as large; undoes it after."""
    block = model.layers[2]
    norm = next(layer for layer in block._flatten_layers() if layer.name == "expand_norm")
    gamma, beta, *others = norm.get_weights()
    gamma[0], beta[0] = 100 * gamma[0], 100 * beta[0]
    norm.set_weights([gamma, beta, *others])
    depthwise = next(layer for layer in block._flatten_layers() if layer.name == "depthwise")
    kernel = keras.ops.convert_to_numpy(depthwise.kernel).copy()
    kernel[..., 0, :] /= 100
    depthwise.kernel.assign(kernel)
    return model


def agreement(ours, theirs):
    return float((ours.argmax(-1) == theirs.argmax(-1)).mean())


@EXPORTS
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_each_kind_has_its_types_and_its_exactness(rank, tmp_path):
    model, x, _ = fitted(net(rank))
    expected = model.predict(x, verbose=0)
    conversion = conversion_of(model, x[:60])
    sizes, errors = {}, {}
    for kind in INTEGERS:
        path = tmp_path / f"{kind}.tflite"
        content = conversion.content(kind, quantize_io=True)
        assert not float_steps(content)
        outputs = outputs_of(conversion, content, x, path)
        sizes[kind] = path.stat().st_size
        errors[kind] = float(np.square(outputs - expected).mean())
        interpreter = interpreter_of(path)
        (into,) = interpreter.get_input_details()
        assert into["dtype"] == (np.int16 if kind == "int16x8" else np.int8)
        assert {each["dtype"] for each in kernels_of(interpreter, "DEPTHWISE_CONV_2D")} == {np.int8}
        if kind == "int16x8":
            assert agreement(outputs, expected) >= 0.999
    assert sizes["int4"] < sizes["int8"] < sizes["int16x8"] < 1.2 * sizes["int8"]
    assert errors["int16x8"] < errors["int8"] < errors["int4"]


@EXPORTS
def test_the_report_is_what_numpy_finds(tmp_path):
    model, x, _ = fitted(net(1))
    x = x[:20]
    (kernel, _), expected = model.layers[-1].get_weights(), model.predict(x, verbose=0)
    for kind, largest in (("int8", 127), ("int4", 7)):
        artifact = export.to_litert(model, tmp_path / "net.tflite", kind, x)
        report = artifact.report
        ratios = [np.inf if row.snr_db is None else row.snr_db for row in report]
        assert ratios == sorted(ratios)
        rows = {(row.layer, row.operator, row.tensor): row for row in report}
        scale = np.abs(kernel).max(0) / largest
        noise = np.mean((np.round(kernel / scale) * scale - kernel) ** 2)
        row = rows["logits", "FULLY_CONNECTED", "kernel"]
        assert row.dtype == kind
        assert row.mse == pytest.approx(noise, rel=1e-3)
        assert row.snr_db == pytest.approx(10 * np.log10(np.mean(kernel**2) / noise), abs=0.01)
        row = rows["logits", "FULLY_CONNECTED", "output"]
        noise = np.mean((export.load(artifact.path)(x)[0] - expected) ** 2)
        assert 0.5 < row.mse / noise < 2  # these kernels round otherwise
        assert {"conv_0", "depthwise", "squeeze"} <= {
            row.layer.rpartition("/")[2] for row in report
        }
    report.save(tmp_path / "report")
    saved = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    assert [row["mse"] for row in saved["layers"]] == [row.mse for row in report]
    assert (tmp_path / "report" / "report.md").read_text("utf-8").count("\n|") == len(report) + 2
    assert str(report).count("\n") == len(report) + 1


@EXPORTS
def test_auto_meets_the_loss_with_the_smallest_file(tmp_path):
    model, x, _ = fitted(net(1, filters=24), 1500, distance=0.4)
    model = with_an_outlier(model)
    expected = model.predict(x, verbose=0)
    conversion = conversion_of(model, x[:60])
    sizes = {}
    for kind in ("int8", None):
        path = tmp_path / f"{kind}.tflite"
        outputs = outputs_of(conversion, conversion.content(kind), x, path)
        sizes[kind] = path.stat().st_size
        assert (agreement(outputs, expected) < 0.98) == (kind == "int8")
    path, data = tmp_path / "auto.tflite", x[60:400]
    auto = export.to_litert(model, path, "auto", x[:60], max_loss=1, validation_data=data)
    assert sizes["int8"] < auto.bytes < 0.6 * sizes[None]
    assert auto.report.loss <= 1
    assert len(set(auto.report.kinds.values())) > 1  # not all layers need it
    assert agreement(export.load(path)(x[400:])[0], expected[400:]) >= 0.99


def test_the_expected_loss_is_that_of_many_samples():
    rng = np.random.default_rng(0)
    for noise in (0.02, 0.05):
        logits = rng.normal(size=(200_000, 6)).astype("float32")
        outputs = logits + noise * rng.normal(size=logits.shape).astype("float32")
        labels = np.where(rng.random(len(logits)) < 0.7, logits.argmax(-1), 0)
        truth = {
            None: 100 * np.mean(logits.argmax(-1) != outputs.argmax(-1)),
            "labels": 100 * np.mean((logits.argmax(-1) == labels) & (outputs.argmax(-1) != labels)),
        }
        for key, loss in truth.items():
            given = labels if key else None
            few = [
                loss_of(
                    logits[i : i + 400],
                    outputs[i : i + 400],
                    given if key is None else given[i : i + 400],
                )
                for i in range(0, 40_000, 400)
            ]
            expected = [one.expected for one in few]
            assert 0.95 * loss < np.mean(expected) < 1.5 * loss  # plus a standard error
            assert np.std(expected) < np.std([one.counted for one in few])
    assert loss_of(logits, logits, None).points == 0
    right = logits.argmax(-1)
    assert loss_of(logits, -logits, right).counted > 90


@EXPORTS
def test_the_converter_takes_what_the_quantizer_leaves_in_floats():
    tokens = keras.Input((12,), dtype="int32")
    x = sl.SeparableConvBlock1D(8)(keras.layers.Embedding(20, 8)(tokens))
    x = keras.layers.GlobalMaxPooling1D()(x)
    model = as_trained(keras.Model(tokens, keras.layers.Dense(3)(x)))
    conversion = conversion_of(model, np.random.default_rng(0).integers(0, 20, (40, 12), "int32"))
    for kind, left in (("int8", set()), ("int16x8", {"REDUCE_MAX"})):
        content = conversion.content(kind)
        assert {step.kind for step in float_steps(content)} == left
        assert "REDUCE_MAX" in {step.kind for step in steps(content)}


@EXPORTS
@pytest.mark.parametrize("make", ["a sum", "region_cnn"])
def test_an_average_over_the_words_of_a_text_is_no_noise(make, tmp_path):
    """The converter gives a mean the scale of what it is multiplied by, 48 times as wide."""
    rng = np.random.default_rng(0)
    x = rng.integers(1, 50, (64, 48))
    x[np.arange(48) >= rng.integers(10, 48, (64, 1))] = 0  # padding
    keras.utils.set_random_seed(0)
    model = sl.models.region_cnn((48,), classes=3, vocabulary_size=50, embedding=16)
    if make == "a sum":
        tokens = keras.Input((48,), dtype="int32")
        mask = keras.ops.cast(keras.ops.not_equal(tokens, 0), "float32")[..., None]
        words = keras.layers.Embedding(50, 16)(tokens) * mask
        number = keras.ops.sum(mask, axis=1)
        pooled = [keras.ops.sum(words, axis=1) / number, keras.ops.max(words, axis=1)]
        outputs = keras.layers.Dense(3)(keras.layers.Concatenate()(pooled))
        model = keras.Model(tokens, outputs)
    export.to_litert(model, tmp_path / "net.tflite", "int8", x)
    (found,), expected = export.load(tmp_path / "net.tflite")(x), model.predict(x, verbose=0)
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


@EXPORTS
def test_large_weights_are_in_the_file(tmp_path):
    model = keras.Sequential([keras.Input((600,)), keras.layers.Dense(600)])
    x = np.random.default_rng(0).normal(size=(20, 600)).astype("float32")
    artifact = export.to_litert(model, tmp_path / "net.tflite", "int8", x)
    assert artifact.max_difference < 0.1


@EXPORTS
def test_bad_arguments_of_auto_are_named(tmp_path, monkeypatch):
    model, x, y = fitted(net(1), count=40)
    one = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    for message, arguments in {
        "`max_loss` argument is for quantize='auto'": {"quantize": "int8", "max_loss": 1},
        "`max_loss` argument must be a number of points": {"max_loss": -1},
        "`validation_data` argument is for": {"quantize": "int8", "validation_data": x},
        "must be integers, one for each sample": {"validation_data": (x, y[1:])},
        "`validation_data` argument must be a batch of inputs": {"validation_data": x[:, 1:]},
        "hold two samples or more": {"calibration": x[:1]},
        "`quantize_io` argument is for": {"quantize_io": True},
        "with two classes or more": {"model": one, "calibration": np.ones((4, 5))},
        r"for `quantize` in \('int8', 'int16x8', 'int4', 'auto'\)": {"calibration": None},
    }.items():
        defaults = {"model": model, "path": tmp_path / "net.tflite", "quantize": "auto"}
        with pytest.raises(ValueError, match=message):
            export.to_litert(**{**defaults, "calibration": x, **arguments})
    monkeypatch.setitem(sys.modules, "litert_quantizer", None)
    with pytest.raises(ImportError, match=r"pip install 'sepconv-layers\[export\]'"):
        export.to_litert(model, tmp_path / "net.tflite", "int8", x)
    assert not list(tmp_path.iterdir())
