"""The operators against NumPy and PyTorch: every lowering, mode, layout and combination."""

import os

import keras
import numpy as np
import pytest
from tests import oracle
from tests.backends import BACKEND, MODES, run_with_gradients

from sepconv_layers import ops

try:
    import torch  # noqa: F401

    HAVE_TORCH = True
except ImportError:
    HAVE_TORCH = False

CONFIGURATIONS = int(os.environ.get("SEPCONV_TEST_CONFIGURATIONS", "450"))
LOWERINGS = ("auto", "native", "taps", "planes", "portable")


def random_configuration(seed):
    """Draws a convolution that has at least one output."""
    rng = np.random.default_rng(seed)
    rank = 1 + seed % 3
    draw = lambda low, high: tuple(int(v) for v in rng.integers(low, high + 1, rank))  # noqa: E731
    config = {
        "kernel_size": draw(1, 4 if rank < 3 else 3),
        "strides": draw(1, 3),
        "dilation_rate": draw(1, 3),
        "padding": str(rng.choice(["valid", "same", "causal"])),
        "data_format": str(rng.choice(["channels_last", "channels_first"])),
        "channels": int(rng.integers(1, 5)),
        "multiplier": int(rng.integers(1, 4)),
    }
    config["spatial"] = tuple(
        int((k - 1) * d + 1 + rng.integers(0, 5))
        for k, d in zip(config["kernel_size"], config["dilation_rate"], strict=True)
    )
    return config, rng


def first(x, data_format):
    """Moves the channels of channels-last `x` where the data format has them."""
    return np.moveaxis(x, -1, 1) if data_format == "channels_first" else x


def check(config, rng, mode, lowering, depthwise=True):
    rank = len(config["kernel_size"])
    x = rng.normal(size=(2, *config["spatial"], config["channels"]))
    kernel = rng.normal(size=(*config["kernel_size"], config["channels"], config["multiplier"]))
    where = (config["strides"], config["padding"], config["dilation_rate"])
    if depthwise:
        expected = oracle.depthwise_conv(x, kernel, *where)
        if rank == 3 and x.size > 2000 and HAVE_TORCH:
            expected = oracle.torch_conv(x, kernel, *where, depthwise=True)
    else:
        expected = oracle.torch_conv(x, kernel, *where, depthwise=False)
    upstream = rng.normal(size=expected.shape)
    data_format = config["data_format"]
    operator = ops.depthwise_conv if depthwise else ops.conv

    def run(x, kernel):
        with ops.lowering(lowering):
            return operator(
                x,
                kernel,
                strides=config["strides"],
                padding=config["padding"],
                data_format=data_format,
                dilation_rate=config["dilation_rate"],
            )

    arguments = (np.ascontiguousarray(first(x, data_format)), kernel)
    results = run_with_gradients(
        run, arguments, np.ascontiguousarray(first(upstream, data_format)), mode
    )
    wanted = [expected]
    if HAVE_TORCH:
        wanted = oracle.torch_conv(x, kernel, *where, upstream, depthwise=depthwise)
        np.testing.assert_allclose(wanted[0], expected, rtol=1e-10, atol=1e-10)
    wanted = [first(wanted[0], data_format)] + [
        first(g, data_format) if i == 0 else g for i, g in enumerate(wanted[1:])
    ]
    for name, result, want in zip(("output", "d_inputs", "d_kernel"), results, wanted, strict=False):
        assert result.shape == want.shape, (name, config)
        scale = np.abs(want).max() + 1e-12
        assert np.abs(result - want).max() / scale < 1e-4, (name, config, lowering, mode)


@pytest.mark.parametrize("seed", range(CONFIGURATIONS))
def test_depthwise_conv_matches_the_oracle(seed):
    config, rng = random_configuration(seed)
    mode = MODES[(seed // 3) % len(MODES)]
    if BACKEND == "jax" and seed % 10:
        mode = "jit"  # one by one, each operation is compiled on its own: slow, and nothing new
    check(config, rng, mode, "auto")


@pytest.mark.parametrize("lowering", LOWERINGS[1:])
@pytest.mark.parametrize("seed", range(CONFIGURATIONS, CONFIGURATIONS + CONFIGURATIONS // 15))
def test_each_lowering_matches_the_oracle(seed, lowering):
    config, rng = random_configuration(seed)
    check(config, rng, MODES[seed % len(MODES)], lowering)


@pytest.mark.skipif(not HAVE_TORCH, reason="needs PyTorch")
@pytest.mark.parametrize("seed", range(900, 900 + CONFIGURATIONS // 9))
def test_standard_conv_matches_the_oracle(seed):
    config, rng = random_configuration(seed)
    check(config, rng, MODES[(seed // 3) % len(MODES)], "auto", depthwise=False)
