"""What every public layer and block keeps: one loop over the table of cases."""

import inspect
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from tests.backends import BACKEND
from tests.cases import CASES, CHANNELS, RANKS

import sepconv_layers as sl

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def inputs_for(case, seed=0):
    return np.random.default_rng(seed).normal(size=case.input_shape).astype("float32")


def output_of(layer, x, **kwargs):
    return keras.ops.convert_to_numpy(layer(x, **kwargs))


def test_the_table_holds_every_public_class():
    public = {
        name for name in sl.__all__ if inspect.isclass(getattr(sl, name)) and name in dir(sl)
        and issubclass(getattr(sl, name), keras.layers.Layer)
    }
    assert public == {case.cls.__name__ for case in CASES}


@every_case
def test_config_holds_exactly_the_arguments_and_survives_json(case):
    layer = case.make(name="some_name")
    config = json.loads(json.dumps(layer.get_config()))
    arguments = set()
    for cls in type(layer).__mro__:
        if cls.__module__.startswith("sepconv_layers") and "__init__" in vars(cls):
            arguments = set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs"}
            break
    assert set(config) == arguments | {"name", "trainable", "dtype"}
    again = type(layer).from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config


@every_case
def test_the_inferred_shape_is_the_actual_one(case):
    x = inputs_for(case)
    layer = case.make()
    before = layer.compute_output_shape(x.shape)
    y = layer(x)
    assert tuple(y.shape) == tuple(before) == tuple(layer.compute_output_shape(x.shape))
    unknown = list(x.shape)
    channel_axis = unknown.index(CHANNELS, 1)
    unknown = [n if i == channel_axis else None for i, n in enumerate(unknown)]
    inferred = case.make().compute_output_shape(tuple(unknown))
    assert all(n is None or n == m for n, m in zip(inferred, y.shape, strict=True))


@every_case
def test_a_functional_model_takes_unknown_sizes(case):
    x = inputs_for(case)
    channel_axis = case.input_shape.index(CHANNELS, 1)
    shape = [n if i == channel_axis else None for i, n in enumerate(x.shape)][1:]
    symbolic = keras.Input(tuple(shape))
    layer = case.make()
    model = keras.Model(symbolic, layer(symbolic))
    direct = output_of(layer, x)
    np.testing.assert_allclose(model.predict(x, verbose=0), direct, rtol=1e-4, atol=1e-5)
    larger = np.concatenate([x, x[:1]])  # another batch size
    np.testing.assert_allclose(
        model.predict(larger, verbose=0)[:2], direct, rtol=1e-4, atol=1e-5
    )


@every_case
def test_both_data_formats_agree(case):
    if "data_format" not in inspect.signature(case.cls).parameters:
        pytest.skip("has no data format")
    if callable(case.arguments.get("normalization")):
        pytest.skip("a callable knows its own axis")
    last = case.make(data_format="channels_last")
    first = case.make(data_format="channels_first")
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 6)[: case.rank + 1] + (CHANNELS,))
    x = x.astype("float32")
    expected = output_of(last, x)
    first.build((2, CHANNELS, *x.shape[1:-1]))
    first.set_weights(last.get_weights())
    y = np.moveaxis(output_of(first, np.moveaxis(x, -1, 1)), 1, -1)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@every_case
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["plain", "jit"])
def test_one_training_step_moves_every_weight(case, policy, jit_compile):
    if BACKEND == "torch" and jit_compile:
        pytest.skip("PyTorch's compiler is not part of this")
    if BACKEND == "jax" and not jit_compile and policy != "float32":
        pytest.skip("op by op, JAX takes long and shows nothing new")
    keras.utils.set_random_seed(1)
    layer = case.make(dtype=policy)
    if isinstance(layer, sl.DropPath):
        pytest.skip("has no weights")
    symbolic = keras.Input(case.input_shape[1:])
    outputs = layer(symbolic)
    if policy == "mixed_float16":
        assert outputs.dtype == "float16"
    model = keras.Model(symbolic, outputs)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
    before = model.get_weights()
    x = inputs_for(case)
    target = np.random.default_rng(1).normal(size=model.compute_output_shape(x.shape))
    loss = model.train_on_batch(x, target.astype("float32"))
    assert np.isfinite(loss)
    for variable, old, new in zip(model.weights, before, model.get_weights(), strict=True):
        if "seed_generator" in variable.path:
            continue
        assert variable.dtype == "float32"
        # A bias in front of a normalisation has no gradient but rounding: there must be none.
        assert not np.array_equal(old, new), variable.path


