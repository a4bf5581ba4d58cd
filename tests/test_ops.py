"""The operators against NumPy and PyTorch: every lowering, mode, layout and combination."""

import functools
import importlib.util
import inspect
import types
from typing import NamedTuple

import keras
import numpy as np
import pytest

from sepconv_layers import ops
from sepconv_layers.ops import choice, context
from sepconv_layers.ops.depthwise import LOWERINGS as FUNCTIONS
from tests import oracle
from tests.backends import (
    BACKEND,
    CONFIGURATIONS,
    MODES,
    SHORT,
    run_with_gradients,
    the_same_everywhere,
)

HAVE_TORCH = importlib.util.find_spec("torch") is not None
LOWERINGS = ("native", "taps", "planes", "portable")
RANKS = (1, 2, 3)
SIZES = (9, 7, 6)

only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone has it")
needs_torch = pytest.mark.skipif(not HAVE_TORCH, reason="needs PyTorch")


class Configuration(NamedTuple):
    """How a kernel moves, and sizes."""

    kernel_size: tuple
    strides: tuple
    dilation_rate: tuple
    padding: str
    data_format: str
    channels: int
    multiplier: int
    spatial: tuple

    @classmethod
    def draw(cls, rng, rank, is_small=False):
        """Draws one that has at least one output; a small one has a map of one or two."""
        kernel_size, strides, dilation = (
            tuple(map(int, rng.integers(1, high, rank, endpoint=True))) for high in (4, 3, 3)
        )
        return cls(
            kernel_size,
            strides,
            dilation,
            padding=str(
                rng.choice(["same", "causal"] if is_small else ["valid", "same", "causal"])
            ),
            data_format=str(rng.choice(["channels_last", "channels_first"])),
            channels=int(rng.integers(1, 4, endpoint=True)),
            multiplier=int(rng.integers(1, 3, endpoint=True)),
            spatial=tuple(
                int(rng.integers(1, 3)) if is_small else (k - 1) * d + 1 + int(rng.integers(0, 5))
                for k, d in zip(kernel_size, dilation, strict=True)
            ),
        )

    @property
    def arguments(self):
        names = ("strides", "padding", "data_format", "dilation_rate")
        return {name: getattr(self, name) for name in names}

    def layout(self, x):
        """Moves the channels of channels-last `x` to where this data format has them."""
        x = np.moveaxis(x, -1, 1) if self.data_format == "channels_first" else x
        return np.ascontiguousarray(x)


def depthwise(x, kernel, config):
    where = (config.strides, config.padding, config.dilation_rate)
    if isinstance(x, np.ndarray):
        return oracle.depthwise_conv(x, kernel, *where)
    return oracle.torch_conv(x, kernel, *where, depthwise=True)


def separable(x, depthwise_kernel, pointwise_kernel, config):
    mixing = pointwise_kernel.reshape(pointwise_kernel.shape[-2:])
    return depthwise(x, depthwise_kernel, config) @ mixing


def standard(x, kernel, config):
    where = (config.strides, config.padding, config.dilation_rate)
    return oracle.torch_conv(x, kernel, *where, depthwise=False)


def transposed(x, kernel, config):
    where = (config.strides, config.padding, config.dilation_rate)
    if isinstance(x, np.ndarray):
        return oracle.depthwise_conv_transpose(x, kernel, *where)
    return oracle.torch_conv_transpose(x, kernel, *where)


def separable_transposed(x, depthwise_kernel, pointwise_kernel, config):
    mixing = pointwise_kernel.reshape(pointwise_kernel.shape[-2:])
    return transposed(x, depthwise_kernel, config) @ mixing


FILTERS = 3
REFERENCES = {
    ops.depthwise_conv_transpose: transposed,
    ops.separable_conv_transpose: separable_transposed,
    ops.depthwise_conv: depthwise,
    ops.separable_conv: separable,
    ops.conv: standard,
}


