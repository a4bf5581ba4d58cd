"""What PyTorch traces with a sample is right for other sizes: the sample's decide nothing."""

import importlib.util
import warnings

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from tests.backends import BACKEND
from tests.cases import EVERY_CASE, SHORT

if BACKEND != "torch":
    pytest.skip("PyTorch alone traces with a sample", allow_module_level=True)

import torch

SIZES = (1, 2, 3, 5, 8, 17)
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime",
)


def can_be_traced(case):
    """Whether a sample of size 1 is enough, and Keras exports all that is in a block."""
    is_transposed = case.cls.__name__.endswith("Transpose")
    default = (
        "same" if "Block" in case.cls.__name__ or "kernel_size" not in case.arguments else "valid"
    )
    spans = is_transposed or case.arguments.get("padding", default) != "valid"
    # Keras's own layer normalization has no form with open sizes there.
    return spans and case.arguments.get("normalization") != "layer"


TRACED = [case for case in EVERY_CASE if can_be_traced(case)][:: 5 if SHORT else 3]


def open_model(layer, shape):
    """A model of one layer with open sizes, and with weights that are none of them zero."""
    inputs = keras.Input(shape[1:])
    model = keras.Model(inputs, layer(inputs))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(rng.uniform(0.3, 1, weight.shape))
    return model


def exported(model, path):
    """What the ONNX file that Keras writes of a model computes."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model(np.zeros([9 if size is None else size for size in model.input_shape], "float32"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path)
    (inputs,) = session.get_inputs()
    return lambda x: session.run(None, {inputs.name: x})[0]


def check(run, model, shape_of, sizes=SIZES):
    rng = np.random.default_rng(1)
    for size in sizes:
        for batch in (1, 3):
            x = rng.normal(size=shape_of(batch, size)).astype("float32")
            expected = keras.ops.convert_to_numpy(model(x))
            outputs = run(x)
            assert outputs.shape == expected.shape, (size, batch)
            tolerance = 1e-3 * max(1, np.abs(expected).max())  # normalization enlarges a rounding
            np.testing.assert_allclose(outputs, expected, atol=tolerance, err_msg=f"{size, batch}")


@needs_onnx
@pytest.mark.parametrize("case", TRACED, ids=str)
def test_onnx_files_of_open_sizes_are_right_for_every_size(case, tmp_path):
    model = open_model(case.make(), case.unknown_shape)
    run = exported(model, str(tmp_path / "model.onnx"))
    # Axes of unequal sizes, of which one may be even and one odd.
    check(run, model, lambda batch, n: case.shape(batch, [n, n + 1, n + 2][: case.rank]))


@needs_onnx
def test_a_net_with_a_stride_at_each_end_is_right_for_every_size(tmp_path):
    inputs = keras.Input((None, None, 1))
    x = sl.SeparableConv2D(4, 3, strides=2, padding="same", activation="relu")(inputs)
    x = sl.InvertedBottleneckBlock2D(4, kernel_size=5, strides=3, se_ratio=0.5)(x)
    x = sl.SeparableConv2DTranspose(2, 4, strides=2, padding="same")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    run = exported(model, str(tmp_path / "model.onnx"))
    check(run, model, lambda batch, n: (batch, n, 2 * n + 1, 1))


@needs_onnx
def test_a_sample_that_is_too_small_is_named(tmp_path):
    model = open_model(sl.DepthwiseConv1D(3), (None, None, 4))
    with pytest.raises(ValueError, match=r"(?s)sample .* must span the kernel.*input_signature"):
        exported(model, str(tmp_path / "model.onnx"))


class Module(torch.nn.Module):
    """A model as PyTorch's exporters like it: with named arguments."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


LAYERS = [
    sl.DepthwiseConv1D(3, strides=3),  # larger samples trace what is not padded, too
    sl.SeparableConv1D(5, 4, padding="causal", dilation_rate=2),
    sl.DepthwiseConv1D(2, strides=4, padding="same"),
    sl.Conv1D(4, 3, strides=2, padding="same", groups=2),
    sl.SeparableConv1DTranspose(3, 5, strides=2, padding="same", output_padding=1),
    sl.ResidualSeparableConvBlock1D(6, strides=2),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("how", ["jit", "export"])
def test_other_traces_are_right_for_every_size(how, layer):
    model = open_model(type(layer).from_config(layer.get_config()), (None, None, 4))
    sample = torch.ones(2, 13, 4)
    if how == "jit":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(model.eval(), (sample,), check_trace=False)
    else:
        dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        traced = torch.export.export(Module(model).eval(), (sample,), dynamic_shapes=(dynamic,))
        traced = traced.module()
    # PyTorch itself holds an exported program to sizes with more than one output.
    sizes = [size for size in SIZES if size >= (3 if how == "jit" else 8)]
    check(
        lambda x: traced(torch.tensor(x)).detach().numpy(),
        model,
        lambda batch, n: (batch, n, 4),
        sizes,
    )


@pytest.mark.parametrize("lowering", ["native", "planes", "portable"])
def test_every_lowering_is_traced_for_every_size(lowering):
    kernel = torch.tensor(np.random.default_rng(0).normal(size=(3, 2, 4, 3, 1)))

    def run(x):
        with sl.ops.lowering(lowering):
            return sl.ops.depthwise_conv(x, kernel, (2, 1, 3), "same", dilation_rate=(1, 2, 1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(run, (torch.ones(1, 1, 1, 1, 3, dtype=torch.float64),))
    for n in SIZES[:-1]:
        x = torch.tensor(np.random.default_rng(1).normal(size=(2, n, n + 1, n + 2, 3)))
        np.testing.assert_allclose(traced(x).numpy(), run(x).numpy(), atol=1e-12)
