"""Separable convolutions with several depthwise kernels per channel: in turn, and in files."""

import functools

import keras
import numpy as np
import pytest

from sepconv_layers import layers, ops
from sepconv_layers.ops import choice, context
from tests import oracle
from tests.backends import BACKEND, MODES, run_with_gradients

only_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the exports are made of TensorFlow graphs"
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rank", (1, 2, 3))
def test_a_large_input_meets_one_kernel_after_the_other(monkeypatch, rank, mode):
    monkeypatch.setattr(choice, "MIN_VALUES_APART", 1)
    rng = np.random.default_rng(rank)
    forms, form_of_kernels = [], choice.form_of_kernels

    def spied(*arguments):
        forms.append(form_of_kernels(*arguments))
        return forms[-1]

    monkeypatch.setattr(choice, "form_of_kernels", spied)
    shapes = [(2, *(7,) * rank, 8), (*(3,) * rank, 8, 3), (*(1,) * rank, 24, 4)]
    x, kernel, mixing = (rng.normal(size=shape).astype("float32") for shape in shapes)
    how = ((2,) * rank, "same", (1,) * rank)
    expected = oracle.depthwise_conv(x, kernel, *how) @ mixing.reshape(24, 4)
    upstream = rng.normal(size=expected.shape).astype("float32")
    separable = functools.partial(ops.separable_conv, strides=2, padding="same")
    run = functools.partial(run_with_gradients, mode=mode, dtype="float32")
    outputs, *gradients = run(separable, (x, kernel, mixing), upstream)
    with ops.lowering("native" if BACKEND == "torch" else "planes"):
        _, *others = run(separable, (x, kernel, mixing), upstream)
    is_measured = rank in choice.RANKS_OF_KERNELS_APART[BACKEND] and mode != "xla"
    assert ("summed" in forms) == (is_measured and (BACKEND == "jax" or context.has_onednn()))
    np.testing.assert_allclose(outputs, expected, atol=2e-5)
    for gradient, other in zip(gradients, others, strict=True):
        np.testing.assert_allclose(gradient, other, atol=2e-4)


@only_tensorflow
@pytest.mark.parametrize("quantize", (None, "int8"))
@pytest.mark.parametrize("name", ("SeparableConv1D", "SeparableConv2D", "SeparableConv3D"))
def test_files_have_one_kernel_per_channel(tmp_path, name, quantize):
    """For several, LiteRT runs a grouped convolution, which takes twice as long."""
    pytest.importorskip("ai_edge_litert")
    from sepconv_layers import export
    from sepconv_layers.export import flatbuffer

    rank = int(name[-2])
    x = np.random.default_rng(0).normal(size=(64, *(6,) * rank, 8)).astype("float32")
    net = [keras.Input(x.shape[1:]), getattr(layers, name)(8, 3, depth_multiplier=3)]
    model = keras.Sequential([*net, keras.layers.Flatten(), keras.layers.Dense(3)])
    how = {} if quantize is None else {"quantize": quantize, "calibration": x}
    export.to_litert(model, tmp_path / "net.tflite", sample=x[:1], **how)
    graph = flatbuffer.parsed((tmp_path / "net.tflite").read_bytes())
    multipliers = [
        options.depthMultiplier
        for step in graph.subgraphs[0].operators
        if hasattr(options := step.builtinOptions, "depthMultiplier")
    ]
    assert len(multipliers) >= 3
    assert set(multipliers) == {1}
    (found,), expected = export.load(tmp_path / "net.tflite")(x), model.predict(x, verbose=0)
    noise = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert noise < (1e-6 if quantize is None else 0.05)  # as with several kernels in one operator