def problem(seed, operator=ops.depthwise_conv, round_to="float64", is_small=False):
    """Draws a configuration, arguments and an upstream gradient; computes what is expected.

    That is the output and, where PyTorch is installed, the gradient of each argument.
    """
    rng = np.random.default_rng(seed)
    rank = 1 + seed % 3
    config = Configuration.draw(rng, rank, is_small)
    shapes = [
        (2, *config.spatial, config.channels),
        (*config.kernel_size, config.channels, config.multiplier),
    ]
    if operator in (ops.separable_conv, ops.separable_conv_transpose):
        shapes.append((*(1,) * rank, config.channels * config.multiplier, FILTERS))
    arguments = [rng.normal(size=s).astype(round_to).astype("float64") for s in shapes]

    def reference(*arrays):
        return REFERENCES[operator](*arrays, config)

    if HAVE_TORCH:
        upstream, expected = oracle.torch_with_gradients(reference, arguments, rng)
    else:
        expected = [reference(*arguments)]
        upstream = rng.normal(size=expected[0].shape)
    expected[:2] = [config.layout(array) for array in expected[:2]]
    return config, [config.layout(arguments[0]), *arguments[1:]], config.layout(upstream), expected


def check(problem, mode, operator=ops.depthwise_conv, lowering="auto", tolerance=1e-10, **how):
    config, arguments, upstream, expected = problem

    def run(*tensors):
        with ops.lowering(lowering):
            return operator(*tensors, **config.arguments)

    results = run_with_gradients(run, arguments, upstream, mode, **how)
    names = ("outputs", "d_inputs", "d_kernel", "d_pointwise")
    for name, result, want in zip(names, results, expected, strict=False):
        assert result.shape == want.shape, name
        worst = np.abs(result - want).max() / (np.abs(want).max() + 1e-12)
        assert worst < tolerance, (name, worst, config)


