"""Triton's kernels against PyTorch's own: on a GPU, or elsewhere in Triton's interpreter."""

import os

import numpy as np
import pytest

from sepconv_layers import ops
from sepconv_layers.ops import choice, on_torch, on_triton
from sepconv_layers.ops.geometry import Geometry
from tests.backends import BACKEND

if BACKEND != "torch":
    pytest.skip("is about PyTorch", allow_module_level=True)
torch = pytest.importorskip("torch")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)
triton = pytest.importorskip("triton")
if DEVICE == "cpu" and np.lib.NumpyVersion(np.__version__) >= "2.3.0":
    pytest.skip("Triton's interpreter needs NumPy below 2.3", allow_module_level=True)

CASES = [  # kernel size, strides, dilation, padding
    ((3, 3), (1, 1), (1, 1), "same"),
    ((3, 3), (2, 2), (1, 1), "same"),
    ((3, 2), (2, 1), (1, 1), "valid"),
    ((5, 5), (1, 1), (1, 1), "causal"),
    ((3, 3), (2, 2), (2, 1), "same"),
    ((1, 4), (1, 3), (1, 1), "same"),
]


def problem(case, channels=3, dtype=torch.float32):
    kernel_size, strides, dilation, padding = case
    geometry = Geometry.of(kernel_size, 2, strides, padding, "channels_last", dilation)
    torch.manual_seed(0)
    inputs = torch.randn(2, 9, 10, channels, device=DEVICE, dtype=dtype, requires_grad=True)
    kernel = torch.randn(*kernel_size, channels, 1, device=DEVICE, dtype=dtype, requires_grad=True)
    return inputs, kernel, geometry


def expected_outputs(inputs, kernel, geometry):
    *kernel_size, channels, _ = kernel.shape
    return on_torch.conv(
        inputs, kernel.reshape(*kernel_size, 1, channels), geometry, groups=channels
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_both_orders_of_gradients_are_those_of_pytorch(case):
    inputs, kernel, geometry = problem(case)
    assert on_triton.supports(inputs, kernel, geometry)

    def everything(function):
        outputs = function(inputs, kernel, geometry)
        generator = torch.Generator(DEVICE).manual_seed(1)

        def like(tensor):
            return torch.randn(tensor.shape, device=DEVICE, generator=generator)

        first = torch.autograd.grad(outputs, (inputs, kernel), like(outputs), create_graph=True)
        total = sum((one * like(one)).sum() for one in first)
        return outputs, *first, *torch.autograd.grad(total, (inputs, kernel))

    torch.testing.assert_close(
        everything(on_triton.depthwise), everything(expected_outputs), rtol=1e-4, atol=1e-4
    )


def test_half_precision_is_summed_in_float32():
    inputs, kernel, geometry = problem(CASES[0], channels=20, dtype=torch.bfloat16)
    outputs = on_triton.depthwise(inputs, kernel, geometry)
    exact = expected_outputs(inputs.double(), kernel.double(), geometry).detach()
    assert outputs.dtype == torch.bfloat16
    error = (outputs.detach() - exact).norm() / exact.norm()
    assert float(error) < 2**-8  # one rounding, for which the interpreter cuts digits off


def test_what_has_no_kernels_runs_as_before():
    inputs, kernel, geometry = problem(CASES[0])
    channels_first = geometry.replace(data_format="channels_first")
    assert not on_triton.supports(inputs, kernel, channels_first)
    assert not on_triton.supports(inputs.double(), kernel.double(), geometry)
    assert not on_triton.supports(inputs, torch.cat([kernel, kernel], -1), geometry)
    with ops.lowering("triton"):
        doubled = ops.depthwise_conv(inputs, torch.cat([kernel, kernel], -1), padding="same")
        mapped = torch.func.vmap(lambda x: ops.depthwise_conv(x[None], kernel, padding="same")[0])
        torch.testing.assert_close(mapped(inputs), doubled[..., ::2])


def test_they_are_chosen_where_they_were_faster(monkeypatch):
    monkeypatch.setattr(choice.context, "device", lambda: "gpu")
    inputs, kernel, geometry = problem(CASES[0])
    half, weights = inputs.bfloat16(), kernel.bfloat16()
    assert choice.choose(geometry, half, weights) == "triton"
    assert choice.choose(geometry, inputs, kernel) == "native"
    assert choice.choose(geometry, half.detach(), weights.detach()) == "native"  # few columns
    strided = geometry.replace(strides=(2, 2))
    assert choice.choose(strided, half.detach(), weights.detach()) == "triton"


def test_a_compiled_function_runs_them():
    inputs, kernel, geometry = problem(CASES[1])

    def run(inputs, kernel):
        with torch.no_grad():
            return on_triton.depthwise(inputs, kernel, geometry)

    compiled = torch.compile(run, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(inputs, kernel), expected_outputs(inputs, kernel, geometry).detach()
    )
