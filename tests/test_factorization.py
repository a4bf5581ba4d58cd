"""Factorization: two thin matrices in place of one, exact where its rank permits it."""

import keras
import numpy as np
import pytest

from sepconv_layers import convert
from tests.backends import output_of


def net(rank=None):
    """A net with an embedding and a dense layer whose matrices have at most that rank."""
    tokens = keras.Input((7,), dtype="int32")
    x = keras.layers.Embedding(30, 12, mask_zero=True, name="embedding")(tokens)
    x = keras.layers.GlobalAveragePooling1D()(x)
    x = keras.layers.Dense(40, activation="relu", name="hidden")(x)
    inner = keras.Sequential([keras.Input((40,)), keras.layers.Dense(20, name="in_it")], name="net")
    model = keras.Model(tokens, keras.layers.Dense(2, name="logits")(inner(x)))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        values = rng.normal(size=weight.shape)
        if rank and len(weight.shape) == 2:
            left, singular, right = np.linalg.svd(values, full_matrices=False)
            values = (left[:, :rank] * singular[:rank]) @ right[:rank]
        weight.assign(values)
    return model


TOKENS = np.random.default_rng(1).integers(30, size=(5, 7))


@pytest.mark.parametrize("arguments", [{"rank": 4}, {"energy": 1.0}])
def test_a_matrix_of_that_rank_is_exact(arguments):
    model = net(rank=4)
    before = model.get_weights()
    factorized, report = convert.factorize(model, **arguments)
    expected = output_of(model, TOKENS)
    np.testing.assert_allclose(
        output_of(factorized, TOKENS), expected, atol=1e-5 * np.abs(expected).max()
    )
    assert [row.name.split("/")[-1] for row in report] == ["embedding", "hidden", "in_it"]
    assert all(row.rank == 4 and row.error < 1e-6 for row in report)
    saved = sum(row.params_before - row.params for row in report)
    assert factorized.count_params() == model.count_params() - saved
    names = [[layer.name for layer in each.layers[1:]] for each in (factorized, model)]
    assert names[0] == names[1]
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_the_matrix_is_the_closest_one_of_its_rank():
    model = net()
    kernel = keras.ops.convert_to_numpy(model.get_layer("hidden").kernel)
    _, values, _ = np.linalg.svd(kernel)
    factorized, report = convert.factorize(model, rank=3)
    first, second = factorized.get_layer("hidden").layers
    product = np.array(keras.ops.matmul(first.kernel, second.kernel))
    lost = np.sum(values[3:] ** 2)
    np.testing.assert_allclose(np.sum((product - kernel) ** 2), lost, rtol=1e-4)
    assert report[1].error == pytest.approx(np.sqrt(lost / np.sum(values**2)))
    share = np.sum(values[:5] ** 2) / np.sum(values**2)
    for energy, expected in ((share - 1e-6, 5), (share + 1e-6, 6)):
        _, report = convert.factorize(model, energy=energy)
        (row,) = (row for row in report if row.name.endswith("hidden"))
        assert row.rank == expected


def test_the_result_is_trained_saved_and_loaded(tmp_path):
    factorized, report = convert.factorize(net(), rank=3, keep=["net"])
    assert [row.name for row in report] == ["embedding", "hidden"]
    assert report.to_markdown().startswith("| layer | rank | error | params before | params |")
    assert len(report) == 2 and "hidden" in str(report)
    factorized.compile("sgd", "mse")
    factorized.fit(TOKENS, np.ones((5, 2)), verbose=0)
    factorized.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(output_of(again, TOKENS), output_of(factorized, TOKENS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Exactly one of the `rank` and `energy` arguments must be given"),
        ({"rank": 2, "energy": 0.5}, "Exactly one of the `rank` and `energy` arguments"),
        ({"rank": 0}, "argument `rank`. Expected a strictly positive value"),
        ({"energy": 1.5}, r"argument `energy`. Expected a number in \(0, 1\]"),
        ({"rank": 2, "keep": ["absent"]}, r"`keep` argument must hold names.*\['absent'\]"),
        ({"rank": 100}, "with a dense layer or an embedding that the factors make smaller"),
    ],
)
def test_a_factorization_that_cannot_be_is_a_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        convert.factorize(net(), **arguments)