def mode_of(seed):
    """A mode for each seed, so that every rank meets every mode; few that compile for long."""
    if BACKEND == "jax" and seed % 10:
        return "jit"  # one by one, each operation is compiled on its own: slow, and nothing new
    modes = (*MODES[:2], *MODES)
    return modes[seed // 3 % len(modes)]


@pytest.mark.parametrize("seed", range(CONFIGURATIONS))
def test_depthwise_conv_matches_the_oracle(seed):
    check(problem(seed), mode_of(seed))


@pytest.mark.parametrize("operator", [ops.depthwise_conv, ops.separable_conv])
@pytest.mark.parametrize("seed", range(10000, 10000 + CONFIGURATIONS // 10))
def test_what_would_run_on_a_gpu_matches_the_oracle(seed, operator, monkeypatch):
    if BACKEND == "tensorflow":
        pytest.skip("its kernels on a CPU know less than those on a GPU")
    monkeypatch.setattr(context, "device", lambda: "gpu")
    check(problem(seed, operator), mode_of(seed), operator)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("seed", range(11000, 11000 + CONFIGURATIONS // 5))
def test_without_gradients_the_outputs_match_the_oracle(seed, device, monkeypatch):
    if BACKEND != "torch":
        pytest.skip("only PyTorch computes in another way then")
    monkeypatch.setattr(context, "device", lambda: device)
    config, arguments, _, (expected, *_) = problem(seed)
    outputs = keras.ops.convert_to_numpy(ops.depthwise_conv(*arguments, **config.arguments))
    assert outputs.shape == expected.shape
    np.testing.assert_allclose(outputs, expected, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("seed", range(1000, 1000 + CONFIGURATIONS // 15))
def test_each_lowering_matches_the_oracle(seed, lowering):
    check(problem(seed), mode_of(seed), lowering=lowering)


@pytest.mark.parametrize("seed", range(6000, 6000 + CONFIGURATIONS // 10))
def test_a_large_kernel_is_a_loop_over_pieces_of_it(seed, monkeypatch):
    drawn = problem(seed)
    rows = 1 + seed // 3 % 2  # two are no divisor of three, so that pieces overlap
    monkeypatch.setattr(choice, "MAX_UNROLLED_TAPS", rows * drawn[0].kernel_size[-1])
    check(drawn, mode_of(seed), lowering="taps")


@pytest.mark.parametrize("seed", range(2000, 2000 + CONFIGURATIONS // 15))
def test_separable_conv_matches_depthwise_and_pointwise_oracles(seed):
    check(problem(seed, ops.separable_conv), mode_of(seed), ops.separable_conv)


@needs_torch
@pytest.mark.parametrize("seed", range(3000, 3000 + CONFIGURATIONS // 9))
def test_standard_conv_matches_the_oracle(seed):
    check(problem(seed, ops.conv), mode_of(seed), ops.conv)


@pytest.mark.skipif(BACKEND != "torch", reason="only PyTorch has several default devices")
@pytest.mark.parametrize(("kind", "expected"), [("cpu", "cpu"), ("cuda", "gpu"), ("mps", "mps")])
def test_the_device_is_that_of_a_tensor_that_keras_creates(kind, expected, monkeypatch):
    import torch

    found = types.SimpleNamespace(device=torch.device("meta"))  # where Keras infers shapes
    monkeypatch.setattr(context, "_torch_devices", [])
    with monkeypatch.context() as patch:
        patch.setattr(keras.ops, "zeros", lambda shape: found)
        assert context.device() == "cpu"
        found.device = torch.device(kind)
        assert context.device() == expected
    assert context.device() == expected  # cached


@pytest.mark.skipif(BACKEND != "torch", reason="only PyTorch has several default devices")
def test_a_gpu_that_keras_does_not_use_decides_nothing(monkeypatch):
    import torch

    expected = keras.ops.zeros(()).device.type.replace("cuda", "gpu")
    monkeypatch.setattr(context, "_torch_devices", [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: expected != "gpu")
    assert context.device() == expected


@pytest.mark.skipif(BACKEND != "torch", reason="the other backends cache it before they trace")
@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated")
@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_a_trace_may_be_the_first_to_ask_for_the_device(monkeypatch):
    import torch

    def run(x):
        return ops.depthwise_conv(x, keras.ops.ones((3, 2, 1)))

    x = keras.ops.ones((1, 5, 2))
    for trace in (
        lambda: torch.jit.trace(run, x)(x),
        lambda: torch.compile(run, backend="eager")(x),
        lambda: torch.func.vmap(lambda x: run(x[None])[0])(x),
    ):
        monkeypatch.setattr(context, "_torch_devices", [])
        torch.testing.assert_close(trace(), run(x))


@needs_torch
@pytest.mark.parametrize("has_onednn", [True, False])
@pytest.mark.parametrize("seed", range(3002, 3002 + CONFIGURATIONS // 10, 3))
def test_standard_conv_of_volumes_in_a_graph_matches_the_oracle(seed, has_onednn, monkeypatch):
    if BACKEND != "tensorflow":
        pytest.skip("only TensorFlow may have oneDNN or not")
    monkeypatch.setattr(context, "has_onednn", lambda: has_onednn)
    check(problem(seed, ops.conv), "graph", ops.conv)


@pytest.mark.parametrize("operator", [ops.depthwise_conv, ops.conv])
@pytest.mark.parametrize("seed", range(9000, 9000 + CONFIGURATIONS // 10))
def test_a_kernel_that_reaches_over_a_small_map_matches_the_oracle(seed, operator):
    if operator is ops.conv and not HAVE_TORCH:
        pytest.skip("needs PyTorch")
    check(problem(seed, operator, is_small=True), mode_of(seed), operator)


@pytest.mark.parametrize("operator", [ops.depthwise_conv, ops.separable_conv, ops.conv])
@pytest.mark.parametrize("seed", range(12000, 12000 + CONFIGURATIONS // 20))
def test_single_precision_matches_the_oracle(seed, operator):
    if operator is ops.conv and not HAVE_TORCH:
        pytest.skip("needs PyTorch")
    drawn = problem(seed, operator)
    check(drawn, mode_of(seed), operator, dtype="float32", tolerance=1e-5)


@pytest.mark.parametrize("operator", [ops.depthwise_conv, ops.conv])
@pytest.mark.parametrize("strides", [(1, 2), (2, 1), (1, 3), (2, 2), (1, 1, 2), (1, 2, 3)])
def test_one_channel_and_one_output_along_an_axis_match_the_oracle(strides, operator):
    # Single precision and more than one sample: the kernels of oneDNN that may read elsewhere.
    mode = MODES[:2][-1]  # XLA has no kernels
    rank, rng = len(strides), np.random.default_rng(0)
    x = rng.normal(size=(2, *[3 if stride > 1 else 11 for stride in strides], 1))
    kernel = rng.normal(size=(*(3,) * rank, 1, 8))
    run = functools.partial(operator, strides=strides)
    upstream = np.ones((2, *[1 if stride > 1 else 9 for stride in strides], 8))
    results = run_with_gradients(run, [x, kernel], upstream, mode, "float32")
    # One channel in and eight out: depthwise and standard are the same.
    expected = oracle.depthwise_conv(x, kernel, strides, "valid", (1,) * rank)
    np.testing.assert_allclose(results[0], expected, atol=1e-4)
    if BACKEND == "tensorflow":
        signature = [(*(None,) * (rank + 1), 1), kernel.shape]
        unknown = run_with_gradients(run, [x, kernel], upstream, "graph", "float32", signature)
        np.testing.assert_allclose(unknown[0], expected, atol=1e-4)
    doubled = run_with_gradients(run, [x, kernel], upstream, mode, "float64")
    for result, same in zip(results, doubled, strict=True):
        np.testing.assert_allclose(result, same, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "strides", "dilation_rate", "left"),
    [
        (1, 1, 1, 1),
        (2, 1, 1, 3),
        (1, 2, 1, 1),
        (2, 2, 1, 2),
        (3, 1, 3, 1),
        (3, 2, 2, 3),
        (2, 1, 2, 1),
    ],
)
def test_what_meets_nothing_but_padding_is_left_out(size, strides, dilation_rate, left):
    geometry = ops.geometry.Geometry.of(3, 2, strides, "same", "channels_last", dilation_rate)
    inputs, kernel = np.ones((1, size, 9, 4), "float32"), np.ones((3, 3, 4, 1), "float32")
    _, kernel, geometry = geometry.without_unused_taps(inputs, kernel)
    assert geometry.kernel_size == tuple(kernel.shape[:2]) == (left, 3)


@only_tensorflow
def test_what_meets_nothing_but_padding_is_left_out_beside_axes_of_unknown_size():
    import tensorflow as tf

    kernel = np.ones((3, 3, 3, 4, 1), "float32")
    function = tf.function(lambda x: ops.depthwise_conv(x, kernel, (1, 2, 2), "same"))
    graph = function.get_concrete_function(tf.TensorSpec((None, 1, None, None, 4))).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert kinds.count("DepthwiseConv2dNative") == 1
    x = np.random.default_rng(0).normal(size=(2, 1, 7, 6, 4)).astype("float32")
    expected = oracle.depthwise_conv(x, kernel, (1, 2, 2), "same", (1, 1, 1))
    np.testing.assert_allclose(function(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(7000, 7000 + CONFIGURATIONS // 6))
def test_depthwise_conv_transpose_matches_the_oracle(seed):
    drawn = problem(seed, ops.depthwise_conv_transpose)
    check(drawn, mode_of(seed), ops.depthwise_conv_transpose)


@pytest.mark.parametrize("seed", range(8000, 8000 + CONFIGURATIONS // 15))
def test_separable_conv_transpose_matches_the_oracle(seed):
    drawn = problem(seed, ops.separable_conv_transpose)
    lowering = ("auto", *LOWERINGS)[seed % 5]
    mode = "eager" if lowering == "native" else mode_of(seed)  # as for unknown sizes below
    check(drawn, mode, ops.separable_conv_transpose, lowering)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("strides", [1, 2, 3, 4])
def test_the_output_of_a_transposed_convolution_is_padded_as_in_keras(
    kernel_size, strides, padding
):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 5, 1)).astype("float32")
    kernel = rng.normal(size=(kernel_size, 1, 1)).astype("float32")
    for output_padding in (None, *range(strides)):
        if padding == "same" and (kernel_size % 2 or 0) + (output_padding or 0) == 0:
            continue  # where Keras gives less than the inputs and TensorFlow nothing
        how = (strides, padding, output_padding)
        try:
            expected = keras.ops.conv_transpose(x, kernel, *how)
        except Exception:  # of any kind: each backend refuses something
            continue
        expected = keras.ops.convert_to_numpy(expected)
        y = keras.ops.convert_to_numpy(ops.depthwise_conv_transpose(x, kernel, *how))
        assert y.shape == expected.shape, how
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5, err_msg=str(how))


@needs_torch
@pytest.mark.parametrize("operator", [ops.depthwise_conv, ops.depthwise_conv_transpose])
@pytest.mark.parametrize("seed", range(60))
def test_both_oracles_agree(seed, operator):
    config, (x, kernel), _, (expected, *_) = problem(seed, operator)
    last = np.moveaxis(x, 1, -1) if config.data_format == "channels_first" else x
    defined = config.layout(REFERENCES[operator](last, kernel, config))
    np.testing.assert_allclose(defined, expected, rtol=1e-10, atol=1e-10)


# Sums are over float32: what is left is the rounding of the output, by half a unit in the last
# place, and for a gradient that of what one operation hands to the next.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 2e-6), ("float16", 2e-3), ("bfloat16", 1.6e-2)]
)
@pytest.mark.parametrize("mode", MODES[-1:] if SHORT else MODES)
@pytest.mark.parametrize("operator", [ops.depthwise_conv, ops.separable_conv])
@pytest.mark.parametrize("seed", range(4000, 4003))
def test_low_precision_matches_the_oracle(seed, operator, mode, dtype, tolerance):
    drawn = problem(seed, operator, round_to=dtype)
    check(drawn, mode, operator, tolerance=tolerance, dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("bfloat16", 1.6e-2)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("rank", "size"), [(1, 9000), (2, 96), (3, 22)])
def test_low_precision_does_not_wear_off_over_many_positions(rank, size, mode, dtype, tolerance):
    x = np.random.default_rng(rank).uniform(size=(1, *(size,) * rank, 2))
    x = x.astype(dtype).astype("float64")
    axes = tuple(range(1, rank + 1))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3,) * rank, axes)
    expected = np.moveaxis(windows.sum((0, *axes)), 0, -1)[..., None]
    upstream = np.ones(windows.shape[: rank + 2])
    arguments = (x, np.ones((*(3,) * rank, 2, 1)))
    *_, gradient = run_with_gradients(ops.depthwise_conv, arguments, upstream, mode, dtype)
    np.testing.assert_allclose(gradient, expected, rtol=tolerance)


# TensorFlow's grouped kernel for volumes, which "native" is there, needs to know its shapes.
@only_tensorflow
@pytest.mark.parametrize(
    ("operator", "lowering"),
    [
        *((ops.depthwise_conv, lowering) for lowering in ("auto", "taps", "planes")),
        (ops.depthwise_conv_transpose, "auto"),
    ],
)
@pytest.mark.parametrize("seed", range(5000, 5000 + CONFIGURATIONS // 15))
def test_batch_and_spatial_sizes_may_be_unknown(seed, operator, lowering):
    config, arguments, *_ = drawn = problem(seed, operator)
    unknown = [None] * (len(config.spatial) + 2)
    unknown[1 if config.data_format == "channels_first" else -1] = config.channels
    signature = (unknown, arguments[1].shape)
    mode = "xla" if seed % 5 == 0 else "graph"
    check(drawn, mode, operator, lowering, signature=signature)


@only_tensorflow
@pytest.mark.parametrize("operator", [ops.depthwise_conv, ops.conv])
@pytest.mark.parametrize("strides", [1, 3])
@pytest.mark.parametrize("rank", RANKS)
def test_a_graph_refuses_inputs_that_turn_out_too_small(rank, strides, operator):
    import tensorflow as tf

    kernel = np.ones((*(3,) * rank, 4, 2), "float32")
    signature = [tf.TensorSpec((None, *(None,) * rank, 4))]
    function = tf.function(lambda x: operator(x, kernel, strides), input_signature=signature)
    assert function(tf.ones((2, *(3,) * rank, 4))).shape[1:-1] == (1,) * rank
    for axis in range(rank):
        sizes = [5] * rank
        sizes[axis] = 2
        with pytest.raises(tf.errors.InvalidArgumentError, match="Use a larger input"):
            function(tf.ones((2, *sizes, 4)))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("lowering", ["auto", *LOWERINGS])
@pytest.mark.parametrize("operator", [ops.depthwise_conv, ops.conv])
def test_an_empty_batch_gives_an_empty_batch(operator, lowering, rank):
    x = np.zeros((0, *SIZES[:rank], 4))
    kernel = np.ones((*(3, 2, 4)[:rank], 4, 2))
    channels = 8 if operator is ops.depthwise_conv else 2
    expected = (0, *(4, 3, 2)[:rank], channels)

    def run(*tensors):
        with ops.lowering(lowering):
            return operator(*tensors, strides=2)

    results = run_with_gradients(run, (x, kernel), np.zeros(expected), "eager")
    assert [result.shape for result in results] == [expected, x.shape, kernel.shape]
    assert not results[2].any()


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("mode", MODES)
def test_auto_takes_the_lowering_of_the_table(mode, rank, monkeypatch):
    if context.device() != "cpu":
        pytest.skip("the table is of CPUs")
    used = []
    for name, lower in FUNCTIONS.items():
        monkeypatch.setitem(
            FUNCTIONS,
            name,
            lambda *a, name=name, lower=lower: used.append(name) or lower(*a),
        )
    x, kernel = np.ones((1, *SIZES[:rank], 2)), np.ones((*(2,) * rank, 2, 1))
    upstream = np.ones((1, *(size - 1 for size in SIZES[:rank]), 2))
    run_with_gradients(ops.depthwise_conv, (x, kernel), upstream, mode)
    where = choice.Where(BACKEND, "cpu", BACKEND == "jax" or mode == "xla", rank)
    assert used == [choice.TABLE[where]]


@only_tensorflow
@pytest.mark.parametrize("shape", [(8, 2, 6), (8, 1, 1, 6), (8, 4, 1, 6), (8, 2, 1, 1, 6)])
def test_a_graph_with_onednn_multiplies_a_few_numbers_without_a_kernel(shape, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(context, "has_onednn", lambda: True)
    rank, rng = len(shape) - 2, np.random.default_rng(0)
    x, kernel = rng.normal(size=shape), rng.normal(size=(*(3,) * rank, 6, 2))
    function = tf.function(lambda x: ops.depthwise_conv(x, kernel, padding="same"))
    graph = function.get_concrete_function(tf.TensorSpec((None, *shape[1:]), "float64")).graph
    assert not any("Depthwise" in operation.type for operation in graph.get_operations())
    expected = oracle.depthwise_conv(x, kernel, (1,) * rank, "same", (1,) * rank)
    np.testing.assert_allclose(function(x), expected, atol=1e-12)


def test_a_forced_lowering_ends_with_its_block(monkeypatch):
    used = []
    for name in LOWERINGS:
        monkeypatch.setitem(FUNCTIONS, name, lambda x, *_, name=name: used.append(name) or x)
    x, kernel = np.ones((1, 5, 2)), np.ones((3, 2, 1))
    with ops.lowering("taps"):
        ops.depthwise_conv(x, kernel)
        with ops.lowering("planes"):
            ops.depthwise_conv(x, kernel)
        ops.depthwise_conv(x, kernel)
    with pytest.raises(RuntimeError), ops.lowering("planes"):
        raise RuntimeError
    ops.depthwise_conv(x, kernel)
    assert used[:3] == ["taps", "planes", "taps"]
    assert used[3] != "planes"


@pytest.mark.parametrize("name", ["depthwise_conv", "separable_conv"])
def test_the_signature_is_that_of_keras_ops(name):
    ours = inspect.signature(getattr(ops, name)).parameters.values()
    theirs = inspect.signature(getattr(keras.ops, name)).parameters.values()
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs]


@pytest.mark.parametrize("rank", RANKS)
def test_operators_stand_in_a_functional_model_and_reload(rank, tmp_path):
    rng = np.random.default_rng(rank)
    arrays = [
        rng.normal(size=shape).astype("float32")
        for shape in [
            (2, *SIZES[:rank], 3),
            (*(3, 2, 4)[:rank], 3, 2),
            (*(1,) * rank, 6, 5),
        ]
    ]
    x = keras.Input((*(None,) * rank, 3))
    kernels = [keras.Input(batch_shape=array.shape) for array in arrays[1:]]
    y = ops.separable_conv(x, *kernels, strides=2, padding="same")
    assert y.shape == (None, *(None,) * rank, 5)
    y = ops.conv(
        ops.depthwise_conv(y, np.ones((*(2,) * rank, 5, 1), "float32")), arrays[2][..., :5, :2]
    )
    model = keras.Model([x, *kernels], y)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    expected = keras.ops.convert_to_numpy(model(arrays))
    assert expected.shape == (2, *(4, 3, 2)[:rank], 2)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(again(arrays)), expected, rtol=1e-6)


@the_same_everywhere
@pytest.mark.parametrize("padding", ["valid", "same", "causal"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_known", [True, False], ids=["sizes known", "sizes unknown"])
@pytest.mark.parametrize(
    ("spatial", "kernel_size", "stride", "channels", "multiplier"),
    [
        ((17,), (11,), 1, 3, 1),
        ((9, 13), (2, 4), 1, 3, 1),
        ((12, 13), (5, 5), 2, 3, 1),
        ((1, 20), (1, 8), 1, 3, 1),
        ((5, 6, 11), (2, 3, 7), 2, 3, 1),
        ((9,), (3,), 2, 16, 4),
        ((7, 8), (3, 5), 1, 17, 2),
        ((3, 6, 5), (3, 2, 3), 1, 16, 2),
    ],
)
def test_what_onednn_does_slowly_matches_the_oracle(
    spatial, kernel_size, stride, channels, multiplier, is_known, mode, padding
):
    if not is_known and (BACKEND != "tensorflow" or mode != "graph"):
        pytest.skip("only a TensorFlow graph has unknown sizes")
    if mode in ("xla", "jit") and padding != "same":
        pytest.skip("XLA has one way for all, and does not use oneDNN")
    rng, rank = np.random.default_rng(0), len(spatial)
    moving = (kernel_size, (stride,) * rank, (1,) * rank, padding)
    config = Configuration(*moving, "channels_last", channels, multiplier, spatial)
    shapes = (2, *spatial, channels), (*kernel_size, channels, multiplier)
    arguments = [rng.normal(size=shape) for shape in shapes]
    expected = [depthwise(*arguments, config)]
    upstream = rng.normal(size=expected[0].shape)
    if HAVE_TORCH:
        reference = functools.partial(depthwise, config=config)
        upstream, expected = oracle.torch_with_gradients(reference, arguments, rng)
    signature = None if is_known else ((None,) * (rank + 1) + (channels,), shapes[1])
    drawn = (config, arguments, upstream, expected)
    check(drawn, mode, dtype="float32", tolerance=1e-5, signature=signature)


@pytest.mark.parametrize("padding", ["valid", "same", "causal"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("length", "kernel_size", "rate"), [(23, 5, 2), (24, 4, 3), (9, 5, 4)])
def test_a_dilated_sequence_matches_the_oracle(length, kernel_size, rate, mode, padding):
    if padding == "valid" and length <= (kernel_size - 1) * rate:
        pytest.skip("the kernel does not fit")
    rng = np.random.default_rng(0)
    config = Configuration((kernel_size,), (1,), (rate,), padding, "channels_last", 3, 2, (length,))
    arguments = [rng.normal(size=shape) for shape in ((2, length, 3), (kernel_size, 3, 2))]
    expected = [depthwise(*arguments, config)]
    upstream = rng.normal(size=expected[0].shape)
    if HAVE_TORCH:
        reference = functools.partial(depthwise, config=config)
        upstream, expected = oracle.torch_with_gradients(reference, arguments, rng)
    check((config, arguments, upstream, expected), mode)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a gradient of our own for TensorFlow")
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("multiplier", [1, 4])
@pytest.mark.parametrize("kernel_size", [(5,), (3, 5)])
def test_gradients_of_our_own_on_tensorflow_have_gradients(kernel_size, multiplier, strides):
    import tensorflow as tf

    rng, rank = np.random.default_rng(0), len(kernel_size)
    shapes = (2, *(9,) * rank, 16), (*kernel_size, 16, multiplier)
    inputs, kernel = (tf.constant(rng.normal(size=shape), "float32") for shape in shapes)

    @tf.function
    def second(inputs, kernel, name):
        with tf.GradientTape() as outer:
            outer.watch((inputs, kernel))
            with tf.GradientTape() as inner, ops.lowering(name):
                inner.watch((inputs, kernel))
                outputs = ops.depthwise_conv(inputs, kernel, strides, "same", "channels_last")
                loss = tf.reduce_sum(outputs**3)
            first = inner.gradient(loss, (inputs, kernel))
            loss = sum(tf.reduce_sum(gradient**2) for gradient in first)
        return outer.gradient(loss, (inputs, kernel))

    for found, expected in zip(
        second(inputs, kernel, "native"), second(inputs, kernel, "taps"), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.skipif(BACKEND != "torch", reason="elsewhere the gradients are the backend's own")
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("padding", ["valid", "same", "causal"])
@pytest.mark.parametrize(
    ("size", "kernel_size", "dilation_rate"),
    [((4, 5, 3), (2, 3, 3), (1, 2, 1)), ((3, 3, 9), (1, 2, 5), 1), ((5, 9), (3, 7), (2, 1))],
)
def test_gradients_of_our_own_on_pytorch_have_gradients(
    size, kernel_size, dilation_rate, padding, strides, monkeypatch
):
    import torch

    monkeypatch.setattr(choice, "MIN_VALUES_OF_STRIPS", 0)

    def convolve(inputs, kernel):
        return ops.depthwise_conv(inputs, kernel, strides, padding, "channels_last", dilation_rate)

    torch.manual_seed(0)
    arguments = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((1, *size, 2), (*kernel_size, 2, 1))
    ]
    assert torch.autograd.gradcheck(convolve, arguments)
    assert torch.autograd.gradgradcheck(convolve, arguments, fast_mode=True)


@pytest.mark.skipif(BACKEND != "torch", reason="what transforms functions is PyTorch's own")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # by its own transforms
def test_functions_of_volumes_can_be_transformed_by_pytorch():
    import torch

    torch.manual_seed(0)
    inputs, kernel = torch.randn(1, 4, 4, 4, 2), torch.randn(2, 2, 2, 2, 1)

    def loss(kernel):
        return ops.depthwise_conv(inputs, kernel, strides=2).square().sum()

    expected = torch.autograd.functional.hessian(loss, kernel)
    torch.testing.assert_close(torch.func.hessian(loss)(kernel), expected)
    torch.testing.assert_close(torch.func.jacrev(torch.func.grad(loss))(kernel), expected)
