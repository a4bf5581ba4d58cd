"""Separable convolutions fitted to data, the choice of their ranks, and the report."""

import itertools
import json

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import convert
from sepconv_layers.convert.separable.kernels import Metric, closest, errors_of_ranks, fitted
from sepconv_layers.convert.separable.patches import Moments, Patches, standard_kernels
from sepconv_layers.convert.separable.ranks import Candidate, for_budget, for_energy
from tests.backends import output_of
from tests.cases import RANKS

SIZES = (7, 6, 5)
RNG = np.random.default_rng(0)


def correlated(shape, seed=0):
    """Inputs as activations are: not centered, correlated along all axes and between channels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    for axis in range(1, len(shape) - 1):
        x = x + np.roll(x, 1, axis) + np.roll(x, 2, axis)
    return np.maximum(x @ rng.normal(size=(shape[-1], shape[-1])) + 1, 0).astype("float32")


# Patches.


def geometries(rank):
    own = [
        {"padding": padding, "strides": strides, "dilation_rate": dilation}
        for padding in ("valid", "same", "causal")
        for strides, dilation in ((1, 1), (2, 1), ((3, 1, 2)[:rank], (1, 2, 1)[:rank]))
    ]
    transposed = [
        {"padding": padding, "strides": strides}
        for padding in ("valid", "same")
        for strides in (1, 2, 3)
    ]
    cls = getattr(keras.layers, f"Conv{rank}DTranspose")
    return [
        *((getattr(sl, f"Conv{rank}D"), arguments) for arguments in own),
        *((cls, arguments) for arguments in transposed),
        (cls, {"strides": 2, "padding": "same", "output_padding": 1}),
    ]


@pytest.mark.parametrize("rank", RANKS)
def test_patches_times_the_kernel_are_the_outputs(rank):
    for cls, arguments in geometries(rank):
        conv = cls(4, (3, 2, 3)[:rank], use_bias=False, **arguments)
        x = RNG.normal(size=(2, *SIZES[:rank], 3)).astype("float32")
        expected = output_of(conv, x).reshape(-1, 4)
        patches = Patches(conv, SIZES[:rank])
        assert 2 * patches.positions == len(expected)
        some = RNG.permutation(len(expected))[:9]
        found = patches.at(x, some) @ standard_kernels(conv).reshape(-1, 4)
        np.testing.assert_allclose(found, expected[some], rtol=1e-4, atol=1e-5)


def test_patches_of_channels_first_are_the_same():
    first, last = (
        keras.layers.Conv2D(4, 3, 2, data_format=f"channels_{f}") for f in ("first", "last")
    )
    x = RNG.normal(size=(2, 7, 6, 3))
    positions = np.arange(2 * Patches(last, (7, 6)).positions)
    ours = Patches(first, (7, 6)).at(np.moveaxis(x, -1, 1), positions)
    np.testing.assert_array_equal(ours, Patches(last, (7, 6)).at(x, positions))


# Kernels.


def problem(channels=4, positions=9, filters=6, samples=400, noise=0.3):
    """A kernel, and patches of a converted and of the original net."""
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(channels, positions, filters))
    original = correlated((samples, channels * positions), seed=2)
    return kernel, original + noise * rng.normal(size=original.shape), original


def metric_of(kernel, inputs, original):
    wanted = original @ kernel.reshape(-1, kernel.shape[-1])
    count = len(inputs)
    energy = np.sum(wanted**2) / count
    return Metric(inputs.T @ inputs / count, inputs.T @ wanted / count, energy), wanted


def test_the_error_in_the_metric_is_that_of_the_outputs():
    kernel, inputs, original = problem()
    metric, wanted = metric_of(kernel, inputs, original)
    other = kernel + 0.1 * RNG.normal(size=kernel.shape)
    lost = np.sum((inputs @ other.reshape(-1, 6) - wanted) ** 2) / np.sum(wanted**2)
    assert metric.error(other) == pytest.approx(lost)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_no_small_change_of_a_fit_reproduces_outputs_better(rank):
    kernel, inputs, original = problem()
    metric, _ = metric_of(kernel, inputs, original)
    depthwise, pointwise = fitted(kernel, rank, metric, sweeps=300)
    error = metric.error(depthwise @ pointwise)
    assert error < 0.95 * metric.error(closest(kernel, rank).product())
    for seed, size in itertools.product(range(20), (1e-2, 1e-1)):
        rng = np.random.default_rng(seed)
        changed = [w + size * rng.normal(size=w.shape) for w in (depthwise, pointwise)]
        assert metric.error(changed[0] @ changed[1]) > 0.99 * error


def test_at_full_rank_a_fit_is_the_least_squares_solution():
    kernel, inputs, original = problem(channels=2, positions=3, filters=5)
    metric, wanted = metric_of(kernel, inputs, original)
    best, *_ = np.linalg.lstsq(inputs, wanted, rcond=None)
    found = fitted(kernel, 3, metric, sweeps=300).product()
    np.testing.assert_allclose(found.reshape(best.shape), best, atol=2e-2 * np.abs(best).max())
    # With the inputs of the original layer, it is the kernel itself.
    metric, _ = metric_of(kernel, original, original)
    np.testing.assert_allclose(fitted(kernel, 3, metric).product(), kernel, atol=1e-5)


def test_a_fit_where_data_do_not_decide_keeps_the_closest_kernel():
    kernel, inputs, _ = problem()
    inputs[:, :18] = 0  # two channels are always zero
    metric, _ = metric_of(kernel, inputs, inputs)
    found, plain = fitted(kernel, 2, metric).product(), closest(kernel, 2).product()
    np.testing.assert_allclose(found[:2], plain[:2], atol=1e-6)
    nothing = Metric(np.zeros((36, 36)), np.zeros((36, 6)), 0.0)
    np.testing.assert_array_equal(fitted(kernel, 2, nothing).product(), plain)


def test_errors_never_rise_with_the_rank():
    kernel, inputs, original = problem()
    for metrics in (None, [metric_of(kernel, inputs, original)[0]]):
        errors = errors_of_ranks(kernel[None], 6, metrics)
        assert errors == sorted(errors)[::-1] and 0 <= errors[-1] < errors[0] < 1
    lost = np.sum((closest(kernel, 2).product() - kernel) ** 2) / np.sum(kernel**2)
    assert errors_of_ranks(kernel[None], 2, None)[1] == pytest.approx(lost)


@pytest.mark.parametrize("groups", [1, 2])
def test_moments_of_samples_and_of_batches(groups):
    conv = sl.Conv2D(6, 3, groups=groups, use_bias=False)
    x, original = correlated((8, 9, 9, 4)), correlated((8, 9, 9, 4), seed=1)
    conv.build(x.shape)
    whole, parts = Moments(conv), Moments(conv)
    whole.add(x, original)
    for start in range(0, 8, 2):
        parts.add(x[start : start + 2], original[start : start + 2])
    for centered in (False, True):
        metrics = [moments.metrics(centered) for moments in (whole, parts)]
        assert len(metrics[0]) == groups
        for one, other in zip(*metrics, strict=True):
            np.testing.assert_allclose(one.second, other.second, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(one.cross, other.cross, rtol=1e-4, atol=1e-4)
            assert one.energy == pytest.approx(other.energy, rel=1e-4)


# Ranks.


def forms_of(seed, layers=6):
    rng = np.random.default_rng(seed)
    forms = []
    for _ in range(layers):
        unit, errors = rng.integers(5, 50), np.sort(rng.uniform(0, 1, 4))[::-1]
        found = [Candidate(r, r * unit, e) for r, e in enumerate(errors, start=1)]
        forms.append([*found, Candidate(None, 5.5 * unit, 0.0)])
    return forms


@pytest.mark.parametrize("seed", range(4))
def test_no_other_ranks_within_the_budget_have_smaller_errors(seed):
    forms = forms_of(seed)
    for share in (0.3, 0.5, 0.8, 1.0):
        budget = share * sum(layer[-1].cost for layer in forms)
        every = [
            (sum(form.error for form in chosen), sum(form.cost for form in chosen))
            for chosen in itertools.product(*forms)
        ]
        best = min(error for error, cost in every if cost <= budget)
        chosen = for_budget(forms, budget)
        assert sum(form.cost for form in chosen) <= budget
        assert sum(form.error for form in chosen) == pytest.approx(best)
    least = sum(layer[0].cost for layer in forms)
    assert [form.rank for form in for_budget(forms, least)] == [1] * len(forms)


def test_many_layers_meet_a_budget():
    forms = [layer for seed in range(20) for layer in forms_of(seed)]
    total = sum(layer[-1].cost for layer in forms)
    errors = []
    for share in (0.3, 0.5, 0.8):
        chosen = for_budget(forms, share * total)
        assert 0.99 * share * total < sum(form.cost for form in chosen) <= share * total
        errors.append(sum(form.error for form in chosen))
    assert errors == sorted(errors)[::-1]


def test_the_energy_decides_for_each_layer():
    forms = [[Candidate(1, 2, 0.3), Candidate(2, 4, 0.04), Candidate(None, 5, 0.0)]]
    ranks = [for_energy(forms, energy)[0].rank for energy in (0.6, 0.95, 0.97)]
    assert ranks == [1, 2, None]


# Models.


def net(rank, seed=0):
    """Convolutions of several kinds, with a bias, a batch normalization or neither after them."""
    keras.utils.set_random_seed(seed)
    conv = getattr(keras.layers, f"Conv{rank}D")
    x = inputs = keras.Input((*SIZES[:rank], 3))
    x = conv(8, 3, padding="same", activation="relu", name="with_bias")(x)
    x = getattr(sl, f"ResidualConvBlock{rank}D")(8, name="residual")(x)
    x = conv(8, 2, strides=2, padding="same", use_bias=False, name="bare")(x)
    twice = getattr(sl, f"Conv{rank}D")(8, 3, padding="same", activation="relu", name="twice")
    x = twice(twice(x))
    grouped = {"groups": 2, "padding": "same", "activation": "relu", "name": "grouped"}
    x = getattr(sl, f"Conv{rank}D")(10, 3, **grouped)(x)
    x = getattr(keras.layers, f"Conv{rank}DTranspose")(6, 3, 2, "same", name="transposed")(x)
    x = keras.layers.Activation("relu")(keras.layers.BatchNormalization(name="norm")(x))
    model = keras.Model(inputs, getattr(keras.layers, f"GlobalAveragePooling{rank}D")()(x))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.moving_mean.shape
            layer.moving_mean.assign(RNG.normal(size=size))
            layer.moving_variance.assign(RNG.uniform(0.5, 2, size))
    return model


def error_of(one, other, x):
    expected = output_of(other, x, training=False)
    return np.sqrt(np.mean((output_of(one, x, training=False) - expected) ** 2) / np.var(expected))


@pytest.mark.parametrize("rank", RANKS)
def test_full_rank_stays_exact_on_data(rank):
    model, x = net(rank), correlated((6, *SIZES[:rank], 3))
    before = model.get_weights()
    exact, report = convert.to_separable(model, 3**rank, data=x)
    expected = output_of(model, x, training=False)
    found = output_of(exact, x, training=False)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert max(layer.output_error for layer in report) < 1e-3
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_data_bring_the_outputs_closer():
    model, x = net(2), correlated((48, *SIZES[:2], 3))
    new = correlated((48, *SIZES[:2], 3), seed=3)
    for arguments in ({"rank": 1}, {"rank": 2}, {"macs": 0.6}):
        plain, closest_ones = convert.to_separable(model, **arguments)
        fit, report = convert.to_separable(model, **arguments, data=x)
        assert error_of(fit, model, x) < 0.8 * error_of(plain, model, x)
        assert error_of(fit, model, new) < 0.9 * error_of(plain, model, new)
        if "rank" in arguments:
            pairs = zip(report, closest_ones, strict=True)
            assert all(ours.error >= theirs.error - 1e-6 for ours, theirs in pairs)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_output_error_is_that_of_the_layer(groups):
    keras.utils.set_random_seed(0)
    x = correlated((16, 9, 9, 4))
    for use_bias in (True, False):
        how = {"activation": "relu", "use_bias": use_bias, "groups": groups}
        conv = sl.Conv2D(6, 3, 2, **how)
        model = keras.Sequential([keras.Input((9, 9, 4)), conv])
        if use_bias:
            conv.bias.assign(RNG.normal(size=6))
        fit, (layer,) = convert.to_separable(model, rank=2, data=x)
        last = fit.layers[1].layers[-1] if groups > 1 else fit.layers[1]
        conv.activation = last.activation = keras.activations.linear
        found, expected = (output_of(one, x).reshape(-1, 6) for one in (fit, model))
        center = expected.mean(0) if use_bias else 0
        energy = np.sum((expected - center) ** 2)
        error = np.sqrt(np.sum((found - expected) ** 2) / energy)
        assert layer.output_error == pytest.approx(error, rel=1e-3)
        if use_bias:
            np.testing.assert_allclose(found.mean(0), expected.mean(0), rtol=1e-3, atol=1e-3)


def test_inputs_of_a_normalization_are_as_far_from_its_statistics_as_before():
    model, x = net(1), correlated((32, SIZES[0], 3))
    fit, _ = convert.to_separable(model, rank=1, data=x)
    scores = []
    for one in (model, fit):
        norm = one.get_layer("norm")
        values = keras.Model(one.inputs[0], one.get_layer("transposed").output)
        values = output_of(values, x, training=False).reshape(-1, 6)
        mean, variance = map(keras.ops.convert_to_numpy, (norm.moving_mean, norm.moving_variance))
        scale = np.sqrt(variance + norm.epsilon)
        scores.append([(values.mean(0) - mean) / scale, values.std(0) / scale])
    np.testing.assert_allclose(*scores, rtol=5e-2, atol=2e-3)  # of epsilon


def test_a_grouped_convolution_costs_what_is_predicted():
    conv = keras.layers.Conv2D(16, 3, groups=2, padding="same", use_bias=False, name="grouped")
    model = keras.Sequential([keras.Input((6, 6, 8)), conv])
    converted, (layer,) = convert.to_separable(model, rank=2)
    assert layer.name.endswith("grouped") and layer.rank == 2
    assert layer.macs_after == sl.profile(converted).macs == 36 * (8 * 9 * 2 + 8 * 2 * 16 // 2)
    pointwise = keras.ops.convert_to_numpy(converted.get_layer("grouped").layers[1].kernel)
    assert pointwise.shape == (1, 1, 8, 16)
    kernel, lost = keras.ops.convert_to_numpy(conv.kernel), 0.0
    for group, channel in itertools.product(range(2), range(4)):
        matrix = keras.ops.convert_to_numpy(conv.kernel)[
            ..., channel, 8 * group : 8 * group + 8
        ].reshape(9, 8)
        lost += np.sum(np.linalg.svd(matrix, compute_uv=False)[2:] ** 2)
    assert layer.error == pytest.approx(np.sqrt(lost) / np.linalg.norm(kernel), rel=1e-4)


def test_a_depthwise_convolution_by_groups_stays_as_it_is():
    conv = keras.layers.Conv2D(8, 3, groups=8, name="depthwise")
    model = keras.Sequential([keras.Input((6, 6, 8)), keras.layers.Conv2D(8, 3), conv])
    converted, report = convert.to_separable(model)
    assert len(report) == 1 and isinstance(converted.get_layer("depthwise"), keras.layers.Conv2D)


def test_blocks_that_stay_are_corrected_too():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12, 3)),
            keras.layers.Conv1D(8, 3),
            sl.SeparableConvBlock1D(8, name="separable"),
            sl.ConvBlock1D(8, name="kept"),
        ]
    )
    x = correlated((32, 12, 3))
    fit, report = convert.to_separable(model, keep=["kept"], data=x)
    plain, _ = convert.to_separable(model, keep=["kept"])
    assert len(report) == 1 and type(fit.get_layer("kept")) is sl.ConvBlock1D
    assert error_of(fit, model, x) < error_of(plain, model, x)
    changed = [
        not np.allclose(ours, theirs)
        for name in ("separable", "kept")
        for ours, theirs in zip(
            fit.get_layer(name).get_weights(), model.get_layer(name).get_weights(), strict=True
        )
    ]
    assert sum(changed) == 6  # mean and variance of three normalizations


class Batches(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.x[8 * index : 8 * index + 8], np.zeros(8)


def test_batches_are_data_as_arrays_are():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.Conv1D(8, 3)])
    x = correlated((16, 12, 3))
    _, report = convert.to_separable(model, data=x)
    for data in (Batches(x), [(x[:8], 0), [x[8:], 0]]):
        _, other = convert.to_separable(model, data=data)
        assert other[0].output_error == pytest.approx(report[0].output_error, rel=1e-5)
        assert other.macs_before == 10 * 3 * 3 * 8


def test_several_inputs_keep_their_names():
    inputs = {name: keras.Input((9, 3), name=name) for name in ("left", "right")}
    conv = keras.layers.Conv1D(8, 3, name="conv")
    model = keras.Model(inputs, conv(inputs["left"]) - conv(inputs["right"]))
    x = {"left": correlated((8, 9, 3)), "right": correlated((8, 9, 3), seed=1)}
    fit, (layer,) = convert.to_separable(model, rank=2, data=x)
    assert 0 < layer.output_error < 1 and layer.macs_before == 2 * 7 * 3 * 3 * 8
    assert error_of(fit, model, x) < 1


# Goals.


def test_a_budget_is_met_and_never_exceeded():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((16, 16, 3))
    for filters in (16, 24, 32, 48, 64):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    model = keras.Model(inputs, keras.layers.Conv2DTranspose(8, 4, 2, "same")(x))
    total = sl.profile(model).macs
    for macs in (0.2, 0.35, 0.5, 0.75, 1.0, total // 3):
        converted, report = convert.to_separable(model, macs=macs)
        limit = macs * total if macs <= 1 else macs
        assert report.macs_after <= limit
        assert report.macs_after >= 0.98 * limit or "The limit is" in report.notes[0]
        assert report.macs_after == sl.profile(converted).macs and report.macs_before == total
    with pytest.raises(ValueError, match=r"`macs` argument must be at least [\d,]+, or as a share"):
        convert.to_separable(model, macs=0.05)
    with pytest.raises(ValueError, match="`macs` argument must be at least"):
        convert.to_separable(model, macs=2)
    _, (*_, last) = convert.to_separable(model)
    before, after = 16 * 16 * 64 * 16 * 8, 16 * 16 * 64 * 16 + 32 * 32 * 64 * 8
    assert (last.macs_before, last.macs_after) == (before, after)
    assert last.macs_ratio == after / before


def test_the_energy_is_kept_by_each_layer():
    model, x = net(2), correlated((16, *SIZES[:2], 3))
    for data in (None, x):
        converted, report = convert.to_separable(model, energy=0.6, data=data)
        ranks = [layer.rank for layer in report]
        assert None in ranks or len(set(ranks)) > 1
        assert all(layer.macs_ratio < 1 for layer in report if layer.rank)
        assert report.macs_after == sl.profile(converted).macs
        if data is None:
            assert all(layer.error**2 <= 0.4 + 1e-6 for layer in report)
    same, report = convert.to_separable(model, energy=1)
    assert type(same.get_layer("residual")) is type(model.get_layer("residual"))
    assert len(report) == 7
    assert {layer.rank for layer in report} == {None}
    assert {layer.error for layer in report} == {0.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 2, "macs": 0.5}, "At most one of .* may be given. Received: rank=2, macs=0.5"),
        ({"energy": 1.5}, r"argument `energy`. Expected a number in \(0, 1\]"),
        ({"macs": 0}, "argument `macs`. Expected a positive number"),
        ({"macs": 0.5}, "sizes are all known. Received: a model with open sizes. Pass `data`"),
        ({"data": np.ones((4, 6, 3))}, r"`data` argument must be inputs.*shapes \[\(4, 6, 3\)\]"),
        ({"data": np.ones((0, 6, 2))}, "`data` argument must be inputs.*Received: no samples"),
        ({"data": iter([np.ones((4, 6, 2))])}, "an iterator, which can be read only once"),
        ({"data": [np.ones((4, 6, 2)), np.ones((3, 6, 2))]}, r"arrays of \[4, 3\] samples"),
        ({"data": 5}, "`data` argument must be inputs.*Received: int"),
    ],
)
def test_a_goal_or_data_that_cannot_be_is_a_clear_error(arguments, message):
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.Conv1D(5, 3)])
    with pytest.raises(ValueError, match=message):
        convert.to_separable(model, **arguments)


# The report.


def test_a_report_is_printed_and_saved(tmp_path):
    pytest.importorskip("matplotlib")
    model, x = net(1), correlated((8, SIZES[0], 3))
    _, report = convert.to_separable(model, macs=0.8, data=x)
    assert len(report) == len(list(report)) == 7 and report[-1].name.endswith("transposed")
    assert len(report[:2]) == 2
    report.save(tmp_path / "report")
    saved = json.loads((tmp_path / "report" / "report.json").read_text())
    assert saved["macs_after"] == report.macs_after <= 0.8 * saved["macs_before"]
    assert [row["rank"] for row in saved["layers"]] == [layer.rank for layer in report]
    text = (tmp_path / "report" / "report.md").read_text()
    assert report.to_markdown() in text and "(report.png)" in text
    assert (tmp_path / "report" / "report.png").read_bytes().startswith(b"\x89PNG")
    (total,) = (line for line in str(report).splitlines() if line.startswith("whole model"))
    assert total.split()[-3:-1] == [f"{report.macs_before:,}", f"{report.macs_after:,}"]
    assert any(row.rank is None for row in report) == ("standard" in report.to_markdown())


def test_a_report_of_a_model_with_open_sizes_has_no_totals(tmp_path):
    pytest.importorskip("matplotlib")
    model = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(8, 3)])
    _, report = convert.to_separable(model, energy=0.5)
    assert report.macs_before is report.macs_after is report[0].macs_before is None
    assert report[0].macs_ratio == sl.cost.separable_ratio(8, (3,), report[0].rank)
    assert "whole model" not in str(report)
    report.save(tmp_path)


def test_a_fitted_model_is_saved_and_loaded_again(tmp_path):
    model, x = net(1), correlated((8, SIZES[0], 3))
    fit, _ = convert.to_separable(model, rank=1, data=x)
    fit.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(output_of(again, x), output_of(fit, x))
