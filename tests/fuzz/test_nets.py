"""Nets of any layers: folded, as twins, factorized, chunk by chunk and exported."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sepconv_layers as sl
from sepconv_layers import convert, export
from tests.backends import BACKEND, output_of
from tests.fuzz.profiles import cases
from tests.fuzz.strategies import EVERY_BLOCK, SEEDS, built, nets
from tests.test_streaming import check_any_chunks, check_any_steps

only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone has it")


def sample_for(model, batch=2):
    shape = (batch, *model.inputs[0].shape[1:])
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def assert_close(found, expected, tolerance=1e-4):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-2)


def unless_without(change, model, **how):
    """What a change makes of a model, or `None` if there is nothing in it to change."""
    try:
        return change(model, **how)
    except ValueError as error:
        assert "without one" in str(error)
        return None


@cases(few=5, many=120)
@given(nets())
def test_folding_and_factorizing_at_full_rank_keep_the_outputs(net):
    model = built(net)
    x = sample_for(model)
    before, expected = model.get_weights(), output_of(model, x)
    assert_close(output_of(convert.fold_batch_norm(model), x), expected)
    full = 3**3 * 4  # of any kernel here
    if made := unless_without(convert.to_separable, model, rank=full):
        assert_close(output_of(made[0], x), expected, 1e-3)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


@cases(few=5, many=100)
@given(nets())
def test_twins_keep_the_shapes_and_the_profile_sees_all(net):
    model = built(net)
    assert not sl.profile(model).uncounted
    twins = [unless_without(change, model) for change in (sl.standard_twin, sl.separable_twin)]
    for twin in filter(None, twins):
        assert twin.output_shape == model.output_shape
        assert np.isfinite(output_of(twin, sample_for(model))).all()
        assert sl.profile(twin).params == twin.count_params()


@cases(few=5, many=100)
@given(SEEDS, st.integers(1, 3), st.booleans())
def test_any_chunks_give_the_batch_outputs(seed, rank, is_causal):
    check = check_any_chunks if is_causal else check_any_steps
    check(np.random.default_rng(seed), rank, "channels_last" if seed % 4 else "channels_first")


@only_tensorflow
@pytest.mark.filterwarnings("ignore:.*quantize='dynamic' saves size:UserWarning")  # it is timed
@cases(few=1, many=25)
@given(nets(data_formats=st.just("channels_last")), st.sampled_from([None, "float16", "dynamic"]))
def test_a_litert_file_has_the_outputs_of_the_model(tmp_path_factory, net, quantize):
    pytest.importorskip("ai_edge_litert.interpreter")
    model = built(net)
    path = tmp_path_factory.mktemp("litert") / "net.tflite"
    try:
        export.to_litert(model, path, quantize=quantize)
    except ValueError as error:
        assert any(layer.name in str(error) for layer in model.layers), error  # it names the layer
        return
    (found,) = export.load(path)(x := sample_for(model))
    tolerance = {None: 1e-4, "float16": 2e-2, "dynamic": 0.3}[quantize]
    assert_close(found, output_of(model, x), tolerance)


@only_tensorflow
@cases(few=1, many=20)
@given(nets(families=EVERY_BLOCK))
def test_an_onnx_file_has_the_outputs_of_the_model(tmp_path_factory, net):
    pytest.importorskip("onnxruntime")
    model = built(net)
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    try:
        export.to_onnx(model, path)
    except ValueError as error:
        assert any(layer.name in str(error) for layer in model.layers), error
        return
    (found,) = export.load(path)(x := sample_for(model))
    assert_close(found, output_of(model, x))


@cases(few=2, many=40)
@given(nets())
def test_a_saved_net_is_the_same(tmp_path_factory, net):
    model = built(net)
    path = tmp_path_factory.mktemp("saved") / "net.keras"
    model.save(path)
    x = sample_for(model)
    np.testing.assert_array_equal(output_of(keras.saving.load_model(path), x), output_of(model, x))