@every_case
def test_mixed_precision_stays_close_to_float32(case):
    x = inputs_for(case)
    layer, half = case.make(), case.make(dtype="mixed_float16")
    expected = output_of(layer, x)
    half.build(x.shape)
    half.set_weights(layer.get_weights())
    np.testing.assert_allclose(
        output_of(half, x).astype("float32"), expected, rtol=0.05, atol=0.05
    )


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """All cases saved as models, and what a fresh process says of them."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(2)
    for i, case in enumerate(CASES):
        symbolic = keras.Input(case.input_shape[1:])
        model = keras.Model(symbolic, case.make()(symbolic))
        rng = np.random.default_rng(i)
        model.set_weights(
            [
                w if w.dtype.kind != "f" else np.abs(rng.normal(size=w.shape)).astype(w.dtype)
                for w in model.get_weights()
            ]
        )
        model.save(folder / f"{i}.keras")
        x = inputs_for(case)
        np.savez(folder / f"{i}.npz", x=x, y=output_of(model, x))
    script = """
import sys, numpy as np, keras, sepconv_layers
for i in range(int(sys.argv[2])):
    data = np.load(f"{sys.argv[1]}/{i}.npz")
    model = keras.saving.load_model(f"{sys.argv[1]}/{i}.keras")
    y = keras.ops.convert_to_numpy(model(data["x"]))
    scale = np.abs(data["y"]).max() + 1e-6
    print(i, float(np.abs(y - data["y"]).max() / scale))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(len(CASES))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [float(line.split()[1]) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("i", range(len(CASES)), ids=[str(case) for case in CASES])
def test_a_saved_model_reloads_in_a_fresh_process(i, reloaded):
    assert reloaded[i] < 1e-5


@pytest.mark.parametrize("rank", RANKS)
def test_registered_names_are_of_this_package(rank):
    for name in ("SeparableConv", "InvertedBottleneckBlock"):
        cls = getattr(sl, f"{name}{rank}D")
        assert keras.saving.get_registered_name(cls) == f"sepconv_layers>{name}{rank}D"


def test_an_empty_batch_gives_an_empty_batch():
    for rank in RANKS:
        for lowering in ("auto", "native", "taps", "planes", "portable"):
            x = np.zeros((0, *(9, 7, 6)[:rank], CHANNELS), "float32")
            with sl.ops.lowering(lowering):
                y = sl.ops.depthwise_conv(x, np.ones((*(3,) * rank, CHANNELS, 2), "float32"))
            assert tuple(y.shape) == (0, *(7, 5, 4)[:rank], 2 * CHANNELS)


@pytest.mark.parametrize("rank", RANKS)
def test_drop_path_drops_whole_samples_and_keeps_the_mean(rank):
    layer = sl.DropPath(0.25, seed=3)
    x = np.ones((4000, *(2, 1, 2)[:rank], 3), "float32")
    y = output_of(layer, x, training=True)
    per_sample = y.reshape(len(y), -1)
    assert (per_sample == per_sample[:, :1]).all()
    assert set(np.unique(np.round(y, 4))) == {0.0, np.float32(1.3333)}
    assert abs(y.mean() - 1) < 0.03
    np.testing.assert_array_equal(output_of(layer, x, training=False), x)


