"""A model on the fastest engine at hand computes what it computes in Keras."""

import keras
import numpy as np
import pytest

import sepconv_layers as sl
from sepconv_layers import export, timing
from sepconv_layers.export import fastest as module
from tests.backends import output_of

ENGINES = {"litert", "onnx", *(f"keras, {mode}" for mode in timing.MODES["tensorflow"])}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS_PER_CALL", 0.01)


@pytest.fixture(params=sorted(ENGINES))
def fastest(request, monkeypatch):
    """One engine after another is taken for the fastest."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("exports need TensorFlow")

    def medians(calls):
        for call in calls.values():
            call()
        return {engine: float(engine != request.param) + 1 for engine in calls}

    monkeypatch.setattr(timing, "medians", medians)
    return request.param


def net():
    return keras.Sequential(
        [keras.Input((8, 6, 3)), sl.SeparableConv2D(5, 3), keras.layers.Flatten()]
    )


def several():
    """A model that takes and returns dictionaries, which share a name."""
    one, two = keras.Input((7, 3), name="one"), keras.Input((4,), name="two")
    x = sl.Conv1D(2, 3, name="first")(one)
    y = keras.layers.Dense(3, name="other")(two)
    return keras.Model({"one": one, "two": two}, {"z": x, "one": y})


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_every_engine_computes_the_same(fastest):
    model, x = net(), normal(3, 8, 6, 3)
    fast = export.compiled(model)
    assert fast.engine == fastest and set(fast.latency_ms) == ENGINES and not fast.skipped
    y = fast(x)
    assert isinstance(y, np.ndarray)
    np.testing.assert_allclose(y, output_of(model, x), atol=1e-5)
    np.testing.assert_allclose(fast(x[:1].astype("float64")), y[:1], atol=1e-5)


def test_structures_stay_as_they_are(fastest):
    model, x = several(), {"two": normal(2, 4), "one": normal(2, 7, 3)}
    fast = export.compiled(model, x)
    found, wanted = fast(x), model(x)
    assert fast.engine == fastest and list(found) == list(wanted)
    for name, y in found.items():
        np.testing.assert_allclose(y, keras.ops.convert_to_numpy(wanted[name]), atol=1e-5)


def test_the_fastest_engine_is_kept_and_the_model_stays_as_it_is():
    model, x = net(), normal(1, 8, 6, 3)
    model.compile("sgd", "mse", jit_compile=False)
    fast = export.compiled(model)
    assert fast.latency_ms[fast.engine] == min(fast.latency_ms.values())
    np.testing.assert_allclose(fast(x), output_of(model, x), atol=1e-5)
    assert model.jit_compile is False and model.predict_function is None


def test_what_cannot_run_the_model_is_skipped_and_says_why(monkeypatch):

    def fails(*args, **kwargs):
        raise ValueError("no such operator")

    monkeypatch.setattr(module, "ENGINES", {"litert": fails, "onnx": fails})
    fast = export.compiled(net())
    assert fast.skipped == {"litert": "no such operator", "onnx": "no such operator"}
    assert fast.engine.startswith("keras, ")


def test_open_sizes_need_a_sample():
    model = keras.Sequential([keras.Input((None, 3)), sl.SeparableConv1D(4, 3)])
    with pytest.raises(ValueError, match="`sample` argument must be a batch of inputs"):
        export.compiled(model)
    x = normal(2, 9, 3)
    np.testing.assert_allclose(export.compiled(model, x)(x), output_of(model, x), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": sl.Conv1D(2, 3)}, "The `model` argument must be a Keras model"),
        ({"sample": np.ones((2, 5))}, "The `sample` argument must be a batch of inputs"),
        ({"threads": 0}, "Invalid value for argument `threads`"),
    ],
)
def test_what_cannot_be_is_a_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        export.compiled(**{"model": net(), **arguments})


def test_inputs_that_do_not_fit_are_refused():
    fast = export.compiled(net())
    for wrong in (normal(2, 8, 6, 4), normal(0, 8, 6, 3), normal(8, 6, 3)):
        with pytest.raises(ValueError, match="The `inputs` argument must be a batch of inputs"):
            fast(wrong)
