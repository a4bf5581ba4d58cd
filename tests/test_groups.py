"""Standard convolutions in groups: against PyTorch and `keras.layers`, and in the rest of it."""

import itertools

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import convert, ops, profile, separable_twin, standard_twin
from tests import oracle
from tests.backends import BACKEND, MODES, SHORT, output_of, run_with_gradients

RANKS = (1, 2, 3)
SIZES = (7, 6, 5)
GROUPS = [(2, 3), (4, 2), (12, 1), (12, 2)]  # of 12 channels, and filters of each group
HOW = [
    {},
    {"padding": "same", "strides": 2, "dilation_rate": 2},
    {"padding": "causal", "data_format": "channels_first", "strides": 3},
    {"padding": "same", "kernel_size": 1},
]
# Every eighth combination.
COMBINATIONS = [
    pytest.param(rank, groups, filters, how, lowering, id=f"{rank}D-{groups}-{filters}-{turn}")
    for turn, (rank, (groups, filters), how, lowering) in enumerate(
        itertools.product(RANKS, GROUPS, HOW, ("auto", "portable"))
    )
    if (turn // 8 + 3 * (turn // 2 % 4) + turn % 2) % (16 if SHORT else 8) == 0
]


def problem(rank, groups, filters, padding="valid", data_format="channels_last", **how):
    """Arguments, an upstream gradient, and what PyTorch computes of each group on its own."""
    torch = pytest.importorskip("torch")
    kernel_size = (how.pop("kernel_size", None) or 3,) * rank
    strides, dilation = ((how.get(name, 1),) * rank for name in ("strides", "dilation_rate"))
    rng = np.random.default_rng(rank)
    x = rng.normal(size=(2, *SIZES[:rank], 12))
    kernel = rng.normal(size=(*kernel_size, 12 // groups, groups * filters))

    def group_by_group(x, kernel):
        parts = zip(x.chunk(groups, -1), kernel.chunk(groups, -1), strict=True)
        where = (strides, padding, dilation)
        return torch.cat([oracle.torch_conv(*part, *where, depthwise=False) for part in parts], -1)

    upstream, expected = oracle.torch_with_gradients(group_by_group, (x, kernel), rng)
    if data_format == "channels_first":
        x, upstream, *expected[:2] = (
            np.ascontiguousarray(np.moveaxis(a, -1, 1)) for a in (x, upstream, *expected[:2])
        )
    return x, kernel, upstream, expected


@pytest.mark.parametrize(("rank", "groups", "filters", "how", "lowering"), COMBINATIONS)
def test_groups_match_those_of_pytorch(rank, groups, filters, how, lowering):
    x, kernel, upstream, expected = problem(rank, groups, filters, **how)
    arguments = {name: value for name, value in how.items() if name != "kernel_size"}

    def run(x, kernel):
        with ops.lowering(lowering):
            return ops.conv(x, kernel, **arguments)

    mode = MODES[(rank + groups + HOW.index(how)) % len(MODES)]
    unknown = [None if size != 12 else 12 for size in x.shape]
    signature = (unknown, kernel.shape) if mode == "graph" and BACKEND == "tensorflow" else None
    results = run_with_gradients(run, [x, kernel], upstream, mode, signature=signature)
    for result, want in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, want, atol=1e-10 * np.abs(want).max())


@pytest.mark.parametrize("rank", RANKS)
def test_a_layer_in_groups_is_that_of_keras(rank):
    arguments = {"filters": 8, "kernel_size": 3, "groups": 4, "padding": "same", "name": "conv"}
    ours, theirs = (getattr(of, f"Conv{rank}D")(**arguments) for of in (sl, keras.layers))
    x = np.random.default_rng(0).normal(size=(2, *SIZES[:rank], 12)).astype("float32")
    ours.build(x.shape)
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(output_of(ours, x), output_of(theirs, x), atol=1e-5)
    assert ours.get_config() == theirs.get_config()


@pytest.mark.parametrize("batch", [0, 3])
def test_a_batch_may_be_empty(batch):
    for rank in RANKS:
        layer = getattr(sl, f"Conv{rank}D")(6, 2, groups=3)
        x = np.ones((batch, *SIZES[:rank], 12), "float32")
        assert tuple(layer(x).shape) == (batch, *(size - 1 for size in SIZES[:rank]), 6)


def test_groups_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="filters must be evenly divisible .*groups=4, filters=6"):
        sl.Conv2D(6, 3, groups=4)
    with pytest.raises(
        ValueError, match="channels must be evenly divisible .*groups=4.* 6 channels"
    ):
        sl.Conv1D(8, 3, groups=4).build((None, 9, 6))
    for kernel in [(3, 4, 6), (3, 3, 5), (3, 12, 6)]:  # of 6 channels: no share, no filter for each
        with pytest.raises(ValueError, match="`kernel` must have as many input channels"):
            ops.conv(np.ones((1, 9, 6)), np.ones(kernel))
    with pytest.raises(ValueError, match="`kernel` must have as many input channels"):
        ops.depthwise_conv(np.ones((1, 9, 6)), np.ones((3, 3, 2)))


def test_costs_twins_and_folding_know_groups():
    model = keras.Sequential(
        [
            keras.Input((8, 6, 12)),
            sl.Conv2D(18, 3, padding="same", groups=3, use_bias=False),
            sl.BatchNormalization(),
            sl.Conv2D(8, 3, padding="same"),
        ]
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1, np.shape(array)) for array in model.get_weights()])
    costs = profile(model)
    assert [row.macs for row in costs.rows if row.macs] == [48 * 9 * 4 * 18, 48 * 9 * 18 * 8]
    assert not costs.uncounted
    twin = separable_twin(model)
    assert [type(layer) for layer in twin.layers[1::2]] == [sl.Conv2D, sl.SeparableConv2D]
    assert standard_twin(twin).layers[1].groups == 3
    x = rng.normal(size=(2, 8, 6, 12)).astype("float32")
    folded = convert.fold_batch_norm(model)
    np.testing.assert_allclose(output_of(folded, x), output_of(model, x), rtol=1e-4, atol=1e-4)
